import functools

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_multimodel.layers.moe.dispatch import sorted_rows, static_blocks, tensorflow_groups
from keras_multimodel.layers.moe.dispatch.sparse_feed_forward import (
    expert_choice_feed_forward,
    expert_forward,
    sparse_feed_forward,
    within_capacity,
)
from tests.layers.moe.dispatch import expert_cases

every_routing = pytest.mark.parametrize("routing", expert_cases.ROUTINGS)
every_activation = pytest.mark.parametrize("activation", expert_cases.ACTIVATIONS)
on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="jit_compile of tf.function"
)


def activate(name, x):
    x = x.astype("float64")
    if name == "relu":
        return np.maximum(x, 0.0)
    return np.asarray(ops.convert_to_numpy(keras.activations.get(name)(ops.convert_to_tensor(x))))


def reference(x, experts, gates, kernels, activation):
    """Token by token, choice by choice."""
    y = np.zeros(x.shape, "float64")
    for t, k in np.ndindex(*experts.shape):
        e = experts[t, k]
        if e == len(kernels[0]):
            continue
        hidden = activate(activation.removeprefix("gated_"), x[t] @ kernels[-2][e])
        if len(kernels) == 3:
            hidden = hidden * (x[t] @ kernels[0][e])
        y[t] += gates[t, k] * (hidden @ kernels[-1][e])
    return y


@every_routing
@every_activation
def test_matches_numpy(routing, activation):
    x, gates, _, kernels, experts = expert_cases.arrays(routing, activation)
    y = expert_cases.run(routing, activation)[0]
    np.testing.assert_allclose(y, reference(x, experts, gates, kernels, activation), atol=1e-4)


def differences(routing, gates_index, step=1e-2):
    """The gradient to one gate by central differences: the output is linear in the gates."""
    x, gates, upstream, kernels, experts = expert_cases.arrays(routing, "relu")
    values = []
    for sign in (1.0, -1.0):
        moved = gates.copy()
        moved[gates_index] += sign * step
        values.append(np.sum(upstream * reference(x, experts, moved, kernels, "relu")))
    return (values[0] - values[1]) / (2 * step)


def test_the_gradient_to_the_gates_is_that_of_central_differences():
    d_gates = expert_cases.run("mixed", "relu")[2]
    for index in ((0, 0), (5, 1), (12, 0)):
        np.testing.assert_allclose(d_gates[index], differences("mixed", index), rtol=1e-3)


def test_gradients_to_the_kernels_are_zero_for_an_expert_without_tokens():
    _, _, _, d_in, d_out = expert_cases.run("one_expert_takes_all", "relu")
    assert np.abs(d_in[3]).max() > 0.1 and np.abs(d_out[3]).max() > 0.1
    assert (
        np.abs(np.delete(d_in, 3, axis=0)).max() == np.abs(np.delete(d_out, 3, axis=0)).max() == 0
    )


def assert_same(results, expected):
    for result, value in zip(results, expected, strict=True):
        np.testing.assert_allclose(result, value, atol=1e-4 * max(1.0, np.abs(value).max()))


@on_tensorflow
@every_routing
@every_activation
@pytest.mark.parametrize("few", [True, False])
def test_jit_gives_the_same_outputs_and_gradients(routing, activation, few, monkeypatch):
    assert static_blocks.is_few(np.zeros((expert_cases.TOKENS, 1)), np.zeros((1, 2)), 8)
    monkeypatch.setattr(static_blocks, "is_few", lambda *arguments: few)
    compiled = expert_cases.run(routing, activation, jit=True, variant=few)
    assert_same(compiled, expert_cases.run(routing, activation))


def ways():
    """What runs on this backend, or on another one with the same operations."""
    if keras.backend.backend() == "tensorflow":
        backends_own = tensorflow_groups.tensorflow_groups
    else:
        backends_own = sorted_rows.sorted_rows
    return backends_own, static_blocks.static_blocks, static_blocks.all_experts


def run_way(way, x, experts, gates, kernels):
    arrays = [ops.convert_to_tensor(a) for a in (x, experts, gates)]
    kernels = [ops.convert_to_tensor(kernel) for kernel in kernels]
    forward = functools.partial(expert_forward, activation=keras.activations.relu)
    return ops.convert_to_numpy(way(*arrays, kernels, forward))


@every_routing
def test_the_ways_to_compute_agree(routing):
    x, gates, _, kernels, experts = expert_cases.arrays(routing, "relu")
    expected = reference(x, experts, gates, kernels, "relu")
    for way in ways():
        y = run_way(way, x, experts, gates, kernels)
        np.testing.assert_allclose(y, expected, atol=1e-4)


@settings(deadline=None, max_examples=10)
@given(
    tokens=st.integers(0, 20), experts=st.integers(1, 9), top_k=st.integers(1, 3), data=st.data()
)
def test_any_routing_is_carried_out(tokens, experts, top_k, data):
    seed = data.draw(st.integers(0, 1000))
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(tokens, 4)).astype("float32")
    kernels = [draw.normal(size=(experts, 4, 4)).astype("float32") for _ in range(2)]
    chosen = draw.integers(0, experts + 1, (tokens, top_k)).astype("int32")
    gates = draw.normal(size=(tokens, top_k)).astype("float32")
    y = sparse_feed_forward(
        ops.convert_to_tensor(x),
        ops.convert_to_tensor(chosen),
        ops.convert_to_tensor(gates),
        [ops.convert_to_tensor(kernel) for kernel in kernels],
        keras.activations.relu,
    )
    expected = reference(x, chosen, gates, kernels, "relu")
    np.testing.assert_allclose(ops.convert_to_numpy(y), expected, atol=1e-4)


@pytest.mark.parametrize(
    "tokens, num_experts, top_k, few",
    [(2, 8, 4, True), (16, 16, 4, True), (1, 8, 4, False), (17, 8, 4, False), (16, 17, 4, False)]
    + [(None, 8, 4, False)],
)
def test_which_tokens_are_few(tokens, num_experts, top_k, few):
    x, experts = keras.KerasTensor((tokens, 8)), keras.KerasTensor((tokens, top_k))
    assert static_blocks.is_few(x, experts, num_experts) == few


def test_an_expert_has_no_say_in_tokens_that_did_not_choose_it():
    x, gates, _, kernels, experts = expert_cases.arrays("one_expert_takes_all", "relu")
    kernels = [np.where(np.arange(5)[:, None, None] == 3, kernel, np.nan) for kernel in kernels]
    y = run_way(static_blocks.all_experts, x, experts, gates, kernels)
    expected = reference(x, experts, gates, kernels, "relu")
    np.testing.assert_allclose(y, expected, atol=1e-4)


def test_experts_that_choose_tokens():
    """Token 2 is chosen by both experts, token 0 by one, token 1 by none."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(3, 4)).astype("float32")
    kernels = [draw.normal(size=(2, 4, 4)).astype("float32") for _ in range(2)]
    gates = np.array([[0.5, 2.0], [3.0, 0.0]], "float32")
    y = expert_choice_feed_forward(
        ops.convert_to_tensor(x),
        ops.convert_to_tensor(np.array([[0, 2], [2, 1]], "int32")),
        ops.convert_to_tensor(gates),
        [ops.convert_to_tensor(kernel) for kernel in kernels],
        keras.activations.relu,
    )
    by_token = np.array([[0, 2], [2, 2], [0, 1]]), np.array([[0.5, 0], [0, 0], [2.0, 3.0]])
    expected = reference(x, by_token[0], by_token[1], kernels, "relu")
    np.testing.assert_allclose(ops.convert_to_numpy(y), expected, atol=1e-5)


@on_tensorflow
def test_half_precision_stacks_the_same_gradients():
    """2^-8 is the precision of bfloat16."""
    import tensorflow as tf

    x, gates, upstream, kernels, experts = expert_cases.arrays("mixed", "relu")
    inputs = [tf.cast(value, "bfloat16") for value in (x, gates, *kernels)]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        y = sparse_feed_forward(*inputs[:1], experts, inputs[1], inputs[2:], tf.nn.relu)
        loss = tf.reduce_sum(y * tf.cast(upstream, "bfloat16"))
    expected = expert_cases.run("mixed", "relu")[1:]
    for value, gradient in zip(expected, tape.gradient(loss, inputs)):
        gradient = tf.cast(gradient, "float32").numpy()
        np.testing.assert_allclose(gradient, value, atol=0.05 * np.abs(value).max())


@on_tensorflow
def test_gradients_that_a_graph_reshapes():
    import tensorflow as tf

    x, gates, upstream, kernels, experts = expert_cases.arrays("mixed", "relu")
    weights = [tf.convert_to_tensor(kernel) for kernel in kernels]

    def vector():
        with tf.GradientTape() as tape:
            tape.watch(weights)
            y = sparse_feed_forward(
                tf.constant(x),
                tf.constant(experts),
                tf.constant(gates),
                weights,
                keras.activations.relu,
            )
            loss = tf.reduce_sum(y * upstream)
        return tf.concat([tf.reshape(g, [-1]) for g in tape.gradient(loss, weights)], 0)

    expected = vector()
    for _ in range(5):
        np.testing.assert_allclose(tf.function(vector)(), expected, rtol=1e-5, atol=1e-5)


def kept(experts, num_experts, capacity):
    experts = ops.convert_to_tensor(np.array(experts, "int32"))
    return ops.convert_to_numpy(within_capacity(experts, num_experts, capacity))


def test_first_choices_come_first_then_earlier_tokens():
    """Expert 0 takes two: its first choices, tokens 0 and 2, and no second choice (token 1)."""
    result = kept([[0, 1], [1, 0], [0, 1], [0, 2]], num_experts=3, capacity=2)
    assert result.tolist() == [[True, True], [True, False], [True, False], [False, True]]


@settings(deadline=None, max_examples=10)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=20), st.integers(1, 5))
def test_an_expert_keeps_as_many_as_it_can(experts, capacity):
    result = kept([[e] for e in experts], num_experts=3, capacity=capacity)[:, 0]
    for expert in range(3):
        chosen = np.array(experts) == expert
        assert np.sum(result & chosen) == min(capacity, np.sum(chosen))
