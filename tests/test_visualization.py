import numpy as np
import pytest

from keras_multimodel.visualization import (
    over_fair_share,
    plot_expert_use,
    plot_learning_curves,
)

USE = {
    "encoder": {"a": np.array([6, 2, 0, 0]), "b": np.array([0, 2, 2, 4])},
    "decoder": {"a": np.array([1, 1])},
}


def test_a_panel_shows_tokens_over_their_fair_share(tmp_path):
    figure = plot_expert_use(USE)
    encoder, decoder = figure.axes[:2]
    assert (encoder.get_title(), decoder.get_title()) == ("encoder", "decoder")
    # The fair share of 8 tokens is 2; of all 16 it is 4.
    expected = [[3, 1, 0, 0], [0, 1, 1, 2], [1.5, 1, 0.5, 1]]
    np.testing.assert_allclose(encoder.images[0].get_array(), expected)
    assert [label.get_text() for label in encoder.get_yticklabels()] == ["a", "b", "all tasks"]
    np.testing.assert_allclose(decoder.images[0].get_array(), [[1, 1]])
    assert encoder.images[0].get_clim() == decoder.images[0].get_clim() == (0, 3)
    figure.savefig(tmp_path / "use.png")
    assert (tmp_path / "use.png").stat().st_size > 1000


def test_what_was_never_used_is_dark():
    figure = plot_expert_use({"encoder": {"a": np.zeros(3)}})
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), np.zeros((1, 3)))


def test_over_fair_share_by_hand():
    np.testing.assert_allclose(over_fair_share([1, 0, 5]), [0.5, 0.0, 2.5])
    np.testing.assert_allclose(over_fair_share([0, 0]), [0.0, 0.0])


@pytest.mark.parametrize(
    "use, message",
    [
        ({}, r"`use` must hold at least one expert layer. Received: use=\{\}"),
        ({"encoder": {}}, r"`use\['encoder'\]` must map tasks .* Received: shapes=\{\}"),
        ({"encoder": {"a": np.ones(2), "b": np.ones(3)}}, r"shapes=\{'a': \(2,\), 'b': \(3,\)\}"),
        ({"encoder": {"a": np.ones((2, 2))}}, r"shapes=\{'a': \(2, 2\)\}"),
    ],
)
def test_bad_use(use, message):
    with pytest.raises(ValueError, match=message):
        plot_expert_use(use)


HISTORY = {
    "loss": [3.0, 2.0, 1.5, 1.2],
    "a_log_perplexity": [4.0, 3.0, 2.0, 1.0],
    "val_a_log_perplexity": [3.5, 1.5],
    "b_log_perplexity": [2.0, np.nan, 1.0, np.nan],
}


def lines_of(axis):
    return {line.get_label(): np.array(line.get_data()).tolist() for line in axis.lines}


def test_learning_curves_of_each_task():
    figure = plot_learning_curves(HISTORY, ["a", "b"], baselines={"b": 2.5}, steps_per_epoch=50)
    a, b = figure.axes
    assert (a.get_title(), b.get_title()) == ("a", "b")
    # Two validations in four epochs of 50 steps: after the second and the fourth.
    assert lines_of(a) == {
        "training": [[50, 100, 150, 200], [4, 3, 2, 1]],
        "validation": [[100, 200], [3.5, 1.5]],
    }
    assert lines_of(b)["training"] == [[50, 150], [2, 1]]
    assert lines_of(b)["baseline"][1] == [2.5, 2.5]
    assert figure.get_supxlabel() == "step" and figure.get_supylabel() == "log_perplexity"


def test_learning_curves_of_one_task_and_of_none():
    loss = plot_learning_curves(HISTORY, ["c"], metric="loss").axes[0]
    assert lines_of(loss) == {"training": [[1, 2, 3, 4], HISTORY["loss"]]}
    single = plot_learning_curves({"accuracy": [0.5]}, ["c"], metric="accuracy").axes[0]
    assert lines_of(single) == {"training": [[1], [0.5]]}
    with pytest.raises(ValueError, match="`history` must have `<task>_bleu`.*log_perplexity"):
        plot_learning_curves(HISTORY, ["a"], metric="bleu")
