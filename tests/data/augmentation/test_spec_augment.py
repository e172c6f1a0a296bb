import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_multimodel import data


def frames(length, bands, seed=0):
    return np.random.default_rng(seed).normal(size=(length, bands)).astype("float32")


def runs(flags):
    """Lengths of the stretches of True."""
    edges = np.flatnonzero(np.diff(np.r_[0, flags.astype(int), 0]))
    return edges[1::2] - edges[::2]


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 40),
    st.integers(1, 12),
    st.integers(0, 9),
    st.tuples(st.integers(0, 2), st.integers(0, 14), st.integers(0, 2), st.integers(0, 50)),
    st.floats(0, 1),
    st.integers(0, 2**31),
)
def test_masks_are_bands_and_stretches_of_the_mean(length, bands, padding, sizes, share, seed):
    spec = data.SpecAugment(*sizes, frame_share=share)
    plain = frames(length, bands)
    padded = np.pad(plain, [(0, padding), (0, 0)])
    changed = spec(padded, [seed, 1]).numpy()
    assert not changed[length:].any()
    if not length:
        return
    assert changed[:length].any(axis=1).all()  # no real frame looks like padding
    masked = changed[:length] != plain
    np.testing.assert_allclose(changed[:length][masked], plain.mean(), rtol=1e-3, atol=1e-5)
    whole_bands, whole_frames = masked.all(axis=0), masked.all(axis=1)
    np.testing.assert_array_equal(masked, whole_bands | whole_frames[:, None])
    if not whole_bands.all():
        num_bands, width, num_frames, longest = sizes
        longest = min(longest, int(np.float32(share) * np.float32(length)))
        if not whole_frames.all():
            assert whole_bands.sum() <= num_bands * width
        assert whole_frames.sum() <= num_frames * longest
    # The same example without padding is masked alike.
    np.testing.assert_allclose(spec(plain, [seed, 1]), changed[:length], rtol=1e-5, atol=1e-6)


def test_widths_and_places_are_uniform():
    """One mask of 0 to 3 of 6 bands: each width in a quarter of the examples."""
    spec = data.SpecAugment(1, 3, 0, 0)
    plain = frames(4, 6)
    seeds = tf.stack([tf.range(4000), tf.zeros(4000, tf.int32)], axis=1)
    each = tf.data.Dataset.from_tensor_slices(seeds).map(lambda seed: spec(plain, seed))
    changed = next(each.batch(4000).as_numpy_iterator())
    masked = (changed != plain).all(axis=1)
    widths = np.bincount(masked.sum(axis=1), minlength=4) / len(masked)
    np.testing.assert_allclose(widths, 0.25, atol=0.03)
    # A mask of one band starts at each of 6 places, one of three bands at each of 4.
    for width, places in ((1, 6), (3, 4)):
        starts = masked[masked.sum(axis=1) == width].argmax(axis=1)
        np.testing.assert_allclose(
            np.bincount(starts, minlength=places) / len(starts), 1 / places, atol=0.05
        )
    assert all(len(runs(row)) <= 1 for row in masked)


def test_one_mask_of_frames_is_bounded_by_its_share():
    spec = data.SpecAugment(0, 0, 1, 1000, frame_share=0.25)
    longest = 0
    for seed in range(200):
        masked = (spec(frames(40, 3), [seed, 0]).numpy() != frames(40, 3)).all(axis=1)
        assert len(runs(masked)) <= 1
        longest = max(longest, masked.sum())
    assert longest == 10


def test_a_mean_of_zero_does_not_become_padding():
    plain = np.array([[1.0, -1.0]] * 6, "float32")
    changed = data.SpecAugment(0, 0, 2, 6, frame_share=1.0)(plain, [4, 4]).numpy()
    assert (changed != plain).any() and changed.any(axis=1).all()


def test_same_seed_same_masks_and_half_precision():
    spec = data.SpecAugment()
    plain = frames(60, 20)
    np.testing.assert_array_equal(spec(plain, [1, 2]), spec(plain, [1, 2]))
    assert (spec(plain, [1, 2]).numpy() != spec(plain, [1, 3]).numpy()).any()
    assert spec(tf.cast(plain, "bfloat16"), [1, 2]).dtype == tf.bfloat16


def test_on_shipped_speech():
    from keras_multimodel import datasets

    mel = data.AudioPreprocessor()
    example = next(datasets.load("speech").as_numpy_iterator())
    plain = mel(example["inputs"]).numpy()
    changed = data.SpecAugment()(plain, [0, 0]).numpy()
    share = (changed != plain).mean()
    assert 0 < share < 0.75 and changed.shape == plain.shape


def test_integers_of_numpy_are_integers():
    of_numpy = data.SpecAugment(*np.array([1, 3, 2, 9]), frame_share=np.float32(0.5))
    plain = data.SpecAugment(1, 3, 2, 9, frame_share=0.5)
    np.testing.assert_array_equal(of_numpy(frames(40, 8), [1, 2]), plain(frames(40, 8), [1, 2]))


def test_errors():
    for name in ("num_band_masks", "band_width", "num_frame_masks", "frame_width"):
        with pytest.raises(ValueError, match=f"`{name}` must be an integer.*{name}=-1"):
            data.SpecAugment(**{name: -1})
    with pytest.raises(ValueError, match="`frame_share` must be from 0 to 1.*frame_share=2"):
        data.SpecAugment(frame_share=2)
    with pytest.raises(ValueError, match=r"`inputs` must be float frames .*shape=\(3,\)"):
        data.SpecAugment()(np.ones(3, "float32"), [0, 0])
    with pytest.raises(ValueError, match="`inputs` must be float frames.*dtype=int32"):
        data.SpecAugment()(np.ones((3, 3), "int32"), [0, 0])
