from itertools import product

import pytest
import torch
from ray.rllib.core.columns import Columns

from rllib_reciprocator.algorithms.coala import COALAConfig
from rllib_reciprocator.algorithms.coala.credit import assign_credit, leave_one_out_baseline
from rllib_reciprocator.engine.env_runner import redistribute_probabilities
from rllib_reciprocator.models.actor_critic import OBSERVATIONS, one_hot_lookup
from rllib_reciprocator.models.distributions import Bernoulli
from rllib_reciprocator.players import LearningModule
from social_dilemmas.matrix_game import MatrixGame
from tests.helpers.batches import prepared
from tests.helpers.weights import assert_same_weights

PAYOFFS = [[[1.0, 1.0], [-1.0, 2.0]], [[2.0, -1.0], [0.0, 0.0]]]


# --- the estimator ---------------------------------------------------------------------------------------------------


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
    counted = torch.tensor([True, True, True, True, False, False])[:, None]
    assert leave_one_out_baseline(credit, counted, 2).flatten().tolist() == [-14.0, -12.0, 8.0, 18.0, 7.0, 9.0]
    single_group = torch.tensor([True, True, False, False, False, False])[:, None]
    assert leave_one_out_baseline(credit, single_group, 2).flatten().tolist() == credit.flatten().tolist()


def test_credit_is_centered_per_kind_of_co_player(build):
    """Expects a zero mean at every step, separately for agents with and without an online learner as co-player."""
    players = {"player_0": "team/coala", "player_1": {"pool": {"learner/pg": 0.5, "team/coala": 0.5}}}
    algo = build(config(players, games=64))
    (sample,) = algo.env_runner.sample()
    with_online_learner = sample.joint["members"][:, 0, 1] == 0
    assert 0 < int(with_online_learner.sum()) < 64
    credit = prepared(algo, sample)["coala"]["advantages"].view(64, 2, 15)
    for group_credit in (
        credit[with_online_learner, 0],
        credit[~with_online_learner, 0],
        credit[~with_online_learner, 1],
    ):
        torch.testing.assert_close(group_credit.mean(0), torch.zeros(15), atol=1e-4, rtol=0.0)
        assert float(group_credit.std()) > 0.1
    uncentered = build(config(players, games=64).meta(center=False))
    credit = prepared(uncentered, sample)["coala"]["advantages"].view(64, 2, 15)
    assert float(credit[~with_online_learner, 0].mean(0).abs().max()) > 0.01


# --- runs ------------------------------------------------------------------------------------------------------------


def config(players=None, inner=3, copies=4, games=16, learners=0, credit="coala", steps=5, **training):
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


def test_memory_persists_within_a_meta_episode_only(build):
    """Compares sampling step by step with a pass over the meta-episode; the memory is reset before the next one."""
    algo = build(config())
    learner = algo.learner_group._learner
    for _ in range(2):
        (sample,) = algo.env_runner.sample()
        assert sample.rewards.shape == (16, 15, 2)
        assert sample.joint["is_first"][0].nonzero().flatten().tolist() == [0, 5, 10]
        columns = prepared(algo, sample)["player_0"]
        module = learner.module["player_0"].unwrapped()
        with torch.no_grad():
            out = module.forward_train(columns)
        torch.testing.assert_close(
            Bernoulli(out[Columns.ACTION_DIST_INPUTS]).logp(columns[Columns.ACTIONS]), columns[Columns.ACTION_LOGP]
        )
        torch.testing.assert_close(
            module.compute_values(columns, embeddings=out[Columns.EMBEDDINGS]), columns[Columns.VF_PREDS]
        )
        # All inner episodes start with the same observation, but in later ones the memory changes the policy.
        starts = sample.modules["player_0"][Columns.ACTION_DIST_INPUTS][:, 0, [0, 5], 0]
        assert len(starts[:, 0].unique()) == 1
        assert len(starts[:, 1].unique()) > 1


def test_online_learners_learn_between_inner_episodes_and_are_reset(build):
    algo = build(config(players=None, inner=3))
    runner = algo.env_runner
    module = runner.module["player_1"].unwrapped()
    for _ in range(2):
        runner.sample()
        logits = module.learned()["parameters"]["logits"][..., 0]
        assert logits.shape == (4, 5)
        assert bool(logits.ne(0).any(1).all())
    defection_probs = []
    learn = module.learn

    def record_and_learn(obs, actions, rewards):
        defection_probs.append(
            Bernoulli(module._forward({Columns.OBS: obs[:, 0]})[Columns.ACTION_DIST_INPUTS]).logits.sigmoid()
        )
        learn(obs, actions, rewards)

    module.learn = record_and_learn
    runner.sample()
    assert defection_probs[0].unique().tolist() == [0.5]
    # Defection pays against a co-player that acts at random, also in the first step.
    assert float(defection_probs[1].mean()) > 0.5
    assert float(defection_probs[2].mean()) > float(defection_probs[1].mean())
    assert all(len(probs.view(4, 4).unique(dim=1)[0]) == 1 for probs in defection_probs)


def test_pool_members_are_drawn_per_group_and_meta_episode(build):
    players = {"player_0": "team/coala", "player_1": {"pool": {"learner/pg": 0.5, "team/coala": 0.5}}}
    algo = build(config(players, games=64))
    (sample,) = algo.env_runner.sample()
    members = sample.joint["members"][..., 1].view(16, 4, 15)
    assert bool((members == members[:, :1, :1]).all())
    assert 0 < int(members[:, 0, 0].sum()) < 16
    learner = algo.learner_group._learner
    parts = learner.on_device(sample.to_batch())
    with_online_learner = learner._learns_beside(learner.joint_columns(parts))
    assert torch.equal(with_online_learner[:, 0], members[..., 0].flatten() == 0)
    assert not bool(with_online_learner[:, 1].any())
    result = algo.train()["env_runners"]
    assert set(result["pool"]["player_1"]) == {"player_1+pg", "coala"}


def test_members_of_a_population_never_meet_themselves(build):
    players = {"player_0": "coala", "player_1": {"pool": {"learner/pg": 0.4, "coala": 0.6}}}
    algo = build(config(players, games=2048, inner=1, steps=1).meta(population=3))
    ids = [[module_id for module_id, _ in members] for members in algo.config.pool_members()]
    assert ids == [["coala_0", "coala_1", "coala_2"], ["player_1+pg", "coala_0", "coala_1", "coala_2"]]
    (sample,) = algo.env_runner.sample()
    first, second = sample.joint["members"][::4, 0].unbind(-1)
    assert not bool((first + 1 == second).any())
    naive = second == 0
    assert float(naive.float().mean()) == pytest.approx(0.4, abs=0.08)
    for member in range(3):
        co_players = second[(first == member) & ~naive]
        assert len(co_players.unique()) == 2
        assert float((co_players == co_players.unique()[0]).float().mean()) == pytest.approx(0.5, abs=0.15)
    assert {"coala_0", "coala_1", "coala_2"} <= set(algo.train()["learners"])


def test_probabilities_are_redistributed_within_the_population():
    shares, in_population = torch.tensor([[0.4, 0.3, 0.2, 0.1]]), torch.tensor([False, True, True, True])
    already_plays = torch.tensor([[False, True, False, False]])
    torch.testing.assert_close(
        redistribute_probabilities(shares, already_plays, in_population), torch.tensor([[0.4, 0.0, 0.4, 0.2]])
    )
    assert torch.equal(redistribute_probabilities(shares, in_population[None], in_population), shares)


def test_minibatches_leave_out_streams_of_other_members(build):
    players = {"player_0": "team/coala", "player_1": {"pool": {"learner/pg": 0.5, "team/coala": 0.5}}}
    algo = build(config(players, games=64))
    (sample,) = algo.env_runner.sample()
    batches = prepared(algo, sample)
    learner = algo.learner_group._learner
    num_streams = 64 + int((sample.joint["members"][:, 0, 1] == 1).sum())
    for size in (None, 32 * 15):
        selections = list(learner._minibatch_indices(batches, 1, size, shuffle=True))
        rows = [select["coala"](batches["coala"]) for select in selections]
        assert sum(len(columns[Columns.ACTIONS]) for columns in rows) == 15 * num_streams
        assert all(bool(columns[Columns.LOSS_MASK].all()) for columns in rows)


@pytest.mark.processes
def test_two_learners_match_one(build):
    """Uses all kinds of players, and a pool whose members play different shares of each learner's environments."""
    players = {
        "player_0": "team/coala",
        "player_1": "ppo",
        "player_2": {"pool": {"learner/pg": 0.5, "team/coala": 0.5}},
    }
    configs = [config(players, learners=learners).environment("public_goods_v0") for learners in (0, 2)]
    for a_config in configs:
        a_config.env_config = {"num_agents": 3, "num_steps": 5}
    local, remote = map(build, configs)
    for algo in (local, remote):
        algo.train()
    assert_same_weights(local, remote, atol=2e-5)


def test_groups_stay_complete_if_environments_are_dropped(build):
    algo = build(config())
    (sample,) = algo.env_runner.sample()
    assert len(algo._for_learners(sample.first_games(14)).rewards) == 12


def test_only_credit_of_coala_players_spans_inner_episodes(build):
    algo = build(config({"player_0": "coala", "player_1": "ppo"}, scale_advantages=False, reward_scale=1.0))
    (sample,) = algo.env_runner.sample()
    batches = prepared(algo, sample)
    values = [batches[f"player_{k}"][Columns.VF_PREDS].view(16, 15) for k in range(2)]
    rewards = sample.rewards
    meta = rewards[..., 0].flip(1).cumsum(1).flip(1)
    inner = rewards[..., 1].view(16, 3, 5).flip(2).cumsum(2).flip(2).reshape(16, 15)
    torch.testing.assert_close(batches["player_0"]["value_targets"].view(16, 15), meta, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(batches["player_1"]["value_targets"].view(16, 15), inner, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(batches["player_1"]["advantages"].view(16, 15), inner - values[1], atol=1e-4, rtol=1e-4)


def test_results_report_inner_episodes(build):
    result = build(config()).train()["env_runners"]
    rewards = result["inner_episodes"]["player_0"]["reward_per_step"]
    assert sorted(rewards) == ["0", "1", "2"]
    mean = sum(float(reward) for reward in rewards.values()) / 3
    assert mean == pytest.approx(float(result["reward_per_step"]["player_0"]), abs=1e-5)
    assert 0.0 <= float(result["inner_episodes"]["player_1"]["cooperation_rate"]["2"]) <= 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"games": 18}, "num_envs_per_env_runner: 18 is not a multiple of the group size 4"),
        ({"games": 12, "learners": 2}, "num_learners: 3 groups of environments cannot be split evenly among 2"),
        ({"players": {"player_*": "learner/pg"}}, "no player is trained"),
        (
            {"players": {"player_0": "coala", "player_1": "learner/gp"}},
            "there is no online learner 'gp'; did you mean 'pg'",
        ),
        ({"bootstrap_at_horizon": True}, "bootstrap_at_horizon"),
    ],
)
def test_invalid_settings_raise(changes, message):
    with pytest.raises(ValueError, match=message):
        config(**changes).validate()


def test_individual_settings_of_population_members_raise():
    with pytest.raises(ValueError, match=r"players.player_0: with meta.population coala has no settings of its own"):
        config({"player_0": {"player": "coala", "lr": 0.1}, "player_1": "learner/pg"}).meta(population=2).validate()


def test_early_ends_and_short_fragments_raise():
    with pytest.raises(ValueError, match="inner episodes must have a fixed length"):
        COALAConfig().environment("escape_room_v0").validate()
    with pytest.raises(ValueError, match="rollout_fragment_length"):
        config().env_runners(rollout_fragment_length=5).validate()
