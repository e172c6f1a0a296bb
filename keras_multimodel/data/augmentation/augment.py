"""Random changes of the inputs of training."""

import zlib
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from keras_multimodel.data.mixing.position import Position


def augment(
    dataset: tf.data.Dataset,
    transforms: Mapping[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]],
    seed: int = 0,
    position: Position | None = None,
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
        position: the one that `mix` was given, if any: a training that is resumed gets the changes
            that it would have had without the cut.

    Returns:
        A data set of the same elements, with other inputs.

    Raises:
        ValueError: `dataset` has other elements or lacks a task of `transforms`, a transform
            changes the shape or the dtype of an example, or `position` is none.

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

    if not isinstance(position, Position | None):
        raise ValueError(
            f"`position` must be a `kmm.data.Position` or None. Received: position={position!r}"
        )
    own = Position()

    def begin():
        # The iteration of `mix` that begins next moves its own position on.
        epoch, step = own.begin() if position is None else (position.epoch, position.step)
        return np.int64(epoch), np.int64(step)

    def one_epoch(_):
        epoch, first = tf.numpy_function(begin, [], (tf.int64, tf.int64))
        epoch_key = tf.stack([tf.constant(seed, tf.int64), epoch])

        @tf.autograph.experimental.do_not_convert
        def change(step, element):
            x, *rest = element
            x = dict(x)
            for task, change_one in changes.items():
                key = tf.random.fold_in(epoch_key, _number(task))
                key = tf.random.fold_in(key, step)
                x[task] = {**x[task], "inputs": _change_rows(change_one, x[task]["inputs"], key)}
            return (x, *rest)

        steps = dataset.enumerate(tf.ensure_shape(first, ()))
        return steps.map(change, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

    changed = tf.data.Dataset.range(1).flat_map(one_epoch)
    if position is None:
        size = tf.data.experimental.assert_cardinality(dataset.cardinality())
        return changed.apply(size).prefetch(2)
    changed = changed.prefetch(2)
    # Where the position is past the first steps, an iteration may have fewer.
    changed.cardinality = dataset.cardinality
    return changed


def _number(task):
    return tf.constant(zlib.crc32(task.encode()), tf.int64)


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
    is_array = hasattr(output, "shape") and hasattr(output, "dtype")
    if not is_array or output.dtype != spec.dtype or not output.shape.is_compatible_with(shape):
        received = f"shape={output.shape}, dtype={output.dtype.name}" if is_array else output
        raise ValueError(
            f"`transforms['{task}']` must keep the shape {shape} and the dtype {spec.dtype.name} "
            f"of an example. Received: {received}"
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
