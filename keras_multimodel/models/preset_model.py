"""A trained model as a folder for others to use: saving and loading presets."""

import os
from typing import Any, Self

import keras
import numpy as np

from keras_multimodel.argument_checks import one_of
from keras_multimodel.models.config_limits import building_from_config
from keras_multimodel.models.task import Task
from keras_multimodel.presets.folder import read_preset, write_preset
from keras_multimodel.presets.hub import local_preset

_PRESET_FORMAT = "keras_multimodel 1"


class PresetModel(keras.Model):
    """The part of a `MultiModel` that is saved as a preset, and loaded."""

    _tasks: dict[str, Task]
    task_weighting: Any

    def save_to_preset(
        self, folder: str | os.PathLike, dtype: str = "float32", card: str | None = None
    ):
        """Saves the model as a folder that `from_preset` reads: for others to use, not to resume.

        The folder has the config with the vocabularies, the weights, a card and checksums. It has
        no code, and nothing of what `compile` was given.

        Args:
            folder: the folder; created if it does not exist. Files of an older preset are replaced.
            dtype: of matrices on disk, `"float32"` or, for half the size, `"float16"`. Vectors
                (scales, counters) are kept as they are.
            card: the model card in Markdown: data, measures, license, limits. By default a list of
                the tasks.

        Raises:
            ValueError: `folder` is a file, `dtype` is neither of the two, `card` is no text, or a
                weight is too large for `dtype`.

        Example:

        ```python
        text = kmm.layers.TextModality(50, hidden_dim=32)
        model = kmm.MultiModel([kmm.Task("copy", text, text)], hidden_dim=32, moe=None)
        model.save_to_preset("copier", dtype="float16")
        model = kmm.MultiModel.from_preset("copier")
        ```
        """
        one_of("dtype", dtype, ("float32", "float16"))
        if card is not None and not isinstance(card, str):
            raise ValueError(f"`card` must be Markdown, or None. Received: card={card!r}")
        arrays = []
        for weight in _weights_of_layers(self):
            array = keras.ops.convert_to_numpy(weight)
            if keras.backend.is_float_dtype(weight.dtype) and array.ndim > 1:
                with np.errstate(over="ignore"):
                    array, given = array.astype(dtype), array
                if not np.isfinite(array).all() and np.isfinite(given.astype("float32")).all():
                    expected = f"`dtype` must hold the values of `{weight.path}`"
                    largest = float(np.abs(given).max())
                    raise ValueError(f"{expected}, up to {largest:g}. Received: dtype={dtype!r}")
            elif array.dtype == "bfloat16":  # which files of NumPy do not know
                array = array.astype("float32")
            arrays.append(array)
        config = {
            "format": _PRESET_FORMAT,
            "model": keras.saving.serialize_keras_object(self)["config"],
        }
        lines = (f"- `{name}`" for name in self._tasks)
        write_preset(folder, config, arrays, card or "\n".join(["# Tasks", "", *lines, ""]))

    @classmethod
    def from_preset(cls, preset: str | os.PathLike) -> Self:
        """Loads a model that ships with the library, or that `save_to_preset` wrote.

        Runs no code from the folder. A layer of your own must be registered
        (`keras.saving.register_keras_serializable`), and its module imported before.

        Args:
            preset: a name of `kmm.presets.names()`, a folder, or `"hf://user/repository"` on the
                Hugging Face Hub, with `"@revision"` behind it or not.

        Returns:
            The model, not compiled.

        Raises:
            ValueError: there is no such preset, a file of it is missing or was changed, or it is
                of a class or a version of the library that is not known here.
            ModuleNotFoundError: huggingface_hub is needed; `keras-multimodel[hub]` has it.
        """
        config, arrays = read_preset(local_preset(preset))
        try:
            if config["format"] != _PRESET_FORMAT:
                raise ValueError(f"format={config['format']!r} instead of {_PRESET_FORMAT!r}")
            with building_from_config(sum(array.nbytes for array in arrays)):
                model = cls.from_config(config["model"])
            for weight, array in zip(_weights_of_layers(model), arrays, strict=True):
                weight.assign(array)
        # Whatever arrays of another kind raise when they are assigned.
        except Exception as error:
            expected = "`preset` must fit this version of the library and the registered layers"
            received = f"preset={str(preset)!r} ({type(error).__name__}: {error})"
            raise ValueError(f"{expected}. Received: {received}") from error
        return model


def _weights_of_layers(model):
    """Returns the weights without those of `task_weighting`, which are part of training."""
    training = [] if model.task_weighting is None else model.task_weighting.weights
    return [weight for weight in model.weights if all(weight is not own for own in training)]
