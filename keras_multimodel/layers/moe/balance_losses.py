"""Losses that keep the experts busy, as pure functions.

Every sum over tokens adds up all replicas before anything nonlinear: a mean of the replicas' losses
would depend on how the batch was split. Padding counts as 0 in every sum.

Axis legend: T tokens, E experts.
"""

from keras import ops

from keras_multimodel.ops.replicas import replica_sum
from keras_multimodel.typing import Tensor


def squared_coefficient_of_variation(x: Tensor) -> Tensor:
    """Returns the variance of the vector `x` over its squared mean: 0 where all are equal.

    Reference:
        Shazeer et al. 2017, arXiv 1701.06538, equation 7.
    """
    # The authors' epsilons, which keep the value of no tokens at 0.
    size = x.shape[0] + 1e-10
    mean = ops.sum(x) / size
    return ops.sum(ops.square(x - mean)) / size / (ops.square(mean) + 1e-10)


def importance_loss(importance: Tensor) -> Tensor:
    """Returns CV^2 of `importance` `(E,)`, the sum of each expert's gates on this replica.

    Reference:
        Shazeer et al. 2017, arXiv 1701.06538, equations 6 and 7.
    """
    return squared_coefficient_of_variation(replica_sum(importance))


def load_loss(load: Tensor) -> Tensor:
    """Returns CV^2 of `load` `(E,)`, a smooth count of each expert's tokens on this replica.

    The count sums, over tokens, the probability that the expert is chosen if only its own noise is
    drawn again. Unlike the number of tokens, it has a gradient.

    Reference:
        Shazeer et al. 2017, arXiv 1701.06538, appendix A, equations 8 to 11.
    """
    return squared_coefficient_of_variation(replica_sum(load))


def switch_balance_loss(probabilities: Tensor, counts: Tensor, mask: Tensor) -> Tensor:
    """Multiplies each expert's share of the choices by its share of the probability.

    The result, E times the sum of these products, is 1 where both are uniform, which is its minimum
    if both agree. The counts have no gradient: the probabilities carry all of it.

    Args:
        probabilities: `(T, E)`, the router's softmax.
        counts: `(E,)`, how many tokens chose each expert, on this replica.
        mask: float `(T,)`, 1 at real tokens.

    Returns:
        A scalar, 0 if no token is real.

    Reference:
        Fedus et al. 2021, arXiv 2101.03961, equations 4 to 6.
    """
    counts = ops.stop_gradient(replica_sum(counts))
    # At least 1: a batch that is all padding has a loss of 0, not NaN.
    share = counts / ops.maximum(ops.sum(counts), 1.0)
    probability = replica_sum(ops.sum(probabilities * mask[:, None], axis=0))
    tokens = ops.maximum(replica_sum(ops.sum(mask)), 1.0)
    return counts.shape[0] * ops.sum(share * probability) / tokens


def router_z_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Averages the squared log-sum-exp of the router's logits, which keeps them small.

    Args:
        logits: `(T, E)`.
        mask: float `(T,)`, 1 at real tokens.

    Returns:
        A scalar, 0 if no token is real.

    Reference:
        Zoph et al. 2022, arXiv 2202.08906, equation 5.
    """
    squares = ops.square(ops.logsumexp(logits, axis=-1)) * mask
    return replica_sum(ops.sum(squares)) / ops.maximum(replica_sum(ops.sum(mask)), 1.0)
