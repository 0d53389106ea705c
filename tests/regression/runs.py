"""Small seeded runs of all algorithms and features, whose numbers must not change unintentionally."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

from rllib_reciprocator.algorithms.registry import algorithm_class
from rllib_reciprocator.experiments.validation import build_config

FROZEN = Path(__file__).parents[1] / "data" / "reciprocator_0_1_0_ipd.zip"
SMALL = {"fcnet_hiddens": [8]}
SEED = 7


@dataclass(frozen=True)
class Run:
    """Seeded run.

    Attributes:
        algorithm: Name of the algorithm.
        env: Id of the environment.
        settings: Settings as in YAML files.
        frozen_player: Agent that is played by a frozen policy of the run's checkpoint, with PPO co-players.
        frozen_source: ``#`` and the name of that policy; empty if it is the agent's own.
    """

    algorithm: str
    env: str
    settings: dict[str, Any] = field(default_factory=dict)
    frozen_player: str = "player_0"
    frozen_source: str = ""

    def config(self, frozen: str) -> AlgorithmConfig:
        """Returns the validated configuration.

        Args:
            frozen: Path of the checkpoint that replaces ``FROZEN`` in ``checkpoint/FROZEN``.
        """
        settings = _replace(self.settings, "checkpoint/FROZEN", f"checkpoint/{frozen}")
        return build_config(algorithm_class(self.algorithm), self.env, {"seed": SEED, **settings})


def _replace(value: Any, old: str, new: str) -> Any:
    """Returns nested settings with a key or value replaced."""
    if isinstance(value, dict):
        return {_replace(key, old, new): _replace(item, old, new) for key, item in value.items()}
    return new if value == old else value


META = {"inner_episodes": 3, "copies": 4}
SHAPING = {
    "env_config": {"num_steps": 4, "payoffs": [[[1, 1], [-1, 2]], [[2, -1], [0, 0]]]},
    "learning_players": {"pg": {"optimizer": "sgd", "lr": 2.0, "gamma": 0.99}},
    "num_envs_per_env_runner": 32,
}
MEMORY = {"one_hot": True, "fcnet_hiddens": [], "use_gru": True, "gru_cell_size": 8, "vf_share_layers": True}
ESCAPE_ROOM = {
    "num_envs_per_env_runner": 8,
    "updates_per_iteration": 2,
    "model_config": {"fcnet_hiddens": [8, 8]},
    "gamma": 0.99,
    "epsilon": [[0, 0.5], [200, 0.05]],
}

RUNS = {
    "reciprocator_tabular": Run(
        "Reciprocator",
        "ipd_v0",
        {
            "env_config": {"num_steps": 8},
            "num_envs_per_env_runner": 32,
            "rollout_fragment_length": 3,
            "reciprocity": {"observe_balance": True, "balance_decay": 0.9, "buffer_iterations": 2, "exploration": 0.1},
            "model_config": SMALL,
            "minibatch_size": 40,
            "shuffle_batch_per_epoch": True,
            "num_epochs": 2,
        },
    ),
    "reciprocator_coins": Run(
        "Reciprocator",
        "coins_v0",
        {
            "env_config": {"num_steps": 8},
            "num_envs_per_env_runner": 16,
            "rollout_fragment_length": 3,
            "reciprocity": {
                "influence": "value",
                "estimator_hiddens": [8],
                "estimator_minibatch_size": 40,
                "buffer_iterations": 2,
                "warmup_iterations": 1,
                "tau": 0.5,
                "weight": {"start": 0.0, "end": 1.0, "per_iteration": 0.25},
            },
            "model_config": SMALL,
            "num_learners": 2,
            "bootstrap_at_horizon": True,
            "num_epochs": 2,
        },
    ),
    "reciprocator_predicts_balance": Run(
        "Reciprocator",
        "coins_v0",
        {
            "env_config": {"num_steps": 8},
            "num_envs_per_env_runner": 16,
            "rollout_fragment_length": 5,
            "reciprocity": {"predict_balance_coeff": 0.1, "estimator_hiddens": [8], "normalize": True},
            "model_config": {"fcnet_hiddens": [8], "use_gru": True, "gru_cell_size": 8},
            "minibatch_size": 20,
            "shuffle_batch_per_epoch": True,
            "num_epochs": 2,
        },
    ),
    "reciprocator_own_view": Run(
        "Reciprocator",
        "coins_v0",
        {
            "env_config": {"num_steps": 6, "num_agents": 3},
            "players": {"player_0": "team/pair", "player_1": "team/pair", "player_2": "reciprocator"},
            "num_envs_per_env_runner": 16,
            "reciprocity": {
                "influence": "reward",
                "estimator_sees": "own",
                "counterfactual": "modelled",
                "estimator_hiddens": [8],
            },
            "model_config": SMALL,
            "num_epochs": 2,
        },
        frozen_player="player_2",
    ),
    "lio_reused_samples": Run(
        "LIO",
        "escape_room_v0",
        {
            **ESCAPE_ROOM,
            "env_config": {"num_agents": 2, "num_levers": 1},
            "players": {"player_0": "lio", "player_1": "pg"},
            "incentives": {"observe_given": True, "hiddens": [8, 4], "lr": 0.003, "cost_lr": [[0, 0.003], [500, 0.0]]},
            "reuse_samples": True,
        },
    ),
    "lio_ac_charged_and_modelled": Run(
        "LIO",
        "escape_room_v0",
        {
            **ESCAPE_ROOM,
            "env_config": {"num_agents": 3, "num_levers": 2},
            "players": {"player_*": "lio_ac"},
            "incentives": {"hiddens": [8], "charge_giver": True, "opponents": "modelled", "opponent_hiddens": [8]},
            "grad_clip": 1.0,
        },
    ),
    "lio_drawn_giving": Run(
        "LIO",
        "escape_room_v0",
        {
            **ESCAPE_ROOM,
            "env_config": {"num_agents": 2, "num_levers": 1},
            "players": {"player_0": "lio", "player_1": {"pool": {"pg": 0.5, "lio": 0.5}}},
            "incentives": {"hiddens": [8], "learned_by": "policy_gradient", "charge_giver": True, "lr": 0.01},
            "num_learners": 2,
        },
    ),
    "coala_population": Run(
        "COALA",
        "ipd_v0",
        {
            **SHAPING,
            "players": {"player_0": "coala", "player_1": {"pool": {"learner/pg": 0.5, "coala": 0.5}}},
            "meta": {**META, "population": 2},
            "model_config": MEMORY,
            "minibatch_size": 100,
            "shuffle_batch_per_epoch": True,
        },
        frozen_source="#coala_0",
    ),
    "coala_with_ppo": Run(
        "COALA",
        "ipd_v0",
        {
            **SHAPING,
            "players": {"player_0": "coala", "player_1": {"pool": {"ppo": 0.5, "learner/a2c": 0.5}}},
            "meta": META,
            "model_config": MEMORY,
            "gamma": 0.9,
            "lambda": 0.9,
        },
    ),
    "shaper_two_runners": Run(
        "Shaper",
        "ipd_v0",
        {
            **SHAPING,
            "players": {"player_0": "shaper", "player_1": "learner/pg"},
            "meta": META,
            "model_config": {"one_hot": True, "fcnet_hiddens": [], "use_gru": True, "gru_cell_size": 8},
            "num_envs_per_env_runner": 16,
            "num_env_runners": 2,
            "lr": 0.05,
            "sigma": 0.3,
        },
    ),
    "advantage_alignment_with_frozen": Run(
        "AdvantageAlignment",
        "ipd_v0",
        {
            "env_config": {"num_steps": 8},
            "players": {
                "player_0": "advantage_alignment",
                "player_1": {"pool": {"advantage_alignment": 0.5, "checkpoint/FROZEN": 0.5}},
            },
            "num_envs_per_env_runner": 32,
            "rollout_fragment_length": 3,
            "bootstrap_at_horizon": True,
            "model_config": SMALL,
            "minibatch_size": 40,
            "shuffle_batch_per_epoch": True,
            "num_epochs": 2,
        },
    ),
    "inequity_aversion_early_ends": Run(
        "Reciprocator",
        "escape_room_v0",
        {
            "env_config": {"num_agents": 2, "num_levers": 1},
            "players": {
                "player_0": {"player": "ppo", "intrinsic": {"inequity_aversion": {}}},
                "player_1": {"player": "ppo", "intrinsic": {"social_value_orientation": {}}},
            },
            "num_envs_per_env_runner": 16,
            "batch_mode": "complete_episodes",
            "model_config": SMALL,
            "num_epochs": 2,
        },
    ),
    "ppo_with_reciprocity": Run(
        "PPO",
        "coins_v0",
        {
            "env_config": {"num_steps": 6},
            "players": {"player_0": "reciprocator", "player_1": "ppo"},
            "reciprocity": {"observe_balance": True, "estimator_hiddens": [8], "buffer_iterations": 2},
            "num_env_runners": 0,
            "rollout_fragment_length": 4,
            "train_batch_size_per_learner": 32,
            "minibatch_size": 16,
            "num_epochs": 2,
            "model_config": SMALL,
        },
        # The policy of player_0 observes a balance, which RLlib's episodes contain for Reciprocators only.
        frozen_player="player_1",
    ),
}
