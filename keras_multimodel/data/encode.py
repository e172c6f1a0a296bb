"""From raw examples to the arrays that a model reads."""

import tensorflow as tf

from keras_multimodel.data.checks import check_elements


def encode(dataset: tf.data.Dataset, task, cache: bool = False) -> tf.data.Dataset:
    """Turns raw examples into the arrays that a task's modality nets read.

    Args:
        dataset: raw examples `{"inputs": ..., "targets": ...}`, as `kmm.datasets.load` gives them.
        task: a `Task`; the preprocessors of `task.inputs` and `task.targets` are used. Where there
            is none, the value stays as it is.
        cache: whether to keep the encoded examples in memory after the first pass.

    Returns:
        A data set of encoded examples with the same keys, in the same order.

    Raises:
        ValueError: the elements are not dicts of `inputs` and `targets`.
    """
    check_elements("dataset", dataset)

    @tf.autograph.experimental.do_not_convert
    def encode_example(example):
        return {
            key: value if net.preprocessor is None else net.preprocessor(value)
            for key, value, net in (
                ("inputs", example["inputs"], task.inputs),
                ("targets", example["targets"], task.targets),
            )
        }

    encoded = dataset.map(encode_example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return encoded.cache() if cache else encoded
