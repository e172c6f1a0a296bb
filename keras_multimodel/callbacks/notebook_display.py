"""One output of a notebook that is updated: a line of progress, a table, and curves."""

import base64
import html
import importlib
import io
import sys
from typing import Any

from matplotlib.figure import Figure

from keras_multimodel.callbacks.task_records import TaskRecords


def in_notebook() -> bool:
    """Returns whether the output goes to a notebook, which can show HTML and update it."""
    # Not imported: within a notebook it is there, and outside it need not be installed.
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None


class NotebookDisplay:
    """One output cell that training updates in place. A saved notebook shows its last state."""

    def __init__(self):
        # Not at the top: outside of notebooks it need not be installed.
        self._display: Any = importlib.import_module("IPython").display.display
        self._handle: Any = None
        self._table = ""
        self._text = ""

    def progress(self, line: str, step: int, steps: int | None) -> None:
        """Shows how far an epoch is, above the table of the last one."""
        bar = f"<progress value={step} max={steps}></progress> " if steps else ""
        self._show(f"<div>{bar}{html.escape(line)}</div>{self._table}", line)

    def table(self, line: str, records: TaskRecords, figure: Figure | None) -> None:
        """Shows the table of an epoch that ended, and curves if there is a figure."""
        head, *rows = records.rows()
        notes = [records.note(), records.experts()]
        self._table = "".join(
            [
                "<table><thead>",
                _row("th", head),
                "</thead><tbody>",
                *(_row("td", row) for row in rows),
                "</tbody></table>",
                *(f"<div>{html.escape(note)}</div>" for note in notes if note),
                "" if figure is None else _image(figure),
            ]
        )
        self._text = records.text(120)
        self._show(f"<div>{html.escape(line)}</div>{self._table}", line)

    def _show(self, markup, line):
        content = {"text/html": markup, "text/plain": f"{line}\n{self._text}".strip()}
        if self._handle is None:
            self._handle = self._display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)


def _row(tag, cells):
    def cell(text):
        best = text.strip().endswith("*")
        text = html.escape(text.strip())
        return f"<{tag}>{f'<b>{text}</b>' if best else text}</{tag}>"

    return f"<tr>{''.join(map(cell, cells))}</tr>"


def _image(figure):
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=80)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="Learning curves of each task" src="data:image/png;base64,{data}">'
