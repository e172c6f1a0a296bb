"""What `generate` and `score` take as raw examples, and what they refuse."""

import io
import wave

import keras
import numpy as np
import pytest

import keras_multimodel as kmm
from keras_multimodel.generation.inputs import RawBatcher
from tests.generation.writers import INPUTS, build, build_ids
from tests.models.small_models import HIDDEN_DIM, blocks

SOUND = INPUTS["speech"][1]
IMAGE = INPUTS["digits"][0]


@pytest.fixture(scope="module")
def model():
    return build()


@pytest.fixture(scope="module")
def ids_model():
    return build_ids()


@pytest.fixture(scope="module")
def plain_model():
    """A model from samples to a class, without preprocessors."""
    audio = kmm.layers.AudioModality(HIDDEN_DIM, num_blocks=1, channels=(HIDDEN_DIM,))
    classes = kmm.layers.CategoryModality(3, HIDDEN_DIM)
    return kmm.MultiModel(
        [kmm.Task("plain", audio, classes)], HIDDEN_DIM, num_encoder_blocks=1, **blocks()
    )


def wav(samples):
    """Returns the bytes of a WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(8000)
        writer.writeframes((np.asarray(samples) * 32000).astype("<i2").tobytes())
    return file.getvalue()


def with_value(array, value):
    array = np.array(array, "float32")
    array.flat[3] = value
    return array


BAD = {
    "no bytes": ("speech", b""),
    "a WAV file without samples": ("speech", wav([])),
    "a WAV file that is cut off": ("speech", wav(SOUND)[:20]),
    "no samples": ("speech", np.zeros(0, "float32")),
    "NaN samples": ("speech", with_value(SOUND, np.nan)),
    "infinite samples": ("speech", with_value(SOUND, -np.inf)),
    "silence": ("speech", np.zeros(500, "float32")),
    "a silent WAV file": ("speech", wav(np.zeros(500))),
    "an image without rows": ("digits", np.zeros((0, 8, 3), "uint8")),
    "NaN pixels": ("caption", with_value(IMAGE, np.nan)),
    "infinite pixels": ("digits", with_value(IMAGE, np.inf)),
    "bytes that are no image": ("digits", b"no image"),
    "white space": ("text", " \n\t"),
    "white space as bytes": ("parse", b"  "),
}


@pytest.mark.parametrize("name", BAD)
def test_no_output_for_what_is_no_input(model, name):
    task, bad = BAD[name]
    good = INPUTS[task][0]
    with pytest.raises(ValueError, match=r"`inputs(\[1\])?` must .*inputs\[1\]|`inputs\[1\]` must"):
        model.generate(task, [good, bad])
    with pytest.raises(ValueError, match=r"inputs\[0\]"):
        model.generate(task, [bad], stream=True)
    target = {"digits": "one"}.get(task, "save")
    if task != "parse":
        with pytest.raises(ValueError, match=r"inputs\[1\]"):
            model.score(task, [good, bad], [target, target])


@pytest.mark.parametrize(
    "bad",
    [
        [],
        [0, 0, 0],  # padding
        [3, 9],  # the vocabulary has 9 ids
        [3, -1],
        [3, 4.5],
        [3, np.nan],
        [3, 2**40],
    ],
)
def test_arrays_that_are_no_ids(ids_model, bad):
    with pytest.raises(ValueError, match=r"inputs\[1\]"):
        ids_model.generate("copy", [[3, 4], bad])
    with pytest.raises(ValueError, match=r"targets\[0\]"):
        ids_model.score("copy", [[3, 4]], [bad])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_without_a_preprocessor(plain_model, value):
    with pytest.raises(ValueError, match=r"`inputs\[0\]` must be finite"):
        plain_model.generate("plain", [with_value(SOUND, value)])
    with pytest.raises(ValueError, match=r"`inputs\[0\]` must be finite"):
        plain_model.score("plain", [with_value(SOUND, value)], [1])


@pytest.mark.parametrize("target", [3, -1, 1.5])
def test_targets_that_are_no_class(plain_model, target):
    with pytest.raises(ValueError, match=r"`targets\[1\]` must be .*Received: "):
        plain_model.score("plain", [SOUND, SOUND], [0, target])


@pytest.mark.parametrize("target", ["nine", 3, -1])
def test_targets_that_are_no_class_of_a_preprocessor(model, target):
    with pytest.raises(ValueError, match=r"`targets\[0\]` must be"):
        model.score("digits", [IMAGE], [target])


class Numbers(kmm.layers.ModalityNet):
    """Integers that are no ids, of a net with attributes that look as if they were."""

    example_dtype = "int32"
    vocabulary_size = num_classes = 3


class Symbols(kmm.layers.ModalityNet):
    """Ids of a net of one's own."""

    example_dtype = "int32"
    num_ids = 3


@pytest.mark.parametrize("shape", [(), (None,)])
def test_ids_are_what_the_net_says(shape):
    def arrays(net_class, value):
        net = net_class(HIDDEN_DIM)
        net.example_shape = shape
        return RawBatcher("mine", "inputs", net, None)([value if shape == () else [1, value]])

    assert arrays(Numbers, 90)[0].max() == 90
    assert arrays(Symbols, 2)[0].max() == 2
    for wrong in (3, -1):
        with pytest.raises(ValueError, match=rf"`inputs\[0\]` must be from 0 to 2.*{wrong}"):
            arrays(Symbols, wrong)


def test_a_plain_function_as_preprocessor():
    text = kmm.layers.TextModality(9, HIDDEN_DIM, preprocessor=lambda raw: [2 + n for n in raw])
    model = build([kmm.Task("plain", text, text, max_target_length=4)])
    written = model.generate("plain", [[1, 2], [4]])
    assert all(isinstance(ids, np.ndarray) and 0 not in ids for ids in written)
    *_, last = model.generate("plain", [[1, 2]], stream=True)
    np.testing.assert_array_equal(last[0], written[0])
    assert model.score("plain", [[1, 2]], [[3]]).shape == (1,)
    with pytest.raises(ValueError, match=r"`inputs\[0\]` must be from 0 to 8"):
        model.generate("plain", [[7]])


def test_a_blank_target_has_no_score(model):
    with pytest.raises(ValueError, match=r"`targets` must not be empty.*targets\[0\]"):
        model.score("text", ["save"], ["  "])


def test_integers_of_every_kind_are_ids(ids_model):
    expected = list(ids_model.generate("copy", [[3, 4]])[0])
    for example in (np.array([3, 4], "int64"), np.array([3, 4], "uint8"), np.array([3.0, 4.0])):
        assert list(ids_model.generate("copy", [example])[0]) == expected


class Series:
    """Stands for a pandas Series: a container that is no list, and becomes an array."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype=object)


CONTAINERS = {
    "a tuple": tuple,
    "an array of strings": np.array,
    "an array of objects": lambda texts: np.array(texts, dtype=object),
    "an array of bytes": lambda texts: np.array([text.encode() for text in texts]),
    "a tensor": lambda texts: _tensor(texts),
    "a series": Series,
}


def _tensor(texts):
    import tensorflow as tf

    return tf.constant(texts)


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers_of_texts(model, name):
    texts = INPUTS["text"][:2]
    expected = list(model.generate("text", texts))
    assert list(model.generate("text", CONTAINERS[name](texts))) == expected
    steps = list(model.generate("text", CONTAINERS[name](texts), stream=True))
    assert ["".join(step[i] or "" for step in steps) for i in range(2)] == expected
    scores = model.score("text", CONTAINERS[name](texts), CONTAINERS[name](["save", "open"]))
    np.testing.assert_allclose(scores, model.score("text", texts, ["save", "open"]), rtol=1e-5)


def test_one_text_is_a_list_of_one(model):
    text = INPUTS["text"][0]
    expected = list(model.generate("text", [text]))
    assert list(model.generate("text", text)) == list(model.generate("text", text.encode()))
    assert list(model.generate("text", text)) == expected
    assert model.score("text", text, "save").shape == (1,)
    assert len(model.generate("speech", wav(SOUND))) == 1


def test_an_array_whose_first_axis_counts_the_examples(model, ids_model):
    images = np.stack(INPUTS["digits"])
    expected = list(model.generate("digits", INPUTS["digits"]))
    assert list(model.generate("digits", images)) == expected
    assert list(model.generate("digits", keras.ops.convert_to_tensor(images))) == expected
    ids = np.array([[3, 4, 1], [5, 6, 1]])
    assert [list(x) for x in ids_model.generate("copy", ids)] == [
        list(x) for x in ids_model.generate("copy", list(ids))
    ]
    assert ids_model.score("copy", ids, ids).shape == (2,)
    assert model.score("digits", images, np.array([0, 1, 2])).shape == (3,)


@pytest.mark.parametrize(
    "task, inputs, received",
    [
        ("digits", IMAGE, r"shape=\(8, 8, 3\)"),  # not eight gray images of 8 times 3 pixels
        ("speech", SOUND, r"shape=\(300,\)"),
        ("text", np.array("save"), r"shape=\(\)"),
        ("text", np.array([["save"]]), r"shape=\(1, 1\)"),
    ],
)
def test_an_array_that_may_be_one_example_is_not_guessed(model, task, inputs, received):
    with pytest.raises(ValueError, match=rf"{received}; pass \[inputs\] if it is one example"):
        model.generate(task, inputs)


@pytest.mark.parametrize("inputs", [3, {"a": "b"}, (text for text in ["save"]), {"save"}, None])
def test_what_is_no_list(model, inputs):
    name = type(inputs).__name__
    with pytest.raises(ValueError, match=f"must be a list of raw examples. Received: {name}"):
        model.generate("text", inputs)
    with pytest.raises(ValueError, match="`targets` must be a list of raw examples"):
        model.score("text", ["save"], inputs)
