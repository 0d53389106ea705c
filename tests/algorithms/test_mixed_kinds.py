"""Tests of a run in which players of several kinds learn together: COALA, LIO and Advantage Alignment."""

import numpy as np
import pytest
import torch

from rllib_reciprocator.algorithms.coala import COALAConfig
from rllib_reciprocator.engine.update_rule import LEARN, LOOK_AHEAD
from tests.helpers.batches import prepared_batch
from tests.helpers.incentives import changed_modules, incentive_rule
from tests.helpers.weights import assert_same_weights, weights

GAMMA, LAMBDA, REWARD_SCALE, ALIGNMENT_WEIGHT = 0.9, 0.8, 0.5, 0.7
STEPS, INNER_EPISODES, COPIES, ENVIRONMENTS = 4, 3, 4, 24
MEMORY = {"fcnet_hiddens": [], "use_gru": True, "gru_cell_size": 4, "vf_share_layers": True}
COALA, LIO, ALIGNED, ONLINE = range(4)


def config(agents=3, **training):
    """Returns a run with a recurrent ``coala`` player and two players without memory; agent 3 is an online learner."""
    players = {
        "player_0": {"player": "coala", "model_config": MEMORY},
        "player_1": {"player": "lio", "lr": 0.3},
        "player_2": {"player": "advantage_alignment", "lr": 0.02},
        "player_3": "learner/pg",
    }
    return (
        COALAConfig()
        .environment("public_goods_v0", env_config={"num_agents": agents, "num_steps": STEPS})
        .players({f"player_{i}": players[f"player_{i}"] for i in range(agents)})
        .meta(inner_episodes=INNER_EPISODES, copies=COPIES)
        .intrinsic("incentives", hiddens=[8], lr=0.01)
        .training(gamma=GAMMA, lambda_=LAMBDA, reward_scale=REWARD_SCALE, alignment_weight=ALIGNMENT_WEIGHT, **training)
        .rl_module(model_config={"fcnet_hiddens": [8]})
        .env_runners(num_envs_per_env_runner=ENVIRONMENTS)
        .debugging(seed=1)
    )


# --- advantages by hand, in double precision -------------------------------------------------------------------------


def inner_episodes(steps):
    """Returns the slices of the steps of each inner episode."""
    return [slice(start, start + STEPS) for start in range(0, steps, STEPS)]


def sum_until_end(values, factor):
    """Returns the discounted sums of ``[B, T]`` from each step to the last one."""
    steps = values.shape[1]
    return np.stack([values[:, t:] @ factor ** np.arange(steps - t) for t in range(steps)], 1)


def td_errors(rewards, values, ends):
    """Returns TD errors ``[B, T]``; the value after a step is zero if the step is one of ``ends``."""
    next_values = np.concatenate([values[:, 1:], np.zeros_like(values[:, :1])], 1)
    next_values[:, ends] = 0.0
    return rewards + GAMMA * next_values - values


def coala_credit(errors, with_online_learner):
    """Returns the credit of actions, with the mean over the other groups subtracted.

    With an online learner, later inner episodes of all environments of the group count, else those of the environment.
    """
    environments, steps = errors.shape
    decay, groups = GAMMA * LAMBDA, np.arange(environments) // COPIES
    later = errors
    if with_online_learner:
        sums = np.stack([errors[groups == group].sum(0) for group in range(groups.max() + 1)])
        later = sums[groups]
    credit = np.zeros_like(errors)
    for t in range(steps):
        end = (t // STEPS + 1) * STEPS
        for k in range(t, steps):
            credit[:, t] += decay ** (k - t) * (errors if k < end else later)[:, k]
    baseline = np.stack([credit[groups != group].mean(0) for group in groups])
    return credit - baseline


def centered_returns(rewards):
    """Returns the discounted returns of inner episodes with the mean over environments subtracted."""
    returns = np.concatenate([sum_until_end(rewards[:, part], GAMMA) for part in inner_episodes(rewards.shape[1])], 1)
    return returns - returns.mean(0)


def generalized_advantages(errors):
    """Returns the GAE advantages of inner episodes."""
    parts = inner_episodes(errors.shape[1])
    return np.concatenate([sum_until_end(errors[:, part], GAMMA * LAMBDA) for part in parts], 1)


def aligned_advantages(errors, advantages, others):
    """Returns advantages plus the alignment term, each factor divided by its standard deviation.

    Args:
        errors: ``[B, T]``, the player's TD errors.
        advantages: ``[B, T]``, its GAE advantages.
        others: ``[B, T]`` for each co-player, its advantages.
    """
    errors, result = errors / errors.std(), advantages / advantages.std()
    present = sum(values / values.std() for values in others)
    past = np.zeros(len(errors))
    for t in range(errors.shape[1]):
        if t % STEPS == 0:
            past = np.zeros_like(past)
        result[:, t] += ALIGNMENT_WEIGHT * GAMMA * past * present[:, t]
        past = GAMMA * (past + errors[:, t])
    return result


def values_of_co_players(algo, batch):
    """Returns the aligned player's estimates of the values of the agents after it, ``[B, T, N - 1]``."""
    columns, module = batch.modules["player_2"].steps, algo.learner_group._learner.unwrapped("player_2")
    rows = {name: columns[name].flatten(0, 2) for name in ("obs",)}
    with torch.no_grad():
        return module.compute_co_player_values(rows).unflatten(0, batch.rewards.shape[:2]).double().numpy()


@pytest.mark.parametrize("agents", [3, 4])
@pytest.mark.parametrize("scale_advantages", [False, True])
def test_advantages_of_each_kind_are_those_of_its_own_step(build, agents, scale_advantages):
    """Computes the advantages by hand, also with an online learner, of which COALA knows and LIO does not."""
    algo = build(config(agents, scale_advantages=scale_advantages))
    algo.train()
    sample = algo.sample()
    batch, info = prepared_batch(algo, sample)
    incentives = sample.columns["incentives"]
    assert float(incentives[..., LIO, [COALA, ALIGNED]].min()) > 0.0
    assert not incentives[..., [COALA, ALIGNED], :].any()
    rewards = REWARD_SCALE * (sample.rewards + incentives.sum(-2)).double().numpy()
    np.testing.assert_allclose(batch.shaped_rewards.numpy(), rewards, atol=1e-5)
    values = batch.values.double().numpy()
    assert not values[..., LIO].any()
    steps = rewards.shape[1]
    inner_ends = [part.stop - 1 for part in inner_episodes(steps)]
    coala_errors = td_errors(rewards[..., COALA], values[..., COALA], [steps - 1])
    errors = td_errors(rewards[..., ALIGNED], values[..., ALIGNED], inner_ends)
    credit = coala_credit(coala_errors, with_online_learner=agents == 4)
    returns, advantages = centered_returns(rewards[..., LIO]), generalized_advantages(errors)
    co_player_advantages = [credit, returns]
    if agents == 4:
        # The advantages of the online learner come from the aligned player's estimates of its values.
        estimates = values_of_co_players(algo, batch)[..., ONLINE - ALIGNED - 1]
        co_player_advantages.append(generalized_advantages(td_errors(rewards[..., ONLINE], estimates, inner_ends)))
    expected = np.stack([credit, returns, aligned_advantages(errors, advantages, co_player_advantages)], -1)
    if scale_advantages:
        expected = expected / expected.std()
    np.testing.assert_allclose(batch.advantages[..., :3].numpy(), expected, atol=1e-4, rtol=1e-3)
    for agent in (COALA, LIO, ALIGNED):
        rows = info.rows[f"player_{agent}"]["advantages"].view(ENVIRONMENTS, steps)
        np.testing.assert_allclose(rows.numpy(), expected[..., agent], atol=1e-4, rtol=1e-3)
    # Each kind changes its advantages, so that the comparison distinguishes the steps.
    assert np.abs(credit - sum_until_end(coala_errors, GAMMA * LAMBDA)).max() > 0.1
    assert np.abs(expected[..., ALIGNED] / expected[..., ALIGNED].std() - advantages / advantages.std()).max() > 0.1


# --- runs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("agents", [3, 4])
def test_all_policies_and_incentive_functions_learn(build, agents):
    algo = build(config(agents))
    assert algo.config.update_phases() == [LEARN, LOOK_AHEAD]
    learner = algo.learner_group._learner
    assert learner.with_memory == {"player_0"}
    functions = [param.detach().clone() for param in incentive_rule(algo).functions.functions.parameters()]
    for _ in range(3):
        before = weights(algo)
        results = algo.train()
        assert changed_modules(algo, before) == {"player_0", "player_1", "player_2", "incentives"}
    for parameter, start in zip(incentive_rule(algo).functions.functions.parameters(), functions, strict=True):
        # Parameters are stacked by giver, and only player 1 gives incentives.
        assert not torch.equal(parameter[LIO], start[LIO])
        assert torch.equal(parameter[[COALA, ALIGNED]], start[[COALA, ALIGNED]])
    metrics = results["env_runners"]
    receives = {pair: float(mean) > 0.0 for pair, mean in metrics["incentives"].items()}
    trained_pairs = {"player_1_to_player_0": True, "player_1_to_player_2": True}
    assert receives == (trained_pairs if agents == 3 else {**trained_pairs, "player_1_to_player_3": False})
    # Two rollouts per iteration: policies learn from the first one, incentive functions from the second one.
    assert metrics["num_env_steps_sampled"] == 2 * ENVIRONMENTS * STEPS * INNER_EPISODES


@pytest.mark.parametrize("reuse_samples", [False, True])
def test_restored_runs_continue_identically(build, tmp_path, reuse_samples):
    whole, resumed_algo = (build(config(reuse_samples=reuse_samples)) for _ in range(2))
    whole.train()
    whole.save_to_path(tmp_path)
    resumed_algo.restore_from_path(tmp_path)
    assert_same_weights(whole, resumed_algo)
    for _ in range(2):
        expected, result = whole.train()["env_runners"], resumed_algo.train()["env_runners"]
        assert result["incentives"] == expected["incentives"]
        assert result["reward_per_step"] == expected["reward_per_step"]
        assert_same_weights(whole, resumed_algo)
