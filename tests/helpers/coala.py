"""Small runs of COALA."""

from rllib_reciprocator.algorithms.coala import COALAConfig

PAYOFFS = [[[1.0, 1.0], [-1.0, 2.0]], [[2.0, -1.0], [0.0, 0.0]]]


def coala_config(players=None, inner=3, copies=4, games=16, learners=0, credit="coala", steps=5, **training):
    return (
        COALAConfig()
        .environment("ipd_v0", env_config={"num_steps": steps, "payoffs": PAYOFFS})
        .players(players or {"player_0": "coala", "player_1": "learner/pg"})
        .meta(inner_episodes=inner, copies=copies, credit=credit)
        .training(**{"lr": 0.01, "num_epochs": 1, **training})
        .rl_module(
            model_config={
                "one_hot": True,
                "fcnet_hiddens": [],
                "use_gru": True,
                "gru_cell_size": 8,
                "vf_share_layers": True,
            }
        )
        .env_runners(num_envs_per_env_runner=games)
        .learners(num_learners=learners)
        .debugging(seed=1)
    )
