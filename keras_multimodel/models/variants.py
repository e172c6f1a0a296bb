"""Sizes of the model: numbers only."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Variant:
    """The numbers of one size of the model.

    Attributes:
        hidden_dim: width of the body.
        num_heads: heads of every attention.
        num_experts: experts in each of the two expert layers.
        top_k: experts that a position uses.
        intermediate_dim: hidden width of one expert.
        dropout: rate after every convolution block.
        num_encoder_blocks: convolution blocks of the encoder.
        num_mixer_blocks: convolution blocks of the mixer.
        num_decoder_blocks: blocks of convolution and attention of the decoder.
    """

    hidden_dim: int
    num_heads: int
    num_experts: int
    top_k: int
    intermediate_dim: int
    dropout: float
    num_encoder_blocks: int = 6
    num_mixer_blocks: int = 2
    num_decoder_blocks: int = 4


VARIANTS = {
    # Trains on eight small tasks within minutes on two CPU cores.
    "tiny": Variant(128, 8, 16, 4, 128, 0.0, 4, 1, 2),
    # For one GPU and some hundred thousand examples.
    "base": Variant(512, 8, 60, 4, 1024, 0.2),
    # The joint model of the paper: k = 4 of 240 experts in each of two layers. The width is that
    # of the authors' code.
    "paper": Variant(1536, 8, 240, 4, 1536, 0.4),
}
