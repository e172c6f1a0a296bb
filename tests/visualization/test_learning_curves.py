import numpy as np
import pytest

from keras_multimodel.visualization import plot_learning_curves

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
    loss = plot_learning_curves(HISTORY, "c", metric="loss").axes[0]
    assert lines_of(loss) == {"training": [[1, 2, 3, 4], HISTORY["loss"]]}
    single = plot_learning_curves({"accuracy": [0.5]}, ["c"], metric="accuracy").axes[0]
    assert lines_of(single) == {"training": [[1], [0.5]]}
    # The first task has no such measure, and the legend stands where there is one.
    figure = plot_learning_curves({"b_accuracy": [0.5]}, ["a", "b"], metric="accuracy")
    assert [axis.get_legend() is not None for axis in figure.axes] == [False, True]
    with pytest.raises(ValueError, match="`history` must have `<task>_bleu`.*log_perplexity"):
        plot_learning_curves(HISTORY, ["a"], metric="bleu")
