"""What a model costs: parameters, those that an example uses, and multiplications."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras

from keras_multimodel import _keras_compat
from keras_multimodel.layers.attention_block import Attention
from keras_multimodel.models.summary import active_parameters, idle_parameters


@dataclass(frozen=True)
class Cost:
    """The size of a model.

    Attributes:
        parameters: weights, as `model.count_params()` counts them.
        active_parameters: those that one token uses: of the experts, the chosen ones.
        multiplications: products of one forward pass, of the mean example.
    """

    parameters: int
    active_parameters: int
    multiplications: int


def cost(model: keras.Model, inputs: Any) -> Cost:
    """Counts the parameters and the multiplications of a model.

    Multiplications are counted in the layers while the model runs on `inputs`, padding included:
    every kernel (a weight of two or more axes with `kernel` in its name, as Keras names them) once
    for each output position, a table of embeddings where it scores outputs, and the two products
    of attention. Elementwise operations and norms are not counted, nor are products in a layer's
    own `call` that involve no kernel.

    Args:
        model: a built model. Of an expert layer, `top_k` experts count as active.
        inputs: a batch of its inputs: arrays, in the structure that the model takes.

    Returns:
        The numbers.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> kmm.ablation.cost(model, np.zeros((2, 4)))
        Cost(parameters=15, active_parameters=15, multiplications=12)
    """
    # Examples of several tasks stand side by side; other inputs are parts of the same examples.
    parts = inputs.values() if isinstance(inputs, dict) else [inputs]
    tasks = list(parts) if all(isinstance(part, dict) for part in parts) else [inputs]
    rows = sum(max(array.shape[0] for array in keras.tree.flatten(task)) for task in tasks)
    products = []
    with _watched(products):
        model(inputs, training=False)
    return Cost(model.count_params(), active_parameters([model]), round(sum(products) / rows))


@contextlib.contextmanager
def _watched(products: list[float]) -> Iterator[None]:
    """Appends the products of every layer that is called within."""
    # At the class: Keras has no hook that sees the layers within a layer.
    call, hidden = keras.layers.Layer.__call__, [0]

    def counting(layer, *args, **kwargs):
        recurrent = isinstance(layer, keras.layers.RNN)
        # The cells of a recurrent layer are called once for each step, or once for all.
        hidden[0] += recurrent
        try:
            outputs = call(layer, *args, **kwargs)
        finally:
            hidden[0] -= recurrent
        if not hidden[0]:
            products.append(_products(layer, args, kwargs, outputs))
        return outputs

    keras.layers.Layer.__call__ = counting
    try:
        yield
    finally:
        keras.layers.Layer.__call__ = call


def _products(layer, args, kwargs, outputs) -> float:
    """Returns the products that a layer computes itself, without the layers within it."""
    inputs: Any = args[0] if args else next(iter(kwargs.values()), None)
    if isinstance(layer, keras.layers.EinsumDense):
        return _einsum_products(layer.equation, inputs.shape, layer.kernel.shape)
    if isinstance(layer, keras.layers.RNN):
        return sum(_sizes(layer.cell.trainable_weights)) * math.prod(inputs.shape[:2])
    if isinstance(layer, keras.layers.MultiHeadAttention | Attention):
        return _attention_products(layer, args, kwargs)
    positions = _positions(layer, inputs, outputs)
    kernels = sum(_sizes(own_weights(layer)))
    if kwargs.get("reverse") or len(args) > 2 and args[2] is True:
        kernels += sum(math.prod(w.shape) for w in _output_tables(layer))
    return positions * (kernels - idle_parameters(layer))


def own_weights(layer: keras.layers.Layer) -> list[keras.Variable]:
    """Returns the trainable weights of a layer that none of the layers within it has."""
    inner = {id(w) for sublayer in _keras_compat.sublayers(layer) for w in sublayer.weights}
    return [weight for weight in layer.trainable_weights if id(weight) not in inner]


def _sizes(weights):
    return [math.prod(w.shape) for w in weights if "kernel" in w.name and len(w.shape) > 1]


def _output_tables(layer):
    names = ("output_embeddings", "reverse_embeddings", "embeddings")
    found = [getattr(layer, name, None) for name in names]
    return [table for table in found if table is not None][:1]


def _positions(layer, inputs, outputs):
    """Returns at how many places the kernels of a layer are used."""
    # A transposed convolution visits its inputs; what returns no tensor is taken to keep positions.
    transposed = "Transpose" in type(layer).__name__
    shape = getattr(inputs if transposed else outputs, "shape", None)
    shape = getattr(inputs, "shape", None) if shape is None else shape
    if not shape:
        return 0
    axis = 1 if getattr(layer, "data_format", None) == "channels_first" else -1
    return math.prod(shape) / max(1, shape[axis])


def _einsum_products(equation, *shapes):
    """Returns the product of the sizes of all axes of an einsum."""
    sizes = {}
    for labels, shape in zip(equation.split("->")[0].split(","), shapes):
        before, dots, after = labels.strip().partition("...")
        named = [*zip(before, shape), *zip(after[::-1], shape[::-1])]
        sizes.update(named)
        if dots:
            sizes["..."] = math.prod(shape[len(before) : len(shape) - len(after)])
    return math.prod(sizes.values())


def _attention_products(layer, args, kwargs):
    """Returns the products of queries with keys, and of weights with values."""
    given = {**dict(zip(("query", "value", "key"), args)), **kwargs}
    queries: Any = given.get("query", given.get("targets"))
    source: Any = given.get("value", given.get("source"))
    width = getattr(layer, "hidden_dim", None)
    if width is None:
        width = layer.num_heads * (layer.key_dim + layer.value_dim) / 2
    return 2 * width * math.prod(queries.shape[:-1]) * math.prod(source.shape[1:-1])
