import keras
import numpy as np
import pytest

import keras_multimodel as kmm
from keras_multimodel.ablation import cost
from keras_multimodel.ablation.matching import match_width

# Batch 2, length 6, width 4 in all of them.
X = np.zeros((2, 6, 4), "float32")
# The products of one example, counted by hand.
LAYERS = {
    "dense": (keras.layers.Dense(5), 6 * 4 * 5),
    "einsum": (keras.layers.EinsumDense("abc,cde->abde", (None, 3, 2)), 6 * 4 * 3 * 2),
    "einsum with dots": (keras.layers.EinsumDense("...c,cd->...d", 3), 6 * 4 * 3),
    "conv": (keras.layers.Conv1D(5, 3), 4 * 3 * 4 * 5),
    "strides": (keras.layers.Conv1D(5, 3, strides=2, padding="same"), 3 * 3 * 4 * 5),
    "groups": (keras.layers.Conv1D(6, 3, groups=2, padding="same"), 6 * 3 * 2 * 6),
    "depthwise": (keras.layers.DepthwiseConv1D(3, padding="same"), 6 * 3 * 4),
    "separable": (keras.layers.SeparableConv1D(5, 3, padding="same"), 6 * (3 * 4 + 4 * 5)),
    "transposed": (keras.layers.Conv1DTranspose(5, 3, strides=2), 6 * 3 * 4 * 5),
    "norm": (keras.layers.LayerNormalization(), 0),
    "lstm": (keras.layers.LSTM(3), 6 * (4 * 12 + 3 * 12)),
    "both ways": (keras.layers.Bidirectional(keras.layers.GRU(3)), 2 * 6 * (4 * 9 + 3 * 9)),
    "feed-forward": (kmm.layers.FeedForward(4, 7), 6 * 2 * 4 * 7),
    # 2 of 5 experts, and the gate (4 x 5).
    "experts": (kmm.layers.MoELayer(4, 5, 2, 7, router="top_k"), 6 * (2 * 2 * 4 * 7 + 4 * 5)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_products_of_a_layer(name):
    layer, expected = LAYERS[name]
    model = keras.Sequential([keras.Input((6, 4)), layer])
    found = cost(model, X)
    assert found.multiplications == expected
    idle = 3 * 2 * 4 * 7 if name == "experts" else 0
    parameters = model.count_params()
    assert (found.parameters, found.active_parameters) == (parameters, parameters - idle)


def test_products_of_attention():
    x, source = keras.Input((6, 4)), keras.Input((3, 4))
    # Projections of queries and of the output at 6 positions, of keys and values at 3; scores.
    expected = 2 * 6 * 16 + 2 * 3 * 16 + 2 * 6 * 3 * 4
    ours = kmm.layers.AttentionBlock(4, num_heads=2)(x, x)
    theirs = keras.layers.MultiHeadAttention(2, key_dim=2)(x, source)
    model = keras.Model([x, source], theirs)
    assert cost(model, [X, X[:, :3]]).multiplications == expected
    # Two convolutions of 5 positions with their pointwise products, and two attentions of 6 to 6.
    convolutions = 2 * 6 * (5 * 4 + 4 * 4)
    model = keras.Model(x, ours)
    assert cost(model, X).multiplications == convolutions + 2 * (4 * 6 * 16 + 2 * 6 * 6 * 4)


def test_products_of_tables():
    ids = np.ones((2, 6), "int32")
    inputs = keras.Input((6,), dtype="int32")
    net = kmm.layers.TextModality(9, 4)
    encoded = net(inputs)
    assert cost(keras.Model(inputs, encoded), ids).multiplications == 0
    scored = keras.Model(inputs, net(encoded, reverse=True))
    assert cost(scored, ids).multiplications == 6 * 9 * 4
    table = keras.layers.ReversibleEmbedding(9, 4)
    both = keras.Model(inputs, table(table(inputs), reverse=True))
    assert cost(both, ids).multiplications == 6 * 9 * 4


def test_products_of_a_model_of_tasks_are_of_the_mean_example():
    text, kind = kmm.layers.TextModality(9, 8), kmm.layers.CategoryModality(2, 8)
    tasks = [kmm.Task("one", text, kind), kmm.Task("two", text, kind)]
    sizes = {"num_encoder_blocks": 0, "num_mixer_blocks": 0, "num_decoder_blocks": 0}
    model = kmm.MultiModel(tasks, 8, moe=kmm.layers.FeedForward(8, 5), **sizes)
    ids = np.ones((2, 6), "int32")
    x = {"one": {"inputs": ids}, "two": {"inputs": ids}}
    single = cost(model.task_model("one"), {"one": {"inputs": ids}}).multiplications
    assert cost(model, x).multiplications == single > 6 * 2 * 8 * 5


def test_the_layers_work_as_before():
    call = keras.layers.Layer.__call__
    with pytest.raises(ValueError):
        cost(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]), np.zeros((2, 4)))
    assert keras.layers.Layer.__call__ is call


@pytest.mark.parametrize("start", [1, 40, 3000])
def test_a_width_is_found(start):
    tried = []

    def measure(width):
        tried.append(width)
        return 3 * width**2 + 100 * width

    target = measure(200)
    width = match_width(start, target, measure)
    assert abs(measure(width) / target - 1) <= 0.02
    assert len(tried) < 14


def test_no_width_is_near_enough():
    message = r"`width` must reach .*100 of the reference, \{1: 64, 2: 128\}"
    with pytest.raises(ValueError, match=message):
        match_width(1, 100, lambda width: 64 * width)


def test_a_width_without_effect_is_refused():
    with pytest.raises(ValueError, match=r"`width` must change .* Received: 50 for .*\[8, "):
        match_width(8, 100.0, lambda width: 50.0)
    assert match_width(8, 100.0, lambda width: 10.0 * (width // 4)) // 4 == 10  # in steps


def test_widths_that_are_refused_are_passed_over():
    def of_heads(width):
        if width % 8:
            raise ValueError(f"8 heads, width {width}")
        return 10.0 * width

    assert match_width(30, 640.0, of_heads) == 64
    with pytest.raises(ValueError, match=r"let it scale.*\{32: 320.0, 40: 400.0\}") as error:
        match_width(30, 360.0, of_heads)
    assert "8 heads, width" in str(error.value.__cause__)

    def broken(width):
        raise ValueError("never")

    with pytest.raises(ValueError, match="never"):
        match_width(30, 360.0, broken)
