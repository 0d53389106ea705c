"""Configurations of small runs of Reciprocators."""

from rllib_reciprocator import ReciprocatorConfig


def reciprocator_config(players=None, games=32, seed=1, env="ipd_v0", **reciprocity):
    return (
        ReciprocatorConfig()
        .environment(env, env_config={"num_steps": 4})
        .players(players or {"*": "reciprocator"})
        .reciprocity(**{"reward": "petty", **reciprocity})
        .training(num_epochs=2)
        .rl_module(model_config={"fcnet_hiddens": [8]})
        .env_runners(num_envs_per_env_runner=games)
        .debugging(seed=seed)
    )


def with_memory(a_config, **model_config):
    return a_config.rl_module(model_config={"fcnet_hiddens": [8], "use_gru": True, "gru_cell_size": 6, **model_config})


COINS = {"reward": "petty_payoff", "influence": "reward", "balance_decay": 0.9, "buffer_iterations": 2}
