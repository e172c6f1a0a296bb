"""Routings, easy and extreme, run with gradients on any backend."""

import functools

import keras
import numpy as np
from keras import ops

from keras_multimodel.layers.moe.dispatch.sparse_feed_forward import sparse_feed_forward

TOKENS, WIDTH, HIDDEN, EXPERTS, TOP_K = 13, 8, 12, 5, 2

ROUTINGS = {
    "mixed": lambda draw: draw.permuted(np.tile(np.arange(EXPERTS), (TOKENS, 1)), axis=1)[
        :, :TOP_K
    ],
    "one_expert_takes_all": lambda draw: np.tile([3, EXPERTS], (TOKENS, 1)),
    "an_expert_gets_none": lambda draw: draw.integers(0, 2, (TOKENS, TOP_K)) * 4,
    "padding_takes_none": lambda draw: np.where(
        np.arange(TOKENS)[:, None] % 3 > 0, draw.integers(0, EXPERTS, (TOKENS, TOP_K)), EXPERTS
    ),
    "nobody_takes_any": lambda draw: np.full((TOKENS, TOP_K), EXPERTS),
}
ACTIVATIONS = ("relu", "gelu", "gated_silu")


def arrays(routing, activation, seed=0):
    """Returns tokens, gates, upstream gradient, kernels, and the experts of each token."""
    draw = np.random.default_rng(seed)
    shapes = [(EXPERTS, WIDTH, HIDDEN)] * (2 if activation == "gated_silu" else 1)
    shapes = [(TOKENS, WIDTH), (TOKENS, TOP_K), (TOKENS, WIDTH), *shapes, (EXPERTS, HIDDEN, WIDTH)]
    x, gates, upstream, *kernels = [draw.normal(size=shape).astype("float32") for shape in shapes]
    experts = ROUTINGS[routing](draw).astype("int32")
    return x, np.where(experts < EXPERTS, gates, 0.0).astype("float32"), upstream, kernels, experts


def run(routing, activation, jit=False, variant=None):
    """Returns the outputs, and their gradients to tokens, gates and kernels, as arrays.

    Routings differ in values only, so that one program serves all of them. `variant` names what a
    test has patched: it gets a program of its own.
    """
    x, gates, upstream, kernels, experts = arrays(routing, activation)
    y, gradients = _program(activation, jit, variant)([x, gates, *kernels], experts, upstream)
    return [np.asarray(ops.convert_to_numpy(value)) for value in (y, *gradients)]


@functools.cache
def _program(activation, jit, variant):
    function = keras.activations.get(activation.removeprefix("gated_"))

    def loss(inputs, experts, upstream):
        x, gates, *kernels = inputs
        y = sparse_feed_forward(x, experts, gates, kernels, function)
        return ops.sum(y * upstream), y

    backend = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}[keras.backend.backend()]
    return backend(loss, jit)


def _tensorflow(loss, jit):
    import tensorflow as tf

    @tf.function(jit_compile=jit)
    def step(inputs, experts, upstream):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            value, y = loss(inputs, experts, upstream)
        return y, tape.gradient(value, inputs)

    return lambda *arrays: step(*keras.tree.map_structure(tf.constant, arrays))


def _jax(loss, jit):
    import jax

    gradient = jax.grad(loss, has_aux=True)
    step = jax.jit(gradient) if jit else gradient
    return lambda inputs, *arrays: step(inputs, *map(ops.convert_to_tensor, arrays))[::-1]


def _torch(loss, jit):
    import torch

    def step(inputs, *arrays):
        inputs = [torch.tensor(value, requires_grad=True) for value in inputs]
        value, y = loss(inputs, *map(ops.convert_to_tensor, arrays))
        return y.detach(), torch.autograd.grad(value, inputs)

    return step
