"""What a user sets on the layers of a model after its construction.

The config of a model has templates of blocks, and layers make sublayers when they are built. So
neither tells that a layer was frozen, quantized, or got LoRA weights afterwards: its state does.
"""

from typing import Any

import keras

from keras_multimodel import _keras_compat, user_warnings
from keras_multimodel.layers.sublayers import (
    cheap_collections,
    layer_state,
    set_frozen_weights,
    set_layer_state,
)
from keras_multimodel.models.body import Body
from keras_multimodel.models.task import Task, unique_modalities


def layer_states(tasks: list[Task], body: Body) -> dict[str, Any]:
    """Returns the state of all layers that is not as it was at construction; empty for none.

    Args:
        tasks: the tasks of the model.
        body: its body.

    Returns:
        Part of the model -> number of its layers, and the states of those that differ by number.
    """
    found = {}
    for part, root in _parts(tasks, body).items():
        layers = _keras_compat.all_layers(root)
        states = {str(i): state for i, layer in enumerate(layers) if (state := _state(layer, root))}
        if states:
            found[part] = {"num_layers": len(layers), "layers": states}
    return found


def set_layer_states(tasks: list[Task], body: Body, states: dict[str, Any]) -> None:
    """Sets what `layer_states` returned on the layers of a new model, all of which are built.

    Args:
        tasks: the tasks of the model.
        body: its body.
        states: the states.
    """
    with cheap_collections():
        _set_layer_states(_parts(tasks, body), states)


def _set_layer_states(roots, states):
    known = {}
    for part, root in roots.items():
        layers = _keras_compat.all_layers(root)
        found = states.get(part, {"num_layers": len(layers), "layers": {}})
        if found["num_layers"] != len(layers):
            # An edited config: the numbers of the layers mean others, if any.
            user_warnings.warn(
                f"`config` has states of {found['num_layers']} layers for {part!r}, which has "
                f"{len(layers)} layers: which of them are frozen or quantized is not restored."
            )
            continue
        for i, layer in enumerate(layers):
            state = found["layers"].get(str(i), {})
            set_layer_state(layer, state)
            if "dtype" in state:
                layer.dtype_policy = keras.saving.deserialize_keras_object(state["dtype"])
            known[id(layer)] = layer, state
    # Twice: a flag that is set also reaches the layers within, some of which come earlier.
    for layer, state in [*known.values()] * 2:
        if layer.trainable != state.get("trainable", True):
            layer.trainable = state.get("trainable", True)
    for layer, state in known.values():
        set_frozen_weights(layer, state)


def _parts(tasks, body):
    """Returns by name all layers with weights, each part in an order that a copy has too."""
    nets = {f"modalities/{i}": net for i, net in enumerate(unique_modalities(tasks))}
    parts = {**nets, "encoder": body.encoder}
    names = [task.name for task in tasks if task.read_from == "decoder"]
    if names:
        parts.update(mixer=body.mixer, decoder=body.decoder)
    parts.update({f"commands/{name}": body.commands[name] for name in names})
    of_rows = [part for task in tasks if task.has_parts for part in task.parts]
    return {**parts, **{f"parts/{name}": body.parts[name] for name in of_rows}}


def _state(layer, root):
    state = layer_state(layer)
    # A quantized layer has a policy of its own, which quantizing again sets.
    if "quantization" not in state and layer.dtype_policy != root.dtype_policy:
        state["dtype"] = keras.saving.serialize_keras_object(layer.dtype_policy)
    return state
