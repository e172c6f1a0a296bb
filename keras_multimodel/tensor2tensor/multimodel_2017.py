"""The authors' own MultiModel of June 2017, number for number, from the parts of this library."""

import keras

from keras_multimodel.layers.modalities.image import ImageModality
from keras_multimodel.layers.modalities.text import TextModality
from keras_multimodel.layers.moe.moe_layer import MoELayer
from keras_multimodel.tensor2tensor.blocks import SliceNetMiddle, SliceNetStack
from keras_multimodel.tensor2tensor.modalities import (
    AudioModality2017,
    ClassModality2017,
    FlattenPositions,
)
from keras_multimodel.tensor2tensor.timing import SliceNetTimingSignal

KERNEL_SCHEMES = {
    "3.3.3.3": (3, 3, 3, 3),
    "3.7.7.7": (3, 7, 7, 7),
    "3.7.15.15": (3, 7, 15, 15),
    "3.7.15.31": (3, 7, 15, 31),
    "3.7.15.31.63": (3, 7, 15, 31, 63),
}
DILATION_SCHEMES = {
    "1.1.1.1.1": (1, 1, 1, 1, 1),
    "1.1.1.1": (1, 1, 1, 1),
    "1.1.1.2": (1, 1, 1, 2),
    "1.1.2.4": (1, 1, 2, 4),
    "1.2.4.8": (1, 2, 4, 8),
}
# What the authors' code falls back to, and the nearest it has to the paper's text.
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

    `docs/paper_and_code.md` tells how it differs from the paper and from `MultiModel`. The encoder
    has `num_layers // 2` layers, the experts, and `num_layers` layers; the decoder `num_layers //
    2`, the experts, and as many again. Padding takes part in routing, as it did there.

    The model maps a dict of `inputs`, `targets` (where they are text) and `target_space_id`
    (integers `(batch,)` under 32, such as a number for each language; not used for classes) to
    logits, `(batch, length, vocabulary_size)` or `(batch, num_classes)`. It shifts the targets
    itself. While training it adds the experts' balancing losses.

    Args:
        inputs: `"text"`, ids `(batch, length)` where 0 is padding; `"image"`, `(batch, height,
            width, 3)`; `"audio"`, a waveform of bytes `(batch, length, width, 1)`;
            `"audio_spectral"`, a spectrogram of that shape.
        targets: `"text"` or `"class"`. Classes leave after the encoder; those of images are
            predicted by 2-D convolutions.
        vocabulary_size: number of ids, padding included.
        num_classes: number of classes, where `targets` are those.
        hidden_dim: width of the body, at least 32.
        num_layers: number of layers, as above.
        num_experts: number of experts in each of the two expert layers.
        top_k: experts that a position uses.
        kernel_scheme: a key of `KERNEL_SCHEMES`. Any other string selects the fallback of the
            authors' code: kernels of 3, 3, 15 and 15, the last dilated by 4.
        dilation_scheme: a key of `DILATION_SCHEMES`; any other string selects the same fallback.
        separability: 0 for depthwise-separable convolutions, -g for ones in g and g + 1 groups of
            channels by turns (the authors' own value is -2), g for plain convolutions in g groups
            and a 1x1 convolution.
        dropout: rate after each stack of layers.
        audio_compression: number of halvings of audio before the last one.

    Returns:
        The model, not compiled.

    Raises:
        ValueError: `inputs` or `targets` is unknown, `num_classes` is missing, `hidden_dim` is
            under 32, `num_layers` is not positive, or `separability` does not divide the channels.

    Example:

    ```python
    model = keras_multimodel.tensor2tensor.multimodel_2017(vocabulary_size=3000)
    loss = keras_multimodel.losses.LabelSmoothedCrossentropy(0.1, mask_id=0)
    model.compile(keras.optimizers.Adam(1e-3, global_clipnorm=2.0), loss)
    model.fit({"inputs": german, "targets": english, "target_space_id": spaces}, english)
    ```

    Reference:
        Kaiser et al. 2017, arXiv 1706.05137; tensor2tensor, commit 3d9c62f2 of 15 June 2017.
    """
    _check(inputs, targets, num_classes, hidden_dim, num_layers)
    kernels, dilations = _scheme(kernel_scheme, dilation_scheme)

    def stack(name, num_layers, padding):
        return SliceNetStack(
            hidden_dim, num_layers, kernels, dilations, separability, padding, dropout, name=name
        )

    def experts(name, causal):
        return MoELayer(
            hidden_dim, num_experts, top_k, causal=causal, count_tokens=False, name=name
        )

    tensors = {"inputs": _input_tensor(inputs)}
    space = keras.Input((), dtype="int32", name="target_space_id", optional=targets == "class")
    encoded = _input_net(inputs, vocabulary_size, hidden_dim, audio_compression)(tensors["inputs"])
    x, mask = FlattenPositions(name="flatten")(encoded)
    x = SliceNetTimingSignal(name="timing")(x)
    x = stack("encoder1", num_layers // 2, "same")(x, mask=mask)
    x = experts("experts_enc", causal=False)(x)
    x = stack("encoder2", num_layers, "same")(x, mask=mask)
    if targets == "class":
        is_grid = inputs == "image"
        net = ClassModality2017(num_classes, hidden_dim, is_grid, name="targets_net")
        logits = net(x, reverse=True, like=encoded if is_grid else None)
    else:
        tensors["targets"] = keras.Input((None,), dtype="int32", name="targets")
        net = TextModality(vocabulary_size, hidden_dim, tie_weights=False, name="targets_net")
        middle = SliceNetMiddle(hidden_dim, separability, name="middle")
        y = middle(net(tensors["targets"]), x, space, source_mask=mask)
        y = stack("decoder1", num_layers // 2, "causal")(y, x, source_mask=mask)
        y = experts("experts_dec", causal=True)(y)
        y = stack("decoder2", num_layers // 2, "causal")(y, x, source_mask=mask)
        logits = net(y, reverse=True)
    return keras.Model({**tensors, "target_space_id": space}, logits, name="multimodel_2017")


def _input_tensor(kind):
    if kind == "text":
        return keras.Input((None,), dtype="int32", name="inputs")
    return keras.Input((None, None, 3 if kind == "image" else 1), name="inputs")


def _input_net(kind, vocabulary_size, hidden_dim, audio_compression):
    if kind == "text":
        return TextModality(vocabulary_size, hidden_dim, name="inputs_net")
    if kind == "image":
        return ImageModality(hidden_dim, name="inputs_net")
    spectral = kind == "audio_spectral"
    return AudioModality2017(hidden_dim, audio_compression, spectral, name="inputs_net")


def _scheme(kernel_scheme, dilation_scheme):
    if kernel_scheme not in KERNEL_SCHEMES or dilation_scheme not in DILATION_SCHEMES:
        return FALLBACK_KERNELS, FALLBACK_DILATIONS
    steps = zip(KERNEL_SCHEMES[kernel_scheme], DILATION_SCHEMES[dilation_scheme])
    return tuple(zip(*steps))


def _check(inputs, targets, num_classes, hidden_dim, num_layers):
    kinds = ("text", "image", "audio", "audio_spectral")
    if inputs not in kinds:
        raise ValueError(f"`inputs` must be one of {kinds}. Received: inputs={inputs!r}")
    if targets not in ("text", "class"):
        raise ValueError(f'`targets` must be "text" or "class". Received: targets={targets!r}')
    if targets == "class" and num_classes is None:
        raise ValueError(
            '`num_classes` must be given with targets="class". Received: num_classes=None'
        )
    if not isinstance(hidden_dim, int) or hidden_dim < 32:
        raise ValueError(
            f"`hidden_dim` must be an integer of at least 32. Received: hidden_dim={hidden_dim}"
        )
    if not isinstance(num_layers, int) or num_layers < 1:
        raise ValueError(
            f"`num_layers` must be a positive integer. Received: num_layers={num_layers}"
        )
