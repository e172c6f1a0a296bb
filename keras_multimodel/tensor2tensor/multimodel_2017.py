"""The authors' own MultiModel of June 2017, number for number, from the parts of this library."""

import weakref

import keras
import numpy as np

from keras_multimodel.argument_checks import one_of, positive_int
from keras_multimodel.layers.modalities.image import ImageModality
from keras_multimodel.layers.modalities.modality_net import ModalityNet
from keras_multimodel.layers.modalities.text import TextModality
from keras_multimodel.layers.moe.moe_layer import MoELayer
from keras_multimodel.tensor2tensor import blocks, modalities
from keras_multimodel.typing import Tensor


def _schemes(*names):
    return {name: tuple(map(int, name.split("."))) for name in names}


# By name, for example "3.7.7.7" -> (3, 7, 7, 7): those that the authors' code knows.
KERNEL_SCHEMES = _schemes("3.3.3.3", "3.7.7.7", "3.7.15.15", "3.7.15.31", "3.7.15.31.63")
DILATION_SCHEMES = _schemes("1.1.1.1.1", "1.1.1.1", "1.1.1.2", "1.1.2.4", "1.2.4.8")
# What the authors' code falls back to, and the closest it has to the paper's text.
FALLBACK_KERNELS, FALLBACK_DILATIONS = (3, 3, 15, 15), (1, 1, 1, 4)


def multimodel_2017(
    inputs: str = "text",
    targets: str = "text",
    vocabulary_size: int = 8192,
    num_classes: int | None = None,
    hidden_dim: int = 128,
    num_layers: int = 4,
    num_experts: int = 8,
    top_k: int = 2,
    kernel_scheme: str = "3.7.15.31",
    dilation_scheme: str = "1.1.1.1",
    separability: int = 0,
    dropout: float = 0.1,
    audio_compression: int = 8,
) -> keras.Model:
    """Builds the model that the paper's authors published: one task, as a functional `keras.Model`.

    `docs/paper_and_code.md` lists how it differs from the paper and from `MultiModel`. The encoder
    has `num_layers // 2` layers, the experts, and `num_layers` layers; the decoder has `num_layers
    // 2` layers, the experts, and again `num_layers // 2` layers. Experts route padding too.

    The model maps a dict of `inputs`, `targets` (if they are text) and `target_space_id` (integers
    `(batch,)` less than 32, such as a number for each language; not used for classes) to logits,
    `(batch, length, vocabulary_size)` or `(batch, num_classes)`. It shifts the targets itself.
    During training it adds the balancing losses of the experts.

    Args:
        inputs: `"text"`, ids `(batch, length)` where 0 is padding; `"image"`, `(batch, height,
            width, 3)`; `"audio"`, a waveform of bytes `(batch, length, width, 1)`; or
            `"audio_spectral"`, a spectrogram of that shape.
        targets: `"text"` or `"class"`. Classes leave after the encoder; 2-D convolutions predict
            those of images.
        vocabulary_size: number of ids, padding included.
        num_classes: number of classes, if `targets` is `"class"`.
        hidden_dim: width of the body, at least 32.
        num_layers: number of layers, as above.
        num_experts: number of experts in each of the two expert layers.
        top_k: experts that a position uses.
        kernel_scheme: a key of `KERNEL_SCHEMES`. Any other string selects the fallback of the
            authors' code: kernels of 3, 3, 15 and 15, the last dilated by 4.
        dilation_scheme: a key of `DILATION_SCHEMES`; any other string selects the same fallback.
        separability: 0 for depthwise-separable convolutions; -g for separable convolutions in g
            and g + 1 groups of channels, alternately (the authors' own value is -2); g for plain
            convolutions in g groups and a 1x1 convolution.
        dropout: rate after each stack of layers.
        audio_compression: number of halvings of audio before the last one.

    Returns:
        The model, not compiled.

    Raises:
        ValueError: `inputs` or `targets` is unknown, `num_classes` is missing, `hidden_dim` is
            less than 32, `num_layers` is not positive, or `separability` does not divide the
            channels.

    Example:

    ```python
    model = kmm.tensor2tensor.multimodel_2017(
        vocabulary_size=50, hidden_dim=32, num_layers=1, num_experts=2
    )
    loss = kmm.losses.LabelSmoothedCrossentropy(0.1, mask_id=0)
    model.compile(keras.optimizers.Adam(1e-3, global_clipnorm=2.0), loss)
    german, english = np.random.default_rng(0).integers(1, 50, (2, 8, 6), "int32")
    spaces = np.zeros(8, "int32")  # the same for all: one language
    model.fit({"inputs": german, "targets": english, "target_space_id": spaces}, english)
    kmm.tensor2tensor.generate_2017(model, german[:2], spaces[:2], max_length=6)
    ```

    Reference:
        Kaiser et al. 2017, arXiv 1706.05137; tensor2tensor, commit 3d9c62f2 of 15 June 2017.
    """
    one_of("inputs", inputs, ("text", "image", "audio", "audio_spectral"))
    one_of("targets", targets, ("text", "class"))
    if targets == "class" and num_classes is None:
        raise ValueError(
            '`num_classes` must be given with targets="class". Received: num_classes=None'
        )
    hidden_dim = positive_int("hidden_dim", hidden_dim, minimum=32)
    num_layers = positive_int("num_layers", num_layers)
    kernels, dilations = _scheme(kernel_scheme, dilation_scheme)

    def stack(name, num_layers, padding):
        return blocks.SliceNetStack(
            hidden_dim, num_layers, kernels, dilations, separability, padding, dropout, name=name
        )

    def experts(name, causal):
        return MoELayer(
            hidden_dim, num_experts, top_k, causal=causal, count_tokens=False, name=name
        )

    shape = (None,) if inputs == "text" else (None, None, 3 if inputs == "image" else 1)
    dtype = "int32" if inputs == "text" else "float32"
    features = {"inputs": keras.Input(shape, dtype=dtype, name="inputs")}
    # Classes do not read it: Keras would refuse a batch without it if it were not optional.
    space = keras.Input((), dtype="int32", name="target_space_id", optional=targets == "class")
    net = _input_net(inputs, vocabulary_size, hidden_dim, audio_compression)
    encoded = net(features["inputs"])
    x, mask = modalities.FlattenPositions(name="flatten")(encoded)
    x = blocks.SliceNetTimingSignal(name="timing")(x)
    x = stack("encoder1", num_layers // 2, "same")(x, mask=mask)
    # No mask: their experts route padding too.
    x = experts("experts_enc", causal=False)(x)
    x = stack("encoder2", num_layers, "same")(x, mask=mask)
    if targets == "class":
        is_grid = inputs == "image"
        num_classes = positive_int("num_classes", num_classes)
        net = modalities.ClassModality2017(num_classes, hidden_dim, is_grid, name="targets_net")
        logits = net(x, reverse=True, like=encoded if is_grid else None)
    else:
        features["targets"] = keras.Input((None,), dtype="int32", name="targets")
        net = TextModality(vocabulary_size, hidden_dim, tie_weights=False, name="targets_net")
        middle = blocks.SliceNetMiddle(hidden_dim, separability, name="middle")
        y = middle(net(features["targets"]), x, space, source_mask=mask)
        # Without a mask of the targets: their padding comes last, and the stacks are causal.
        y = stack("decoder1", num_layers // 2, "causal")(y, x, source_mask=mask)
        y = experts("experts_dec", causal=True)(y)
        y = stack("decoder2", num_layers // 2, "causal")(y, x, source_mask=mask)
        logits = net(y, reverse=True)
    return keras.Model({**features, "target_space_id": space}, logits, name="multimodel_2017")


def _input_net(kind, vocabulary_size, hidden_dim, audio_compression) -> ModalityNet:
    if kind == "text":
        return TextModality(vocabulary_size, hidden_dim, name="inputs_net")
    if kind == "image":
        return ImageModality(hidden_dim, name="inputs_net")
    spectral = kind == "audio_spectral"
    return modalities.AudioModality2017(hidden_dim, audio_compression, spectral, name="inputs_net")


def _scheme(kernel_scheme, dilation_scheme):
    if kernel_scheme not in KERNEL_SCHEMES or dilation_scheme not in DILATION_SCHEMES:
        return FALLBACK_KERNELS, FALLBACK_DILATIONS
    # Schemes of different lengths are cut to the shorter one, as in the authors' code.
    steps = zip(KERNEL_SCHEMES[kernel_scheme], DILATION_SCHEMES[dilation_scheme])
    return tuple(zip(*steps))


def generate_2017(
    model: keras.Model,
    inputs: Tensor,
    target_space_id: Tensor,
    max_length: int,
    end_id: int | None = 1,
    use_cache: bool = True,
) -> np.ndarray:
    """Writes the most probable id, one after another, with a `multimodel_2017` for text targets.

    The decoder runs over all positions for every id, as in the authors' code. Their code never
    stops before `max_length`; `end_id=None` does the same.

    Args:
        model: the model.
        inputs: one batch of the model's `inputs`.
        target_space_id: integers `(batch,)`.
        max_length: number of ids to write.
        end_id: a row ends after this id, and is 0 from there on; None for rows that do not end.
        use_cache: whether to run the encoder once, instead of once for every id. The ids are the
            same.

    Returns:
        int32 ids `(batch, max_length)`.

    Raises:
        ValueError: the model has no text targets, or `max_length` is not a positive integer.
    """
    layers = {layer.name: layer for layer in model.layers}
    if "middle" not in layers:
        raise ValueError(
            '`model` must be a `multimodel_2017` with targets="text". '
            f"Received: a model with the layers {list(layers)}"
        )
    max_length = positive_int("max_length", max_length)
    features = {"inputs": inputs, "target_space_id": np.asarray(target_space_id, "int32")}
    if use_cache:
        encoder, model = _halves(model, layers)
        encoded = encoder.predict_on_batch(features.pop("inputs"))
    ids = np.zeros((len(inputs), max_length), "int32")
    ended = np.zeros(len(inputs), "bool")
    for t in range(max_length):
        # Always all positions: each other length would be a program of its own to compile. What
        # stands from `t` on does not matter, since no output sees a later target.
        batch = {**features, "targets": ids}
        logits = model.predict_on_batch([batch, encoded] if use_cache else batch)
        ids[:, t] = np.where(ended, 0, np.argmax(logits[:, t], axis=-1))
        ended |= ids[:, t] == end_id
        if ended.all():
            break
    return ids


# Encoder and decoder by model: traced once, however often the model generates.
_HALVES = weakref.WeakKeyDictionary()


def _halves(model, layers):
    """Returns the model up to the encoder's output and mask, and from there on."""
    if model not in _HALVES:
        tensors = dict(model.input)
        encoded = [layers["encoder2"].output, layers["flatten"].output[1]]
        encoder = keras.Model(tensors.pop("inputs"), encoded)
        _HALVES[model] = encoder, keras.Model([tensors, encoded], model.output)
    return _HALVES[model]
