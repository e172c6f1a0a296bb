"""Random changes of the inputs of training."""

import zlib
from collections.abc import Callable, Mapping

import tensorflow as tf


def augment(
    dataset: tf.data.Dataset,
    transforms: Mapping[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]],
    seed: int = 0,
) -> tf.data.Dataset:
    """Changes the inputs of training examples at random.

    It stands between `mix` and `fit`. Evaluation and `generate` read the preprocessors alone, so
    that nothing is changed there. A transform is a function `(inputs, seed) -> inputs` of one
    example, such as `SpecAugment` and `ImageAugment`, or your own out of `tf` operations that take
    a seed: `tf.image.stateless_random_hue`, `tf.random.stateless_uniform`.

    Each example gets a seed of its own, from `seed`, the epoch, the step and the row. So the same
    seed gives the same changes however many calls run at once, and each epoch other ones.

    Args:
        dataset: steps `(x, y)`, as `mix` and `batch` give them.
        transforms: task -> transform of its inputs.
        seed: of all random numbers.

    Returns:
        A data set of the same elements, with other inputs.

    Raises:
        ValueError: `dataset` has other elements or lacks a task of `transforms`, or a transform
            changes the shape or the dtype of an example.

    Example:

    ```python
    train = kmm.data.mix({"digits": digits, "speech": speech}, batch_size=64)
    train = kmm.data.augment(train, {"digits": kmm.data.ImageAugment(shift=2)})
    model.fit(train, validation_data=validation)
    ```
    """
    _check_elements(dataset)
    tasks = dataset.element_spec[0]
    if not isinstance(transforms, Mapping) or not set(transforms) <= set(tasks):
        raise ValueError(
            f"`transforms` must map tasks of `dataset` to functions: {', '.join(tasks)}. "
            f"Received: transforms={transforms!r}"
        )
    changes = {task: _traced(task, f, tasks[task]["inputs"]) for task, f in transforms.items()}

    def epoch(number):
        @tf.autograph.experimental.do_not_convert
        def change(step, element):
            x, *rest = element
            x = dict(x)
            for task, change_one in changes.items():
                task_number = tf.constant(zlib.crc32(task.encode()), tf.int64)
                key = tf.random.fold_in(tf.stack([number, step]), task_number)
                x[task] = {**x[task], "inputs": _change_rows(change_one, x[task]["inputs"], key)}
            return (x, *rest)

        return dataset.enumerate().map(
            change, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )

    # One number for each time that the data set is read, as `mix` draws it for its order.
    numbers = tf.data.Dataset.random(
        seed=zlib.crc32(f"augment {seed}".encode()), rerandomize_each_iteration=True
    )
    changed = numbers.take(1).flat_map(epoch)
    size = dataset.cardinality()
    return changed.apply(tf.data.experimental.assert_cardinality(size)).prefetch(2)


def _traced(task, transform, spec):
    """Returns the transform as a function of one example and its seed, int32 `(2,)`, checked.

    It is traced here, for an error within `tf.map_fn` would leave its mark on TensorFlow's variable
    scope, and a strategy could not be entered any more.
    """
    if not callable(transform):
        raise ValueError(
            f"`transforms['{task}']` must be a function. Received: {type(transform).__name__}"
        )
    shape = spec.shape[1:]
    changed = tf.function(transform, autograph=False).get_concrete_function(
        tf.TensorSpec(shape, spec.dtype), tf.TensorSpec((2,), tf.int32)
    )
    output = changed.structured_outputs
    if (
        not isinstance(output, tf.TensorSpec | tf.Tensor)
        or output.dtype != spec.dtype
        or not output.shape.is_compatible_with(shape)
    ):
        raise ValueError(
            f"`transforms['{task}']` must keep the shape {shape} and the dtype {spec.dtype.name} "
            f"of an example. Received: {output}"
        )
    return changed


def _change_rows(change_one, inputs, key):
    """Changes each row of a batch with a seed of its own."""
    rows = tf.shape(inputs)[0]
    changed = tf.cond(
        rows > 0,
        lambda: tf.map_fn(
            lambda row: change_one(inputs[row], tf.random.fold_in(key, row)),
            tf.range(rows),
            fn_output_signature=tf.TensorSpec(inputs.shape[1:], inputs.dtype),
        ),
        lambda: inputs,
    )
    same = tf.debugging.assert_equal(
        tf.shape(changed), tf.shape(inputs), "`transforms` must keep the shape of an example."
    )
    with tf.control_dependencies([same]):
        return tf.ensure_shape(changed, inputs.shape)


def _check_elements(dataset):
    if not isinstance(dataset, tf.data.Dataset):
        raise ValueError(f"`dataset` must be a tf.data.Dataset. Received: {type(dataset).__name__}")
    spec = dataset.element_spec
    inputs = spec[0] if isinstance(spec, tuple) else None
    if not isinstance(inputs, dict) or not all(
        isinstance(value, dict) and "inputs" in value for value in inputs.values()
    ):
        raise ValueError(
            "`dataset` must have elements (x, y) as `kmm.data.mix` and `kmm.data.batch` give "
            f"them. Received: {spec}"
        )
