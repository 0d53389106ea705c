"""Specs of the incentive functions that settings select, and settings of the policies of givers."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from rllib_reciprocator.intrinsic.incentives.incentive_functions import IncentiveFunctions
from rllib_reciprocator.intrinsic.incentives.opponent_models import OpponentModels
from rllib_reciprocator.intrinsic.incentives.settings import IncentiveSettings
from social_dilemmas.batched_game import BatchedGame
from social_dilemmas.registry import did_you_mean

INCENTIVES_MODULE_ID, OPPONENTS_MODULE_ID = "incentives", "opponents"


def incentive_specs(game: BatchedGame, settings: IncentiveSettings, gamma: float) -> dict[str, RLModuleSpec]:
    """Builds the specs of incentive functions and opponent models by module id, as if all agents gave to all agents.

    Args:
        game: The game, with a single environment.
        settings: The settings.
        gamma: Discount factor.

    Raises:
        ValueError: If ``told_actions`` names an action that does not exist, or the environment does not support
            opponent models.
    """
    n, told_actions = game.num_agents, settings.told_actions
    names = list(game.action_names)
    for name in told_actions or ():
        if name not in names:
            raise ValueError(f"incentives.told_actions: there is no action {name!r}{did_you_mean(name, names)}")
    model_config: dict[str, Any] = {
        "num_agents": n,
        "max_incentive": settings.max_incentive,
        "hiddens": settings.hiddens,
        "pays": [[True] * (n - 1)] * n,
        # Class 0 is all actions that are not distinguished.
        "told": list(range(len(names)))
        if told_actions is None
        else [1 + told_actions.index(name) if name in told_actions else 0 for name in names],
        "observe_given": settings.observe_given,
        "critic": False,
        "drawn": settings.learned_by == "policy_gradient",
    }
    spec = RLModuleSpec(
        IncentiveFunctions,
        observation_space=game.observation_space,
        action_space=game.action_space,
        model_config=model_config,
    )
    if settings.opponents == "known":
        return {INCENTIVES_MODULE_ID: spec}
    if not game.fully_observed:
        raise ValueError(
            "incentives.opponents: modelled needs an environment in which agents can infer the others' views"
            " (fully_observed)"
        )
    models = RLModuleSpec(
        OpponentModels,
        observation_space=game.observation_space,
        action_space=game.action_space,
        model_config={"num_agents": n, "hiddens": settings.opponent_hiddens},
    )
    return {INCENTIVES_MODULE_ID: spec, OPPONENTS_MODULE_ID: models}


def pays(givers: Collection[int], recipients: Collection[int], num_agents: int) -> list[list[bool]]:
    """Returns ``[N][N - 1]``, True if agent i is a giver and the k-th agent after it is a recipient."""
    return [
        [i in givers and (i + k) % num_agents in recipients for k in range(1, num_agents)] for i in range(num_agents)
    ]
