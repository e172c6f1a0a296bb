"""One task of a model: what it reads, what it writes, and what it minimizes."""

import keras

from keras_multimodel.argument_checks import not_negative, optional_positive_int, positive_int
from keras_multimodel.layers.modalities.modality_net import ModalityNet
from keras_multimodel.losses import LabelSmoothedCrossentropy
from keras_multimodel.metrics import LogPerplexity, TokenAccuracy, TopKAccuracy


class Task:
    """A named pair of modality nets.

    Args:
        name: key of the task in inputs, outputs, losses and metrics. Not `val` or with `val_` as
            its beginning, which Keras' logs use for validation data.
        inputs: modality net that reads. Tasks with the same net share its weights.
        targets: modality net that writes; may be the same one.
        weight: factor of the task's loss in the joint loss.
        max_input_length: length in positions of the longest input that `generate` takes, or None.
        max_target_length: maximum number of ids that `generate` writes, the end included.
        loss: loss of the task. By default cross-entropy with label smoothing 0.1, averaged over
            real targets.
        metrics: metrics of the task. By default accuracy and log-perplexity, and for classes also
            top-5 accuracy.

    Example:

    ```python
    text = keras_multimodel.layers.TextModality(vocabulary_size=8000, hidden_dim=128)
    keras_multimodel.Task("en_de", inputs=text, targets=text)
    ```

    Raises:
        ValueError: `name` is not a usable key, `inputs` or `targets` is not a modality net, the
            targets are neither ids nor classes, a length is not positive, or `weight` is negative.
    """

    def __init__(
        self,
        name: str,
        inputs: ModalityNet,
        targets: ModalityNet,
        weight: float = 1.0,
        max_input_length: int | None = None,
        max_target_length: int = 64,
        loss: keras.losses.Loss | None = None,
        metrics: list | None = None,
    ):
        # Names become keys of dicts, names of layers, and parts of the names of logs.
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"`name` must be a valid Python identifier. Received: name={name!r}")
        if name == "val" or name.startswith("val_"):
            raise ValueError(
                "`name` must not be 'val' or start with 'val_': Keras logs the loss of validation "
                f"data as 'val_loss'. Received: name={name!r}"
            )
        for argument, net in (("inputs", inputs), ("targets", targets)):
            if not isinstance(net, ModalityNet):
                raise ValueError(
                    f"`{argument}` of task {name!r} must be a ModalityNet. "
                    f"Received: {argument}={net!r}"
                )
        self._check_targets(name, targets)
        self.name = name
        self.inputs = inputs
        self.targets = targets
        self.weight = not_negative("weight", weight)
        self.max_input_length = optional_positive_int("max_input_length", max_input_length)
        self.max_target_length = positive_int("max_target_length", max_target_length)
        self._loss = loss
        self._metrics = metrics

    @staticmethod
    def _check_targets(name, net):
        """Refuses what would be taken for a class: numbers, grids, several labels at once."""
        expected = (None,) if net.autoregressive else ()
        is_int = str(net.example_dtype).lstrip("u").startswith("int")
        if not is_int or tuple(net.example_shape) != expected:
            raise ValueError(
                f"`targets` of task {name!r} must be a net of ids, autoregressive and of integers "
                "of the shape (length,), or a net of classes, of integers of the shape (): other "
                f"targets, such as numbers, are not supported. Received: {type(net).__name__} with "
                f"autoregressive={net.autoregressive}, example_dtype={net.example_dtype!r}, "
                f"example_shape={net.example_shape}"
            )

    @property
    def autoregressive(self) -> bool:
        """Whether the decoder writes the targets one by one."""
        return self.targets.autoregressive

    @property
    def input_nets(self) -> dict[str, ModalityNet]:
        """The keys of the task's dict of inputs, each with the net that reads it."""
        nets = {"inputs": self.inputs}
        return {**nets, "targets": self.targets} if self.autoregressive else nets

    @property
    def input_names(self) -> tuple[str, ...]:
        """Keys of the task's dict of inputs."""
        return tuple(self.input_nets)

    def loss(self) -> keras.losses.Loss:
        """Returns the task's loss."""
        if self._loss is not None:
            return self._loss
        return LabelSmoothedCrossentropy(mask_id=self._mask_id())

    def metrics(self) -> list:
        """Returns the task's metrics: new ones at each call, unless they were given."""
        if self._metrics is not None:
            return list(self._metrics)
        # Metrics have a state: two models of one task must not share them.
        mask_id = self._mask_id()
        metrics = [TokenAccuracy(mask_id=mask_id), LogPerplexity(mask_id=mask_id)]
        return metrics if self.autoregressive else [*metrics, TopKAccuracy(5)]

    def _mask_id(self) -> int | None:
        # Id 0 is padding, class 0 is a class.
        return 0 if self.autoregressive else None

    def get_config(self, modalities: list[ModalityNet]) -> dict:
        """Returns the config, where a modality net is its index in `modalities`."""
        serialize = keras.saving.serialize_keras_object
        places = [id(net) for net in modalities]  # a user's net may define `==` as it likes
        return {
            "name": self.name,
            "inputs": places.index(id(self.inputs)),
            "targets": places.index(id(self.targets)),
            "weight": self.weight,
            "max_input_length": self.max_input_length,
            "max_target_length": self.max_target_length,
            "loss": serialize(self._loss),
            "metrics": serialize(self._metrics),
        }

    @classmethod
    def from_config(cls, config: dict, modalities: list[ModalityNet]) -> "Task":
        """Returns the task whose config has indices in `modalities`."""
        config = dict(config)
        for key in ("inputs", "targets"):
            number = positive_int(key, config[key], minimum=0, maximum=len(modalities) - 1)
            config[key] = modalities[number]
        # None stays None: the defaults are made anew.
        for key in ("loss", "metrics"):
            config[key] = keras.saving.deserialize_keras_object(config[key])
        loss, metrics = config["loss"], config["metrics"]
        if loss is not None and not callable(loss):
            raise ValueError(f"`loss` must be a loss or None. Received: loss={loss!r}")
        if metrics is not None and not isinstance(metrics, list):
            raise ValueError(f"`metrics` must be a list or None. Received: metrics={metrics!r}")
        return cls(**config)


def unique_modalities(tasks: list[Task]) -> list[ModalityNet]:
    """Returns the modality nets of `tasks`, each once, in the order of their first use."""
    nets = [net for task in tasks for net in (task.inputs, task.targets)]
    return list({id(net): net for net in nets}.values())
