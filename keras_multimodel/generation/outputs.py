"""What generation returns."""

from typing import NamedTuple


class Hypothesis(NamedTuple):
    """One of the outputs that beam search found for an input.

    Attributes:
        output: the raw output.
        score: its log-probability over the length penalty.
        ended: whether it came to an end before `max_length`.
    """

    output: object
    score: float
    ended: bool


class Generation(list):
    """The raw outputs, one an input: a list that knows more about them.

    Args:
        outputs: the raw outputs.
        ended: per output, whether it came to an end; False where `max_length` cut it off.
        hypotheses: per input the outputs that beam search found, the best first; None of any other
            sampler.
    """

    def __init__(
        self, outputs, ended: list[bool], hypotheses: list[list[Hypothesis]] | None = None
    ):
        super().__init__(outputs)
        self.ended = ended
        self.hypotheses = hypotheses
