"""From raw examples to the arrays that a model reads, without the bad ones."""

from typing import Any

import tensorflow as tf

from keras_multimodel import user_warnings
from keras_multimodel.argument_checks import one_of
from keras_multimodel.data.checks import check_examples
from keras_multimodel.data.encoding.bad_examples import (
    BadExampleError,
    BadExamples,
    call_at_end,
    map_or_explain,
    require,
)
from keras_multimodel.data.preprocessing.text import END_ID

_SIDES = ("inputs", "targets")


def encode(
    dataset: tf.data.Dataset,
    task: Any,
    cache: bool = False,
    on_bad: str = "raise",
    report: BadExamples | None = None,
    on_long: str = "cut",
) -> tf.data.Dataset:
    """Turns raw examples into the arrays that a task's modality nets read, and finds bad ones.

    An example is bad if: its file is broken or cannot be read; its audio is silent (all samples are
    equal); a value is not finite; an array or a text is empty; a number or a name is not a class; a
    tree does not close; its row lacks columns; a preprocessor raises an error for it; or, with
    `on_long="bad"`, it is too long.

    Args:
        dataset: raw examples `{"inputs": ..., "targets": ...}`, as `kmm.datasets.load` returns
            them. They may also have a `"source"`, such as `"pairs.tsv:17"`, for messages, and a
            `"problem"` of the form `"reason: message"`, empty for good examples.
        task: a `Task`; the preprocessors of `task.inputs` and `task.targets` are used. Where there
            is none, the value stays as it is.
        cache: whether to keep the encoded examples in memory after the first pass.
        on_bad: `"raise"`: the first bad example ends the iteration with a `tf.errors.OpError` that
            names the task, the source or the number of the example, and what is wrong. `"skip"`:
            bad examples are left out and counted; at the end of a pass that found new ones, a
            warning shows the counts.
        report: counts the bad examples as they are skipped.
        on_long: `"cut"`: preprocessors that have a `max_length` cut there, and nothing else is
            limited. `"bad"`: an example that would be cut, or that is longer than
            `task.max_input_length` or `task.max_target_length`, is a bad one.

    Returns:
        A data set of encoded `inputs` and `targets`, in the same order. Its size is unknown with
        `on_bad="skip"`.

    Raises:
        ValueError: the elements are not dicts of `inputs` and `targets`, or an argument is none of
            the above.

    Example:

    ```python
    labels = kmm.data.CategoryPreprocessor(range(10))
    task = kmm.Task(
        "digits",
        inputs=kmm.layers.ImageModality(8, preprocessor=kmm.data.ImagePreprocessor()),
        targets=kmm.layers.CategoryModality(10, 8, preprocessor=labels),
    )
    digits = kmm.data.encode(kmm.datasets.load("digits", "test"), task)
    ```
    """
    check_examples("dataset", dataset, optional=("source", "problem"))
    if not hasattr(task, "inputs") or not hasattr(task, "targets"):
        raise ValueError(f"`task` must be a `kmm.Task`. Received: task={task!r}")
    one_of("on_bad", on_bad, ("raise", "skip"))
    one_of("on_long", on_long, ("cut", "bad"))
    if not isinstance(report, BadExamples | None):
        raise ValueError(f"`report` must be a BadExamples or None. Received: report={report!r}")
    report = BadExamples() if report is None else report
    spec = dataset.element_spec
    encoder = ExampleEncoder(task, cut=on_long == "cut")
    this_data = object()  # numbers of examples mean something within one data set only

    def explain(number, *arrays):
        specs = tf.nest.flatten(spec)
        tensors = [tf.convert_to_tensor(a, s.dtype) for a, s in zip(arrays, specs, strict=True)]
        example = tf.nest.pack_sequence_as(spec, tensors)
        error = encoder.why_bad(example)
        named = place = f"example {number} of {task.name}"
        key = (this_data, int(number))
        if "source" in example:
            key = place = example["source"].numpy().decode("utf-8", "replace")
            named = f"{named}, {place}"
        if on_bad == "raise":
            raise BadExampleError(error.reason, f"{named}: {error.reason}. {error}") from None
        report.add(key, place, error.reason, str(error), task.name)

    # The graph says only that an example failed: `explain` encodes it again, eagerly, to say why.
    encoded = map_or_explain(dataset, encoder, explain)
    if on_bad == "skip":
        # TensorFlow ends the pass on a thread of its own, from where no line of the user's is seen.
        line = user_warnings.users_line()
        encoded = call_at_end(encoded, lambda: report.show(line))
    # `map_or_explain` loses the size, which stays unless examples are skipped.
    size = dataset.cardinality()
    if size == tf.data.INFINITE_CARDINALITY or (size >= 0 and on_bad == "raise"):
        encoded = encoded.apply(tf.data.experimental.assert_cardinality(size))
    return encoded.cache() if cache else encoded


class ExampleEncoder:
    """Turns a raw example into arrays, eagerly or in a graph, and refuses bad ones.

    Args:
        task: a `Task`.
        cut: whether preprocessors with a `max_length` cut what is longer. Otherwise a longer
            example is bad, and so is one longer than the task's `max_input_length` or
            `max_target_length`.

    Call arguments:
        example: dict of `inputs`, `targets` and, optionally, `problem`: what the reader of the
            example found wrong, as `"reason: message"`, or `""`.

    Returns:
        Dict of `inputs` and `targets`.

    Raises:
        BadExampleError: the example is bad, eagerly. In a graph, computing it raises a
            `tf.errors.OpError`. Preprocessors may raise other errors.
    """

    def __init__(self, task: Any, cut: bool):
        self._nets = {"inputs": task.inputs, "targets": task.targets}
        self._preprocessors = {side: net.preprocessor for side, net in self._nets.items()}
        self._limits: dict[str, int | None] = dict.fromkeys(_SIDES)
        if not cut:
            limits = {"inputs": task.max_input_length, "targets": task.max_target_length}
            for side, preprocessor in self._preprocessors.items():
                lengths = (limits[side], getattr(preprocessor, "max_length", None))
                self._limits[side] = min((n for n in lengths if n is not None), default=None)
                if getattr(preprocessor, "max_length", None) is not None:
                    # What is cut cannot be measured any more.
                    self._preprocessors[side] = preprocessor.unlimited()

    def __call__(self, example: dict) -> dict[str, tf.Tensor]:
        return {side: self._encode(side, _without_problem(example, side)) for side in _SIDES}

    def why_bad(self, example: dict) -> BadExampleError:
        """Returns the error of an example, eagerly.

        Args:
            example: a raw example for which the call failed in a graph.
        """
        try:
            self(example)
        except BadExampleError as error:
            return error
        except UnicodeError as error:
            return BadExampleError("not UTF-8", str(error))
        except ValueError as error:
            return BadExampleError(str(error).partition(" Received: ")[0], str(error))
        except Exception as error:
            # Whatever a preprocessor of the user's raises: the class says more than the message.
            return BadExampleError("preprocessor failed", f"{type(error).__name__}: {error}")
        return BadExampleError("failed once", "The example could be encoded only when tried again.")

    def _encode(self, side, raw):
        preprocessor = self._preprocessors[side]
        # A plain function as a preprocessor has no form that refuses more.
        array = raw if preprocessor is None else getattr(preprocessor, "strict", preprocessor)(raw)
        for good, reason, explain in self._conditions(side, array):
            array = require(array, good, reason, explain)
        return array

    def _conditions(self, side, array):
        """Yields what an array must fulfill: a condition, what is wrong if not, and the message.

        An error ends the loop, so that a condition may rely on those before it.
        """
        rank, limit, net = array.shape.rank, self._limits[side], self._nets[side]
        if limit is not None and rank:
            length = tf.shape(array)[0]
            expected = f"`{side}` must have at most {limit} positions"
            yield length <= limit, "too long", lambda: f"{expected}. Received: length={length}"
        if rank != 0:
            some = f"`{side}` must not have a length of 0. Received: shape="
            # The shape only in the message: a graph may not even know the rank.
            yield tf.size(array) > 0, "empty", lambda: some + str(tuple(array.shape))
        if array.dtype.is_floating:
            finite = f"`{side}` must be finite numbers. Received: some that are NaN or infinite"
            yield tf.reduce_all(tf.math.is_finite(array)), "not finite", lambda: finite

        def received(expected):
            return lambda: f"`{side}` must {expected}. Received: {side}={array.numpy()}"

        if rank == 1 and array.dtype != tf.string:
            is_content = array != 0
            if array.dtype.is_integer:
                is_content &= array != END_ID
            yield tf.reduce_any(is_content), "empty", received("hold more than padding")
        size = getattr(net, "num_ids", None)
        if size is not None and array.dtype.is_integer:
            inside = tf.reduce_all((array >= 0) & (tf.cast(array, tf.int64) < size))
            reason = "not in the vocabulary" if rank else "not a class"
            yield inside, reason, received(f"be from 0 to {size - 1}")


def _without_problem(example, side):
    """Returns one side of an example, unless its reader found something wrong."""
    problem = example.get("problem")
    if problem is None:
        return example[side]
    text = problem.numpy().decode("utf-8", "replace") if tf.executing_eagerly() else ""
    reason, _, message = text.partition(": ")
    return require(example[side], tf.equal(problem, ""), reason, lambda: message)
