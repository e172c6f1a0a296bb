import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_multimodel.layers.modalities.audio import AudioModality
from tests.layer_contract import run_layer_test
from tests.layers.modalities import conv_res_weights as golden
from tests.layers.modalities.conv_res_weights import to_numpy
from tests.layers.modalities.test_xception import BLOCKS


def small_net(num_bins, num_blocks=2, **kwargs):
    channels = [4] * (num_blocks - 1) + [8]
    net = AudioModality(
        8, num_bins=num_bins, num_blocks=num_blocks, channels=channels, stem_channels=3, **kwargs
    )
    net.build((None, None))
    golden.randomise(net)
    return net


def sound(batch, length, num_bins, seed=0):
    shape = (batch, length) if num_bins is None else (batch, length, num_bins)
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def test_matches_the_authors_code_on_a_waveform():
    file = golden.load("viii_audio_bottom")
    net = AudioModality(20, num_blocks=4)
    net.build((None, None))
    for name, block in zip(BLOCKS, net.blocks):
        golden.set_conv_res(block, file, f"var/A/audio_modality/{name}")
    y = net(file["in/wave_w1"][:, :, 0, 0] / 255.0)
    # Normalised over two nearly equal channels: the authors' float32 itself is off by 2e-3.
    assert golden.relative_error(y, file["out/audio_w1"][:, :, 0]) < 5e-3


@pytest.mark.parametrize(
    "kwargs, input_shape, output_shape, num_weights",
    [
        ({"num_blocks": 3}, (2, 20), (2, 3, 8), 33),
        # Three blocks of 11, a stem of 3, a merge of 4.
        (
            {"num_blocks": 3, "num_bins": 5, "channels": (4, 6, 8), "stem_channels": 4},
            (2, 9, 5),
            (2, 2, 8),
            40,
        ),
    ],
)
def test_keeps_the_contract_of_layers(kwargs, input_shape, output_shape, num_weights):
    run_layer_test(
        AudioModality,
        init_kwargs={"hidden_dim": 8, **kwargs},
        input_shape=input_shape,
        expected_output_shape=output_shape,
        expected_num_trainable_weights=num_weights,
        expected_num_non_trainable_weights=0,
        supports_masking=True,
        expected_mask_shape=output_shape[:2],
    )


@settings(deadline=None, max_examples=15)
@given(
    length=st.integers(1, 13),
    more=st.integers(1, 9),
    num_bins=st.sampled_from([None, 1, 3]),
    num_blocks=st.integers(1, 3),
)
def test_padding_changes_no_real_position(length, more, num_bins, num_blocks):
    net = small_net(num_bins, num_blocks)
    x = sound(2, length, num_bins)
    padded = np.concatenate([x, np.zeros_like(x[:, :1]).repeat(more, axis=1)], axis=1)
    padded = np.concatenate([padded, np.zeros_like(padded[:1])])
    y, z = to_numpy(net(x)), to_numpy(net(padded))
    real = -(-length // 2**num_blocks)
    assert y.shape == (2, real, 8)
    np.testing.assert_allclose(y, z[:2, :real], atol=1e-5)
    assert np.all(to_numpy(net.padding_mask(x)))
    mask = to_numpy(net.padding_mask(padded))
    assert mask.shape == z.shape[:2]
    assert np.all(mask[:2, :real]) and not mask[:2, real:].any() and not mask[2].any()
    assert np.all(z[~mask] == 0)


def test_silence_before_a_sound_is_real():
    net = small_net(2, num_blocks=1)
    x = np.zeros((1, 8, 2), "float32")
    x[0, 4, 1] = -1.0
    assert to_numpy(net.padding_mask(x)).tolist() == [[True, True, True, False]]


@pytest.mark.parametrize("num_bins", [None, 3])
def test_everything_real_reaches_the_output(num_bins):
    """No step of an odd length is lost, and two bins that change places change the output."""
    net, x = small_net(num_bins), sound(1, 7, num_bins)
    for step in range(7):
        changed = x.copy()
        changed[:, step] += 2.0
        assert np.max(np.abs(to_numpy(net(x)) - to_numpy(net(changed)))) > 1e-3
    if num_bins:
        assert np.max(np.abs(to_numpy(net(x)) - to_numpy(net(x[:, :, ::-1])))) > 1e-3


def test_default_widths_are_the_papers():
    net = AudioModality(128)
    net.build((None, None))
    assert [block.filters for block in net.blocks] == [2, 4, 8, 16, 32, 64, 128, 128]
    assert net.example_shape == (None,)
    assert AudioModality(8, num_bins=80).example_shape == (None, 80)


@pytest.mark.parametrize("num_bins", [None, 3])
def test_saves_and_loads_in_a_model_of_unknown_length(num_bins, tmp_path):
    net = small_net(num_bins)
    inputs = keras.Input(net.example_shape)
    mask = net.padding_mask(inputs)
    assert mask.shape == (None, None) and keras.backend.standardize_dtype(mask.dtype) == "bool"
    model = keras.Model(inputs, [net(inputs), mask])
    assert model.output_shape[0] == (None, None, 8)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    for length in (5, 8):
        x = sound(2, length, num_bins)
        y, mask = model.predict(x, verbose=0)
        assert y.shape[:2] == mask.shape == (2, 2)
        np.testing.assert_allclose(y, to_numpy(net(x)), atol=1e-5)
        np.testing.assert_allclose(to_numpy(loaded(x)[0]), to_numpy(net(x)), atol=1e-6)


def test_finite_in_bfloat16_and_a_whisper_is_no_padding():
    net = small_net(3, dtype="mixed_bfloat16")
    x = sound(2, 8, 3)
    x[0] *= 1e-42
    x[1] = 0
    y = net(x)
    assert keras.backend.standardize_dtype(y.dtype) == "bfloat16"
    assert bool(keras.ops.all(keras.ops.isfinite(keras.ops.cast(y, "float32"))))


def test_integers_are_read():
    net = small_net(None)
    x = np.array([[3, -2, 0, 1, 0]], "int16")
    np.testing.assert_allclose(to_numpy(net(x)), to_numpy(net(x.astype("float32"))), atol=1e-6)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"hidden_dim": -1}, "`hidden_dim` must .* hidden_dim=-1"),
        ({"num_bins": 0}, "`num_bins` must .* num_bins=0"),
        ({"num_blocks": None}, "`num_blocks` must .* num_blocks=None"),
        ({"stem_channels": 1.5}, "`stem_channels` must .* stem_channels=1.5"),
        ({"num_blocks": 2, "channels": (4, 4, 8)}, r"`channels` must .* channels=\[4, 4, 8\]"),
        ({"num_blocks": 2, "channels": (8, 4)}, r"`channels` must .* channels=\[8, 4\]"),
        ({"num_blocks": 2, "channels": (0, 8)}, r"`channels` must .* channels=\[0, 8\]"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        AudioModality(**{"hidden_dim": 8, **kwargs})


@pytest.mark.parametrize("num_bins, shape", [(None, (2, 4, 1)), (3, (2, 4)), (3, (2, 4, 5))])
def test_bad_shapes(num_bins, shape):
    with pytest.raises(ValueError, match=r"`inputs` must be audio .* inputs.shape=\(2, 4"):
        AudioModality(8, num_bins=num_bins)(np.ones(shape))


def test_bad_dtype():
    with pytest.raises(ValueError, match="`inputs` must be audio .* inputs.dtype=.*bool"):
        AudioModality(8)(np.ones((2, 8), bool))


def test_cannot_be_a_target():
    with pytest.raises(ValueError, match="`AudioModality` cannot be a target"):
        AudioModality(8)(np.ones((2, 3, 8)), reverse=True)


def test_gradients_of_a_waveform_are_finite_for_any_batch_size():
    # A 1x1 convolution with strides (2, 1) corrupts memory here, in its gradient on CPU.
    net = AudioModality(16, num_blocks=4)
    model = keras.Sequential([net, keras.layers.GlobalAveragePooling1D()])
    model.compile("sgd", "mse")
    for batch in (21, 22, 7):
        x = np.random.default_rng(0).normal(size=(batch, 1000)).astype("float32")
        assert np.isfinite(model.train_on_batch(x, np.zeros((batch, 16))))
