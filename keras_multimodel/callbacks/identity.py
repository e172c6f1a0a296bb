"""What a saved training was, and whether the one that resumes it is the same."""

import zlib
from typing import Any

import keras

_LONGEST = 60  # characters of a setting that is kept as it is; of a longer one, a checksum
_SHOWN = 5  # settings in a warning


def describe(model: keras.Model) -> dict[str, Any]:
    """Returns what a compiled model and its training depend on, in a form that JSON can hold.

    Args:
        model: the model. Of one without `tasks`, only the optimizer is described.

    Returns:
        `"tasks"`: their names in order; `"optimizer"`: its class; `"learning_rate"`: None if it
        follows a schedule; `"settings"`: path -> setting, of everything else.
    """
    optimizer = model.optimizer
    settings = {**_inner(optimizer).get_config()}
    rate = learning_rate(optimizer)
    if rate is not None:
        del settings["learning_rate"]
    described: dict[str, Any] = {"optimizer": settings}
    tasks = list(getattr(model, "tasks", {}))
    if tasks:
        described.update(_config(model.get_config))
        compiled = _config(model.get_compile_config)
        described.update({k: compiled.get(k) for k in ("loss", "loss_weights", "task_weighting")})
    return {
        "tasks": tasks,
        "optimizer": _class_of(optimizer),
        "learning_rate": rate,
        "settings": _flat(described),
    }


def learning_rate(optimizer: keras.optimizers.Optimizer) -> float | None:
    """Returns the learning rate that an optimizer has now, None if it follows a schedule."""
    rate = _inner(optimizer).get_config()["learning_rate"]
    return rate if isinstance(rate, float) else None


def set_learning_rate(optimizer: keras.optimizers.Optimizer, rate: float) -> None:
    """Sets the learning rate of an optimizer, or of that within a `LossScaleOptimizer`."""
    _inner(optimizer).learning_rate = rate


def check_same(here: dict[str, Any], there: dict[str, Any], path: Any) -> None:
    """Refuses to resume a training of other tasks, or with another optimizer.

    Args:
        here: what `describe` returned.
        there: the same of the saved training.
        path: its file, for the message.

    Raises:
        ValueError: the tasks, their order, or the classes of the optimizers differ.
    """
    expected = {"tasks": "the same tasks in the same order", "optimizer": "the same optimizer"}
    for key, what in expected.items():
        if here[key] != there[key]:
            raise ValueError(
                f"`directory` must hold a state of {what}: numbers would be taken for others. "
                f"Received: {key}={here[key]!r} instead of {key}={there[key]!r} in {path}"
            )


def differences(here: dict[str, Any], there: dict[str, Any]) -> list[str]:
    """Returns the settings that differ, one text for each.

    Args:
        here: what `describe` returned.
        there: the same of the saved training.
    """
    mine, theirs = here["settings"], there["settings"]
    names = [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]
    return [f"{name}={mine.get(name)} instead of {theirs.get(name)}" for name in names]


def listed(texts: list[str]) -> str:
    """Returns the first of some texts as one, with the number of the others."""
    more = f"; and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return "; ".join(texts[:_SHOWN]) + more


def _inner(optimizer):
    return getattr(optimizer, "inner_optimizer", optimizer)


def _class_of(optimizer):
    names = [type(optimizer).__name__, type(_inner(optimizer)).__name__]
    return names[0] if _inner(optimizer) is optimizer else f"{names[0]}({names[1]})"


def _config(get):
    try:
        return get() or {}
    except (NotImplementedError, TypeError, ValueError):
        return {}  # such as a plain function as a preprocessor: it cannot be compared


def _flat(config):
    """Returns path -> setting as text, without the names, which count up within a process."""
    settings = {}
    for path, value in keras.tree.flatten_with_path(_plain(config)):
        if path[-1] not in ("name", "shared_object_id", "build_config"):
            text = str(value)
            if len(text) > _LONGEST:
                text = f"{text[:20]}... (checksum {zlib.crc32(text.encode()):08x})"
            settings[".".join(map(str, path))] = text
    return settings


def _plain(value):
    # Objects, such as a loss of the user, are left out: their text may hold an address.
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if hasattr(value, "get_config"):
        return {"class_name": type(value).__name__, "config": _plain(_config(value.get_config))}
    known = isinstance(value, str | bytes | bool | int | float) or value is None
    return value if known else type(value).__name__
