"""One raw example as arrays, if there is something in it to learn from.

From raw examples to the arrays that a model reads."""

import tensorflow as tf

from keras_multimodel.data.checks import check_choice, check_elements
from keras_multimodel.data.encoding.attempt import call_at_end, map_or_explain
from keras_multimodel.data.encoding.bad_examples import BadExampleError, BadExamples, require
from keras_multimodel.data.preprocessing.text import END_ID

_SIDES = ("inputs", "targets")


class ExampleEncoder:
    """Turns a raw example into arrays, eagerly or in a graph, and refuses bad ones.

    Args:
        task: a `Task`.
        cut: whether preprocessors with a `max_length` cut what is longer. Otherwise that is a bad
            example, and so is one longer than the task's `max_input_length` or
            `max_target_length`.

    Call arguments:
        example: dict of `inputs`, `targets` and, optionally, `problem`: what the reader of the
            example found wrong, as `"reason: message"`, or `""`.

    Returns:
        Dict of `inputs` and `targets`.

    Raises:
        BadExampleError: the example is bad, eagerly. In a graph computing it raises a
            `tf.errors.OpError`. Preprocessors may raise other errors.
    """

    def __init__(self, task, cut: bool):
        self._nets = {"inputs": task.inputs, "targets": task.targets}
        self._preprocessors = {side: net.preprocessor for side, net in self._nets.items()}
        self._limits = dict.fromkeys(_SIDES)
        if not cut:
            limits = {"inputs": task.max_input_length, "targets": task.max_target_length}
            for side, preprocessor in self._preprocessors.items():
                lengths = (limits[side], getattr(preprocessor, "max_length", None))
                self._limits[side] = min((n for n in lengths if n is not None), default=None)
                if preprocessor is not None:
                    self._preprocessors[side] = preprocessor.unlimited()

    def __call__(self, example):
        return {side: self._encode(side, _without_problem(example, side)) for side in _SIDES}

    def why_bad(self, example) -> BadExampleError:
        """Returns the error of an example, eagerly.

        Args:
            example: a raw example for which the call failed in a graph.
        """
        try:
            self(example)
        except BadExampleError as error:
            return error
        except Exception as error:
            expected = str(error).partition(" Received: ")[0]
            named = isinstance(error, ValueError) and not isinstance(error, UnicodeError)
            reason = expected if named else type(error).__name__
            return BadExampleError(reason, str(error))
        return BadExampleError("failed once", "The example could be encoded only when tried again.")

    def _encode(self, side, raw):
        preprocessor = self._preprocessors[side]
        array = raw if preprocessor is None else preprocessor.strict(raw)
        array = self._check_length(side, array)
        if array.dtype.is_floating:
            array = _check_finite(side, array)
        if array.shape.rank == 1 and array.dtype != tf.string:
            array = _check_not_empty(side, array)
        return self._check_range(side, array) if array.dtype.is_integer else array

    def _check_length(self, side, array):
        limit = self._limits[side]
        if limit is None or array.shape.rank in (0, None):
            return array
        length = tf.shape(array)[0]
        return require(
            array,
            length <= limit,
            "too long",
            lambda: f"`{side}` must have at most {limit} positions. Received: length={length}",
        )

    def _check_range(self, side, array):
        net = self._nets[side]
        is_class = array.shape.rank == 0
        size = getattr(net, "num_classes" if is_class else "vocabulary_size", None)
        if size is None or array.shape.rank not in (0, 1):
            return array
        return require(
            array,
            tf.reduce_all((array >= 0) & (tf.cast(array, tf.int64) < size)),
            "not a class" if is_class else "not in the vocabulary",
            lambda: f"`{side}` must be from 0 to {size - 1}. Received: {side}={array.numpy()}",
        )


def _without_problem(example, side):
    """Returns one side of an example, unless its reader found something wrong."""
    problem = example.get("problem")
    if problem is None:
        return example[side]
    text = "" if not tf.executing_eagerly() else problem.numpy().decode("utf-8", "replace")
    reason, _, message = text.partition(": ")
    return require(example[side], tf.equal(problem, ""), reason, lambda: message)


def _check_finite(side, array):
    return require(
        array,
        tf.reduce_all(tf.math.is_finite(array)),
        "not finite",
        lambda: f"`{side}` must be finite numbers. Received: some that are NaN or infinite",
    )


def _check_not_empty(side, array):
    """Checks that a sequence has more than padding and its end."""
    is_content = (array != 0) & (array != END_ID) if array.dtype.is_integer else array != 0
    return require(
        array,
        tf.reduce_any(is_content),
        "empty",
        lambda: f"`{side}` must hold more than padding. Received: {side}={array.numpy()}",
    )


def encode(
    dataset: tf.data.Dataset,
    task,
    cache: bool = False,
    on_bad: str = "raise",
    report: BadExamples | None = None,
    on_long: str = "cut",
) -> tf.data.Dataset:
    """Turns raw examples into the arrays that a task's modality nets read, and finds bad ones.

    Bad is an example with: a file that is broken or cannot be read; audio that is silent (all
    samples are equal); a value that is not finite; a text of nothing; a number or a name that is no
    class; a tree that does not close; a row without its columns; whatever else a preprocessor
    raises an error for; with `on_long="bad"` one that is too long.

    Args:
        dataset: raw examples `{"inputs": ..., "targets": ...}`, as `kmm.datasets.load` gives them.
            They may also have a `"source"`, such as `"pairs.tsv:17"`, for messages, and a
            `"problem"` of the form `"reason: message"`, empty for good examples.
        task: a `Task`; the preprocessors of `task.inputs` and `task.targets` are used. Where there
            is none, the value stays as it is.
        cache: whether to keep the encoded examples in memory after the first pass.
        on_bad: `"raise"`: the first bad example ends the iteration with a `tf.errors.OpError` that
            names its source, or its number, and what is wrong. `"skip"`: bad examples are left out
            and counted; at the end of a pass that found new ones, a warning shows the counts.
        report: where bad examples are counted.
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
    bad = kmm.data.BadExamples()
    train = kmm.data.encode(pairs, task, on_bad="skip", report=bad)
    ```
    """
    check_elements("dataset", dataset, optional=("source", "problem"))
    check_choice("on_bad", on_bad, ("raise", "skip"))
    check_choice("on_long", on_long, ("cut", "bad"))
    if not isinstance(report, BadExamples | None):
        raise ValueError(f"`report` must be a BadExamples or None. Received: report={report!r}")
    report = BadExamples() if report is None else report
    spec = dataset.element_spec
    encoder = ExampleEncoder(task, cut=on_long == "cut")
    origin = object()

    def explain(number, *arrays):
        specs = tf.nest.flatten(spec)
        tensors = [tf.convert_to_tensor(a, s.dtype) for a, s in zip(arrays, specs, strict=True)]
        example = tf.nest.pack_sequence_as(spec, tensors)
        error = encoder.why_bad(example)
        place, key = f"example {number} of {task.name}", (origin, int(number))
        if "source" in example:
            place = key = example["source"].numpy().decode("utf-8", "replace")
        if on_bad == "raise":
            raise BadExampleError(error.reason, f"{place}: {error.reason}. {error}") from None
        report.add(key, place, error.reason, str(error))

    encoded = map_or_explain(dataset, encoder, explain)
    if on_bad == "skip":
        encoded = call_at_end(encoded, report.show)
    size = dataset.cardinality()
    if size == tf.data.INFINITE_CARDINALITY or (size >= 0 and on_bad == "raise"):
        encoded = encoded.apply(tf.data.experimental.assert_cardinality(size))
    return encoded.cache() if cache else encoded
