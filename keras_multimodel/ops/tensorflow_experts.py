"""The sparse experts on TensorFlow without XLA: groups of variable size, one chain of small operations per expert."""

import tensorflow as tf
from tensorflow.python.ops import control_flow_util


def compiles_with_xla() -> bool:
    """Returns whether the graph that is being traced will be compiled by XLA, which needs static shapes."""
    return control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


def sparse_feed_forward(x, experts, gates, kernels, activation):
    """See `keras_multimodel.ops.sparse_feed_forward`."""
    num_experts, top_k = kernels[0].shape[0], experts.shape[1]
    flat = tf.reshape(experts, [-1])
    rows = tf.dynamic_partition(tf.range(tf.size(flat)), flat, num_experts + 1)
    tokens = [index // top_k for index in rows[:-1]]

    def combine(values):
        """Puts the experts' rows back in order, with zeros for empty places."""
        empty = tf.zeros(tf.concat([tf.shape(rows[-1]), tf.shape(values[0])[1:]], 0), x.dtype)
        return tf.dynamic_stitch(rows, [*values, empty])

    @tf.custom_gradient
    def run(x, gates, *kernels):
        parts = [tf.unstack(kernel) for kernel in kernels]
        inputs = [tf.gather(x, index) for index in tokens]
        before = [
            [tf.matmul(value, kernel) for value, kernel in zip(inputs, part)] for part in parts[:-1]
        ]
        hidden = [_activate(activation, values) for values in zip(*before)]
        outputs = combine([tf.matmul(value, kernel) for value, kernel in zip(hidden, parts[-1])])
        outputs = tf.reshape(outputs, [-1, top_k, x.shape[1]])
        result = tf.reduce_sum(outputs * gates[..., None], axis=1)

        def gradient(upstream):
            flat_gates = tf.reshape(gates, [-1, 1])
            d_inputs, d_gates, d_kernels = [], [], [[] for _ in kernels]
            for e in range(num_experts):
                d_output = tf.gather(upstream, tokens[e])
                gate = tf.gather(flat_gates, rows[e])
                d_hidden = tf.matmul(d_output, parts[-1][e], transpose_b=True)
                d_gates.append(tf.reduce_sum(hidden[e] * d_hidden, axis=1))
                d_kernels[-1].append(tf.matmul(hidden[e], d_output * gate, transpose_a=True))
                d_before = _activation_gradient(
                    activation, [part[e] for part in before], hidden[e], d_hidden * gate
                )
                d_input = []
                for i, value in enumerate(d_before):
                    d_kernels[i].append(tf.matmul(inputs[e], value, transpose_a=True))
                    d_input.append(tf.matmul(value, parts[i][e], transpose_b=True))
                d_inputs.append(tf.add_n(d_input) if len(d_input) > 1 else d_input[0])
            d_x = tf.reshape(combine(d_inputs), [-1, top_k, x.shape[1]])
            d_gate = tf.reshape(combine(d_gates), tf.shape(gates))
            return tf.reduce_sum(d_x, axis=1), d_gate, *[tf.stack(part) for part in d_kernels]

        return result, gradient

    return run(x, gates, *[tf.convert_to_tensor(kernel) for kernel in kernels])


def _activate(activation, before):
    if len(before) == 1:
        return activation(before[0])
    return activation(before[1]) * before[0]


def _activation_gradient(activation, before, hidden, upstream):
    """Returns the gradients to the values before the activation."""
    if len(before) == 1 and getattr(activation, "__name__", "") == "relu":
        return [upstream * tf.cast(hidden > 0, upstream.dtype)]
    with tf.GradientTape() as tape:
        tape.watch(before)
        value = _activate(activation, before)
    return tape.gradient(value, before, upstream)
