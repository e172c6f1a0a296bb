"""A warning for a training that compiles again and again.

With XLA a step is compiled for each set of shapes. The program of a joint model takes from seconds
to minutes to compile, so batches that are padded to their own longest example can cost many times
the training itself, and nothing tells why.
"""

from typing import Any

import keras

from keras_multimodel.user_warnings import users_line, warn

_ALLOWED = 2  # a first batch, and a smaller last one


class CompileGuard:
    """Counts the shapes of the batches of one `fit` or `evaluate`, and warns once.

    Args:
        method: its name, for the message.
        data: what it reads. A `kmm.data.Mixture` says how many shapes it has.
    """

    def __init__(self, method: str, data: Any):
        self._method = method
        self._allowed = max(_ALLOWED, getattr(data, "num_shapes", None) or 0)
        self._met: set[tuple] = set()
        self._warned = False
        self._line = users_line()

    def meet(self, batch: Any) -> None:
        """Notes the shapes of a batch of arrays or tensors, and warns if they are one too many."""
        # A batch may have None in place of sample weights.
        parts = keras.tree.flatten_with_path(batch)
        x = [(path, part) for path, part in parts if part is not None]
        self._met.add(tuple((path, tuple(part.shape)) for path, part in x))
        if len(self._met) <= self._allowed or self._warned:
            return
        self._warned = True
        shapes = ", ".join(
            f"{'.'.join(map(str, path[1:])) or 'x'} {tuple(part.shape)}"
            for path, part in x
            if path[0] == 0
        )
        warn(
            f"`{self._method}` compiles a program for each set of shapes, and has met "
            f"{len(self._met)} of them, the last with {shapes}. Compiling can take longer than "
            "training. `lengths=3` of `kmm.data.mix` and `kmm.data.batch` pads to few lengths.",
            self._line,
        )

    def watch(self, data: Any) -> Any:
        """Returns a `tf.data.Dataset` whose batches are noted as they are read.

        TensorFlow traces a step once and compiles it for each shape where Python does not see it.
        """
        import tensorflow as tf

        def note(*batch):
            flat = keras.tree.flatten(batch)
            shapes = [tf.shape(part) for part in flat if part is not None]

            def meet(*shapes):
                sizes = iter(tuple(shape.numpy().tolist()) for shape in shapes)
                shaped = [None if part is None else _Shaped(next(sizes)) for part in flat]
                self.meet(keras.tree.pack_sequence_as(batch, shaped))

            noted = tf.py_function(meet, shapes, [])
            with tf.control_dependencies([noted]):
                kept = [None if part is None else tf.identity(part) for part in flat]
            return keras.tree.pack_sequence_as(batch, kept)

        return data.map(tf.autograph.experimental.do_not_convert(note))


class _Shaped:
    """What stands for an array of some shape."""

    def __init__(self, shape: tuple[int, ...]):
        self.shape = shape
