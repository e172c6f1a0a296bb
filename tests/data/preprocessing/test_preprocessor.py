import copy
import json
import pickle

import keras
import pytest
import tensorflow as tf

from keras_multimodel import data

SENTENCES = ["Save the file.", "Open the file."]


def make_all():
    return [
        data.AudioPreprocessor(
            sampling_rate=16000,
            num_mel_bins=24,
            frame_length=32.0,
            frame_step=16.0,
            min_frequency=100.0,
            max_frequency=7000.0,
            mean=-10.0,
            std=15.0,
        ),
        data.CategoryPreprocessor(["cat", "dog"]),
        data.ImagePreprocessor(size=(16, 24), fit="resize", background=255.0),
        data.TextPreprocessor(data.train_text_preprocessor(SENTENCES, 273).proto, max_length=12),
        data.TreePreprocessor(["(S", ")S", "NN"], max_length=9),
        data.WaveformPreprocessor(sampling_rate=16000),
    ]


@pytest.mark.parametrize("preprocessor", make_all(), ids=lambda p: type(p).__name__)
def test_round_trips(preprocessor):
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(preprocessor)))
    assert config["registered_name"].startswith("keras_multimodel>")
    loaded = keras.saving.deserialize_keras_object(config, safe_mode=True)
    for other in (loaded, copy.deepcopy(preprocessor), pickle.loads(pickle.dumps(preprocessor))):
        assert type(other) is type(preprocessor)
        assert other.get_config() == preprocessor.get_config()
        assert other == preprocessor
        assert hash(other) == hash(preprocessor)
    assert len(repr(preprocessor)) < 300
    assert type(preprocessor).__name__ in repr(preprocessor)


def test_equality_is_of_class_and_config():
    assert data.ImagePreprocessor() == data.ImagePreprocessor()
    assert data.ImagePreprocessor() != data.ImagePreprocessor(size=(8, 8))
    assert data.WaveformPreprocessor() != data.ImagePreprocessor()


def test_inputs_only_preprocessors_do_not_decode():
    for preprocessor in make_all():
        if isinstance(
            preprocessor,
            data.AudioPreprocessor | data.ImagePreprocessor | data.WaveformPreprocessor,
        ):
            name = type(preprocessor).__name__
            with pytest.raises(ValueError, match=f"`{name}` prepares inputs only.*prediction=7"):
                preprocessor.decode(7)


@keras.saving.register_keras_serializable(package="tests")
class Halve(data.Preprocessor):
    def __call__(self, raw):
        return tf.cast(raw, "float32") / 2


def test_a_users_own():
    config = keras.saving.serialize_keras_object(Halve())
    assert keras.saving.deserialize_keras_object(config) == Halve()
    assert float(Halve()(3)) == 1.5
    with pytest.raises(NotImplementedError, match="`Preprocessor` must implement `__call__`"):
        data.Preprocessor()(1)
