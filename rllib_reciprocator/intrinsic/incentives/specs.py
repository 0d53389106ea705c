"""Which incentive functions settings ask for, and what the policies of givers are told."""

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
    """The incentive functions that settings ask for, by their id, as if all gave to all.

    Args:
        game: One copy of the game.
        settings: The settings.
        gamma: The discount of rewards.

    Raises:
        ValueError: If the game has no action of a name that is told apart.
    """
    n, told = game.num_agents, settings.told_actions
    names = list(game.action_names)
    for name in told or ():
        if name not in names:
            raise ValueError(f"incentives.told_actions: there is no action {name!r}{did_you_mean(name, names)}")
    model_config: dict[str, Any] = {
        "num_agents": n,
        "max_incentive": settings.max_incentive,
        "hiddens": settings.hiddens,
        "pays": [[True] * (n - 1)] * n,
        "told": list(range(len(names))) if told is None else [1 + told.index(x) if x in told else 0 for x in names],
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
        raise ValueError("incentives.opponents: modelled needs a game in which agents know what others see")
    models = RLModuleSpec(
        OpponentModels,
        observation_space=game.observation_space,
        action_space=game.action_space,
        model_config={"num_agents": n, "hiddens": settings.opponent_hiddens},
    )
    return {INCENTIVES_MODULE_ID: spec, OPPONENTS_MODULE_ID: models}


def pays(givers: Collection[int], recipients: Collection[int], num_agents: int) -> list[list[bool]]:
    """Whether each agent pays the k-th after it, ``[N][N - 1]``: a giver whoever is a recipient."""
    return [
        [i in givers and (i + k) % num_agents in recipients for k in range(1, num_agents)] for i in range(num_agents)
    ]


def model_settings(game: BatchedGame, settings: IncentiveSettings) -> dict[str, Any]:
    """What the networks of a giver are told: that it gives, and whether they see what it has given."""
    return {"pays": True, "num_given": game.num_agents - 1 if settings.observe_given else 0}
