"""Runs of Reciprocators, and the uniform share in the counterfactual of their estimator."""

from rllib_reciprocator import ReciprocatorConfig


def batched(players=None, env="ipd_v0", **reciprocity):
    config = (
        ReciprocatorConfig().environment(env, env_config={"num_steps": 6}).players(players or {"*": "reciprocator"})
    )
    config.reciprocity(**{"influence": "reward", **reciprocity}).rl_module(model_config={"fcnet_hiddens": [8]})
    return config.env_runners(num_envs_per_env_runner=8).training(num_epochs=1).debugging(seed=1)


def share_of(config):
    config.validate()
    return config.rl_module_spec.rl_module_specs["influence"].model_config["uniform_share"]
