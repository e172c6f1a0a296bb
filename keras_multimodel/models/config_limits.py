"""What a config may ask for: checked before memory is taken, for a file may come from anybody.

A config of some kilobytes can ask for terabytes. Two bounds hold. Numbers that weigh nothing, such
as how often a block is repeated, have limits far above what is of use. Weights are counted when a
layer is about to make them: together they may be no more than the file has. Where there is no file,
`MultiModel.max_config_weights` is the limit.
"""

import contextlib
import contextvars
import math
import os
import threading
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import keras

from keras_multimodel import _keras_compat

_MOST_DEPTH = 100  # of dicts and lists in each other
_MOST_TASKS = 1000
_MOST = {
    "dilation_rate": 4096,
    "dilation_rates": 4096,
    "hidden_dim": 1 << 20,
    "kernel_size": 4096,
    "kernel_sizes": 4096,
    "max_input_length": 1 << 20,
    "max_target_length": 1 << 20,
    "num_blocks": 24,  # each halves the length
    "num_decoder_blocks": 256,
    "num_encoder_blocks": 256,
    "num_experts": 4096,
    "num_mixer_blocks": 256,
}
# Templates are built once more to try them, and some are not part of the model. Weights that the
# file has as integers of a byte are made twice: as floats, and as integers.
_TIMES, _SLACK = 4, 1 << 22
_MOST_EXPANSION, _EXPANSION_FLOOR = 10, 1 << 26
_SHOWN = 500  # characters of an error
_WEIGHTS = "model.weights."  # the file of the weights, of either format
_is_bounded: contextvars.ContextVar[bool] = contextvars.ContextVar("is_bounded", default=False)
_count_weight: contextvars.ContextVar[Callable | None] = contextvars.ContextVar(
    "count_weight", default=None
)
_counting_lock = threading.Lock()
_num_counting = 0
_add_weight = keras.layers.Layer.add_weight


def check_config(config: Any) -> None:
    """Checks the form of a model's config, and the numbers that weigh nothing.

    Args:
        config: what `MultiModel.get_config` returned.

    Raises:
        ValueError: it is no dict with lists of tasks and nets, is nested too deep, or has a number
            that no model has.
    """
    if not isinstance(config, dict):
        raise ValueError(f"`config` must be a dict. Received: {type(config).__name__}")
    for key in ("modalities", "tasks"):
        part = config.get(key)
        if not isinstance(part, list | tuple) or not 0 < len(part) <= _MOST_TASKS:
            expected = f"`config[{key!r}]` must be a list of 1 to {_MOST_TASKS} dicts"
            raise ValueError(f"{expected}. Received: {_shown(part)}")
    # Not by recursion, which is what a nested config attacks.
    waiting: list[tuple[str, Any, int]] = [("config", config, 0)]
    while waiting:
        key, value, depth = waiting.pop()
        if depth > _MOST_DEPTH:
            raise ValueError(f"`config` must be nested at most {_MOST_DEPTH} times. Received: more")
        if isinstance(value, dict):
            waiting += [(name, part, depth + 1) for name, part in value.items()]
        elif isinstance(value, list | tuple):
            waiting += [(key, part, depth + 1) for part in value]
        elif isinstance(value, int | float) and key in _MOST and not value <= _MOST[key]:
            expected = f"`{key}` must be at most {_MOST[key]} in a config"
            raise ValueError(f"{expected}. Received: {key}={_shown(value)}")


@contextlib.contextmanager
def building_from_config(
    num_bytes: int | None = None, without_file: int | None = None
) -> Iterator[None]:
    """Bounds the weights that are made from a config, and has one kind of error for what is wrong.

    Args:
        num_bytes: the size of the weights that will be read. None looks for a file that Keras is
            reading.
        without_file: the most weights if there is none, and no context around this one.

    Raises:
        ValueError: the config needs more weights, or raised an error of any kind.
    """
    most, reason = _most_weights(num_bytes, without_file)
    made = 0

    def count(shape):
        nonlocal made
        made += math.prod(shape or ())
        if made > most:
            expected = f"`config` must need at most {most} weights, {reason}"
            raise ValueError(f"{expected}. Received: more, with one of the shape {shape}")

    token = _is_bounded.set(True)
    try:
        with _before_each_weight(count):
            yield
    except ValueError:
        raise
    except Exception as error:  # whatever a layer raises for an argument that is none of its own
        expected = "`config` must be what `get_config` returned"
        if "Could not locate" in str(error):
            expected = "`config` must name known classes: import those of your own before loading"
        received = f"a config that raised {type(error).__name__}: {_shown(error)}"
        raise ValueError(f"{expected}. Received: {received}") from error
    finally:
        _is_bounded.reset(token)


def _most_weights(num_bytes: int | None, without_file: int | None) -> tuple[float, str]:
    """Returns how many weights may be made, and why."""
    if num_bytes is None and (file := _keras_compat.loaded_file()) is not None:
        num_bytes = _bytes_of_weights(file)
    if num_bytes is None:
        if without_file is None or _is_bounded.get():
            return math.inf, ""
        return without_file, "which `MultiModel.max_config_weights` limits"
    # A weight takes at least a byte in a file.
    return _TIMES * num_bytes + _SLACK, f"for a file with {num_bytes} bytes of them"


def _bytes_of_weights(file: zipfile.ZipFile | str) -> int:
    """Returns how many bytes of weights a model's file, or folder, has; those of a file are read.

    That compares their checksum. Keras does so too, but catches the error and then reads them in
    pieces, whose checksum Python from 3.12 on does not compare: the model would be wrong.
    """
    if not isinstance(file, zipfile.ZipFile):
        with os.scandir(file) as entries:
            return sum(e.stat().st_size for e in entries if e.name.startswith(_WEIGHTS))
    members = [info for info in file.infolist() if info.filename.startswith(_WEIGHTS)]
    stored = sum(info.compress_size for info in members)
    num_bytes = sum(info.file_size for info in members)
    if num_bytes > _MOST_EXPANSION * stored + _EXPANSION_FLOOR:
        expected = f"the weights must expand at most {_MOST_EXPANSION} times"
        raise ValueError(f"{expected}. Received: a file with {stored} bytes for {num_bytes}")
    try:
        for info in members:
            with file.open(info) as weights:
                while weights.read(1 << 20):
                    pass
    except Exception as error:  # a damaged archive raises many kinds
        expected = "`filepath` must be a whole file that `save` wrote"
        received = f"{file.filename}, whose weights are damaged ({type(error).__name__}: {error})"
        raise ValueError(f"{expected}. Received: {received}") from error
    return num_bytes


def _counted_add_weight(self, shape=None, *args, **kwargs):
    count = _count_weight.get()
    if count is not None:
        count(shape)
    return _add_weight(self, shape, *args, **kwargs)


@contextlib.contextmanager
def _before_each_weight(count: Callable) -> Iterator[None]:
    """Calls a function with the shape of every weight that a layer is about to make.

    In this thread, and until the context ends. `add_weight` is public, but Keras has no hook that
    reaches the layers of others, and once a weight is made its memory is taken.

    Args:
        count: the function; what it raises reaches the caller of `add_weight`.
    """
    global _num_counting
    outer = _count_weight.get()

    def count_all(shape):
        if outer is not None:
            outer(shape)
        count(shape)

    with _counting_lock:
        _num_counting += 1
        keras.layers.Layer.add_weight = _counted_add_weight
    token = _count_weight.set(count_all)
    try:
        yield
    finally:
        _count_weight.reset(token)
        with _counting_lock:
            _num_counting -= 1
            if not _num_counting:
                keras.layers.Layer.add_weight = _add_weight


def _shown(value):
    text = str(value) if isinstance(value, Exception) else repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
