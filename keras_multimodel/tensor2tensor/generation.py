"""Greedy generation with the authors' own model."""

import weakref

import keras
import numpy as np
from keras import ops

from keras_multimodel.layers.conv_block import ConvStep


def generate_2017(
    model: keras.Model,
    inputs,
    target_space_id,
    max_length: int,
    end_id: int | None = 1,
    use_cache: bool = True,
) -> np.ndarray:
    """Writes the best id after the best id, with a `multimodel_2017` that has text targets.

    The authors' code recomputes everything for every id, and never stops before `max_length`;
    `use_cache=False` and `end_id=None` do the same.

    Args:
        model: the model.
        inputs: one batch of the model's `inputs`.
        target_space_id: integers `(batch,)`.
        max_length: number of ids to write.
        end_id: a row ends behind this id, and is 0 from there on; None for rows that do not end.
        use_cache: whether convolutions remember what they have seen. The ids are the same.

    Returns:
        int32 ids `(batch, max_length)`.

    Raises:
        ValueError: the model has no text targets, or `max_length` is not positive.
    """
    names = [layer.name for layer in model.layers]
    if "middle" not in names:
        raise ValueError(
            '`model` must be a `multimodel_2017` with targets="text". '
            f"Received: a model with the layers {names}"
        )
    if max_length < 1:
        raise ValueError(f"`max_length` must be positive. Received: max_length={max_length}")
    make_decoder = CachedDecoder if use_cache else RecomputingDecoder
    decoder = make_decoder(model, inputs, np.asarray(target_space_id, "int32"))
    ids = np.zeros((len(inputs), max_length), "int32")
    ended = np.zeros(len(inputs), "bool")
    for t in range(max_length):
        best = np.argmax(decoder.logits(ids, t), axis=-1)
        ids[:, t] = np.where(ended, 0, best)
        ended |= ids[:, t] == end_id
        if ended.all():
            break
    return ids


class RecomputingDecoder:
    """Runs the whole model for every position.

    Args:
        model: the model.
        inputs: one batch of the model's `inputs`.
        target_space_id: integers `(batch,)`.
    """

    def __init__(self, model, inputs, target_space_id):
        self.model = model
        self.features = {"inputs": inputs, "target_space_id": target_space_id}

    def logits(self, ids, position: int) -> np.ndarray:
        """Returns the logits `(batch, vocabulary_size)` of a position behind the ids before it."""
        logits = self.model.predict_on_batch({**self.features, "targets": ids})
        return logits[:, position]


class CachedDecoder:
    """Runs the encoder once, and the decoder one position at a time.

    Args:
        model: the model.
        inputs: one batch of the model's `inputs`.
        target_space_id: integers `(batch,)`.
    """

    def __init__(self, model, inputs, target_space_id):
        if model not in _COMPILED:
            _COMPILED[model] = _encoder(model), DecoderStep(model)
        encoder, self.step = _COMPILED[model]
        source, source_mask = encoder.predict_on_batch(inputs)
        self.features = {
            "source": source,
            "source_mask": source_mask,
            "target_space_id": target_space_id,
        }
        self.past = self.step.empty_past(len(source))

    def logits(self, ids, position: int) -> np.ndarray:
        """Returns the logits `(batch, vocabulary_size)` of a position; to be called in order."""
        last = max(position - 1, 0)
        features = {"ids": ids[:, last : last + 1], "position": np.array([position], "int32")}
        logits, self.past = self.step.predict_on_batch(
            {**self.features, **features, "past": self.past}
        )
        return logits[:, 0]


# Encoders and decoder steps by model: compiled once, however often a model generates.
_COMPILED = weakref.WeakKeyDictionary()


def _encoder(model):
    """Returns the model from inputs to what the decoder reads, and its mask."""
    layers = {layer.name: layer for layer in model.layers}
    outputs = (layers["encoder2"].output, layers["flatten"].output[1])
    return keras.Model(layers["inputs"].output, outputs)


class DecoderStep(keras.Model):
    """The decoder of a `multimodel_2017` at one position.

    Args:
        model: the model.

    Call arguments:
        features: dict of `ids` `(batch, 1)` before the position, `position` `(1,)`,
            `target_space_id` `(batch,)`, `source`, `source_mask`, and `past`, for each convolution
            what it still sees.

    Returns:
        logits `(batch, 1, vocabulary_size)`, and the next `past`.
    """

    def __init__(self, model):
        super().__init__(name="decoder_step")
        parts = {layer.name: layer for layer in model.layers}
        self.text, self.middle = parts["targets_net"], parts["middle"]
        self.decoder1, self.decoder2 = parts["decoder1"], parts["decoder2"]
        self.experts = parts["experts_dec"]
        self.built = True

    def empty_past(self, batch_size: int) -> list:
        """Returns the zeros before the first position."""
        steps = [*self.middle.attention.steps, self.middle.merge]
        for stack in (self.decoder1, self.decoder2):
            for layer, attention in zip(stack.layers, stack.attentions):
                steps += [*layer, *attention.steps]
        widths = [self.middle.hidden_dim * (1 + (step is self.middle.merge)) for step in steps]
        return [
            np.zeros((batch_size, (step.kernel_size - 1) * step.dilation_rate, width), "float32")
            for step, width in zip(steps, widths)
        ]

    def call(self, features):
        position = features["position"][0]
        past = PastInputs(features["past"])
        written = self.text(features["ids"])
        first = self.middle.shift(written, features["target_space_id"])
        reads = {"source_mask": features["source_mask"], "convolve": past, "start": position}
        x = ops.where(position == 0, first, written)
        x = self.middle.join(x, features["source"], **reads)
        x = self.decoder1.forward(x, features["source"], **reads)
        x = self.experts(x, training=False)
        x = self.decoder2.forward(x, features["source"], **reads)
        return self.text(x, reverse=True), past.kept


class PastInputs:
    """Calls causal convolution steps on one position, in the order of what they still see.

    Args:
        windows: for each step the inputs before the position that it still sees.
    """

    def __init__(self, windows):
        self.windows = list(windows)
        self.kept = []

    def __call__(self, step: ConvStep, inputs, mask=None):
        window = ops.concatenate([self.windows[len(self.kept)], inputs], axis=1)
        self.kept.append(window[:, 1:])
        return step(window)[:, -1:]
