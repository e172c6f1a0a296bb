"""Small changes to a trained model: adapters that train in its place, and weights of 8 bits."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_multimodel import _keras_compat, user_warnings
from keras_multimodel.argument_checks import name_list, positive_int
from keras_multimodel.layers.adaptable import OwnMatrices
from keras_multimodel.layers.sublayers import cheap_collections, set_trainable
from keras_multimodel.models.growing import GrowingModel


class AdaptingModel(GrowingModel):
    """The part of a `MultiModel` that adds and merges LoRA adapters, and quantizes."""

    def enable_lora(
        self, rank: int, parts: str | Sequence[str] | None = None, alpha: float | None = None
    ) -> None:
        """Freezes the model and adds LoRA adapters, which train in its place.

        Each matrix of the parts gets two factors of low rank whose product is added to it:
        projections of attention, products over channels of convolutions, experts, embeddings. At
        first they add nothing. Copies and saved files keep them. What else shall train is unfrozen
        afterwards, such as a task that was added: `model.unfreeze("captions_de")`.

        A compiled model has to be compiled again, as do others that share its layers.

        Args:
            rank: rank of what is added to each matrix.
            parts: keys of `parts`; None for all.
            alpha: what is added is scaled by `alpha / rank`; None for `rank`.

        Raises:
            ValueError: `rank` is no positive integer, a part is unknown, or it has adapters.

        Example:

        ```python
        text = kmm.layers.TextModality(50, hidden_dim=32)
        model = kmm.MultiModel([kmm.Task("copy", text, text)], hidden_dim=32, moe=None)
        model.enable_lora(4, parts=["encoder", "mixer", "decoder"])
        model.compile(keras.optimizers.Adam(1e-3))  # trains the adapters
        # After training:
        model.merge_lora()
        ```

        Reference:
            Hu et al. 2021, arXiv 2106.09685.
        """
        rank = positive_int("rank", rank)
        names = [] if parts is None else name_list("parts", parts)
        if parts is not None and not names:
            raise ValueError(f"`parts` must name at least one, or be None. Received: parts={parts}")
        layers = _with_matrices(self._layers_of(names))
        for layer in layers:
            if layer.lora_enabled:
                expected = "`parts` must have no adapters yet, or be merged first (`merge_lora`)"
                raise ValueError(f"{expected}. Received: parts={parts}, {layer.path!r} has some")
        for layer in layers:
            layer.enable_lora(rank, lora_alpha=alpha)
        self._train_adapters_only()
        self._compile_again()

    def merge_lora(self) -> None:
        """Adds what the adapters add to the matrices themselves, and removes the adapters.

        Outputs stay the same up to rounding, and are computed as fast as before `enable_lora`. What
        was frozen stays frozen. Integers of a quantized model are rounded anew.
        """
        with cheap_collections():
            for layer in _with_matrices(self._layers_of(())):
                if hasattr(layer, "merge_lora"):
                    layer.merge_lora()
        self._compile_again()

    def quantize(
        self,
        mode: str | None = None,
        config: Any = None,
        filters: str | Sequence[str] | Callable | None = None,
        **kwargs,
    ) -> None:
        """Keeps matrices as 8-bit integers, as `keras.Model.quantize` does; experts included.

        A file of the model then has about a quarter of its size. Dense layers compute with integers
        too, unless `config` says otherwise; experts, convolutions over images and audio, and
        embeddings compute with floats. Vectors, depthwise kernels and routers stay floats. Matrices
        cannot be trained any more; adapters can.

        Args:
            mode: `"int8"`; of other modes of Keras, dense layers alone take some.
            config: a `keras.quantizers.QuantizationConfig` for the dense layers, or None.
            filters: which layers: a regular expression, or several, to search in names of layers,
                or a function of a layer. None for all.
            **kwargs: as in `keras.Model.quantize`.

        Raises:
            ValueError: `mode` is unknown, or a layer is quantized already.

        Example:

        ```python
        text = kmm.layers.TextModality(50, hidden_dim=32)
        model = kmm.MultiModel([kmm.Task("copy", text, text)], hidden_dim=32, moe=None)
        model.quantize("int8")
        model.save("small.keras")
        ```
        """
        chosen = _filter(filters)
        own = [
            layer
            for layer in _keras_compat.all_layers(self)
            if isinstance(layer, OwnMatrices) and _keras_compat.sublayers(layer) and chosen(layer)
        ]
        with cheap_collections():
            for layer in own:  # Keras goes to layers without sublayers only
                try:
                    layer.quantize(mode, config=config)
                except NotImplementedError as error:
                    user_warnings.warn(str(error))
            super().quantize(
                mode, config=config, filters=lambda x: chosen(x) and _has_quantize(x), **kwargs
            )
        self._generators.clear()  # their compiled loops hold the weights of before

    def _train_adapters_only(self):
        for root in self._layers_of(()):
            set_trainable(root, True)
            _freeze_all_but_adapters(root)

    def _compile_again(self):
        self._generators.clear()
        self.compiled = False  # Keras would train what it was compiled for


def _with_matrices(roots: list[keras.layers.Layer]) -> list[Any]:
    """Returns the layers within others that take adapters, each once."""
    layers = [layer for root in roots for layer in _keras_compat.all_layers(root)]
    return [*{id(x): x for x in layers if hasattr(x, "lora_enabled")}.values()]


def _freeze_all_but_adapters(layer: keras.layers.Layer) -> bool:
    """Freezes what is trainable in a layer, and returns whether there are adapters in it."""
    # A list: all of them are visited.
    within = any([_freeze_all_but_adapters(x) for x in _keras_compat.sublayers(layer)])
    adapted = getattr(layer, "lora_enabled", False)
    if not (within or adapted):
        set_trainable(layer, False)
        return False
    # The layer itself stays trainable, or its adapters would not be.
    for weight in _keras_compat.own_trainable(layer):
        weight.trainable = adapted and weight.name.startswith("lora_")
    return True


def _has_quantize(layer: keras.layers.Layer) -> bool:
    """Returns whether a class defines `quantize`: Keras would warn of each that does not."""
    return type(layer).quantize is not keras.layers.Layer.quantize


def _filter(filters: Any) -> Callable[[keras.layers.Layer], Any]:
    """Returns the function of a layer that `filters` of `keras.Model.quantize` stands for."""
    if filters is None:
        return lambda layer: True
    if callable(filters):
        return filters
    patterns = [filters] if isinstance(filters, str) else list(filters)
    return lambda layer: any(re.search(pattern, layer.name) for pattern in patterns)
