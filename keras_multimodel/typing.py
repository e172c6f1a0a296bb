"""Names of types that annotations use throughout the package."""

from typing import Any, TypeAlias

# A tensor of the backend that runs, a symbolic `keras.KerasTensor`, or a NumPy array. Their classes
# share no base, so a checker cannot be told more.
Tensor: TypeAlias = Any

# Nested dicts, lists and tuples of tensors, as caches and batches are.
Nested: TypeAlias = Any

# A shape as Keras hands it to `build`: None for an axis of unknown size. `Any` stands for that
# None, or a checker would ask for a test of None wherever code reads the channels.
Shape: TypeAlias = tuple[int | Any, ...]
