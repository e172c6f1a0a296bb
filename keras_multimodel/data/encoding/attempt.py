"""A map that survives bad elements: no Python runs for the good ones.

TensorFlow can drop an element whose function fails, but not say which it was. So the elements are
numbered and held in windows. A gap in the numbers of what is left means that the elements between
failed. Those, and only those, are given to a Python function.
"""

from collections.abc import Callable

import tensorflow as tf

_WINDOW = 128  # elements; that many raw examples are in memory


def map_or_explain(dataset: tf.data.Dataset, function: Callable, explain: Callable):
    """Maps a data set in parallel; elements for which the function fails are left out.

    Args:
        dataset: any data set.
        function: element -> element, of TensorFlow operations.
        explain: called with the number of an element and its arrays, in the order of
            `tf.nest.flatten`, for each one that failed; what it raises ends the iteration.

    Returns:
        A data set in the same order.
    """
    spec = dataset.map(function).element_spec
    numbered = dataset.enumerate().window(_WINDOW, drop_remainder=False).enumerate()

    @tf.autograph.experimental.do_not_convert
    def of_window(window_number, window):
        return _of_window(window_number * _WINDOW, window, function, explain, spec)

    return numbered.flat_map(of_window)


def or_else(function: Callable, argument, default):
    """Calls a function in a graph.

    Args:
        function: of TensorFlow operations.
        argument: what it is called with.
        default: a structure of the same kind as the function's result.

    Returns:
        What the function returns; `default` if it fails.
    """
    one = tf.data.Dataset.from_tensors(argument).map(function).ignore_errors()
    tried = one.concatenate(tf.data.Dataset.from_tensors(default)).take(1)
    return tried.get_single_element()


def call_at_end(dataset: tf.data.Dataset, function: Callable[[], None]) -> tf.data.Dataset:
    """Has a Python function called whenever a pass over a data set has come to its end."""

    @tf.autograph.experimental.do_not_convert
    def call_and_drop(_):
        def run():
            function()
            return False

        return tf.ensure_shape(tf.numpy_function(run, [], tf.bool), ())

    spec = dataset.element_spec
    end = tf.data.Dataset.from_tensors(0).filter(call_and_drop).map(lambda _: _zeros(spec))
    return dataset.concatenate(end)


def _of_window(start, window, function, explain, spec):
    numbers, elements = window
    pairs = tf.data.Dataset.zip((numbers, _unwindow(elements)))
    end = start + numbers.cardinality()

    @tf.autograph.experimental.do_not_convert
    def attempt(number, element):
        return number, function(element)

    @tf.autograph.experimental.do_not_convert
    def explain_missing(expected, number):
        missing = pairs.skip(expected - start).take(number - expected)
        return missing.reduce(0, explain_one)  # one after the other, which a map would not be

    @tf.autograph.experimental.do_not_convert
    def explain_one(count, numbered):
        return count + tf.cast(_in_python(explain)(*numbered), tf.int32)

    @tf.autograph.experimental.do_not_convert
    def step(expected, numbered):
        number, mapped = numbered
        count = tf.cond(number > expected, lambda: explain_missing(expected, number), lambda: 0)
        with tf.control_dependencies([count]):
            return tf.identity(number + 1), (number < end, mapped)

    mapped = pairs.map(attempt, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    last = tf.data.Dataset.from_tensors(end).map(lambda end: (end, _zeros(spec)))
    steps = mapped.ignore_errors().concatenate(last).scan(start, step)
    return steps.filter(_is_mapped).map(_mapped)


@tf.autograph.experimental.do_not_convert
def _is_mapped(is_mapped, mapped):
    return is_mapped


@tf.autograph.experimental.do_not_convert
def _mapped(is_mapped, mapped):
    return mapped


def _unwindow(elements):
    """Turns a structure of data sets into a data set of the structure."""
    return elements if isinstance(elements, tf.data.Dataset) else tf.data.Dataset.zip(elements)


def _in_python(explain):
    @tf.autograph.experimental.do_not_convert
    def call(number, element):
        def run(*arrays):
            explain(*arrays)
            return True

        return tf.numpy_function(run, [number, *tf.nest.flatten(element)], tf.bool, stateful=False)

    return call


def _zeros(spec):
    def zeros(part):
        shape = [] if part.shape.rank is None else [size or 0 for size in part.shape]
        return tf.zeros(shape, part.dtype)

    return tf.nest.map_structure(zeros, spec)
