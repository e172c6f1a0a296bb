"""Training steps that Keras does not have, for TensorFlow alone.

Axis legend: K tasks that are weighed, N numbers in a weight.
"""

import keras
from keras import ops

from keras_multimodel import _keras_compat
from keras_multimodel.ops.replicas import num_replicas, replica_sum
from keras_multimodel.typing import Tensor
from keras_multimodel.weighting.joint_loss import additional_loss, task_losses
from keras_multimodel.weighting.task_weighting import TaskWeighting, whole_losses


def check_backend(weighting: TaskWeighting) -> None:
    """Raises a ValueError if `gradient_step` does not run on this backend."""
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise ValueError(
            f"`task_weighting` must be Uncertainty, DWA or None on this backend: "
            f"{type(weighting).__name__} needs the gradients of single tasks, which it takes on "
            f"TensorFlow alone. Received: task_weighting={weighting.name}, backend={backend}"
        )


def gradient_step(model: keras.Model, measured: list, data: tuple) -> dict:
    """Trains on one batch, with factors that depend on the gradients of single tasks.

    The gradient of the step is that of the factors times the losses, plus that of the losses that
    layers add.

    Args:
        model: a compiled `MultiModel` whose `task_weighting` has a method `gradient_factors`.
        measured: the weights whose gradients that method gets.
        data: `(x, y)` or `(x, y, sample_weight)`.

    Returns:
        The logs.
    """
    import tensorflow as tf

    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    weighting, weights = model.task_weighting, model.trainable_weights
    # One forward pass; persistent, since each task needs a backward pass of its own.
    with tf.GradientTape(persistent=True) as tape:
        y_pred = model(x, training=True)
        parts = weighting.stack(task_losses(model, y, y_pred, sample_weight))
        single = tf.unstack(parts)
        added = tf.convert_to_tensor(additional_loss(model))
    scale = model.optimizer.scale_loss(tf.ones(()))
    gradients = [tape.gradient(loss, measured, output_gradients=scale) for loss in single]
    products = dot_products(gradients) / scale**2
    # With mixed_float16 a scaled gradient may overflow. The optimizer then skips the step, and the
    # state of the method must not keep a NaN.
    products = tf.where(tf.reduce_all(tf.math.is_finite(products)), products, 0.0)
    factors = weighting.gradient_factors(whole_losses(parts), products)
    weighting.record(factors)
    joint = tape.gradient([parts, added], weights, output_gradients=[scale * factors, scale])
    del tape
    return _finish_step(model, data, y_pred, tf.reduce_sum(factors * parts) + added, joint)


def clips_on_replicas(optimizer: keras.optimizers.Optimizer) -> bool:
    """Returns whether a step has to clip the gradients before the optimizer does.

    Keras clips the gradients of each replica, then sums them: the result depends on how the batch
    was cut, and its norm can be as many times the limit as there are replicas.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    limits = inner.clipnorm or inner.global_clipnorm or inner.clipvalue
    # What accumulates over steps is clipped when it is applied, which only Keras can do. (On
    # `MirroredStrategy` Keras 3.15 cannot accumulate at all: it merges replicas in a branch.)
    return bool(limits) and num_replicas() > 1 and not inner.gradient_accumulation_steps


def clipped_step(model: keras.Model, data: tuple) -> dict:
    """Trains on one batch as Keras' own step does, but clips the gradients of the global batch.

    Args:
        model: a compiled model.
        data: `(x, y)` or `(x, y, sample_weight)`, this replica's part of the batch.

    Returns:
        The logs.
    """
    import tensorflow as tf

    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    with tf.GradientTape() as tape:
        y_pred = model(x, training=True)
        loss = model.compute_loss(x, y, y_pred, sample_weight, training=True)
        scaled = model.optimizer.scale_loss(loss)
    gradients = tape.gradient(scaled, model.trainable_weights)
    return _finish_step(model, data, y_pred, loss, gradients)


def apply_gradients(optimizer: keras.optimizers.Optimizer, gradients: list, weights: list) -> None:
    """Applies gradients of a scaled loss, clipped as those of the global batch.

    Args:
        optimizer: the optimizer.
        gradients: a tensor for each weight, this replica's part of the gradient, or None.
        weights: the weights.
    """
    if clips_on_replicas(optimizer):
        gradients = _clipped_shares(optimizer, gradients)
    optimizer.apply_gradients(zip(gradients, weights))


def _clipped_shares(optimizer, gradients):
    """Returns shares that the optimizer sums to the clipped gradients of the global batch.

    A share is so much smaller than the limit that the optimizer's own clipping has no effect.
    """
    import tensorflow as tf

    inner = getattr(optimizer, "inner_optimizer", optimizer)
    scale = optimizer.scale_loss(tf.ones(()))
    given = [i for i, g in enumerate(gradients) if g is not None]
    # Without a gradient of their own: for one, TensorFlow would search the whole graph.
    dense = [ops.stop_gradient(ops.convert_to_tensor(gradients[i])) for i in given]
    summed = replica_sum([g / tf.cast(scale, g.dtype) for g in dense])
    clipped = _keras_compat.clip_gradients(inner, summed)
    shares = list(gradients)
    for i, g in zip(given, clipped):
        shares[i] = g * tf.cast(scale / num_replicas(), g.dtype)
    return shares


def _finish_step(model, data, y_pred, loss, gradients):
    """Applies gradients, updates the metric `loss` with this replica's part, returns the logs."""
    import tensorflow as tf

    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    rows = tf.shape(keras.tree.flatten(x)[0])[0]
    _keras_compat.loss_tracker(model).update_state(loss * num_replicas(), sample_weight=rows)
    apply_gradients(model.optimizer, gradients, model.trainable_weights)
    return model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)


def dot_products(gradients: list[list]) -> Tensor:
    """Returns the dot products of the gradients of K losses over the global batch.

    Args:
        gradients: K lists with a tensor for each weight, this replica's part of the gradient; None
            stands for zeros.

    Returns:
        float32 `(K, K)`.
    """
    import tensorflow as tf

    # Weight by weight, which spares a copy of the gradients of all tasks in one matrix.
    total = ops.zeros((len(gradients), len(gradients)))
    for of_weight in zip(*gradients):
        known = [gradient for gradient in of_weight if gradient is not None]
        if known:
            zeros = ops.zeros_like(tf.convert_to_tensor(known[0]))
            rows = [zeros if g is None else tf.convert_to_tensor(g) for g in of_weight]
            rows = replica_sum(ops.stack([ops.reshape(ops.cast(g, "float32"), -1) for g in rows]))
            total = total + ops.matmul(rows, ops.transpose(rows))
    return total
