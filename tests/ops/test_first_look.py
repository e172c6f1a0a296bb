import pytest

from keras_multimodel.ops.first_look import first_look, is_first_look


def test_looks_end_with_the_last_of_them():
    assert not is_first_look()
    with first_look():
        with pytest.raises(InterruptedError), first_look():
            raise InterruptedError
        assert is_first_look()
    assert not is_first_look()
