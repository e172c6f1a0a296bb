"""The base of all preprocessors."""

import json
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_multimodel.data.preprocessing.graph_forms import GraphForm
from keras_multimodel.typing import Nested, Tensor


class Preprocessor:
    """Turns one raw example into the array that a modality net reads, and a prediction back.

    A preprocessor works on one example, eagerly and inside `tf.data`. A modality net holds it, so
    that it is saved with the model, vocabulary included. A subclass implements `__call__`,
    `get_config` and, if predictions have a raw form, `decode`. To be saved it must be registered
    with `keras.saving.register_keras_serializable`. Two preprocessors of one class are equal if
    their configs are.

    Call arguments:
        raw: one raw example: a string, bytes, an array, a number, or a tensor of these.

    Returns:
        A tensor.

    Example:

    ```python
    import tensorflow as tf

    @keras.saving.register_keras_serializable(package="my_package")
    class Halve(kmm.data.Preprocessor):
        def __call__(self, raw):
            return tf.cast(raw, "float32") / 2

    dataset = tf.data.Dataset.range(4).map(Halve())
    ```
    """

    # The argument that lists what has ids, if there is one.
    vocabulary_argument: str | None = None

    def __call__(self, raw: Any) -> Tensor:
        raise NotImplementedError(f"`{type(self).__name__}` must implement `__call__`.")

    def strict(self, raw: Any) -> Tensor:
        """Prepares a raw example, and refuses one from which nothing can be learned.

        `kmm.data.encode` uses it. Override it where `__call__` accepts such examples: audio
        preprocessors, for one, refuse silence here only.

        Args:
            raw: as for a call.

        Returns:
            A tensor.
        """
        return self(raw)

    def unlimited(self) -> "Preprocessor":
        """Returns this preprocessor without its `max_length`, if it has one."""
        if getattr(self, "max_length", None) is None:
            return self
        return type(self).from_config({**self.get_config(), "max_length": None})

    def extended(self, new: Iterable[str]) -> "Preprocessor":
        """Returns a preprocessor that knows more classes or words, whose ids come last.

        Args:
            new: the names of classes, words, or symbols.

        Returns:
            A new preprocessor. What this one knows keeps its ids.

        Raises:
            ValueError: there is no list of names to extend, or it has a new one already.
        """
        name, config = self.vocabulary_argument, self.get_config()
        if name is None:
            expected = "`new` must be for a preprocessor with a vocabulary"
            raise ValueError(f"{expected}. Received: {type(self).__name__}")
        new = [new] if isinstance(new, str) else list(new)
        return type(self).from_config({**config, name: [*config[name], *new]})

    def decode(self, prediction: Tensor, inputs: Any = None) -> Any:
        """Turns a prediction into its raw form.

        Args:
            prediction: what the model predicts for one example: a class or a sequence of ids.
            inputs: the raw inputs of the example, for the forms that need them.

        Returns:
            A raw target: a string or a label.

        Raises:
            ValueError: predictions of this kind have no raw form.
        """
        raise ValueError(
            f"`{type(self).__name__}` prepares inputs only: it has no raw form of a prediction. "
            f"Received: prediction={prediction!r}"
        )

    def pieces(self, ids: Tensor) -> list[str]:
        """Returns what each id stands for, for figures: here, its number.

        Args:
            ids: integers `(length,)`.
        """
        return [str(int(i)) for i in np.asarray(ids)]

    def graph_form(self) -> GraphForm | None:
        """Returns what an exported model computes in place of this preprocessor, or None.

        Without one it reads and writes arrays; see `MultiModel.export_task`.
        """
        return None

    def get_config(self) -> dict:
        """Returns the constructor's arguments in a form that JSON can hold."""
        return {}

    @classmethod
    def from_config(cls, config: dict) -> "Preprocessor":
        """Makes a preprocessor from the result of `get_config`."""
        return cls(**config)

    def __eq__(self, other):
        return type(self) is type(other) and self.get_config() == other.get_config()

    def __hash__(self):
        # As JSON, for a config may hold lists, which have no hash.
        return hash((type(self), json.dumps(self.get_config(), sort_keys=True)))

    def __reduce__(self):
        # Not every tokenizer pickles: it is made again from the config.
        return self.from_config, (self.get_config(),)

    def __repr__(self):
        config = keras.tree.map_structure(_short, self.get_config())
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in config.items())})"


def in_python(
    function: Callable, tensors: list[tf.Tensor], spec: tf.TensorSpec | tuple[tf.TensorSpec, ...]
) -> Nested:
    """Calls a Python function of NumPy values, eagerly or as an operation of a graph.

    Eagerly its errors come as they are; `tf.numpy_function` wraps them in a `tf.errors.OpError`.

    Args:
        function: takes an array, a number, or bytes for each tensor, and depends on nothing else.
        tensors: its arguments.
        spec: dtype and shape of its result, or of each of its results.
    """
    if tf.executing_eagerly():
        results = function(*(tensor.numpy() for tensor in tensors))
    else:
        dtypes = tf.nest.map_structure(lambda part: part.dtype, spec)
        results = tf.numpy_function(function, tensors, dtypes, stateful=False)

    def as_promised(part, result):
        return tf.ensure_shape(tf.convert_to_tensor(result, part.dtype), part.shape)

    # The structures differ where `spec` is a tuple: `numpy_function` returns a list.
    return tf.nest.map_structure(as_promised, spec, results, check_types=False)


def _short(value):
    return f"{value[:20]}..." if isinstance(value, str) and len(value) > 40 else value
