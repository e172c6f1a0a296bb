import re

import numpy as np
import pytest

from keras_multimodel.layers import MoELayer, TopKRouter


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"hidden_dim": 0}, "`hidden_dim` must be a positive integer. Received: hidden_dim=0"),
        ({"num_experts": -1}, "`num_experts` must be a positive .* num_experts=-1"),
        ({"top_k": 0}, "`top_k` must be a positive integer. Received: top_k=0"),
        ({"top_k": 5}, "`top_k` must be at most `num_experts`. .*top_k=5, num_experts=4"),
        ({"intermediate_dim": 0}, "`intermediate_dim` must be .*intermediate_dim=0"),
        ({"shared_expert_dim": 0}, "`shared_expert_dim` must be .*shared_expert_dim=0"),
        ({"capacity_factor": 0}, "`capacity_factor` must be positive .*capacity_factor=0"),
        ({"balance_loss_weight": -1}, "`balance_loss_weight` must not .*balance_loss_weight=-1"),
        ({"z_loss_weight": -2}, "`z_loss_weight` must not be negative. .*z_loss_weight=-2"),
        ({"router": "best"}, '`router` must be .*"top_k" or a Router. .*router=best'),
        ({"router": 3}, "`router` must be .* Received: router=3"),
        ({"router": "switch"}, '`top_k` must be 1 with router="switch". Received: top_k=2'),
        ({"router": TopKRouter(3, 2)}, "router.num_experts=3, num_experts=4"),
        (
            {"router": "expert_choice", "capacity_factor": 1.5},
            "`capacity_factor` must be None .*router=expert_choice, capacity_factor=1.5",
        ),
        (
            {"router": "expert_choice", "causal": True},
            "ExpertChoiceRouter compares .* others .* Received: router=expert_choice, causal=True",
        ),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        MoELayer(**{"hidden_dim": 8, "num_experts": 4, "top_k": 2, **arguments})


def test_bad_inputs():
    layer = MoELayer(8, 4, 2)
    with pytest.raises(ValueError, match=r"`inputs` must .*Received: inputs.shape=\(2, 5, 9\)"):
        layer(np.zeros((2, 5, 9), "float32"))
    with pytest.raises(ValueError, match=r"inputs.shape=\(2, 3, 5, 8\)"):
        MoELayer(8, 4, 2)(np.zeros((2, 3, 5, 8), "float32"))
    with pytest.raises(ValueError, match="`inputs` must be of a floating dtype. .*dtype=int32"):
        layer(np.zeros((2, 5, 8), "int32"))
    x = np.zeros((2, 5, 8), "float32")
    layer(x)
    with pytest.raises(ValueError, match=r"`inputs` must .*Received: inputs.shape=\(8,\)"):
        layer(np.zeros(8, "float32"))
    for shape in ((2,), (2, 4), (3, 5)):
        message = rf"`mask` must .*mask.shape={re.escape(str(shape))}, inputs.shape=\(2, 5, 8\)"
        with pytest.raises(ValueError, match=message):
            layer(x, mask=np.ones(shape, bool))
