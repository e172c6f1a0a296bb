"""The part of a model that all its tasks share."""

import keras

from keras_multimodel.layers.attention_block import AttentionBlock
from keras_multimodel.layers.conv_block import ConvBlock
from keras_multimodel.layers.moe.moe_layer import MoELayer
from keras_multimodel.layers.timing_signal import TimingSignal
from keras_multimodel.models.command_token import CommandToken
from keras_multimodel.models.decoder import Decoder
from keras_multimodel.models.encoder import Encoder
from keras_multimodel.models.mixer import Mixer
from keras_multimodel.models.templates import check_template, clone


class Body:
    """Encoder, mixer, decoder and command tokens, their blocks cloned from templates.

    Args:
        hidden_dim: width.
        writers: names of the tasks whose targets the decoder writes; each gets a command token.
        conv_block: template, None, or `"default"`.
        attention_block: template, None, or `"default"`.
        moe: template, None, or `"default"`.
        num_encoder_blocks: convolution blocks of the encoder.
        num_mixer_blocks: convolution blocks of the mixer.
        num_decoder_blocks: blocks of convolution and attention of the decoder.

    Raises:
        ValueError: a template does not fit; see `check_template`. A number of blocks is negative.
    """

    def __init__(
        self,
        hidden_dim: int,
        writers: list[str],
        conv_block,
        attention_block,
        moe,
        num_encoder_blocks: int,
        num_mixer_blocks: int,
        num_decoder_blocks: int,
    ):
        templates = {
            "conv_block": ConvBlock(hidden_dim) if conv_block == "default" else conv_block,
            "attention_block": (
                AttentionBlock(hidden_dim) if attention_block == "default" else attention_block
            ),
            "moe": MoELayer(hidden_dim, num_experts=60) if moe == "default" else moe,
        }
        sizes = {
            "num_encoder_blocks": num_encoder_blocks,
            "num_mixer_blocks": num_mixer_blocks,
            "num_decoder_blocks": num_decoder_blocks,
        }
        for name, size in sizes.items():
            if not isinstance(size, int) or size < 0:
                raise ValueError(f"`{name}` must not be negative. Received: {name}={size}")
        for name, template in templates.items():
            check_template(name, template, hidden_dim, causal=bool(writers))
        self.hidden_dim = hidden_dim
        self.config = {
            "hidden_dim": hidden_dim,
            **{name: keras.saving.serialize_keras_object(t) for name, t in templates.items()},
            **sizes,
        }
        conv, attention, moe = templates.values()
        self.encoder = Encoder(
            _clones(conv, "conv_block", num_encoder_blocks),
            experts=_clone(moe, "experts"),
            timing=TimingSignal(name="timing"),
            name="encoder",
        )
        self.mixer = self.decoder = None
        if writers:
            self.mixer = Mixer(
                _clone(attention, "attention_block", causal=True),
                _clones(conv, "conv_block", num_mixer_blocks, causal=True),
                name="mixer",
            )
            pairs = zip(
                _clones(conv, "conv_block", num_decoder_blocks, causal=True, gaps=True),
                _clones(attention, "attention_block", num_decoder_blocks, causal=True, gaps=True),
            )
            self.decoder = Decoder(
                [[layer for layer in pair if layer is not None] for pair in pairs],
                experts=_clone(moe, "experts", causal=True),
                name="decoder",
            )
        self.commands = {name: CommandToken(name=f"{name}_command") for name in writers}


def _clone(template, name, causal=False):
    return None if template is None else clone(template, name, causal)


def _clones(template, name, count, causal=False, gaps=False):
    """Returns `count` clones; of no template none, or with `gaps` `count` times None."""
    if template is None:
        return [None] * count if gaps else []
    return [clone(template, f"{name}_{i}", causal) for i in range(count)]
