"""A fingerprint of a data set, by which a training that resumes knows its examples."""

import time
import zlib

import tensorflow as tf

_SECONDS = 0.5
_LEAST = 32  # examples


def fingerprint(dataset: tf.data.Dataset, count: int | None = None) -> tuple[int, int]:
    """Returns how many of the first examples were read, and a checksum of them.

    Args:
        dataset: the examples, the same at each pass.
        count: how many examples to read; None for as many as half a second allows, at least 32.
    """

    @tf.autograph.experimental.do_not_convert
    def digest(*example):
        flat = tf.nest.flatten(example, expand_composites=True)
        joined = tf.strings.join([tf.io.serialize_tensor(part) for part in flat])
        return tf.strings.to_hash_bucket_fast(joined, 2**63 - 1)

    examples = dataset if count is None else dataset.take(count)
    read, checksum, end = 0, 0, time.monotonic() + _SECONDS
    for digests in examples.map(digest).batch(_LEAST).as_numpy_iterator():
        read += len(digests)
        checksum = zlib.crc32(digests.tobytes(), checksum)
        if count is None and time.monotonic() > end:
            break
    return read, checksum
