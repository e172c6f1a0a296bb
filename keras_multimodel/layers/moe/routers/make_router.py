"""A router by its name."""

from keras_multimodel.layers.moe.routers.bias_balanced_router import BiasBalancedRouter
from keras_multimodel.layers.moe.routers.expert_choice_router import ExpertChoiceRouter
from keras_multimodel.layers.moe.routers.noisy_top_k_router import NoisyTopKRouter
from keras_multimodel.layers.moe.routers.router import Router
from keras_multimodel.layers.moe.routers.switch_router import SwitchRouter
from keras_multimodel.layers.moe.routers.top_k_router import TopKRouter

ROUTERS = {
    "bias_balanced": BiasBalancedRouter,
    "expert_choice": ExpertChoiceRouter,
    "noisy_top_k": NoisyTopKRouter,
    "switch": SwitchRouter,
    "top_k": TopKRouter,
}


def make_router(router, num_experts: int, top_k: int) -> Router:
    """Makes a layer's router, or checks the one that it was given.

    Args:
        router: a key of `ROUTERS`, or a `Router`.
        num_experts: the layer's number of experts.
        top_k: experts of a token; a `Router` has its own number.

    Returns:
        The router.

    Raises:
        ValueError: the name is unknown, the `Router` is for another number of experts, or
            `router="switch"` is to take more than one expert.
    """
    if isinstance(router, Router):
        if router.num_experts != num_experts:
            raise ValueError(
                "`router` must have as many experts as the layer. Received: "
                f"router.num_experts={router.num_experts}, num_experts={num_experts}"
            )
        return router
    if not isinstance(router, str) or router not in ROUTERS:
        names = ", ".join(f'"{name}"' for name in ROUTERS)
        raise ValueError(f"`router` must be {names} or a Router. Received: router={router}")
    if router != "switch":
        return ROUTERS[router](num_experts, top_k, name="router")
    if top_k != 1:
        raise ValueError(f'`top_k` must be 1 with router="switch". Received: top_k={top_k}')
    return SwitchRouter(num_experts, name="router")
