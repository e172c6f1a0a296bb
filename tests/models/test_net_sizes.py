"""Nets that get more classes, or more words."""

import keras
import numpy as np
import pytest

import keras_multimodel as kmm
from keras_multimodel.layers import AudioModality, CategoryModality, TextModality
from tests.models.small_models import HIDDEN_DIM, build, numpy_outputs

SIZES = {"moe": None, "num_encoder_blocks": 1, "num_mixer_blocks": 0}
SENTENCES = ["Save the file.", "Open the file.", "Close it."]


@pytest.fixture(scope="module")
def model():
    words = kmm.data.train_text_preprocessor(SENTENCES, 276)
    names = kmm.data.CategoryPreprocessor(["bug", "question"])
    text = TextModality(words.vocabulary_size, HIDDEN_DIM, preprocessor=words, name="text")
    untied = TextModality(9, HIDDEN_DIM, tie_weights=False, name="untied")
    kinds = CategoryModality(2, HIDDEN_DIM, preprocessor=names, name="kinds")
    tasks = [
        kmm.Task("kind", text, kinds),
        kmm.Task("copy", text, text, max_target_length=4),
        kmm.Task("write", kinds, untied, max_target_length=4),
    ]
    return build(tasks, **SIZES)


def logits(model, task):
    ids = np.array([[3, 5, 4, 1], [7, 1, 0, 0]], "int32")
    x = {"inputs": np.array([0, 1], "int32") if task == "write" else ids}
    single = model.task_model(task)
    if single.tasks[task].autoregressive:
        x["targets"] = ids
    return numpy_outputs(single({task: x}, training=False))[task]


@pytest.mark.parametrize(
    "task,side,new,count",
    [
        ("kind", "targets", ["praise", "spam"], 2),
        ("copy", "targets", ["Kubernetes"], 1),
        ("copy", "inputs", ["Kubernetes", "Grüße"], 2),
        ("write", "targets", 3, 3),
        ("write", "inputs", "praise", 1),
    ],
)
def test_known_ids_keep_their_logits(task, side, new, count, model):
    old = getattr(model.tasks[task], side)
    more = model.add_ids(task, new, side=side)
    net = getattr(more.tasks[task], side)
    assert net.num_ids == old.num_ids + count
    for name in model.tasks:
        before, after = logits(model, name), logits(more, name)
        np.testing.assert_array_equal(after[..., : before.shape[-1]], before)
        larger = more.tasks[name].targets is net
        assert after.shape[-1] == before.shape[-1] + larger * count
        if larger:  # new logits are drawn, and no copies
            assert np.abs(after[..., before.shape[-1] :]).max() > 0
    assert more.body is model.body
    shared = [w for w in more.weights if any(w is known for known in model.weights)]
    assert len(shared) == len(model.weights) - len(old.weights)


def test_new_names_are_known_and_saved(model, tmp_path):
    more = model.add_ids("kind", ["praise"]).add_ids("copy", ["Kubernetes"], copy=True)
    assert not {id(w) for w in more.weights} & {id(w) for w in model.weights}
    labels = more.tasks["kind"].targets.preprocessor
    assert [int(labels(name)) for name in ("bug", "question", "praise")] == [0, 1, 2]
    words, known = (m.tasks["copy"].inputs.preprocessor for m in (more, model))
    assert words("Open Kubernetes").numpy().tolist()[-2:] == [known.vocabulary_size, 1]
    assert words.decode(words("Open Kubernetes")) == "Open Kubernetes"
    more.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for name in more.tasks:
        np.testing.assert_array_equal(logits(loaded, name), logits(more, name))
    bias = more.tasks["kind"].targets.exit_flow.head.bias
    bias.assign(np.array([0.0, 0.0, 99.0]))
    assert list(more.generate("kind", ["Save it."])) == ["praise"]


def test_what_was_frozen_stays_so(model):
    kinds = model.tasks["kind"].targets
    kinds.exit_flow.convs[0].trainable = False
    try:
        more = model.add_ids("kind", ["praise"])
    finally:
        kinds.exit_flow.convs[0].trainable = True
    assert not more.tasks["kind"].targets.exit_flow.convs[0].trainable
    assert more.tasks["kind"].targets.exit_flow.convs[1].trainable


def test_bad_arguments_are_refused(model):
    with pytest.raises(ValueError, match="`task` must be one of .*task='kinds'"):
        model.add_ids("kinds", 1)
    with pytest.raises(ValueError, match="`side` must be .*side='both'"):
        model.add_ids("kind", ["a"], side="both")
    with pytest.raises(ValueError, match="twice.*bug"):
        model.add_ids("kind", ["bug"])
    with pytest.raises(ValueError, match="`new` must be names.*new=3"):
        model.add_ids("kind", 3)
    with pytest.raises(ValueError, match=r"`new` must be .*Received: new=\['a'\]"):
        model.add_ids("write", ["a"])
    with pytest.raises(ValueError, match="`new` must be .*new=0"):
        model.add_ids("kind", [])
    sound = kmm.Task("hear", AudioModality(HIDDEN_DIM, num_blocks=1), model.tasks["kind"].targets)
    with pytest.raises(ValueError, match="`side` must be a net of ids.*AudioModality"):
        build([sound], **SIZES, attention_block=None).add_ids("hear", 1, side="inputs")
    adapted = model.task_model("kind", copy=True)
    adapted.enable_lora(1)
    with pytest.raises(ValueError, match="plain weights.*adapters"):
        adapted.add_ids("kind", ["praise"])
