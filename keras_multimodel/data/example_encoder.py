"""One raw example as arrays, if there is something in it to learn from."""

import tensorflow as tf

from keras_multimodel.data.bad_example_error import BadExampleError, require
from keras_multimodel.data.text import END_ID

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
