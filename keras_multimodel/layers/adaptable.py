"""Layers whose matrices take LoRA adapters and 8-bit integers, as `keras.layers.Dense` does.

`OwnMatrices` is for layers that have matrices of their own. `Dense`, `EinsumDense` and `Embedding`
are Keras' layers, which do both themselves; here they also keep their adapters when they are saved.
"""

import math
from typing import Any

import keras
from keras import ops

from keras_multimodel import _keras_compat
from keras_multimodel.argument_checks import positive_int
from keras_multimodel.layers.sublayers import layer_state, scaled_initializer, set_layer_state
from keras_multimodel.typing import Tensor


class OwnMatrices(keras.layers.Layer):
    """A layer some of whose own weights can get LoRA adapters, and be kept as 8-bit integers.

    A subclass lists the names of these attributes in `matrices` and reads them through `value`.
    A matrix `(..., in, out)` gets adapters `(..., in, rank)` and `(rank, out)`: what is computed
    with is `matrix + alpha / rank * a @ b`. In int8 each column has a scale of its own. Activations
    stay floats.

    Reference:
        Hu et al. 2021, arXiv 2106.09685.
    """

    matrices: tuple[str, ...] = ()
    # How many of the first axes only count matrices, each of which has adapters of its own.
    num_stacks = 0
    # Over which axes one scale is shared in int8; None for all but the last.
    scale_axes: tuple[int, ...] | None = None

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.lora_enabled = False
        self.lora_rank: int | None = None
        self.lora_alpha: float | None = None
        self.quantization_config: Any = None
        self._is_int8 = False

    @property
    def quantization_mode(self) -> str | None:
        """`"int8"`, or None. The dtype policy, which sublayers have too, does not tell."""
        return "int8" if self._is_int8 else super().quantization_mode

    # Keras calls this one of a layer with a `quantization_mode`.
    def quantized_call(self, *args, **kwargs):
        return self.call(*args, **kwargs)

    def value(self, name: str, rows: Tensor | None = None) -> Any:
        """Returns a matrix to compute with: the weight itself, unless it is adapted or quantized.

        Args:
            name: one of `matrices`.
            rows: rows to take of a table, which has one scale for each row; None for all of them.
        """
        weight = getattr(self, name)
        if not (self.lora_enabled or self._is_int8):
            if rows is None:
                return weight
            return ops.take(ops.cast(weight, self.compute_dtype), rows, axis=0)

        def part(variable):
            x = ops.convert_to_tensor(variable)
            return x if rows is None else ops.take(x, rows, axis=0)

        matrix = ops.cast(part(weight), self.compute_dtype)
        if self._is_int8:
            matrix *= ops.cast(part(getattr(self, f"{name}_scale")), self.compute_dtype)
        if self.lora_enabled:
            a, b = (getattr(self, f"lora_{name}_{factor}") for factor in "ab")
            delta = ops.matmul(part(a), ops.convert_to_tensor(b)) * self._lora_scale()
            matrix += ops.cast(delta, self.compute_dtype)
        return matrix

    def enable_lora(
        self,
        rank: int,
        lora_alpha: float | None = None,
        a_initializer: Any = "he_uniform",
        b_initializer: Any = "zeros",
    ) -> None:
        """Adds adapters to the matrices, which are frozen; as `keras.layers.Dense.enable_lora`.

        Args:
            rank: rank of what is added to each matrix.
            lora_alpha: factor of it, which is divided by `rank`; None for `rank`.
            a_initializer: initializer of the first factors.
            b_initializer: initializer of the second factors.

        Raises:
            ValueError: the layer is not built, or has adapters.
        """
        rank = positive_int("rank", rank)
        if not self.built or self.lora_enabled:
            expected = "`enable_lora` must be called once, on a layer that is built"
            received = f"built={self.built}, lora_enabled={self.lora_enabled}"
            raise ValueError(f"{expected}. Received: layer {self.name!r} with {received}")
        dtype = "float64" if self.variable_dtype == "float64" else "float32"
        with _keras_compat.open_to_sublayers(self):
            for name in self.matrices:
                weight = getattr(self, name)
                stacks, last = tuple(weight.shape[: self.num_stacks]), weight.shape[-1]
                shapes = {"a": (*weight.shape[:-1], rank), "b": (*stacks, rank, last)}
                initializers = {
                    "a": scaled_initializer(
                        keras.initializers.get(a_initializer), self.excess_inputs(name)
                    ),
                    "b": keras.initializers.get(b_initializer),
                }
                for factor, shape in shapes.items():
                    # In full precision under every policy: updates are small.
                    full = f"lora_{name}_{factor}"
                    options = {"dtype": dtype, "autocast": False, "name": full}
                    setattr(self, full, self.add_weight(shape, initializers[factor], **options))
                weight.trainable = False
        self.lora_enabled = True
        self.lora_rank, self.lora_alpha = rank, rank if lora_alpha is None else lora_alpha

    def merge_lora(self) -> None:
        """Adds what the adapters add to the matrices themselves, and removes the adapters."""
        if not self.lora_enabled:
            return
        with _keras_compat.open_to_sublayers(self):
            for name in self.matrices:
                a, b = (getattr(self, f"lora_{name}_{factor}") for factor in "ab")
                delta = ops.matmul(ops.convert_to_tensor(a), b) * self._lora_scale()
                weight = getattr(self, name)
                if self._is_int8:
                    scale = getattr(self, f"{name}_scale")
                    whole = ops.cast(weight, scale.dtype) * scale + delta
                    weight_value, scale_value = self._to_int8(name, whole)
                    weight.assign(weight_value)
                    scale.assign(scale_value)
                else:
                    weight.assign(weight + ops.cast(delta, weight.dtype))
                for factor in "ab":
                    delattr(self, f"lora_{name}_{factor}")
        self.lora_enabled, self.lora_rank, self.lora_alpha = False, None, None

    # Keras wraps this method, checks `mode`, and opens the layer for new weights.
    def quantize(self, mode: str | None = None, type_check: bool = True, config: Any = None):
        """Keeps the matrices as 8-bit integers; as `keras.layers.Dense.quantize`.

        Args:
            mode: `"int8"`.
            type_check: not used.
            config: kept, and not used: activations stay floats.

        Raises:
            NotImplementedError: `mode` is another one, which Keras' models turn into a warning.
            ValueError: the matrices are integers already.
        """
        if mode != "int8":
            message = f"`mode` must be 'int8' for {type(self).__name__}. Received: mode={mode!r}"
            raise NotImplementedError(message)
        if self._is_int8:
            raise ValueError(f"`quantize` must be called once. Received: layer {self.name!r}")
        for name in self.matrices:
            weight = getattr(self, name)
            weight_value, scale_value = self._to_int8(name, weight)
            options = {"trainable": False, "autocast": False}
            full, dtype = weight.name, "float64" if weight.dtype == "float64" else "float32"
            delattr(self, name)
            integers = self.add_weight(weight.shape, "zeros", "int8", name=full, **options)
            setattr(self, name, integers)
            scale = self.add_weight(
                scale_value.shape, "ones", dtype, name=f"{full}_scale", **options
            )
            setattr(self, f"{name}_scale", scale)
            integers.assign(weight_value)
            scale.assign(scale_value)
        self.quantization_config = config
        self._is_int8 = True

    def _to_int8(self, name: str, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Returns integers, and the scales by which to multiply them."""
        axes = self.scale_axes or tuple(range(len(weight.shape) - 1))
        dtype = (
            "float64" if keras.backend.standardize_dtype(weight.dtype) == "float64" else "float32"
        )
        integers, inverse = keras.quantizers.abs_max_quantize(
            ops.cast(weight, dtype), axis=axes, to_numpy=True
        )
        return integers, 1.0 / inverse

    def excess_inputs(self, name: str) -> float:
        """Returns by what factor Keras counts too many inputs of the first of two factors."""
        return math.prod(getattr(self, name).shape[: self.num_stacks])

    def _lora_scale(self) -> float:
        return (self.lora_alpha or 0) / (self.lora_rank or 1)

    # Keras' config of the layer has arguments only; see `CompositeLayer`.
    def get_build_config(self):
        config = super().get_build_config()
        state = {k: v for k, v in layer_state(self).items() if k != "trainable"}
        return {**(config or {}), "own": state} if state else config

    def build_from_config(self, config: dict):
        config = dict(config)
        state = config.pop("own", {})
        super().build_from_config(config)
        if state:
            set_layer_state(self, {**state, "trainable": self.trainable})


class _KeepsAdapters(keras.layers.Layer):
    """What Keras' layers with LoRA lack: adapters that are saved, and a way to merge them.

    Keras saves the sum, and loads adapters of zeros, both factors of which have a gradient of zero
    forever.
    """

    adapted = "kernel"

    def save_own_variables(self, store: Any):
        enabled, self.lora_enabled = self.lora_enabled, False
        try:
            super().save_own_variables(store)
        finally:
            self.lora_enabled = enabled
        if enabled:
            for name, factor in self._factors().items():
                store[name] = factor

    def load_own_variables(self, store: Any):
        factors = self._factors() if self.lora_enabled else {}
        # Those of a model without adapters leave new ones as they are.
        before = {name: ops.convert_to_numpy(factor) for name, factor in factors.items()}
        super().load_own_variables(store)
        for name, factor in factors.items():
            factor.assign(store[name] if name in store else before[name])

    def merge_lora(self) -> None:
        """Adds what the adapters add to the weight itself, and removes the adapters."""
        if not self.lora_enabled:
            return
        merged: dict[str, Any] = {}
        super().save_own_variables(merged)
        a, b = self._factors().values()
        alpha: Any = self.lora_alpha
        delta = ops.matmul(ops.convert_to_tensor(a), b) * (alpha / self.lora_rank)
        with _keras_compat.open_to_sublayers(self):
            for name in self._factors():
                delattr(self, name)
        self.lora_enabled, self.lora_rank, self.lora_alpha = False, None, None
        if self.quantization_mode is not None:
            super().load_own_variables(merged)  # quantized again, with a new scale
        else:  # here Keras would round to the compute dtype
            weight = getattr(self, self.adapted)
            weight.assign(weight + ops.cast(delta, weight.dtype))

    # Keras refuses it to subclasses, whose `call` may be another one.
    def quantize(self, mode: str | None = None, type_check: bool = True, config: Any = None):
        super().quantize(mode, type_check=False, config=config)

    def _factors(self) -> dict[str, keras.Variable]:
        return {name: getattr(self, name) for name in (f"lora_{self.adapted}_{f}" for f in "ab")}


@keras.saving.register_keras_serializable(package="keras_multimodel")
class Dense(_KeepsAdapters, keras.layers.Dense):
    """Keras' `Dense`, whose LoRA adapters are saved and can be merged."""


@keras.saving.register_keras_serializable(package="keras_multimodel")
class EinsumDense(_KeepsAdapters, keras.layers.EinsumDense):
    """Keras' `EinsumDense`, whose LoRA adapters are saved and can be merged."""


@keras.saving.register_keras_serializable(package="keras_multimodel")
class Embedding(_KeepsAdapters, keras.layers.Embedding):
    """Keras' `Embedding`, whose LoRA adapters are saved and can be merged."""

    adapted = "embeddings"
