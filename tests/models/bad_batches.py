"""Batches of two tasks, each with one fault, and what the error about it says.

A fault is the path of an entry, what stands there instead (a value, a function of the right one, or
None if it is gone), the start of the message, and what it says was received.
"""

import numpy as np

from tests.models.small_models import make_batch, make_tasks

TASKS = make_tasks("copy", "digits")


def good():
    return make_batch(TASKS, (5, 3))


def change(path, value):
    """Returns a good batch in which the entry at a path, such as "x copy", is another, or gone."""
    x, y = good()
    holder = {"x": x, "y": y}
    *holders, last = path.split()
    for key in holders:
        holder = holder[key]
    if value is None:
        del holder[last]
    else:
        holder[last] = value(holder.get(last)) if callable(value) else value
    return x, y


def put(position, value):
    def changed(array):
        array = array.copy()
        array[position] = value
        return array

    return changed


BAD = {
    "no task": ("x digits", None, "`x` must have the keys", "missing: ['digits']"),
    "unknown task": ("x other", {}, "`x` must have the keys", "unknown: ['other']"),
    "no targets of the decoder": (
        "x copy targets",
        None,
        "`x['copy']` must have the keys",
        "missing: ['targets']",
    ),
    "targets to a task without": (
        "x digits targets",
        np.zeros(2, "int32"),
        "`x['digits']` must have the keys ['inputs']",
        "unknown: ['targets']",
    ),
    "no dict": ("x copy", np.zeros((2, 3), "int32"), "`x['copy']` must be a dict", "Received: "),
    "rank": (
        "x copy inputs",
        lambda a: a[..., None],
        "`x['copy']['inputs']` must be of shape",
        "shape=(2, 5, 1)",
    ),
    "dtype": (
        "x copy inputs",
        lambda a: a.astype("float32"),
        "`x['copy']['inputs']` must be of an integer dtype",
        "dtype=float32",
    ),
    "strings": (
        "x digits inputs",
        lambda a: a.astype(str),
        "`x['digits']['inputs']` must be of a numeric dtype",
        "dtype=str",
    ),
    "size of an image": (
        "x digits inputs",
        lambda a: a[:, :5],
        "`x['digits']['inputs']` must be of shape ('batch', 8, 8, 1)",
        "shape=(2, 5, 8, 1)",
    ),
    "no position": (
        "x copy inputs",
        lambda a: a[:, :0],
        "`x['copy']['inputs']` must be of shape",
        "shape=(2, 0)",
    ),
    "ragged": (
        "x copy inputs",
        np.array([[3, 1], [1]], "object"),
        "`x['copy']['inputs']` must be an array of rows of one length",
        "Received: rows of different lengths",
    ),
    "id too high": (
        "x copy inputs",
        put((0, 1), 11),
        "`x['copy']['inputs']` must hold ids from 0 to 10",
        "Received: 11",
    ),
    "id too low": (
        "x copy targets",
        put((1, 0), -1),
        "`x['copy']['targets']` must hold ids from 0 to 10",
        "Received: -1",
    ),
}
BAD["not a number"] = (
    "x digits inputs",
    lambda a: put((1, 2, 3, 0), np.nan)(a.astype("float32")),
    "`x['digits']['inputs']` must hold finite numbers",
    "Received: NaN or infinity in row 1",
)
BAD["infinite as float32"] = (
    "x digits inputs",
    lambda a: put((0, 2, 3, 0), 1e300)(a.astype("float64")),
    "`x['digits']['inputs']` must hold finite numbers",
    "Received: NaN or infinity in row 0",
)
BAD_TARGETS = {
    "no targets of a task": ("y digits", None, "`y` must have", "missing: ['digits']"),
    "unknown targets": (
        "y other",
        np.zeros(2, "int32"),
        "`y` must have the keys",
        "unknown: ['other']",
    ),
    "label": ("y digits", put(1, 3), "`y['digits']` must hold ids from 0 to 2", "Received: 3"),
    "target id": (
        "y copy",
        put((0, 0), 99),
        "`y['copy']` must hold ids from 0 to 10",
        "Received: 99",
    ),
    "dtype of targets": (
        "y digits",
        lambda a: a.astype("float32"),
        "`y['digits']` must be of an integer dtype",
        "dtype=float32",
    ),
    "rank of targets": ("y copy", lambda a: a[:, 0], "`y['copy']` must be of shape", "shape=(2,)"),
    "a list": ("y digits", [0, 1], "`y['digits']` must be an array", "Received: list"),
    "ragged targets": (
        "y copy",
        np.array([[3, 1], [1]], "object"),
        "`y['copy']` must be an array of rows of one length",
        "Received: rows of different lengths",
    ),
}
