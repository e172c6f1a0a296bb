"""The functions of one task, as graphs of TensorFlow over weights of their own."""

import contextlib
import keyword
import re
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from keras_multimodel.generation.generate import TaskGenerator
from keras_multimodel.generation.loop import PADDING, SamplingLoop
from keras_multimodel.generation.samplers import Greedy
from keras_multimodel.ops.gradients import forward_only
from keras_multimodel.ops.portable import traced_for
from keras_multimodel.typing import Nested

CACHE = "cache_"
_NAME = re.compile("[A-Za-z][A-Za-z0-9_]*")


class TaskPrograms:
    """Functions to trace: what a task reads, classifies and writes.

    `module` holds the weights, copies that no later training changes.

    Args:
        generator: what generates for the task.
        max_length: the most ids to write.
        runtime: see `traced_for`.
    """

    def __init__(self, generator: TaskGenerator, max_length: int, runtime: str):
        self.generator: Any = generator
        self.task = generator.task
        self.max_length = max_length
        self.runtime = runtime
        self.module: Any = tf.Module()
        self.module.weights = [
            tf.Variable(keras.ops.convert_to_tensor(v), trainable=False)
            for v in generator.variables
        ]
        self.cache: Nested = None  # the structure of a cache, once `prefill` was traced

    @property
    def nets(self) -> dict[str, Any]:
        """The nets that read, and what stands for one, by the names of their arrays."""
        return {key: net for key, net in self.task.input_nets.items() if key != "targets"}

    def specs(self, rows: int | None = None, length: int | None = None) -> list[tf.TensorSpec]:
        """Returns the arrays that the functions take, in the order of `nets`.

        Args:
            rows: number of rows, None for any.
            length: positions of an axis of variable size, None for any.
        """
        names = served_names(self.task)
        return [
            tf.TensorSpec(
                (rows, *(length if size is None else size for size in net.example_shape)),
                net.example_dtype,
                name=names[key],
            )
            for key, net in self.nets.items()
        ]

    def classify(self, *arrays: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns what the target net returns, such as logits of classes."""
        with self._scope() as values, keras.StatelessScope(values):
            return {"logits": self._read(arrays)}

    def predict(self, logits: tf.Tensor) -> tf.Tensor:
        """Returns the prediction of what `classify` returned."""
        return self.task.targets.prediction(logits)

    def write(
        self, arrays: tuple[tf.Tensor, ...], constraint: Any = None, state: Nested = ()
    ) -> dict[str, tf.Tensor]:
        """Returns the ids that greedy search writes, and which rows have ended.

        Args:
            arrays: the inputs.
            constraint: which ids may come next, or None.
            state: its state before the first id.
        """
        loop = SamplingLoop(self.generator.steps[True], Greedy(), constraint)
        limit = tf.constant(self.max_length)
        with self._scope() as values:
            with keras.StatelessScope(values):
                found = self._read(arrays)
                ended = tf.zeros(tf.shape(arrays[0])[:1], "bool")
                encoded, mask = found["encoded"], found["mask"]
                before = loop.start(self.max_length, encoded, mask, ended, state)
            after = loop.advance(values, before, (), limit, limit)
        return {"ids": after["ids"], "ended": after["ended"]}

    def logits_of(self, *arrays: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the logits of given ids, the last of `arrays`: each sees those before it."""
        with self._scope() as values, keras.StatelessScope(values):
            found = self._read(arrays[:-1])
            inputs = {"targets": arrays[-1], "encoded": found["encoded"], "mask": found["mask"]}
            return {"logits": self.generator.write(inputs, training=False)}

    def prefill(self, *arrays: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the cache before the first id, as a flat dict."""
        with self._scope() as values, keras.StatelessScope(values):
            found = self._read(arrays)
            steps = self.generator.steps[True]
            cache = steps.initial_cache(self.max_length, found["encoded"], found["mask"])
        self.cache = keras.tree.map_structure(lambda part: 0, cache)
        return {f"{CACHE}{i}": part for i, part in enumerate(keras.tree.flatten(cache))}

    def step(self, last: tf.Tensor, index: tf.Tensor, *cache: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the logits of a position, the best id, and what changes in the cache.

        Args:
            last: int32 `(batch,)`, the ids before; not used at position 0.
            index: int32 scalar, the position.
            cache: the parts of the cache.
        """
        ids = tf.zeros((tf.shape(last)[0], self.max_length), "int32")
        nested = keras.tree.pack_sequence_as(self.cache, list(cache))
        with self._scope() as values, keras.StatelessScope(values):
            logits, after = self.generator.steps[True].step(ids, last, nested, index)
        logits = tf.cast(logits, "float32")
        # Padding is never written. Not with the argmax of Keras, which looks at single bits.
        allowed = tf.where(tf.range(logits.shape[-1]) == PADDING, logits.dtype.min, logits)
        best = tf.argmax(allowed, axis=-1, output_type="int32")
        parts = enumerate(zip(keras.tree.flatten(after), cache))
        # Keys of the source stay as they are: the caller keeps them.
        changed = {f"next_{CACHE}{i}": new for i, (new, old) in parts if new is not old}
        return {"logits": logits, "id": best, **changed}

    def _read(self, arrays):
        parts = self.task.has_parts
        return self.generator.read_inputs(dict(zip(self.nets, arrays)) if parts else arrays[0])

    @contextlib.contextmanager
    def _scope(self) -> Iterator[list]:
        """Yields pairs of a variable of the model and its value here."""
        with traced_for(self.runtime), forward_only():
            own = [tf.convert_to_tensor(weight) for weight in self.module.weights]
            yield list(zip(self.generator.variables, own))


def served_names(task: Any) -> dict[str, str]:
    """Returns the keys of the arrays of a task, each with the name that exports give it.

    These are the keys, or `input_0`, `input_1` and so on if TensorFlow takes one of the keys for no
    name of an argument.

    Args:
        task: the task.
    """
    keys = [key for key in task.input_names if key != "targets"]
    usable = all(
        _NAME.fullmatch(key) and not keyword.iskeyword(key) and key != "self" for key in keys
    )
    return {key: key if usable else f"input_{i}" for i, key in enumerate(keys)}


def graph_of(function: Callable, specs: list[tf.TensorSpec]) -> Any:
    """Returns a `tf.function` of one signature."""
    return tf.function(function, autograph=False, input_signature=specs)


def portable_graphs(
    generator: TaskGenerator, max_length: int, rows: int | None = None, length: int | None = None
) -> tuple[Any, dict[str, Any]]:
    """Returns the module that holds the weights, and the functions of a task for other runtimes.

    These are `serve` for a class or numbers; `prefill` and `step` for a sequence.

    Args:
        generator: what generates for the task.
        max_length: the most ids to write.
        rows: number of rows, None for any.
        length: positions of inputs of variable length, None for any.
    """
    programs = TaskPrograms(generator, max_length, "other")
    specs = programs.specs(rows, length)
    if not programs.task.autoregressive:
        graphs = {"serve": graph_of(programs.classify, specs)}
    else:
        prefill = graph_of(programs.prefill, specs)
        cache = prefill.get_concrete_function().structured_outputs
        step_specs = [
            tf.TensorSpec((rows,), "int32", name="last"),
            tf.TensorSpec((), "int32", name="index"),
            *(tf.TensorSpec(part.shape, part.dtype, name=key) for key, part in cache.items()),
        ]
        graphs = {"prefill": prefill, "step": graph_of(programs.step, step_specs)}
    for name, graph in graphs.items():
        setattr(programs.module, name, graph)
    return programs.module, graphs
