"""Templates of blocks: cloned for every position, checked before anything is built."""

import json
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_multimodel import _keras_compat
from keras_multimodel.layers.blocks import call_block

# Classes and configs of blocks that were found to be causal: a study builds its blocks many times.
_CAUSAL: set[tuple] = set()


def clone(template: keras.layers.Layer, name: str, causal: bool = False) -> keras.layers.Layer:
    """Makes a new layer, with weights of its own, from the config of a template.

    Args:
        template: the block.
        name: name of the clone.
        causal: whether the clone belongs to a decoder: a `padding` of the config becomes
            `"causal"`, a `causal` becomes True.

    Returns:
        The layer, not built.
    """
    config: dict[str, Any] = _without_shared_ids({**template.get_config(), "name": name})
    # One template serves encoder and decoder, and only the latter must not look ahead.
    if causal and "padding" in config:
        config["padding"] = "causal"
    if causal and "causal" in config:
        config["causal"] = True
    return type(template).from_config(config)


def _without_shared_ids(config):
    """Returns a config whose layers are deserialized to new objects.

    While Keras saves or loads a model, it gives each object in a config an id, and deserializes
    all configs with one id to one object. The clones of a `Sequential` would then own one set of
    inner layers.
    """
    if isinstance(config, dict):
        items = config.items()
        return {key: _without_shared_ids(v) for key, v in items if key != "shared_object_id"}
    if isinstance(config, list | tuple):
        return type(config)(map(_without_shared_ids, config))
    return config


def check_template(argument: str, template: Any, hidden_dim: int, causal: bool) -> None:
    """Checks that a block keeps the shape, and in a decoder looks at no later input.

    Args:
        argument: the name of the builder's argument, for messages.
        template: the block, or None.
        hidden_dim: width of the model.
        causal: whether the mixer and decoder have clones of it.

    Raises:
        ValueError: `template` is not a layer, has another `hidden_dim`, cannot be cloned or called,
            changes the shape, or lets an output depend on a later input.
    """
    if template is None:
        return
    if not isinstance(template, keras.layers.Layer):
        raise ValueError(f"`{argument}` must be a layer or None. Received: {argument}={template!r}")
    width = getattr(template, "hidden_dim", hidden_dim)
    if width != hidden_dim:
        raise ValueError(
            f"`{argument}` must have the model's `hidden_dim`. "
            f"Received: {argument}.hidden_dim={width}, hidden_dim={hidden_dim}"
        )
    try:
        probe = clone(template, "probe", causal)
    except Exception as error:
        raise ValueError(
            f"`{argument}` must be clonable from its config, which needs all of its arguments. "
            f"Received: {argument}={template!r}, which raised {type(error).__name__}: {error}"
        ) from error
    own, cloned = ({*map(id, _keras_compat.all_layers(layer))} for layer in (template, probe))
    if own & cloned:
        raise ValueError(
            f"`{argument}` must be clonable from its config, which must hold serialized layers and "
            f"not the layers themselves: use `keras.saving.serialize_keras_object` in `get_config`."
            f" Received: {argument}={template!r}, whose clone shares layers with it"
        )
    _check_shape(argument, probe, hidden_dim)
    if causal:
        _check_causality(argument, probe, hidden_dim)


def _check_shape(argument, probe, hidden_dim):
    # Batch and length differ, so that a block that exchanges them is found.
    sequence = keras.KerasTensor((2, 7, hidden_dim), dtype="float32")
    mask = keras.KerasTensor((2, 7), dtype="bool")
    try:
        result = call_block(probe, sequence, mask=mask, source=sequence, source_mask=mask)
    except Exception as error:
        raise ValueError(
            f"`{argument}` must be callable on a tensor of shape (batch, length, hidden_dim). "
            f"Received: {argument}={probe!r}, which raised {type(error).__name__}: {error}"
        ) from error
    if getattr(result, "shape", None) != sequence.shape:
        raise ValueError(
            f"`{argument}` must keep the shape (batch, length, hidden_dim). "
            f"Received: {argument}={probe!r}, which maps "
            f"{sequence.shape} to {getattr(result, 'shape', type(result).__name__)}"
        )


def _check_causality(argument, probe, hidden_dim):
    """Changes the last input, and compares the earlier outputs, once for blocks that are equal."""
    # A class that is defined anew, in a notebook, is another one.
    classes = tuple(map(type, _keras_compat.all_layers(probe)))
    config = json.dumps(keras.saving.serialize_keras_object(probe), default=repr)
    if (classes, config) in _CAUSAL:
        return
    x = np.random.default_rng(0).normal(size=(1, 6, hidden_dim)).astype("float32")
    changed = x.copy()
    changed[:, -1] += 1.0
    mask = np.ones((1, 6), "bool")
    before, after = (
        # In float32, since NumPy cannot subtract bfloat16. The source is the same in both calls:
        # every output may depend on all of it.
        ops.convert_to_numpy(
            call_block(probe, v, False, mask=mask, source=x, source_mask=mask)
        ).astype("float32")[:, :-1]
        for v in map(ops.convert_to_tensor, (x, changed))
    )
    leak = np.abs(before - after).max()
    if leak > 1e-4:
        raise ValueError(
            f"`{argument}` must be causal in the decoder: no output may depend on a later input. "
            f"Received: {argument}={probe!r}, where a change of the last input changed an earlier "
            f"output by {leak:.2g}. A block whose config has a `padding` gets padding='causal' "
            "there, one with a `causal` gets True."
        )
    _CAUSAL.add((classes, config))
