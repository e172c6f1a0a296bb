"""Trains one small model on eight real tasks, evaluates it, and lets it speak.

Run from the repository: `python examples/eight_tasks.py`. It writes `model.keras`, `report.json`
and plots of the learning curves and of the experts' use into `runs/eight_tasks`.
"""

import argparse
import json
import pathlib
import time

import keras

import keras_multimodel as kmm

HIDDEN_DIM = kmm.VARIANTS["tiny"].hidden_dim
TRANSLATION = ("en_de", "de_en", "en_fr", "fr_en")
# Examples of each task in a step. In training, the translations have a budget of positions instead:
# batches of short sentences are then larger than those of long ones.
SMALL = {"digits": 14, "emoji": 6, "speech": 8, "parse": 8}
SHARES = SMALL | dict.fromkeys(TRANSLATION, 12)
TOKEN_BUDGET = dict.fromkeys(TRANSLATION, 1500)
# Of the pairs, every second or eighth one: to encode and evaluate all would take minutes.
SAMPLE = {"train": 2, "validation": 8, "test": 8}
STEPS_PER_EPOCH = 50


def examples(name, split="train"):
    """Returns the raw examples of a task, a sample of them if it is large."""
    data = kmm.datasets.load(name, split)
    return data.shard(SAMPLE[split], 0) if name in TRANSLATION else data


def raw(name, split="train"):
    """Returns the raw examples of a task as a list of (input, target)."""
    batches = examples(name, split).batch(1024).as_numpy_iterator()
    return [pair for batch in batches for pair in zip(batch["inputs"], batch["targets"])]


def texts():
    """Returns the sentences from which subwords are learned."""
    sentences = [text for name in ("en_de", "en_fr") for pair in raw(name) for text in pair]
    return sentences + [caption for _, caption in raw("emoji")] + [text for text, _ in raw("parse")]


def make_tasks(sentences=None, vocabulary_size=3000):
    """Builds the eight tasks: one net for images, one for audio, one for subwords shared by six."""
    sentences = texts() if sentences is None else sentences
    text = kmm.data.train_text_preprocessor(sentences, vocabulary_size, max_length=72)
    transcripts = [transcript for _, transcript in raw("speech")]
    letters = kmm.data.train_text_preprocessor(
        transcripts, vocabulary_size=64, model_type="char", byte_fallback=False
    )
    trees = kmm.data.train_tree_preprocessor([tree for _, tree in raw("parse")])
    mel = kmm.data.AudioPreprocessor(num_mel_bins=24, frame_step=20)

    subwords = kmm.layers.TextModality(text.vocabulary_size, HIDDEN_DIM, preprocessor=text)
    images = kmm.layers.ImageModality(
        HIDDEN_DIM, (32, 32, 3), num_blocks=2, preprocessor=kmm.data.ImagePreprocessor((32, 32))
    )
    audio = kmm.layers.AudioModality(
        HIDDEN_DIM,
        num_bins=24,
        num_blocks=2,
        channels=(24, HIDDEN_DIM),
        stem_channels=16,
        preprocessor=mel,
    )
    characters = kmm.layers.TextModality(letters.vocabulary_size, HIDDEN_DIM, preprocessor=letters)
    brackets = kmm.layers.TextModality(trees.vocabulary_size, HIDDEN_DIM, preprocessor=trees)
    classes = kmm.layers.CategoryModality(
        10, HIDDEN_DIM, preprocessor=kmm.data.CategoryPreprocessor([str(i) for i in range(10)])
    )
    return [
        kmm.Task("digits", images, classes),
        kmm.Task("emoji", images, subwords, max_target_length=24),
        kmm.Task("speech", audio, characters, max_target_length=112),
        kmm.Task("parse", subwords, brackets, max_target_length=128),
        *(kmm.Task(name, subwords, subwords, max_target_length=72) for name in TRANSLATION),
    ]


def make_model(tasks):
    """Builds the model, not compiled."""
    # Tasks of similar length pass the body as one batch: a step is traced and run once for them.
    # Targets of characters and brackets are longer than those of subwords.
    texts = ["speech", "parse", *TRANSLATION]
    return kmm.MultiModel.from_variant(
        "tiny",
        tasks,
        encoder_groups=[["digits", "emoji"], texts],
        decoder_groups=[["emoji", *TRANSLATION], ["speech", "parse"]],
    )


def baseline(task, train, held_out):
    """Scores the guess that knows how often each target occurs, and nothing of the input."""
    net = task.targets
    size = net.vocabulary_size if task.autoregressive else net.num_classes
    targets = ([x["targets"] for x in d.as_numpy_iterator()] for d in (train, held_out))
    return kmm.evaluation.unigram_baseline(*targets, size)


def report_task(model, task, train, held_out):
    """Measures one task on held-out data, with the right inputs and with wrong ones."""
    single = model.task_model(task.name)
    single.compile()
    right, wrong = (
        single.evaluate(kmm.data.batch(data, task.name, 32), verbose=0, return_dict=True)
        for data in (held_out, kmm.evaluation.mismatched(held_out))
    )
    guess = baseline(task, train, held_out)
    return {
        "log_perplexity": right["log_perplexity"],
        "accuracy": right["accuracy"],
        "baseline_log_perplexity": guess.log_perplexity,
        "baseline_accuracy": guess.accuracy,
        "shuffled_input_log_perplexity": wrong["log_perplexity"],
        "examples": sum(1 for _ in held_out),
    }


def print_table(tasks):
    """Prints the measures of all tasks."""
    columns = list(next(iter(tasks.values())))
    heads = (f"{name.replace('log_perplexity', 'lp'):>20}" for name in columns)
    print(f"\n{'task':8}" + "".join(heads))
    for name, row in tasks.items():
        cells = (f"{v:20d}" if isinstance(v, int) else f"{v:20.3f}" for v in row.values())
        print(f"{name:8}" + "".join(cells))


def print_samples(model):
    """Does every task on two raw held-out inputs, a long one and a short one of the pairs."""
    for name in model.tasks:
        found = raw(name, "test")
        if name in TRANSLATION:
            found.sort(key=lambda pair: len(pair[0]))
        inputs, targets = zip(*(found[len(found) * part // 8] for part in (1, 6)))
        for x, target, output in zip(inputs, targets, model.generate(name, list(inputs))):
            shown = f" {x.decode()!r}" if name in ("parse", *TRANSLATION) else ""
            target = target.decode() if isinstance(target, bytes) else target
            print(f"{name}{shown}\n    wanted {target!r}\n    got    {output!r}")


def main(steps, folder, plain=False):
    start = time.time()
    keras.utils.set_random_seed(1)
    folder.mkdir(parents=True, exist_ok=True)
    tasks = make_tasks()
    data = {
        split: {
            task.name: kmm.data.encode(examples(task.name, split), task, cache=True)
            for task in tasks
        }
        for split in ("train", "validation", "test")
    }
    # Four classes of lengths: a step has short examples of all tasks, or long ones.
    train = kmm.data.mix(
        data["train"], shares=SMALL, token_budget=TOKEN_BUDGET, lengths=4, seed=1
    ).repeat()
    held_out = kmm.data.mix(data["validation"], shares=SHARES, shuffle=False, steps=8)

    model = make_model(tasks)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps, warmup_target=2e-3, warmup_steps=min(100, steps // 2), alpha=0.02
    )
    model.compile(keras.optimizers.Adam(rate, beta_2=0.98, global_clipnorm=2.0))
    use = kmm.callbacks.ExpertUse(held_out, batches=2, every=5, log_dir=folder / "experts")
    history = model.fit(
        train,
        epochs=max(1, steps // STEPS_PER_EPOCH),
        steps_per_epoch=min(steps, STEPS_PER_EPOCH),
        validation_data=held_out.cache(),
        validation_freq=3,
        callbacks=[use] if plain else [use, kmm.callbacks.TaskTable()],
    ).history
    model.save(folder / "model.keras")

    results = {
        task.name: report_task(model, task, data["train"][task.name], data["test"][task.name])
        for task in tasks
    }
    print_table(results)
    guesses = {name: row["baseline_log_perplexity"] for name, row in results.items()}
    kmm.visualization.plot_learning_curves(
        history, list(results), baselines=guesses, steps_per_epoch=STEPS_PER_EPOCH
    ).savefig(folder / "learning_curves.png", dpi=120)
    kmm.visualization.plot_expert_use(use.latest).savefig(folder / "expert_use.png", dpi=120)
    print_samples(model)
    report = {
        "tasks": results,
        # The idlest expert's tokens over the fair share.
        "experts": {layer: float(shares.min()) for layer, shares in use.shares.items()},
        "seconds": time.time() - start,
        "parameters": model.count_params(),
        "steps": steps,
    }
    (folder / "report.json").write_text(json.dumps(report, indent=2))
    print(f"\n{steps} steps in {report['seconds']:.0f} s; results are in {folder}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--folder", type=pathlib.Path, default="runs/eight_tasks")
    parser.add_argument("--plain", action="store_true", help="print Keras' own line of numbers")
    arguments = parser.parse_args()
    main(arguments.steps, arguments.folder, arguments.plain)
