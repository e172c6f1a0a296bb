"""The part of a model that all its tasks share."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_multimodel.argument_checks import positive_int
from keras_multimodel.layers.attention_block import AttentionBlock
from keras_multimodel.layers.conv_block import ConvBlock
from keras_multimodel.layers.moe.moe_layer import MoELayer
from keras_multimodel.layers.timing_signal import TimingSignal
from keras_multimodel.models.decoder import CommandToken, Decoder, PartEmbedding
from keras_multimodel.models.encoder import Encoder
from keras_multimodel.models.mixer import Mixer
from keras_multimodel.models.templates import check_template, clone

Template = keras.layers.Layer | str | None


class Body:
    """Encoder, mixer, decoder and command tokens, with blocks cloned from templates.

    Args:
        hidden_dim: width.
        writers: names of the tasks whose targets the decoder writes or from which they are read;
            each gets a command token.
        conv_block: template, None, or `"default"`.
        attention_block: template, None, or `"default"`.
        moe: template, None, or `"default"`.
        num_encoder_blocks: convolution blocks of the encoder.
        num_mixer_blocks: convolution blocks of the mixer.
        num_decoder_blocks: blocks of convolution and attention of the decoder.

    Raises:
        ValueError: a template does not fit, see `check_template`, or a number of blocks is
            negative.
    """

    def __init__(
        self,
        hidden_dim: int,
        writers: Sequence[str],
        conv_block: Template,
        attention_block: Template,
        moe: Template,
        num_encoder_blocks: int,
        num_mixer_blocks: int,
        num_decoder_blocks: int,
    ):
        # A word for the default: a layer as a default argument would be one object in all models.
        self.templates = {
            "conv_block": ConvBlock(hidden_dim) if conv_block == "default" else conv_block,
            "attention_block": (
                AttentionBlock(hidden_dim) if attention_block == "default" else attention_block
            ),
            "moe": MoELayer(hidden_dim, num_experts=60) if moe == "default" else moe,
        }
        self.sizes = {
            "num_encoder_blocks": positive_int("num_encoder_blocks", num_encoder_blocks, 0),
            "num_mixer_blocks": positive_int("num_mixer_blocks", num_mixer_blocks, 0),
            "num_decoder_blocks": positive_int("num_decoder_blocks", num_decoder_blocks, 0),
        }
        self.hidden_dim = hidden_dim
        self._check_templates(causal=bool(writers))
        self.encoder = Encoder(
            self._clones("conv_block", num_encoder_blocks),
            experts=self._clone("moe", "experts"),
            timing=TimingSignal(name="timing"),
            name="encoder",
        )
        self.mixer: Any = None
        self.decoder: Any = None
        self.commands: dict[str, CommandToken] = {}
        self.parts: dict[str, PartEmbedding] = {}
        self._add_writers(writers)

    def extended(self, writers: Sequence[str], parts: Sequence[str] = ()) -> "Body":
        """Returns this body, or one that shares its layers and has what new tasks need.

        Args:
            writers: names of the tasks whose targets the decoder writes.
            parts: names of the parts of rows.
        """
        if all(name in self.commands for name in writers) and set(parts) <= set(self.parts):
            return self
        # A copy, so that another model's body does not grow by the tasks of this one.
        body = copy.copy(self)
        body.commands = dict(self.commands)
        new = {name: PartEmbedding(name=_layer_name(name, "part")) for name in parts}
        body.parts = {**new, **self.parts}
        if self.decoder is None and writers:
            body._check_templates(causal=True)
        body._add_writers([name for name in writers if name not in self.commands])
        return body

    def copy(self, clone_layer: Callable) -> "Body":
        """Returns a body of copied layers.

        Args:
            clone_layer: function from a layer to its copy.
        """
        # The templates stay the same: they are only cloned from.
        body = copy.copy(self)
        body.encoder = clone_layer(self.encoder)
        if self.decoder is not None:
            body.mixer, body.decoder = clone_layer(self.mixer), clone_layer(self.decoder)
        body.commands = {name: clone_layer(layer) for name, layer in self.commands.items()}
        body.parts = {name: clone_layer(layer) for name, layer in self.parts.items()}
        return body

    def get_config(self) -> dict:
        """Returns the arguments of `MultiModel` that describe the body, templates serialized."""
        return {
            "hidden_dim": self.hidden_dim,
            **{k: keras.saving.serialize_keras_object(v) for k, v in self.templates.items()},
            **self.sizes,
        }

    def _check_templates(self, causal):
        for name, template in self.templates.items():
            check_template(name, template, self.hidden_dim, causal)

    def _add_writers(self, names):
        # Made for the first task that writes: a model of classes alone needs neither.
        if names and self.decoder is None:
            attention = self._clone("attention_block", "attention_block", causal=True)
            blocks = self._clones("conv_block", self.sizes["num_mixer_blocks"], causal=True)
            self.mixer = Mixer(attention, blocks, name="mixer")
            count = self.sizes["num_decoder_blocks"]
            columns = [
                self._clones(name, count, causal=True)
                for name in ("conv_block", "attention_block")
                if self.templates[name] is not None
            ]
            blocks = list(zip(*columns)) if columns else [()] * count
            experts = self._clone("moe", "experts", causal=True)
            self.decoder = Decoder(blocks, experts, name="decoder")
        new = {name: CommandToken(name=_layer_name(name, "command")) for name in names}
        self.commands.update(new)

    def _clone(self, template, name, causal=False):
        block = self.templates[template]
        return None if block is None else clone(block, name, causal)

    def _clones(self, template, count, causal=False):
        if self.templates[template] is None:
            return []
        return [self._clone(template, f"{template}_{i}", causal) for i in range(count)]


def _layer_name(name, kind):
    # Tasks and parts may have letters beyond ASCII, which TensorFlow refuses in names of layers.
    ascii_name = name.encode("ascii", "backslashreplace").decode().replace("\\", "-")
    return f"{ascii_name}_{kind}"
