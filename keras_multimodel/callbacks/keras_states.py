"""The state of callbacks of Keras, which `Resume` saves."""

import keras
import numpy as np

# What these callbacks know of the epochs so far. They have no public way to save it, and reset it
# when training begins.
_STATES = {
    keras.callbacks.EarlyStopping: ("wait", "best", "best_epoch", "stopped_epoch", "best_weights"),
    keras.callbacks.ReduceLROnPlateau: ("wait", "best", "cooldown_counter"),
    keras.callbacks.ModelCheckpoint: ("best",),
}


def has_state(callback: keras.callbacks.Callback) -> bool:
    """Returns whether a callback is one of Keras' whose state can be saved, or derives from one."""
    return isinstance(callback, tuple(_STATES))


def callback_state(callback: keras.callbacks.Callback) -> dict[str, np.ndarray]:
    """Returns the state of a callback of Keras; what is None has no key.

    Args:
        callback: one for which `has_state` is True.
    """
    state = {}
    for name in _names_of_state(callback):
        value = getattr(callback, name)
        if isinstance(value, list):
            # NumPy's files do not know bfloat16, which fits in float32.
            arrays = [np.asarray(x, "float32" if x.dtype.kind == "V" else None) for x in value]
            state.update({f"{name}/{number}": array for number, array in enumerate(arrays)})
        elif value is not None:
            state[name] = np.asarray(value)
    return state


def set_callback_state(callback: keras.callbacks.Callback, state: dict[str, np.ndarray]) -> None:
    """Sets what `callback_state` returned."""
    for name in _names_of_state(callback):
        arrays = [array for key, array in state.items() if key.startswith(f"{name}/")]
        if arrays:
            setattr(callback, name, arrays)
        else:
            setattr(callback, name, state[name].item() if name in state else None)


def _names_of_state(callback):
    return next(names for kind, names in _STATES.items() if isinstance(callback, kind))
