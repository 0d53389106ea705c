"""Tests of frozen givers of incentives in other runs."""

from dataclasses import replace

import pytest
import torch

from rllib_reciprocator import ReciprocatorConfig
from rllib_reciprocator.intrinsic.incentives import GIVEN
from tests.helpers.incentives import lio_config


@pytest.fixture(scope="module")
def trained(ray_cluster, tmp_path_factory):
    algo = lio_config(agents=3, incentives={"observe_given": True}, env="public_goods_v0").build_algo()
    algo.train()
    path = algo.save_to_path(tmp_path_factory.mktemp("lio") / "checkpoint")
    algo.stop()
    return path


def reciprocators(players):
    return (
        ReciprocatorConfig()
        .environment("public_goods_v0", env_config={"num_steps": 5, "num_agents": 3})
        .players(players)
        .env_runners(num_envs_per_env_runner=8)
        .debugging(seed=1)
    )


def test_frozen_givers_give_in_other_runs(build, trained):
    algo = build(reciprocators({"player_0": f"checkpoint/{trained}#player_0", "*": "reciprocator"}))
    sample = algo.sample()
    assert (sample.columns["incentives"][..., 0, 1:] > 0).all()
    assert not sample.columns["incentives"][..., 1:, :].any()
    learner = algo.learner_group._learner
    received_incentives = sample.columns["received"]
    without_incentives = replace(sample, columns={**sample.columns, "received": torch.zeros_like(received_incentives)})
    shaped_rewards, plain = (learner.shape_rewards(batch, 0) for batch in (sample, without_incentives))
    torch.testing.assert_close(shaped_rewards - plain, received_incentives)


def test_incentive_functions_play_any_agent(build, trained):
    """Plays agent 0 with agent 2's function, and expects its incentives to be rotated along with its inputs."""
    players = {"player_0": f"checkpoint/{trained}#player_2", "player_1": "scripted/random", "player_2": "ppo"}
    algo = build(reciprocators(players))
    sample = algo.sample()
    functions = algo.env_runner.module["incentives+player_0"].unwrapped()
    given_before, actions = sample.columns[GIVEN], sample.actions
    rotation = torch.tensor([1, 2, 0])  # agent 0 in the place of agent 2, agent 1 in that of agent 0
    obs = _observations_of_agent_0(algo)
    repeated_obs = obs[:, :, None].expand(-1, -1, 3, *[-1] * (obs.dim() - 2))  # only the giver's observation counts
    rows = [column.flatten(0, 1) for column in (repeated_obs, actions[..., rotation], given_before[:, :, rotation])]
    incentives = functions.incentives(*rows).unflatten(0, actions.shape[:2])[:, :, 2]
    torch.testing.assert_close(sample.columns["incentives"][:, :, 0][..., rotation], incentives)


def _observations_of_agent_0(algo):
    """Samples the same fragment again and returns the observations of agent 0, ``[B, T, ..]``."""
    runner, sampler, step_obs = algo.env_runner, algo.env_runner.sampler, []
    runner._fragments_with_weights = 0
    act = sampler._act

    def record_obs(*args):
        step_obs.append(sampler._obs[:, 0].clone())
        return act(*args)

    sampler._act = record_obs
    runner.start_over()
    runner.sample()
    return torch.stack(step_obs, 1)
