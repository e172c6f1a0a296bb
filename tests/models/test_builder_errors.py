"""What the builder refuses, each by its message: tasks, stacks, blocks, numbers."""

import re

import keras
import numpy as np
import pytest
from keras import ops

from keras_multimodel import MultiModel, Task
from keras_multimodel.layers import (
    AttentionBlock,
    CategoryModality,
    ConvBlock,
    FeedForward,
    ImageModality,
    ModalityNet,
    MoELayer,
    TextModality,
)
from tests.models.small_models import HIDDEN_DIM, build, make_batch, make_tasks


def refuses(expected, received):
    return pytest.raises(ValueError, match=re.escape(expected) + ".*" + re.escape(received))


class Widening(keras.layers.Layer):
    def call(self, inputs):
        return keras.ops.concatenate([inputs, inputs], axis=-1)


class Failing(keras.layers.Layer):
    def call(self, inputs):
        raise KeyError("lost")


class Unclonable(keras.layers.Layer):
    """A block whose config does not suffice to make another."""

    def __init__(self, table, **kwargs):
        super().__init__(**kwargs)
        self.table = table

    def call(self, inputs):
        return inputs

    def get_config(self):
        return super().get_config()


class Backwards(keras.layers.Layer):
    """A block that is not causal, and has nothing by which it could be made so."""

    def call(self, inputs):
        return keras.ops.flip(inputs, axis=1)


def text(hidden_dim=16, **named):
    return TextModality(5, hidden_dim, **named)


@pytest.mark.parametrize(
    "tasks, expected, received",
    [
        ([], "`tasks` must hold at least one task", "tasks=[]"),
        (["copy"], "`tasks` must hold `Task` objects", "'copy'"),
        (
            [Task("a", t := text(), t), Task("b", t, t), Task("a", t, t)],
            "`tasks` must have different names",
            "Received twice: ['a']",
        ),
        (
            [Task("a", ImageModality(24), CategoryModality(3, 16))],
            "`inputs` of task 'a' must have the model's `hidden_dim`",
            "inputs.hidden_dim=24, hidden_dim=16",
        ),
        (
            [Task("a", text(), text(32))],
            "`targets` of task 'a' must have the model's `hidden_dim`",
            "targets.hidden_dim=32, hidden_dim=16",
        ),
    ],
)
def test_tasks(tasks, expected, received):
    with refuses(expected, received):
        build(tasks)


@pytest.mark.parametrize("hidden_dim", [0, 1.5])
def test_hidden_dim(hidden_dim):
    with refuses("`hidden_dim` must be a positive integer", f"hidden_dim={hidden_dim}"):
        MultiModel(make_tasks("copy"), hidden_dim)


def test_an_argument_that_is_misspelt():
    with refuses("Arguments of `MultiModel` must be among ['tasks'", "attention=None"):
        build(make_tasks("copy"), attention=None)
    assert build(make_tasks("topic"), name="own", trainable=False).name == "own"


@pytest.mark.parametrize("name", ["encoder_groups", "decoder_groups"])
@pytest.mark.parametrize("stacks", [[["copy"]], [["copy", "copy"]], [["copy", "speech"], []]])
def test_stacks(name, stacks):
    with refuses(f"`{name}` must hold each of ['copy', 'speech'] exactly once", str(stacks)):
        build(make_tasks("copy", "speech"), **{name: stacks})


def test_a_group_of_one_is_a_name():
    groups = {"encoder_groups": ["copy", "speech"], "decoder_groups": [["copy", "speech"]]}
    assert build(make_tasks("copy", "speech"), **groups).get_config()["encoder_groups"] == [
        ["copy"],
        ["speech"],
    ]
    with refuses("`encoder_groups` must hold each of ['copy', 'speech']", "[['copy']]"):
        build(make_tasks("copy", "speech"), encoder_groups="copy")


@pytest.mark.parametrize("value", [-1, 1.5])
@pytest.mark.parametrize("name", ["num_encoder_blocks", "num_mixer_blocks", "num_decoder_blocks"])
def test_numbers_of_blocks(name, value):
    with refuses(f"`{name}` must", f"Received: {name}={value}"):
        build(make_tasks("copy"), **{name: value})


@pytest.mark.parametrize(
    "argument, block, expected, received",
    [
        ("conv_block", "thick", "must be a layer or None", "conv_block='thick'"),
        ("moe", 4, "must be a layer or None", "moe=4"),
        (
            "conv_block",
            ConvBlock(32),
            "must have the model's `hidden_dim`",
            "conv_block.hidden_dim=32, hidden_dim=16",
        ),
        (
            "attention_block",
            AttentionBlock(8, 2),
            "must have the model's `hidden_dim`",
            "attention_block.hidden_dim=8, hidden_dim=16",
        ),
        ("moe", FeedForward(8), "must have the model's `hidden_dim`", "moe.hidden_dim=8"),
        ("conv_block", Widening(), "must keep the shape", "to (2, 7, 32)"),
        ("moe", keras.layers.Dense(4), "must keep the shape", "to (2, 7, 4)"),
        ("conv_block", Failing(), "must be callable on a tensor", "raised KeyError: "),
        ("conv_block", Unclonable(1), "must be clonable from its config", "raised TypeError: "),
        ("conv_block", Backwards(), "must be causal in the decoder", "changed an earlier output"),
        ("moe", Backwards(), "must be causal in the decoder", "changed an earlier output"),
        (
            "attention_block",
            keras.layers.Bidirectional(keras.layers.GRU(8, return_sequences=True)),
            "must be causal in the decoder",
            "changed an earlier output",
        ),
    ],
)
def test_blocks(argument, block, expected, received):
    with refuses(f"`{argument}` {expected}", received):
        build(make_tasks("copy"), **{argument: block})


def test_a_block_that_sees_all_is_good_enough_without_a_decoder():
    model = build(make_tasks("digits"), conv_block=Backwards())
    assert len(model.body.encoder.blocks) == 2


def test_experts_and_heads():
    with refuses("`top_k` must be at most `num_experts`", "top_k=5, num_experts=4"):
        build(moe=MoELayer(16, num_experts=4, top_k=5))
    with refuses("`num_heads` must divide `hidden_dim`", "num_heads=3, hidden_dim=16"):
        build(attention_block=AttentionBlock(16, num_heads=3))


def test_keys_of_the_logs():
    t = text()
    labels = CategoryModality(7, 16)
    tasks = [Task("a", t, labels), Task("a_top_5", t, t)]
    with refuses("`tasks` must have names that differ in the logs", "'a_top_5_accuracy'"):
        build(tasks)
    own = keras.metrics.SparseCategoricalAccuracy(name="b_accuracy")
    with refuses("`tasks` must have names that differ in the logs", "'a_b_accuracy'"):
        build([Task("a", t, t, metrics=[own]), Task("a_b", t, t)])
    model = build([Task("a", t, t), Task("a_b", t, t)])
    with refuses("`tasks` must have names that differ in the logs", "'a_b_accuracy'"):
        model.compile("sgd", metrics={"a": [own], "a_b": ["accuracy"]})


def test_integers_of_numpy_are_integers():
    import numpy as np

    model = build(
        make_tasks("topic"), num_encoder_blocks=np.int64(1), num_decoder_blocks=np.int32(0)
    )
    assert len(model.body.encoder.blocks) == 1
    assert (
        MultiModel(make_tasks("topic"), np.int64(16), body=model.body).get_config()["hidden_dim"]
        == 16
    )


class Grid(ModalityNet):
    """Pictures of 4 by 4 numbers, of a user who errs."""

    example_shape = (4, 4)

    def __init__(self, encoded=(16, HIDDEN_DIM), mask=None, **attributes):
        super().__init__(HIDDEN_DIM)
        self.encoded, self.mask = encoded, mask
        for name, value in attributes.items():
            setattr(self, name, value)

    def encode(self, inputs, mask=None):
        return ops.zeros((ops.shape(inputs)[0], *self.encoded))

    def padding_mask(self, inputs):
        return self.mask and self.mask(inputs)


@pytest.mark.parametrize(
    "arguments, expected, received",
    [
        ({"encoded": (16, 3)}, "`encode` of Grid must return", "shape=(None, 16, 3), hidden_dim"),
        ({"encoded": (HIDDEN_DIM,)}, "`encode` of Grid must return", "shape=(None, 16), hidden"),
        (
            {"mask": lambda x: x[..., 0] != 0},
            "`padding_mask` of Grid must return",
            "shape=(None, 4), after",
        ),
        (
            {"mask": lambda x: x != 0},
            "`padding_mask` of Grid must return",
            "shape=(None, 4, 4), after",
        ),
        ({"example_shape": None}, "`example_shape` of Grid must be", "example_shape=None"),
        ({"example_shape": 4}, "`example_shape` of Grid must be", "example_shape=4"),
        ({"example_shape": ("4",)}, "`example_shape` of Grid must be", "example_shape=('4',)"),
    ],
)
def test_what_a_net_of_the_user_returns(arguments, expected, received):
    with refuses(expected, received):
        build([Task("grid", Grid(**arguments), CategoryModality(3, HIDDEN_DIM))])


def test_a_net_of_the_user_may_return_a_grid_and_its_mask():
    mask = lambda x: ops.reshape(x, (-1, 16)) != 0  # noqa: E731
    fine = Grid((4, 4, HIDDEN_DIM), mask, example_shape=[4, np.int64(4)])
    assert build([Task("grid", fine, CategoryModality(3, HIDDEN_DIM))]).built


def test_what_trains_is_compiled():
    model = build(make_tasks("topic"))
    x, y = make_batch(model.tasks.values(), (3, 2))
    for method in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match="You must call `compile\\(\\)` before"):
            method(x, y, verbose=0)
