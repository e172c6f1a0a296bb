import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_multimodel.layers.modalities.category import CategoryModality
from tests.layer_contract import run_layer_test
from tests.layers.modalities import conv_res_weights as golden
from tests.layers.modalities.conv_res_weights import to_numpy
from tests.layers.modalities.exit_flow_reference import exit_flow


def make_net(rank=3, width=8, encodes=False, **kwargs):
    net = CategoryModality(7, width, **kwargs)
    net.build_from_config({"encodes": encodes, "rank": rank})
    golden.randomise(net)
    return net


def body_output(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def test_matches_the_authors_code_on_a_grid():
    file = golden.load("vii_class_label_top_2d")
    net = make_net(rank=4, width=16)
    path = "var/class_label_modality_7_16"
    block, flow = f"{path}/conv_block_downsample", net.exit_flow
    flow.shortcut_conv.set_weights([file[f"{block}/res_conv/conv_block_0_std/kernel"]])
    golden.set_norm(flow.shortcut_norm, file, f"{block}/res_conv/conv_block_norm_0")
    for i, (conv, norm) in enumerate(zip(flow.convs, flow.norms)):
        golden.set_separable(conv, file, f"{block}/conv{i}/conv_block_0_std")
        golden.set_norm(norm, file, f"{block}/conv{i}/conv_block_norm_0")
    kernel = file[f"{path}/conv_single/kernel"][0, 0]
    flow.head.set_weights([kernel, file[f"{path}/conv_single/bias"]])
    x = file["in/x"][:, :, 0]
    y = net(x, reverse=True, like=np.zeros((2, 6, 6, 16)))
    assert golden.relative_error(y, file["out/logits"][:, 0, 0, 0]) < 1e-4
    # The builder may have padded the body's input to the length of other tasks.
    padded = np.concatenate([x, np.ones((2, 4, 16))], axis=1)
    mask = np.arange(40)[None] < np.array([[36], [36]])
    y = net(padded, reverse=True, mask=mask, like=np.zeros((2, 6, 6, 16)))
    assert golden.relative_error(y, file["out/logits"][:, 0, 0, 0]) < 1e-4


@pytest.mark.parametrize("shape", [(2, 11, 8), (2, 1, 8), (2, 8, 8), (2, 5, 4, 8), (1, 1, 1, 8)])
def test_matches_the_reference_in_float64(shape):
    net, x = make_net(rank=len(shape)), body_output(*shape)
    flat, like = x.reshape(shape[0], -1, 8), x if len(shape) == 4 else None
    expected = exit_flow(x, net.exit_flow)
    assert golden.relative_error(net(flat, reverse=True, like=like), expected) < 1e-4


@settings(deadline=None, max_examples=12)
@given(length=st.integers(1, 14), more=st.integers(1, 9))
def test_padding_changes_nothing(length, more):
    net, x = make_net(), body_output(2, length, 8)
    padded = np.concatenate([x, body_output(2, more, 8, seed=1)], axis=1)
    padded = np.concatenate([padded, padded[:1]])
    mask = np.arange(length + more)[None] < np.array([[length], [length], [0]])
    y = to_numpy(net(padded, reverse=True, mask=mask))
    np.testing.assert_allclose(y[:2], to_numpy(net(x, reverse=True)), atol=1e-5)
    assert np.all(np.isfinite(y))


def test_what_stands_in_padding_does_not_matter_wherever_it_is():
    net, x = make_net(), body_output(2, 11, 8)
    mask = np.array([[False, True, True, False, True, True, False, True, True, False, False]] * 2)
    changed = np.where(mask[:, :, None], x, 9.0 * body_output(2, 11, 8, seed=1))
    y = to_numpy(net(x, reverse=True, mask=mask))
    np.testing.assert_allclose(y, to_numpy(net(changed, reverse=True, mask=mask)), atol=1e-5)


def test_keeps_the_contract_of_layers():
    run_layer_test(
        CategoryModality,
        init_kwargs={"num_classes": 5, "hidden_dim": 8},
        input_data=np.array([0, 4, 2], "int32"),
        expected_output_shape=(3, 1, 8),
        expected_num_trainable_weights=1,
        expected_num_non_trainable_weights=0,
        supports_masking=True,
    )


@pytest.mark.parametrize("call_kwargs", [{}, {"like": body_output(2, 2, 3, 8)}])
def test_keeps_the_contract_of_layers_in_reverse(call_kwargs):
    like = call_kwargs.get("like")

    class Reversed(CategoryModality):
        def call(self, inputs, mask=None):
            return super().call(inputs, mask=mask, reverse=True, like=like)

        def compute_output_spec(self, inputs, mask=None):
            return super().compute_output_spec(inputs, mask=mask, reverse=True, like=like)

        def build(self, inputs_shape):
            super().build(inputs_shape, None if like is None else like.shape)

    run_layer_test(
        Reversed,
        init_kwargs={"num_classes": 5, "hidden_dim": 8},
        input_shape=(2, 6, 8),
        expected_output_shape=(2, 5),
        # A shortcut of 3, four separable convolutions with a norm (4 each), a head of 2.
        expected_num_trainable_weights=21,
        expected_num_non_trainable_weights=0,
        custom_objects={"Reversed": Reversed},
    )


def test_only_directions_in_use_own_weights():
    net = CategoryModality(7, 8)
    net(np.array([1, 2]))
    assert len(net.weights) == 1
    net(body_output(2, 4, 8), reverse=True)
    assert len(net.weights) == 22
    one_way = CategoryModality(7, 8)
    one_way(body_output(2, 4, 8), reverse=True)
    assert len(one_way.weights) == 21


@pytest.mark.parametrize("encodes, rank", [(True, None), (False, 3), (True, 3), (True, 4)])
def test_a_net_alone_is_restored_with_its_directions(encodes, rank, tmp_path):
    net = make_net(rank=rank, encodes=encodes)
    twin = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(net))
    assert twin.built and [w.path for w in twin.weights] == [w.path for w in net.weights]
    for weight, other in zip(net.weights, twin.weights):
        other.assign(weight)
    if encodes:
        np.testing.assert_allclose(to_numpy(net(np.array([3]))), to_numpy(twin(np.array([3]))))
    if rank:
        like = body_output(2, 2, 2, 8) if rank == 4 else None
        x = body_output(2, 4, 8)
        y = to_numpy(net(x, reverse=True, like=like))
        np.testing.assert_allclose(y, to_numpy(twin(x, reverse=True, like=like)), atol=1e-6)


def test_saves_and_loads_in_a_model_that_uses_both_directions(tmp_path):
    ids = keras.Input((), dtype="int32")
    grid = keras.Input((None, None, 8))
    net = CategoryModality(7, 8)
    flat = keras.layers.Reshape((-1, 8))(grid)
    logits = net(flat + net(ids), reverse=True, like=grid)
    model = keras.Model([ids, grid], logits)
    assert logits.shape == (None, 7) and len(model.weights) == 22
    assert all(weight.path.startswith(net.name) for weight in model.weights)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x = [np.array([1, 6], "int32"), body_output(2, 3, 4, 8)]
    model.fit(x, np.array([0, 5]), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    y = model.predict(x, verbose=0)
    np.testing.assert_allclose(y, loaded.predict(x, verbose=0), atol=1e-6)
    expected = exit_flow(x[1] + to_numpy(net(x[0]))[:, None], net.exit_flow)
    assert golden.relative_error(y, expected) < 1e-4


def test_a_sequence_of_unknown_length_in_a_model():
    sequence, mask = keras.Input((None, 8)), keras.Input((None,), dtype="bool")
    net = CategoryModality(7, 8)
    model = keras.Model([sequence, mask], net(sequence, mask=mask, reverse=True))
    x, real = body_output(2, 9, 8), np.arange(9)[None] < np.array([[9], [4]])
    y = model.predict([x, real], verbose=0)
    np.testing.assert_allclose(y[1:], to_numpy(net(x[1:, :4], reverse=True)), atol=1e-5)
    assert net.compute_mask(x, real) is None


@pytest.mark.parametrize("rank", [3, 4])
def test_finite_in_mixed_precision_where_all_is_padding(rank):
    for policy in ("mixed_bfloat16", "mixed_float16"):
        net = make_net(rank=rank, dtype=policy)
        like = body_output(2, 2, 3, 8) if rank == 4 else None
        x = body_output(2, 6, 8)
        y = net(x, reverse=True, mask=np.zeros((2, 6), bool), like=like)
        assert bool(keras.ops.all(keras.ops.isfinite(keras.ops.cast(y, "float32"))))


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"num_classes": 0}, "`num_classes` must .* num_classes=0"),
        ({"hidden_dim": 0.5}, "`hidden_dim` must .* hidden_dim=0.5"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        CategoryModality(**{"num_classes": 3, "hidden_dim": 8, **kwargs})


@pytest.mark.parametrize("ids", [np.zeros(2, "float32"), np.zeros((2, 1), "int32")])
def test_bad_ids(ids):
    with pytest.raises(ValueError, match=r"`inputs` must be class ids.*inputs.shape=\(2,"):
        CategoryModality(3, 8)(ids)


@pytest.mark.parametrize("shape", [(2, 8), (2, 4, 9), (2, 2, 2, 8)])
def test_bad_body_output(shape):
    with pytest.raises(ValueError, match=r"`inputs` must have .*hidden_dim=8.*inputs.shape=\(2, "):
        CategoryModality(3, 8)(np.zeros(shape, "float32"), reverse=True)


def test_a_body_output_shorter_than_the_grid():
    with pytest.raises(ValueError, match="`inputs` must have at least the 6 positions of `like`"):
        CategoryModality(3, 8)(body_output(2, 5, 8), reverse=True, like=body_output(2, 2, 3, 8))


def test_one_net_reads_grids_or_sequences():
    x, grid = body_output(2, 4, 8), body_output(2, 2, 2, 8)
    net = CategoryModality(3, 8)
    net(x, reverse=True, like=grid)
    with pytest.raises(ValueError, match="`like` must have rank 4, .* like.shape=None"):
        net(x, reverse=True)
    net = CategoryModality(3, 8)
    net(x, reverse=True, like=x)
    with pytest.raises(ValueError, match=r"`like` must .* like.shape=\(2, 2, 2, 8\)"):
        net(x, reverse=True, like=grid)
