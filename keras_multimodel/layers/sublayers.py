"""What layers that are made of other layers share."""

import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import keras

from keras_multimodel import _keras_compat
from keras_multimodel.typing import Shape

Sublayer = TypeVar("Sublayer", bound=keras.layers.Layer)


def clone_initializer(initializer: Any) -> Any:
    """Returns an initializer of the same configuration, so that no two weights start equal.

    An initializer without a seed draws one when it is made, and repeats its values after that.
    """
    is_clonable = isinstance(initializer, keras.initializers.Initializer)
    return initializer.clone() if is_clonable else initializer


def scaled_initializer(initializer: Any, excess: float) -> Any:
    """Returns an initializer for weights of which Keras counts too many inputs.

    Keras takes an axis that counts matrices for a receptive field, and divides the variance by it.

    Args:
        initializer: the initializer of one matrix.
        excess: by what factor too many, such as the number of matrices.
    """
    if not isinstance(initializer, keras.initializers.VarianceScaling):
        return clone_initializer(initializer)
    config = initializer.get_config()
    return keras.initializers.VarianceScaling(
        scale=initializer.scale * excess,
        mode=initializer.mode,
        distribution=initializer.distribution,
        # None if the user gave none. `initializer.seed` never is: it would make kernels of one
        # shape start equal.
        seed=config["seed"],
    )


def attributes(layer: keras.layers.Layer, *names: str) -> dict[str, Any]:
    """Returns the part of a layer's config that it keeps under the names of its arguments."""
    return {name: getattr(layer, name) for name in names}


@contextlib.contextmanager
def cheap_collections() -> Iterator[None]:
    """Leaves what exists out of the garbage collection that Keras runs for each removed weight."""
    thawed = not gc.get_freeze_count()
    gc.freeze()
    try:
        yield
    finally:
        if thawed:
            gc.unfreeze()


class CompositeLayer(keras.layers.Layer):
    """A layer that makes its sublayers when it is built, and saves what was set on them later.

    Its config holds arguments only, from which Keras makes it anew when it loads a model. Whether a
    sublayer was frozen, quantized or got LoRA weights would be lost, and the weights that were
    saved would not fit. So its build config, which Keras saves as well, has the state of sublayers.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        # Without this, Keras warns, and does not pass the mask to the next layer.
        self.supports_masking = True

    def make(
        self, kind: Callable[..., Sublayer], input_shape: Shape, *args: Any, **kwargs: Any
    ) -> Sublayer:
        """Makes a sublayer under this layer's dtype policy, and builds it.

        Args:
            kind: class of the sublayer.
            input_shape: shape to build it for.
            *args: its arguments.
            **kwargs: its arguments by name, its `name` among them.
        """
        sublayer = kind(*args, dtype=self.dtype_policy, **kwargs)
        sublayer.build(input_shape)
        return sublayer

    def get_build_config(self):
        config = super().get_build_config()
        states = sublayer_states(self)
        return {**(config or {}), "sublayers": states} if states else config

    def build_from_config(self, config: dict):
        config = dict(config)
        states = config.pop("sublayers", None)
        super().build_from_config(config)
        if states:
            with cheap_collections():
                set_sublayer_states(self, states)


def set_trainable(layer: keras.layers.Layer, trainable: bool) -> None:
    """Sets the flag of a layer, of all layers within it, and of all their weights.

    Args:
        layer: the layer.
        trainable: the flag.
    """
    # TensorFlow drops an assignment of the value that an attribute has, though the layers within
    # may have another.
    layer.trainable = not trainable
    layer.trainable = trainable


def sublayer_states(layer: keras.layers.Layer) -> dict[str, Any]:
    """Returns what was set on the layers within a layer after they were made.

    Args:
        layer: a layer, built or not.

    Returns:
        Sublayer's name -> its state, for those that have one: `"trainable"`, `"quantization"`,
        `"lora"`, `"frozen"`, and under `"sublayers"` the states of the layers within. Empty for
        none.
    """
    found = {}
    for sublayer in _keras_compat.sublayers(layer):
        state = layer_state(sublayer)
        if within := sublayer_states(sublayer):
            state["sublayers"] = within
        if state:
            found[sublayer.name] = state
    return found


def set_sublayer_states(layer: keras.layers.Layer, states: dict[str, Any]) -> None:
    """Sets what `sublayer_states` returned on the layers within a built layer of the same config.

    Args:
        layer: the layer.
        states: the states.
    """
    for sublayer in _keras_compat.sublayers(layer):
        state = states.get(sublayer.name, {})
        set_layer_state(sublayer, state)
        # The layers within come later: a flag that is set on a layer reaches all of them.
        set_sublayer_states(sublayer, state.get("sublayers", {}))


def layer_state(layer: keras.layers.Layer) -> dict[str, Any]:
    """Returns what was set on one layer after it was made; empty for nothing."""
    state: dict[str, Any] = {}
    if not layer.trainable:
        state["trainable"] = False
    if layer.quantization_mode is not None:
        config = getattr(layer, "quantization_config", None)
        state["quantization"] = _quantization_state(layer.quantization_mode, config)
    # Only layers with matrices have LoRA.
    has_lora = getattr(layer, "lora_enabled", False)
    if has_lora:
        state["lora"] = {"rank": layer.lora_rank, "lora_alpha": layer.lora_alpha}
    frozen = [w.name for w in _keras_compat.own_trainable(layer) if not w.trainable]
    if layer.trainable and (frozen or has_lora):
        state["frozen"] = frozen  # single weights: the matrices that have adapters
    return state


def _quantization_state(mode: str, config: Any) -> dict[str, Any]:
    # Without what Keras fills in, which would be as long as the weights of a small layer.
    if config is None or _parts_of(config) == _parts_of(keras.quantizers.Int8QuantizationConfig()):
        return {"mode": mode}
    return {"mode": mode, "config": keras.saving.serialize_keras_object(config)}


def _parts_of(config):
    quantizers = config.weight_quantizer, config.activation_quantizer
    return type(config), *((type(q), q and q.get_config()) for q in quantizers)


def set_layer_state(layer: keras.layers.Layer, state: dict[str, Any]) -> None:
    """Sets what `layer_state` returned on a built layer, unless it is so already."""
    quantization, lora = state.get("quantization"), state.get("lora")
    # In the order in which Keras' own layers do it when they are built from a config.
    if quantization and layer.quantization_mode is None:
        config = keras.saving.deserialize_keras_object(quantization.get("config"))
        layer.quantize(quantization["mode"], config=config)
    if lora and not layer.lora_enabled:
        layer.enable_lora(**lora)
    if lora:
        layer.lora_alpha = lora["lora_alpha"]  # which Keras' own configs forget
    if layer.trainable != state.get("trainable", True):
        layer.trainable = state.get("trainable", True)
    set_frozen_weights(layer, state)


def set_frozen_weights(layer: keras.layers.Layer, state: dict[str, Any]) -> None:
    """Freezes single weights as in a state. A later change of the layer's `trainable` undoes it."""
    if "frozen" in state:
        for weight in _keras_compat.own_trainable(layer):
            weight.trainable = weight.name not in state["frozen"]
