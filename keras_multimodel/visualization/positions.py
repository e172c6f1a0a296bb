"""What positions stand for: pieces of text, patches of an image, times of a sound."""

from dataclasses import dataclass

import keras
import numpy as np

from keras_multimodel.layers.modalities.modality_net import ModalityNet

LONGEST_LABEL = 24


@dataclass(frozen=True)
class Positions:
    """The real positions of one part of an input, as the body sees them.

    Attributes:
        name: name of the part; `"inputs"` for a single one.
        labels: a label for each position: a piece of text, row and column of a patch, or a number.
        array: what the net reads of the part: ids, pixels, frames or samples.
        grid: rows and columns of the patches of an image; None for a sequence.
        stride: of sound and series the entries of `array` from one position to the next; None for
            what does not go on in time.
        seconds: time from one entry of `array` to the next; None where it is no sound.
    """

    name: str
    labels: list[str]
    array: np.ndarray
    grid: tuple[int, int] | None = None
    stride: float | None = None
    seconds: float | None = None


def positions_of(
    name: str, net: ModalityNet, array: np.ndarray, batch: np.ndarray
) -> tuple[Positions, np.ndarray]:
    """Returns the positions of a part, and which of all positions are real, bool `(length,)`.

    Args:
        name: name of the part.
        net: the net that reads it.
        array: the part of one example, without padding.
        batch: the same in a batch, padded, `(rows, ...)`.
    """
    shape = tuple(net(batch[:1]).shape)[1:-1]
    mask = net.padding_mask(batch[:1])
    length = int(np.prod(shape))
    real = np.ones(length, bool) if mask is None else keras.ops.convert_to_numpy(mask)[0]
    grid = (shape[0], shape[1]) if len(shape) == 2 else None
    numbers = np.arange(length)[real]
    if grid:
        labels = [f"{n // grid[1] + 1}, {n % grid[1] + 1}" for n in numbers]
    elif net.num_ids is not None and array.shape == (len(numbers),):
        labels = pieces(net, array)
    else:
        labels = [str(n + 1) for n in numbers] if length > 1 else [name]
    in_time = net.example_shape[:1] == (None,) and net.num_ids is None and not grid
    stride = batch.shape[1] / length if in_time else None
    return Positions(name, labels, array, grid, stride, _seconds(net.preprocessor)), real


def pieces(net: ModalityNet, ids: np.ndarray) -> list[str]:
    """Returns what each id stands for, by the preprocessor of its net."""
    # A plain function as a preprocessor has no vocabulary.
    names = getattr(net.preprocessor, "pieces", lambda ids: [str(i) for i in ids])(ids)
    return [short(name) for name in names]


def short(label: str) -> str:
    """Returns a label that is not too long for an axis."""
    return label if len(label) <= LONGEST_LABEL else f"{label[: LONGEST_LABEL - 1]}…"


def _seconds(preprocessor) -> float | None:
    """Returns the time from one entry of the array of a sound to the next."""
    rate = getattr(preprocessor, "sampling_rate", None)
    step = getattr(preprocessor, "frame_step", None)
    if step is not None:
        return step / 1000
    return None if rate is None else 1 / rate
