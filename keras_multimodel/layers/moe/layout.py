"""Where the experts lie when devices share a model."""

import keras

from keras_multimodel import user_warnings

EXPERT_KERNELS = r"^(.*/)?expert_kernel_(in|gate|out)$"


def expert_layout_map(
    device_mesh: keras.distribution.DeviceMesh, axis: str = "model"
) -> keras.distribution.LayoutMap:
    """Spreads the experts of every `MoELayer` over devices, on the JAX backend.

    Each device holds its part of the experts, whole, and of what the optimizer keeps for them; it
    must be an even part: `num_experts` is divided by the size of `axis`. All other weights, routers
    and shared experts among them, are on every device. More entries can be added to the map.

    Args:
        device_mesh: the devices.
        axis: name of the mesh's axis to spread experts over.

    Returns:
        A layout map for `keras.distribution.ModelParallel`.

    Raises:
        ValueError: `axis` is no axis of `device_mesh`.

    Example:

    ```python
    devices = keras.distribution.list_devices()
    mesh = keras.distribution.DeviceMesh((1, len(devices)), ("batch", "model"), devices)
    keras.distribution.set_distribution(
        keras.distribution.ModelParallel(layout_map=kmm.layers.expert_layout_map(mesh))
    )
    model = kmm.MultiModel(tasks, hidden_dim=128)  # made, compiled and fitted as always
    ```
    """
    if axis not in device_mesh.axis_names:
        raise ValueError(
            f"`axis` must be one of the axes of `device_mesh`, {list(device_mesh.axis_names)}. "
            f"Received: axis={axis!r}"
        )
    sizes = dict(zip(device_mesh.axis_names, device_mesh.shape))
    if any(size > 1 for name, size in sizes.items() if name != axis) and sizes[axis] > 1:
        user_warnings.warn(
            f"`device_mesh` has several devices on more axes than {axis!r}: XLA may then multiply "
            "the gradients of depthwise convolutions, as `ConvBlock` has them. "
            f"Received: device_mesh of {sizes}",
        )
    layout_map = keras.distribution.LayoutMap(device_mesh)
    layout_map[EXPERT_KERNELS] = (axis, None, None)
    return layout_map
