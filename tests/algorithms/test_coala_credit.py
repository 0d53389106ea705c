"""Tests of the credit of actions over meta-episodes."""

from itertools import product

import pytest
import torch
from ray.rllib.core.columns import Columns

from rllib_reciprocator.algorithms.coala.rules import assign_credit, leave_one_out_baseline
from rllib_reciprocator.models.actor_critic import OBSERVATIONS, one_hot_lookup
from rllib_reciprocator.models.distributions import Bernoulli
from rllib_reciprocator.players import LearningModule
from social_dilemmas.matrix_game import MatrixGame
from tests.helpers.batches import prepared
from tests.helpers.coala import PAYOFFS, coala_config


class Enumerated:
    """All outcomes of a tiny meta-episode, with one online learner per outcome and a policy with a memory.

    Rows are ``outcome * copies + environment``.
    """

    def __init__(self, copies, inner, steps):
        torch.manual_seed(0)
        self.copies, length = copies, inner * steps
        actions = torch.tensor(list(product((0, 1), repeat=2 * copies * length))).view(-1, length, copies, 2)
        outcomes = len(actions)
        game = MatrixGame(PAYOFFS, num_steps=steps, num_games=outcomes * copies)
        learning = {"lr": 3.0, "gamma": 1.0, "normalize_advantages": False, "use_baseline": False}
        module = LearningModule(
            observation_space=game.observation_space,
            action_space=game.action_space,
            model_config={"learning": learning, "copies": copies, OBSERVATIONS: game.observations.tolist()},
        )
        module.restart(game.num_games, torch.Generator())
        module._take({"logits": torch.randn(5, 1, dtype=torch.float64).expand(outcomes, 5, 1).clone()})
        self.theta = torch.randn(length, 5, 5, dtype=torch.float64, requires_grad=True)
        critic = torch.randn(length + 1, 5, 5, dtype=torch.float64)
        critic[-1] = 0.0
        log_probs, rewards, values = [], [], []
        last_obs, log_p = (
            torch.zeros(game.num_games, dtype=torch.long),
            torch.zeros(outcomes, dtype=torch.float64),
        )
        for t in range(length):
            if t % steps == 0:
                obs, learner_steps = game.reset(), []
            obs_index = one_hot_lookup(obs[:, 0], game.observations).long().argmax(1)
            joint_actions = actions[:, t].reshape(-1, 2)
            log_prob = Bernoulli(self.theta[t][obs_index, last_obs][:, None]).logp(joint_actions[:, 0])
            logits = module._forward({Columns.OBS: obs[:, 1]})[Columns.ACTION_DIST_INPUTS]
            co_player_log_prob = Bernoulli(logits).logp(joint_actions[:, 1])
            log_p = log_p + (log_prob + co_player_log_prob).view(outcomes, copies).sum(1)
            step = game.step(joint_actions)
            log_probs.append(log_prob)
            rewards.append(step.rewards[:, 0].double())
            values.append(critic[t][obs_index, last_obs])
            learner_steps.append((obs[:, 1], joint_actions[:, 1], step.rewards[:, 1].double()))
            last_obs, obs = obs_index, step.obs
            if t % steps == steps - 1:
                module.learn(*(torch.stack(column, 1) for column in zip(*learner_steps, strict=True)))
        self.log_probs, self.rewards = torch.stack(log_probs, 1), torch.stack(rewards, 1)
        next_values = torch.stack([*values[1:], torch.zeros_like(values[0])], 1)
        self.errors = self.rewards + next_values - torch.stack(values, 1)
        self.probabilities, self.steps = log_p.exp(), steps

    def exact_gradient(self):
        """Returns the gradient of the expected return of an environment."""
        returns = self.rewards.sum(1).view(-1, self.copies).mean(1)
        return torch.autograd.grad((self.probabilities * returns).sum(), self.theta, retain_graph=True)[0]

    def expected_estimate(self, signals, credit):
        """Returns the expectation of the gradient that is estimated from one outcome."""
        has_online_learner = torch.ones(len(signals), 1, dtype=torch.bool)
        settings = {"inner_steps": self.steps, "copies": self.copies, "decay": 1.0, "credit": credit}
        step_credit = assign_credit(signals[..., None], has_online_learner, **settings)[..., 0]
        objective = (self.log_probs * step_credit).sum(1).view(-1, self.copies).mean(1)
        return torch.autograd.grad((self.probabilities.detach() * objective).sum(), self.theta, retain_graph=True)[0]

    def relative_error(self, signals, credit):
        """Returns the error of the expected estimate, relative to the norm of the exact gradient."""
        exact = self.exact_gradient()
        return float((self.expected_estimate(signals, credit) - exact).norm() / exact.norm())


@pytest.mark.parametrize(("copies", "inner", "steps"), [(1, 2, 2), (2, 2, 1), (3, 2, 1), (2, 3, 1), (2, 2, 2)])
def test_coala_estimates_the_exact_gradient(copies, inner, steps):
    """Enumerates all outcomes, with rewards and with TD errors of a random critic as signals."""
    game = Enumerated(copies, inner, steps)
    assert float(game.probabilities.sum()) == pytest.approx(1.0, abs=1e-12)
    for signals in (game.rewards, game.errors):
        assert game.relative_error(signals, "coala") < 1e-9
        assert game.relative_error(signals, "myopic") > 1e-3


def test_other_credit_rules_are_exact_for_groups_of_one_only():
    single, pair = Enumerated(1, 2, 2), Enumerated(2, 2, 2)
    for credit in ("mfos", "unaware"):
        assert single.relative_error(single.rewards, credit) < 1e-9
        assert pair.relative_error(pair.rewards, credit) > 0.03
    assert pair.relative_error(pair.errors, "mfos") > 0.1


def test_credit_by_hand():
    """Uses one group of two environments with two inner episodes of two steps."""
    rewards = torch.tensor([[1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0]])[..., None]
    for credit, later_credit in (
        ("coala", (77.0, 77.0)),
        ("mfos", (38.5, 38.5)),
        ("unaware", (7.0, 70.0)),
        ("myopic", (0, 0)),
    ):
        step_credit = assign_credit(
            rewards, torch.ones(2, 1, dtype=torch.bool), inner_steps=2, copies=2, decay=1.0, credit=credit
        )
        first, second = later_credit
        assert step_credit[0, :, 0].tolist() == [3.0 + first, 2.0 + first, 7.0, 4.0]
        assert step_credit[1, :, 0].tolist() == [30.0 + second, 20.0 + second, 70.0, 40.0]
    no_online_learners = torch.zeros(2, 1, dtype=torch.bool)
    single_credit = assign_credit(rewards, no_online_learners, inner_steps=2, copies=2, decay=0.5, credit="coala")
    assert single_credit[0, :, 0].tolist() == [1 + 0.5 * (2 + 0.5 * (3 + 0.5 * 4)), 2 + 0.5 * (3 + 0.5 * 4), 5.0, 4.0]


def test_leave_one_out_baseline_by_hand():
    """Uses three groups of two environments, the last of which is not counted."""
    credit = torch.tensor([1.0, 3.0, 10.0, 20.0, 7.0, 9.0])[:, None, None]
    count_mask = torch.tensor([True, True, True, True, False, False])[:, None]
    assert leave_one_out_baseline(credit, count_mask, 2).flatten().tolist() == [-14.0, -12.0, 8.0, 18.0, 7.0, 9.0]
    single_group = torch.tensor([True, True, False, False, False, False])[:, None]
    assert leave_one_out_baseline(credit, single_group, 2).flatten().tolist() == credit.flatten().tolist()


def test_credit_is_centered_per_kind_of_co_player(build):
    """Expects a zero mean at every step, separately for agents with and without an online learner as co-player."""
    players = {"player_0": "team/coala", "player_1": {"pool": {"learner/pg": 0.5, "team/coala": 0.5}}}
    algo = build(coala_config(players, games=64))
    (sample,) = algo.env_runner.sample()
    with_online_learner = sample.pool_members[:, 0, 1] == 0
    assert 0 < int(with_online_learner.sum()) < 64
    credit = prepared(algo, sample)["coala"]["advantages"].view(64, 2, 15)
    for group_credit in (
        credit[with_online_learner, 0],
        credit[~with_online_learner, 0],
        credit[~with_online_learner, 1],
    ):
        torch.testing.assert_close(group_credit.mean(0), torch.zeros(15), atol=1e-4, rtol=0.0)
        assert float(group_credit.std()) > 0.1
    uncentered_algo = build(coala_config(players, games=64).meta(center=False))
    credit = prepared(uncentered_algo, sample)["coala"]["advantages"].view(64, 2, 15)
    assert float(credit[~with_online_learner, 0].mean(0).abs().max()) > 0.01
