"""Tests the three claims of the paper on the real data that ships with the library.

Run from the repository: `python examples/claims.py`, or `make claims`. It takes about eight hours
on two CPU cores, and may be killed and started again at any point: every run is a file under
`docs/results/runs`, and only what is missing is run. `--tables` makes tables and figures of the
files that are there (`examples/claims_report.py`) and trains nothing. `--quick` tries all of it
with hardly any training.

One rule for every run: Adam, the learning rate rises and falls over a fixed number of steps, and a
task is tested once, with the weights of the epoch in which its own validation log-perplexity was
lowest. A step holds the same number of a task's own examples, and the same examples, whatever other
tasks are trained. The vocabularies are those of the preset, which were learned from all training
texts.
"""

import argparse
import functools
import pathlib
import sys
import weakref
from dataclasses import dataclass

import keras
import tensorflow as tf

import keras_multimodel as kmm

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import claims_report  # noqa: E402

TRANSLATION = ("en_de", "de_en", "en_fr", "fr_en")
PICTURES = ("digits", "emoji")
TASKS = (*PICTURES, "speech", "parse", *TRANSLATION)
# Examples of each task in a step.
SHARES = {"digits": 8, "emoji": 6, "speech": 3, "parse": 4} | dict.fromkeys(TRANSLATION, 8)
ABLATIONS = {
    "no experts": "experts",
    "no attention": "attention",
    "no convolutions": "convolutions",
}
# Both sides of a comparison have the same choices, and validation data chooses.
DROPOUTS = (0.1, 0.3)


@dataclass(frozen=True)
class Sizes:
    """How large the study is.

    Attributes:
        tasks: the tasks of the joint model.
        hidden_dim: width of the body.
        epochs: number of times that validation data is looked at.
        steps: steps of an epoch.
        pairs: of the pairs of sentences, every so many-th is used.
        examples: the most examples of a task, in each split.
        seeds: of everything, and of what the README states.
        little: small task -> numbers of training examples.
        short_steps: steps of a run that continues the joint model.
        eager: whether to run without tracing, for a handful of steps.
    """

    tasks: tuple[str, ...] = TASKS
    hidden_dim: int = 64
    epochs: int = 6
    steps: int = 80
    pairs: int = 4
    examples: int = 1 << 20
    seeds: tuple[int, int] = (3, 5)
    little: tuple[tuple[str, tuple[int, ...]], ...] = (
        ("parse", (50, 500)),
        ("speech", (150,)),
        ("emoji", (500,)),
    )
    short_steps: int = 60
    eager: bool = False


QUICK = Sizes(
    tasks=("digits", "parse", "en_de"),
    hidden_dim=32,
    epochs=2,
    steps=1,
    pairs=512,
    examples=8,
    seeds=(2, 2),
    little=(("parse", (4,)),),
    short_steps=1,
    eager=True,
)


@functools.cache
def preprocessors():
    """Returns the tasks of the preset, for their vocabularies."""
    return kmm.MultiModel.from_preset("eight_tasks_tiny").tasks


def make_tasks(names, width):
    """Builds tasks with nets of their own; tasks of one kind of data share a net."""
    old = preprocessors()

    def text(net):
        size = net.preprocessor.vocabulary_size
        return kmm.layers.TextModality(size, width, preprocessor=net.preprocessor)

    @functools.cache
    def net(kind):
        if kind == "images":
            of_preset = old["digits"].inputs.preprocessor
            return kmm.layers.ImageModality(width, (32, 32, 3), 2, preprocessor=of_preset)
        if kind == "audio":
            return kmm.layers.AudioModality(
                width,
                num_bins=24,
                num_blocks=2,
                channels=(24, width),
                stem_channels=16,
                preprocessor=old["speech"].inputs.preprocessor,
            )
        if kind == "classes":
            of_preset = old["digits"].targets.preprocessor
            return kmm.layers.CategoryModality(10, width, preprocessor=of_preset)
        return text(
            {"letters": old["speech"], "brackets": old["parse"]}.get(kind, old["en_de"]).targets
        )

    kinds = {
        "digits": ("images", "classes"),
        "emoji": ("images", "subwords"),
        "speech": ("audio", "letters"),
        "parse": ("subwords", "brackets"),
    }
    nets = {name: kinds.get(name, ("subwords", "subwords")) for name in names}
    return [
        kmm.Task(name, net(reads), net(writes), max_target_length=old[name].max_target_length)
        for name, (reads, writes) in nets.items()
    ]


def build(sizes, tasks, hidden_dim=None, dropout=0.1, without=None):
    """Builds and compiles a model of some tasks, without one kind of block if asked for."""
    width = hidden_dim or sizes.hidden_dim
    heads = max(n for n in (1, 2, 4) if width % n == 0)
    blocks = {
        "convolutions": kmm.layers.ConvBlock(width, dropout=dropout),
        "attention": kmm.layers.AttentionBlock(width, heads, dropout=dropout),
        "experts": kmm.layers.MoELayer(width, num_experts=8, top_k=2, intermediate_dim=width),
    }
    blocks.pop(without, None)
    model = kmm.MultiModel(
        make_tasks(tasks, width),
        width,
        conv_block=blocks.get("convolutions"),
        attention_block=blocks.get("attention"),
        moe=blocks.get("experts"),
        num_encoder_blocks=2,
        num_mixer_blocks=1,
        num_decoder_blocks=1,
        encoder_groups=groups(tasks, PICTURES),
        decoder_groups=groups([t for t in tasks if t != "digits"], ("speech", "parse")),
    )
    compile_model(model, sizes, sizes.epochs * sizes.steps)
    return model


def groups(tasks, some):
    """Splits tasks into those that are among `some` and the others, whose lengths are alike."""
    found = [[t for t in tasks if (t in some) is among] for among in (True, False)]
    return [group for group in found if group]


def compile_model(model, sizes, steps):
    """Compiles with a learning rate that rises and falls over all steps."""
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps, warmup_target=2e-3, warmup_steps=min(50, steps // 2), alpha=0.02
    )
    adam = keras.optimizers.Adam(rate, beta_2=0.98, global_clipnorm=2.0)
    model.compile(adam, run_eagerly=sizes.eager)


@functools.cache
def raw(name, split, pairs, examples):
    """Returns raw examples of a task."""
    every = {"train": pairs, "validation": 4 * pairs, "test": 2 * pairs}[split]
    data = kmm.datasets.load(name, split)
    return (data.shard(every, 0) if name in TRANSLATION else data).take(examples)


@functools.cache
def encoded(name, split, pairs, examples):
    """Returns encoded examples of a task, which every model reads: it depends on no width."""
    task = preprocessors()[name]
    return kmm.data.encode(raw(name, split, pairs, examples), task).cache()


def data(model, seed, sizes, measured, little=None, steps=None):
    """Returns training and validation batches, and the raw test examples of what is measured.

    `little` is a task and how many of its examples are used; the seed draws which ones.
    """
    arguments = sizes.pairs, sizes.examples
    train = {name: encoded(name, "train", *arguments) for name in model.tasks}
    if little is not None:
        name, count = little
        drawn = train[name].shuffle(1 << 16, seed, reshuffle_each_iteration=False)
        train[name] = drawn.take(count).cache()
    names = [name for name in model.tasks if name in measured]
    shares = {name: SHARES[name] for name in model.tasks}
    held_out = {name: encoded(name, "validation", *arguments) for name in model.tasks}
    validation = kmm.data.mix(
        held_out, shares={n: 4 * SHARES[n] for n in model.tasks}, shuffle=False, steps=8
    ).cache()
    mixture = kmm.data.mix(train, shares=shares, steps=steps or sizes.steps, seed=seed)
    return mixture, validation, {name: raw(name, "test", *arguments) for name in names}


# Model -> task -> the weights of its best epoch, and its log-perplexity there.
BEST = weakref.WeakKeyDictionary()


class KeepBest(keras.callbacks.Callback):
    """Keeps the weights of the epoch that is best for each task on validation data."""

    def on_train_begin(self, logs=None):
        BEST[self.model] = {}

    def on_epoch_end(self, epoch, logs=None):
        several, best = len(self.model.tasks) > 1, BEST[self.model]
        for name in self.model.tasks:
            found = logs[f"val_{name}_log_perplexity" if several else "val_log_perplexity"]
            if name not in best or found < best[name][1]:
                best[name] = self.model.get_weights(), found


def fit(model, train, validation, callbacks, folder, epochs=1):
    """Trains, by the one rule of this study."""
    model.fit(
        train,
        validation_data=validation,
        epochs=epochs,
        verbose=0,
        callbacks=[KeepBest(), *callbacks],
    )


def measures(model, held_out, own=False):
    """Tests every task with its best weights; with `own`, what it writes is measured too."""
    found = {}
    for name, examples in held_out.items():
        weights, validation = BEST[model][name]
        model.set_weights(weights)
        found[f"{name}_validation"] = validation
        if own:
            values = kmm.evaluation.evaluate(model, {name: examples}, batch_size=64)[name]
        else:
            single = model.task_model(name)
            single.compile(run_eagerly=model.run_eagerly)
            batches = kmm.data.batch(kmm.data.encode(examples, single.tasks[name]), name, 64)
            values = single.evaluate(batches, verbose=0, return_dict=True)
        values.pop("loss", None)
        found.update({f"{name}_{key}": values[key] for key in values if "experts" not in key})
    return found


def study(sizes, folder, variants, seeds, measured, match=None, little=None, own=False):
    """Returns a study of this module's models."""
    return kmm.ablation.Study(
        functools.partial(build, sizes),
        functools.partial(data, sizes=sizes, measured=tuple(measured), little=little),
        variants,
        seeds,
        functools.partial(measures, own=own),
        functools.partial(fit, epochs=sizes.epochs),
        match=match,
        folder=folder,
        version=repr(sizes),
    )


def joint_and_single(sizes, folder, seeds):
    """Every task alone, with the joint model's body and with as many parameters as it has."""
    joint = {"joint": {"tasks": sizes.tasks, "hidden_dim": sizes.hidden_dim}}
    alone = {f"{name} alone": {"tasks": (name,)} for name in sizes.tasks}
    wide = {f"{name} alone, equal size": {"tasks": (name,)} for name in sizes.tasks}
    own = not sizes.eager
    study(sizes, folder / "joint", joint | alone, seeds, sizes.tasks, own=own).run()
    study(sizes, folder / "joint", joint | wide, seeds, sizes.tasks, "parameters", own=own).run()


def ablation(sizes, folder, seeds):
    """The joint model without one kind of block, and made wider instead."""
    everything = {"all blocks": {"tasks": sizes.tasks, "hidden_dim": sizes.hidden_dim}}
    removed = {k: {"tasks": sizes.tasks, "without": v} for k, v in ABLATIONS.items()}
    matched = {f"{name}, matched": arguments for name, arguments in removed.items()}
    folder = folder / "ablation"
    study(sizes, folder, everything | removed, seeds, sizes.tasks).run()
    study(sizes, folder, everything | matched, seeds, sizes.tasks, "parameters").run()


def little_data(sizes, folder, seeds):
    """Small tasks with few examples: alone, with pictures, with translations, with all."""
    for name, counts in sizes.little:
        others = {
            "alone": (),
            "with pictures": [t for t in PICTURES if t in sizes.tasks and t != name],
            "with translations": [t for t in TRANSLATION if t in sizes.tasks],
            "with all": [t for t in sizes.tasks if t != name],
        }
        variants = {
            f"{label}, dropout {dropout}": {"tasks": (name, *more), "dropout": dropout}
            for label, more in others.items()
            for dropout in DROPOUTS
        }
        for count in counts:
            place = folder / "little_data" / f"{name}_{count}"
            study(sizes, place, variants, seeds, (name,), little=(name, count)).run()


def joint_weights(sizes, path):
    """Returns a model that was trained on all tasks for half of the steps, made once."""
    if not path.exists():
        keras.utils.clear_session()
        keras.utils.set_random_seed(1)
        model = build(sizes, sizes.tasks)
        train, validation, _ = data(model, 1, sizes, ())
        fit(model, train, validation, [], None, epochs=sizes.epochs // 2)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part.keras")
        model.save(part)
        part.rename(path)
    return keras.saving.load_model(path)


def validation_only(model, seed, sizes):
    """Returns data of short runs: what they are tested on is validation data."""
    train, validation, _ = data(model, seed, sizes, (), steps=sizes.short_steps)
    return train, validation


def who_helps_whom(sizes, folder, seeds):
    """Short runs from one joint model, and whole ones from the start to check them."""
    kmm.transfer.measure(
        joint_weights(sizes, folder.parent / "joint.keras"),
        functools.partial(validation_only, sizes=sizes),
        sizes.tasks,
        seeds,
        compile=lambda model: model.compile(
            keras.optimizers.Adam(5e-4, beta_2=0.98, global_clipnorm=2.0), run_eagerly=sizes.eager
        ),
        folder=folder / "transfer",
    )


def pairs_in_full(sizes, folder, seeds):
    """Every task alone and every pair, from the start: what the short runs should foretell."""
    variants = kmm.transfer.variants(sizes.tasks)
    study(sizes, folder / "pairs", variants, seeds, sizes.tasks).run()


# The most useful first; each with the number of its seeds in `Sizes.seeds`.
EXPERIMENTS = (
    (joint_and_single, 0),
    (ablation, 0),
    (who_helps_whom, 0),
    (little_data, 0),
    (joint_and_single, 1),
    (ablation, 1),
    (pairs_in_full, 0),
)


def main(sizes, results, experiments=EXPERIMENTS):
    for experiment, number in experiments:
        experiment(sizes, results / "runs", sizes.seeds[number])
        claims_report.write(results)
        print(f"{experiment.__name__}: {sizes.seeds[number]} seeds are done", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--tables", action="store_true")
    parser.add_argument("--threads", type=int, help="cores that one operation uses")
    parser.add_argument("--results", type=pathlib.Path)
    arguments = parser.parse_args()
    folder = arguments.results or pathlib.Path(
        "runs/claims/quick" if arguments.quick else "docs/results"
    )
    if arguments.threads:
        tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    if arguments.tables:
        claims_report.write(folder)
    else:
        main(QUICK if arguments.quick else Sizes(), folder)
