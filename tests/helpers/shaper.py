"""Small runs of Shaper."""

import torch

from rllib_reciprocator.algorithms.shaper import ShaperConfig
from rllib_reciprocator.engine import BatchedEnvRunner
from tests.helpers.coala import PAYOFFS

NETWORKS = {"one_hot": True, "fcnet_hiddens": [], "use_gru": True, "gru_cell_size": 4, "vf_share_layers": True}


def shaper_config(players=None, *, env="ipd_v0", games=32, learners=0, networks=None, env_config=None, **training):
    return (
        ShaperConfig()
        .environment(env, env_config=env_config or ({"num_steps": 5, "payoffs": PAYOFFS} if env == "ipd_v0" else {}))
        .players(players or {"player_0": "shaper", "player_1": "learner/pg"})
        .meta(inner_episodes=3, copies=4)
        .training(**training)
        .rl_module(model_config=NETWORKS if networks is None else networks)
        .env_runners(num_envs_per_env_runner=games)
        .learners(num_learners=learners)
        .debugging(seed=1)
    )


def build_runner(a_config, index=0):
    a_config.validate()
    return BatchedEnvRunner(config=a_config, worker_index=index)


def flat(module):
    """Returns the parameters of a module's actor as one vector."""
    return torch.cat([param.detach().flatten() for param in module.actor.parameters()])
