"""Files of strangers: hostile models, and files that stop a process which decodes them.

Usage: python benchmarks/hostile_trials.py [models] [data]

- `models`: loads more than 40 hostile `.keras` files and presets. Each must be refused, within 20
  seconds and 2 GB, and without a trace outside: a file beside them is not read (its time of access
  stays), none is written, no process starts, no code of the file runs, nothing connects.
- `data`: encodes 1,000 good examples, and more than 40 files and lines among them that would stop a
  process, with `on_bad="skip"`: each bad one must be located, each good one kept, within 2 GB and
  two minutes.

Prints what was measured, and ends with code 1 if something is not as it must be. The peak of the
memory counts all of the process: Python and TensorFlow take 0.7 GB of it.
"""

import argparse
import copy
import io
import marshal
import os
import pathlib
import pickle
import shutil
import signal
import sys
import tempfile
import time
import warnings
import zipfile

import h5py
import keras
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import keras_multimodel as kmm  # noqa: E402
from tests.data.encoding import stopping_files  # noqa: E402
from tests.models import hostile_configs as hostile  # noqa: E402

SECONDS, MEGABYTES = 20, 2000
FORBIDDEN = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "socket.connect",
)
WRITES = ("os.rename", "os.remove", "os.link", "os.symlink", "os.mkdir", "os.rmdir")


class Watch:
    """Notes what this process does that loading a model must not, while it is on."""

    def __init__(self, secret: pathlib.Path):
        self.secret, self.events, self.is_on = secret, [], False
        sys.addaudithook(self._note)

    def _note(self, name, values):
        if not self.is_on:
            return
        if name in FORBIDDEN or name in WRITES:
            self.events.append(f"{name} {values[0]!r}")
        elif name == "open" and (values[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            self.events.append(f"write {values[0]!r}")

    def __call__(self, load, path):
        """Loads a file; returns its error, the seconds, the peak in MB, and what was noted."""
        os.utime(self.secret, (0, 0))  # so that any access is later
        before = everything(self.secret.parent)
        self.events.clear()
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        start, self.is_on = time.monotonic(), True
        signal.alarm(SECONDS)
        try:
            load(path)
            error = None
        except BaseException as raised:
            error = raised
        finally:
            signal.alarm(0)
            self.is_on = False
        seconds = time.monotonic() - start
        noted = [*self.events, *sorted(everything(self.secret.parent) ^ before)]
        if self.secret.stat().st_atime > 0:
            noted.append("read the secret")
        return error, seconds, peak(), noted


def everything(folder: pathlib.Path) -> set[str]:
    """Returns the paths of all files in a folder."""
    return {str(path) for path in folder.rglob("*")}


def peak() -> float:
    """Returns the largest resident memory in MB."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1e3


def late(*_):
    """Ends what takes too long."""
    raise TimeoutError(f"more than {SECONDS} seconds")


def function(name: str, module: str) -> dict:
    """Returns the config of a function of a module."""
    return {"class_name": "function", "module": module, "config": name, "registered_name": name}


def code_that_runs(trace: pathlib.Path) -> dict:
    """Returns changes of a config that would write a file, were the code of them run."""
    code = marshal.dumps(compile(f"open({str(trace)!r}, 'w')", "x", "eval"))
    python = {
        "class_name": "__lambda__",
        "config": {"code": code.hex(), "defaults": None, "closure": None},
    }
    lambda_layer = hostile.layer("Lambda", function=python, output_shape=None)
    sequential = hostile.layer("Sequential", layers=[lambda_layer])
    torch = hostile.layer("TorchModuleWrapper", module=pickle.dumps(trace).hex())
    system = {"module": "os", "class_name": "system", "config": {"command": f"touch {trace}"}}
    unsafe = function("enable_unsafe_deserialization", "keras.config")
    download = function("get_file", "keras.utils")
    return {
        "a lambda": hostile.of("TextModality", preprocessor=python),
        "a Lambda layer": hostile.of_model(conv_block=lambda_layer),
        "a Lambda layer in a model": hostile.of_model(conv_block=sequential),
        "a pickled module": hostile.of_model(conv_block=torch),
        "os.system": hostile.of("TextModality", preprocessor={**system, "registered_name": None}),
        "eval": hostile.of("TextModality", preprocessor=function("eval", "builtins")),
        "unsafe mode": hostile.of("TextModality", preprocessor=unsafe),
        "a download": hostile.of("TextModality", preprocessor=download),
        "a module of the file": hostile.of(
            "TextModality", module="evil", class_name="Evil", registered_name=None
        ),
    }


def linked_weights(kind: str, whole: bytes, secret: pathlib.Path) -> bytes:
    """Returns weights of a model, the first of which lie in another file."""
    file = io.BytesIO(whole)
    with h5py.File(file, "a") as weights:
        found = {}
        weights.visititems(found.__setitem__)
        name = next(n for n, x in found.items() if isinstance(x, h5py.Dataset) and x.size)
        shape, dtype = weights[name].shape, weights[name].dtype
        del weights[name]
        if kind == "external link":
            weights[name] = h5py.ExternalLink(str(secret), "/x")
        elif kind == "external data":
            weights.create_dataset(name, shape, dtype, external=[(str(secret), 0, 1 << 30)])
        else:
            layout = h5py.VirtualLayout(shape, dtype)
            layout[...] = h5py.VirtualSource(str(secret), "x", shape, dtype)
            weights.create_virtual_dataset(name, layout)
    return file.getvalue()


def make_models(folder: pathlib.Path, secret: pathlib.Path, trace: pathlib.Path) -> dict:
    """Writes hostile files, and returns their paths by what is wrong with them."""
    saved = hostile.save_model(folder)
    config = saved[1]["config"]
    changes = {**hostile.ABSURD, **hostile.WRONG, **code_that_runs(trace)}
    for number, change in enumerate(hostile.that_name_a_file(secret)):
        changes[f"a path in the place of data, {number}"] = change
    files = {}
    for number, (name, change) in enumerate(changes.items()):
        changed = copy.deepcopy(config)
        change(changed)
        files[name] = folder / f"{number}.keras"
        hostile.write_keras(files[name], saved, changed)
        if number % 4 == 0:
            files[f"{name}, a preset"] = folder / f"{number}"
            hostile.write_preset(folder / f"{number}", saved, changed)
    with zipfile.ZipFile(folder / "model.keras") as archive:
        whole = archive.read("model.weights.h5")
    for kind in ("external link", "external data", "virtual data"):
        files[kind] = folder / f"{kind}.keras"
        hostile.write_keras(files[kind], saved, config, linked_weights(kind, whole, secret))
    files["weights that expand"] = folder / "bomb.keras"
    packed = {"compress_type": zipfile.ZIP_DEFLATED}
    hostile.write_keras(files["weights that expand"], saved, config, b"\0" * (1 << 30), **packed)
    for name, array in {"packed": np.zeros(10**8, "float32"), "pickled": np.array([trace])}.items():
        content = io.BytesIO()
        np.savez_compressed(content, array)
        files[f"{name} weights, a preset"] = folder / name
        hostile.write_preset(folder / name, saved, config, content.getvalue())
    for name in ("config.json", "weights.npz", "checksums.json"):
        pipe = files[f"a pipe as {name}, a preset"] = folder / f"pipe {name}"
        shutil.copytree(folder / "preset", pipe)
        (pipe / name).unlink()
        os.mkfifo(pipe / name)
    return files


def models() -> bool:
    """Loads hostile models; returns whether all is as it must be."""
    signal.signal(signal.SIGALRM, late)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name, "files")
        folder.mkdir()
        secret, trace = pathlib.Path(name, "secret"), pathlib.Path(name, "trace")
        with h5py.File(secret, "w") as file:
            file["x"] = np.zeros(10_000)
        watch = Watch(secret)
        if "read the secret" not in watch(lambda path: path.read_bytes(), secret)[3]:
            sys.exit("this file system keeps no times of access")
        files = make_models(folder, secret, trace)
        rows, good = {}, []
        for what, path in files.items():
            load = kmm.MultiModel.from_preset if path.is_dir() else keras.saving.load_model
            before = time.process_time()
            error, seconds, memory, noted = rows[what] = watch(load, path)
            is_small = memory < MEGABYTES and seconds < SECONDS
            good.append(isinstance(error, ValueError) and not noted and is_small)
            if not good[-1]:
                used = f"{seconds:.1f} s ({time.process_time() - before:.1f} of the processor)"
                row = f"{what}: {used}, {memory:.0f} MB, {noted}, {error!r}"
                print(f"  NOT AS IT MUST BE: {row[:600]}", flush=True)
    print(
        f"models: {sum(good)} of {len(good)} hostile files refused with a ValueError and no trace; "
        f"the slowest took {max(row[1] for row in rows.values()):.1f} s, the largest peak was "
        f"{max(row[2] for row in rows.values()):.0f} MB",
        flush=True,
    )
    return all(good)


def encoded(dataset, inputs, targets):
    """Returns how many examples stay, and the places of those that do not."""
    report = kmm.data.BadExamples()
    task = kmm.Task("task", inputs, targets)
    kept = sum(1 for _ in kmm.data.encode(dataset, task, on_bad="skip", report=report))
    return kept, {example.place.rpartition("/")[2] for example in report.examples}


def images(folder: pathlib.Path, good: int):
    """Writes images; returns the data, its nets, and the places of the bad ones."""
    (folder / "a").mkdir()
    forms = ("PNG", "JPEG", "GIF", "BMP", "WEBP")
    for number in range(good):
        form = forms[number % len(forms)]
        (folder / "a" / f"{number}.{form.lower()}").write_bytes(stopping_files.image(form))
    bad = stopping_files.image_files(huge=True)
    for name, content in bad.items():
        (folder / "a" / name).write_bytes(content)
    stopping_files.hole(folder / "a" / "hole.png", 1 << 40)
    places = {*bad, "hole.png", *stopping_files.special_files(folder / "a", ".png")}
    pixels = kmm.layers.ImageModality(8, preprocessor=kmm.data.ImagePreprocessor())
    labels = kmm.data.CategoryPreprocessor(["a"])
    classes = kmm.layers.CategoryModality(1, 8, preprocessor=labels)
    return kmm.datasets.image_folder(folder, seed=0), pixels, classes, places


def sounds(folder: pathlib.Path, good: int):
    """Writes sounds and their transcripts; returns as `images`."""
    (folder / "in").mkdir()
    bad = stopping_files.sound_files()
    for name, content in bad.items():
        (folder / "in" / name).write_bytes(content)
    (folder / "in" / "good.wav").write_bytes(stopping_files.sound())
    (folder / "secret.wav").write_bytes(stopping_files.sound())
    stopping_files.hole(folder / "in" / "hole.wav", 1 << 40)
    special = stopping_files.special_files(folder / "in", ".wav")
    outside = ["../secret.wav", f"{folder}/secret.wav"]
    rows = [*bad, "hole.wav", *special, *outside]
    lines = ["file\ttext", *(f"{name}\twords" for name in [*rows, *["good.wav"] * good])]
    lines.append("good.wav\t" + "x" * (1 << 28))  # a line of 256 MB
    (folder / "in" / "transcripts.tsv").write_text("\n".join(lines))
    places = {f"transcripts.tsv:{number}" for number in [*range(2, 2 + len(rows)), len(lines)]}
    audio = kmm.layers.AudioModality(8, 40, 2, preprocessor=kmm.data.AudioPreprocessor())
    letters = kmm.data.train_text_preprocessor(["words in out"], 280, "char")
    text = kmm.layers.TextModality(letters.vocabulary_size, 8, preprocessor=letters)
    return kmm.datasets.audio_folder(folder / "in"), audio, text, places


def texts(folder: pathlib.Path, good: int):
    """Writes pairs of sentences; returns as `images`."""
    long = ["b" * (1 << 28), "\t" * 2_000_000, "a\tb" + "\xdf" * 2_000_000]
    rows = [f"in {number}\tout {number}" for number in range(good)]
    lines = [*rows[: good // 2], *long, *rows[good // 2 :]]
    (folder / "pairs.tsv").write_text("\n".join(lines))
    letters = kmm.data.train_text_preprocessor(["in out 0123456789"], 280, "char")
    text = kmm.layers.TextModality(letters.vocabulary_size, 8, preprocessor=letters)
    places = {f"pairs.tsv:{good // 2 + 1 + number}" for number in range(len(long))}
    return kmm.datasets.tsv_pairs(folder / "pairs.tsv"), text, text, places


def stopping() -> bool:
    """Encodes 1,000 good examples and the files; returns whether all is as it must be."""
    rows = []
    for make, good in ((images, 400), (sounds, 300), (texts, 300)):
        with tempfile.TemporaryDirectory() as name:
            dataset, inputs, targets, places = make(pathlib.Path(name), good)
            pathlib.Path("/proc/self/clear_refs").write_text("5")
            start = time.monotonic()
            kept, found = encoded(dataset, inputs, targets)
        rows.append((kept, len(found & places), len(places), time.monotonic() - start, peak()))
        print(
            f"  {make.__name__}: {kept} of {good} good ones kept, {rows[-1][1]} of {len(places)} "
            f"bad ones located, {rows[-1][3]:.1f} s, peak {rows[-1][4]:.0f} MB"
        )
        for place in sorted(found ^ places):
            print(f"  NOT AS IT MUST BE: {place}")
    kept, located, bad, seconds, peaks = zip(*rows)
    print(
        f"data: {sum(kept)} of 1000 good examples kept, {sum(located)} of {sum(bad)} bad ones "
        f"located, {sum(seconds):.1f} s, peak {max(peaks):.0f} MB",
        flush=True,
    )
    is_whole = sum(kept) == 1000 and sum(located) == sum(bad) >= 40
    return is_whole and sum(seconds) < 120 and max(peaks) < MEGABYTES


def main() -> None:
    """Reads the arguments and runs the trials."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", help="models, data")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    parts = {"models": models, "data": stopping}
    sys.exit(not all([parts[name]() for name in arguments.what or parts]))


if __name__ == "__main__":
    main()
