"""Nets of ids that become larger: the same net for more classes, or for more words."""

from collections.abc import Sequence

import keras
import numpy as np

from keras_multimodel import _keras_compat
from keras_multimodel.argument_checks import name_list, positive_int
from keras_multimodel.layers.modalities.modality_net import ModalityNet

_SIZES = ("vocabulary_size", "num_classes")


def extended_net(net: ModalityNet, new: int | Sequence[str]) -> ModalityNet:
    """Returns a net like another with more ids, built as it, with weights drawn anew.

    Args:
        net: the net, which is built.
        new: what its preprocessor gets to know, or without one how many ids are added.

    Raises:
        ValueError: the net has no ids, has adapters or integers, or `new` does not fit.
    """
    config = net.get_config()
    size = next((name for name in _SIZES if name in config), None)
    if size is None or net.num_ids is None:
        expected = "`side` must be a net of ids, with one of the arguments " + ", ".join(_SIZES)
        raise ValueError(f"{expected}. Received: {type(net).__name__}")
    for layer in _keras_compat.all_layers(net):
        if getattr(layer, "lora_enabled", False) or layer.quantization_mode is not None:
            expected = "`side` must be a net with its plain weights: call `merge_lora` first"
            raise ValueError(f"{expected}. Received: {layer.path!r} with adapters or integers")
    if net.preprocessor is None or isinstance(new, int):
        count = positive_int("new", new)
        if net.preprocessor is not None:
            expected = "`new` must be names, which the preprocessor needs"
            raise ValueError(f"{expected}. Received: new={new}")
    else:
        preprocessor = net.preprocessor.extended(new)
        config["preprocessor"] = keras.saving.serialize_keras_object(preprocessor)
        count = len(name_list("new", new))
        positive_int("new", count)
    larger = type(net).from_config({**config, size: config[size] + count})
    larger.build_from_config(net.get_build_config())
    return larger


def copy_net(old: keras.layers.Layer, new: keras.layers.Layer) -> None:
    """Copies the weights of a net to a larger one, where they come first on each axis.

    Args:
        old: the net, or a layer within it.
        new: the same of the larger net.
    """
    within = {layer.name: layer for layer in _keras_compat.sublayers(new)}
    for layer in _keras_compat.sublayers(old):
        copy_net(layer, within.pop(layer.name))
    for here, there in zip(_own_weights(old), _own_weights(new), strict=True):
        value = np.array(keras.ops.convert_to_numpy(there))
        value[tuple(slice(size) for size in here.shape)] = keras.ops.convert_to_numpy(here)
        there.assign(value)


def _own_weights(layer):
    held = {id(w) for inner in _keras_compat.sublayers(layer) for w in inner.weights}
    return [weight for weight in layer.weights if id(weight) not in held]
