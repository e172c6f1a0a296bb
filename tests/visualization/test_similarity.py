import numpy as np
import pytest

from keras_multimodel.visualization import (
    Similarity,
    command_similarity,
    expert_similarity,
    plot_similarity,
)
from tests.models.small_models import build, make_tasks
from tests.visualization.figures import colliding_labels


def test_shared_experts_by_hand():
    use = {
        # Shares (1/2, 1/2, 0), (0, 3/4, 1/4) and (0, 0, 1); `none` sent no token.
        "encoder": {"a": [4, 4, 0], "b": [0, 3, 1], "c": [0, 0, 7], "none": [0, 0, 0]},
        "decoder": {"a": [2, 2]},
    }
    found = expert_similarity({k: {t: np.array(v) for t, v in d.items()} for k, d in use.items()})
    assert found["encoder"].names == ["a", "b", "c"]
    expected = [[1, 0.5, 0], [0.5, 1, 0.25], [0, 0.25, 1]]
    np.testing.assert_allclose(found["encoder"].values, expected)
    assert found["encoder"].nearest("b") == [("a", 0.5), ("c", 0.25)]
    assert found["encoder"].nearest("b", count=1) == [("a", 0.5)]
    np.testing.assert_allclose(found["decoder"].values, [[1]])


def test_a_layer_without_tokens_is_left_out():
    use = {"e": {"a": np.zeros(2), "b": np.zeros(2)}, "d": {"a": np.ones(2)}}
    found = expert_similarity(use)
    assert found["e"].names == [] and found["e"].values.shape == (0, 0)
    figure = plot_similarity(found)
    assert [axis.get_title() for axis in figure.axes if axis.images] == ["d"]
    with pytest.raises(ValueError, match="`similarity` must be a Similarity of some tasks"):
        plot_similarity(found["e"])


def test_command_tokens_are_those_of_the_tasks_that_the_decoder_reads():
    model = build(make_tasks("copy", "shorten", "topic"), conv_block=None, moe=None)
    vectors = {"copy": np.eye(16)[0] * 3, "shorten": np.eye(16)[0] + np.eye(16)[1]}
    for name, vector in vectors.items():
        model.body.commands[name].command.assign(vector)
    found = command_similarity(model)
    assert found.names == ["copy", "shorten"]
    # (3, 0) and (1, 1): 3 / (3 sqrt 2).
    np.testing.assert_allclose(found.values, [[1, 0.5**0.5], [0.5**0.5, 1]], rtol=1e-6)
    assert found.chance == 0.5  # 2 / sqrt(16)
    with pytest.raises(ValueError, match="`model` must have a task that is .*the tasks .'topic'"):
        command_similarity(model.task_model("topic"))


def test_a_plot_shows_values_and_hides_what_is_chance():
    values = np.array([[1, 0.4, -0.05], [0.4, 1, -0.3], [-0.05, -0.3, 1]])
    found = Similarity(["a", "a long name of a task", "c"], values, chance=0.1)
    figure = plot_similarity({"one": found, "two": Similarity(["a", "b"], np.eye(2))})
    one, two = figure.axes[:2]
    assert (one.get_title(), two.get_title()) == ("one", "two")
    shown = one.images[0].get_array()
    np.testing.assert_array_equal(shown.mask, np.eye(3, dtype=bool) | (np.abs(values) < 0.1))
    assert one.images[0].get_clim() == (-0.4, 0.4)
    assert sorted(text.get_text() for text in one.texts) == sorted(
        ["0.40", "-0.05", "0.40", "-0.30", "-0.05", "-0.30"]
    )
    assert colliding_labels(figure) == []
    assert plot_similarity(found).axes[0].get_title() == ""


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: plot_similarity({}), r"`similarity` must .*Received: similarity=\{\}"),
        (lambda: plot_similarity({"a": 3}), r"similarity=\{'a': 3\}"),
        (lambda: plot_similarity(3), "similarity=3"),
        (lambda: expert_similarity({}), r"`use` must hold .*use=\{\}"),
        (lambda: expert_similarity({"e": {"a": np.ones((1, 2))}}), r"shapes=\{'a': \(1, 2\)\}"),
        (lambda: command_similarity("m"), "`model` must be a MultiModel.*type str"),
        (lambda: Similarity(["a"], np.eye(1)).nearest("b"), "`name` must be .*name='b'"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
