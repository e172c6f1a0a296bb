"""The one place that reaches into keras for its layer contract test, which is private there."""

from keras.src.testing import TestCase


def run_layer_test(layer_class, **kwargs) -> None:
    """Runs keras' own contract test: config, shapes, dtypes, serialization, `fit`, precision.

    Args:
        layer_class: the class under test.
        **kwargs: passed to `keras.src.testing.TestCase.run_layer_test`.
    """

    class Contract(TestCase):
        def runTest(self):
            self.run_layer_test(layer_class, **kwargs)

    Contract("runTest").debug()
