"""One bad example.

The error of a raw example that cannot be used.

The bad examples of a data set: how many, of what kind, and where."""

import threading
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from keras_multimodel import user_warnings


class BadExample(NamedTuple):
    """One example that was skipped.

    Attributes:
        place: file and line, file, or task and number of the example.
        reason: what is wrong, in the same words for all such examples.
        message: the error.
    """

    place: str
    reason: str
    message: str


class BadExampleError(ValueError):
    """A raw example cannot be used. Preprocessors raise it; `kmm.data.encode` counts by reason.

    Args:
        reason: what is wrong, in a few words that are the same for all such examples.
        message: what was expected and what was received.

    Example:

    ```python
    raise kmm.data.BadExampleError("no title", f"`raw` must have a title. Received: raw={raw!r}")
    ```
    """

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


def require(
    value: tf.Tensor, good, reason: str, explain: Callable[[], str], shown: tuple = ()
) -> tf.Tensor:
    """Returns a tensor that is there only if a condition holds.

    Args:
        value: the tensor.
        good: the condition, a bool scalar.
        reason: what is wrong if it does not hold.
        explain: function without arguments that returns the message; called eagerly only.
        shown: strings and tensors that a graph adds to the reason.

    Returns:
        `value`. In a graph, computing it raises `tf.errors.InvalidArgumentError` if it does not.

    Raises:
        BadExampleError: `good` is false, eagerly.
    """
    if tf.executing_eagerly():
        if not good:
            raise BadExampleError(reason, explain())
        return value
    with tf.control_dependencies([tf.debugging.Assert(good, [f"bad example: {reason}", *shown])]):
        return tf.identity(value)


class BadExamples:
    """Counts the examples that `kmm.data.encode(..., on_bad="skip")` skips. Printed, it is a table.

    An example is counted once, however many passes are made over its data set. One report can serve
    several data sets.

    Example:

    ```python
    bad = kmm.data.BadExamples()
    train = kmm.data.encode(pairs, task, on_bad="skip", report=bad)
    model.fit(kmm.data.mix({"en_de": train}, batch_size=32), epochs=3)
    print(bad)
    # reason          examples  first
    # empty                  2  pairs.tsv:17
    # missing column         1  pairs.tsv:120
    # total                  3
    ```
    """

    def __init__(self):
        self._found: dict = {}
        self._shown = 0
        self._lock = threading.Lock()

    def add(self, key, place: str, reason: str, message: str) -> None:
        """Adds an example; one whose `key` is known is not counted again.

        Args:
            key: what identifies the example, hashable.
            place: where it is.
            reason: what is wrong, in the same words for all such examples.
            message: the error.
        """
        with self._lock:
            self._found.setdefault(key, BadExample(place, reason, message))

    @property
    def examples(self) -> tuple[BadExample, ...]:
        """The bad examples, in the order in which they were found."""
        with self._lock:
            return tuple(self._found.values())

    @property
    def counts(self) -> dict[str, int]:
        """Reason -> number of examples, the most frequent first."""
        return dict(Counter(example.reason for example in self.examples).most_common())

    def show(self) -> None:
        """Warns with the table, if examples were added since the last time."""
        if len(self) > self._shown:
            self._shown = len(self)
            user_warnings.warn(f"Bad examples were skipped:\n{self}")

    def __len__(self) -> int:
        return len(self._found)

    def __str__(self) -> str:
        first: dict[str, str] = {}
        for example in self.examples:
            first.setdefault(example.reason, example.place)
        rows = [("reason", "examples", "first")]
        rows += [(reason, str(count), first[reason]) for reason, count in self.counts.items()]
        rows.append(("total", str(len(self)), ""))
        wide = [max(len(row[column]) for row in rows) for column in (0, 1)]
        lines = (f"{name:<{wide[0]}}  {count:>{wide[1]}}  {place}" for name, count, place in rows)
        return "\n".join(line.rstrip() for line in lines)
