import itertools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_multimodel import data
from keras_multimodel.data.mixing import mix as module
from keras_multimodel.data.mixing.lengths import TaskLengths, classify


def sequences(inputs, targets):
    """Example i is made of the number i + 1."""

    def example(index, inputs, targets):
        value = tf.cast(index + 1, tf.int32)
        return {"inputs": tf.fill([inputs], value), "targets": tf.fill([targets], value)}

    pairs = tf.data.Dataset.from_tensor_slices((list(inputs), list(targets)))
    return pairs.enumerate().map(lambda index, sizes: example(index, *sizes))


def random_sequences(size, seed, longest=30):
    random = np.random.default_rng(seed)
    return sequences(*random.integers(1, longest + 1, (2, size)))


def images(size):
    ids = {"inputs": np.ones((size, 4, 4, 3), "float32"), "targets": np.arange(size)}
    return tf.data.Dataset.from_tensor_slices(ids)


def task(pairs, rows=4, token_budget=0):
    axes = [("inputs", 0), ("targets", 0)]
    spec = dict.fromkeys(("inputs", "targets"), tf.TensorSpec([None], "int32"))
    return TaskLengths(np.array(pairs), axes, spec, rows, token_budget)


def shapes_of(batches):
    """The shapes of each step."""
    return [
        str({name: (x[name]["inputs"].shape, y[name].shape) for name in sorted(x)})
        for x, y in batches
    ]


def seen(batches, name):
    """How often each example of a task was seen."""
    firsts = [x[name]["inputs"].numpy()[:, 0] for x, _ in batches if len(x[name]["inputs"])]
    return np.bincount(np.concatenate(firsts))[1:]


pairs = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=12)


@settings(max_examples=50)
@given(pairs, pairs, st.integers(1, 4))
def test_classes_hold_their_examples_and_equal_shares(a, b, num_classes):
    tasks = {"a": task(a), "b": task(b, rows=7)}
    made = classify(tasks, num_classes)
    sizes = {}
    for name, classes in made.items():
        measured = tasks[name].measured
        assert len(classes.shapes) <= min(num_classes, len(a), len(b))
        for number, shape in enumerate(classes.shapes):
            members = measured[classes.of_example == number]
            # The shape is that of the longest, neither more nor less; no class is empty.
            assert [shape["inputs"][0], shape["targets"][0]] == members.max(axis=0).tolist()
        sizes[name] = np.bincount(classes.of_example) / len(measured)
    # The two tasks are cut at the same shares, as far as whole examples allow.
    grid = min(40, len(a), len(b))
    assert np.abs(sizes["a"] - sizes["b"]).max() <= 1 / len(a) + 1 / len(b) + 1 / grid
    assert len(made["a"].shapes) == len(made["b"].shapes)


@settings(max_examples=50)
@given(pairs, st.integers(1, 4))
def test_no_other_classes_have_less_padding(pairs, num_classes):
    (made,) = classify({"a": task(pairs, rows=1)}, num_classes).values()

    def positions(groups):
        return sum(len(group) * np.max(group, axis=0).sum() for group in groups)

    measured = np.array(pairs)
    got = [measured[made.of_example == k] for k in range(len(made.shapes))]
    # All ways to cut the examples, sorted by their total lengths, into up to `num_classes` parts of
    # at least four batches, which are of one example here.
    ordered = measured[np.argsort(measured.sum(axis=1), kind="stable")]
    ways = [
        np.split(ordered, list(cuts))
        for count in range(min(num_classes, len(pairs)))
        for cuts in itertools.combinations(range(1, len(pairs)), count)
    ]
    ways = [way for way in ways if len(way) == 1 or min(map(len, way)) >= 4]
    assert positions(got) == min(map(positions, ways))


def test_a_budget_gives_classes_equal_work():
    # 100 examples of length 1 + 1 and 10 of 10 + 10: half of the work is with the long ones.
    made = classify({"a": task([(1, 1)] * 100 + [(10, 10)] * 10, rows=0, token_budget=20)}, 2)["a"]
    assert made.of_example.tolist() == [0] * 100 + [1] * 10


def test_a_class_has_steps_enough_to_be_seen_as_often_as_the_others():
    # Two long examples in batches of 32 would be seen 16 times in a pass.
    pairs = [(5, 5)] * 38 + [(100, 100)] * 2
    assert len(classify({"a": task(pairs, rows=32)}, 2)["a"].shapes) == 1
    steps = list(data.mix({"a": random_sequences(100, 3)}, batch_size=4, lengths=3))
    assert seen(steps, "a").max() <= 2 and len(steps) <= 100 // 4 + 3


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(1, 3))
def test_a_budget_leaves_no_class_empty(lengths, num_classes):
    pairs = [(length, 1) for length in lengths]
    (made,) = classify({"a": task(pairs, rows=0, token_budget=100)}, num_classes).values()
    assert np.bincount(made.of_example).min() >= 1


TASKS = {"a": random_sequences(80, 1), "b": random_sequences(40, 2), "c": images(20)}
SHARES = {"a": 4, "b": 3, "c": 2}


@pytest.mark.parametrize("lengths", [1, 2, 3, {"a": [8, 16, 32], "b": {"inputs": [10, 30]}}])
def test_joint_steps(lengths):
    mixed = data.mix(TASKS, shares=SHARES, lengths=lengths)
    assert mixed.num_shapes == (lengths if isinstance(lengths, int) else 3)
    for _ in range(2):
        steps = list(mixed)
        assert len(steps) == int(mixed.cardinality()) and len(steps) <= 80 // 4 + 3
        assert len(set(shapes_of(steps))) <= mixed.num_shapes
        assert seen(steps, "a").min() >= 1 and len(seen(steps, "a")) == 80
        assert seen(steps, "b").min() >= 1 and len(seen(steps, "b")) == 40
    if isinstance(lengths, dict):
        found = {x["a"]["inputs"].shape[1] for x, _ in steps}
        assert found <= {8, 16, 32}


def test_without_shuffling_every_epoch_is_the_same():
    mixed = data.mix(TASKS, shares=SHARES, shuffle=False, steps=5, lengths=3)
    one, two = ([x["a"]["inputs"].numpy().tolist() for x, _ in mixed] for _ in range(2))
    assert one == two


def test_data_of_unknown_size_may_be_endless(monkeypatch):
    monkeypatch.setattr(module.keras.backend, "backend", lambda: "jax")
    endless = TASKS["a"].repeat().filter(lambda example: True)
    assert data.mix({"a": endless}, batch_size=4, steps=3).num_shapes is None


def test_augmented_steps_have_the_shapes_of_the_mixture():
    mixed = data.mix(TASKS, shares=SHARES, lengths=3)
    assert data.augment(mixed, {"c": lambda x, seed: x}, seed=0).num_shapes == 3


def test_nothing_is_padded_away_or_invented():
    steps = list(data.mix({"a": TASKS["a"]}, batch_size=5, lengths=3))
    whole = {int(e["inputs"][0]): e for e in TASKS["a"].as_numpy_iterator()}
    for x, y in steps:
        for inputs, targets in zip(x["a"]["inputs"].numpy(), y["a"].numpy()):
            example = whole[int(inputs[0])]
            assert np.trim_zeros(inputs).tolist() == example["inputs"].tolist()
            assert np.trim_zeros(targets).tolist() == example["targets"].tolist()


def test_schedule_has_the_sum_of_the_tasks_shapes():
    schedule = data.schedules.Proportional()
    mixed = data.mix(TASKS, batch_size=3, lengths=3, schedule=schedule)
    assert mixed.num_shapes == 3 + 3 + 1
    shapes = shapes_of(step for _ in range(3) for step in mixed)
    assert len(set(shapes)) == 7


def test_token_budget():
    mixed = data.mix(TASKS, shares={"c": 2}, token_budget=100, lengths=3)
    for _, y in mixed:
        assert all(y[name].shape[0] >= 1 for name in y)
    steps = list(mixed)
    assert len(set(shapes_of(steps))) <= mixed.num_shapes == 3
    assert all(
        x[name]["inputs"].shape[0] * (x[name]["inputs"].shape[1] + y[name].shape[1]) <= 100
        for x, y in steps
        for name in ("a", "b")
    )
    assert seen(steps, "a").min() >= 1 and seen(steps, "b").min() >= 1


@pytest.mark.parametrize("schedule", [None, data.schedules.Uniform])
@pytest.mark.parametrize("steps", [None, 7])
def test_an_epoch_resumes_at_any_step(schedule, steps):
    if schedule is not None and steps is None:
        steps = 9

    def mixed(position):
        tasks = {"a": TASKS["a"], "b": TASKS["b"]}
        made = None if schedule is None else schedule()
        return data.mix(
            tasks, batch_size=4, steps=steps, lengths=3, schedule=made, position=position
        )

    def numbers(batches):
        return [[x[name]["inputs"].numpy().tolist() for name in "ab"] for x, _ in batches]

    whole = mixed(data.Position())
    epochs = [numbers(whole) for _ in range(3)]
    assert numbers(mixed(data.Position(epoch=2, step=3))) == epochs[2][3:]
    assert epochs[0] != epochs[1]


def test_batch():
    for lengths, most in ((1, 2), (3, 4)):
        batches = data.batch(TASKS["a"], "a", 6, lengths=lengths)
        assert 2 <= batches.num_shapes <= most
        assert len(set(shapes_of(batches))) <= most
        assert seen(batches, "a").tolist() == [1] * 80
        order = np.concatenate([x["a"]["inputs"].numpy()[:, 0] for x, _ in batches])
        assert order.tolist() == list(range(1, 81))
    dynamic = data.batch(TASKS["a"], "a", 6, lengths="dynamic")
    for fixed, free in zip(data.batch(TASKS["a"], "a", 6, lengths=3), dynamic):
        width = free[1]["a"].shape[1]
        np.testing.assert_array_equal(fixed[1]["a"][:, :width], free[1]["a"])
        assert not np.any(fixed[1]["a"][:, width:])


def test_map_prefetch_and_repeat_keep_the_number():
    mixed = data.mix(TASKS, shares=SHARES, lengths=2)
    for changed in (mixed.map(lambda x, y: (x, y)), mixed.prefetch(1), mixed.repeat(2)):
        assert changed.num_shapes == 2
    assert int(mixed.repeat(2).cardinality()) == 2 * int(mixed.cardinality())
    assert mixed.repeat().cardinality() == tf.data.INFINITE_CARDINALITY


def test_dynamic_is_the_default_where_nothing_compiles():
    assert data.mix(TASKS, shares=SHARES).num_shapes is None
    assert data.mix({"c": TASKS["c"]}, batch_size=2).num_shapes == 1


def test_jax_has_classes_by_default(monkeypatch):
    monkeypatch.setattr(module.keras.backend, "backend", lambda: "jax")
    assert data.mix(TASKS, shares=SHARES).num_shapes == 3
    assert data.batch(TASKS["a"], "a", 6).num_shapes == 2
    endless = data.mix({"a": TASKS["a"].repeat()}, batch_size=4, steps=3)
    assert endless.num_shapes is None


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        (0, "`lengths` must be a positive integer. Received: lengths=0"),
        (2.5, "`lengths` must be a positive integer. Received: lengths=2.5"),
        ("fixed", "`lengths` must be 'dynamic', .* Received: lengths='fixed'"),
        ({}, "`lengths` must have tasks of `datasets`: a, b, c. Received: lengths={}"),
        ({"d": 3}, "`lengths` must have tasks of `datasets`: a, b, c. Received: .*'d': 3"),
        ({"a": [9, 3]}, r"`lengths\['a'\]` .*ascending order. Received: .*\[9, 3\]"),
        ({"a": []}, r"`lengths\['a'\]` must be a length, .* Received: .*\[\]"),
        ({"a": {"x": 3}}, r"`lengths\['a'\]` must have the keys 'inputs', 'targets'. Received"),
        ({"a": [5, 20]}, r"`lengths\['a'\]` must hold every example .* Received: .*of length 30"),
    ],
)
def test_errors(lengths, message):
    with pytest.raises(ValueError, match=message):
        data.mix(TASKS, shares=SHARES, lengths=lengths)


def test_infinite_data():
    endless = {"a": TASKS["a"].repeat()}
    with pytest.raises(ValueError, match="`lengths` needs all lengths .*infinite"):
        data.mix(endless, batch_size=4, steps=3, lengths=2)


def test_a_class_beyond_the_budget():
    crossed = sequences([90, 10] * 20, [10, 90] * 20)
    with pytest.raises(ValueError, match=r"`token_budget` must hold .* lengths \[90, 90\]"):
        data.mix({"a": crossed}, token_budget=100, lengths=1)


def test_longer_than_the_budget():
    with pytest.raises(ValueError, match="`token_budget` must be at least the padded length"):
        data.mix({"a": sequences([3, 5], [1, 1])}, token_budget=8, lengths={"a": [8]})
