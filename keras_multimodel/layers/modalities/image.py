"""Images in: the entry flow of Xception."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_multimodel.argument_checks import optional_positive_int, positive_int
from keras_multimodel.layers.layer_norm import LayerNorm
from keras_multimodel.layers.modalities.convolution import Conv2D
from keras_multimodel.layers.modalities.modality_net import MOST_HALVINGS, ModalityNet
from keras_multimodel.layers.modalities.xception import ConvRes, grid
from keras_multimodel.layers.sublayers import attributes
from keras_multimodel.typing import Shape, Tensor


@keras.saving.register_keras_serializable(package="keras_multimodel")
class ImageModality(ModalityNet):
    """Turns images into a grid of representations with the entry flow of Xception.

    Every image is standardized by its own mean and deviation, so its pixels may be bytes or
    floats of any range. A 3x3 convolution of stride 2 to 32 channels and one of stride 1 to 64
    follow, then `num_blocks` residual blocks of stride 2 with 128, 256, ... and finally
    `hidden_dim` channels (none has more than `hidden_dim`).

    Images have no padding: those of different sizes belong in different batches.

    Args:
        hidden_dim: width of the body's representation.
        image_shape: height, width and channels; None for a variable height or width.
        num_blocks: number of residual blocks. Height and width shrink `2 ** (num_blocks + 1)`
            times: three blocks suit photographs, one or two suit thumbnails.
        preprocessor: turns a raw example into an image; see `ModalityNet`.
        **kwargs: name, dtype and other arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: `(batch, height, width, channels)`, integers or floats.

    Returns:
        `(batch, h, w, hidden_dim)`, `h` and `w` rounded up.

    Raises:
        ValueError: an argument is out of range, or `inputs` are no images of `image_shape`.

    Example:

    >>> net = kmm.layers.ImageModality(16, image_shape=(28, 28, 1), num_blocks=1)
    >>> net(np.zeros((2, 28, 28, 1), "uint8")).shape
    (2, 7, 7, 16)

    Reference:
        Kaiser et al. 2017, arXiv 1706.05137, section 2.5.2; Chollet 2016, arXiv 1610.02357.
    """

    def __init__(
        self,
        hidden_dim: int,
        image_shape: Sequence[int | None] = (None, None, 3),
        num_blocks: int = 3,
        preprocessor: Any = None,
        **kwargs,
    ):
        super().__init__(hidden_dim, preprocessor=preprocessor, **kwargs)
        image_shape = tuple(image_shape)
        if len(image_shape) != 3 or not image_shape[2]:
            raise ValueError(
                "`image_shape` must be (height, width, channels) with a number of channels. "
                f"Received: image_shape={image_shape}"
            )
        self.image_shape = tuple(optional_positive_int("image_shape", n) for n in image_shape)
        self.num_blocks = positive_int("num_blocks", num_blocks, maximum=MOST_HALVINGS)
        self.example_shape = self.image_shape
        # Without Keras' cast of inputs: pixels are standardized before they are rounded to the
        # compute dtype, in which 255 levels may not be distinct.
        self.autocast = False

    def build(self, input_shape: Shape):
        images = (None, *self.image_shape)
        self.conv_0 = self.make(Conv2D, images, 32, 3, 2, name="conv_0")
        self.norm_0 = self.make(LayerNorm, grid(32), name="norm_0")
        self.conv_1 = self.make(Conv2D, grid(32), 64, 3, name="conv_1")
        self.norm_1 = self.make(LayerNorm, grid(64), name="norm_1")
        widths = self._widths()
        self.blocks = [
            # As in the authors' code, where only the first block's shortcut starts with a ReLU.
            ConvRes(filters, relu_on_shortcut=i == 0, dtype=self.dtype_policy, name=f"block_{i}")
            for i, filters in enumerate(widths)
        ]
        for block, width in zip(self.blocks, [64, *widths]):
            block.build(grid(width))

    def encode(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        self.check_examples(inputs, "images")
        x = ops.cast(_standardize(ops.cast(inputs, "float32")), self.compute_dtype)
        x = self.norm_0(self.conv_0(x))
        x = self.norm_1(self.conv_1(ops.relu(x)))
        for block in self.blocks:
            x = block(x)
        return x

    def encoded_shape(self, inputs: Tensor) -> Shape:
        self.check_examples(inputs, "images")
        stride = 2 ** (self.num_blocks + 1)
        sizes = [None if size is None else -(-size // stride) for size in inputs.shape[1:3]]
        return (inputs.shape[0], *sizes, self.hidden_dim)

    def get_config(self):
        return {**super().get_config(), **attributes(self, "image_shape", "num_blocks")}

    def _widths(self):
        widths = [min(128 * 2**i, self.hidden_dim) for i in range(self.num_blocks - 1)]
        return [*widths, self.hidden_dim]


def _standardize(images):
    """Gives each image mean 0 and deviation 1; a constant one becomes zero."""
    axes = (1, 2, 3)
    images = images - ops.mean(images, axis=axes, keepdims=True)
    deviation = ops.sqrt(ops.mean(ops.square(images), axis=axes, keepdims=True))
    # As TensorFlow's `per_image_standardization`: a nearly constant image is not blown up.
    size = ops.sum(ops.ones_like(images[:1]))
    return images / ops.maximum(deviation, ops.rsqrt(size))
