"""Bad examples: the error that a preprocessor raises, the map that survives it, and the report.

TensorFlow can drop an element whose function fails, but not say which it was. So `map_or_explain`
numbers the elements and reads them in windows. A gap in the numbers of what is left means that the
elements in between failed. Only those are passed to Python: good examples never wait for it.
"""

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_multimodel import user_warnings
from keras_multimodel.text_tables import table
from keras_multimodel.typing import Nested, Tensor

# Nothing here has Python control flow for AutoGraph, which warns of code that it cannot rewrite.
# The mark covers what a marked function calls and makes: functions within need none of their own.
do_not_convert = tf.autograph.experimental.do_not_convert

_WINDOW = 128  # elements; that many raw examples are in memory


class BadExample(NamedTuple):
    """One example that was skipped.

    Attributes:
        place: file and line, file, or task and number of the example.
        reason: what is wrong, in the same words for all such examples.
        message: the error.
        task: the task whose example it is.
    """

    place: str
    reason: str
    message: str
    task: str = ""


class BadExampleError(ValueError):
    """A raw example cannot be used. Preprocessors raise it; `kmm.data.encode` counts by reason.

    Args:
        reason: what is wrong, in a few words that are the same for all such examples.
        message: what was expected and what was received.

    Example:

    ```python
    class Title(kmm.data.Preprocessor):
        def __call__(self, raw):
            if "title" not in raw:
                raise kmm.data.BadExampleError("no title", f"`raw` needs a title. Received: {raw}")
            return raw["title"]
    ```
    """

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


def require(
    value: tf.Tensor, good: Tensor, reason: str, explain: Callable[[], str], shown: tuple = ()
) -> tf.Tensor:
    """Returns `value` if a condition holds, and raises if not.

    Args:
        value: the tensor.
        good: the condition, a bool scalar.
        reason: what is wrong if it does not hold.
        explain: function without arguments that returns the message; called eagerly only.
        shown: strings and tensors that a graph adds to the reason.

    Returns:
        `value`. If the condition does not hold in a graph, computing it raises a
        `tf.errors.InvalidArgumentError`.

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

    An example is counted once for a task, however many passes are made over its data set. One
    report can serve the data sets of several tasks: the table then has a line for each task and
    reason.

    Example:

    ```python
    import tensorflow as tf

    sentences = tf.data.Dataset.from_tensor_slices({"inputs": ["a b", ""], "targets": ["c", "d"]})
    letters = kmm.data.train_text_preprocessor(["abcd"], 300, "char")
    text = kmm.layers.TextModality(letters.vocabulary_size, 8, preprocessor=letters)
    bad = kmm.data.BadExamples()
    train = kmm.data.encode(sentences, kmm.Task("copy", text, text), on_bad="skip", report=bad)
    print(len(list(train)), bad.counts)  # 1 {'empty': 1}
    ```
    """

    def __init__(self):
        self._found: dict[Hashable, BadExample] = {}
        self._shown = 0
        self._lock = threading.Lock()  # data sets of several tasks may add from several threads

    def add(self, key: Hashable, place: str, reason: str, message: str, task: str = "") -> None:
        """Adds an example, unless one with the same task and key was added before.

        Args:
            key: what identifies the example among those of its task.
            place: where it is.
            reason: what is wrong, in the same words for all such examples.
            message: the error.
            task: the task whose example it is.
        """
        with self._lock:
            self._found.setdefault((task, key), BadExample(place, reason, message, task))

    @property
    def examples(self) -> tuple[BadExample, ...]:
        """The bad examples, in the order in which they were found."""
        with self._lock:
            return tuple(self._found.values())

    @property
    def counts(self) -> dict[str, int]:
        """Reason -> number of examples, the most frequent first."""
        return dict(Counter(example.reason for example in self.examples).most_common())

    @property
    def counts_by_task(self) -> dict[str, dict[str, int]]:
        """Task -> reason -> number of examples, the most frequent first."""
        by_task: dict[str, Counter] = defaultdict(Counter)
        for example in self.examples:
            by_task[example.task][example.reason] += 1
        return {task: dict(counts.most_common()) for task, counts in by_task.items()}

    def show(self, line: tuple[str, int] | None = None) -> None:
        """Warns with the table, if examples were added since the last time.

        Args:
            line: file and number of the line that the warning points at; by default the user's.
        """
        with self._lock:
            if len(self._found) <= self._shown:
                return
            self._shown = len(self._found)
        user_warnings.warn(f"Bad examples were skipped:\n{self}", line)

    def __len__(self) -> int:
        return len(self._found)

    def __str__(self) -> str:
        by_task = self.counts_by_task
        # Backwards, so that the first example of a reason is what stays.
        first = {(e.task, e.reason): e.place for e in reversed(self.examples)}
        rows = [("task", "reason", "examples", "first")]
        for task, counts in by_task.items():
            rows += [(task, reason, str(n), first[task, reason]) for reason, n in counts.items()]
        rows.append(("total", "", str(len(self)), ""))
        if len(by_task) > 1:
            return table(rows, "<<><")
        # A column that says the same in each line says nothing.
        return table([(reason or task, *rest) for task, reason, *rest in rows], "<><")


def map_or_explain(
    dataset: tf.data.Dataset, function: Callable, explain: Callable
) -> tf.data.Dataset:
    """Maps a data set in parallel; elements for which the function fails are left out.

    Args:
        dataset: any data set.
        function: element -> element, of TensorFlow operations.
        explain: called with the number of an element and its arrays, in the order of
            `tf.nest.flatten`, for each one that failed; what it raises ends the iteration.

    Returns:
        A data set in the same order.
    """
    numbered = dataset.enumerate().window(_WINDOW, drop_remainder=False).enumerate()

    @do_not_convert
    def map_window(window_number, window):
        return _map_window(window_number * _WINDOW, window, function, explain)

    return numbered.flat_map(map_window)


def call_at_end(dataset: tf.data.Dataset, function: Callable[[], None]) -> tf.data.Dataset:
    """Adds a call of a Python function at the end of each pass over a data set."""

    @do_not_convert
    def call_and_drop(_):
        def run():
            function()
            return False  # drops the element, which is there for the call only

        return tf.ensure_shape(tf.numpy_function(run, [], tf.bool), ())

    spec = dataset.element_spec
    end = tf.data.Dataset.from_tensors(0).filter(call_and_drop).map(lambda _: _zeros(spec))
    return dataset.concatenate(end)


def _map_window(start, window, function, explain):
    numbers, elements = window
    # `window` turns an element that is a dict into a dict of data sets.
    elements = elements if isinstance(elements, tf.data.Dataset) else tf.data.Dataset.zip(elements)
    pairs = tf.data.Dataset.zip((numbers, elements))
    end = start + numbers.cardinality()

    def attempt(number, element):
        return number, function(element)

    def explain_in_python(*arrays):
        explain(*arrays)
        return np.int32(1)  # TensorFlow leaves out an operation whose result nothing needs

    def explain_one(count, numbered):
        arrays = tf.nest.flatten(numbered)
        return count + tf.numpy_function(explain_in_python, arrays, tf.int32, stateful=False)

    def explain_missing(expected, number):
        missing = pairs.skip(expected - start).take(number - expected)
        return missing.reduce(0, explain_one)  # one after the other, which a map would not be

    def step(expected, numbered):
        number, mapped = numbered
        count = tf.cond(number > expected, lambda: explain_missing(expected, number), lambda: 0)
        with tf.control_dependencies([count]):
            return tf.identity(number + 1), (number < end, mapped)

    mapped = pairs.map(attempt, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    # One element more, so that elements that fail at the end of the window leave a gap too.
    last = tf.data.Dataset.from_tensors((end, _zeros(mapped.element_spec[1])))
    steps = mapped.ignore_errors().concatenate(last).scan(start, step)
    return steps.filter(lambda is_mapped, _: is_mapped).map(lambda _, mapped: mapped)


def _zeros(spec: Nested) -> Any:
    def zeros(part):
        shape = [] if part.shape.rank is None else [size or 0 for size in part.shape]
        return tf.zeros(shape, part.dtype)

    return tf.nest.map_structure(zeros, spec)
