"""Tests of teams, whose agents share a policy."""

import copy

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing

from tests.helpers.batches import prepared
from tests.helpers.training import training_config


def test_agents_of_a_team_share_a_forward_pass_and_an_update(build):
    a_config = training_config({"*": "team/all"}, games=8, normalize_advantages=False)
    a_config.environment(env_config={"num_agents": 3, "grid_size": 4, "num_steps": 4})
    algo = build(a_config)
    result = algo.train()
    (sample,) = algo.env_runner.sample()
    assert set(sample.modules) == {"all"}
    columns = sample.modules["all"].steps
    assert columns[Columns.OBS].shape[:3] == (8, 3, 4)
    assert torch.equal(columns[Columns.ACTIONS].transpose(1, 2), sample.actions)
    batch = prepared(algo, sample)["all"]
    learner = algo.learner_group._learner
    values = learner.module["all"].unwrapped().compute_values(batch).view(8, 3, 4)
    reciprocal = learner.shape_rewards(sample, iteration=0)
    targets = batch[Postprocessing.VALUE_TARGETS].view(8, 3, 4)
    to_go = [sum(0.96**k * reciprocal[:, t + k, 2] for k in range(4 - t)) for t in range(4)]
    torch.testing.assert_close(targets[:, 2], torch.stack(to_go, 1), atol=1e-4, rtol=1e-4)
    advantages = batch[Postprocessing.ADVANTAGES].view(8, 3, 4)
    torch.testing.assert_close(advantages, targets - values, atol=1e-4, rtol=1e-4)
    assert result["env_runners"]["num_module_steps_sampled"]["all"] == 3 * 8 * 4
    assert set(result["env_runners"]["agent_episode_returns_mean"]) == {"player_0", "player_1", "player_2"}


def test_team_of_one_acts_like_an_individual_player(build):
    """Copies the weights, so that only the names of the modules differ."""
    individual = build(training_config({"player_0": "reciprocator", "player_1": "scripted/random"}))
    team = build(training_config({"player_0": "team/one", "player_1": "scripted/random"}))
    team.learner_group._learner.module["one"].load_state_dict(
        copy.deepcopy(individual.learner_group._learner.module["player_0"].state_dict())
    )
    team.env_runner_group.sync_weights(from_worker_or_learner_group=team.learner_group)
    for algo in (individual, team):
        algo.env_runner.weights_seq_no = 0
    (a,), (b,) = individual.env_runner.sample(), team.env_runner.sample()
    for name in (Columns.OBS, Columns.ACTIONS, Columns.ACTION_LOGP):
        assert torch.equal(a.modules["player_0"].steps[name], b.modules["one"].steps[name])
