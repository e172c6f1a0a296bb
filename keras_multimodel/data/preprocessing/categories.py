"""Classes and labels, and their names."""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_multimodel.data.encoding.bad_examples import require
from keras_multimodel.data.preprocessing.graph_forms import MappedForm
from keras_multimodel.data.preprocessing.preprocessor import Preprocessor
from keras_multimodel.data.preprocessing.text_of import text_of
from keras_multimodel.typing import Tensor


@keras.saving.register_keras_serializable(package="keras_multimodel")
class CategoryPreprocessor(Preprocessor):
    """Turns a class, given by number or by name, into an int32 number, and back into its name.

    Args:
        names: the names of the classes, in the order of their numbers.
        numbers_are_names: whether a number or a bool is a name, as in a column of a table that
            holds 3, 5 and 7, or True and False. By default a number is that of a class.

    Call arguments:
        raw: the number of a class or its name.

    Returns:
        int32 scalar.

    Raises:
        ValueError: `names` is empty or has a name twice, or `raw` or a prediction is not a class.
            Inside `tf.data` a wrong class raises `tf.errors.InvalidArgumentError`.

    Example:

    ```python
    category = kmm.data.CategoryPreprocessor(["cat", "dog"])
    category("dog")  # 1
    category.decode(1)  # "dog"
    ```
    """

    vocabulary_argument = "names"

    def __init__(self, names: Iterable[str], numbers_are_names: bool = False):
        # Numbers may be names, as in `range(10)`. A string is one name, and not its letters.
        names = [names] if isinstance(names, str) else [str(name) for name in names]
        if not names or len(set(names)) < len(names):
            expected = "`names` must hold at least one name, and none twice"
            raise ValueError(f"{expected}. Received: names={names}")
        self.names = names
        self.numbers_are_names = bool(numbers_are_names)

    def __call__(self, raw: Any) -> tf.Tensor:
        if self.numbers_are_names:
            raw = _as_name(raw)
        if not tf.is_tensor(raw):
            raw = tf.convert_to_tensor(raw)
        if raw.shape.rank not in (0, None) or not (raw.dtype.is_integer or raw.dtype == tf.string):
            expected = "`raw` must be the number or the name of one class"
            raise ValueError(f"{expected}. Received: shape={raw.shape}, dtype={raw.dtype.name}")
        if raw.dtype == tf.string:
            matches = tf.cast(tf.equal(tf.constant(self.names), raw), tf.int32)
            # Of a name that is no class `argmax` is 0, the first class: `known` tells them apart.
            label = tf.argmax(matches, output_type=tf.int32)
            known = tf.reduce_any(matches > 0)
        else:
            label = tf.cast(raw, tf.int64)
            known = (label >= 0) & (label < len(self.names))
        expected = f"`raw` must be one of the {len(self.names)} classes."
        return require(
            tf.cast(label, tf.int32),
            known,
            "not a class",
            lambda: f"{expected} Received: raw={_plain(raw)!r}",
            (expected, "Received: raw=", raw),
        )

    def decode(self, prediction: Tensor, inputs: Any = None) -> str:
        """Returns the name of a class."""
        label = np.asarray(prediction)
        is_number = label.ndim == 0 and np.issubdtype(label.dtype, np.integer)
        if not is_number or not 0 <= label < len(self.names):
            expected = f"`prediction` must be a class from 0 to {len(self.names) - 1}"
            raise ValueError(f"{expected}. Received: prediction={prediction!r}")
        return self.names[int(label)]

    def graph_form(self) -> MappedForm:
        def write(labels):
            return tf.gather(tf.constant(self.names), labels)

        return MappedForm(self, tf.TensorSpec((), tf.string), (), "int32", write=write)

    def get_config(self) -> dict:
        # Left out where it is not used: the hashes of studies and presets hold configs.
        more = {"numbers_are_names": True} if self.numbers_are_names else {}
        return {"names": self.names, **more}


def _as_name(raw):
    """Returns the text of a number or bool; of a tensor in a graph, of integers and bools only."""
    if not tf.is_tensor(raw):
        return text_of(raw) if np.ndim(raw) == 0 else raw
    if raw.dtype == tf.bool:
        return tf.where(raw, "True", "False")
    return tf.strings.as_string(raw) if raw.dtype.is_integer else raw


def _plain(raw):
    value = raw.numpy()
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else int(value)


@keras.saving.register_keras_serializable(package="keras_multimodel")
class LabelsPreprocessor(Preprocessor):
    """Turns the labels that an example has into float32 ones and zeros, and back into names.

    Args:
        names: the names of all labels, in the order of their numbers.
        separator: stands between the labels in a text.

    Call arguments:
        raw: a list of names, or a text such as `"red|large"`, empty for none.

    Returns:
        float32 `(len(names),)`, 1 at the labels of the example.

    Raises:
        ValueError: `names` is empty or has a name twice, or `raw` has a name that is no label.
            Inside `tf.data` a wrong name raises `tf.errors.InvalidArgumentError`.

    Example:

    ```python
    labels = kmm.data.LabelsPreprocessor(["red", "large", "new"])
    labels("red|new")  # [1, 0, 1]
    labels.decode(np.array([0, 1, 1]))  # ["large", "new"]
    ```
    """

    def __init__(self, names: Iterable[str], separator: str = "|"):
        self.names = CategoryPreprocessor(names).names
        if not isinstance(separator, str) or not separator:
            expected = "`separator` must be a text that is not empty"
            raise ValueError(f"{expected}. Received: separator={separator!r}")
        self.separator = separator

    def __call__(self, raw: Any) -> tf.Tensor:
        given = tf.constant([], "string") if isinstance(raw, list | tuple) and not raw else raw
        given = tf.convert_to_tensor(given)
        if given.dtype != tf.string or given.shape.rank not in (0, 1):
            expected = "`raw` must be a text, or a list of the names of labels"
            received = f"shape={given.shape}, dtype={given.dtype.name}"
            raise ValueError(f"{expected}. Received: {received}")
        if given.shape.rank == 0:
            given = tf.strings.strip(tf.strings.split(given, self.separator))
            given = tf.boolean_mask(given, given != "")
        matches = tf.equal(given[:, None], tf.constant(self.names))
        expected = f"`raw` must have labels among {len(self.names)} names."
        return require(
            tf.cast(tf.reduce_any(matches, axis=0), tf.float32),
            tf.reduce_all(tf.reduce_any(matches, axis=1)),
            "not a label",
            lambda: f"{expected} Received: {[name.decode() for name in given.numpy().tolist()]}",
            (expected, "Received:", given),
        )

    def decode(self, prediction: Tensor, inputs: Any = None) -> list[str]:
        """Returns the names of the labels whose value is above 0.5."""
        values = np.asarray(prediction)
        if values.shape != (len(self.names),):
            expected = f"`prediction` must have {len(self.names)} numbers"
            raise ValueError(f"{expected}. Received: prediction={prediction!r}")
        return [name for name, value in zip(self.names, values) if value > 0.5]

    def graph_form(self) -> MappedForm:
        def write(values):
            names = tf.broadcast_to(tf.constant(self.names), tf.shape(values))
            kept = tf.ragged.boolean_mask(names, values > 0.5)
            return tf.strings.reduce_join(kept, axis=1, separator=self.separator)

        return MappedForm(self, tf.TensorSpec((), tf.string), (len(self.names),), write=write)

    def get_config(self) -> dict:
        return {"names": self.names, "separator": self.separator}
