"""Preprocessors as graphs of TensorFlow, for models that are exported.

A preprocessor may run Python: SentencePiece, Pillow, soundfile. A process that serves an exported
model has no Python of ours, so each preprocessor says here what stands in its place, if anything.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_multimodel.generation.constraints import TreeConstraint
from keras_multimodel.typing import Nested

_PADDING_ID, _END_ID = 0, 1
# What Python's `str.split` takes for white space.
_SPACES = (
    r"[\t-\r\x1c-\x20\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}"
    r"\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]+"
)
_PNG, _JPEG = b"\x89PNG", b"\xff\xd8\xff"
_PNG_DEPTH, _PNG_COLORS = 24, 25  # bytes of the header
_PNG_WITH_OPACITY = (4, 6)


class GraphForm(tf.Module):
    """What an exported model computes in place of a preprocessor, with TensorFlow alone.

    `Preprocessor.graph_form` returns one. A subclass implements `read`, for what tasks read, and
    `write`, for what they write.

    Attributes:
        raw_spec: dtype and shape of one raw example; None where there is no `read`.
        packages: packages that a process imports before it loads the exported model.

    Example:

    ```python
    import tensorflow as tf

    class Halved(kmm.data.GraphForm):
        raw_spec = tf.TensorSpec((4,), "float32")

        def read(self, raw):
            return raw / 2
    ```
    """

    raw_spec: tf.TensorSpec | None = None
    packages: tuple[str, ...] = ()

    def read(self, raw: tf.Tensor) -> tf.Tensor:
        """Maps raw examples `(batch, *raw_spec.shape)` to the array of a net, padded with zeros."""
        raise NotImplementedError(f"`{type(self).__name__}` must implement `read`.")

    def write(self, predictions: tf.Tensor, raw: Nested) -> tf.Tensor:
        """Maps predictions, `(batch,)` or ids `(batch, length)`, to their raw form.

        Args:
            predictions: what `ModalityNet.prediction` returns, or the ids of sequences, padded.
            raw: the raw inputs, or arrays, as the exported model takes them; of a row with parts a
                dict of these.
        """
        return predictions

    def constraint_state(self, raw: Nested) -> Nested | None:
        """Returns the state of the preprocessor's constraint for raw inputs, or None without.

        Args:
            raw: as for `write`.
        """
        return None


class MappedForm(GraphForm):
    """Calls a preprocessor whose call is operations of TensorFlow, on each example.

    Args:
        function: the preprocessor, or another function of one example.
        raw_spec: dtype and shape of a raw example.
        shape: the shape of an array, None for an axis of variable size, the first one.
        dtype: its dtype.
        packages: see `GraphForm`.
        write: function of predictions; None to leave them.
    """

    def __init__(
        self,
        function: Callable,
        raw_spec: tf.TensorSpec,
        shape: tuple,
        dtype: str = "float32",
        packages: tuple[str, ...] = (),
        write: Callable | None = None,
    ):
        super().__init__()
        self.raw_spec = raw_spec
        self.packages = packages
        self._function, self._write = function, write
        self._spec = tf.TensorSpec(shape, dtype)
        if None in shape:
            self._spec = tf.RaggedTensorSpec(shape, dtype, ragged_rank=0)

    def read(self, raw: tf.Tensor) -> tf.Tensor:
        arrays = tf.map_fn(self._function, raw, fn_output_signature=self._spec)
        return arrays.to_tensor() if isinstance(arrays, tf.RaggedTensor) else arrays

    def write(self, predictions: tf.Tensor, raw: Nested) -> tf.Tensor:
        return predictions if self._write is None else self._write(predictions)


class SentencePieceForm(GraphForm):
    """Texts to ids and back, with the operations of tensorflow-text.

    Args:
        proto: the SentencePiece model.
        max_length: the most ids of a text, its end included, or None.
    """

    raw_spec = tf.TensorSpec((), tf.string)
    packages = ("tensorflow_text",)

    def __init__(self, proto: bytes, max_length: int | None):
        import tensorflow_text

        super().__init__()
        self.tokenizer = tensorflow_text.SentencepieceTokenizer(proto, out_type=tf.int32)
        self.max_length = max_length

    def read(self, raw: tf.Tensor) -> tf.Tensor:
        ids: Any = self.tokenizer.tokenize(raw)
        if self.max_length is not None:
            ids = ids[:, : self.max_length - 1]
        ends = tf.fill([tf.shape(raw)[0], 1], _END_ID)
        return tf.concat([ids, ends], axis=1).to_tensor()

    def write(self, predictions: tf.Tensor, raw: Nested) -> tf.Tensor:
        kept = tf.ragged.boolean_mask(predictions, _before_end(predictions))
        return self.tokenizer.detokenize(kept)


class TreeForm(GraphForm):
    """Ids to trees over the words of a sentence, as the constraint of trees has them written.

    Args:
        symbols: the symbols of the preprocessor.
        constraint: its constraint.
    """

    def __init__(self, symbols: list[str], constraint: TreeConstraint):
        super().__init__()
        self._constraint = constraint
        texts = {"(": " {}", ")": ")"}
        pieces = [texts.get(symbol[:1], " ({} ").format(symbol) for symbol in symbols]
        self._pieces = ["", "", "", *pieces]
        tags = [not symbol.startswith(("(", ")")) for symbol in symbols]
        self._is_tag = [False, False, False, *tags]

    def write(self, predictions: tf.Tensor, raw: Nested) -> tf.Tensor:
        text = _only_text(raw)
        if text is None:
            return predictions
        # As `delinearize`: a word follows its tag, and closes it.
        leaf = tf.strings.regex_replace(words_of(text).to_tensor(""), r"\(", "-LRB-")
        leaf = tf.strings.regex_replace(leaf, r"\)", "-RRB-")
        leaf = tf.strings.regex_replace(leaf, r"\\$", r"\\ ") + ")"
        is_tag = tf.gather(tf.constant(self._is_tag), predictions) & _before_end(predictions)
        number = tf.maximum(tf.cumsum(tf.cast(is_tag, tf.int32), axis=1) - 1, 0)
        number = tf.minimum(number, tf.shape(leaf)[1] - 1)
        leaf = tf.where(is_tag, tf.gather(leaf, number, batch_dims=1), "")
        pieces = tf.gather(tf.constant(self._pieces), predictions)
        return tf.strings.strip(tf.strings.reduce_join(pieces + leaf, axis=1))

    def constraint_state(self, raw: Nested) -> Nested | None:
        text = _only_text(raw)
        if text is None:
            return None
        return self._constraint.state_of(tf.cast(words_of(text).row_lengths(), tf.int32))


class ImageForm(MappedForm):
    """PNG and JPEG files as arrays.

    Args:
        preprocessor: function of an array of pixels.
        size: height and width of its result.
    """

    def __init__(self, preprocessor: Callable, size: tuple[int, int]):
        def read(content):
            return preprocessor(_decode_image(content))

        super().__init__(read, tf.TensorSpec((), tf.string), (*size, 3))


class AudioForm(MappedForm):
    """WAV files of 16 bits as arrays.

    Args:
        preprocessor: function of float32 samples.
        sampling_rate: samples in a second, which the files must have.
        shape: the shape of its result.
    """

    def __init__(self, preprocessor: Callable, sampling_rate: int, shape: tuple):
        def read(content):
            samples, rate = tf.audio.decode_wav(content)
            message = f"inputs must be WAV files of {sampling_rate} samples in a second"
            tf.debugging.assert_equal(rate, sampling_rate, message)
            return preprocessor(tf.reduce_mean(samples, axis=1))

        super().__init__(read, tf.TensorSpec((), tf.string), shape)


def words_of(raw: tf.Tensor) -> tf.RaggedTensor:
    """Returns the words of texts `(batch,)`, split where Python's `str.split` splits."""
    spaced = tf.strings.regex_replace(raw, _SPACES, " ")
    return tf.strings.split(tf.strings.strip(spaced), " ")


def _only_text(raw):
    """Returns the one part of raw inputs that is text or files, or None."""
    parts = raw.values() if isinstance(raw, dict) else [raw]
    texts = [part for part in parts if part is not None and part.dtype == tf.string]
    return texts[0] if len(texts) == 1 else None


def _before_end(ids):
    """Returns True at the ids before the first end that are no padding."""
    return (tf.cumsum(tf.cast(ids == _END_ID, tf.int32), axis=1) == 0) & (ids != _PADDING_ID)


def _decode_image(content):
    """Decodes a file to uint16 `(height, width, 4)`, as `image_files.decode_image` reads it."""
    known = [tf.equal(tf.strings.substr(content, 0, len(head)), head) for head in (_PNG, _JPEG)]
    message = "inputs must be PNG or JPEG files"
    # Else the decoder, which does not wait for it, may be first to fail, with an error of its own.
    with tf.control_dependencies([tf.debugging.Assert(known[0] | known[1], [message])]):
        content = tf.identity(content)
    # Of a file that ends before, `substr` writes the bytes in its error, which are no UTF-8.
    longer = tf.strings.join([content, tf.constant(bytes(_PNG_COLORS + 1))])
    head = tf.io.decode_raw(tf.strings.substr(longer, _PNG_DEPTH, 2), tf.uint8)
    with_opacity = [head[1] == colors for colors in _PNG_WITH_OPACITY]
    # The opacity of a palette stands before the pixels.
    before = tf.strings.split(content, "IDAT")[0]
    with_opacity.append(tf.size(tf.strings.split(before, "tRNS")) > 1)
    deep = (head[0] == 16) | tf.reduce_any(with_opacity)

    def eight_bits(decode):
        # All branches have one dtype and as many channels.
        pixels = tf.cast(decode(content, channels=3), tf.uint16) * 257
        return tf.pad(pixels, [[0, 0], [0, 0], [0, 1]], constant_values=65535)

    branches = [
        (~known[0], lambda: eight_bits(tf.io.decode_jpeg)),
        (deep, lambda: tf.io.decode_png(content, channels=4, dtype=tf.uint16)),
    ]
    pixels = tf.case(branches, default=lambda: eight_bits(tf.io.decode_png))
    return tf.ensure_shape(pixels, (None, None, 4))
