import re

import numpy as np
import pytest

from keras_multimodel import Task
from keras_multimodel.layers import CategoryModality, ModalityNet, TextModality
from keras_multimodel.losses import LabelSmoothedCrossentropy
from keras_multimodel.metrics import LogPerplexity, TokenAccuracy, TopKAccuracy
from keras_multimodel.models.task import unique_modalities

TEXT, CLASSES = TextModality(5, 4), CategoryModality(3, 4)


def test_a_task_that_writes():
    task = Task("copy", TEXT, TEXT)
    assert task.autoregressive and task.input_names == ("inputs", "targets")
    assert isinstance(task.loss(), LabelSmoothedCrossentropy)
    assert (task.loss().label_smoothing, task.loss().mask_id) == (0.1, 0)
    assert [type(metric) for metric in task.metrics()] == [TokenAccuracy, LogPerplexity]
    assert all(metric.mask_id == 0 for metric in task.metrics())


def test_a_task_that_classifies():
    task = Task("topic", TEXT, CLASSES)
    assert not task.autoregressive and task.input_names == ("inputs",)
    assert task.loss().mask_id is None  # class 0 is a class
    kinds = [type(metric) for metric in task.metrics()]
    assert kinds == [TokenAccuracy, LogPerplexity, TopKAccuracy]


def test_metrics_are_new_at_each_call():
    task = Task("copy", TEXT, TEXT)
    assert task.metrics()[0] is not task.metrics()[0]


def test_own_loss_and_metrics_and_the_config():
    loss, metric = LabelSmoothedCrossentropy(0.3), TopKAccuracy(2)
    task = Task("copy", TEXT, CLASSES, 0.5, 7, 9, loss=loss, metrics=[metric])
    assert task.loss() is loss and task.metrics() == [metric]
    again = Task.from_config(task.get_config([CLASSES, TEXT]), [CLASSES, TEXT])
    assert (again.name, again.weight) == ("copy", 0.5)
    assert (again.max_input_length, again.max_target_length) == (7, 9)
    assert again.inputs is TEXT and again.targets is CLASSES
    assert again.loss().label_smoothing == 0.3 and again.metrics()[0].k == 2


def test_unique_modalities_compares_by_identity():
    twin = TextModality(5, 4)
    tasks = [Task("a", TEXT, TEXT), Task("b", twin, CLASSES), Task("c", TEXT, CLASSES)]
    assert [id(net) for net in unique_modalities(tasks)] == [id(TEXT), id(twin), id(CLASSES)]


@pytest.mark.parametrize(
    "arguments, expected, received",
    [
        ({"name": "two words"}, "`name` must be a valid", "name='two words'"),
        ({"name": 3}, "`name` must be a valid", "name=3"),
        ({"inputs": "text"}, "`inputs` of task 'copy' must be a ModalityNet", "inputs='text'"),
        ({"targets": None}, "`targets` of task 'copy' must be a ModalityNet", "targets=None"),
        ({"weight": -1.0}, "`weight` must not be negative", "weight=-1.0"),
        (
            {"max_input_length": 0},
            "`max_input_length` must be a positive integer",
            "max_input_length=0",
        ),
        ({"max_target_length": -3}, "`max_target_length` must be", "max_target_length=-3"),
    ],
)
def test_refuses(arguments, expected, received):
    with pytest.raises(ValueError, match=f"{re.escape(expected)}.*{re.escape(received)}"):
        Task(**{"name": "copy", "inputs": TEXT, "targets": TEXT, **arguments})


@pytest.mark.parametrize("name", ["val", "val_a", "val_"])
def test_refuses_the_prefix_of_validation_data(name):
    message = f"`name` must not be 'val' or start with 'val_'.*Received: name='{name}'"
    with pytest.raises(ValueError, match=message):
        Task(name, TEXT, TEXT)


def test_names_that_only_look_alike_are_taken():
    for name in ("valid", "value_a", "loss", "lr"):
        assert Task(name, TEXT, TEXT).name == name


class Measures(ModalityNet):
    """A target net of a user's own, whose targets are no classes."""

    def decode(self, inputs, mask=None, like=None):
        return inputs[:, 0, :1]


@pytest.mark.parametrize(
    "shape, dtype, autoregressive",
    [((), "float32", False), ((3,), "int32", False), ((None,), "int32", False)]
    + [((None,), "float32", True), ((None, 2), "int32", True)],
)
def test_refuses_targets_that_are_neither_ids_nor_classes(shape, dtype, autoregressive):
    net = Measures(16)
    net.example_shape, net.example_dtype, net.autoregressive = shape, dtype, autoregressive
    with pytest.raises(ValueError, match="`targets` of task 'a' must be a net of ids.*Measures"):
        Task("a", TEXT, net)


def test_integers_of_numpy_are_integers():
    task = Task("a", TEXT, TEXT, max_input_length=np.int64(3), max_target_length=np.int32(4))
    assert type(task.max_input_length) is type(task.max_target_length) is int
