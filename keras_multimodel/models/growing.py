"""A model's life after training: tasks come and go, and parts of it stand still."""

import copy as copying
from collections.abc import Sequence
from typing import Any, TypeVar

import keras

from keras_multimodel.argument_checks import one_of
from keras_multimodel.layers.sublayers import set_trainable
from keras_multimodel.models import graph
from keras_multimodel.models.generating import GeneratingModel
from keras_multimodel.models.net_sizes import copy_net, extended_net
from keras_multimodel.models.task import Task, unique_modalities

Model = TypeVar("Model", bound="GrowingModel")


class GrowingModel(GeneratingModel):
    """The part of a `MultiModel` that makes models of other tasks from it, and freezes parts."""

    _groups: dict[str, Sequence[Sequence[str]]]

    def task_model(self: Model, task: str, copy: bool = False) -> Model:
        """Returns a model of one task that shares this model's weights.

        Args:
            task: name of the task.
            copy: whether to copy the weights instead: the model then has what the task needs and
                nothing of the others, and trains on its own.

        Returns:
            A `MultiModel` of that task alone, not compiled.

        Raises:
            ValueError: `task` is no task of this model.

        Example:

        ```python
        text = kmm.layers.TextModality(50, hidden_dim=32)
        tasks = [kmm.Task(name, text, text) for name in ("copy", "reverse")]
        model = kmm.MultiModel(tasks, hidden_dim=32, moe=None)
        model.task_model("copy", copy=True).save("copy.keras")
        ```
        """
        return self._of([self._task(task)], copy)

    def add_task(self: Model, task: Task, copy: bool = False) -> Model:
        """Returns a model of this model's tasks and one more, for which there are new weights.

        Outputs of the other tasks stay the same until something that they use is trained, which
        `freeze` prevents: to the bit in `generate`, `score` and `task_model`, which compute nothing
        of the new task. In a step with rows of it, products of more rows may round otherwise.

        Args:
            task: the task. Its nets may be nets of this model, whose weights it then shares.
            copy: whether to copy this model's weights. By default both models share them.

        Returns:
            A `MultiModel`, not compiled.

        Raises:
            ValueError: there is a task of that name, or its nets do not fit.

        Example:

        ```python
        text = kmm.layers.TextModality(50, hidden_dim=32)
        model = kmm.MultiModel([kmm.Task("copy", text, text)], hidden_dim=32, moe=None)
        kinds = kmm.layers.CategoryModality(3, hidden_dim=32)
        model = model.add_task(kmm.Task("kind", text, kinds))
        model.freeze()
        model.unfreeze("kind")
        model.compile("adam")  # trains the new weights only
        ```
        """
        if task.name in self._tasks:
            raise ValueError(
                "`task` must have a name of its own beside "
                f"{list(self._tasks)}. Received: task.name={task.name!r}"
            )
        return self._of([*self._tasks.values(), task], copy)

    def remove_task(self: Model, task: str, copy: bool = False) -> Model:
        """Returns a model of this model's tasks but one, without the weights that only it needs.

        Args:
            task: name of the task.
            copy: whether to copy this model's weights. By default both models share them.

        Returns:
            A `MultiModel`, not compiled.

        Raises:
            ValueError: `task` is no task of this model, or its only one.
        """
        removed = self._task(task)
        return self._of([kept for kept in self._tasks.values() if kept is not removed], copy)

    def add_ids(
        self: Model,
        task: str,
        new: int | Sequence[str],
        side: str = "targets",
        copy: bool = False,
    ) -> Model:
        """Returns a model that knows more classes, or more words, in one net of a task.

        Known classes and words keep their ids, and their logits stay the same. Weights of new ones
        are drawn anew. Other tasks that use the net get them, too.

        Args:
            task: name of the task.
            new: names of the classes or words, which the net's preprocessor then knows; without a
                preprocessor how many there are.
            side: which of its nets, `"inputs"` or `"targets"`.
            copy: whether to copy this model's weights. By default both models share all of them but
                those of the net, which are copied.

        Returns:
            A `MultiModel`, not compiled.

        Raises:
            ValueError: `task` or `side` is unknown, the net has no ids, or has adapters or integers
                in place of its weights, or `new` has what it knows already.

        Example:

        ```python
        text = kmm.layers.TextModality(50, hidden_dim=32)
        names = kmm.data.CategoryPreprocessor(["bug", "question"])
        kinds = kmm.layers.CategoryModality(2, hidden_dim=32, preprocessor=names)
        model = kmm.MultiModel([kmm.Task("kind", text, kinds)], hidden_dim=32, moe=None)
        model = model.add_ids("kind", ["praise"])
        ```
        """
        one_of("side", side, ("inputs", "targets"))
        old = getattr(self._task(task), side)
        net = extended_net(old, new)
        tasks = [copying.copy(task) for task in self._tasks.values()]
        for changed in tasks:
            changed.inputs = net if changed.inputs is old else changed.inputs
            changed.targets = net if changed.targets is old else changed.targets
        model = self._of(tasks, copy=False)
        copy_net(old, net)
        return copying.deepcopy(model) if copy else model

    def freeze(self, *parts: str) -> None:
        """Excludes parts from training. Copies and saved files keep that.

        A compiled model has to be compiled again before it is trained.

        Args:
            *parts: keys of `parts`; all of them if none is given.

        Raises:
            ValueError: a part is unknown.
        """
        self._set_trainable(parts, False)

    def unfreeze(self, *parts: str) -> None:
        """Includes parts in training again, as `freeze` excludes them.

        Args:
            *parts: keys of `parts`; all of them if none is given.

        Raises:
            ValueError: a part is unknown.
        """
        self._set_trainable(parts, True)

    @property
    def parts(self) -> dict[str, list[keras.layers.Layer]]:
        """What `freeze` takes: the layers of each part by its name.

        `"encoder"`, `"mixer"` and `"decoder"` are the body, `"experts"` the experts within it.
        The name of a task stands for its command token and the nets that no other task uses,
        `"shared_nets"` for the nets that several use. Parts that would be empty are left out.
        """
        tasks = list(self._tasks.values())
        own: dict[str, list[Any]] = {name: [] for name in self._tasks}
        shared = []
        for net in unique_modalities(tasks):
            users = [t.name for t in tasks if any(net is own for own in unique_modalities([t]))]
            (own[users[0]] if len(users) == 1 else shared).append(net)
        for name in own:
            if self._tasks[name].read_from == "decoder":
                own[name].append(self._body.commands[name])
        for part in {part: None for t in tasks if t.has_parts for part in t.parts}:
            users = [t.name for t in tasks if t.has_parts and part in t.parts]
            (own[users[0]] if len(users) == 1 else shared).append(self._body.parts[part])
        sides = {"encoder": self._body.encoder}
        if any(task.read_from == "decoder" for task in tasks):
            sides |= {"mixer": self._body.mixer, "decoder": self._body.decoder}
        experts = [side.experts for side in sides.values() if getattr(side, "experts", None)]
        body = {name: [side] for name, side in sides.items()}
        found = {**body, "experts": experts, "shared_nets": shared, **own}
        return {name: layers for name, layers in found.items() if layers}

    def _set_trainable(self, names, trainable):
        for layer in self._layers_of(names):
            set_trainable(layer, trainable)
        self.compiled = False  # Keras would train what it was compiled for

    def _layers_of(self, names: Sequence[str]) -> list[keras.layers.Layer]:
        """Returns the layers of some parts, of all if `names` is empty."""
        parts = self.parts
        for name in names:
            if name not in parts:
                raise ValueError(f"`parts` must be of {list(parts)}. Received: {name!r}")
        return [layer for name in names or parts for layer in parts[name]]

    def _of(self, tasks, copy):
        members = {
            "encoder_groups": list(graph.encoder_kinds(tasks)),
            "decoder_groups": list(graph.decoder_kinds(tasks)),
        }
        groups = {}
        for side, old in self._groups.items():
            kept = [[name for name in group if name in members[side]] for group in old]
            grouped = sum(kept, [])
            # A new task has groups of its own: within another's, it would change the padding.
            new = [[name] for name in members[side] if name not in grouped]
            groups[side] = [group for group in kept if group] + new
        model = type(self)(tasks, self._body.hidden_dim, body=self._body, **groups)
        return copying.deepcopy(model) if copy else model
