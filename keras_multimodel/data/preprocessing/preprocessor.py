"""The base of all preprocessors."""

import json

import keras


class Preprocessor:
    """Turns one raw example into the array that a modality net reads, and a prediction back.

    A preprocessor works on one example, eagerly and inside `tf.data`. A modality net holds it, so
    that it is saved with the model, vocabulary included. A subclass implements `__call__`,
    `get_config` and, if predictions have a raw form, `decode`; it is registered with
    `keras.saving.register_keras_serializable` to be saved. Two preprocessors of one class are
    equal if their configs are.

    Call arguments:
        raw: one raw example: a string, bytes, an array, a number, or a tensor of these.

    Returns:
        A tensor.

    Example:

    ```python
    @keras.saving.register_keras_serializable(package="my_package")
    class Halve(kmm.data.Preprocessor):
        def __call__(self, raw):
            return tf.cast(raw, "float32") / 2

    dataset = dataset.map(lambda example: Halve()(example["inputs"]))
    ```
    """

    def __call__(self, raw):
        raise NotImplementedError(f"`{type(self).__name__}` must implement `__call__`.")

    def strict(self, raw):
        """Does what a call does, and refuses raw examples that nothing can be learned from.

        `kmm.data.encode` uses it. A subclass overrides it where a call lets such examples pass, as
        that of audio lets silence pass.

        Args:
            raw: as for a call.

        Returns:
            A tensor.
        """
        return self(raw)

    def unlimited(self):
        """Returns a preprocessor that cuts nothing off: itself unless it has a `max_length`."""
        if getattr(self, "max_length", None) is None:
            return self
        return type(self).from_config({**self.get_config(), "max_length": None})

    def decode(self, prediction, inputs=None):
        """Turns a prediction into its raw form.

        Args:
            prediction: what the model predicts for one example: a class or a sequence of ids.
            inputs: the raw inputs of the example, for the forms that need them.

        Returns:
            A string, a label, or whatever raw targets are.

        Raises:
            ValueError: predictions of this kind have no raw form.
        """
        raise ValueError(
            f"`{type(self).__name__}` prepares inputs only: it has no raw form of a prediction. "
            f"Received: prediction={prediction!r}"
        )

    def get_config(self) -> dict:
        """Returns the constructor's arguments in a form that JSON can hold."""
        return {}

    @classmethod
    def from_config(cls, config: dict):
        """Makes a preprocessor from what `get_config` returned."""
        return cls(**config)

    def __eq__(self, other):
        return type(self) is type(other) and self.get_config() == other.get_config()

    def __hash__(self):
        return hash((type(self), json.dumps(self.get_config(), sort_keys=True)))

    def __reduce__(self):
        return _from_config, (type(self), self.get_config())

    def __repr__(self):
        config = keras.tree.map_structure(_short, self.get_config())
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in config.items())})"


def _from_config(cls, config):
    return cls.from_config(config)


def _short(value):
    return f"{value[:20]}..." if isinstance(value, str) and len(value) > 40 else value
