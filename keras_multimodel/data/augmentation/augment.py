"""Random changes of the inputs of training."""

import zlib
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from keras_multimodel.argument_checks import integer
from keras_multimodel.data.augmentation.drop_inputs import DropInputs
from keras_multimodel.data.checks import check_steps
from keras_multimodel.data.mixing.mixture import Mixture, Position

Transform = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def augment(
    dataset: tf.data.Dataset,
    transforms: Mapping[str, Transform | Mapping[str, Transform]],
    seed: int = 0,
    position: Position | None = None,
) -> tf.data.Dataset:
    """Changes the inputs of training examples at random.

    Use it between `mix` and `fit`. Evaluation and `generate` read the preprocessors alone, so that
    nothing is changed there. A transform is a function `(inputs, seed) -> inputs` of one example,
    such as `SpecAugment` and `ImageAugment`, or your own, made of `tf` operations that take a seed:
    `tf.image.stateless_random_hue`, `tf.random.stateless_uniform`.

    Each example gets a seed of its own, from `seed`, the epoch, the step and the row. So the same
    seed makes the same changes however many calls run at once, and other changes in each epoch.

    Args:
        dataset: steps `(x, y)`, as `mix` and `batch` return them.
        transforms: task -> transform of its inputs. For rows of several parts, their name -> dict
            from parts to transforms, or a `DropInputs`; the latter's key in such a dict is
            `"given"`.
        seed: of all random numbers.
        position: the one that `mix` was given, if any: a training that is resumed then makes the
            changes that it would have made without the interruption.

    Returns:
        A data set of the same elements, with other inputs.

    Raises:
        ValueError: `dataset` has other elements or lacks a task of `transforms`, a transform
            changes the shape or the dtype of an example, or `position` is not a `Position`.

    Example:

    ```python
    import tensorflow as tf

    images = {"inputs": np.zeros((4, 8, 8, 1), "float32"), "targets": np.arange(4)}
    train = kmm.data.mix({"digits": tf.data.Dataset.from_tensor_slices(images)}, batch_size=2)
    train = kmm.data.augment(train, {"digits": kmm.data.ImageAugment(shift=2)})
    ```
    """
    check_steps("dataset", dataset, "(x, y) as `kmm.data.mix` and `kmm.data.batch` return them")
    changes = _changes(dataset.element_spec[0], transforms)
    seed = integer("seed", seed)
    if not isinstance(position, Position | None):
        expected = "`position` must be a `kmm.data.Position` or None"
        raise ValueError(f"{expected}. Received: position={position!r}")
    own = Position()  # counts the iterations of this data set where nothing else does

    def begin():
        # Only read: the iteration of `mix` that starts next moves its own position.
        epoch, step = own.begin() if position is None else (position.epoch, position.step)
        return np.int64(epoch), np.int64(step)

    def one_epoch(_):
        epoch, first = tf.numpy_function(begin, [], (tf.int64, tf.int64))
        epoch_key = tf.stack([tf.constant(seed, tf.int64), epoch])

        @tf.autograph.experimental.do_not_convert
        def change(step, element):
            x, *rest = element
            x = dict(x)
            for (task, part), change_one in changes.items():
                # By name: another task in `transforms` changes nothing for this one.
                name = task if part == "inputs" else f"{task}.{part}"
                number = tf.constant(zlib.crc32(name.encode()), tf.int64)
                key = tf.random.fold_in(epoch_key, number)
                key = tf.random.fold_in(key, step)
                x[task] = {**x[task], part: _change_rows(change_one, x[task][part], key)}
            return (x, *rest)

        steps = dataset.enumerate(tf.ensure_shape(first, ()))
        return steps.map(change, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

    # As in `EpochReader`: `flat_map` asks for the epoch when an iteration starts.
    changed = tf.data.Dataset.range(1).flat_map(one_epoch)
    size = int(dataset.cardinality())
    num_shapes = getattr(dataset, "num_shapes", None)
    if position is None:
        changed = changed.apply(tf.data.experimental.assert_cardinality(size))
    return Mixture(changed, size, num_shapes).prefetch(2)


def _changes(tasks, transforms):
    """Returns (task, part) -> function of one example and its seed, checked."""
    if not isinstance(transforms, Mapping) or not set(transforms) <= set(tasks):
        expected = f"`transforms` must map tasks of `dataset` to functions: {', '.join(tasks)}"
        raise ValueError(f"{expected}. Received: transforms={transforms!r}")
    changes = {}
    for task, of_task in transforms.items():
        if not isinstance(of_task, Mapping):
            of_task = {"given" if isinstance(of_task, DropInputs) else "inputs": of_task}
        if not set(of_task) <= set(tasks[task]):
            expected = f"`transforms['{task}']` must be for parts of {list(tasks[task])}"
            raise ValueError(f"{expected}. Received: {list(of_task)}")
        for part, f in of_task.items():
            argument = f"transforms['{task}']" + f"['{part}']" * (part != "inputs")
            changes[task, part] = _traced(argument, f, tasks[task][part])
    return changes


def _traced(argument, transform, spec):
    """Returns the transform as a function of one example and its seed, int32 `(2,)`, checked."""
    # Traced here and not by `tf.map_fn`, where an error would leave TensorFlow's variable scope
    # open: no strategy could be entered any more.
    if not callable(transform):
        expected = f"`{argument}` must be a function"
        raise ValueError(f"{expected}. Received: {type(transform).__name__}")
    shape = spec.shape[1:]
    changed = tf.function(transform, autograph=False).get_concrete_function(
        tf.TensorSpec(shape, spec.dtype), tf.TensorSpec((2,), tf.int32)
    )
    output = changed.structured_outputs
    is_array = hasattr(output, "shape") and hasattr(output, "dtype")
    if not is_array or output.dtype != spec.dtype or not output.shape.is_compatible_with(shape):
        received = f"shape={output.shape}, dtype={output.dtype.name}" if is_array else output
        raise ValueError(
            f"`{argument}` must keep the shape {shape} and the dtype {spec.dtype.name} "
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
