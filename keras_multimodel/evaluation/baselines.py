"""What a model must beat: a guess that ignores the input, and a wrong input."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Baseline:
    """Measures of always guessing the distribution of the training targets.

    Attributes:
        log_perplexity: mean negative log-probability of a held-out target, in nats.
        accuracy: share of held-out targets equal to the most frequent training target.
    """

    log_perplexity: float
    accuracy: float


def unigram_baseline(
    train: Iterable[np.ndarray], held_out: Iterable[np.ndarray], size: int
) -> Baseline:
    """Scores held-out targets by how often each id occurs in training, with add-one smoothing.

    Args:
        train: targets of the training examples, each a class or a sequence of ids.
        held_out: the same of the held-out examples.
        size: number of ids or classes.

    Returns:
        The baseline. For classes its accuracy is that of the majority class.

    Raises:
        ValueError: there are no targets, or one is outside `[0, size)`.
    """
    train, held_out = _flat("train", train, size), _flat("held_out", held_out, size)
    # One more of each, or an id that training lacks would cost infinity.
    counts = np.bincount(train, minlength=size)
    log_probabilities = np.log((counts + 1) / (counts.sum() + size))
    return Baseline(
        log_perplexity=float(-log_probabilities[held_out].mean()),
        accuracy=float((held_out == counts.argmax()).mean()),
    )


def _flat(argument, targets, size) -> np.ndarray:
    arrays = [np.ravel(target) for target in targets]
    flat = np.concatenate(arrays) if arrays else np.zeros(0, "int64")
    if not flat.size or flat.min() < 0 or flat.max() >= size:
        received = f"{flat.min()} to {flat.max()}" if flat.size else "none"
        raise ValueError(f"`{argument}` must hold ids from 0 to {size - 1}. Received: {received}")
    return flat


def mismatched(dataset: Any) -> Any:
    """Pairs every target with the input of another example, half the data set away.

    A model that uses its input must score such targets worse.

    Args:
        dataset: finite `tf.data.Dataset` of `{"inputs", "targets"}` with at least two examples.

    Returns:
        A data set of the same size and form.

    Raises:
        ValueError: there are fewer than two examples.
    """
    # Counted: a data set that skips bad examples does not know its size.
    size = sum(1 for _ in dataset)
    if size < 2:
        raise ValueError(f"`dataset` must hold at least 2 examples. Received: {size}")
    # Half the data set away, since neighbors are often alike, such as the variants of an emoji.
    inputs = dataset.map(lambda example: example["inputs"])
    inputs = inputs.skip(size // 2).concatenate(inputs.take(size // 2))
    targets = dataset.map(lambda example: example["targets"])
    # Through the data set's own class, so that this file needs no TensorFlow.
    return type(dataset).zip({"inputs": inputs, "targets": targets})
