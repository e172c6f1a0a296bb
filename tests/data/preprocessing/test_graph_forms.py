"""What stands in place of preprocessors in exported models computes what they compute."""

import io

import numpy as np
import PIL.Image
import pytest
import soundfile
import tensorflow as tf

from keras_multimodel import data
from keras_multimodel.data.preprocessing.graph_forms import words_of

SENTENCES = ["Save the file.", "Öffnen Sie die Datei „Kurs“!", "a b c d e f g h", "10 % (ca.)"]
TREES = ["(S (NP (DT the) (NN file)) (VP (VBZ opens)))", "(S (VP (VB save) (NP (NN file))))"]


def read(preprocessor, raw):
    """Returns what the form reads in a graph, as it does where it is exported."""
    form = preprocessor.graph_form()
    spec = tf.TensorSpec((None, *form.raw_spec.shape), form.raw_spec.dtype)
    return tf.function(form.read, input_signature=[spec])(tf.constant(raw, spec.dtype)).numpy()


def assert_reads(preprocessor, raw, atol=0.0):
    found = read(preprocessor, raw)
    assert len(found) == len(raw)
    for row, example in zip(found, raw):
        wanted = np.asarray(preprocessor(example))
        inside = tuple(slice(size) for size in wanted.shape)
        np.testing.assert_allclose(row[inside], wanted, atol=atol)
        assert np.count_nonzero(row) == np.count_nonzero(wanted)  # the rest is padding


@pytest.mark.parametrize("max_length", [None, 4])
@pytest.mark.parametrize("kind", ["unigram", "char", "word_piece"])
def test_texts(kind, max_length):
    if kind == "word_piece":
        text = data.train_word_piece_preprocessor(SENTENCES, 120, max_length)
    else:
        text = data.train_text_preprocessor(SENTENCES, 290, kind, max_length)
    assert text.graph_form().packages == ("tensorflow_text",)
    assert_reads(text, [*SENTENCES, "  two  spaces ", "名前 😀 ﬁ", "x"])


def test_texts_written():
    text = data.train_text_preprocessor(SENTENCES, 290, "unigram")
    texts = [*SENTENCES, "名前 😀", "x"]
    ids = read(text, texts)
    ids[1, 3], ids[4, 2] = 2, 0  # an unknown piece; padding within
    ids = np.concatenate([ids, np.full((len(ids), 2), 7, "int32")], axis=1)  # behind the end
    written = text.graph_form().write(tf.constant(ids), None).numpy()
    assert [x.decode() for x in written] == [text.decode(row) for row in ids]


def test_a_global_seed_takes_no_vocabulary_away():
    tf.random.set_seed(3)
    texts = [data.train_text_preprocessor([s], 262, byte_fallback=True) for s in ("abab", "cdcd")]
    for text in texts:
        assert_reads(text, ["abcd", "dcba"])


def test_words():
    spaces = ["a\u00a0b\u2003c\x1cd", " a\tb\r\nc ", "\u3000a", "one"]
    assert [[w.decode() for w in row] for row in words_of(tf.constant(spaces)).numpy()] == [
        text.split() for text in spaces
    ]


def test_trees():
    trees = data.train_tree_preprocessor(TREES)
    form = trees.graph_form()
    sentences = ["the file opens", "save (this) file\\", "file"]
    written = [TREES[0], "(S (VP (VB save) (NP (NN file) (NN file))))", "(S (NN file))"]
    arrays = [trees(tree).numpy() for tree in written]
    ids = np.zeros((3, 14), "int32")
    for row, array in zip(ids, arrays):
        row[: len(array)] = array
    found = form.write(tf.constant(ids), tf.constant(sentences)).numpy()
    wanted = [trees.decode(row, text) for row, text in zip(ids, sentences)]
    assert [tree.decode() for tree in found] == wanted
    assert form.write(ids, None) is ids  # no sentence, no tree
    row = {"words": tf.constant(sentences), "size": tf.constant([1.0, 2.0, 3.0])}
    assert [tree.decode() for tree in form.write(tf.constant(ids), row).numpy()] == wanted
    two = {**row, "more": tf.constant(sentences)}
    assert form.write(ids, two) is ids and form.constraint_state(two) is None
    state = form.constraint_state(row)
    for key, value in trees.constraint().initial_state(sentences).items():
        np.testing.assert_array_equal(state[key], value)


def png(image, **options):
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def test_images():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 6, 4), dtype="uint8")
    colors = PIL.Image.fromarray(pixels[..., :3])
    palette = colors.quantize(4)
    jpeg = io.BytesIO()
    colors.resize((60, 40)).save(jpeg, "JPEG")
    files = [
        png(colors),
        png(PIL.Image.fromarray(pixels)),
        png(PIL.Image.fromarray(pixels[..., 0])),
        png(PIL.Image.fromarray(pixels[..., 0]).convert("1")),
        png(PIL.Image.fromarray(pixels[..., 0].astype("uint16") * 200)),
        png(palette),
        png(palette, transparency=1),
        png(palette, bits=2),
        jpeg.getvalue(),
    ]
    for preprocessor in (data.ImagePreprocessor((8, 8)), data.ImagePreprocessor((8, 8), "resize")):
        assert_reads(preprocessor, files, atol=1e-3)


def test_a_file_that_is_no_image():
    gif = io.BytesIO()
    PIL.Image.new("L", (40, 40)).save(gif, "GIF")
    message = "inputs must be PNG or JPEG files"
    for content, match in ((gif.getvalue(), message), (b"", message), (b"\x89PNG", "PNG")):
        with pytest.raises(tf.errors.InvalidArgumentError, match=match):
            read(data.ImagePreprocessor((8, 8)), [content])


def wav(samples, rate=8000):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, subtype="PCM_16", format="WAV")
    return file.getvalue()


@pytest.mark.parametrize("kind", [data.AudioPreprocessor, data.WaveformPreprocessor])
def test_audio(kind):
    rng = np.random.default_rng(0)
    files = [wav(rng.uniform(-0.5, 0.5, shape)) for shape in (900, (400, 2), 1)]
    preprocessor = kind(sampling_rate=8000)
    assert_reads(preprocessor, files, atol=1e-4)
    with pytest.raises(tf.errors.InvalidArgumentError, match="WAV files of 8000 samples in a"):
        read(preprocessor, [wav(np.zeros(50), 16000)])


def test_classes_and_labels():
    kinds = data.CategoryPreprocessor(["cat", "dog", "emu"])
    assert_reads(kinds, ["dog", "cat"])
    assert kinds.graph_form().write(tf.constant([2, 0]), None).numpy().tolist() == [b"emu", b"cat"]
    labels = data.LabelsPreprocessor(["red", "large", "new"])
    assert_reads(labels, ["red|new", "", "large"])
    values = tf.constant([[0.9, 0.2, 0.7], [0.1, 0.2, 0.3]])
    assert labels.graph_form().write(values, None).numpy().tolist() == [b"red|new", b""]


@pytest.mark.parametrize("logarithm", [False, True])
def test_numbers(logarithm):
    price = data.NumberPreprocessor(mean=2.0, scale=3.0, logarithm=logarithm)
    assert_reads(price, [19.0, -2.5, 0.0])
    places = data.NumberPreprocessor(2, mean=[1.0, 2.0], scale=[3.0, 4.0], logarithm=logarithm)
    assert_reads(places, [[19.0, 3.0], [-2.5, 1e6]])
    for preprocessor, size in ((price, 1), (places, 2)):
        x = np.random.default_rng(0).normal(size=(3, size)).astype("float32")
        written = preprocessor.graph_form().write(tf.constant(x), None).numpy()
        np.testing.assert_allclose(written, [preprocessor.decode(row) for row in x], rtol=1e-6)


def test_series():
    series = data.SeriesPreprocessor(2, mean=1.0, scale=2.0, max_length=3)
    raw = np.random.default_rng(0).normal(size=(2, 4, 2))
    raw[0, 1, 0] = np.nan
    assert_reads(series, raw)


def test_preprocessors_of_users_have_none():
    class Half(data.Preprocessor):
        def __call__(self, raw):
            return tf.cast(raw, "float32") / 2

    assert Half().graph_form() is None
    with pytest.raises(NotImplementedError, match="`GraphForm` must implement `read`"):
        data.GraphForm().read(tf.zeros(1))
    assert data.GraphForm().write(3, None) == 3 and data.GraphForm().constraint_state(3) is None
