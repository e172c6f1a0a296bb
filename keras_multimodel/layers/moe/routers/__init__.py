"""Routers: which experts each token takes.

May import `layers.moe.balance_losses` and ops.
"""

from keras_multimodel.layers.moe.routers.bias_balanced_router import (
    BiasBalancedRouter as BiasBalancedRouter,
)
from keras_multimodel.layers.moe.routers.expert_choice_router import (
    ExpertChoiceRouter as ExpertChoiceRouter,
)
from keras_multimodel.layers.moe.routers.noisy_top_k_router import (
    NoisyTopKRouter as NoisyTopKRouter,
)
from keras_multimodel.layers.moe.routers.router import Router as Router
from keras_multimodel.layers.moe.routers.router import Routing as Routing
from keras_multimodel.layers.moe.routers.switch_router import SwitchRouter as SwitchRouter
from keras_multimodel.layers.moe.routers.top_k_router import TopKRouter as TopKRouter
