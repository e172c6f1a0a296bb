import numpy as np
import pytest

from keras_multimodel.data import AudioPreprocessor, train_text_preprocessor
from keras_multimodel.layers import (
    AttentionBlock,
    AudioModality,
    ImageModality,
    SeriesModality,
    TextModality,
)
from keras_multimodel.models.multimodel import MultiModel
from keras_multimodel.models.task import Task
from keras_multimodel.visualization import attention_weights, plot_attention
from keras_multimodel.visualization.positions import short
from tests.models import test_rows
from tests.models.small_models import set_weights
from tests.visualization.figures import colliding_labels, cut_texts

LAST = "decoder/attention_block_0/source_attention"
SENTENCES = ["Save $5 and $6.", "Open it."]
RNG = np.random.default_rng(0)
SOUND = RNG.normal(size=4000).astype("float32")
PICTURE = RNG.integers(0, 256, (8, 12, 3)).astype("uint8")


@pytest.fixture(scope="module")
def model():
    characters = train_text_preprocessor(SENTENCES, 40, model_type="char", byte_fallback=False)
    text = TextModality(characters.vocabulary_size, 8, preprocessor=characters)
    frames = AudioPreprocessor(num_mel_bins=8, frame_step=20.0, frame_length=30.0)
    inputs = {
        "text": text,
        "picture": ImageModality(8, (8, 12, 3), num_blocks=1),
        "sound": AudioModality(8, num_bins=8, num_blocks=2, preprocessor=frames),
        "waveform": AudioModality(8, num_blocks=8),
        "series": SeriesModality(8, channels=2, patch_size=2),
    }
    tasks = [Task(name, net, text, max_target_length=8) for name, net in inputs.items()]
    block = AttentionBlock(8, num_heads=2)
    sizes = {"num_encoder_blocks": 0, "num_mixer_blocks": 0, "num_decoder_blocks": 1}
    sizes |= {"attention_block": block, "conv_block": None, "moe": None}
    return set_weights(MultiModel(tasks, 8, **sizes))


def clean(figure):
    assert colliding_labels(figure) == [] and cut_texts(figure) == []
    return figure


def test_text_is_a_heat_map_with_its_pieces(model):
    found = attention_weights(model, "text", SENTENCES[0], SENTENCES[1])[LAST]
    figure = clean(plot_attention(model, "text", SENTENCES[0], SENTENCES[1]))
    axis = figure.axes[0]
    np.testing.assert_allclose(axis.images[0].get_array(), found.weights.mean(axis=0))
    rows = [label.get_text() for label in axis.get_yticklabels()]
    assert rows == ["▁", "O", "p", "e", "n", "▁", "i", "t", ".", "(end)"]
    # Dollars are no formula.
    assert r"\$" in [label.get_text() for label in axis.get_xticklabels()]
    assert figure.get_suptitle() == f"text: mean of 2 heads\n{LAST}"


def test_one_head_of_a_layer_and_the_first_rows(model):
    name = "mixer/attention_block/self_attention"
    found = attention_weights(model, "text", SENTENCES[0], SENTENCES[1])[name]
    options = {"layer": name, "head": 1, "max_rows": 4}
    figure = clean(plot_attention(model, "text", SENTENCES[0], SENTENCES[1], **options))
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), found.weights[1, :4])
    assert figure.get_suptitle() == f"text: head 1, 4 of 10 rows\n{name}"


def test_the_picture_is_under_the_patches(model):
    found = attention_weights(model, "picture", PICTURE, "it.")[LAST]
    figure = clean(plot_attention(model, "picture", PICTURE, "it."))
    alone, *others = figure.axes[:6]  # the input, and ▁ i t . (end)
    np.testing.assert_allclose(alone.images[0].get_array(), PICTURE / PICTURE.max())
    assert [axis.get_title() for axis in others] == ["▁", "i", "t", ".", "(end)"]
    for axis, weights in zip(others, found.weights.mean(axis=0)):
        # Two halvings: 2 x 3 patches, over the whole picture.
        np.testing.assert_allclose(axis.images[1].get_array(), weights.reshape(2, 3))
        assert axis.images[1].get_extent() == [-0.5, 11.5, 7.5, -0.5]


@pytest.mark.parametrize(
    "task, raw, seconds",
    [
        ("sound", SOUND, 0.02),
        ("waveform", SOUND, None),
        ("series", np.ones((7, 4), "float32"), None),
    ],
)
def test_sound_and_series_have_what_is_read_beneath(model, task, raw, seconds):
    found = attention_weights(model, task, raw, "it.")[LAST]
    figure = clean(plot_attention(model, task, raw, "it."))
    top, bottom = figure.axes[:2]
    np.testing.assert_allclose(top.images[0].get_array(), found.weights.mean(axis=0))
    part = found.parts[0]
    end = len(part.labels) * part.stride * (seconds or 1)
    assert top.images[0].get_extent()[:2] == [0, pytest.approx(end)]
    if task == "waveform":
        np.testing.assert_array_equal(bottom.lines[0].get_ydata(), SOUND)
    else:
        np.testing.assert_array_equal(bottom.images[0].get_array(), part.array.T)
        assert bottom.images[0].get_extent()[1] == pytest.approx(len(part.array) * (seconds or 1))
    assert bottom.get_xlabel() == ("seconds" if seconds else "step")
    assert top.get_xlim() == bottom.get_xlim()


def test_parts_of_a_row_share_a_scale():
    rows = test_rows.make_model()
    photo = np.arange(64, dtype="uint8").reshape(8, 8, 1)
    row = {"photo": photo, "title": [3, 4, 1], "size": [0.5, 1.0]}
    figure = clean(plot_attention(rows, "caption", row, [5, 1]))
    titles = [panel.get_suptitle() for panel in figure.subfigs]
    assert titles == ["photo", "title", "size", ""]  # and the bar of colors
    pictures, title, size = figure.axes[1:3], figure.axes[3], figure.axes[4]
    weights = [*(axis.images[1] for axis in pictures), title.images[0], size.images[0]]
    assert len({image.get_clim() for image in weights}) == 1
    clean(plot_attention(rows, "kind", {"title": [3, 1]}))


def test_long_labels_are_cut_and_many_are_thinned(model):
    assert short("x" * 30) == "x" * 23 + "…" and short("x" * 24) == "x" * 24
    long = "Open it. " * 30
    figure = clean(plot_attention(model, "text", long, "it."))
    assert 60 <= len(figure.axes[0].get_xticks()) <= 120


@pytest.mark.parametrize(
    "options, message",
    [
        ({"layer": "decoder"}, "`layer` must be one of .*source_attention.*layer='decoder'"),
        ({"head": 2}, "`head` must .*head=2"),
        ({"max_rows": 0}, "`max_rows` must .*max_rows=0"),
    ],
)
def test_bad_arguments(model, options, message):
    with pytest.raises(ValueError, match=message):
        plot_attention(model, "text", SENTENCES[0], "it.", **options)
