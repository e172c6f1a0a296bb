import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_multimodel.layers.modalities.image import ImageModality
from tests.layer_contract import run_layer_test
from tests.layers.modalities import conv_res_weights as golden
from tests.layers.modalities.conv_res_weights import to_numpy


def golden_net(file):
    net = ImageModality(48)
    net.build((None, None, None, 3))
    path = "var/image_modality"
    for i, (conv, norm) in enumerate([(net.conv_0, net.norm_0), (net.conv_1, net.norm_1)]):
        conv.set_weights([file[f"{path}/conv{i}/conv_block_0_single/kernel"]])
        golden.set_norm(norm, file, f"{path}/conv{i}/conv_block_norm_0")
    for i, block in enumerate(net.blocks):
        golden.set_conv_res(block, file, f"{path}/block{i}")
    return net


def test_matches_the_authors_code():
    file = golden.load("vii_image_bottom")
    y = golden_net(file)(file["in/x"])
    assert golden.relative_error(y, file["out/y"]) < 1e-4


def test_bytes_and_floats_of_any_scale_give_the_same():
    file = golden.load("vii_image_bottom")
    net = golden_net(file)
    for x in (file["in/x"].astype("uint8"), file["in/x"] / 255.0):
        assert golden.relative_error(net(x), file["out/y"]) < 1e-3


def test_keeps_the_contract_of_layers():
    run_layer_test(
        ImageModality,
        init_kwargs={"hidden_dim": 16, "image_shape": (12, 9, 1), "num_blocks": 2},
        input_shape=(2, 12, 9, 1),
        expected_output_shape=(2, 2, 2, 16),
        # Two convolutions with a norm (3 each), two blocks (11 each).
        expected_num_trainable_weights=28,
        expected_num_non_trainable_weights=0,
    )


@settings(deadline=None, max_examples=5)
@given(
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    num_blocks=st.integers(1, 4),
    value=st.floats(-300, 300),
)
def test_any_size_and_constant_images(height, width, num_blocks, value):
    net = ImageModality(8, num_blocks=num_blocks)
    y = to_numpy(net(np.full((1, height, width, 3), value, "float32")))
    stride = 2 ** (num_blocks + 1)
    assert y.shape == (1, -(-height // stride), -(-width // stride), 8)
    assert np.all(np.isfinite(y))


def test_an_image_does_not_depend_on_the_others():
    x = np.random.default_rng(0).integers(0, 256, (3, 14, 14, 3))
    net = ImageModality(8, num_blocks=1)
    np.testing.assert_allclose(to_numpy(net(x))[1:2], to_numpy(net(x[1:2])), atol=1e-5)


@pytest.mark.parametrize(
    "hidden_dim, num_blocks, widths",
    [(64, 1, [64]), (200, 3, [128, 200, 200]), (1024, 4, [128, 256, 512, 1024])],
)
def test_widths_of_the_blocks(hidden_dim, num_blocks, widths):
    net = ImageModality(hidden_dim, num_blocks=num_blocks)
    net.build((None, None, None, 3))
    assert [block.filters for block in net.blocks] == widths


def test_finite_in_bfloat16():
    net = ImageModality(8, num_blocks=1, dtype="mixed_bfloat16")
    y = net(np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)))
    assert keras.backend.standardize_dtype(y.dtype) == "bfloat16"
    assert bool(keras.ops.all(keras.ops.isfinite(keras.ops.cast(y, "float32"))))


def test_saves_and_loads_in_a_model_of_unknown_sizes(tmp_path):
    inputs = keras.Input((None, None, 3), dtype="uint8")
    net = ImageModality(8, num_blocks=1)
    model = keras.Model(inputs, net(inputs))
    assert model.output_shape == (None, None, None, 8)
    assert net.example_shape == (None, None, 3) and net.padding_mask(inputs) is None
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    x = np.random.default_rng(0).integers(0, 256, (2, 9, 7, 3)).astype("uint8")
    y = model.predict(x, verbose=0)
    np.testing.assert_allclose(y, loaded.predict(x, verbose=0), atol=1e-6)
    np.testing.assert_allclose(y, to_numpy(net(x)), atol=1e-5)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"hidden_dim": 0}, "`hidden_dim` must .* hidden_dim=0"),
        ({"num_blocks": 0}, "`num_blocks` must .* num_blocks=0"),
        ({"image_shape": (28, 28)}, r"`image_shape` must .* image_shape=\(28, 28\)"),
        ({"image_shape": (8, 8, None)}, r"`image_shape` must .* image_shape=\(8, 8, None\)"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        ImageModality(**{"hidden_dim": 8, **kwargs})


@pytest.mark.parametrize("shape", [(2, 8, 8), (2, 8, 8, 1), (2, 8, 9, 3)])
def test_bad_shapes(shape):
    with pytest.raises(ValueError, match=r"`inputs` must be images .* inputs.shape=\(2, 8, "):
        ImageModality(8, image_shape=(8, 8, 3))(np.ones(shape))


def test_bad_dtype():
    with pytest.raises(ValueError, match="`inputs` must be images .* inputs.dtype=.*bool"):
        ImageModality(8)(np.ones((2, 8, 8, 3), bool))


def test_cannot_be_a_target():
    with pytest.raises(ValueError, match="`ImageModality` cannot be a target"):
        ImageModality(8)(np.ones((2, 3, 8)), reverse=True)
