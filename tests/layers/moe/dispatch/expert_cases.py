"""Routings, easy and extreme, run with gradients on any backend."""

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


def run(routing, activation, jit=False):
    """Returns the outputs, and their gradients to tokens, gates and kernels, as arrays."""
    x, gates, upstream, kernels, experts = arrays(routing, activation)
    function = keras.activations.get(activation.removeprefix("gated_"))

    def loss(x, gates, *kernels):
        y = sparse_feed_forward(x, ops.convert_to_tensor(experts), gates, kernels, function)
        return ops.sum(y * ops.convert_to_tensor(upstream)), y

    backend = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}[keras.backend.backend()]
    y, gradients = backend(loss, [x, gates, *kernels], jit)
    return [np.asarray(ops.convert_to_numpy(value)) for value in (y, *gradients)]


def _tensorflow(loss, inputs, jit):
    import tensorflow as tf

    @tf.function(jit_compile=jit)
    def step(*inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            value, y = loss(*inputs)
        return y, tape.gradient(value, inputs)

    return step(*[tf.constant(value) for value in inputs])


def _jax(loss, inputs, jit):
    import jax

    step = jax.grad(loss, argnums=tuple(range(len(inputs))), has_aux=True)
    gradients, y = (jax.jit(step) if jit else step)(*inputs)
    return y, gradients


def _torch(loss, inputs, jit):
    import torch

    inputs = [torch.tensor(value, requires_grad=True) for value in inputs]
    value, y = loss(*inputs)
    return y.detach(), torch.autograd.grad(value, inputs)
