"""The decoder's side of a model, one position at a time."""

import keras
from keras import ops

from keras_multimodel import user_warnings
from keras_multimodel.layers.attention_block import AttentionBlock
from keras_multimodel.layers.blocks import call_block, takes
from keras_multimodel.layers.stepping import SteppingBlock
from keras_multimodel.ops import cache as caches

_warned: set = set()


def steps(block) -> bool:
    """Returns whether a block is a `SteppingBlock` that steps as it is called."""
    return isinstance(block, SteppingBlock) and _as_new(block, "step", "call")


def _as_new(layer, method: str, other: str) -> bool:
    """Returns whether no subclass has changed `other` and left `method` as it was."""
    classes = type(layer).__mro__
    first, second = (
        next((i for i, c in enumerate(classes) if name in vars(c)), 0) for name in (method, other)
    )
    return first <= second


def initial_cache(block, batch_size: int, max_length: int, source, source_mask):
    """Returns a block's cache before the first position.

    That of a block that does not step is room for its inputs.
    """
    if steps(block):
        cache = block.initial_cache(batch_size, max_length, source=source, source_mask=source_mask)
        # Someone else's block may keep a position more or every second one, and the loop would not
        # know when a piece of its cache is full.
        in_pieces = type(block).step is AttentionBlock.step
        return caches.with_pieces(cache, max_length) if in_pieces else cache
    if getattr(block, "position_wise", False):
        return ()
    _warn(block)
    shape = (max_length, batch_size, source.shape[-1])
    cache = {"inputs": ops.zeros(shape, keras.backend.standardize_dtype(source.dtype))}
    if takes(block, "source"):
        cache["source"] = source
    if takes(block, "source_mask"):
        cache["source_mask"] = source_mask
    return cache


def step(block, inputs, cache, index):
    """Maps position `index`, `(batch, hidden_dim)`, to the block's output and the next cache."""
    if steps(block):
        return block.step(inputs, cache, index)
    if getattr(block, "position_wise", False):
        return call_block(block, inputs[:, None], False)[:, 0], cache
    cache = {**cache, "inputs": caches.write(cache["inputs"], inputs, index)}
    x = ops.transpose(cache["inputs"], (1, 0, 2))
    written = ops.arange(x.shape[1]) <= index
    source = {name: cache[name] for name in ("source", "source_mask") if name in cache}
    mask = ops.broadcast_to(written, x.shape[:2])
    outputs = call_block(block, x, False, mask=mask, **source)
    return ops.take(outputs, index, axis=1), cache


def reorder_cache(block, cache, rows):
    """Returns a block's cache with row `i` taken from `rows[i]`, a row of the same example."""
    if steps(block):
        if hasattr(block, "reorder_cache"):
            return block.reorder_cache(cache, rows)
        return keras.tree.map_structure(lambda x: ops.take(x, rows, axis=0), cache)
    if not cache:
        return cache
    return {**cache, "inputs": ops.take(cache["inputs"], rows, axis=1)}


class CachedSteps:
    """Writes the targets of one task position by position, with caches.

    Args:
        task: the task.
        body: holder of `commands`, `mixer` and `decoder`.
    """

    def __init__(self, task, body):
        self.targets = task.targets
        self.command = body.commands[task.name]
        self.mixer = body.mixer
        self.decoder = body.decoder

    def initial_cache(self, max_length: int, encoded, mask):
        """Returns the cache before the first position, from the encoded input and its mask."""
        arguments = (encoded.shape[0], max_length, encoded, mask)
        cache = {
            "mixer": self.mixer.initial_cache(*arguments),
            "decoder": self.decoder.initial_cache(*arguments),
        }
        if hasattr(self.targets, "step") and _as_new(self.targets, "step", "decode"):
            cache["targets"] = caches.Fixed(self.targets.initial_cache(encoded.shape[0]))
        return cache

    def step(self, ids, last, cache, index):
        """Returns the logits of one position.

        Args:
            ids: int32 `(max_length, batch)`, what has been written; not used.
            last: int32 `(batch,)`, the id at `index - 1`.
            cache: the cache.
            index: int32 scalar.

        Returns:
            `(batch, vocabulary_size)`, and the next cache.
        """
        x = self.command.step(self.targets(last[:, None])[:, 0], index)
        x, mixer = self.mixer.step(x, cache["mixer"], index)
        x, decoder = self.decoder.step(x, cache["decoder"], index)
        if "targets" in cache:
            logits = self.targets.step(x, cache["targets"].value)
        else:
            logits = self.targets(x[:, None], reverse=True)[:, 0]
        return logits, {**cache, "mixer": mixer, "decoder": decoder}

    def share(self, cache, other):
        """Returns a cache that has in common with another what is not of their inputs."""
        return {**cache, "targets": other["targets"]} if "targets" in cache else cache

    def reorder_cache(self, cache, rows):
        """Returns the cache with row `i` of the batch taken from `rows[i]`."""
        return {
            **cache,
            "mixer": self.mixer.reorder_cache(cache["mixer"], rows),
            "decoder": self.decoder.reorder_cache(cache["decoder"], rows),
        }


class RecomputedSteps:
    """Writes the targets of one task position by position, the whole decoder anew for each of them.

    Args:
        write: model from `{"targets", "encoded", "mask"}` to logits `(batch, length,
            vocabulary_size)`.
    """

    def __init__(self, write):
        self.write = write

    def initial_cache(self, max_length: int, encoded, mask):
        """Returns the encoded input and its mask."""
        return {"encoded": encoded, "mask": mask}

    def step(self, ids, last, cache, index):
        """Returns the logits of one position; see `CachedSteps.step`."""
        # What is not yet written is any id but padding: no output looks at it.
        targets = ops.maximum(ops.transpose(ids), 1)
        logits = self.write({"targets": targets, **cache}, training=False)
        return ops.take(logits, index, axis=1), cache

    def reorder_cache(self, cache, rows):
        """Returns the cache: rows are exchanged within one example, whose input they share."""
        return cache


def _warn(block):
    if type(block) in _warned:
        return
    _warned.add(type(block))
    user_warnings.warn(
        f"`{type(block).__name__}` has no `initial_cache` and `step` of its own, so generation "
        "calls it on all positions again for every new one. See "
        "`keras_multimodel.layers.stepping`.",
    )
