"""Random changes of images."""

import tensorflow as tf

from keras_multimodel.argument_checks import positive_int, share
from keras_multimodel.typing import Tensor


class ImageAugment:
    """Shifts an image at random, mirrors it, and changes its brightness and contrast.

    Args:
        shift: the most pixels by which the image moves up or down, and left or right. The image is
            mirrored at the edge to fill what comes in.
        flip: whether to mirror half of the images left to right. Not for digits or text.
        brightness: the most that is added to or subtracted from each value, as a share of 255.
        contrast: the most by which distances from the mean of each channel change: 0.2 multiplies
            them by 0.8 to 1.2.

    Call arguments:
        inputs: one image `(height, width, channels)` with values from 0 to 255.
        seed: two integers; the same seed gives the same changes.

    Returns:
        An image of the same shape and dtype, with values from 0 to 255.

    Raises:
        ValueError: an argument is out of range, or `inputs` is not an image or smaller than
            `shift`.

    Example:

    >>> augment = kmm.data.ImageAugment(shift=2, flip=True)
    >>> augment(np.zeros((28, 28, 1), "uint8"), seed=(1, 2)).numpy().shape
    (28, 28, 1)
    """

    def __init__(
        self, shift: int = 2, flip: bool = False, brightness: float = 0.1, contrast: float = 0.1
    ):
        self.shift = positive_int("shift", shift, minimum=0)
        self.flip = flip
        self.brightness = share("brightness", brightness)
        self.contrast = share("contrast", contrast)

    def __call__(self, inputs: Tensor, seed: Tensor) -> tf.Tensor:
        image = tf.convert_to_tensor(inputs)
        if image.shape.rank != 3 or image.dtype == tf.string:
            expected = "`inputs` must be one image (height, width, channels)"
            raise ValueError(f"{expected}. Received: shape={image.shape}, dtype={image.dtype.name}")
        if any(side is not None and side < self.shift for side in image.shape[:2]):
            expected = f"`inputs` must be at least as high and wide as shift={self.shift}"
            raise ValueError(f"{expected}. Received: shape={image.shape}")
        # One seed for each change, whether it takes place or not: switching one change off leaves
        # the others as they are.
        seeds = tf.unstack(tf.random.split(seed, 4))
        changed = tf.cast(image, tf.float32)
        if self.shift:
            edges = [[self.shift] * 2, [self.shift] * 2, [0, 0]]
            # A window of the padded image: `tf.image` has no stateless shift.
            wide = tf.pad(changed, edges, mode="SYMMETRIC")
            changed = tf.image.stateless_random_crop(wide, tf.shape(image), seeds[0])
        if self.flip:
            changed = tf.image.stateless_random_flip_left_right(changed, seeds[1])
        if self.brightness:
            changed = tf.image.stateless_random_brightness(
                changed, 255.0 * self.brightness, seeds[2]
            )
        if self.contrast:
            changed = tf.image.stateless_random_contrast(
                changed, 1.0 - self.contrast, 1.0 + self.contrast, seeds[3]
            )
        changed = tf.cast(tf.clip_by_value(changed, 0.0, 255.0), image.dtype)
        return tf.ensure_shape(changed, image.shape)
