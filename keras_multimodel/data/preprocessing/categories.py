"""Classes and their names."""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_multimodel.data.encoding.bad_examples import require
from keras_multimodel.data.preprocessing.preprocessor import Preprocessor
from keras_multimodel.typing import Tensor


@keras.saving.register_keras_serializable(package="keras_multimodel")
class CategoryPreprocessor(Preprocessor):
    """Turns a class, given by number or by name, into an int32 number, and back into its name.

    Args:
        names: the names of the classes, in the order of their numbers.

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

    def __init__(self, names: Iterable[str]):
        # Numbers may be names, as in `range(10)`. A string is one name, and not its letters.
        names = [names] if isinstance(names, str) else [str(name) for name in names]
        if not names or len(set(names)) < len(names):
            expected = "`names` must hold at least one name, and none twice"
            raise ValueError(f"{expected}. Received: names={names}")
        self.names = names

    def __call__(self, raw: Any) -> tf.Tensor:
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

    def get_config(self) -> dict:
        return {"names": self.names}


def _plain(raw):
    value = raw.numpy()
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else int(value)
