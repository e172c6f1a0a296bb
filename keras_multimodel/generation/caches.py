"""What generation keeps of earlier positions, block by block and for a whole decoder side."""

import keras
from keras import ops

from keras_multimodel import user_warnings
from keras_multimodel.layers.blocks import call_block
from keras_multimodel.layers.stepping import SteppingBlock, can_step, write_position
from keras_multimodel.typing import Nested, Tensor

_warned: set[type] = set()


class BlockChain:
    """Steps through blocks that follow one another, whether or not they follow the protocol.

    Args:
        blocks: the blocks. One that cannot step is called on all its inputs at every step.
    """

    def __init__(self, blocks: list[keras.layers.Layer]):
        self.blocks = [_stepping(block) for block in blocks]

    def initial_cache(
        self, batch_size: int, max_length: int, source: Tensor, source_mask: Tensor
    ) -> list:
        """Returns the caches of the blocks; see `SteppingBlock.initial_cache`."""
        return [
            block.initial_cache(batch_size, max_length, source=source, source_mask=source_mask)
            for block in self.blocks
        ]

    def step(self, inputs: Tensor, cache: list, index: Tensor) -> tuple[Tensor, list]:
        """Maps one position through all blocks; see `SteppingBlock.step`."""
        x, after = inputs, []
        for block, part in zip(self.blocks, cache):
            x, part = block.step(x, part, index)
            after.append(part)
        return x, after

    def reorder_cache(self, cache: list, rows: Tensor) -> list:
        """Returns the caches with row `i` taken from `rows[i]`."""
        return [reorder_cache(block, part, rows) for block, part in zip(self.blocks, cache)]


def reorder_cache(block: SteppingBlock, cache: Nested, rows: Tensor) -> Nested:
    """Returns a block's cache with row `i` taken from `rows[i]`, a row of the same example.

    Args:
        block: the block, with a method `reorder_cache` of its own or without.
        cache: its cache.
        rows: int32 `(batch,)`.
    """
    own = getattr(block, "reorder_cache", None)
    if own is not None:
        return own(cache, rows)
    return keras.tree.map_structure(lambda x: ops.take(x, rows, axis=0), cache)


def _stepping(block) -> SteppingBlock:
    """Returns the block if it can step, else an object that steps for it."""
    if can_step(block):
        return block
    if getattr(block, "position_wise", False):
        return _PositionWise(block)
    if type(block) not in _warned:
        _warned.add(type(block))
        user_warnings.warn(
            f"`{type(block).__name__}` has no `initial_cache` and `step` of its own, so generation "
            "calls it on all positions again for every new one. See "
            "`keras_multimodel.layers.SteppingBlock`."
        )
    return _Recomputed(block)


class _PositionWise:
    """Steps for a block that treats every position independently."""

    def __init__(self, block):
        self.block = block

    def initial_cache(self, batch_size, max_length, source=None, source_mask=None):
        return ()

    def step(self, inputs, cache, index):
        return call_block(self.block, inputs[:, None], False)[:, 0], cache


class _Recomputed:
    """Steps for a block without the protocol: keeps its inputs, and calls it on all of them."""

    def __init__(self, block):
        self.block = block

    def initial_cache(self, batch_size, max_length, source: Tensor = None, source_mask=None):
        shape = (batch_size, max_length, source.shape[-1])
        inputs = ops.zeros(shape, keras.backend.standardize_dtype(source.dtype))
        return {"inputs": inputs, "source": source, "source_mask": source_mask}

    def step(self, inputs, cache, index):
        x = write_position(cache["inputs"], inputs, index)
        # Positions that are not written yet are padding, so that a block that looks at its mask
        # never sees them; a causal block would not look at them anyway.
        mask = ops.broadcast_to(ops.arange(x.shape[1]) <= index, ops.shape(x)[:2])
        cache = {**cache, "inputs": x}
        source = {name: cache[name] for name in ("source", "source_mask")}
        outputs = call_block(self.block, x, False, mask=mask, **source)
        return ops.take(outputs, index, axis=1), cache

    def reorder_cache(self, cache, rows):
        # The source is that of the example, whose rows are exchanged: it stays.
        return {**cache, "inputs": ops.take(cache["inputs"], rows, axis=0)}


class CachedSteps:
    """Computes the logits of one task position by position, with caches.

    Args:
        task: the task.
        body: holder of `commands`, `mixer` and `decoder`.
    """

    def __init__(self, task, body):
        self.targets = task.targets
        self.command = body.commands[task.name]
        self.chain = BlockChain([body.mixer, body.decoder])

    def initial_cache(self, max_length: int, encoded: Tensor, mask: Tensor) -> list:
        """Returns the cache before the first position.

        Args:
            max_length: most ids that may be written.
            encoded: encoded inputs `(batch, source_length, hidden_dim)`.
            mask: boolean `(batch, source_length)`.
        """
        return self.chain.initial_cache(ops.shape(encoded)[0], max_length, encoded, mask)

    def step(self, ids: Tensor, last: Tensor, cache: list, index: Tensor) -> tuple[Tensor, list]:
        """Returns the logits of one position.

        Args:
            ids: int32 `(batch, max_length)`, what has been written; not used.
            last: int32 `(batch,)`, the id at `index - 1`.
            cache: the cache.
            index: int32 scalar.

        Returns:
            `(batch, vocabulary_size)`, and the next cache.
        """
        # Nets take sequences: one of length 1, `(batch, 1, ...)`.
        x = self.command.step(self.targets(last[:, None])[:, 0], index)
        x, cache = self.chain.step(x, cache, index)
        return self.targets(x[:, None], reverse=True)[:, 0], cache

    def reorder_cache(self, cache: list, rows: Tensor) -> list:
        """Returns the cache with row `i` of the batch taken from `rows[i]`."""
        return self.chain.reorder_cache(cache, rows)


class RecomputedSteps:
    """Computes the logits of one task position by position, each from the whole prefix.

    Args:
        write: model from `{"targets", "encoded", "mask"}` to logits `(batch, length,
            vocabulary_size)`.
    """

    def __init__(self, write: keras.Model):
        self.write = write

    def initial_cache(self, max_length: int, encoded: Tensor, mask: Tensor) -> dict:
        """Returns the encoded input and its mask; see `CachedSteps.initial_cache`."""
        return {"encoded": encoded, "mask": mask}

    def step(self, ids: Tensor, last: Tensor, cache: dict, index: Tensor) -> tuple[Tensor, dict]:
        """Returns the logits of one position; see `CachedSteps.step`."""
        # Positions that are not written yet hold any id but padding, which would be masked; no
        # earlier output depends on them.
        targets = ops.maximum(ids, 1)
        logits = self.write({"targets": targets, **cache}, training=False)
        return ops.take(logits, index, axis=1), cache

    def reorder_cache(self, cache: dict, rows: Tensor) -> dict:
        """Returns the cache: rows are exchanged within one example, whose input they share."""
        return cache
