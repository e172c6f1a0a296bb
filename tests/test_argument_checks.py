"""The checks of single arguments: what they return, and every message by its received value."""

import numpy as np
import pytest

from keras_multimodel import argument_checks as checks


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), np.array(3)])
def test_integers_of_every_kind_become_ints(value):
    assert checks.positive_int("size", value) == 3
    assert type(checks.positive_int("size", value)) is int


@pytest.mark.parametrize("value", [0, -1, True, 2.0, "3", None, np.array([3]), np.float32(3)])
def test_what_is_no_positive_integer_is_refused(value):
    with pytest.raises(ValueError, match="`size` must be a positive integer. Received: size="):
        checks.positive_int("size", value)


def test_integers_may_be_negative():
    assert checks.integer("seed", np.int64(-3)) == -3
    assert type(checks.integer("seed", np.int64(-3))) is int
    for value in (1.0, "1", None, True):
        with pytest.raises(ValueError, match="`seed` must be an integer. Received: seed="):
            checks.integer("seed", value)


def test_a_minimum_is_named():
    assert checks.positive_int("size", 2, minimum=2) == 2
    with pytest.raises(ValueError, match="`size` must be an integer of at least 2. .*size=1"):
        checks.positive_int("size", 1, minimum=2)


def test_none_passes_where_it_may():
    assert checks.optional_positive_int("size", None) is None
    assert checks.optional_positive_int("size", np.int32(4)) == 4
    with pytest.raises(ValueError, match="size=0"):
        checks.optional_positive_int("size", 0)


@pytest.mark.parametrize(
    "check, good, bad",
    [
        (checks.not_negative, [0, 0.5, 7, np.float32(1)], [-1e-9, float("nan"), float("inf"), "1"]),
        (checks.positive, [1e-9, 7, np.float64(1)], [0, -1, float("nan"), float("inf"), None]),
        (checks.fraction, [0, 0.999, np.float32(0.5)], [1, -0.1, float("nan"), "0.5"]),
        (checks.share, [0, 1, np.float32(0.5)], [1.1, -0.1, float("nan"), "0.5"]),
    ],
)
def test_numbers(check, good, bad):
    for value in good:
        assert check("rate", value) == value
    for value in bad:
        with pytest.raises(ValueError, match="`rate` must .*Received: rate="):
            check("rate", value)


def test_choices_are_listed():
    assert checks.one_of("padding", "same", ("same", "causal")) == "same"
    with pytest.raises(ValueError, match="one of 'same', 'causal'. Received: padding='valid'"):
        checks.one_of("padding", "valid", ("same", "causal"))


def test_shapes_of_blocks():
    checks.block_shape("inputs", (None, 7, 4), 4)
    checks.block_shape("inputs", (None, 4), 4, ranks=(2, 3))
    with pytest.raises(ValueError, match=r"`inputs` .*inputs.shape=\(2, 7, 5\), hidden_dim=4"):
        checks.block_shape("inputs", (2, 7, 5), 4)
    with pytest.raises(ValueError, match=r"inputs.shape=\(2, 4\), hidden_dim=4"):
        checks.block_shape("inputs", (2, 4), 4)


def test_a_string_is_one_name_and_not_its_letters():
    assert checks.name_list("metrics", "loss") == ["loss"]
    assert checks.name_list("metrics", ("loss", "accuracy")) == ["loss", "accuracy"]
    assert checks.name_list("metrics", iter([])) == []
    for value in (5, None, [1], ["loss", None], b"loss"):
        with pytest.raises(
            ValueError, match="`metrics` must be a name, or a list of names. .*metrics="
        ):
            checks.name_list("metrics", value)
