import numpy as np
import pytest

from keras_multimodel.visualization import over_fair_share, plot_expert_use

USE = {
    "encoder": {"a": np.array([6, 2, 0, 0]), "b": np.array([0, 2, 2, 4])},
    "decoder": {"a": np.array([1, 1])},
}


def test_a_panel_shows_tokens_over_their_fair_share(tmp_path):
    figure = plot_expert_use(USE)
    encoder, decoder = figure.axes[:2]
    assert (encoder.get_title(), decoder.get_title()) == ("encoder", "decoder")
    # The fair share of 8 tokens is 2; of all 16 it is 4.
    expected = [[3, 1, 0, 0], [0, 1, 1, 2], [1.5, 1, 0.5, 1]]
    np.testing.assert_allclose(encoder.images[0].get_array(), expected)
    assert [label.get_text() for label in encoder.get_yticklabels()] == ["a", "b", "all tasks"]
    np.testing.assert_allclose(decoder.images[0].get_array(), [[1, 1]])
    assert encoder.images[0].get_clim() == decoder.images[0].get_clim() == (0, 3)
    figure.savefig(tmp_path / "use.png")
    assert (tmp_path / "use.png").stat().st_size > 1000


def test_what_was_never_used_is_dark():
    figure = plot_expert_use({"encoder": {"a": np.zeros(3)}})
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), np.zeros((1, 3)))


def test_over_fair_share_by_hand():
    np.testing.assert_allclose(over_fair_share([1, 0, 5]), [0.5, 0.0, 2.5])
    np.testing.assert_allclose(over_fair_share([0, 0]), [0.0, 0.0])


@pytest.mark.parametrize(
    "use, message",
    [
        ({}, r"`use` must hold at least one expert layer. Received: use=\{\}"),
        ({"encoder": {}}, r"`use\['encoder'\]` must map tasks .* Received: shapes=\{\}"),
        ({"encoder": {"a": np.ones(2), "b": np.ones(3)}}, r"shapes=\{'a': \(2,\), 'b': \(3,\)\}"),
        ({"encoder": {"a": np.ones((2, 2))}}, r"shapes=\{'a': \(2, 2\)\}"),
    ],
)
def test_bad_use(use, message):
    with pytest.raises(ValueError, match=message):
        plot_expert_use(use)
