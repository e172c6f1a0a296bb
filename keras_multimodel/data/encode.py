"""From raw examples to the arrays that a model reads."""

import tensorflow as tf

from keras_multimodel.data.attempt import call_at_end, map_or_explain
from keras_multimodel.data.bad_example_error import BadExampleError
from keras_multimodel.data.bad_examples import BadExamples
from keras_multimodel.data.checks import check_choice, check_elements
from keras_multimodel.data.example_encoder import ExampleEncoder


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
