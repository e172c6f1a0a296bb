"""The corpora of tensorflow-datasets, with data that it makes up."""

import keras
import pytest
import tensorflow as tf

import keras_multimodel as kmm

tfds = pytest.importorskip("tensorflow_datasets", reason="needs the extra `tfds`")
from tests.models import small_models  # noqa: E402

EXAMPLES = 6
DIM = small_models.HIDDEN_DIM
STRING = tf.TensorSpec((), tf.string)


@pytest.fixture(autouse=True)
def mocked():
    with tfds.testing.mock_data(num_examples=EXAMPLES):
        yield


def corpora():
    return {
        "translate": kmm.datasets.wmt14_translate("de", "en"),
        "classify": kmm.datasets.imagenet2012("train"),
        "caption": kmm.datasets.coco_captions("train"),
        "transcribe": kmm.datasets.librispeech("train_clean100"),
    }


def tasks():
    text = kmm.data.train_text_preprocessor(["abc def ghi"], 64, "char", byte_fallback=False)
    image = kmm.layers.ImageModality(
        DIM, (8, 8, 3), num_blocks=1, preprocessor=kmm.data.ImagePreprocessor((8, 8))
    )
    text = kmm.layers.TextModality(text.vocabulary_size, DIM, preprocessor=text)
    classes = kmm.data.CategoryPreprocessor(range(1000))
    audio = kmm.layers.AudioModality(
        DIM,
        num_bins=8,
        num_blocks=2,
        channels=(8, DIM),
        preprocessor=kmm.data.AudioPreprocessor(16000, num_mel_bins=8, frame_step=1),
    )
    return {
        "translate": kmm.Task("translate", text, text),
        "classify": kmm.Task(
            "classify", image, kmm.layers.CategoryModality(1000, DIM, preprocessor=classes)
        ),
        "caption": kmm.Task("caption", image, text),
        "transcribe": kmm.Task("transcribe", audio, text),
    }


def test_elements():
    for name, dataset in corpora().items():
        spec = dataset.element_spec
        assert sorted(spec) == ["inputs", "source", "targets"]
        assert spec["source"] == STRING
        is_audio, is_class = name == "transcribe", name == "classify"
        if name == "caption":
            assert spec["inputs"] == tf.TensorSpec((None, None, 3), tf.uint8)
        else:
            assert spec["inputs"] == (tf.TensorSpec((None,), tf.int16) if is_audio else STRING)
        assert spec["targets"] == (tf.TensorSpec((), tf.int64) if is_class else STRING)
        sources = [example["source"].numpy() for example in dataset]
        assert len(set(sources)) == len(sources) >= EXAMPLES
        assert all(b"-train" in source and b"tfrecord" in source for source in sources)


def test_directions_and_captions_are_those_of_the_rows():
    pairs = list(kmm.datasets.wmt14_translate("de", "en").as_numpy_iterator())
    swapped = list(kmm.datasets.wmt14_translate("en", "de").as_numpy_iterator())
    rows = list(tfds.load("wmt14_translate/de-en", split="train").as_numpy_iterator())
    assert [p["inputs"] for p in pairs] == [row["de"] for row in rows]
    assert [p["inputs"] for p in swapped] == [row["en"] for row in rows]
    captions = [e["targets"] for e in kmm.datasets.coco_captions().as_numpy_iterator()]
    assert len(captions) > EXAMPLES


@pytest.mark.slow
def test_fit_trains_on_all_four():
    by_name = tasks()
    encoded = {
        name: kmm.data.encode(dataset, by_name[name], on_bad="skip")
        for name, dataset in corpora().items()
    }
    small = {"num_encoder_blocks": 1, "attention_block": None, "moe": None}
    model = small_models.build(list(by_name.values()), **small)
    model.compile(keras.optimizers.Adam(1e-3))
    before = [keras.ops.copy(weight) for weight in model.trainable_weights]
    history = model.fit(kmm.data.mix(encoded, batch_size=8, steps=2), verbose=0).history
    assert all(value == value for value in history["loss"])  # no NaN
    moved = [bool(keras.ops.any(a != b)) for a, b in zip(before, model.trainable_weights)]
    assert sum(moved) > len(moved) / 2


@pytest.mark.parametrize("inputs,targets", [("de", "fr"), ("en", "en"), ("en", "it")])
def test_languages(inputs, targets):
    with pytest.raises(ValueError, match=f"`inputs` and `targets` .*inputs='{inputs}'"):
        kmm.datasets.wmt14_translate(inputs, targets)


def test_not_prepared(tmp_path, monkeypatch):
    def not_found(*_, **__):
        raise AssertionError("could not find data")

    monkeypatch.setattr(tfds, "load", not_found)
    with pytest.raises(ValueError, match=r"`data_dir` must hold imagenet2012, .*could not find"):
        kmm.datasets.imagenet2012(data_dir=tmp_path)
