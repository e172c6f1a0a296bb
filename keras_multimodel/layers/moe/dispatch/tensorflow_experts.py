"""The sparse experts on TensorFlow without XLA: groups of variable size, a few operations per
expert.

Axis legend: T tokens, R rows (T x K), D hidden, H intermediate, E experts, K chosen.
"""

import math

import keras
import tensorflow as tf


def sparse_feed_forward(x, experts, gates, kernels, activation):
    """See `keras_multimodel.layers.moe.dispatch.sparse_feed_forward`.

    Forward and backward are written together, since automatic differentiation would rebuild the
    stacked kernels' gradients once per expert.
    """
    num_experts, top_k = kernels[0].shape[0], experts.shape[1]
    flat = tf.reshape(experts, [-1])
    rows = tf.dynamic_partition(tf.range(tf.size(flat)), flat, num_experts + 1)
    order = tf.concat(rows[:-1], 0)
    sizes = tf.math.unsorted_segment_sum(tf.ones_like(flat), flat, num_experts + 1)[:-1]

    def split(values):
        return tf.split(values, sizes, num=num_experts)

    def by_token(values):
        """Puts rows, which lie sorted by expert, at `(T, K, D)`; empty places are zeros."""
        empty = tf.zeros([tf.size(rows[-1]), values[0].shape[1]], values[0].dtype)
        values = tf.dynamic_stitch(rows, [*values, empty])
        return tf.reshape(values, [-1, top_k, values.shape[1]])

    @tf.custom_gradient
    def run(x, gates, *kernels):
        x_rows = tf.gather(x, order // top_k)
        chain = _Chain(kernels, activation, split)
        chosen = by_token(chain.forward(split(x_rows)))

        def gradient(upstream):
            d_rows = tf.gather(upstream, order // top_k)
            d_rows *= tf.gather(tf.reshape(gates, [-1, 1]), order)
            d_inputs, d_kernels = chain.backward(split(x_rows), split(d_rows))
            d_gates = tf.matmul(chosen, upstream[..., None])[..., 0]
            return tf.reduce_sum(by_token(d_inputs), 1), d_gates, *d_kernels

        return tf.matmul(gates[:, None], chosen)[:, 0], gradient

    return run(x, gates, *[tf.convert_to_tensor(kernel) for kernel in kernels])


class _Chain:
    """The experts' two (or, gated, three) products, forward and backward, expert by expert."""

    def __init__(self, kernels, activation, split):
        self.parts = [tf.unstack(kernel) for kernel in kernels]
        self.activation = activation
        self.split = split
        self.is_relu = len(kernels) == 2 and activation in (keras.activations.relu, tf.nn.relu)
        self.before = self.hidden = None

    def forward(self, inputs):
        before = [_products(inputs, part) for part in self.parts[:-1]]
        if self.is_relu:
            self.hidden = [tf.nn.relu(value) for value in before[0]]
        else:
            self.before = [tf.concat(values, 0) for values in before]
            self.hidden = self.split(self._activate())
        return _products(self.hidden, self.parts[-1])

    def backward(self, inputs, upstream):
        """Returns the gradients to the inputs and, stacked, to the kernels."""
        d_hidden = _products(upstream, self.parts[-1], transpose_b=True)
        d_before = self._activation_gradient(d_hidden)
        d_kernels = [_stacked_products(inputs, values) for values in d_before]
        d_kernels.append(_stacked_products(self.hidden, upstream))
        d_inputs = _products(d_before[0], self.parts[0], transpose_b=True)
        for values, part in zip(d_before[1:], self.parts[1:-1]):
            more = _products(values, part, transpose_b=True)
            d_inputs = [a + b for a, b in zip(d_inputs, more)]
        return d_inputs, d_kernels

    def _activate(self):
        if len(self.before) == 1:
            return self.activation(self.before[0])
        return self.activation(self.before[1]) * self.before[0]

    def _activation_gradient(self, d_hidden):
        if self.is_relu:
            relu_grad = tf.raw_ops.ReluGrad
            return [[relu_grad(gradients=g, features=h) for g, h in zip(d_hidden, self.hidden)]]
        with tf.GradientTape() as tape:
            tape.watch(self.before)
            hidden = self._activate()
        gradients = tape.gradient(hidden, self.before, tf.concat(d_hidden, 0))
        return [self.split(gradient) for gradient in gradients]


def _products(values, kernels, transpose_b=False):
    matmul = tf.raw_ops.MatMul  # One node for each product, and little time to trace it.
    return [matmul(a=a, b=b, transpose_b=transpose_b) for a, b in zip(values, kernels)]


def _stacked_products(left, right):
    """Returns the products `left[e]^T right[e]`, stacked.

    In float32 each product is written straight to its place: stacking them at the end would keep
    them all, and read and write them once more.
    """
    products = [tf.raw_ops.MatMul(a=a, b=b, transpose_a=True) for a, b in zip(left, right)]
    if products[0].dtype != tf.float32:
        return tf.stack(products)
    num_experts, rows, columns = len(left), *products[0].shape
    pieces = math.gcd(rows * columns, 8)  # Small copies run at once, and are not cut into tasks.
    shape = [num_experts * pieces, rows * columns // pieces]
    stacked = tf.raw_ops.Empty(shape=shape, dtype=tf.float32, init=False)
    places = tf.unstack(tf.reshape(tf.range(shape[0]), [num_experts, pieces]))
    piece_shape = tf.constant([pieces, shape[1]])
    values = [tf.raw_ops.Reshape(tensor=product, shape=piece_shape) for product in products]
    writes = [
        tf.raw_ops.InplaceUpdate(x=stacked, i=place, v=value)
        for place, value in zip(places[:-1], values[:-1])
    ]
    # What is returned comes out of a write: a control dependency of a reshape alone is lost where
    # the graph's optimizer joins it with the reshape of whoever uses the gradient.
    with tf.control_dependencies(writes):
        last = tf.raw_ops.InplaceUpdate(x=stacked, i=places[-1], v=values[-1])
    return tf.reshape(last, [num_experts, rows, columns])
