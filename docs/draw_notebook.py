"""Draws what the eight-task fit shows in a notebook, as a browser shows it.

Run by `make docs-notebook`, for minutes: runs a notebook that trains the model of
`examples/eight_tasks.py` for some steps, and has Chromium take a picture of its cell,
`notebook_eight_tasks.png`. Needs `chromium`, and the extra `notebooks`.
"""

import pathlib
import subprocess
import tempfile

import matplotlib.image
import nbconvert
import nbformat
import numpy as np
from nbclient import NotebookClient

DOCS = pathlib.Path(__file__).parent
SIZE = 1130, 1400  # pixels of the window; what stays empty is cut off
SETUP = """
import os, sys
sys.path.insert(0, os.getcwd())
import draw_terminal
import keras_multimodel as kmm
model, train, validation = draw_terminal.make()
"""
SHOWN = """
history = model.fit(
    train, epochs=3, steps_per_epoch=20, validation_data=validation,
    callbacks=[kmm.callbacks.TaskTable()],
)
""".strip()


def main():
    cells = [nbformat.v4.new_code_cell(source) for source in (SETUP, SHOWN)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": DOCS}}).execute()
    notebook.cells = notebook.cells[1:]
    # What a library writes to the error stream is no part of the display.
    for cell in notebook.cells:
        cell.outputs = [output for output in cell.outputs if output.output_type != "stream"]
    page, _ = nbconvert.HTMLExporter().from_notebook_node(notebook)
    with tempfile.TemporaryDirectory() as folder:
        source, picture = pathlib.Path(folder, "page.html"), pathlib.Path(folder, "page.png")
        source.write_text(page)
        subprocess.run(  # noqa: S603
            [  # noqa: S607
                "chromium",
                "--headless",
                "--no-sandbox",
                "--hide-scrollbars",
                f"--screenshot={picture}",
                f"--window-size={SIZE[0]},{SIZE[1]}",
                "--virtual-time-budget=10000",
                source.as_uri(),
            ],
            check=True,
        )
        pixels = matplotlib.image.imread(picture)[..., :3]
    rows, columns = np.nonzero((pixels != pixels[-1, -1]).any(axis=-1))
    top, bottom = max(0, rows.min() - 8), rows.max() + 8
    matplotlib.image.imsave(DOCS / "notebook_eight_tasks.png", pixels[top:bottom])


if __name__ == "__main__":
    main()
