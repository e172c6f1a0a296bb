import keras
import numpy as np
import pytest

from keras_multimodel import VARIANTS, MultiModel, Task
from keras_multimodel.layers import CategoryModality, TextModality
from keras_multimodel.losses import LabelSmoothedCrossentropy
from keras_multimodel.metrics import TokenAccuracy
from tests.models.small_models import (
    HIDDEN_DIM,
    blocks,
    build,
    make_batch,
    make_tasks,
    max_difference,
    numpy_outputs,
    set_weights,
)


@pytest.fixture(scope="module")
def model():
    return set_weights(build())


@pytest.fixture(scope="module")
def pair():
    """A model of two tasks that share a net."""
    return set_weights(build(make_tasks("copy", "topic")))


def test_outputs_are_logits_by_task(model):
    x, y = make_batch(model.tasks.values(), (6, 3))
    shapes = {name: value.shape for name, value in model(x).items()}
    assert list(shapes) == ["copy", "shorten", "digits", "topic", "speech"]
    length = y["copy"].shape[1]
    assert shapes["copy"] == shapes["speech"] == (2, length, 11)
    assert shapes["shorten"] == (2, length, 7)
    assert (shapes["digits"], shapes["topic"]) == ((2, 3), (2, 5))


def test_tasks_and_body_are_those_given():
    tasks = make_tasks("copy", "digits")
    model = build(tasks, name="mine", trainable=False)
    assert list(model.tasks.values()) == tasks
    assert list(model.body.commands) == ["copy"]
    assert (model.name, model.trainable) == ("mine", False)


def test_classes_alone_need_no_decoder():
    model = build(make_tasks("digits"))
    assert model.body.decoder is None and model.body.mixer is None
    x, _ = make_batch(model.tasks.values())
    assert model(x)["digits"].shape == (3, 3)


def test_numbers_of_blocks(pair):
    body = build(
        make_tasks("copy"), num_encoder_blocks=3, num_mixer_blocks=0, num_decoder_blocks=2
    ).body
    assert len(body.encoder.blocks) == 3
    assert len(body.mixer.blocks) == 0
    assert [len(block) for block in body.decoder.blocks] == [2, 2]
    assert all(block.padding == "same" for block in body.encoder.blocks)
    assert all(layer.padding == "causal" for block in body.decoder.blocks for layer in block)


def test_blocks_are_clones():
    templates = blocks()
    model = build(make_tasks("copy"), **templates)
    assert not any(template.built for template in templates.values())
    first, second = model.body.encoder.blocks
    assert first is not second and len(model.body.encoder.experts.weights) > 0


def test_default_blocks_are_those_of_the_paper():
    model = MultiModel(
        make_tasks("copy"),
        HIDDEN_DIM,
        num_encoder_blocks=1,
        num_decoder_blocks=1,
        num_mixer_blocks=1,
    )
    body = model.body
    assert body.encoder.blocks[0].kernel_sizes == (3, 3, 15, 15)
    assert body.mixer.attention.num_heads == 8
    assert (body.encoder.experts.num_experts, body.encoder.experts.top_k) == (60, 4)


@pytest.mark.parametrize(
    "encoder_groups, decoder_groups",
    [(None, None), ([["copy", "topic", "shorten"]], [["shorten", "copy"]])],
)
def test_stacks_change_no_output(encoder_groups, decoder_groups):
    tasks = make_tasks("copy", "shorten", "topic")
    singles = [["copy"], ["shorten"]]
    apart = build(tasks, encoder_groups=[["topic"], *singles], decoder_groups=singles)
    stacks = {"encoder_groups": encoder_groups, "decoder_groups": decoder_groups}
    stacked = build(tasks, body=set_weights(apart).body, **stacks)
    x, _ = make_batch(tasks, (6, 2))
    x["copy"]["inputs"] = np.pad(x["copy"]["inputs"], [(0, 0), (0, 3)])
    assert max_difference(*(numpy_outputs(model(x)) for model in (apart, stacked))) < 1e-5


def test_a_shared_net_is_one_layer(pair):
    names = [weight.path for weight in pair.weights if "embeddings" in weight.path]
    assert len(names) == len(set(names)) == 1


def test_config_keeps_nets_shared(model):
    again = MultiModel.from_config(model.get_config())
    tasks = again.tasks
    assert tasks["copy"].inputs is tasks["copy"].targets
    assert tasks["copy"].inputs is tasks["shorten"].inputs is tasks["speech"].targets
    assert tasks["copy"].inputs is not tasks["shorten"].targets
    assert tasks["speech"].weight == 0.5
    assert again.get_config() == model.get_config()
    shapes = [weight.shape for weight in model.weights]
    assert [weight.shape for weight in again.weights] == shapes


def test_a_variant_is_numbers_only():
    model = MultiModel.from_variant(
        "tiny", [Task("copy", inputs=(t := TextModality(5, 128)), targets=t)], moe=None
    )
    assert model.body.hidden_dim == 128 == VARIANTS["tiny"].hidden_dim
    assert model.body.encoder.experts is None
    assert len(model.body.encoder.blocks) == VARIANTS["tiny"].num_encoder_blocks


def test_the_paper_has_its_numbers():
    paper = VARIANTS["paper"]
    assert (paper.num_encoder_blocks, paper.num_mixer_blocks, paper.num_decoder_blocks) == (6, 2, 4)
    assert (paper.num_heads, paper.num_experts, paper.top_k, paper.dropout) == (8, 240, 4, 0.4)


def test_refuses_a_variant():
    with pytest.raises(ValueError, match="`variant` must be .* Received: variant='huge'"):
        MultiModel.from_variant("huge", make_tasks())


def test_a_task_model_shares_the_weights(model):
    x, _ = make_batch(model.tasks.values())
    alone = model.task_model("copy")
    before = numpy_outputs(alone({"copy": x["copy"]}))
    assert max_difference(before, numpy_outputs(model(x))) < 1e-5
    command = model.body.commands["copy"].command
    kept = keras.ops.convert_to_numpy(command)
    command.assign(kept + 1.0)
    changed = numpy_outputs(alone({"copy": x["copy"]}))
    assert max_difference(before, changed) > 1e-3
    assert max_difference(changed, numpy_outputs(model(x))) < 1e-5
    command.assign(kept)


def test_compile_has_defaults_by_task(model):
    model.compile("sgd")
    assert set(model.loss) == set(model.tasks)
    assert all(isinstance(loss, LabelSmoothedCrossentropy) for loss in model.loss.values())
    assert (model.loss["copy"].mask_id, model.loss["topic"].mask_id) == (0, None)
    names = {
        name: [metric.name for metric in metrics]
        for name, metrics in model._compile_metrics._user_weighted_metrics.items()
    }
    assert names["copy"] == ["accuracy", "log_perplexity"]
    assert names["topic"] == ["accuracy", "log_perplexity", "top_5_accuracy"]


def test_task_weights_and_overrides(pair):
    x, y = make_batch(pair.tasks.values())
    pair.compile("sgd", run_eagerly=True)
    plain = pair.evaluate(x, y, verbose=0, return_dict=True)
    assert plain["loss"] == pytest.approx(plain["copy_loss"] + plain["topic_loss"], rel=1e-5)
    pair.compile(
        "sgd",
        loss={"topic": keras.losses.SparseCategoricalCrossentropy(from_logits=True)},
        loss_weights={"copy": 3.0},
        metrics={"topic": [TokenAccuracy()]},
        run_eagerly=True,
    )
    own = pair.evaluate(x, y, verbose=0, return_dict=True)
    assert own["copy_loss"] == pytest.approx(plain["copy_loss"], rel=1e-5)
    assert own["topic_loss"] == pytest.approx(plain["topic_log_perplexity"], rel=1e-5)
    expected = 3 * own["copy_loss"] + own["topic_loss"]
    assert own["loss"] == pytest.approx(expected, rel=1e-5)
    assert "topic_accuracy" in own and "copy_accuracy" not in own


@pytest.mark.parametrize("argument", ["loss", "loss_weights"])
def test_compile_refuses_an_unknown_task(pair, argument):
    message = f"`{argument}` must be a dict with keys among .* Received: {argument}={{'other': 1}}"
    with pytest.raises(ValueError, match=message):
        pair.compile("sgd", **{argument: {"other": 1}})
    with pytest.raises(ValueError, match=f"Received: {argument}='mse'"):
        pair.compile("sgd", **{argument: "mse"})


def test_own_losses_and_metrics_of_a_task_are_saved():
    text = TextModality(11, HIDDEN_DIM)
    task = Task(
        "copy",
        text,
        text,
        loss=LabelSmoothedCrossentropy(0.0, mask_id=0),
        metrics=[TokenAccuracy()],
    )
    again = MultiModel.from_config(build([task]).get_config()).tasks["copy"]
    assert again.loss().label_smoothing == 0.0
    assert [type(metric) for metric in again.metrics()] == [TokenAccuracy]


def test_generate_writes_ids_without_a_preprocessor(model):
    outputs = model.generate("copy", [np.array([3, 4, 1]), np.array([5, 1])], max_length=3)
    assert len(outputs) == 2
    for ids in outputs:
        assert 1 <= len(ids) <= 3 and np.all((ids >= 0) & (ids < 11))
    (label,) = model.generate("digits", [np.zeros((8, 8, 1), "uint8")])
    assert int(label) in range(3)


def test_generate_takes_the_best_id_at_every_step(model):
    """Compares with the whole model, fed with what it wrote so far."""
    inputs = np.array([[3, 4, 5, 1]], "int32")
    (written,) = model.generate("copy", list(inputs), max_length=4)
    alone = model.task_model("copy")
    for t in range(len(np.trim_zeros(written))):
        ids = np.concatenate([written[:t], [2]])[None].astype("int32")
        logits = numpy_outputs(alone({"copy": {"inputs": inputs, "targets": ids}}))["copy"]
        assert written[t] == 1 + np.argmax(logits[0, t, 1:])  # never padding


def test_generation_does_not_depend_on_the_rest_of_the_batch(model):
    inputs = [np.array([3, 4, 5, 6, 7, 1]), np.array([5, 1])]
    together = model.generate("copy", inputs, max_length=4)
    for raw, ids in zip(inputs, together):
        (alone,) = model.generate("copy", [raw], max_length=4)
        np.testing.assert_array_equal(np.trim_zeros(alone), np.trim_zeros(ids))


def test_one_net_of_classes_may_serve_two_tasks():
    text = TextModality(11, HIDDEN_DIM)
    classes = CategoryModality(5, HIDDEN_DIM)
    model = build([Task(name, text, classes) for name in ("first", "second")])
    x, _ = make_batch(model.tasks.values(), (4,))
    x["second"] = x["first"]
    outputs = numpy_outputs(model(x))
    np.testing.assert_allclose(outputs["first"], outputs["second"], atol=1e-5)
