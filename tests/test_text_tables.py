"""Tables of plain text."""

from keras_multimodel.text_tables import table

ROWS = [("name", "kind", "n"), ("a_long_name", "convolution", "1,234"), ("b", "dense", "5")]


def test_columns_are_as_wide_as_their_widest_cell():
    assert table(ROWS, "<<>").splitlines() == [
        "name         kind             n",
        "a_long_name  convolution  1,234",
        "b            dense            5",
    ]


def test_texts_are_cut_to_the_width_and_numbers_are_not():
    # 11 + 11 + 5 characters and two gaps of 2 are 31; 7 come off the two texts.
    assert table(ROWS, "<<>", width=24).splitlines() == [
        "name     kind          n",
        "a_long…  convolu…  1,234",
        "b        dense         5",
    ]


def test_no_column_vanishes():
    lines = table(ROWS, "<<>", width=3).splitlines()
    assert lines[1] == "a_l…  con…  1,234"
    assert table(ROWS, "<<>", width=31) == table(ROWS, "<<>")
