"""A part of a data set set aside for testing."""

import tensorflow as tf

from keras_multimodel.argument_checks import inner_share, integer
from keras_multimodel.data.checks import TARGETS_OF, check_encoded, check_examples, is_target

_BUCKETS = 1 << 30
_BESIDE = ("source", "problem")  # what readers say of an example


def split(
    dataset: tf.data.Dataset, test: float = 0.1, seed: int = 0
) -> tuple[tf.data.Dataset, tf.data.Dataset]:
    """Splits examples into two data sets, for training and for testing.

    What an example's inputs are decides where it goes, not where it stands: examples with the same
    inputs stay together, so that no test is also trained on, and none moves when the data set is
    shuffled or grows. So `test` is the share on average. Nothing is read before the data sets are;
    each of them reads all of `dataset`.

    Args:
        dataset: a data set of dicts with `inputs` and `targets`, raw or encoded, or of the rows
            that `rows_to_tasks` returns. `Table.split` splits a table before it is encoded.
        test: share of the examples that go to the second data set, between 0 and 1.
        seed: another seed, another split. To get three parts, split the first one again with
            another seed.

    Returns:
        `(train, test)`, two data sets with the elements of `dataset`, in its order.

    Raises:
        ValueError: `dataset` does not hold examples, `test` is not between 0 and 1, or `seed` is
            not an integer.

    Example:

    ```python
    digits = kmm.datasets.load("digits")
    train, test = kmm.data.split(digits, test=0.2, seed=1)
    ```
    """
    spec = getattr(dataset, "element_spec", None)
    if isinstance(spec, dict) and ("given" in spec or any(TARGETS_OF in key for key in spec)):
        check_encoded("dataset", dataset)
    else:
        check_examples("dataset", dataset, optional=_BESIDE)
    inner_share("test", test)
    key = [integer("seed", seed) % (1 << 63), 0]
    limit = round(test * _BUCKETS)

    def is_test(example):
        inputs = [v for k, v in example.items() if not is_target(k) and k not in _BESIDE]
        parts = [tf.io.serialize_tensor(part) for part in tf.nest.flatten(inputs)]
        bucket = tf.strings.to_hash_bucket_strong(tf.strings.join(parts), _BUCKETS, key)
        return bucket < limit

    train = dataset.filter(lambda example: tf.logical_not(is_test(example)))
    return train, dataset.filter(is_test)
