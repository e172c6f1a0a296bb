"""Layers and a model on JAX, alone and with their experts spread over four devices.

`python -m tests.layers.moe.sharded_experts FILE` saves, for each side, what `run_all` returns.
"""

import os
import sys

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"

import keras
import numpy as np

from keras_multimodel.layers import MoELayer, NoisyTopKRouter, expert_layout_map
from tests.layers.moe import moe_cases
from tests.models.small_models import HIDDEN_DIM, build, make_batch, make_tasks, set_weights

LAYERS = {
    "noisy_top_k": lambda: MoELayer(
        8, 8, router=NoisyTopKRouter(8, 2, noise_scale=0.0), shared_expert_dim=4
    ),
    "gated": lambda: MoELayer(8, 8, 2, 12, router="top_k", activation="silu", gated=True),
}


def spread(devices: tuple[int, int]) -> None:
    """From here on, layers are made with their experts over the second axis."""
    mesh = keras.distribution.DeviceMesh(devices, ("batch", "model"))
    distribution = keras.distribution.ModelParallel(layout_map=expert_layout_map(mesh))
    keras.distribution.set_distribution(distribution)


def parts(variables):
    """Path -> how many different parts the devices hold, and the experts in the first of them."""
    found = {}
    for variable in variables:
        shards = variable.value.addressable_shards
        places = {str(shard.index) for shard in shards}
        found[variable.path] = np.array([len(places), shards[0].data.shape[0]])
    return found


def run_layers():
    results = {}
    for name in LAYERS:
        layer = moe_cases.make(LAYERS[name]())
        for i, value in enumerate(moe_cases.run(layer, *moe_cases.batch(), jit=True)):
            results[f"{name}/{i}"] = value
        kernels = [v for v in layer.variables if len(v.shape) == 3]
        results |= {f"parts/{name}/{path}": n for path, n in parts(kernels).items()}
    return results


def run_two_axes():
    """Gradients of one step of a layer, its batch over two devices and its experts over two."""
    layer = moe_cases.make(MoELayer(8, 8, 2, router="top_k", name="two_axes"))
    before = [np.asarray(v.value) for v in layer.trainable_variables]
    model = keras.Sequential([layer])
    model.compile(keras.optimizers.SGD(1.0), "mse")
    x, _ = moe_cases.batch(rows=4)
    model.fit(x, x, batch_size=4, verbose=0)
    after = [np.asarray(v.value) for v in layer.trainable_variables]
    results = {f"two_axes/{i}": b - a for i, (a, b) in enumerate(zip(before, after))}
    kernels = parts(layer.expert_kernels)
    return {**results, **{f"parts/two_axes/{path}": n for path, n in kernels.items()}}


def run_model():
    """Three steps of training of a model that is little but its two layers of experts."""
    tasks = make_tasks("copy")
    router = NoisyTopKRouter(4, 2, noise_scale=0.0)
    moe = MoELayer(HIDDEN_DIM, 4, router=router)
    model = set_weights(build(tasks, conv_block=None, attention_block=None, moe=moe))
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9))
    x, y = make_batch(tasks, (6, 3, 5, 2))
    loss = model.fit(x, y, batch_size=4, epochs=3, verbose=0).history["loss"]
    results = {f"model/{v.path}": np.asarray(v.value) for v in model.trainable_variables}
    kept = [v for v in (*model.variables, *model.optimizer.variables) if len(v.shape) == 3]
    return {
        "model/loss": np.array(loss),
        **results,
        **{f"parts/model/{path}": n for path, n in parts(kept).items()},
    }


def run_all():
    """Returns outputs and gradients of the layers, weights of the model, and all parts."""
    keras.utils.clear_session()  # the same names on both sides
    keras.utils.set_random_seed(0)
    spread((1, 4))
    results = {**run_layers(), **run_model()}
    spread((2, 2))
    return {**results, **run_two_axes()}


if __name__ == "__main__":
    sharded = run_all()
    spread = lambda devices: keras.distribution.set_distribution(None)  # noqa: E731
    np.savez(
        sys.argv[1],
        **{f"sharded/{name}": value for name, value in sharded.items()},
        **{f"alone/{name}": value for name, value in run_all().items()},
    )
