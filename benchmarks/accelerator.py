"""What training and generation cost on the accelerator of this machine.

Usage: python benchmarks/accelerator.py [--quick] [--minutes 8] [--folder FOLDER]. Each line of the
plan runs in a process of its own, since a backend is chosen at import and holds its memory until
the process ends. Writes `accelerator.json` and a table, `accelerator.md`, after every process; one
that takes too long is stopped, and what it has measured stays. `--quick` is for a CPU: fewer cases,
small sizes.

Times are wall-clock medians after the first step; the first step includes compiling. Tokens are the
ids of inputs and targets in the first step that are not padding; pictures and sound count as none.
Memory is the peak that the backend allocated on a GPU, or the process's resident memory on a CPU.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import resource
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[1]


def plan(quick):
    """Returns `(part, backend, dtype, jit)` of each process."""
    backends = [b for b in ("tensorflow", "jax") if importlib.util.find_spec(b)]
    parts = ("experts", "generation", "model_2017")
    if quick:
        joint = [("eight_tasks", backend, "float32", backend == "jax") for backend in backends]
        return joint + [(part, "tensorflow", "float32", False) for part in parts]
    lines = []
    for dtype in ("float32", "mixed_bfloat16"):
        for backend in backends:
            # JAX always compiles.
            for jit in (False, True) if backend == "tensorflow" else (True,):
                lines.append(("eight_tasks", backend, dtype, jit))
    for part in parts:
        lines += [(part, backend, "float32", backend == "jax") for backend in backends]
    return lines


def first_and_median(function, runs):
    """Returns the seconds of a first call, and the median milliseconds of the later ones."""
    times = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return summary(times)


def summary(seconds):
    """Returns the first of some times, and the median of the others."""
    first, *later = seconds
    middle = sorted(later)[len(later) // 2]
    return {"first_step_s": round(first, 1), "step_ms": round(1e3 * middle, 2)}


def peak_mib():
    """Returns the peak of memory in MiB."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        statistics = jax.local_devices()[0].memory_stats()
        if statistics:
            return round(statistics["peak_bytes_in_use"] / 2**20)
    else:
        import tensorflow as tf

        if tf.config.list_physical_devices("GPU"):
            return round(tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10)


def small(tasks):
    """Returns a model with one block of each kind."""
    import keras_multimodel as kmm

    blocks = {"conv_block": kmm.layers.ConvBlock(128, (3,)), "num_encoder_blocks": 1}
    blocks |= {"num_mixer_blocks": 1, "num_decoder_blocks": 1}
    return kmm.MultiModel.from_variant("tiny", tasks, **blocks)


def train(model, data, steps):
    """Fits some steps and returns the time of the first and the median of the others."""
    import keras

    class Clock(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.times = []

        def on_train_batch_begin(self, batch, logs=None):
            self.start = time.perf_counter()

        def on_train_batch_end(self, batch, logs=None):
            self.times.append(time.perf_counter() - self.start)

    clock = Clock()
    model.fit(data, epochs=1, steps_per_epoch=steps, verbose=0, callbacks=[clock])
    return summary(clock.times)


def eight_tasks(quick, jit):
    """The joint step of the demo, all batches of one shape."""
    import keras
    import numpy as np

    import keras_multimodel as kmm

    sys.path.insert(0, str(ROOT / "examples"))
    import eight_tasks as example

    if quick:  # without the minutes that vocabularies and eight programs take
        pixels = kmm.data.ImagePreprocessor((32, 32))
        images = kmm.layers.ImageModality(128, (32, 32, 3), num_blocks=1, preprocessor=pixels)
        digits = kmm.data.CategoryPreprocessor([str(digit) for digit in range(10)])
        classes = kmm.layers.CategoryModality(10, 128, preprocessor=digits)
        tasks = [kmm.Task("digits", images, classes)]
    else:
        tasks = example.make_tasks()
    shares = {task.name: example.SHARES[task.name] for task in tasks}
    factors = (1,) if quick else (1, 8)
    data = {
        task.name: kmm.data.encode(example.examples(task.name), task, cache=True) for task in tasks
    }
    for factor in factors:
        rows = {name: factor * share for name, share in shares.items()}
        batches = kmm.data.mix(data, shares=rows, lengths=1)
        x, y = next(iter(batches))
        tokens = sum(int(np.count_nonzero(part)) for part in y.values()) + sum(
            int(np.count_nonzero(part["inputs"])) for part in x.values() if part["inputs"].ndim == 2
        )
        model = small(tasks) if quick else example.make_model(tasks)
        model.compile(keras.optimizers.Adam(1e-3, global_clipnorm=2.0), jit_compile=jit)
        row = train(model, batches.repeat(), 4 if quick else 20)
        seconds = row["step_ms"] / 1e3
        yield {
            "case": f"{len(tasks)} tasks, {sum(rows.values())} examples a step",
            **row,
            "tokens_per_s": round(tokens / seconds),
            "peak_mib": peak_mib(),
        }


def experts(quick, jit):
    """`MoELayer` forward and backward, beside a dense layer of equal work, and all experts."""
    import keras
    import numpy as np

    import keras_multimodel as kmm

    tokens, width, hidden = (512, 64, 64) if quick else (16384, 512, 1024)
    counts = (8,) if quick else (16, 64)
    x = np.random.default_rng(0).normal(size=(tokens, width)).astype("float32")
    top_k = 4
    dense = keras.Sequential(
        [keras.layers.Dense(top_k * hidden, "relu"), keras.layers.Dense(width)]
    )
    layers = {f"dense, {top_k} x {hidden}": dense}
    for count in counts:
        layers[f"{top_k} of {count} experts"] = kmm.layers.MoELayer(width, count, top_k, hidden)
        layers[f"all of {count} experts"] = kmm.layers.MoELayer(width, count, count, hidden)
    for name, layer in layers.items():
        inputs = keras.Input((width,))
        model = keras.Model(inputs, layer(inputs))
        model.compile("sgd", "mse", jit_compile=jit)
        yield {
            "case": f"{name}, {tokens} tokens",
            **first_and_median(lambda m=model: m.train_on_batch(x, x), 3 if quick else 20),
            "peak_mib": peak_mib(),
        }


def generation(quick, jit):
    """64 greedy ids of the demo's size, width 128, by the number of inputs."""
    import numpy as np

    import keras_multimodel as kmm

    text = kmm.layers.TextModality(500 if quick else 8192, 128)
    tasks = [kmm.Task("text", text, text)]
    model = small(tasks) if quick else kmm.MultiModel.from_variant("tiny", tasks)
    random = np.random.default_rng(0)
    length = 8 if quick else 64
    for batch in (1, 4) if quick else (1, 16, 256):
        inputs = list(random.integers(2, 500, (batch, 64)).astype("int32"))
        run = lambda inputs=inputs: model.generate("text", inputs, max_length=length)  # noqa: E731
        times = first_and_median(run, 2 if quick else 5)
        yield {
            "case": f"{length} ids, {batch} inputs",
            **times,
            "tokens_per_s": round(1e3 * batch * length / times["step_ms"]),
            "peak_mib": peak_mib(),
        }


def model_2017(quick, jit):
    """The authors' model: a training step of 16 pairs of 64 ids, 8,192 ids."""
    import keras
    import numpy as np

    import keras_multimodel as kmm

    sizes = [(32, 4, 2)] if quick else [(128, 8, 2), (256, 16, 2), (128, 30, 4)]
    vocabulary, rows, length = (500, 4, 16) if quick else (8192, 16, 64)
    random = np.random.default_rng(0)
    ids = random.integers(1, vocabulary, (rows, length)).astype("int32")
    x = {"inputs": ids, "targets": ids, "target_space_id": np.zeros(rows, "int32")}
    for width, count, top_k in sizes:
        model = kmm.tensor2tensor.multimodel_2017(
            vocabulary_size=vocabulary,
            hidden_dim=width,
            num_layers=1 if quick else 4,
            num_experts=count,
            top_k=top_k,
        )
        model.compile(
            keras.optimizers.Adam(1e-3, global_clipnorm=2.0),
            kmm.losses.LabelSmoothedCrossentropy(0.1, mask_id=0),
            jit_compile=jit,
        )
        run = lambda model=model: model.train_on_batch(x, ids)  # noqa: E731
        times = first_and_median(run, 2 if quick else 10)
        yield {
            "case": f"width {width}, {top_k} of {count} experts",
            **times,
            "tokens_per_s": round(2e3 * rows * length / times["step_ms"]),
            "peak_mib": peak_mib(),
        }


PARTS = {part.__name__: part for part in (eight_tasks, experts, generation, model_2017)}


def work(part, dtype, jit, quick):
    """Measures one part in this process, and prints a line of JSON for each case."""
    import keras

    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(dtype)
    for row in PARTS[part](quick, jit):
        print(json.dumps(row), flush=True)


def run(line, quick, seconds):
    """Runs a line of the plan in a process; returns its rows, and why they are not all."""
    part, backend, dtype, jit = line
    command = [sys.executable, __file__, "--part", part, "--dtype", dtype]
    command += ["--jit"] * jit + ["--quick"] * quick
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    # Memory is what was used, not what was set aside.
    environment |= {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    error = ""
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=seconds
        )
        output = done.stdout
        if done.returncode:
            error = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "failed"
    except subprocess.TimeoutExpired as stopped:
        output = (stopped.stdout or b"").decode()
        error = f"stopped after {seconds:.0f} s"
    rows = [json.loads(text) for text in output.splitlines() if text.startswith("{")]
    head = {"part": part, "backend": backend, "dtype": dtype, "jit": jit}
    return [{**head, **row} for row in rows] + [{**head, "error": error}] * bool(error)


def machine():
    """Describes the machine, in a process that leaves the accelerator free."""
    code = (
        "import tensorflow as tf;"
        "g = tf.config.list_physical_devices('GPU');"
        "print(tf.config.experimental.get_device_details(g[0])['device_name'] if g else 'CPU')"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    names = ("tensorflow", "jax", "keras")
    versions = {n: importlib.metadata.version(n) for n in names if importlib.util.find_spec(n)}
    device = found.stdout.strip().splitlines()[-1] if found.stdout.strip() else "unknown"
    return {"device": device, "cores": os.cpu_count(), "cpu": platform.machine(), **versions}


def table(report):
    """Writes the report as Markdown."""
    columns = ("part", "backend", "dtype", "jit", "case")
    columns += ("first_step_s", "step_ms", "tokens_per_s", "peak_mib", "error")
    lines = [" | ".join(columns), " | ".join("---" for _ in columns)]
    lines += [" | ".join(str(row.get(c, "")) for c in columns) for row in report["rows"]]
    rows = "\n".join(f"| {line} |" for line in lines)
    return f"{json.dumps(report['machine'])}\n\n{rows}\n"


def write(report, rows, folder):
    """Adds rows to the report, and writes it."""
    report["rows"] += rows
    for row in rows:
        print(json.dumps(row), flush=True)
    (folder / "accelerator.json").write_text(json.dumps(report, indent=1))
    (folder / "accelerator.md").write_text(table(report))


def main(arguments):
    start = time.monotonic()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine(), "rows": []}
    lines = plan(arguments.quick)
    for number, line in enumerate(lines):
        left = 60 * arguments.minutes - (time.monotonic() - start)
        if left < 5:
            left_out = {"part": "not started: out of time", "case": str(lines[number:])}
            write(report, [left_out], arguments.folder)
            break
        # A slow process may take what three equal shares would be, so that all get their turn.
        seconds = min(left, max(30.0, 3 * left / (len(lines) - number)))
        rows = run(line, arguments.quick, seconds)
        write(report, rows, arguments.folder)
    return report


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("runs/accelerator"))
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--jit", action="store_true")
    given = parser.parse_args()
    if given.part:
        work(given.part, given.dtype, given.jit, given.quick)
    else:
        main(given)
