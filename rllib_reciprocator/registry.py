"""Names that configurations use, and the import paths (``module:attribute``) of what they stand for.

This module is data only and imports nothing of this package, so that the engine can look up names without importing
what is built on it. To add an algorithm, a kind of player, an intrinsic reward or a source of players, add a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_PACKAGE = "rllib_reciprocator"
_UPDATES = f"{_PACKAGE}.engine.updates"
_ALGORITHMS = f"{_PACKAGE}.algorithms"
_POLICY_GRADIENT = f"{_UPDATES}.policy_gradient:PolicyGradientRule"
_ACTOR_CRITIC = f"{_UPDATES}.policy_gradient:ActorCriticRule"

# Kinds of players that the engine trains: name in ``players`` -> fields of PlayerKind in
# rllib_reciprocator.engine.context. ``algorithm`` is the class of the algorithm in ``run`` of which it is the default
# player; its configuration is in the same module, under the same name with ``Config``.
PLAYER_KINDS: dict[str, Mapping[str, Any]] = {
    "ppo": {},
    "reciprocator": {
        "algorithm": f"{_ALGORITHMS}.reciprocator.reciprocator:Reciprocator",
        "trained_as": "ppo",
        "intrinsic": {"reciprocity": {}},
    },
    "pg": {"update_rule": _POLICY_GRADIENT},
    "ac": {"update_rule": _ACTOR_CRITIC},
    "lio": {
        "algorithm": f"{_ALGORITHMS}.lio.lio:LIO",
        "update_rule": _POLICY_GRADIENT,
        "intrinsic": {"incentives": {}},
    },
    "lio_ac": {"update_rule": _ACTOR_CRITIC, "intrinsic": {"incentives": {}}},
    "coala": {
        "algorithm": f"{_ALGORITHMS}.coala.coala:COALA",
        "spans_meta_episodes": True,
        "forms_populations": True,
        "advantage_steps": (f"{_ALGORITHMS}.coala.credit:MetaEpisodeCredit",),
    },
    "shaper": {
        "algorithm": f"{_ALGORITHMS}.shaper.shaper:Shaper",
        "update_rule": f"{_ALGORITHMS}.shaper.evolution_rule:EvolutionRule",
        "module": f"{_ALGORITHMS}.shaper.evolved_module:EvolvedModule",
        "spans_meta_episodes": True,
        "settings": {"sigma": 0.3},
    },
    "advantage_alignment": {
        "algorithm": f"{_ALGORITHMS}.advantage_alignment.advantage_alignment:AdvantageAlignment",
        "module": f"{_ALGORITHMS}.advantage_alignment.module:AlignedModule",
        "module_settings": f"{_ALGORITHMS}.advantage_alignment.module:module_settings",
        "advantage_steps": (f"{_ALGORITHMS}.advantage_alignment.alignment:AlignmentStep",),
        "settings": {"alignment_weight": 1.0},
    },
    "loqa": {
        "algorithm": f"{_ALGORITHMS}.loqa:LOQA",
        "update_rule": f"{_ALGORITHMS}.loqa:LOQARule",
        "module": f"{_ALGORITHMS}.loqa:LOQAModule",
        "module_settings": f"{_ALGORITHMS}.loqa:module_settings",
        "advantage_steps": (f"{_ALGORITHMS}.loqa:LOQAStep",),
        "settings": {"shaping_weight": 1.0, "shaping_decay": 0.9, "q_temperature": 1.0, "q_loss_coeff": 0.5},
    },
}

# Algorithms on the batched engine: name in ``run`` -> import path.
BATCHED_ALGORITHMS: dict[str, str] = {
    kind["algorithm"].partition(":")[2]: kind["algorithm"] for kind in PLAYER_KINDS.values() if "algorithm" in kind
}

# Intrinsic rewards: name in ``intrinsic`` -> subclass of rllib_reciprocator.engine.intrinsic_reward.IntrinsicReward.
INTRINSIC_REWARDS = {
    "reciprocity": f"{_PACKAGE}.intrinsic.reciprocity.reciprocity:Reciprocity",
    "inequity_aversion": f"{_PACKAGE}.intrinsic.inequity_aversion:InequityAversion",
    "social_value_orientation": f"{_PACKAGE}.intrinsic.social_value_orientation:SocialValueOrientation",
    "incentives": f"{_PACKAGE}.intrinsic.incentives.incentives:Incentives",
    "shared_reward": f"{_PACKAGE}.intrinsic.shared_reward:SharedReward",
}

# Players that the engine does not train: prefix in ``players`` -> instance of
# rllib_reciprocator.engine.player_sources.PlayerSource.
PLAYER_SOURCES = {
    "scripted": f"{_PACKAGE}.players.scripted:SOURCE",
    "axelrod": f"{_PACKAGE}.players.axelrod_strategies:SOURCE",
    "checkpoint": f"{_PACKAGE}.players.frozen:SOURCE",
    "learner": f"{_PACKAGE}.players.learning:SOURCE",
}

# Keys of a player's mapping that disable an intrinsic reward of its kind with ``false`` -> name of the reward.
PLAYER_SWITCHES = {"gives": "incentives"}

# Class of the settings in ``meta``.
META_SETTINGS = f"{_ALGORITHMS}.coala.settings:COALASettings"
