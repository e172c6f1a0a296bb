import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_multimodel.layers.moe.dispatch.capacity import within_capacity


def kept(experts, num_experts, capacity):
    experts = ops.convert_to_tensor(np.array(experts, "int32"))
    return ops.convert_to_numpy(within_capacity(experts, num_experts, capacity))


def test_first_choices_come_first_then_earlier_tokens():
    """Expert 0 takes two: its first choices, tokens 0 and 2, and no second choice (token 1)."""
    result = kept([[0, 1], [1, 0], [0, 1], [0, 2]], num_experts=3, capacity=2)
    assert result.tolist() == [[True, True], [True, False], [True, False], [False, True]]


@settings(deadline=None, max_examples=10)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=20), st.integers(1, 5))
def test_an_expert_keeps_as_many_as_it_can(experts, capacity):
    result = kept([[e] for e in experts], num_experts=3, capacity=capacity)[:, 0]
    for expert in range(3):
        chosen = np.array(experts) == expert
        assert np.sum(result & chosen) == min(capacity, np.sum(chosen))
