"""What `summary` prints, against counts of its own."""

import math

import keras
import numpy as np
import pytest

import keras_multimodel as kmm
from keras_multimodel.layers import FeedForward, MoELayer
from tests.models.small_models import HIDDEN_DIM, build, make_tasks

# The kernels of one of the experts of `small_models.blocks`: in and out, of 16 x 16.
EXPERT = 2 * HIDDEN_DIM * HIDDEN_DIM


@pytest.fixture(scope="module")
def model():
    return build()


def printed(model, **options):
    lines = []
    model.summary(print_fn=lines.append, **{"line_length": 200, **options})
    return lines


def blocks_of(lines):
    """Returns the two tables: name -> cells. Names of layers within a side follow its slash."""
    tables, side = [], ""
    for line in lines[2:]:
        if not line:
            tables.append({})
        if not tables or not line:
            tables = tables or [{}]
        if line:
            name, *cells = [cell for cell in line.strip().split("  ") if cell]
            side = side if line.startswith("  ") else name if name.endswith("/") else ""
            tables[-1][name if name == side else side + name] = [cell.strip() for cell in cells]
    return tables


def numbers(cells):
    return [int(cell.replace(",", "")) for cell in cells if cell.replace(",", "").isdigit()]


def size(weights):
    return sum(math.prod(w.shape) for w in {id(w): w for w in weights}.values())


def test_sums_are_those_of_the_weights(model):
    layers = blocks_of(printed(model))[1]
    del layers["layer"]
    total = numbers(layers.pop("total"))
    assert total == [size(model.weights), size(model.trainable_weights)]
    outer = {name: numbers(cells) for name, cells in layers.items() if name[-1] == "/"}
    nets = [numbers(cells) for name, cells in layers.items() if "/" not in name]
    assert total == np.sum([*nets, *outer.values()], axis=0)[:2].tolist()
    for side, sums in outer.items():
        inner = [numbers(c) for n, c in layers.items() if n.startswith(side) and n != side]
        assert np.sum(inner, axis=0).tolist() == sums
        assert sums[0] == size(getattr(model.body, side[:-1]).weights)


def test_nets_and_blocks_have_their_names(model):
    layers = blocks_of(printed(model))[1]
    names = {"text", "other", "image", "audio", "digit", "topics", "commands (3)"}
    assert {name for name in layers if "/" not in name} == names | {"layer", "total"}
    assert [name for name in layers if name.startswith("encoder/")] == [
        "encoder/",
        "encoder/timing",
        "encoder/conv_block_0",
        "encoder/experts",
        "encoder/conv_block_1",
    ]
    assert layers["encoder/experts"][0] == "MoELayer, 2 of 4 experts"


def test_active_parameters_leave_out_the_experts_not_chosen(model):
    tasks, layers = blocks_of(printed(model))
    count, _, active = numbers(layers["encoder/experts"])
    assert count - active == 2 * EXPERT
    for name, task in model.tasks.items():
        used = model.task_model(name).weights
        experts = 2 if task.autoregressive else 1  # layers of experts that the task passes
        assert numbers(tasks[name]) == [
            size(used),
            size(w for w in used if w.trainable),
            size(used) - experts * 2 * EXPERT,
        ]


def test_experts_within_a_block_of_ones_own_count():
    moe = keras.Sequential([keras.layers.Dense(HIDDEN_DIM), MoELayer(HIDDEN_DIM, 4, top_k=1)])
    model = build(make_tasks("topic"), moe=moe)
    tasks, _ = blocks_of(printed(model))
    count, _, active = numbers(tasks["topic"])
    assert count - active == 3 * EXPERT


def test_frozen_parts_and_the_optimizer():
    model = build(make_tasks("topic"), moe=FeedForward(HIDDEN_DIM, 8))
    assert not printed(model)[-1].startswith("optimizer")
    model.freeze("encoder")
    model.compile(keras.optimizers.SGD(momentum=0.9), task_weighting=kmm.weighting.Uncertainty())
    model.optimizer.build(model.trainable_variables)
    lines = printed(model)
    layers = blocks_of(lines)[1]
    assert numbers(layers["encoder/"])[1] == 0
    assert numbers(layers["total"])[0] == size(model.weights)
    assert any("Uncertainty" in line for line in lines)
    # A momentum for each trained weight, the learning rate and the number of steps.
    assert lines[-1] == f"optimizer: {size(model.trainable_weights) + 2:,}"


def test_lines_are_cut_to_their_length(model, capsys, monkeypatch):
    assert max(map(len, printed(model, line_length=70))) <= 70
    monkeypatch.setenv("COLUMNS", "20")
    assert model.summary() is None
    lines = capsys.readouterr().out.splitlines()
    assert lines == printed(model, line_length=80)
    for wrong in (0, 1.5):
        with pytest.raises(ValueError, match=f"`line_length` must be .*line_length={wrong}"):
            model.summary(line_length=wrong)


def test_keras_own_table_is_one_argument_away():
    model = build(make_tasks("topic"))
    full = "\n".join(printed(model, expand_nested=True))
    assert "Layer (type)" in full and "pad_empty_batch" in full
    part = "\n".join(printed(model, layer_range=("text", "text")))
    assert "TextModality" in part and "encoder" not in part


def test_the_picture_of_two_tasks_can_be_read(tmp_path):
    pytest.importorskip("pydot")
    model = build(make_tasks("digits", "copy"))
    file = tmp_path / "model.png"
    try:
        keras.utils.plot_model(model, file, show_layer_names=True, dpi=80)
    except ImportError:
        pytest.skip("Graphviz is not installed")
    # At 80 dpi letters are 11 pixels high: as it is, it fits on a screen.
    assert keras.utils.load_img(file).width <= 1600
