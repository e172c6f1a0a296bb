"""Every layer that maps a sequence to a sequence of the same shape, for tests that hold for all.

All are called alike: `call(entry, layer, x, mask, source, source_mask)`.
"""

from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from keras_multimodel.layers import AttentionBlock, ConvBlock, FeedForward, MoELayer, TimingSignal
from keras_multimodel.layers.attention_block import Attention
from keras_multimodel.layers.blocks import call_block
from keras_multimodel.layers.conv_block import ConvStep
from keras_multimodel.layers.layer_norm import LayerNorm
from keras_multimodel.models.decoder import Decoder
from keras_multimodel.models.encoder import Encoder
from keras_multimodel.models.mixer import Mixer
from keras_multimodel.tensor2tensor.blocks import SliceNetTimingSignal
from tests.models.small_models import set_weights

WIDTH = 8


class Entry(NamedTuple):
    """How to make a layer, and whether its outputs look at no later input."""

    make: object
    causal: bool


def _experts(**arguments):
    return MoELayer(WIDTH, num_experts=4, top_k=2, **arguments)


def _conv(padding):
    return ConvBlock(WIDTH, (3, 5), (1, 2), padding=padding, dropout=0.0)


CATALOG = {
    "attention": Entry(lambda **k: Attention(WIDTH, 2, **k), False),
    "attention_block": Entry(lambda **k: AttentionBlock(WIDTH, 2, **k), True),
    "attention_block_same": Entry(lambda **k: AttentionBlock(WIDTH, 2, padding="same", **k), False),
    "conv_block": Entry(lambda **k: ConvBlock(WIDTH, dropout=0.0, **k), False),
    "conv_block_causal": Entry(
        lambda **k: ConvBlock(WIDTH, padding="causal", dropout=0.0, **k), True
    ),
    "conv_step": Entry(lambda **k: ConvStep(WIDTH, 4, 2, **k), False),
    "conv_step_causal": Entry(lambda **k: ConvStep(WIDTH, 4, 2, "causal", **k), True),
    "decoder": Entry(
        lambda **k: Decoder([[_conv("causal"), AttentionBlock(WIDTH, 2)]], _experts(), **k), True
    ),
    "encoder": Entry(
        lambda **k: Encoder([_conv("same"), _conv("same")], _experts(), TimingSignal(), **k), False
    ),
    "experts": Entry(lambda **k: _experts(**k), True),
    "feed_forward": Entry(lambda **k: FeedForward(WIDTH, 12, **k), True),
    "layer_norm": Entry(lambda **k: LayerNorm(**k), True),
    "mixer": Entry(lambda **k: Mixer(AttentionBlock(WIDTH, 2), [_conv("causal")], **k), True),
    "mixer_without_attention": Entry(lambda **k: Mixer(None, [_conv("causal")], **k), True),
    "slicenet_timing_signal": Entry(lambda **k: SliceNetTimingSignal(3, **k), True),
    "timing_signal": Entry(lambda **k: TimingSignal(**k), True),
}


def call(layer, x, mask, source, source_mask, training=False):
    """Calls a layer of the catalog with those of the arguments that it takes."""
    if isinstance(layer, Encoder):
        return layer([x], [mask], training=training)[0]
    if isinstance(layer, (Mixer, Decoder)):
        return layer([x], [source], [mask], [source_mask], training=training)[0]
    return call_block(layer, x, training, mask=mask, source=source, source_mask=source_mask)


def make(name: str, **arguments) -> keras.layers.Layer:
    """Returns the layer of that name, built, with weights that are the same everywhere."""
    layer = CATALOG[name].make(**arguments)
    call(layer, *sequences(2, 3, 3))
    return set_weights(layer)


def sequences(batch: int, length: int, source_length: int, seed: int = 0) -> tuple:
    """Returns random arguments of `call`, without any padding."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(batch, length, WIDTH)).astype("float32")
    source = rng.normal(size=(batch, source_length, WIDTH)).astype("float32")
    return x, np.ones((batch, length), "bool"), source, np.ones((batch, source_length), "bool")


def run(layer, *arguments, **named) -> np.ndarray:
    """Returns the output of `call` as a float32 array."""
    return ops.convert_to_numpy(ops.cast(call(layer, *arguments, **named), "float32"))
