"""The builder: one model for many tasks."""

from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace

import keras
import numpy as np

from keras_multimodel import _keras_compat
from keras_multimodel.generation.generate import Request
from keras_multimodel.generation.outputs import Generation
from keras_multimodel.layers.attention_block import AttentionBlock
from keras_multimodel.layers.conv_block import ConvBlock
from keras_multimodel.layers.moe.moe_layer import MoELayer
from keras_multimodel.metrics import StepMean
from keras_multimodel.models import graph
from keras_multimodel.models import validation as checks
from keras_multimodel.models.body import Body
from keras_multimodel.models.graph import stacks_of
from keras_multimodel.models.grouping import RowsLike
from keras_multimodel.models.task import Task, unique_modalities
from keras_multimodel.models.training_variables import make_variables
from keras_multimodel.models.variants import VARIANTS
from keras_multimodel.weighting import joint_loss
from keras_multimodel.weighting.gradient_step import clipped_step, clips_on_replicas


@keras.saving.register_keras_serializable(package="keras_multimodel")
class MultiModel(_keras_compat.BuiltBeforeData):
    """One functional model for several tasks, built from blocks that can be swapped.

    Inputs are a dict of dicts: `{task: {"inputs": ..., "targets": ...}}`, with `"targets"` only
    where the decoder writes them one by one; the model shifts them itself, so that no output sees
    the target it predicts. Outputs, losses and metrics are dicts keyed by task name.

    Args:
        tasks: the tasks.
        hidden_dim: width of the body; every modality net and block has it too.
        conv_block: template of the convolution blocks, cloned from its config for every position;
            None for none. In mixer and decoder a `padding` of the config becomes `"causal"`.
        attention_block: template of the attention blocks; None for none: then the mixer adds the
            encoded input.
        moe: template of the experts in the middle of encoder and decoder; None for none.
        num_encoder_blocks: convolution blocks of the encoder.
        num_mixer_blocks: convolution blocks of the mixer.
        num_decoder_blocks: blocks of convolution and attention of the decoder.
        encoder_stacks: lists of names of tasks whose inputs pass the encoder as one batch, padded
            to the longest: faster where lengths are similar. By default tasks with the same kind of
            input.
        decoder_stacks: the same for the decoder. By default tasks with the same target net.
        body: the body of another model, to share its weights; templates and numbers of blocks are
            then not used.
        **kwargs: `name` and `trainable`, as for every Keras model.

    A block is any layer that maps `(batch, length, hidden_dim)` to itself, called with those of
    `mask`, `source`, `source_mask` and `training` that its `call` takes. The string `"default"`
    stands for `ConvBlock(hidden_dim)`, `AttentionBlock(hidden_dim)` and `MoELayer(hidden_dim,
    num_experts=60)`.

    Example:

    ```python
    model = keras_multimodel.MultiModel(tasks, hidden_dim=128)
    model.compile(keras.optimizers.Adam(1e-3, global_clipnorm=2.0))
    model.fit(keras_multimodel.data.mix(datasets, batch_size=64), epochs=10)
    ```

    Raises:
        ValueError: no tasks or two of one name; a modality net or block of another `hidden_dim`; a
            block that changes the shape, or in the decoder sees later inputs; stacks that do not
            hold every task once.

    Reference:
        Kaiser et al. 2017, arXiv 1706.05137.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        hidden_dim: int,
        conv_block: keras.layers.Layer | str | None = "default",
        attention_block: keras.layers.Layer | str | None = "default",
        moe: keras.layers.Layer | str | None = "default",
        num_encoder_blocks: int = 6,
        num_mixer_blocks: int = 2,
        num_decoder_blocks: int = 4,
        encoder_stacks: Sequence[Sequence[str]] | None = None,
        decoder_stacks: Sequence[Sequence[str]] | None = None,
        body: Body | None = None,
        **kwargs,
    ):
        tasks = list(tasks)
        checks.check_tasks(tasks, hidden_dim)
        writers = [task for task in tasks if task.autoregressive]
        encoder_stacks = stacks_of("encoder", encoder_stacks, tasks, lambda t: type(t.inputs))
        decoder_stacks = stacks_of("decoder", decoder_stacks, writers, lambda t: id(t.targets))
        if body is None:
            body = Body(
                hidden_dim,
                [task.name for task in writers],
                conv_block,
                attention_block,
                moe,
                num_encoder_blocks,
                num_mixer_blocks,
                num_decoder_blocks,
            )
        inputs = graph.input_tensors(tasks)
        filled, real = graph.fill_empty_batches(inputs)
        encoded = graph.encode(tasks, encoder_stacks, body.encoder, filled, real)
        outputs = {
            **graph.classify([task for task in tasks if not task.autoregressive], encoded),
            **graph.decode(writers, decoder_stacks, body, filled, encoded),
        }
        outputs = {
            task.name: RowsLike()(outputs[task.name], inputs[task.name]["inputs"]) for task in tasks
        }
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)
        # A namespace hides what it holds from Keras, which would track and save it a second time.
        self._parts = SimpleNamespace(
            tasks={task.name: task for task in tasks},
            body=body,
            stacks={"encoder_stacks": encoder_stacks, "decoder_stacks": decoder_stacks},
            generators={},
        )
        self.task_weighting = None

    @classmethod
    def from_variant(cls, variant: str, tasks: Sequence[Task], **overrides) -> "MultiModel":
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
            "num_encoder_blocks": v.num_encoder_blocks,
            "num_mixer_blocks": v.num_mixer_blocks,
            "num_decoder_blocks": v.num_decoder_blocks,
        }
        return cls(tasks, **{**arguments, **overrides})

    @property
    def tasks(self) -> dict[str, Task]:
        """The tasks by name."""
        return dict(self._parts.tasks)

    @property
    def body(self) -> Body:
        """Encoder, mixer, decoder and command tokens, which all tasks share."""
        return self._parts.body

    def compile(
        self,
        optimizer="adam",
        loss=None,
        loss_weights=None,
        metrics=None,
        weighted_metrics=None,
        task_weighting=None,
        **kwargs,
    ):
        """Configures training as `keras.Model.compile` does; what a task is not given is its own
        default.

        Args:
            optimizer: the optimizer.
            loss: dict from task names to losses.
            loss_weights: dict from task names to factors; the default is `Task.weight`.
            metrics: dict from task names to metrics. With these or `weighted_metrics` given, tasks
                keep no default ones.
            weighted_metrics: dict from task names to metrics that respect sample weights.
            task_weighting: template of a method of `keras_multimodel.training` that chooses further
                factors during training; None for none. `evaluate` reports losses without them.
            **kwargs: as in `keras.Model.compile`.

        Raises:
            ValueError: a dict has a key that is no task, or `task_weighting` does not fit.
        """
        loss = joint_loss.per_task(self.tasks, "loss", loss, Task.loss)
        loss_weights = joint_loss.per_task(
            self.tasks, "loss_weights", loss_weights, lambda task: task.weight
        )
        if metrics is None and weighted_metrics is None:
            weighted_metrics = {name: task.metrics() for name, task in self.tasks.items()}
        weighting = joint_loss.make_weighting(self, task_weighting, loss, loss_weights)
        _keras_compat.untrack(self, self.task_weighting)
        self.task_weighting = weighting
        super().compile(
            optimizer=optimizer,
            loss=loss,
            loss_weights=loss_weights,
            metrics=metrics,
            weighted_metrics=weighted_metrics,
            **kwargs,
        )
        # The config, for Keras would track and save the template as a layer of the model.
        self._task_weighting_config = keras.saving.serialize_keras_object(task_weighting)
        _keras_compat.set_loss_tracker(self, StepMean(name="loss"))

    def get_compile_config(self):
        config = super().get_compile_config()
        return {**config, "task_weighting": self._task_weighting_config} if config else config

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def train_step(self, *args):
        step = super().train_step
        if self.trainable_weights and clips_on_replicas(self.optimizer):
            step = partial(clipped_step, self)
        weighting = self.task_weighting
        return step(*args) if weighting is None else weighting.train_step(self, step, *args)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if self.task_weighting is not None and training:
            losses = joint_loss.task_losses(self, y, y_pred, sample_weight)
            return self.task_weighting.joint_loss(losses) + joint_loss.additional_loss(self)
        if self.task_weighting is not None:
            self.task_weighting.show()
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    def reset_metrics(self):
        super().reset_metrics()
        if self.task_weighting is not None:
            self.task_weighting.end_epoch()

    def __call__(self, inputs, *args, **kwargs):
        if hasattr(self, "_parts"):
            checks.check_inputs(self._parts.tasks, inputs)
        return super().__call__(inputs, *args, **kwargs)

    def fit(self, x=None, y=None, *args, validation_data=None, **kwargs):
        """Trains as `keras.Model.fit` does, after a look at the first batch.

        Args:
            x: data set of `(x, y)` batches, or a dict of arrays.
            y: dict of arrays, if `x` is one.
            *args: as in `keras.Model.fit`.
            validation_data: as in `keras.Model.fit`.
            **kwargs: as in `keras.Model.fit`.

        Returns:
            The history.

        Raises:
            ValueError: the data hold no batch; a batch lacks a task or has an unknown key; an array
                has the wrong rank or dtype or holds ids outside the vocabulary. All before the
                first step.
        """
        x = checks.check_data(self._parts.tasks, x, y)
        if validation_data is not None:
            validation_data = checks.check_validation_data(self._parts.tasks, validation_data)
        if self.compiled:
            self.make_variables()
        if hasattr(x, "element_spec"):
            kwargs.setdefault("shuffle", False)  # it has its own order, and Keras would warn
        return super().fit(x, y, *args, validation_data=validation_data, **kwargs)

    def make_variables(self):
        make_variables(self)

    def evaluate(self, x=None, y=None, *args, **kwargs):
        """Evaluates as `keras.Model.evaluate` does, after a look at the first batch.

        Args:
            x: data set of `(x, y)` batches, or a dict of arrays.
            y: dict of arrays, if `x` is one.
            *args: as in `keras.Model.evaluate`.
            **kwargs: as in `keras.Model.evaluate`.

        Returns:
            The loss and metrics.

        Raises:
            ValueError: as for `fit`.
        """
        if not _keras_compat.is_validation_of_fit(kwargs):  # `fit` has checked it
            x = checks.check_data(self._parts.tasks, x, y)
        return super().evaluate(x, y, *args, **kwargs)

    def task_model(self, task: str) -> "MultiModel":
        """Returns a model of one task that shares this model's weights.

        Args:
            task: name of the task.

        Returns:
            A `MultiModel` of that task alone, not compiled.

        Raises:
            ValueError: `task` is no task of this model.
        """
        return MultiModel([self._task(task)], self.body.hidden_dim, body=self.body)

    def generate(
        self,
        task: str,
        inputs: list,
        sampler="greedy",
        max_length: int | None = None,
        seed: int | list[int] | None = None,
        use_cache: bool = True,
        stream: bool = False,
        constraint="default",
    ) -> Generation:
        """Does a task on raw inputs, each as if it stood alone.

        Args:
            task: name of the task.
            inputs: raw inputs: texts, images, encoded audio, as the preprocessor of the task's
                input net takes them; arrays if it has none.
            sampler: `"greedy"`, `"beam"`, `"random"`, `"top_k"`, `"top_p"`, a sampler of keras-nlp
                or a `keras_multimodel.generation.BeamSearch`. A class is always the most probable.
            max_length: most ids to write, the end included; the default is the task's
                `max_target_length`.
            seed: of random samplers: a list of one for each input, or an integer, to which the
                number of the input is added. By default that of the sampler, or new at each call.
            use_cache: whether to keep what was computed for earlier positions.
            stream: whether to return an iterator instead. It yields lists of one new piece of text
                an input, None where nothing is new; the pieces of an input make up its output. Its
                `ended` tells at every moment which outputs have come to an end.
                Outputs that grow otherwise than texts do come in one piece.
            constraint: a `keras_multimodel.generation.Constraint` on what is written; by default
                that of the target preprocessor, if any: trees are well-formed. None for none.

        Returns:
            A list of one raw output an input: a text, a tree, a class; an array of ids or a class
            number if the target net has no preprocessor. Its attribute `ended` tells which came to
            an end before `max_length`, and after beam search `hypotheses` has the n best.

        Raises:
            ValueError: `task` or `sampler` is unknown, `inputs` is no list or is empty, an input is
                empty, too long or of the wrong kind, or another argument does not fit.
        """
        generator = self._generator(task)
        request = Request(sampler, max_length, seed, use_cache, constraint)
        return generator.stream(inputs, request) if stream else generator(inputs, request)

    def score(self, task: str, inputs: list, targets: list) -> np.ndarray:
        """Returns how probable targets are.

        Args:
            task: name of the task.
            inputs: raw inputs.
            targets: one raw target an input.

        Returns:
            float32 `(n,)`, the log-probability of each whole target, its end included.

        Raises:
            ValueError: as for `generate`, or there are not as many targets as inputs.
        """
        return self._generator(task).score(inputs, targets)

    def _generator(self, name: str):
        task, generators = self._task(name), self._parts.generators
        if name not in generators:
            generators[name] = graph.make_generator(task, self.body)
        return generators[name]

    def _task(self, name: str) -> Task:
        if name not in self._parts.tasks:
            raise ValueError(
                f"`task` must be one of {list(self._parts.tasks)}. Received: task={name!r}"
            )
        return self._parts.tasks[name]

    def get_config(self):
        tasks = list(self._parts.tasks.values())
        modalities = unique_modalities(tasks)
        return {
            "name": self.name,
            "trainable": self.trainable,
            "modalities": [keras.saving.serialize_keras_object(net) for net in modalities],
            "tasks": [task.get_config(modalities) for task in tasks],
            **self.body.config,
            **self._parts.stacks,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        with keras.saving.custom_object_scope(custom_objects or {}):
            modalities = [*map(keras.saving.deserialize_keras_object, config.pop("modalities"))]
            tasks = [Task.from_config(task, modalities) for task in config.pop("tasks")]
            for name in ("conv_block", "attention_block", "moe"):
                config[name] = keras.saving.deserialize_keras_object(config[name])
        return cls(tasks, **config)
