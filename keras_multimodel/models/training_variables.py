"""What a compiled model needs besides its weights: made at once, before the first step."""

import contextlib

import keras
from keras import ops


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
        model.compute_loss(x=None, y=y, y_pred=y_pred)
        model.compute_metrics(x=None, y=y, y_pred=y_pred)

    strategy = getattr(model, "distribute_strategy", None)  # of TensorFlow alone
    with strategy.scope() if strategy else contextlib.nullcontext():
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        strategy.run(score) if strategy else score()
    model.reset_metrics()
