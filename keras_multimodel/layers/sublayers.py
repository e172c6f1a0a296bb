"""What layers that are made of other layers share."""

from typing import Any

import keras


def clone_initializer(initializer: Any) -> Any:
    """Returns an initializer of the same configuration, so that no two weights start equal.

    An initializer without a seed draws one when it is made, and repeats its values after that.
    """
    is_clonable = isinstance(initializer, keras.initializers.Initializer)
    return initializer.clone() if is_clonable else initializer
