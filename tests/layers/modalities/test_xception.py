import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_multimodel.layers.modalities.xception import ConvRes
from tests.layer_contract import run_layer_test
from tests.layers.modalities import conv_res_weights as golden
from tests.layers.modalities.conv_res_weights import to_numpy

BLOCKS = ("compress_block_0", "compress_block_1", "compress_block_2", "compress_block_final")


def run_golden_stack(x, prefix, strides, width=3):
    """The four blocks of the golden audio nets: 2, 4, 8 channels and 20."""
    file = golden.load("viii_audio_bottom")
    for name, filters in zip(BLOCKS, (2, 4, 8, 20)):
        block = ConvRes(filters, (3, width), strides, relu_on_shortcut=filters != 20)
        block.build(x.shape)
        golden.set_conv_res(block, file, f"{prefix}/{name}")
        x = block(x)
    return to_numpy(x)


def test_matches_the_authors_code_on_a_wave_of_width_4():
    file = golden.load("viii_audio_bottom")
    x = file["in/wave_w4"].astype("float32") / 255.0
    y = run_golden_stack(x, "var/A/audio_modality", (2, 2))
    assert golden.relative_error(y, file["out/audio_w4"]) < 1e-4


def test_matches_the_authors_code_on_a_spectrogram():
    file = golden.load("viii_audio_bottom")
    x = file["in/spectral_bits"].view("float32")
    y = run_golden_stack(x, "var/S/audio_spectral_modality", (2, 1))
    assert golden.relative_error(y, file["out/spectral"]) < 1e-4


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"kernel_size": (3, 1), "strides": (2, 1), "relu_on_shortcut": False},
        {"kernel_initializer": "he_normal", "strides": 1},
    ],
)
def test_keeps_the_contract_of_layers(kwargs):
    strides = kwargs.get("strides", (2, 2))
    height, width = (6, 4) if strides == 1 else (3, 4 // strides[1])
    run_layer_test(
        ConvRes,
        init_kwargs={"filters": 8, **kwargs},
        input_shape=(2, 6, 4, 5),
        expected_output_shape=(2, height, width, 8),
        expected_num_trainable_weights=11,
        expected_num_non_trainable_weights=0,
        supports_masking=True,
    )


@settings(deadline=None, max_examples=10)
@given(half=st.integers(0, 5), more=st.integers(1, 4), width=st.integers(1, 4), data=st.data())
def test_padded_rows_change_no_real_position(half, more, width, data):
    """Row 0 has an odd or even number of real steps; a second row is all padding."""
    length = data.draw(st.integers(0, 2 * half))
    x = np.random.default_rng(half).normal(size=(2, 2 * half + 2 * more, width, 3))
    mask = np.arange(x.shape[1]) < np.array([[length], [0]])
    block = ConvRes(6, strides=(2, 1))
    block.build(x.shape)
    golden.randomise(block)
    y = to_numpy(block(x, mask=mask))
    changed = np.where(mask[:, :, None, None], x, 9.0)[:, : x.shape[1] - 2 * more + 2]
    z = to_numpy(block(changed, mask=mask[:, : changed.shape[1]]))
    real = -(-length // 2)
    np.testing.assert_allclose(y[:, :real], z[:, :real], atol=1e-5)
    assert np.all(np.isfinite(y))
    assert np.all(y[:, real:] == 0) and np.all(y[1] == 0)


def test_a_full_mask_changes_nothing():
    x = np.random.default_rng(0).normal(size=(2, 7, 3, 4))
    block = ConvRes(5)
    np.testing.assert_allclose(
        to_numpy(block(x)), to_numpy(block(x, mask=np.ones((2, 7), bool))), atol=1e-6
    )


def test_the_mask_follows_the_stride():
    mask = np.array([[True] * 5 + [False] * 2])
    assert to_numpy(ConvRes(4).compute_mask(None, mask)).tolist() == [[True, True, True, False]]
    assert ConvRes(4).compute_mask(None, None) is None


def test_shapes_of_unknown_size():
    block = ConvRes(4)
    assert block.compute_output_shape((None, None, 7, 3)) == (None, None, 4, 4)
    assert block(keras.Input((None, None, 3))).shape == (None, None, None, 4)


def test_finite_in_bfloat16_where_all_is_padding():
    block = ConvRes(4, dtype="mixed_bfloat16")
    y = block(np.ones((2, 4, 4, 3)), mask=np.zeros((2, 4), bool))
    assert np.all(keras.ops.convert_to_numpy(keras.ops.cast(y, "float32")) == 0)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"filters": 0}, "`filters` must be a positive integer. Received: filters=0"),
        ({"filters": 2.5}, "`filters` must .* Received: filters=2.5"),
        ({"filters": 2, "kernel_size": (3, 0)}, r"`kernel_size` must .*kernel_size=\(3, 0\)"),
        ({"filters": 2, "strides": (1, 2, 3)}, r"`strides` must .*strides=\(1, 2, 3\)"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        ConvRes(**kwargs)


def test_bad_rank():
    with pytest.raises(ValueError, match=r"`inputs` must .* inputs.shape=\(2, 3, 4\)"):
        ConvRes(4)(np.ones((2, 3, 4)))
