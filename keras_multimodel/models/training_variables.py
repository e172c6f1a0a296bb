"""What a compiled model needs besides its weights: made at once, before the first step."""

import keras
from keras import ops

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
    regularized = [(w, ops.convert_to_tensor(w)) for w in model.trainable_weights if w.regularizer]
    with strategy_scope(model):
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        # Variables that are made in this scope stay; what is added to them or to losses does not.
        with keras.StatelessScope(state_mapping=regularized):
            model.compute_loss(x=None, y=y, y_pred=y_pred, training=False)
            model.compute_metrics(x=None, y=y, y_pred=y_pred)
