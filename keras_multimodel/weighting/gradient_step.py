"""A step of training that looks at the gradients of single tasks.

Axis legend: K tasks that are weighed, N numbers in a weight.
"""

import keras
import tensorflow as tf
from keras import ops

from keras_multimodel.ops.replicas import num_replicas, replica_sum
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


def gradient_step(model: keras.Model, measured: list, data) -> dict:
    """Trains on one batch with factors that follow from the gradients of single tasks.

    The gradient of the step is that of the factors times the losses, plus that of what layers
    added to the loss.

    Args:
        model: a compiled `MultiModel` whose `task_weighting` has a method `gradient_factors`.
        measured: the weights whose gradients are given to that method.
        data: `(x, y)` or `(x, y, sample_weight)`.

    Returns:
        The logs.
    """
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    weighting, weights = model.task_weighting, model.trainable_weights
    with tf.GradientTape(persistent=True) as tape:
        y_pred = model(x, training=True)
        parts = weighting.stack(task_losses(model, y, y_pred, sample_weight))
        single = tf.unstack(parts)
        added = tf.convert_to_tensor(additional_loss(model))
    scale = model.optimizer.scale_loss(tf.ones(()))
    gradients = [tape.gradient(loss, measured, output_gradients=scale) for loss in single]
    products = dot_products(gradients) / scale**2
    products = tf.where(tf.reduce_all(tf.math.is_finite(products)), products, 0.0)
    factors = weighting.gradient_factors(whole_losses(parts), products)
    weighting.record(factors)
    joint = tape.gradient([parts, added], weights, output_gradients=[scale * factors, scale])
    del tape
    model.optimizer.apply_gradients(zip(joint, weights))
    model._loss_tracker.update_state(
        (tf.reduce_sum(factors * parts) + added) * num_replicas(),
        sample_weight=tf.shape(keras.tree.flatten(x)[0])[0],
    )
    return model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)


def dot_products(gradients: list):
    """Returns the dot products of the gradients of K losses over the global batch.

    Args:
        gradients: K lists with a tensor for each weight, this replica's part in the gradient; None
            stands for zeros.

    Returns:
        float32 `(K, K)`.
    """
    total = ops.zeros((len(gradients), len(gradients)))
    for of_weight in zip(*gradients):
        known = [gradient for gradient in of_weight if gradient is not None]
        if known:
            zeros = ops.zeros_like(tf.convert_to_tensor(known[0]))
            rows = [zeros if g is None else tf.convert_to_tensor(g) for g in of_weight]
            rows = replica_sum(ops.stack([ops.reshape(ops.cast(g, "float32"), -1) for g in rows]))
            total = total + ops.matmul(rows, ops.transpose(rows))
    return total
