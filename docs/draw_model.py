"""Draws the picture of the model in the README: nets, body, and the blocks that an argument swaps.

Run by `make docs-figures`.
"""

import pathlib

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

DOCS = pathlib.Path(__file__).parent
COLORS = {
    "conv_block": "#b7dcef",
    "attention_block": "#f6d6ad",
    "moe": "#cfe8b9",
    "net": "#f3c6c6",
    "frame": "#f7f7f7",
}
READS = ("a sentence", "a picture", "a recording", "a number", "a series", "another Keras model")
READERS = ("Text", "Image", "Audio", "Number", "Series", "Backbone")


def box(axes, left, bottom, width, height, text, color, **style):
    """Draws a rounded box with a text in its middle."""
    shape = "round,pad=0,rounding_size=0.08"
    patch = FancyBboxPatch(
        (left, bottom), width, height, shape, facecolor=COLORS[color], edgecolor="#555555"
    )
    axes.add_patch(patch)
    axes.text(left + width / 2, bottom + height / 2, text, ha="center", va="center", **style)


def arrow(axes, start, end):
    """Draws an arrow from one point to another."""
    style = {"arrowstyle": "-|>", "color": "#333333", "linewidth": 1.3}
    axes.annotate("", end, start, arrowprops=style)


def part(axes, left, bottom, width, title, blocks):
    """Draws a part of the body: its blocks in the order in which they are called."""
    box(axes, left, bottom, width, 1.5, "", "frame")
    axes.text(left + 0.12, bottom + 1.3, title, va="center", weight="bold", fontsize=11)
    each = (width - 0.2) / len(blocks)
    for i, (text, color) in enumerate(blocks):
        x = left + 0.13 + i * each
        box(axes, x, bottom + 0.18, each - 0.06, 0.85, text, color, fontsize=8.5)


def nets(axes):
    """Draws the nets that read, and those that write."""
    for i, (raw, reader) in enumerate(zip(READS, READERS)):
        y = 4.75 - 0.55 * i
        axes.text(1.62, y + 0.2, raw, ha="right", va="center", fontsize=10)
        box(axes, 1.75, y, 1.75, 0.42, f"{reader}Modality", "net", fontsize=9.5)
        arrow(axes, (3.5, y + 0.2), (4.0, 3.5 + 0.12 * (2.5 - i)))
    outputs = ("Category: a class", "Labels: several", "Number: a value")
    for i, output in enumerate(outputs):
        y = 4.75 - 0.55 * i
        box(axes, 11.0, y, 2.0, 0.42, output, "net", fontsize=9.5)
        arrow(axes, (9.1, 3.6 + 0.15 * (1 - i)), (11.0, y + 0.2))
    box(axes, 11.0, 0.55, 2.0, 0.6, "Text: words, trees\nor symbols", "net", fontsize=9.5)
    box(axes, 1.75, 0.55, 1.75, 0.6, "TextModality and\ncommand of the task", "net", fontsize=9)
    axes.text(1.62, 0.85, "written so far", ha="right", va="center", fontsize=10)


def draw() -> Figure:
    """Returns the picture."""
    figure = Figure(figsize=(13.2, 5.6))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0.1, 13.3), ylim=(-0.25, 5.4))
    axes.set_axis_off()
    nets(axes)
    conv, attention = ("convolution", "conv_block"), ("attention", "attention_block")
    experts = ("experts", "moe")
    part(axes, 4.0, 2.75, 5.1, "Encoder", [conv, experts, conv])
    part(axes, 4.0, 0.1, 2.1, "Mixer", [attention, conv])
    part(axes, 6.35, 0.1, 4.4, "Decoder", [conv, attention, experts, conv, attention])
    arrow(axes, (3.5, 0.85), (4.0, 0.85))
    arrow(axes, (6.1, 0.85), (6.35, 0.85))
    arrow(axes, (10.75, 0.85), (11.0, 0.85))
    for x in (5.05, 8.55):
        arrow(axes, (x, 2.75), (x, 1.6))
    axes.text(6.8, 2.15, "attended to", ha="center", va="center", fontsize=10, style="italic")
    for i, name in enumerate(("conv_block", "attention_block", "moe")):
        x = 4.0 + 2.3 * i
        box(axes, x, 4.85, 0.32, 0.3, "", name)
        axes.text(x + 0.42, 5.0, f"{name}=", va="center", fontsize=10, family="monospace")
    axes.text(4.0, 4.5, "one argument swaps all blocks of a color", fontsize=10, style="italic")
    return figure


if __name__ == "__main__":
    draw().savefig(DOCS / "model.png", dpi=110)
