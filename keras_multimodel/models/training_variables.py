"""What a compiled model needs besides its weights: made at once, before the first step."""

import keras
from keras import ops

from keras_multimodel.ops.replicas import num_replicas, replica_sum
from keras_multimodel.weighting.joint_loss import strategy_scope


def make_variables(model: keras.Model) -> None:
    """Makes the variables of a compiled model's optimizer, losses and metrics.

    Left to the first step, they would have TensorFlow trace that step twice.

    Args:
        model: a compiled functional model whose outputs are a dict of logits.
    """
    shapes = {name: [size or 1 for size in x.shape] for name, x in model.output.items()}
    y = {name: ops.zeros(shape[:-1], "int32") for name, shape in shapes.items()}
    y_pred = {name: ops.zeros(shape) for name, shape in shapes.items()}

    def score():
        model._clear_losses()  # those of an earlier call belong to a graph that is gone
        model.compute_loss(x=None, y=y, y_pred=y_pred, training=False)
        model.compute_metrics(x=None, y=y, y_pred=y_pred)

    strategy = getattr(model, "distribute_strategy", None)  # of TensorFlow alone
    with strategy_scope(model):
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        strategy.run(score) if strategy else score()
    model.reset_metrics()
    clip_what_is_summed(getattr(model.optimizer, "inner_optimizer", model.optimizer))


def clip_what_is_summed(optimizer: keras.optimizers.Optimizer) -> None:
    """Makes the replicas of a strategy clip the gradients of the global batch.

    Keras clips those of each replica, and sums then: the result would depend on how the batch was
    cut, and be clipped at as many times the limit as there are replicas.

    Args:
        optimizer: the optimizer; without replicas it works as before.
    """
    clip = optimizer._clip_gradients
    if getattr(clip, "is_global", False):
        return

    def clip_sum(gradients):
        # Keras sums what comes back: here every replica has all of it, and returns its share.
        given = [i for i, g in enumerate(gradients) if g is not None]
        # Without a gradient of their own: for one, TensorFlow would search the whole graph.
        dense = [ops.stop_gradient(ops.convert_to_tensor(gradients[i])) for i in given]
        summed = replica_sum(dense)
        shares = list(gradients)
        for i, g in zip(given, clip(summed)):
            shares[i] = g / num_replicas()
        return shares

    def clip_global(gradients):
        clips = optimizer.clipnorm or optimizer.global_clipnorm or optimizer.clipvalue
        return clip_sum(gradients) if clips and num_replicas() > 1 else clip(gradients)

    clip_global.is_global = True
    optimizer._clip_gradients = clip_global
