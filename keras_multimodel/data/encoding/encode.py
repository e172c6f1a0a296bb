"""From raw examples to the arrays that a model reads, without the bad ones."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from keras_multimodel import user_warnings
from keras_multimodel.argument_checks import one_of
from keras_multimodel.data.checks import TARGETS_OF, check_examples
from keras_multimodel.data.encoding.bad_examples import (
    BadExampleError,
    BadExamples,
    call_at_end,
    map_or_explain,
    require,
)
from keras_multimodel.data.preprocessing.text import END_ID


def encode(
    dataset: tf.data.Dataset,
    task: Any,
    cache: bool = False,
    on_bad: str = "raise",
    report: BadExamples | None = None,
    on_long: str = "cut",
) -> tf.data.Dataset:
    """Turns raw examples into the arrays that a task's modality nets read, and finds bad ones.

    A task that reads several parts takes raw examples whose `"inputs"` are a dict of them. A part
    is missing where it is NaN, an empty text, or an array without a value; so is the target of such
    a task. Encoded, such an example is flat: an array for each part, `"given"`, bool `(parts,)`,
    and `"targets"`. Tasks that read the same rows are encoded together: pass a list of them, and
    raw examples whose `"targets"` are a dict by task; the targets come under `"targets.<task>"`.

    An example is bad if: its file is broken or cannot be read; its audio is silent (all samples are
    equal); a value is not finite; an array or a text is empty; a number or a name is not a class; a
    tree does not close; its row lacks columns; a preprocessor raises an error for it; or, with
    `on_long="bad"`, it is too long.

    Args:
        dataset: raw examples `{"inputs": ..., "targets": ...}`, as `kmm.datasets.load` returns
            them. They may also have a `"source"`, such as `"pairs.tsv:17"`, for messages, and a
            `"problem"` of the form `"reason: message"`, empty for good examples.
        task: a `Task`, or a list of tasks with the same `rows`; the preprocessors of their nets are
            used. Where there is none, the value stays as it is.
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
    tasks = list(task) if isinstance(task, list | tuple) else [task]
    for one in tasks:
        if not hasattr(one, "inputs") or not hasattr(one, "targets"):
            raise ValueError(f"`task` must be a `kmm.Task`. Received: task={task!r}")
    one_of("on_bad", on_bad, ("raise", "skip"))
    one_of("on_long", on_long, ("cut", "bad"))
    if not isinstance(report, BadExamples | None):
        raise ValueError(f"`report` must be a BadExamples or None. Received: report={report!r}")
    report = BadExamples() if report is None else report
    spec = dataset.element_spec
    own = getattr(tasks[0], "name", "the task")
    name = getattr(tasks[0], "rows", own)
    cut = on_long == "cut"
    of_rows = isinstance(tasks[0].inputs, Mapping) or name != own
    if of_rows or isinstance(task, list | tuple):
        encoder: Any = RowEncoder(tasks, cut, spec, by_task=isinstance(task, list | tuple))
    else:
        encoder = ExampleEncoder(task, cut)
    this_data = object()  # numbers of examples mean something within one data set only

    def explain(number, *arrays):
        specs = tf.nest.flatten(spec)
        tensors = [tf.convert_to_tensor(a, s.dtype) for a, s in zip(arrays, specs, strict=True)]
        example = tf.nest.pack_sequence_as(spec, tensors)
        error = encoder.why_bad(example)
        named = place = f"example {number} of {name}"
        key = (this_data, int(number))
        if "source" in example:
            key = place = example["source"].numpy().decode("utf-8", "replace")
            named = f"{named}, {place}"
        if on_bad == "raise":
            raise BadExampleError(error.reason, f"{named}: {error.reason}. {error}") from None
        report.add(key, place, error.reason, str(error), name)

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
        limits: dict = dict.fromkeys(("inputs", "targets"))
        if not cut:
            limits = {"inputs": task.max_input_length, "targets": task.max_target_length}
        nets = {"inputs": task.inputs, "targets": task.targets}
        self._sides = {
            side: SideEncoder(side, net, limits[side], cut) for side, net in nets.items()
        }

    def __call__(self, example: dict) -> dict[str, tf.Tensor]:
        return {
            side: encoder(_without_problem(example, example[side]))
            for side, encoder in self._sides.items()
        }

    def why_bad(self, example: dict) -> BadExampleError:
        """Returns the error of an example, eagerly.

        Args:
            example: a raw example for which the call failed in a graph.
        """
        return _why_bad(self, example)


def _why_bad(encoder, example):
    try:
        encoder(example)
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


class SideEncoder:
    """Encodes one raw value for one net, and refuses a bad one.

    Args:
        name: of the value, for messages.
        net: the modality net.
        limit: most positions, or None.
        cut: whether a preprocessor with a `max_length` cuts what is longer.

    Call arguments:
        raw: the raw value.

    Returns:
        The array.

    Raises:
        BadExampleError: as for `ExampleEncoder`.
    """

    def __init__(self, name: str, net: Any, limit: int | None, cut: bool):
        self.name = name
        self.net = net
        self._preprocessor = net.preprocessor
        longest = getattr(net.preprocessor, "max_length", None)
        self._limit = limit
        if not cut and longest is not None:
            self._limit = longest if limit is None else min(limit, longest)
            # What is cut cannot be measured any more.
            self._preprocessor = net.preprocessor.unlimited()

    def __call__(self, raw: Any) -> tf.Tensor:
        preprocessor = self._preprocessor
        # A plain function as a preprocessor has no form that refuses more.
        array = raw if preprocessor is None else getattr(preprocessor, "strict", preprocessor)(raw)
        for good, reason, explain in self._conditions(array):
            array = require(array, good, reason, explain)
        return array

    def _conditions(self, array):
        """Yields what an array must fulfill: a condition, what is wrong if not, and the message.

        An error ends the loop, so that a condition may rely on those before it.
        """
        rank, limit, net, side = array.shape.rank, self._limit, self.net, self.name
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
            good = tf.math.is_finite(array)
            if getattr(net, "nan_is_gap", False):
                good |= tf.math.is_nan(array)
            yield tf.reduce_all(good), "not finite", lambda: finite

        def received(expected):
            return lambda: f"`{side}` must {expected}. Received: {side}={array.numpy()}"

        # A vector of a fixed size, such as numbers, has no padding.
        is_sequence = None in getattr(net, "example_shape", (None,))
        if rank == 1 and is_sequence and array.dtype != tf.string:
            is_content = array != 0
            if array.dtype.is_integer:
                is_content &= array != END_ID
            yield tf.reduce_any(is_content), "empty", received("hold more than padding")
        size = getattr(net, "num_ids", None)
        if size is not None and array.dtype.is_integer:
            inside = tf.reduce_all((array >= 0) & (tf.cast(array, tf.int64) < size))
            reason = "not in the vocabulary" if rank else "not a class"
            yield inside, reason, received(f"be from 0 to {size - 1}")


def _without_problem(example, value):
    """Returns a part of an example, unless its reader found something wrong."""
    problem = example.get("problem")
    if problem is None:
        return value
    text = problem.numpy().decode("utf-8", "replace") if tf.executing_eagerly() else ""
    reason, _, message = text.partition(": ")
    return require(value, tf.equal(problem, ""), reason, lambda: message)


class RowEncoder:
    """Turns a raw row into flat arrays, eagerly or in a graph; any part or target may be missing.

    Args:
        tasks: the tasks that read these rows.
        cut: as for `ExampleEncoder`.
        spec: of a raw example.
        by_task: whether raw targets are a dict by task.

    Call arguments:
        example: dict of `inputs`, a dict of parts, `targets` and, optionally, `problem`.

    Returns:
        Dict of the parts, `given`, and `targets` or, of several tasks, `targets.<task>`.

    Raises:
        BadExampleError: as for `ExampleEncoder`, or the row has none of its parts.
        ValueError: the raw examples lack a part or a target, or have an unknown one.
    """

    def __init__(self, tasks: list, cut: bool, spec: dict, by_task: bool):
        task, limit = tasks[0], None if cut else tasks[0].max_input_length
        self._has_parts = isinstance(task.inputs, Mapping)
        nets = task.inputs if self._has_parts else {"inputs": task.inputs}
        inputs = spec["inputs"] if self._has_parts else {"inputs": spec["inputs"]}
        _check_keys("inputs", inputs, nets)
        self._parts = {}
        for part, net in nets.items():
            side = SideEncoder(part, net, limit if _is_sequence(net) else None, cut)
            self._parts[part] = _OrGap(side, inputs[part], 0)
        named = by_task or task.rows != task.name
        targets = spec["targets"] if by_task else {task.name: spec["targets"]}
        _check_keys("targets", targets, [one.name for one in tasks])
        self._by_task = by_task
        self._targets = {}
        for one in tasks:
            limit = None if cut else one.max_target_length
            key = f"{TARGETS_OF}{one.name}" if named else "targets"
            side = SideEncoder(key, one.targets, limit if one.autoregressive else None, cut)
            filler = 0 if one.autoregressive else -1 if one.targets.num_ids else np.nan
            self._targets[key] = one.name, _OrGap(side, targets[one.name], filler)

    def __call__(self, example: dict) -> dict[str, tf.Tensor]:
        inputs = example["inputs"] if self._has_parts else {"inputs": example["inputs"]}
        targets = example["targets"]
        arrays, given = {}, []
        for part, encoder in self._parts.items():
            arrays[part], known = encoder(_without_problem(example, inputs[part]))
            given.append(known)
        given = tf.stack(given)
        message = f"a row must have at least one of {list(self._parts)}. Received: none"
        given = require(given, tf.reduce_any(given), "no input", lambda: message)
        if self._has_parts:
            arrays["given"] = given
        else:
            with tf.control_dependencies([given]):
                arrays = {part: tf.identity(array) for part, array in arrays.items()}
        for key, (name, encoder) in self._targets.items():
            arrays[key], _ = encoder(targets[name] if self._by_task else targets)
        return arrays

    def why_bad(self, example: dict) -> BadExampleError:
        """Returns the error of an example, eagerly; see `ExampleEncoder.why_bad`."""
        return _why_bad(self, example)


class _OrGap:
    """Encodes a raw value, or returns an array that stands for one that is missing.

    Args:
        encoder: what encodes a value that is there.
        spec: of the raw value.
        filler: value of the array where there is none.
    """

    def __init__(self, encoder: SideEncoder, spec: tf.TensorSpec, filler: float):
        self._encoder = encoder
        # The branches of a condition must agree in what they return: traced once to learn it.
        encode = tf.function(encoder, autograph=False, reduce_retracing=True)
        self._spec = encode.get_concrete_function(
            tf.TensorSpec(spec.shape, spec.dtype)
        ).structured_outputs
        self._filler = filler

    def __call__(self, raw):
        """Returns the array, and whether the value is there."""
        known = tf.logical_not(_is_gap(raw))
        shape = [size or 1 for size in self._spec.shape.as_list()]

        def missing():
            return tf.fill(shape, tf.cast(self._filler, self._spec.dtype))

        if tf.executing_eagerly():
            return (self._encoder(raw) if known else missing()), known
        array = tf.cond(known, lambda: self._encoder(raw), missing)
        return tf.ensure_shape(array, self._spec.shape), known


def _is_gap(raw):
    """Returns whether a raw value stands for one that is missing, a bool scalar."""
    if raw.dtype == tf.string and raw.shape.rank == 0:
        return tf.equal(tf.strings.length(tf.strings.strip(raw)), 0)
    if raw.dtype.is_floating:
        return tf.reduce_all(tf.math.is_nan(raw))
    return tf.equal(tf.size(raw), 0)


def _is_sequence(net):
    return net.example_shape[:1] == (None,) and None not in net.example_shape[1:]


def _check_keys(side, given, expected):
    if not isinstance(given, Mapping) or set(given) != set(expected):
        received = list(given) if isinstance(given, Mapping) else given
        raise ValueError(
            f"`dataset` must have elements whose {side!r} are a dict with the keys "
            f"{list(expected)}. Received: {received}"
        )
