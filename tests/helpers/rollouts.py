"""Env runners of small runs."""

from rllib_reciprocator import ReciprocatorConfig
from rllib_reciprocator.engine import BatchedEnvRunner


def sampling_config(players=None, env="ipd_v0", games=8, seed=3, **reciprocity):
    return (
        ReciprocatorConfig()
        .environment(env, env_config={"num_steps": 6})
        .players(players or {"*": "reciprocator"})
        .reciprocity(**reciprocity)
        .env_runners(num_envs_per_env_runner=games)
        .debugging(seed=seed)
    )


def runner(built):
    built.validate()
    return BatchedEnvRunner(config=built, worker_index=0)
