import zlib

import numpy as np
import pytest
import tensorflow as tf

from keras_multimodel import data


def shift_by_noise(inputs, seed):
    return inputs + tf.random.stateless_uniform(tf.shape(inputs), seed)


def mixed(seed=0, size=12, **arguments):
    values = np.arange(size, dtype="float32")[:, None] * np.ones((1, 3), "float32")
    classes = tf.data.Dataset.from_tensor_slices({"inputs": values, "targets": np.arange(size)})
    ids = classes.map(lambda e: {"inputs": tf.range(3), "targets": tf.range(1 + e["targets"] % 3)})
    return data.mix({"a": classes, "b": classes, "ids": ids}, 9, seed=seed, **arguments)


def read(dataset, task="a"):
    return [x[task]["inputs"].numpy() for x, _ in dataset]


def test_one_task_is_changed_and_all_else_stays():
    changed = data.augment(mixed(shuffle=False), {"a": shift_by_noise})
    assert changed.element_spec == mixed().element_spec
    assert changed.cardinality() == mixed().cardinality() == 4
    for (x, y), (old_x, old_y) in zip(changed, mixed(shuffle=False), strict=True):
        noise = x["a"]["inputs"] - old_x["a"]["inputs"]
        assert np.all((noise >= 0) & (noise < 1)) and len(np.unique(noise)) == 9
        for task in ("b", "ids"):
            np.testing.assert_array_equal(x[task]["inputs"], old_x[task]["inputs"])
        np.testing.assert_array_equal(x["ids"]["targets"], old_x["ids"]["targets"])
        np.testing.assert_array_equal(y["a"], old_y["a"])


def test_same_seed_same_changes_and_other_epochs_other_changes():
    first = data.augment(mixed(), {"a": shift_by_noise, "b": shift_by_noise}, seed=3)
    again = data.augment(mixed(), {"a": shift_by_noise, "b": shift_by_noise}, seed=3)
    epochs = [read(first), read(first)]
    np.testing.assert_array_equal(epochs, [read(again), read(again)])
    noise = [np.sort(np.concatenate(epoch) % 1.0, axis=0) for epoch in epochs]
    assert not np.isin(noise[0], noise[1]).any()
    other = data.augment(mixed(), {"a": shift_by_noise}, seed=4)
    assert not np.isin(np.concatenate(read(other)) % 1.0, noise[0]).any()


def test_a_cut_and_resumed_reading_has_the_changes_of_the_uncut_one():
    def epochs(number, **where):
        position = data.Position(**where)
        dataset = data.augment(mixed(position=position), {"a": shift_by_noise}, position=position)
        assert dataset.cardinality() == 4
        return [read(dataset) for _ in range(number)]

    first, second, third = epochs(3)
    assert not np.isin(np.array(first) % 1, np.array(second) % 1).any()
    resumed = epochs(2, epoch=1, step=3)
    np.testing.assert_array_equal(resumed[0], second[3:])
    np.testing.assert_array_equal(resumed[1], third)


def test_passes_of_a_repeated_data_set_differ():
    repeated = data.augment(mixed(shuffle=False).repeat(2), {"a": shift_by_noise})
    noise = np.array(read(repeated)) % 1.0
    assert len(np.unique(noise)) == noise.size


def test_a_seed_for_each_example_whatever_the_batch():
    """The seed of a row does not depend on how many rows there are."""

    def seeds(inputs, seed):
        return tf.cast(tf.stack([*tf.unstack(seed), 0]), "float64")

    zeros = tf.data.Dataset.from_tensor_slices(
        {"inputs": np.zeros((4, 3)), "targets": np.zeros(4, "int64")}
    )
    whole, halves = (
        next(iter(data.augment(data.batch(zeros, "a", size), {"a": seeds})))[0]["a"]["inputs"]
        for size in (4, 2)
    )
    np.testing.assert_array_equal(whole[:2], halves)
    assert len(np.unique(whole, axis=0)) == 4


def test_tasks_have_seeds_of_their_own():
    both = data.augment(mixed(shuffle=False), {"a": shift_by_noise, "b": shift_by_noise})
    assert not np.isin(np.array(read(both, "a")) % 1, np.array(read(both, "b")) % 1).any()


def test_padding_and_lengths_of_frames():
    """What a padded row becomes is what the example alone becomes, padded."""
    frames = tf.data.Dataset.range(6).map(
        lambda i: {"inputs": 1.0 + tf.random.stateless_uniform((3 + 4 * i, 5), [0, i])}
    )
    frames = frames.map(lambda example: {**example, "targets": tf.constant([3, 1])})
    augmented = data.augment(
        data.batch(frames, "speech", 6), {"speech": data.SpecAugment()}, seed=7
    )
    (batch,) = read(augmented, "speech")
    key = tf.constant([7, 0], "int64")  # seed and epoch, then task and step
    for number in (zlib.crc32(b"speech"), 0):
        key = tf.random.fold_in(key, tf.constant(number, "int64"))
    for row, example in enumerate(frames):
        alone = data.SpecAugment()(example["inputs"], tf.random.fold_in(key, row))
        np.testing.assert_allclose(batch[row, : len(alone)], alone, rtol=1e-6)
        assert not batch[row, len(alone) :].any()


def test_steps_without_a_row_of_the_task():
    empty = mixed(shuffle=False).map(lambda x, y: ({**x, "a": {"inputs": x["a"]["inputs"][:0]}}, y))
    assert read(data.augment(empty, {"a": shift_by_noise}))[0].shape == (0, 3)


@pytest.mark.slow
def test_trains_a_model_on_changed_images_and_generates_from_plain_ones():
    from keras_multimodel import MultiModel, Task, layers

    net = layers.ImageModality(
        8, (8, 8, 3), num_blocks=1, preprocessor=data.ImagePreprocessor((8, 8))
    )
    names = data.CategoryPreprocessor(["dark", "light"])
    task = Task("shade", net, layers.CategoryModality(2, 8, preprocessor=names))
    pictures = np.repeat([10, 240], 4)[:, None, None, None] * np.ones((8, 8, 8, 3))
    raw = tf.data.Dataset.from_tensor_slices(
        {"inputs": pictures.astype("uint8"), "targets": np.repeat([0, 1], 4)}
    )
    seen = []

    def record(inputs, seed):
        seen.append(inputs)
        return data.ImageAugment(shift=1, flip=True)(inputs, seed)

    train = data.mix({"shade": data.encode(raw, task, cache=True)}, 4)
    train = data.augment(train, {"shade": record})
    small = {"num_encoder_blocks": 1, "moe": None, "attention_block": None}
    model = MultiModel([task], hidden_dim=8, **small)
    model.compile("adam")
    model.fit(train, epochs=2, verbose=0)
    calls = len(seen)
    assert calls
    assert set(model.generate("shade", list(pictures.astype("uint8")))) <= {"dark", "light"}
    assert len(seen) == calls


def test_errors():
    transform = {"a": shift_by_noise}
    with pytest.raises(ValueError, match="`dataset` must be a tf.data.Dataset. Received: list"):
        data.augment([], transform)
    with pytest.raises(ValueError, match=r"must have elements \(x, y\).*Received: TensorSpec"):
        data.augment(tf.data.Dataset.range(3), transform)
    with pytest.raises(ValueError, match="`transforms` must map tasks.*a, b, ids.*'c'"):
        data.augment(mixed(), {"c": shift_by_noise})
    with pytest.raises(ValueError, match=r"`transforms\['a'\]` must be a function. .*: int"):
        data.augment(mixed(), {"a": 3})
    with pytest.raises(
        ValueError, match=r"keep the shape \(3,\).*Received: shape=\(2,\), dtype=float32"
    ):
        data.augment(mixed(), {"a": lambda inputs, seed: inputs[:2]})
    with pytest.raises(ValueError, match="must keep the shape.*Received: None"):
        data.augment(mixed(), {"a": lambda inputs, seed: None})
    with pytest.raises(ValueError, match="the dtype float32 .*Received: .*dtype=int32"):
        data.augment(mixed(), {"a": lambda inputs, seed: tf.cast(inputs, "int32")})
    with pytest.raises(ValueError, match="`position` must be .* or None.*position=3"):
        data.augment(mixed(), transform, position=3)
    with pytest.raises(ValueError, match=r"`inputs` must be one image.*shape=\(3,\)"):
        data.augment(mixed(), {"a": data.ImageAugment()})


def test_an_error_leaves_strategies_usable(strategy):
    with pytest.raises(ValueError):
        data.augment(mixed(), {"a": data.ImageAugment()})
    with strategy.scope():
        tf.Variable(1.0)


def test_a_length_that_changes_is_found_out():
    sequences = tf.data.Dataset.range(1, 3).map(
        lambda i: {"inputs": tf.ones((3 * i, 2)), "targets": tf.constant([3, 1])}
    )
    batches = data.batch(sequences, "speech", 2)
    with pytest.raises(tf.errors.InvalidArgumentError, match="must keep the shape"):
        read(data.augment(batches, {"speech": lambda inputs, seed: inputs[1:]}), "speech")
