import warnings

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_multimodel.layers import (
    BiasBalancedRouter,
    ExpertChoiceRouter,
    NoisyTopKRouter,
    Router,
    SwitchRouter,
    TopKRouter,
)
from tests.layers.modalities.conv_res_weights import load, relative_error
from tests.references import array, softmax

TOP_K_ROUTERS = (NoisyTopKRouter, TopKRouter, BiasBalancedRouter)
ROUTERS = (*TOP_K_ROUTERS, ExpertChoiceRouter, SwitchRouter)
few = settings(deadline=None, max_examples=6)


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def make(router_class, num_experts=6, top_k=2, width=8, **arguments):
    """A router with weights other than zero."""
    if router_class is not SwitchRouter:
        arguments["top_k"] = top_k
    router = router_class(num_experts, **arguments)
    router.build((2, 5, width))
    router.gate_kernel.assign(random(width, num_experts, seed=1))
    return router


def dense_gates(routing, num_experts):
    """`(T, E)`, from a router of tokens."""
    gates = np.zeros((len(routing.indices), num_experts + 1))
    rows = np.arange(len(gates))[:, None]
    gates[rows, ops.convert_to_numpy(routing.indices)] = array(routing.gates)
    return gates[:, :-1]


def golden_router(file):
    router = NoisyTopKRouter(8, 2)
    router.build((37, 10))
    router.set_weights([file["var/g_gate"], file["var/g_noise"]])
    return router


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_noisy_top_k_is_the_authors_gating(mode):
    file = load("v_gating_n8_k2")
    routing = golden_router(file)(file["in/x"], training=mode == "train", noise=file["in/noise"])
    gates = dense_gates(routing, 8)
    assert relative_error(gates, file[f"out/gates_{mode}"]) < 1e-4
    assert relative_error(gates.sum(0), file[f"out/importance_{mode}"]) < 1e-4
    assert relative_error(array(routing.logits), file["out/clean_logits"]) < 1e-4
    loss = file[f"out/cv2_importance_{mode}"] + file[f"out/cv2_load_{mode}"]
    assert relative_error(array(routing.loss), loss) < 1e-4


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_noisy_top_k_has_the_authors_load(mode):
    file = load("v_gating_n8_k2")
    router, loads = golden_router(file), {}
    probability = router._probability_in_top_k

    def spy(*arguments):
        loads["load"] = array(probability(*arguments)).sum(0)
        return probability(*arguments)

    router._probability_in_top_k = spy
    router(file["in/x"], training=mode == "train", noise=file["in/noise"])
    assert relative_error(loads["load"], file[f"out/load_{mode}"]) < 1e-4


def gradients(router, x, noise):
    """Of the router's loss in training, to its weights."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = router(x, training=True, noise=noise).loss
        return tape.gradient(loss, [weight.value for weight in router.trainable_weights])
    if keras.backend.backend() == "jax":
        import jax

        def loss(trainable):
            others = [weight.value for weight in router.non_trainable_variables]
            call = router.stateless_call(trainable, others, x, training=True, noise=noise)
            return call[0].loss

        return jax.grad(loss)([weight.value for weight in router.trainable_weights])
    router(x, training=True, noise=ops.convert_to_tensor(noise)).loss.backward()
    return [weight.value.grad for weight in router.trainable_weights]


def test_noisy_top_k_has_the_authors_gradients():
    file = load("v_gating_n8_k2")
    d_gate, d_noise = gradients(golden_router(file), file["in/x"], file["in/noise"])
    assert relative_error(array(d_gate), file["out/dloss_dgate"]) < 1e-4
    assert relative_error(array(d_noise), file["out/dloss_dnoise"]) < 1e-4


def test_noise_is_for_training_and_can_be_turned_off():
    x = random(2, 5, 8)
    router = make(NoisyTopKRouter, seed=3)
    again = dense_gates(router(x), 6)
    np.testing.assert_array_equal(dense_gates(router(x), 6), again)
    noisy = [dense_gates(router(x, training=True), 6) for _ in range(2)]
    assert np.abs(noisy[0] - noisy[1]).max() > 1e-3
    silent = make(NoisyTopKRouter, noise_scale=0.0)
    np.testing.assert_array_equal(dense_gates(silent(x, training=True), 6), again)


def test_noise_epsilon_is_the_smallest_deviation():
    """With `softplus` of a very negative number 0, the deviation is `noise_epsilon` alone."""
    router = make(NoisyTopKRouter, noise_epsilon=2.0)
    router.noise_kernel.assign(np.full((8, 6), -100.0))
    x, noise = np.abs(random(1, 8)) + 1.0, random(1, 6)
    scores = x @ array(router.gate_kernel) + 2.0 * noise
    routing = router(x, training=True, noise=noise)
    assert set(array(routing.indices)[0]) == set(np.argsort(-scores[0])[:2])


def test_noise_scale_is_in_the_choice_and_in_the_load():
    """Where softplus is 0, twice the noise of deviation 0.3 is noise of deviation 0.6."""
    x, noise, routings = np.abs(random(9, 8)) + 0.5, random(9, 6, seed=2), []
    for scale, epsilon in ((2.0, 0.3), (1.0, 0.6), (1.0, 0.3)):
        router = make(NoisyTopKRouter, noise_scale=scale, noise_epsilon=epsilon)
        router.noise_kernel.assign(np.full((8, 6), -100.0))
        routings.append(router(x, training=True, noise=noise))
    one, two, other = [(dense_gates(r, 6), array(r.loss)) for r in routings]
    np.testing.assert_allclose(one[0], two[0], atol=1e-5)
    np.testing.assert_allclose(one[1], two[1], rtol=1e-5)
    assert np.abs(one[0] - other[0]).max() > 1e-3 and abs(one[1] - other[1]) > 1e-3


def test_top_k_of_all_experts_has_a_loss():
    routing = make(NoisyTopKRouter, num_experts=3, top_k=3)(random(4, 8), training=True)
    assert np.isfinite(array(routing.loss))


def top_two(x, router):
    """Softmax, its two largest and their experts."""
    probabilities = softmax(x.reshape(-1, 8).astype("float64") @ array(router.gate_kernel))
    experts = np.argsort(-probabilities, axis=1)[:, :2]
    return probabilities, experts, np.take_along_axis(probabilities, experts, 1)


@pytest.mark.parametrize("normalize", [True, False])
def test_top_k_matches_numpy(normalize):
    x, router = random(2, 5, 8), make(TopKRouter, normalize=normalize)
    routing = router(x)
    probabilities, experts, gates = top_two(x, router)
    np.testing.assert_array_equal(array(routing.indices), experts)
    if normalize:
        gates = gates / gates.sum(1, keepdims=True)
    np.testing.assert_allclose(array(routing.gates), gates, atol=1e-5)
    share = np.bincount(experts.ravel(), minlength=6) / experts.size
    np.testing.assert_allclose(
        array(routing.loss), 6 * np.sum(share * probabilities.mean(0)), rtol=1e-5
    )


def test_switch_sends_a_token_to_its_most_probable_expert():
    x, router = random(2, 5, 8), make(SwitchRouter)
    routing = router(x)
    probabilities, experts, _ = top_two(x, router)
    np.testing.assert_array_equal(array(routing.indices), experts[:, :1])
    np.testing.assert_allclose(array(routing.gates)[:, 0], probabilities.max(1), atol=1e-5)


def test_jitter_is_for_training():
    x, router = random(2, 5, 8), make(SwitchRouter, jitter=0.5, seed=1)
    np.testing.assert_array_equal(array(router(x).logits), array(router(x).logits))
    change = array(router(x, training=True).logits) - array(router(x).logits)
    assert np.abs(change).max() > 0.1
    still = make(SwitchRouter, jitter=0.0)
    np.testing.assert_array_equal(array(still(x, training=True).logits), array(still(x).logits))


def test_the_bias_moves_against_the_load_and_leaves_the_gates():
    """All tokens prefer experts 0 and 1: their bias falls by the rate, that of others rises."""
    router = make(BiasBalancedRouter, num_experts=4, update_rate=0.25)
    router.gate_kernel.assign(np.tile([4.0, 3.0, 1.0, 0.5], (8, 1)))
    x = np.full((3, 8), 0.125, "float32")  # logits are 4, 3, 1, 0.5
    routing = router(x, training=True)
    np.testing.assert_allclose(array(router.bias), [-0.25, -0.25, 0.25, 0.25])
    scores = 1 / (1 + np.exp([-4.0, -3.0]))
    np.testing.assert_allclose(array(routing.gates), np.tile(scores, (3, 1)), atol=1e-5)
    assert float(array(routing.loss)) == 0.0
    moved = router(x)  # sigmoids plus bias: 0.732, 0.703, 0.981, 0.872
    np.testing.assert_array_equal(array(moved.indices), [[2, 3]] * 3)
    np.testing.assert_allclose(array(router.bias), [-0.25, -0.25, 0.25, 0.25])


def test_the_bias_balances_in_the_end():
    router, x = make(BiasBalancedRouter, update_rate=0.02), random(200, 8)
    for _ in range(60):
        counts = np.bincount(array(router(x, training=True).indices).astype(int).ravel())
    assert counts.max() < 1.2 * counts.mean()


def test_experts_choose_their_best_tokens_of_each_example():
    x, router = random(2, 6, 8), make(ExpertChoiceRouter, num_experts=3, top_k=1)
    mask = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 0, 1, 0, 0]], bool)
    routing = router(x, mask=mask)
    scores = softmax(x.astype("float64") @ array(router.gate_kernel)).transpose(0, 2, 1)
    scores = np.where(mask[:, None], scores, 0.0)
    for expert in range(3):
        chosen = array(routing.indices)[expert].reshape(2, 2)
        gates = array(routing.gates)[expert].reshape(2, 2)
        best = np.argsort(-scores[:, expert], axis=1)[:, :2]
        np.testing.assert_array_equal(chosen[0], best[0])  # ceil(6 * 1 / 3) = 2 of 6 tokens
        np.testing.assert_allclose(gates[0], scores[0, expert, best[0]], atol=1e-5)
        assert chosen[1, 0] == 6 + best[1, 0] and gates[1, 1] == 0.0  # ceil(3 * 1 / 3) = 1 of 3


@pytest.mark.parametrize("router_class", ROUTERS)
@pytest.mark.parametrize("training", [False, True])
def test_padding_takes_no_expert_and_no_part_in_the_loss(router_class, training):
    """Whatever padding holds, and however much there is of it."""
    router = make(router_class, **({"noise_scale": 0.0} if router_class is NoisyTopKRouter else {}))
    if router_class is SwitchRouter:
        router.jitter = 0.0
    x = random(2, 5, 8)
    padded = np.pad(x, [(0, 1), (0, 3), (0, 0)], constant_values=7.0)
    mask = np.pad(np.ones((2, 5), bool), [(0, 1), (0, 3)])
    alone, with_padding = router(x), router(padded, mask=mask, training=training)
    if router_class is ExpertChoiceRouter:
        taken = array(with_padding.indices)[array(with_padding.gates) > 0].astype(int)
        assert mask.ravel()[taken].all()
        return
    if training:
        alone = router(x, training=True)
    empty = array(with_padding.indices)[~mask.ravel()]
    assert (empty == 6).all() and (array(with_padding.gates)[~mask.ravel()] == 0).all()
    np.testing.assert_allclose(array(with_padding.loss), array(alone.loss), rtol=1e-5)


@pytest.mark.parametrize("router_class", ROUTERS)
def test_a_batch_of_padding_has_a_loss_of_zero(router_class):
    routing = make(router_class)(random(2, 5, 8), mask=np.zeros((2, 5), bool), training=True)
    assert float(array(routing.loss)) == 0.0 and np.isfinite(array(routing.gates)).all()


@pytest.mark.parametrize("router_class", (NoisyTopKRouter, TopKRouter, SwitchRouter))
def test_the_loss_is_larger_for_skewed_routing(router_class):
    """Gate weights that send each token to its own expert, and then all tokens to one."""
    options = {} if router_class is SwitchRouter else {"top_k": 1}
    losses = []
    for kernel in (5 * np.eye(4), np.tile([5.0, 0, 0, 0], (4, 1))):
        router = router_class(4, **options)
        router.build((4, 4))
        router.gate_kernel.assign(kernel)
        losses.append(float(array(router(np.eye(4, dtype="float32")).loss)))
    assert losses[0] < losses[1]
    assert losses[0] == pytest.approx(0.0 if router_class is NoisyTopKRouter else 1.0, abs=1e-5)


@few
@given(experts=st.integers(1, 9), data=st.data(), tokens=st.integers(1, 12))
@pytest.mark.parametrize("router_class", TOP_K_ROUTERS)
def test_every_token_takes_top_k_experts(router_class, experts, data, tokens):
    top_k = data.draw(st.integers(1, experts))
    routing = make(router_class, experts, top_k)(random(tokens, 8), training=True)
    chosen = array(routing.indices)
    assert chosen.shape == (tokens, top_k) and chosen.max() < experts
    assert all(len(set(row)) == top_k for row in chosen)


@pytest.mark.parametrize("router_class", ROUTERS)
def test_one_expert_takes_every_token_without_a_warning(router_class):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        routing = make(router_class, num_experts=1, top_k=1)(random(2, 5, 8), training=True)
    gates = array(routing.gates)
    assert (gates > 0).all() and gates.size == 10
    if router_class is not BiasBalancedRouter:  # whose gates are sigmoids
        np.testing.assert_array_equal(gates, np.ones_like(gates))


@pytest.mark.parametrize("router_class", ROUTERS)
def test_runs_in_float32_and_comes_back_from_its_config(router_class):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        router = make(router_class)
        routing = router(ops.cast(random(2, 5, 8), "bfloat16"))
        copy = router_class.from_config(router.get_config())
    finally:
        keras.config.set_dtype_policy("float32")
    for value in (routing.gates, routing.logits, routing.loss):
        assert keras.backend.standardize_dtype(value.dtype) == "float32"
    assert copy.get_config() == router.get_config() and copy.compute_dtype == "float32"


@pytest.mark.parametrize("router_class", ROUTERS)
def test_knows_its_shapes_symbolically(router_class):
    spec = make(router_class)(keras.Input((5, 8), batch_size=2))
    routing = make(router_class)(random(2, 5, 8))
    assert [v.shape for v in spec] == [tuple(v.shape) for v in routing]


@pytest.mark.parametrize(
    "make_router, message",
    [
        (lambda: TopKRouter(0), "`num_experts` must be a positive integer. .*num_experts=0"),
        (lambda: TopKRouter(4, 2.0), "`top_k` must be a positive integer. Received: top_k=2.0"),
        (lambda: TopKRouter(4, True), "`top_k` must be a positive integer. Received: top_k=True"),
        (
            lambda: TopKRouter(4, 5),
            "`top_k` must be at most `num_experts`. .*top_k=5, num_experts=4",
        ),
        (lambda: NoisyTopKRouter(4, 2, noise_scale=-1), "`noise_scale` .*noise_scale=-1"),
        (lambda: NoisyTopKRouter(4, 2, noise_epsilon=-2), "`noise_epsilon` .*noise_epsilon=-2"),
        (lambda: SwitchRouter(4, jitter=-3), "`jitter` must not be negative. Received: jitter=-3"),
        (lambda: BiasBalancedRouter(4, 2, update_rate=-4), "`update_rate` .*update_rate=-4"),
        (lambda: ExpertChoiceRouter(4, 2)(np.zeros((5, 8), "float32")), r"inputs.shape=\(5, 8\)"),
        (lambda: make(ExpertChoiceRouter)(np.zeros((5, 8), "float32")), r"inputs.shape=\(5, 8\)"),
        (lambda: Router(4, 2)(np.zeros((5, 8), "float32")), "`Router` must implement `route`"),
    ],
)
def test_bad_arguments(make_router, message):
    with pytest.raises(ValueError, match=message):
        make_router()
