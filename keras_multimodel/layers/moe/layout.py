"""Where the experts lie when devices share a model."""

import keras

from keras_multimodel import user_warnings

# Their adapters and their scales in int8 have the same leading axis.
EXPERT_KERNELS = r"^(.*/)?(lora_)?expert_kernel_(in|gate|out)(_a|_b|_scale)?$"


def expert_layout_map(
    device_mesh: keras.distribution.DeviceMesh, axis: str = "model"
) -> keras.distribution.LayoutMap:
    """Spreads the experts of every `MoELayer` over devices, on the JAX backend.

    Each device holds an equal share of the experts, and of what the optimizer keeps for them, so
    the size of `axis` must divide `num_experts`. All other weights, including routers and shared
    experts, are on every device. You can add entries to the map.

    Args:
        device_mesh: the devices.
        axis: name of the mesh's axis to spread experts over.

    Returns:
        A layout map for `keras.distribution.ModelParallel`.

    Raises:
        ValueError: `axis` is no axis of `device_mesh`.

    Example:

    ```python
    devices = ["cpu:0"]  # on JAX: keras.distribution.list_devices()
    mesh = keras.distribution.DeviceMesh((1, len(devices)), ("batch", "model"), devices)
    layout_map = kmm.layers.expert_layout_map(mesh)
    # Before you build the model:
    # keras.distribution.set_distribution(
    #     keras.distribution.ModelParallel(layout_map=layout_map)
    # )
    ```
    """
    if axis not in device_mesh.axis_names:
        raise ValueError(
            f"`axis` must be one of the axes of `device_mesh`, {list(device_mesh.axis_names)}. "
            f"Received: axis={axis!r}"
        )
    sizes = dict(zip(device_mesh.axis_names, device_mesh.shape))
    if any(size > 1 for name, size in sizes.items() if name != axis) and sizes[axis] > 1:
        # Seen in JAX 0.5.3 on meshes of two axes, whatever the model.
        user_warnings.warn(
            f"`device_mesh` has several devices on more axes than {axis!r}: XLA may then multiply "
            "the gradients of depthwise convolutions, as `ConvBlock` has them. "
            f"Received: device_mesh of {sizes}",
        )
    layout_map = keras.distribution.LayoutMap(device_mesh)
    # A leading axis of experts is split; the matrix of one expert stays whole.
    layout_map[EXPERT_KERNELS] = (axis, None, None)
    return layout_map
