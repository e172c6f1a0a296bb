"""Draws the pictures of docs/looking_inside.md with the preset and held-out data.

Run by `make docs-figures`, for a minute.
"""

import pathlib

import keras

import keras_multimodel as kmm
from keras_multimodel import visualization

DOCS = pathlib.Path(__file__).parent


def example(name: str, number: int = 0):
    """Returns the inputs of a held-out example."""
    rows = kmm.datasets.load(name, "test").skip(number).take(1)
    return next(rows.as_numpy_iterator())["inputs"]


def batches(model: kmm.MultiModel) -> dict:
    """Returns two batches of held-out examples of every task."""
    data = {}
    for name, task in model.tasks.items():
        raw = kmm.datasets.load(name, "test").take(64)
        data[name] = kmm.data.batch(kmm.data.encode(raw, task, on_bad="skip"), name, 32)
    return data


def figures(model: kmm.MultiModel) -> dict:
    """Returns the figures by what they show."""
    use = kmm.callbacks.expert_use(model, batches(model), batches=2)
    sentence = "Open the document, or save it under another name."
    layer = "decoder/attention_block_1/self_attention"
    return {
        "text": visualization.plot_attention(model, "en_de", sentence),
        "picture": visualization.plot_attention(model, "emoji", example("emoji")),
        "sound": visualization.plot_attention(model, "speech", example("speech")),
        "head": visualization.plot_attention(
            model, "parse", example("parse"), layer=layer, head=2, max_rows=16
        ),
        "experts": visualization.plot_similarity(visualization.expert_similarity(use)),
        "commands": visualization.plot_similarity(visualization.command_similarity(model)),
    }


def main() -> None:
    keras.utils.set_random_seed(0)
    model = kmm.MultiModel.from_preset("eight_tasks_tiny")
    for name, figure in figures(model).items():
        figure.savefig(DOCS / f"looking_inside_{name}.png", dpi=100)


if __name__ == "__main__":
    main()
