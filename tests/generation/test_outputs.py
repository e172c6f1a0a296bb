import numpy as np
import pytest

from keras_multimodel.data.preprocessing.text import train_text_preprocessor
from keras_multimodel.generation.outputs import StreamPieces

SENTENCES = ["the file opens", "save a file", "open the files"]


@pytest.mark.parametrize("text", ["the €file", "naïve 文件 opens", "a file 👍🏽", "€", "a  file "])
def test_characters_of_several_bytes_come_whole(text):
    words = train_text_preprocessor(SENTENCES, 273, byte_fallback=True)
    ids = np.asarray(words(text))
    pieces = StreamPieces(lambda row, i: words.decode(row), incremental=True)
    steps = [pieces(ids[None, : n + 1], np.array([n + 1 == len(ids)]))[0] for n in range(len(ids))]
    assert len(ids) > len(text.split()) + 1  # some characters are bytes
    assert all("\ufffd" not in piece for piece in steps if piece is not None)
    assert "".join(piece or "" for piece in steps) == words.decode(ids)


def test_bytes_that_make_no_character_come_at_the_end():
    words = train_text_preprocessor(SENTENCES, 273, byte_fallback=True)
    ids = np.asarray(words("€"))[:-2]  # without the last byte, and without the end
    pieces = StreamPieces(lambda row, i: words.decode(row), incremental=True)
    assert pieces(ids[None], np.array([False])) == [None]
    assert pieces(ids[None], np.array([True])) == [words.decode(ids)]
