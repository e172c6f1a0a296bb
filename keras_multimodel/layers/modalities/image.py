"""Images in: the entry flow of Xception."""

import keras
from keras import ops

from keras_multimodel.layers.layer_norm import LayerNorm
from keras_multimodel.layers.modalities.modality_net import ModalityNet
from keras_multimodel.layers.modalities.xception import ConvRes


@keras.saving.register_keras_serializable(package="keras_multimodel")
class ImageModality(ModalityNet):
    """Turns images into a grid of representations with the entry flow of Xception.

    Every image is standardised by its own mean and deviation, so its pixels may be bytes or
    floats of any range. A 3x3 convolution of stride 2 to 32 channels and one of stride 1 to 64
    follow, then `num_blocks` residual blocks of stride 2 with 128, 256, ... and at last
    `hidden_dim` channels (none has more than `hidden_dim`).

    All positions are real: images of different sizes belong in different batches.

    Args:
        hidden_dim: width of the body's representation.
        image_shape: height, width and channels; None for a variable height or width.
        num_blocks: number of residual blocks. Height and width shrink `2 ** (num_blocks + 1)`
            times: three blocks suit photographs, one or two suit thumbnails.
        preprocessor: turns a raw example into an image; see `ModalityNet`.

    Call arguments:
        inputs: `(batch, height, width, channels)`, integers or floats.

    Returns:
        `(batch, h, w, hidden_dim)`, `h` and `w` rounded up.

    Raises:
        ValueError: an argument is out of range, or `inputs` are no images of `image_shape`.

    Example:

    >>> ImageModality(128, image_shape=(28, 28, 1), num_blocks=1)(digits).shape
    (64, 7, 7, 128)

    Reference:
        Kaiser et al. 2017, arXiv 1706.05137, section 2.5.2; Chollet 2016, arXiv 1610.02357.
    """

    def __init__(
        self,
        hidden_dim: int,
        image_shape=(None, None, 3),
        num_blocks: int = 3,
        preprocessor=None,
        **kwargs,
    ):
        super().__init__(hidden_dim, preprocessor=preprocessor, **kwargs)
        image_shape = tuple(image_shape)
        if len(image_shape) != 3 or not image_shape[2]:
            raise ValueError(
                "`image_shape` must be (height, width, channels) with a number of channels. "
                f"Received: image_shape={image_shape}"
            )
        if not isinstance(num_blocks, int) or num_blocks < 1:
            raise ValueError(
                f"`num_blocks` must be a positive integer. Received: num_blocks={num_blocks}"
            )
        self.image_shape = image_shape
        self.num_blocks = num_blocks
        self.example_shape = image_shape
        # Pixels are standardised before they are rounded to the compute dtype.
        self.autocast = False

    def build(self, input_shape):
        self.conv_0 = self._make_conv(32, 2, "conv_0")
        self.norm_0 = self._make_norm("norm_0")
        self.conv_1 = self._make_conv(64, 1, "conv_1")
        self.norm_1 = self._make_norm("norm_1")
        self.blocks = [
            ConvRes(filters, relu_on_shortcut=i == 0, dtype=self.dtype_policy, name=f"block_{i}")
            for i, filters in enumerate(self._widths())
        ]
        self.conv_0.build((None, *self.image_shape))
        self.norm_0.build((None, None, None, 32))
        self.conv_1.build((None, None, None, 32))
        self.norm_1.build((None, None, None, 64))
        for block, width in zip(self.blocks, [64, *self._widths()]):
            block.build((None, None, None, width))

    def encode(self, inputs, mask=None):
        self._check_inputs(inputs)
        x = ops.cast(_standardise(ops.cast(inputs, "float32")), self.compute_dtype)
        x = self.norm_0(self.conv_0(x))
        x = self.norm_1(self.conv_1(ops.relu(x)))
        for block in self.blocks:
            x = block(x)
        return x

    def compute_output_spec(self, inputs, mask=None, reverse=False, like=None):
        if reverse:
            return self.decode(inputs, mask=mask, like=like)
        self._check_inputs(inputs)
        stride = 2 ** (self.num_blocks + 1)
        sizes = [None if size is None else -(-size // stride) for size in inputs.shape[1:3]]
        shape = (inputs.shape[0], *sizes, self.hidden_dim)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "image_shape": self.image_shape,
            "num_blocks": self.num_blocks,
        }

    def _widths(self):
        widths = [min(128 * 2**i, self.hidden_dim) for i in range(self.num_blocks - 1)]
        return [*widths, self.hidden_dim]

    def _check_inputs(self, inputs):
        expected = (None, *self.image_shape)
        fits = len(inputs.shape) == 4 and all(
            want is None or size is None or want == size
            for want, size in zip(expected, inputs.shape)
        )
        is_number = keras.backend.is_int_dtype(inputs.dtype) or keras.backend.is_float_dtype(
            inputs.dtype
        )
        if not fits or not is_number:
            raise ValueError(
                f"`inputs` must be images of the shape {expected}, integers or floats. "
                f"Received: inputs.shape={tuple(inputs.shape)}, inputs.dtype={inputs.dtype}"
            )

    def _make_conv(self, filters, stride, name):
        return keras.layers.Conv2D(
            filters,
            (3, 3),
            strides=(stride, stride),
            padding="same",
            data_format="channels_last",
            use_bias=False,
            dtype=self.dtype_policy,
            name=name,
        )

    def _make_norm(self, name):
        return LayerNorm(dtype=self.dtype_policy, name=name)


def _standardise(images):
    """Gives each image mean 0 and deviation 1; a constant one becomes zero."""
    axes = (1, 2, 3)
    images = images - ops.mean(images, axis=axes, keepdims=True)
    deviation = ops.sqrt(ops.mean(ops.square(images), axis=axes, keepdims=True))
    size = ops.sum(ops.ones_like(images[:1]))
    return images / ops.maximum(deviation, ops.rsqrt(size))
