"""The builder: one model for many tasks."""

import contextlib
import copy
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from keras_multimodel import _keras_compat
from keras_multimodel.layers.attention_block import AttentionBlock
from keras_multimodel.layers.conv_block import ConvBlock
from keras_multimodel.layers.moe.moe_layer import MoELayer
from keras_multimodel.models import graph
from keras_multimodel.models import validation as checks
from keras_multimodel.models.body import Body, Template
from keras_multimodel.models.config_limits import building_from_config, check_config
from keras_multimodel.models.exporting import ExportingModel
from keras_multimodel.models.grouping import UnpadEmptyBatch
from keras_multimodel.models.layer_states import layer_states, set_layer_states
from keras_multimodel.models.preset_model import PresetModel
from keras_multimodel.models.summary import SummaryModel
from keras_multimodel.models.task import Task, name_apart, unique_modalities
from keras_multimodel.models.training import MultiTaskTraining


@dataclass(frozen=True)
class Variant:
    """The numbers of one size of the model.

    Attributes:
        hidden_dim: width of the body.
        num_heads: heads of every attention.
        num_experts: experts in each of the two expert layers.
        top_k: experts that a position uses.
        intermediate_dim: hidden width of one expert.
        dropout: rate after every convolution block.
        num_encoder_blocks: convolution blocks of the encoder.
        num_mixer_blocks: convolution blocks of the mixer.
        num_decoder_blocks: blocks of convolution and attention of the decoder.
    """

    hidden_dim: int
    num_heads: int
    num_experts: int
    top_k: int
    intermediate_dim: int
    dropout: float
    num_encoder_blocks: int = 6
    num_mixer_blocks: int = 2
    num_decoder_blocks: int = 4


VARIANTS = {
    # Trains on eight small tasks within minutes on two CPU cores.
    "tiny": Variant(128, 8, 16, 4, 128, 0.0, 4, 1, 2),
    # For one GPU and some hundred thousand examples.
    "base": Variant(512, 8, 60, 4, 1024, 0.2),
    # The joint model of the paper: k = 4 of 240 experts in each of two layers. The width is that
    # of the authors' code.
    "paper": Variant(1536, 8, 240, 4, 1536, 0.4),
}
"""The sizes that `MultiModel.from_variant` knows, by name: `tiny`, `base` and `paper`."""


@keras.saving.register_keras_serializable(package="keras_multimodel")
class MultiModel(MultiTaskTraining, ExportingModel, PresetModel, SummaryModel):
    """One functional model for several tasks, built from interchangeable blocks.

    Inputs are a dict of dicts: `{task: {"inputs": ..., "targets": ...}}`. Only tasks whose targets
    the decoder writes one by one have `"targets"`, which the model shifts by one position, so that
    no output sees the target that it predicts. A task that reads several parts has an array for
    each in place of `"inputs"`, and `"given"`, bool `(batch, parts)`, False where a part is
    missing. Outputs, losses and metrics are dicts keyed by the name of the task.

    Args:
        tasks: the tasks.
        hidden_dim: width of the body, of every modality net, and of every block.
        conv_block: template of the convolution blocks, cloned from its config for every position,
            or None. In the mixer and decoder, a `padding` in the config becomes `"causal"`.
        attention_block: template of the attention blocks, or None: the mixer then adds the encoded
            input instead.
        moe: template of the experts in the middle of the encoder and decoder, or None.
        num_encoder_blocks: convolution blocks of the encoder.
        num_mixer_blocks: convolution blocks of the mixer.
        num_decoder_blocks: blocks of convolution and attention of the decoder.
        encoder_groups: lists of names of tasks whose inputs pass the encoder as one batch, padded
            to the longest, which is faster where lengths are similar. By default the tasks with one
            kind of input net. Parts are groups' members of their own, such as `"task/title"`.
        decoder_groups: the same for the decoder. By default the tasks with one target net.
        body: the body of another model, whose weights are then shared; `model.body` has it.
            Templates and numbers of blocks are not used. A task that the other model does not have
            gets a command token of its own.
        **kwargs: `name` and `trainable`, as for every Keras model.

    A block is any layer that maps `(batch, length, hidden_dim)` to itself. Of the arguments `mask`,
    `source`, `source_mask` and `training` it gets those that its `call` takes. `"default"` means
    `ConvBlock(hidden_dim)`, `AttentionBlock(hidden_dim)` and `MoELayer(hidden_dim,
    num_experts=60)`.

    Example:

    ```python
    text = kmm.layers.TextModality(vocabulary_size=50, hidden_dim=32)
    tasks = [kmm.Task("copy", inputs=text, targets=text)]
    blocks = {"num_encoder_blocks": 1, "num_mixer_blocks": 1, "num_decoder_blocks": 1}
    model = kmm.MultiModel(tasks, hidden_dim=32, moe=None, **blocks)
    model.compile(keras.optimizers.Adam(1e-3, global_clipnorm=2.0))

    ids = np.random.randint(3, 50, (8, 6))
    x = {"copy": {"inputs": ids, "targets": ids}}
    history = model.fit(x, {"copy": ids}, epochs=1, verbose=0)
    copies = model.generate("copy", list(ids[:2]), max_length=4)
    ```

    Raises:
        ValueError: there is no task, or two tasks have one name or one key in the logs; a modality
            net, block or body has another `hidden_dim`; a block changes the shape, or sees later
            inputs in the decoder; or the groups do not hold every task once.

    Reference:
        Kaiser et al. 2017, arXiv 1706.05137.
    """

    max_config_weights: int | None = 1 << 27
    """The most weights that `from_config` makes where no file says how many there are; or None."""

    @_keras_compat.clonable
    def __init__(
        self,
        tasks: Sequence[Task],
        hidden_dim: int,
        conv_block: Template = "default",
        attention_block: Template = "default",
        moe: Template = "default",
        num_encoder_blocks: int = 6,
        num_mixer_blocks: int = 2,
        num_decoder_blocks: int = 4,
        encoder_groups: Sequence[Sequence[str]] | None = None,
        decoder_groups: Sequence[Sequence[str]] | None = None,
        body: Body | None = None,
        **kwargs,
    ):
        _check_keywords(kwargs)
        tasks = list(tasks)
        hidden_dim = checks.check_tasks(tasks, hidden_dim)
        name_apart(tasks)
        writers = [task for task in tasks if task.read_from == "decoder"]
        parts = [part for task in tasks if task.has_parts for part in task.parts]
        encoder_groups = graph.groups_of("encoder", encoder_groups, graph.encoder_kinds(tasks))
        decoder_groups = graph.groups_of("decoder", decoder_groups, graph.decoder_kinds(tasks))
        names = [task.name for task in writers]
        if body is None:
            sizes = (num_encoder_blocks, num_mixer_blocks, num_decoder_blocks)
            body = Body(hidden_dim, names, conv_block, attention_block, moe, *sizes)
        elif body.hidden_dim != hidden_dim:
            raise ValueError(
                "`body` must have the model's `hidden_dim`. "
                f"Received: body.hidden_dim={body.hidden_dim}, hidden_dim={hidden_dim}"
            )
        body = body.extended(names, parts)
        inputs = graph.input_tensors(tasks)
        filled, real = graph.fill_empty_batches(inputs)
        encoded = graph.encode(tasks, encoder_groups, body, filled, real)
        outputs = {
            **graph.classify([task for task in tasks if task.read_from == "encoder"], encoded),
            **graph.decode(writers, decoder_groups, body, filled, encoded),
        }
        # In the order of the tasks, in which the logs list them.
        outputs = {
            t.name: UnpadEmptyBatch()(outputs[t.name], inputs[t.rows][next(iter(t.parts))])
            for t in tasks
        }
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)
        # Keras tracks and saves only the layers of the graph: tasks, body and generators are not
        # layers, so that nothing in them is saved a second time.
        self._tasks = {task.name: task for task in tasks}
        self._body = body
        self._groups = {"encoder_groups": encoder_groups, "decoder_groups": decoder_groups}
        self._generators = {}
        self.task_weighting = None  # `compile` makes it
        _keras_compat.keep_losses_per_thread(self)

    @classmethod
    def from_variant(cls, variant: str, tasks: Sequence[Task], **overrides: Any) -> "MultiModel":
        """Builds a model of a named size.

        Args:
            variant: a key of `VARIANTS`.
            tasks: the tasks; their modality nets need the variant's `hidden_dim`.
            **overrides: arguments of `MultiModel` that replace the variant's.

        Returns:
            The model.

        Raises:
            ValueError: `variant` is unknown.
        """
        if variant not in VARIANTS:
            raise ValueError(
                f"`variant` must be one of {sorted(VARIANTS)}. Received: variant={variant!r}"
            )
        v = VARIANTS[variant]
        arguments = {
            "hidden_dim": v.hidden_dim,
            "conv_block": ConvBlock(v.hidden_dim, dropout=v.dropout),
            "attention_block": AttentionBlock(v.hidden_dim, v.num_heads),
            "moe": MoELayer(v.hidden_dim, v.num_experts, v.top_k, v.intermediate_dim),
        }
        sizes = ("num_encoder_blocks", "num_mixer_blocks", "num_decoder_blocks")
        arguments.update({name: getattr(v, name) for name in sizes})
        return cls(tasks, **{**arguments, **overrides})

    @property
    def tasks(self) -> dict[str, Task]:
        """The tasks by name."""
        return dict(self._tasks)

    @property
    def body(self) -> Body:
        """Encoder, mixer, decoder and command tokens, which all tasks share."""
        return self._body

    def clone_arguments(self, clone: Callable) -> dict[str, Any]:
        """Returns the arguments of a copy of this model, for `keras.models.clone_model`.

        Args:
            clone: function from a layer to its copy, which gives one copy of each layer.
        """
        tasks = [copy.copy(task) for task in self._tasks.values()]
        for task in tasks:
            nets = {part: clone(net) for part, net in task.parts.items()}
            task.inputs = nets if task.has_parts else nets["inputs"]
            task.targets = clone(task.targets)
        return {
            "tasks": tasks,
            "hidden_dim": self.body.hidden_dim,
            "body": self.body.copy(clone),
            **self._plain_groups(),
        }

    def finish_clone(self, clone: "MultiModel") -> None:
        """Freezes and quantizes in a copy of this model what is frozen or quantized in this one."""
        if not self.trainable:
            clone.trainable = False
        tasks = list(self._tasks.values())
        set_layer_states(list(clone.tasks.values()), clone.body, layer_states(tasks, self.body))

    def get_config(self):
        tasks = list(self._tasks.values())
        modalities = unique_modalities(tasks)
        serialize = keras.saving.serialize_keras_object
        return {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": serialize(self.dtype_policy),
            "modalities": [*map(serialize, modalities)],
            "tasks": [task.get_config(modalities) for task in tasks],
            **self.body.get_config(),
            **self._plain_groups(),
            "layer_states": layer_states(tasks, self.body),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Returns the model of a config, which may come from a file that anybody wrote.

        Args:
            config: what `get_config` returned.
            custom_objects: classes and functions by name, for those that are not registered.

        Raises:
            ValueError: the config is not of this form, or asks for more weights than the file has
                that is being loaded, or, without a file, than `max_config_weights`.
        """
        with building_from_config(without_file=cls.max_config_weights):
            check_config(config)
            return cls._from_config(dict(config), custom_objects)

    @classmethod
    def _from_config(cls, config, custom_objects):
        # The names of the first models that were saved.
        for side in ("encoder", "decoder"):
            if f"{side}_stacks" in config:
                config[f"{side}_groups"] = config.pop(f"{side}_stacks")
        states, trainable = config.pop("layer_states", {}), config.pop("trainable", True)
        deserialize = keras.saving.deserialize_keras_object
        with keras.saving.custom_object_scope(custom_objects or {}):
            # Layers of the graph and of the body have the policy of the process at construction.
            with _dtype_policy(deserialize(config.pop("dtype", None))):
                modalities = [*map(deserialize, config.pop("modalities"))]
                tasks = [Task.from_config(task, modalities) for task in config.pop("tasks")]
                for name in ("conv_block", "attention_block", "moe"):
                    config[name] = deserialize(config[name])
                model = cls(tasks, **config)
            if not trainable:
                model.trainable = False
            set_layer_states(tasks, model.body, states)
        return model

    def _plain_groups(self):
        return {name: [list(group) for group in groups] for name, groups in self._groups.items()}


def check_multimodel(model: Any) -> MultiModel:
    """Returns `model` if it is a `MultiModel`.

    Args:
        model: what was received.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(model, MultiModel):
        raise ValueError(
            "`model` must be a MultiModel, which knows its tasks. "
            f"Received: model of type {type(model).__name__}"
        )
    return model


def _check_keywords(kwargs):
    # Keras drops what it does not know: an ablation would compare a model with itself.
    unknown = [name for name in kwargs if name not in ("name", "trainable")]
    if unknown:
        known = [name for name in inspect.signature(MultiModel).parameters if name != "kwargs"]
        expected = f"Arguments of `MultiModel` must be among {[*known, 'name', 'trainable']}"
        raise ValueError(f"{expected}. Received: {unknown[0]}={kwargs[unknown[0]]!r}")


@contextlib.contextmanager
def _dtype_policy(policy):
    """Makes a policy that of the process for a while, unless it is None."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy or before)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
