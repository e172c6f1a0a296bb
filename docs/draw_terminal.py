"""Draws what the eight-task fit shows in a terminal of 120 and of 80 columns.

Run by `make docs-terminal`, for minutes: trains the model of `examples/eight_tasks.py` for some
steps, and draws the characters that it prints, as a terminal shows them, into `terminal_120.png`
and `terminal_80.png`.
"""

import contextlib
import io
import pathlib
import re
import sys

import keras
from matplotlib.figure import Figure

import keras_multimodel as kmm

DOCS = pathlib.Path(__file__).parent
STEPS = 20
EPOCHS = 3
COLORS = {"0": "#d8d8d8", "1": "#ffffff", "32": "#55cc66", "37": "#777777"}
BACKGROUND = "#1e1e1e"
CELL = 0.085, 0.19  # inches of a character


def screen(printed: str) -> list[list[tuple[str, str]]]:
    """Returns the lines that a terminal shows: a list of (character, color) for each.

    It knows what Keras' bar writes: a carriage return, steps back, and four codes of colors.
    """
    lines, row, column, color = [], [], 0, COLORS["0"]
    for part in re.findall(r"\x1b\[\d+m|[^\x1b]", printed):
        if part[0] == "\x1b":
            color = COLORS[part[2:-1]]
        elif part == "\n":
            lines.append(row)
            row, column = [], 0
        elif part in "\r\b":
            column = 0 if part == "\r" else max(0, column - 1)
        else:
            row[column : column + 1] = [(part, color)]
            column += 1
    return lines


def draw(lines: list[list[tuple[str, str]]], width: int, file: pathlib.Path) -> None:
    """Draws lines of a terminal of `width` columns."""
    if max(map(len, lines)) > width:
        raise ValueError(f"`lines` must fit in {width} columns. Received: {max(map(len, lines))}")
    size = CELL[0] * (width + 2), CELL[1] * (len(lines) + 1)
    figure = Figure(figsize=size, facecolor=BACKGROUND)
    for number, line in enumerate(lines):
        y = 1 - (number + 0.5) * CELL[1] / size[1]
        for column, (character, color) in enumerate(line):
            x = (column + 1) * CELL[0] / size[0]
            figure.text(x, y, character, color=color, family="monospace", size=9, va="top")
    figure.savefig(file, dpi=120)


def make():
    """Returns the model of the eight tasks, compiled, and some data to train and to validate it."""
    sys.path.insert(0, str(DOCS.parent / "examples"))
    import eight_tasks

    keras.utils.set_random_seed(1)
    tasks = eight_tasks.make_tasks()
    data = {}
    for split in ("train", "validation"):
        # A part is enough for some steps.
        raw = {task: eight_tasks.examples(task.name, split).take(400) for task in tasks}
        data[split] = {t.name: kmm.data.encode(raw[t], t).cache() for t in tasks}
    shares = dict.fromkeys(data["train"], 4)
    train = kmm.data.mix(data["train"], shares=shares, seed=1).repeat()
    held_out = kmm.data.mix(data["validation"], shares=shares, shuffle=False, steps=4).cache()
    model = eight_tasks.make_model(tasks)
    model.compile(keras.optimizers.Adam(2e-3, beta_2=0.98, global_clipnorm=2.0))
    return model, train, held_out


def main():
    model, train, held_out = make()
    for width in (120, 80):
        table = kmm.callbacks.TaskTable(display="terminal", width=width)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            model.fit(
                train,
                epochs=EPOCHS,
                steps_per_epoch=STEPS,
                validation_data=held_out,
                callbacks=[table],
            )
        lines = screen(printed.getvalue())
        # The last two epochs.
        draw(lines[len(lines) // EPOCHS :], width, DOCS / f"terminal_{width}.png")


if __name__ == "__main__":
    main()
