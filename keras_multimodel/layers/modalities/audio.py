"""Audio in, as a waveform or as a spectrogram."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_multimodel.argument_checks import optional_positive_int, positive_int
from keras_multimodel.layers.adaptable import Dense, EinsumDense
from keras_multimodel.layers.layer_norm import LayerNorm
from keras_multimodel.layers.modalities.convolution import Conv2D
from keras_multimodel.layers.modalities.modality_net import MOST_HALVINGS, ModalityNet
from keras_multimodel.layers.modalities.xception import ConvRes
from keras_multimodel.layers.sublayers import attributes
from keras_multimodel.typing import Shape, Tensor


@keras.saving.register_keras_serializable(package="keras_multimodel")
class AudioModality(ModalityNet):
    """Turns audio into a sequence of representations with residual blocks that halve its length.

    A waveform (`num_bins=None`) has width 1 and 3x1 kernels. A spectrogram keeps its frequency
    axis through 3x3 kernels with strides in time only. The paper does not say what becomes of that
    axis: here a learned separable convolution over all of it, `(1, num_bins)` depthwise and then
    pointwise, merges it into the channels. A mean would lose the pitch.

    Zeros at the end (of a spectrogram: frames of zeros) are padding; their number does not change
    any real position.

    Args:
        hidden_dim: width of the body's representation.
        num_bins: number of frequencies of a spectrogram; None for waveforms.
        num_blocks: number of residual blocks. Length shrinks `2 ** num_blocks` times: the
            paper's eight suit waveforms, two or three suit a spectrogram.
        channels: width of each block, the last one `hidden_dim`. By default, as in the paper,
            2, 4, 8, ... and finally `hidden_dim`.
        stem_channels: width of a convolution and normalization ahead of the blocks, which the
            paper does not have. Without it the first block sees one channel, of which layer
            normalization keeps little more than the sign; 16 or 32 help small models.
        preprocessor: turns a raw example into audio; see `ModalityNet`.
        **kwargs: name, dtype and other arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: `(batch, samples)`, or `(batch, frames, num_bins)`.

    Returns:
        `(batch, ceil(length / 2 ** num_blocks), hidden_dim)`, zero at padded positions.

    Raises:
        ValueError: an argument is out of range, or `inputs` are not of the expected shape.

    Example:

    >>> kmm.layers.AudioModality(16, num_blocks=2)(np.ones((1, 40), "float32")).shape
    (1, 10, 16)
    >>> net = kmm.layers.AudioModality(16, num_bins=20, num_blocks=2, channels=(8, 16))
    >>> net(np.ones((1, 10, 20), "float32")).shape
    (1, 3, 16)

    Reference:
        Kaiser et al. 2017, arXiv 1706.05137, section 2.5.4.
    """

    def __init__(
        self,
        hidden_dim: int,
        num_bins: int | None = None,
        num_blocks: int = 8,
        channels: Sequence[int] | None = None,
        stem_channels: int | None = None,
        preprocessor: Any = None,
        **kwargs,
    ):
        super().__init__(hidden_dim, preprocessor=preprocessor, **kwargs)
        self.num_bins = optional_positive_int("num_bins", num_bins)
        self.num_blocks = positive_int("num_blocks", num_blocks, maximum=MOST_HALVINGS)
        self.channels = None if channels is None else list(channels)
        self.stem_channels = optional_positive_int("stem_channels", stem_channels)
        self._check_channels()
        self.example_shape = (None,) if num_bins is None else (None, self.num_bins)
        # Without Keras' cast of inputs: padding is found in the values as they came, and rounding
        # to the compute dtype would turn quiet samples into zeros.
        self.autocast = False

    def build(self, input_shape: Shape):
        # A waveform is an image of width 1, so that both kinds pass the same blocks.
        width = 3 if self.num_bins else 1
        shape = (None, None, self.num_bins or 1, 1)
        if self.stem_channels:
            kernel = (3, width)
            self.stem_conv = self.make(Conv2D, shape, self.stem_channels, kernel, name="stem_conv")
            shape = (*shape[:3], self.stem_channels)
            self.stem_norm = self.make(LayerNorm, shape, name="stem_norm")
        self.blocks = []
        for i, filters in enumerate(self._widths()):
            # As in the authors' code, where the last block's shortcut is linear.
            options = {"relu_on_shortcut": i < self.num_blocks - 1, "name": f"block_{i}"}
            self.blocks.append(self.make(ConvRes, shape, filters, (3, width), (2, 1), **options))
            shape = (*shape[:3], filters)
        if self.num_bins:
            self._build_merge()

    def encode(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        self.check_examples(inputs, "audio")
        real = self._real_steps(inputs)
        x = ops.cast(inputs, self.compute_dtype)
        x = x[:, :, None, None] if self.num_bins is None else x[..., None]
        x, real = self._pad(x), self._pad(real)
        if self.stem_channels:
            x = self.stem_norm(self.stem_conv(x))
        for block in self.blocks:
            x = block(x, mask=real)
            real = block.downsample(real)
        if self.num_bins is None:
            return x[:, :, 0]
        # The norm writes its offset into padding, where the blocks leave zeros for a waveform.
        x = self.merge_norm(self.merge_pointwise(self.merge_depthwise(ops.relu(x))))
        return ops.where(real[:, :, None], x, ops.zeros_like(x))

    def encoded_shape(self, inputs: Tensor) -> Shape:
        self.check_examples(inputs, "audio")
        batch, length = inputs.shape[:2]
        length = None if length is None else -(-length // 2**self.num_blocks)
        return batch, length, self.hidden_dim

    def padding_mask(self, inputs: Tensor) -> Tensor:
        self.check_examples(inputs, "audio")
        return self._real_steps(inputs)[:, :: 2**self.num_blocks]

    def get_config(self):
        own = attributes(self, "num_bins", "num_blocks", "channels", "stem_channels")
        return {**super().get_config(), **own}

    def _real_steps(self, inputs):
        """Returns a boolean `(batch, length)`, False from where only zeros follow."""
        sounds = inputs != 0
        if self.num_bins:
            sounds = ops.any(sounds, axis=-1)
        # Silence within a sound is real: only zeros that nothing follows are padding.
        following = ops.cumsum(ops.flip(ops.cast(sounds, "int32"), axis=1), axis=1)
        return ops.flip(following > 0, axis=1)

    def _pad(self, x):
        """Pads the length to a multiple of all strides, so that every halving is even.

        On an odd length the windows of a strided "same" convolution start one step earlier: more
        padding in a batch would then change real positions.
        """
        stride = 2**self.num_blocks
        # The length may be dynamic: pad by the most that can be missing, then cut.
        x = ops.concatenate([x, ops.repeat(ops.zeros_like(x[:, :1]), stride - 1, axis=1)], axis=1)
        return x[:, : ops.shape(x)[1] // stride * stride]

    def _widths(self):
        if self.channels is not None:
            return self.channels
        return [2 ** (i + 1) for i in range(self.num_blocks - 1)] + [self.hidden_dim]

    def _build_merge(self):
        width = self.hidden_dim
        shape, grid = (None, None, width), (None, None, self.num_bins, width)
        # One weight for each frequency and channel: `btfc,fc->btc` sums over the frequencies f.
        self.merge_depthwise = self.make(
            EinsumDense, grid, "btfc,fc->btc", (None, width), name="merge_depthwise"
        )
        self.merge_pointwise = self.make(
            Dense, shape, width, use_bias=False, name="merge_pointwise"
        )
        self.merge_norm = self.make(LayerNorm, shape, name="merge_norm")

    def _check_channels(self):
        widths = self._widths()
        positive = all(isinstance(width, int) and width > 0 for width in widths)
        if not positive or len(widths) != self.num_blocks or widths[-1] != self.hidden_dim:
            raise ValueError(
                f"`channels` must have num_blocks={self.num_blocks} positive integers, the last "
                f"one hidden_dim={self.hidden_dim}. Received: channels={self.channels}"
            )
