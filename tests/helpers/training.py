"""Configurations of small training runs."""

from rllib_reciprocator import ReciprocatorConfig

# Environment and fragment length of rollouts of whole episodes, rollouts that are cut within episodes, and rollouts in
# which environments end at different steps.
ROLLOUTS = {
    "whole": ("coins_v0", "auto"),
    "cut": ("coins_v0", 3),
    "long": ("coins_v0", 7),
    "early": ("countdown_v0", 5),
}


def training_config(players=None, env="coins_v0", fragment="auto", games=24, **training):
    return (
        ReciprocatorConfig()
        .environment(env, env_config={"num_steps": 4 if env != "countdown_v0" else 8})
        .players(players or {"*": "reciprocator"})
        .training(num_epochs=2, **training)
        .rl_module(model_config={"fcnet_hiddens": [8]})
        .env_runners(num_envs_per_env_runner=games, rollout_fragment_length=fragment)
        .debugging(seed=1)
    )


def pooled(**shares):
    return {"player_0": "ppo", "player_1": {"pool": {key.replace("__", "/"): share for key, share in shares.items()}}}
