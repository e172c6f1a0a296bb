"""One task of a model: what it reads, what it writes, and what it minimizes."""

import itertools
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import keras

from keras_multimodel.argument_checks import (
    not_negative,
    one_of,
    optional_positive_int,
    positive_int,
)
from keras_multimodel.layers.modalities.modality_net import ModalityNet

GIVEN = "given"  # key of the array that says which parts of a row are there


class Given(NamedTuple):
    """What stands in place of a net for the array under `GIVEN`: bool `(batch, parts)`."""

    example_shape: tuple[int]
    example_dtype: str = "bool"
    num_ids: None = None
    nan_is_gap: bool = False


class Task:
    """A named pair of what reads and what writes: modality nets.

    Args:
        name: key of the task in inputs, outputs, losses and metrics. Not `val` or with `val_` as
            its beginning, which Keras' logs use for validation data.
        inputs: modality net that reads, or a dict of several by the names of the parts of a row,
            any of which may be missing in an example. Tasks with the same net share its weights,
            and parts of one name share the learned embedding that marks them.
        targets: modality net that writes; may be the same one.
        weight: factor of the task's loss in the joint loss.
        max_input_length: length in positions of the longest input that `generate` takes, or None.
        max_target_length: maximum number of ids that `generate` writes, the end included.
        loss: loss of the task. By default that of the target net, see `ModalityNet.default_loss`.
        metrics: metrics of the task. By default those of the target net.
        read_from: where a target that is one class or vector is read: `"encoder"`, from the encoded
            input, or `"decoder"`, from a command token that attends to it. By default `"decoder"`
            where there are several parts, which meet there only, and `"encoder"` else.
        rows: name of the rows that the task reads, by default its own. Tasks with the same `rows`
            and `inputs` read each row once: their inputs stand in batches under this name.

    Example:

    ```python
    text = keras_multimodel.layers.TextModality(vocabulary_size=8000, hidden_dim=128)
    keras_multimodel.Task("en_de", inputs=text, targets=text)

    number = keras_multimodel.layers.NumberModality(hidden_dim=128)
    parts = {"title": text, "price": number}
    kinds = keras_multimodel.layers.CategoryModality(10, hidden_dim=128)
    keras_multimodel.Task("kind", inputs=parts, targets=kinds)
    ```

    Raises:
        ValueError: `name`, `rows` or the name of a part is not a usable key, `inputs` or `targets`
            is not a modality net, `read_from` is neither, or not `"decoder"` for ids, the
            targets have a size that varies and are no ids, a length is not positive, or `weight` is
            negative.
    """

    def __init__(
        self,
        name: str,
        inputs: ModalityNet | Mapping[str, ModalityNet],
        targets: ModalityNet,
        weight: float = 1.0,
        max_input_length: int | None = None,
        max_target_length: int = 64,
        loss: keras.losses.Loss | None = None,
        metrics: list | None = None,
        read_from: str | None = None,
        rows: str | None = None,
    ):
        _check_name("name", name)
        if name == "val" or name.startswith("val_"):
            raise ValueError(
                "`name` must not be 'val' or start with 'val_': Keras logs the loss of validation "
                f"data as 'val_loss'. Received: name={name!r}"
            )
        nets = {"inputs": inputs, "targets": targets}
        if isinstance(inputs, Mapping):
            inputs = dict(inputs)
            del nets["inputs"]
            nets.update(self._check_parts(name, inputs))
        for argument, net in nets.items():
            if not isinstance(net, ModalityNet):
                raise ValueError(
                    f"`{argument}` of task {name!r} must be a ModalityNet. "
                    f"Received: {argument}={net!r}"
                )
            sizes = net.example_shape
            if not isinstance(sizes, tuple | list) or any(
                size is not None and not hasattr(size, "__index__") for size in sizes
            ):
                raise ValueError(
                    f"`example_shape` of {type(net).__name__} must be a tuple of sizes, None for "
                    f"one that varies. Received: example_shape={sizes!r}"
                )
        self._check_targets(name, targets)
        self.name = name
        self.inputs = inputs
        self.targets = targets
        self.rows = name if rows is None else _check_name("rows", rows)
        self.read_from = self._place(read_from)
        self.weight = not_negative("weight", weight)
        self.max_input_length = optional_positive_int("max_input_length", max_input_length)
        self.max_target_length = positive_int("max_target_length", max_target_length)
        self._loss = loss
        self._metrics = metrics

    @staticmethod
    def _check_parts(name, parts):
        """Checks the names of parts, and returns their nets by how messages call them."""
        if not parts:
            raise ValueError(
                f"`inputs` of task {name!r} must hold at least one part. Received: inputs={parts}"
            )
        for part in parts:
            if not isinstance(part, str) or not part.isidentifier():
                raise ValueError(
                    f"`inputs` of task {name!r} must have parts whose names are valid Python "
                    f"identifiers. Received: {part!r}"
                )
            if part in (GIVEN, "targets"):
                raise ValueError(
                    f"`inputs` of task {name!r} must not have a part named {GIVEN!r} or 'targets', "
                    f"which batches have beside the parts. Received: {list(parts)}"
                )
        return {f"inputs[{part!r}]": net for part, net in parts.items()}

    def _place(self, read_from):
        if read_from is None:
            several = len(self.parts) > 1
            return "decoder" if self.autoregressive or several else "encoder"
        one_of("read_from", read_from, ("encoder", "decoder"))
        if self.autoregressive and read_from == "encoder":
            raise ValueError(
                f"`read_from` of task {self.name!r} must be 'decoder', which writes its ids. "
                f"Received: read_from={read_from!r}"
            )
        return read_from

    @staticmethod
    def _check_targets(name, net):
        """Refuses what would be taken for a class: grids, or vectors of a net without a loss."""
        if type(net).default_loss is not ModalityNet.default_loss and not net.autoregressive:
            if None not in net.example_shape:
                return
        expected = (None,) if net.autoregressive else ()
        is_int = str(net.example_dtype).lstrip("u").startswith("int")
        if not is_int or tuple(net.example_shape) != expected:
            raise ValueError(
                f"`targets` of task {name!r} must be a net of ids, autoregressive and of integers "
                "of the shape (length,), or a net of classes, of integers of the shape (), or a "
                "net of a fixed size with a `default_loss` of its own. "
                f"Received: {type(net).__name__} with "
                f"autoregressive={net.autoregressive}, example_dtype={net.example_dtype!r}, "
                f"example_shape={net.example_shape}"
            )

    @property
    def autoregressive(self) -> bool:
        """Whether the decoder writes the targets one by one."""
        return self.targets.autoregressive

    @property
    def has_parts(self) -> bool:
        """Whether the inputs are a dict of parts, each of which may be missing."""
        return isinstance(self.inputs, dict)

    @property
    def parts(self) -> dict[str, ModalityNet]:
        """The nets that read, by the keys of their arrays; `"inputs"` for a single one."""
        return self.inputs if isinstance(self.inputs, dict) else {"inputs": self.inputs}

    @property
    def sequences(self) -> dict[str, str]:
        """Key of each part -> name of what the encoder reads of it, as `encoder_groups` has it."""
        if not self.has_parts:
            return {"inputs": self.rows}
        return {part: f"{self.rows}/{part}" for part in self.parts}

    @property
    def input_nets(self) -> dict[str, ModalityNet | Given]:
        """The keys of the task's dict of inputs, each with the net that reads it."""
        nets: dict = dict(self.parts)
        if self.has_parts:
            nets[GIVEN] = Given((len(nets),))
        return {**nets, "targets": self.targets} if self.autoregressive else nets

    @property
    def input_names(self) -> tuple[str, ...]:
        """Keys of the task's dict of inputs."""
        return tuple(self.input_nets)

    def loss(self) -> keras.losses.Loss:
        """Returns the task's loss."""
        return self.targets.default_loss() if self._loss is None else self._loss

    def metrics(self) -> list:
        """Returns the task's metrics: new ones at each call, unless they were given."""
        # Metrics have a state: two models of one task must not share them.
        return self.targets.default_metrics() if self._metrics is None else list(self._metrics)

    def get_config(self, modalities: list[ModalityNet]) -> dict:
        """Returns the config, where a modality net is its index in `modalities`."""
        serialize = keras.saving.serialize_keras_object
        places = [id(net) for net in modalities]  # a user's net may define `==` as it likes
        return {
            "name": self.name,
            # Pairs, since their order is that of the parts in arrays, and JSON may sort keys.
            "inputs": [[part, places.index(id(net))] for part, net in self.inputs.items()]
            if isinstance(self.inputs, dict)
            else places.index(id(self.inputs)),
            "targets": places.index(id(self.targets)),
            "weight": self.weight,
            "max_input_length": self.max_input_length,
            "max_target_length": self.max_target_length,
            "loss": serialize(self._loss),
            "metrics": serialize(self._metrics),
            "read_from": self.read_from,
            "rows": self.rows,
        }

    @classmethod
    def from_config(cls, config: dict, modalities: list[ModalityNet]) -> "Task":
        """Returns the task whose config has indices in `modalities`."""
        config = dict(config)

        def net(key, place):
            return modalities[positive_int(key, place, minimum=0, maximum=len(modalities) - 1)]

        inputs = config["inputs"]
        if isinstance(inputs, list):
            config["inputs"] = {part: net(f"inputs[{part!r}]", place) for part, place in inputs}
        else:
            config["inputs"] = net("inputs", inputs)
        config["targets"] = net("targets", config["targets"])
        # None stays None: the defaults are made anew.
        for key in ("loss", "metrics"):
            config[key] = keras.saving.deserialize_keras_object(config[key])
        loss, metrics = config["loss"], config["metrics"]
        if loss is not None and not callable(loss):
            raise ValueError(f"`loss` must be a loss or None. Received: loss={loss!r}")
        if metrics is not None and not isinstance(metrics, list):
            raise ValueError(f"`metrics` must be a list or None. Received: metrics={metrics!r}")
        return cls(**config)


def unique_modalities(tasks: Iterable[Task]) -> list[ModalityNet]:
    """Returns the modality nets of `tasks`, each once, in the order of their first use."""
    nets = [net for task in tasks for net in (*task.parts.values(), task.targets)]
    return list({id(net): net for net in nets}.values())


def name_apart(tasks: Iterable[Task]) -> None:
    """Renames new modality nets that have the name of another one.

    Keras numbers names in each process anew, so a new net often has the name of a loaded one.

    Args:
        tasks: the tasks of one model.

    Raises:
        ValueError: two nets that other models use, and which are not renamed, have one name.
    """
    nets = unique_modalities(tasks)
    taken = [net.name for net in nets if net.built]
    twice = sorted({name for name in taken if taken.count(name) > 1})
    if twice:
        expected = "`tasks` must have modality nets of different names, see their argument `name`"
        raise ValueError(f"{expected}. Received twice: {twice}")
    for net in [net for net in nets if not net.built]:
        numbered = (f"{net.name}_{number}" for number in itertools.count(1))
        if net.name in taken:
            net.name = next(name for name in numbered if name not in taken)
        taken.append(net.name)


def nets_of_batch(tasks: Iterable[Task]) -> dict[str, dict[str, ModalityNet | Given]]:
    """Returns the keys of a batch of inputs, each with the nets that read its arrays by their keys.

    A key is the name of the rows that one or several tasks read, or that of a task whose ids the
    decoder writes.

    Args:
        tasks: the tasks.
    """
    nets: dict[str, dict] = {}
    for task in tasks:
        for key, net in task.input_nets.items():
            nets.setdefault(task.name if key == "targets" else task.rows, {})[key] = net
    return nets


def _check_name(argument, name):
    # Names become keys of dicts, names of layers, and parts of the names of logs.
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(
            f"`{argument}` must be a valid Python identifier. Received: {argument}={name!r}"
        )
    return name
