"""MoE layers with given weights, run with gradients on any backend."""

import keras
import numpy as np
from keras import ops

from keras_multimodel.layers import MoELayer, NoisyTopKRouter, TopKRouter
from tests.layers.moe.dispatch import expert_cases

WIDTH, EXPERTS = 8, 6

LAYERS = {
    "noisy_top_k": lambda: MoELayer(
        WIDTH, EXPERTS, router=NoisyTopKRouter(EXPERTS, 2, noise_scale=0.0)
    ),
    "top_k_gated": lambda: MoELayer(
        WIDTH,
        EXPERTS,
        intermediate_dim=12,
        router=TopKRouter(EXPERTS, 2),
        activation="silu",
        gated=True,
        shared_expert_dim=4,
        z_loss_weight=0.1,
    ),
    "switch": lambda: MoELayer(WIDTH, EXPERTS, 1, router="switch", causal=True),
    "bias_balanced": lambda: MoELayer(WIDTH, EXPERTS, 2, router="bias_balanced"),
    "expert_choice": lambda: MoELayer(WIDTH, EXPERTS, 2, router="expert_choice"),
    "capacity": lambda: MoELayer(
        WIDTH, EXPERTS, router=TopKRouter(EXPERTS, 2), capacity_factor=0.75
    ),
}


def make(layer, seed=0):
    """Builds a layer (or one by its name) with weights that depend on no backend."""
    layer = LAYERS[layer]() if isinstance(layer, str) else layer
    layer.build((None, None, WIDTH))
    if hasattr(layer.router, "jitter"):
        layer.router.jitter = 0.0
    draw = np.random.default_rng(seed)
    for weight in layer.trainable_weights:
        weight.assign(draw.normal(size=weight.shape))
    return layer


def batch(rows=3, length=5, seed=0):
    """Returns inputs and a mask that leaves at least one position of each row."""
    draw = np.random.default_rng(seed)
    lengths = draw.integers(1, length + 1, rows)
    x = draw.normal(size=(rows, length, WIDTH)).astype("float32")
    return x, np.arange(length) < lengths[:, None]


def run(layer, x, mask=None, jit=False):
    """Returns the outputs in training, the layer's loss, and gradients of both added up."""
    upstream = ops.convert_to_tensor(
        np.random.default_rng(1).normal(size=x.shape).astype("float32")
    )
    mask = None if mask is None else ops.convert_to_tensor(mask)
    results = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}[keras.backend.backend()](
        layer, x, mask, upstream, jit
    )
    return [np.asarray(ops.convert_to_numpy(value)) for value in results]


def _tensorflow(layer, x, mask, upstream, jit):
    import tensorflow as tf

    @tf.function(jit_compile=jit)
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, mask=mask, training=True)
            extra = sum(layer.losses)
            loss = tf.reduce_sum(y * upstream) + extra
        return y, extra, *tape.gradient(loss, [x, *[v.value for v in layer.trainable_variables]])

    return step(tf.constant(x))


def _jax(layer, x, mask, upstream, jit):
    import jax

    others = [v.value for v in layer.non_trainable_variables]

    def loss(x, trainable):
        y, _, losses = layer.stateless_call(
            trainable, others, x, mask=mask, training=True, return_losses=True
        )
        extra = sum(losses)
        return ops.sum(y * upstream) + extra, (y, extra)

    step = jax.grad(loss, argnums=(0, 1), has_aux=True)
    trainable = [v.value for v in layer.trainable_variables]
    (d_x, gradients), (y, extra) = (jax.jit(step) if jit else step)(x, trainable)
    return y, extra, d_x, *gradients


def _torch(layer, x, mask, upstream, jit):
    import torch

    x = torch.tensor(x, requires_grad=True)
    y = layer(x, mask=mask, training=True)
    extra = sum(layer.losses)
    inputs = [x, *[v.value for v in layer.trainable_variables]]
    gradients = torch.autograd.grad((y * upstream).sum() + extra, inputs, allow_unused=True)
    zeros = [torch.zeros_like(value) for value in inputs]
    gradients = [zero if g is None else g for g, zero in zip(gradients, zeros)]
    return y.detach(), torch.as_tensor(extra).detach(), *gradients


def results(jit=False):
    """Yields names and results of all layers, and of all routings of their operation."""
    for name in LAYERS:
        yield name, run(make(name), *batch(), jit=jit)
    for routing in expert_cases.ROUTINGS:
        for activation in expert_cases.ACTIVATIONS:
            yield f"{routing}/{activation}", expert_cases.run(routing, activation, jit)
