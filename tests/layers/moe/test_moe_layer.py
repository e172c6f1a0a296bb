import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_multimodel.layers import BiasBalancedRouter, MoELayer, NoisyTopKRouter, TopKRouter
from tests.layer_contract import run_layer_test
from tests.layers.modalities.conv_res_weights import load, relative_error
from tests.layers.moe import moe_cases
from tests.references import array, layer_norm

GOLDEN = "experts_enc/moe"
few = settings(deadline=None, max_examples=5)
on_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow")
every_layer = pytest.mark.parametrize("name", moe_cases.LAYERS)


def stacked(file, prefix, layer):
    return np.stack([file[f"{prefix}{GOLDEN}_{e}_layer_{layer}"] for e in range(8)])


def golden_arrays(file, prefix):
    """In the order of the layer's trainable weights."""
    return {
        "expert_kernels_in": stacked(file, prefix, 0),
        "expert_kernels_out": stacked(file, prefix, 1),
        "gate": file[f"{prefix}{GOLDEN}_primary_gating_gate"],
        "noise": file[f"{prefix}{GOLDEN}_primary_gating_noise"],
        "scale": file[f"{prefix}{GOLDEN}_norm/layer_norm_scale"],
        "offset": file[f"{prefix}{GOLDEN}_norm/layer_norm_bias"],
    }


def golden_layer(file, monkeypatch):
    layer = MoELayer(12, num_experts=8, top_k=2)
    layer.build((3, 7, 12))
    values = golden_arrays(file, "var/")
    weights = layer.expert_kernels + [layer.router.gate_kernel, layer.router.noise_kernel]
    for weight, value in zip([*weights, layer.norm.scale, layer.norm.offset], values.values()):
        weight.assign(value)
    noise = ops.convert_to_tensor(file["in/noise"])
    monkeypatch.setattr(keras.random, "normal", lambda *_, **__: noise)
    return layer


def test_is_the_authors_layer_in_inference(monkeypatch):
    file = load("vi_moe_a_n8_k2")
    layer = golden_layer(file, monkeypatch)
    y = layer(file["in/x"][:, :, 0])
    assert relative_error(array(y), file["out/y_eval"][:, :, 0]) < 1e-4
    assert layer.losses == []


@pytest.mark.parametrize("jit", [False, True])
def test_is_the_authors_layer_in_training(monkeypatch, jit):
    file = load("vi_moe_a_n8_k2")
    layer = golden_layer(file, monkeypatch)
    upstream = file["in/dy"][:, :, 0]
    monkeypatch.setattr(np.random, "default_rng", lambda _: Given(upstream))
    y, loss, d_x, *gradients = moe_cases.run(layer, file["in/x"][:, :, 0], jit=jit)
    assert relative_error(y, file["out/y_train"][:, :, 0]) < 1e-4
    assert relative_error(100 * loss, file["out/loss_train"]) < 1e-4
    assert relative_error(d_x, file["out/grad/x"][:, :, 0]) < 1e-4
    names = {"expert_kernel_in": "expert_kernels_in", "expert_kernel_out": "expert_kernels_out"}
    names |= {"gate_kernel": "gate", "noise_kernel": "noise", "scale": "scale", "offset": "offset"}
    expected = golden_arrays(file, "out/grad/")
    for weight, gradient in zip(layer.trainable_variables, gradients, strict=True):
        assert relative_error(gradient, expected[names[weight.name]]) < 1e-4, weight.name


class Given:
    """In place of a random generator: draws what it was given."""

    def __init__(self, value):
        self.value = value

    def normal(self, size):
        return self.value


OPTIONS = {
    "plain": {},
    "gated": {"gated": True, "activation": "silu", "intermediate_dim": 12},
    "shared": {"shared_expert_dim": 4, "router": "top_k", "kernel_initializer": "he_normal"},
    "limited": {"capacity_factor": 1.0, "z_loss_weight": 0.1, "router": "switch", "top_k": 1},
    "unbalanced": {"router": "bias_balanced", "balance_loss_weight": 0.0, "causal": True},
    "choosing": {"router": "expert_choice"},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_layer_contract(name):
    options = {"top_k": 2, **OPTIONS[name]}
    seeds = options.get("router", "noisy_top_k") in ("noisy_top_k", "switch")
    run_layer_test(
        MoELayer,
        init_kwargs={"hidden_dim": 8, "num_experts": 4, **options},
        input_shape=(2, 5, 8),
        expected_output_shape=(2, 5, 8),
        expected_num_non_trainable_weights=3 if name == "unbalanced" else 2,
        expected_num_seed_generators=int(seeds),
        expected_num_losses=0,
        supports_masking=True,
    )


def test_takes_single_vectors():
    layer = moe_cases.make("noisy_top_k")
    x = moe_cases.batch()[0]
    flat = array(layer(x.reshape(-1, 8)))
    np.testing.assert_allclose(flat.reshape(x.shape), array(layer(x)), atol=1e-6)


def expert(layer, kernels, x, e):
    """One expert on one token, in float64."""
    values = [array(kernel)[e] for kernel in kernels]
    hidden = x @ values[0]
    if layer.gated:
        gate = x @ values[1]
        hidden = hidden * gate / (1 + np.exp(-gate))
    else:
        hidden = np.maximum(hidden, 0)
    return hidden @ values[-1]


@pytest.mark.parametrize("name", ["noisy_top_k", "top_k_gated", "switch", "bias_balanced"])
def test_matches_numpy_token_by_token(name):
    layer, (x, mask) = moe_cases.make(name), moe_cases.batch()
    routing = layer.router(x, mask=mask)
    tokens, expected = x.reshape(-1, 8).astype("float64"), []
    for token, experts, gates in zip(tokens, array(routing.indices), array(routing.gates)):
        y = token.copy()
        for e, gate in zip(experts.astype(int), gates):
            y += gate * expert(layer, layer.expert_kernels, token, e) if e < 6 else 0
        if layer.shared_kernels:
            y += expert(layer, layer.shared_kernels, token, 0)
        expected.append(layer_norm(y, array(layer.norm.scale), array(layer.norm.offset)))
    y = array(layer(x, mask=mask)).reshape(-1, 8)
    np.testing.assert_allclose(y, expected, atol=1e-4)


def same(results, expected):
    for result, value in zip(results, expected, strict=True):
        np.testing.assert_allclose(result, value, atol=1e-4 * max(1.0, np.abs(value).max()))


@on_tensorflow
@every_layer
def test_jit_gives_the_same_outputs_and_gradients(name):
    compiled = moe_cases.run(moe_cases.make(name), *moe_cases.batch(), jit=True)
    same(compiled, moe_cases.run(moe_cases.make(name), *moe_cases.batch()))


every_way = pytest.mark.parametrize("jit", [False, True])


@every_way
def test_all_tokens_may_pick_one_expert(jit):
    """Nothing is dropped, and the other experts get no gradient."""
    layer = moe_cases.make(MoELayer(8, 6, router=TopKRouter(6, 1)))
    layer.router.gate_kernel.assign(np.eye(8, 6) * [0, 0, 0, 0, 90.0, 0])
    x, _ = moe_cases.batch()
    x[..., 4] = np.abs(x[..., 4]) + 1.0
    y, _, _, *gradients = moe_cases.run(layer, x, jit=jit)
    expected = x + expert(layer, layer.expert_kernels, x.astype("float64"), 4)
    expected = layer_norm(expected, array(layer.norm.scale), array(layer.norm.offset))
    np.testing.assert_allclose(y, expected, atol=1e-4)
    gradients = dict(zip([w.name for w in layer.trainable_variables], gradients))
    for name in ("expert_kernel_in", "expert_kernel_out"):
        assert np.abs(gradients[name][4]).max() > 0
        assert np.abs(np.delete(gradients[name], 4, axis=0)).max() == 0


@every_layer
@few
@given(rows=st.integers(1, 3), length=st.integers(1, 6), more=st.integers(0, 4))
def test_padding_and_the_rest_of_the_batch_change_nothing(name, rows, length, more):
    layer, (x, mask) = moe_cases.make(name), moe_cases.batch(rows, length)
    y = array(layer(x, mask=mask))
    wide = np.pad(x, [(0, 2), (0, more), (0, 0)], constant_values=9.0)
    padded = array(layer(wide, mask=np.pad(mask, [(0, 2), (0, more)])))
    np.testing.assert_allclose(padded[:rows, :length][mask], y[mask], atol=1e-5)
    alone = array(layer(x[:1], mask=mask[:1]))
    np.testing.assert_allclose(alone[mask[:1]], y[:1][mask[:1]], atol=1e-5)


@every_layer
def test_what_padding_holds_changes_no_loss_and_no_gradient(name):
    layer, (x, mask) = moe_cases.make(name), moe_cases.batch()
    other = np.where(mask[..., None], x, 50.0).astype("float32")
    one, two = [moe_cases.run(moe_cases.make(name), values, mask) for values in (x, other)]
    np.testing.assert_allclose(one[1], two[1], rtol=1e-5)
    for weight, a, b in zip(layer.trainable_variables, one[3:], two[3:], strict=True):
        if "kernel" in weight.name and "shared" not in weight.name:
            np.testing.assert_allclose(a, b, atol=1e-4 * max(1.0, np.abs(a).max()))


@every_layer
def test_a_batch_of_padding_is_finite_and_costs_nothing(name):
    x, mask = moe_cases.batch()
    results = moe_cases.run(moe_cases.make(name), x, np.zeros_like(mask))
    assert all(np.isfinite(value).all() for value in results) and results[1] == 0.0


@every_layer
@pytest.mark.parametrize("jit, shape", [(False, (0, 5, 8)), (True, (0, 5, 8)), (False, (2, 0, 8))])
def test_a_batch_without_tokens_gives_one(name, jit, shape):
    """A step may hold no example of a task."""
    x = np.zeros(shape, "float32")
    y, loss, d_x, *gradients = moe_cases.run(moe_cases.make(name), x, x[..., 0] > 0, jit)
    assert y.shape == d_x.shape == x.shape and loss == 0.0
    assert all(np.abs(gradient).max() == 0 for gradient in gradients)


@every_layer
def test_mixed_bfloat16_is_finite(name):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        layer, (x, mask) = moe_cases.make(name), moe_cases.batch()
        mask[0] = False
        y = layer(x, mask=mask, training=True)
    finally:
        keras.config.set_dtype_policy("float32")
    assert np.isfinite(array(ops.cast(y, "float32"))).all()
    for loss in layer.losses:
        assert keras.backend.standardize_dtype(loss.dtype) == "float32"
        assert np.isfinite(array(loss))
    assert layer.router.compute_dtype == "float32"


def test_losses_are_weighted_and_for_training_only():
    x, _ = moe_cases.batch()
    layers = [MoELayer(8, 6, 2, balance_loss_weight=w, router="top_k") for w in (1.0, 0.25)]
    losses = [moe_cases.run(moe_cases.make(layer), x)[1] for layer in layers]
    np.testing.assert_allclose(losses[1], losses[0] / 4, rtol=1e-5)
    layers[0](x)
    assert layers[0].losses == []


def test_z_loss_is_added():
    x, _ = moe_cases.batch()
    layers = [
        MoELayer(8, 6, 2, router="top_k", balance_loss_weight=0.0, z_loss_weight=w)
        for w in (0.0, 0.5)
    ]
    losses = [moe_cases.run(moe_cases.make(layer), x)[1] for layer in layers]
    logits = x.reshape(-1, 8).astype("float64") @ array(layers[1].router.gate_kernel)
    expected = 0.5 * np.mean(np.log(np.exp(logits).sum(1)) ** 2)
    np.testing.assert_allclose(losses, [0.0, expected], rtol=1e-4)


@pytest.mark.parametrize("floatx", ["float32", "float64"])
@pytest.mark.parametrize("policy", ["float64", "mixed_bfloat16"])
def test_losses_have_the_type_that_keras_adds(floatx, policy):
    keras.config.set_floatx(floatx)
    try:
        moe = MoELayer(4, 2, 1, router="top_k", z_loss_weight=0.1, dtype=policy)
        model = keras.Sequential([moe])
        model.compile("sgd", "mse", run_eagerly=True)
        x = np.ones((2, 3, 4))
        history = model.fit(x, x, verbose=0).history
        moe(x, training=True)
    finally:
        keras.config.set_floatx("float32")
    # JAX makes it float32, unless 64 bits are switched on.
    expected = ops.zeros((), floatx).dtype
    assert [loss.dtype for loss in moe.losses] == [expected, expected]
    assert np.isfinite(history["loss"])


def test_capacity_drops_in_training_only():
    """10 tokens, all to expert 0 of 5: at 2.0 times the fair share of 2, four of ten are kept."""
    layer = moe_cases.make(MoELayer(8, 5, router=TopKRouter(5, 1), capacity_factor=2.0))
    layer.router.gate_kernel.assign(np.eye(8, 5) * [90.0, 0, 0, 0, 0])
    x = np.abs(moe_cases.batch(2, 5)[0]) + 1.0
    kept = expert(layer, layer.expert_kernels, x.astype("float64"), 0)
    norm = array(layer.norm.scale), array(layer.norm.offset)
    np.testing.assert_allclose(array(layer(x)), layer_norm(x + kept, *norm), atol=1e-4)
    kept.reshape(10, 8)[4:] = 0.0
    np.testing.assert_allclose(
        array(layer(x, training=True)), layer_norm(x + kept, *norm), atol=1e-4
    )


def fit(layer, epochs=1, seed=0):
    x, mask = moe_cases.batch(16, 6, seed)
    ids = np.where(mask, 1, 0)
    inputs, tokens = keras.Input((None, 8)), keras.Input((None,), dtype="int32")
    outputs = layer(inputs, mask=ops.not_equal(tokens, 0))
    model = keras.Model([inputs, tokens], keras.layers.GlobalAveragePooling1D()(outputs))
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
    targets = np.ones((16, 8), "float32")
    options = {"batch_size": 8, "verbose": 0}
    history = model.fit([x, ids], targets, epochs=epochs, shuffle=False, **options).history
    return model, [x, ids], history, model.evaluate([x, ids], targets, return_dict=True, **options)


def test_fit_shows_what_the_experts_do():
    layer = MoELayer(8, 4, router=TopKRouter(4, 2), capacity_factor=1.0, name="moe")
    model, (x, ids), history, logs = fit(layer, epochs=2)
    names = {"moe_max_load", "moe_min_load", "moe_router_entropy", "moe_dropped_share"}
    assert names < set(history) and names < set(logs)
    assert len(history["moe_max_load"]) == 2 and 0 < history["moe_dropped_share"][0] < 1
    assert logs["moe_dropped_share"] == 0.0
    chosen = array(layer.router(x, mask=ids > 0).indices).astype(int).ravel()
    counts = np.bincount(chosen, minlength=5)[:4]
    np.testing.assert_array_equal(array(layer.expert_tokens), counts)
    assert logs["moe_max_load"] == pytest.approx(counts.max() / counts.mean())
    assert logs["moe_min_load"] == pytest.approx(counts.min() / counts.mean())
    assert 0.5 < logs["moe_router_entropy"] < 1.0
    layer.reset_statistics()
    assert array(layer.expert_tokens).sum() == 0


def test_entropy_of_an_undecided_router_is_one():
    layer = MoELayer(8, 4, 2, name="moe")
    assert fit(layer)[3]["moe_router_entropy"] == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("name", ["top_k_gated", "bias_balanced"])
def test_a_fitted_model_saves_and_loads(name, tmp_path):
    model, inputs, *_ = fit(moe_cases.LAYERS[name]())
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    expected = model.predict(inputs, verbose=0)
    np.testing.assert_allclose(loaded.predict(inputs, verbose=0), expected, atol=1e-6)


def test_its_config_holds_a_router_passed_as_an_instance():
    router = NoisyTopKRouter(6, 3, noise_scale=0.5, seed=7)
    layer = MoELayer(8, 6, router=router)
    copy = MoELayer.from_config(layer.get_config())
    assert copy.top_k == 3 and copy.router.noise_scale == 0.5 and copy.router is not router
    assert copy.get_config() == layer.get_config()


def test_accepts_a_router_that_is_built():
    router = TopKRouter(6, 2)
    router.build((None, None, 8))
    layer = MoELayer(8, 6, router=router)
    layer(moe_cases.batch()[0])
    assert len([w for w in layer.trainable_weights if w.name == "gate_kernel"]) == 1


def test_kernels_of_one_shape_start_different():
    layer = MoELayer(8, 3, 2, gated=True, shared_expert_dim=8)
    layer.build((None, 8))
    kernels = [array(kernel) for kernel in (*layer.expert_kernels, *layer.shared_kernels)]
    experts = [expert for kernel in kernels for expert in kernel]
    assert len(experts) == 12
    for i, expert in enumerate(experts):
        assert all(np.abs(expert - other).max() > 0.1 for other in experts[:i])


def test_experts_start_as_dense_layers_do():
    """Glorot's limit is sqrt(6 / (8 + 12)) = 0.548 however many experts are stacked."""
    layer = MoELayer(8, 50, 2, intermediate_dim=12)
    layer.build((None, 8))
    for kernel in layer.expert_kernels:
        assert 0.54 < np.abs(array(kernel)).max() < 0.548


@pytest.mark.slow
@on_tensorflow
def test_two_replicas_train_as_one_device(strategy):
    """Losses, weights, counters and bias; replicas change turns in each of the two layers."""
    results = []
    for distribution in (None, strategy):
        keras.utils.set_random_seed(0)
        with strategy.scope() if distribution else keras.name_scope("one"):
            routers = (
                NoisyTopKRouter(6, 2, noise_scale=0.0, kernel_initializer="glorot_uniform"),
                BiasBalancedRouter(6, 2, update_rate=0.1),
            )
            weights = {"balance_loss_weight": 0.5, "z_loss_weight": 0.1}
            layers = [MoELayer(8, 6, router=router, **weights) for router in routers]
            model = keras.Sequential([keras.Input((5, 8)), *layers])
            model.compile(keras.optimizers.SGD(0.5), "mse", jit_compile=False)
        x = moe_cases.batch(16)[0]
        history = model.fit(x, x, batch_size=8, epochs=3, shuffle=False, verbose=0).history
        results.append([history["loss"], *[array(w) for w in model.weights]])
    for one, two in zip(*results, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


def test_without_counting_all_weights_are_trainable():
    layer = MoELayer(8, num_experts=4, top_k=2, count_tokens=False)
    layer(np.zeros((1, 3, 8), "float32"), training=True)
    assert not layer.non_trainable_weights
    assert layer.metrics == []
    layer.reset_statistics()
    assert layer.get_config()["count_tokens"] is False
