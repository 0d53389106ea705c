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
    """Every outcome of a tiny meta-episode, each with a learner of its own, and a policy that goes by its history.

    Rows are ``outcome * copies + copy``.
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
        before, chance = torch.zeros(game.num_games, dtype=torch.long), torch.zeros(outcomes, dtype=torch.float64)
        for t in range(length):
            if t % steps == 0:
                obs, seen_by_learner = game.reset(), []
            seen = one_hot_lookup(obs[:, 0], game.observations).long().argmax(1)
            joint = actions[:, t].reshape(-1, 2)
            own = Bernoulli(self.theta[t][seen, before][:, None]).logp(joint[:, 0])
            logits = module._forward({Columns.OBS: obs[:, 1]})[Columns.ACTION_DIST_INPUTS]
            other = Bernoulli(logits).logp(joint[:, 1])
            chance = chance + (own + other).view(outcomes, copies).sum(1)
            step = game.step(joint)
            log_probs.append(own)
            rewards.append(step.rewards[:, 0].double())
            values.append(critic[t][seen, before])
            seen_by_learner.append((obs[:, 1], joint[:, 1], step.rewards[:, 1].double()))
            before, obs = seen, step.obs
            if t % steps == steps - 1:
                module.learn(*(torch.stack(each, 1) for each in zip(*seen_by_learner, strict=True)))
        self.log_probs, self.rewards = torch.stack(log_probs, 1), torch.stack(rewards, 1)
        following = torch.stack([*values[1:], torch.zeros_like(values[0])], 1)
        self.errors = self.rewards + following - torch.stack(values, 1)
        self.chance, self.steps = chance.exp(), steps

    def exact(self):
        """The gradient of the mean return of a copy."""
        returns = self.rewards.sum(1).view(-1, self.copies).mean(1)
        return torch.autograd.grad((self.chance * returns).sum(), self.theta, retain_graph=True)[0]

    def estimated(self, signals, credit):
        """What is expected of an estimate from one outcome."""
        everybody = torch.ones(len(signals), 1, dtype=torch.bool)
        settings = {"inner_steps": self.steps, "copies": self.copies, "decay": 1.0, "credit": credit}
        found = assign_credit(signals[..., None], everybody, **settings)[..., 0]
        of_outcome = (self.log_probs * found).sum(1).view(-1, self.copies).mean(1)
        return torch.autograd.grad((self.chance.detach() * of_outcome).sum(), self.theta, retain_graph=True)[0]

    def missed(self, signals, credit):
        """How far it is off, as a share of the exact gradient."""
        exact = self.exact()
        return float((self.estimated(signals, credit) - exact).norm() / exact.norm())


@pytest.mark.parametrize(("copies", "inner", "steps"), [(1, 2, 2), (2, 2, 1), (3, 2, 1), (2, 3, 1), (2, 2, 2)])
def test_coala_is_the_exact_gradient(copies, inner, steps):
    """Over every outcome, from rewards, and from one-step errors of a random critic."""
    game = Enumerated(copies, inner, steps)
    assert float(game.chance.sum()) == pytest.approx(1.0, abs=1e-12)
    for signals in (game.rewards, game.errors):
        assert game.missed(signals, "coala") < 1e-9
        assert game.missed(signals, "myopic") > 1e-3


def test_other_rules_are_exact_for_one_copy_only():
    alone, two = Enumerated(1, 2, 2), Enumerated(2, 2, 2)
    for credit in ("mfos", "unaware"):
        assert alone.missed(alone.rewards, credit) < 1e-9
        assert two.missed(two.rewards, credit) > 0.03
    assert two.missed(two.errors, "mfos") > 0.1


def test_credit_by_hand():
    """One group of two copies, two inner episodes of two steps."""
    rewards = torch.tensor([[1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0]])[..., None]
    for credit, later in (
        ("coala", (77.0, 77.0)),
        ("mfos", (38.5, 38.5)),
        ("unaware", (7.0, 70.0)),
        ("myopic", (0, 0)),
    ):
        found = assign_credit(
            rewards, torch.ones(2, 1, dtype=torch.bool), inner_steps=2, copies=2, decay=1.0, credit=credit
        )
        one, other = later
        assert found[0, :, 0].tolist() == [3.0 + one, 2.0 + one, 7.0, 4.0]
        assert found[1, :, 0].tolist() == [30.0 + other, 20.0 + other, 70.0, 40.0]
    nobody = torch.zeros(2, 1, dtype=torch.bool)
    alone = assign_credit(rewards, nobody, inner_steps=2, copies=2, decay=0.5, credit="coala")
    assert alone[0, :, 0].tolist() == [1 + 0.5 * (2 + 0.5 * (3 + 0.5 * 4)), 2 + 0.5 * (3 + 0.5 * 4), 5.0, 4.0]


def test_centring_by_hand():
    """Three groups of two copies, of which the last does not count."""
    found = torch.tensor([1.0, 3.0, 10.0, 20.0, 7.0, 9.0])[:, None, None]
    counted = torch.tensor([True, True, True, True, False, False])[:, None]
    assert leave_one_out_baseline(found, counted, 2).flatten().tolist() == [-14.0, -12.0, 8.0, 18.0, 7.0, 9.0]
    alone = torch.tensor([True, True, False, False, False, False])[:, None]
    assert leave_one_out_baseline(found, alone, 2).flatten().tolist() == found.flatten().tolist()


def test_each_kind_of_co_players_is_centred_for_itself(build):
    """Of who meets learners and of who meets others, at every step: it is not told whom an agent met."""
    players = {"player_0": "team/coala", "player_1": {"pool": {"learner/pg": 0.5, "team/coala": 0.5}}}
    algo = build(config(players, games=64))
    (sample,) = algo.env_runner.sample()
    beside_learners = sample.joint["members"][:, 0, 1] == 0
    assert 0 < int(beside_learners.sum()) < 64
    credit = prepared(algo, sample)["coala"]["advantages"].view(64, 2, 15)
    for of_kind in (credit[beside_learners, 0], credit[~beside_learners, 0], credit[~beside_learners, 1]):
        torch.testing.assert_close(of_kind.mean(0), torch.zeros(15), atol=1e-4, rtol=0.0)
        assert float(of_kind.std()) > 0.1
    plain = build(config(players, games=64).meta(center=False))
    credit = prepared(plain, sample)["coala"]["advantages"].view(64, 2, 15)
    assert float(credit[~beside_learners, 0].mean(0).abs().max()) > 0.01


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


def test_memory_lives_through_inner_episodes_and_no_longer(build):
    """What was sampled step by step is what a pass over the whole meta-episode gives; the next one begins empty."""
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
        # The same observation, at the start of an inner episode, is answered by what was seen before.
        starts = sample.modules["player_0"][Columns.ACTION_DIST_INPUTS][:, 0, [0, 5], 0]
        assert len(starts[:, 0].unique()) == 1
        assert len(starts[:, 1].unique()) > 1


def test_learning_players_learn_between_inner_episodes_and_start_afresh(build):
    algo = build(config(players=None, inner=3))
    runner = algo.env_runner
    module = runner.module["player_1"].unwrapped()
    for _ in range(2):
        runner.sample()
        logits = module.learned()["parameters"]["logits"][..., 0]
        assert logits.shape == (4, 5)
        assert bool(logits.ne(0).any(1).all())
    chances = []
    learn = module.learn

    def watched(obs, actions, rewards):
        chances.append(
            Bernoulli(module._forward({Columns.OBS: obs[:, 0]})[Columns.ACTION_DIST_INPUTS]).logits.sigmoid()
        )
        learn(obs, actions, rewards)

    module.learn = watched
    runner.sample()
    assert chances[0].unique().tolist() == [0.5]
    # Against somebody who does anything at all defection pays, at the start too.
    assert float(chances[1].mean()) > 0.5
    assert float(chances[2].mean()) > float(chances[1].mean())
    assert all(len(each.view(4, 4).unique(dim=1)[0]) == 1 for each in chances)


def test_a_pool_is_drawn_for_whole_groups_and_meta_episodes(build):
    players = {"player_0": "team/coala", "player_1": {"pool": {"learner/pg": 0.5, "team/coala": 0.5}}}
    algo = build(config(players, games=64))
    (sample,) = algo.env_runner.sample()
    members = sample.joint["members"][..., 1].view(16, 4, 15)
    assert bool((members == members[:, :1, :1]).all())
    assert 0 < int(members[:, 0, 0].sum()) < 16
    learner = algo.learner_group._learner
    parts = learner.on_device(sample.to_batch())
    beside = learner._learns_beside(learner.joint_columns(parts))
    assert torch.equal(beside[:, 0], members[..., 0].flatten() == 0)
    assert not bool(beside[:, 1].any())
    result = algo.train()["env_runners"]
    assert set(result["pool"]["player_1"]) == {"player_1+pg", "coala"}


def test_members_of_a_population_meet_each_other_and_never_themselves(build):
    players = {"player_0": "coala", "player_1": {"pool": {"learner/pg": 0.4, "coala": 0.6}}}
    algo = build(config(players, games=2048, inner=1, steps=1).meta(population=3))
    ids = [[module_id for module_id, _ in each] for each in algo.config.pool_members()]
    assert ids == [["coala_0", "coala_1", "coala_2"], ["player_1+pg", "coala_0", "coala_1", "coala_2"]]
    (sample,) = algo.env_runner.sample()
    first, second = sample.joint["members"][::4, 0].unbind(-1)
    assert not bool((first + 1 == second).any())
    naive = second == 0
    assert float(naive.float().mean()) == pytest.approx(0.4, abs=0.08)
    for member in range(3):
        others = second[(first == member) & ~naive]
        assert len(others.unique()) == 2
        assert float((others == others.unique()[0]).float().mean()) == pytest.approx(0.5, abs=0.15)
    assert {"coala_0", "coala_1", "coala_2"} <= set(algo.train()["learners"])


def test_what_is_taken_goes_to_others_of_the_population():
    shares, shared = torch.tensor([[0.4, 0.3, 0.2, 0.1]]), torch.tensor([False, True, True, True])
    taken = torch.tensor([[False, True, False, False]])
    torch.testing.assert_close(redistribute_probabilities(shares, taken, shared), torch.tensor([[0.4, 0.0, 0.4, 0.2]]))
    assert torch.equal(redistribute_probabilities(shares, shared[None], shared), shares)


def test_streams_that_nobody_plays_are_left_out(build):
    players = {"player_0": "team/coala", "player_1": {"pool": {"learner/pg": 0.5, "team/coala": 0.5}}}
    algo = build(config(players, games=64))
    (sample,) = algo.env_runner.sample()
    batches = prepared(algo, sample)
    learner = algo.learner_group._learner
    played = 64 + int((sample.joint["members"][:, 0, 1] == 1).sum())
    for size in (None, 32 * 15):
        taken = list(learner._minibatch_indices(batches, 1, size, shuffle=True))
        rows = [take["coala"](batches["coala"]) for take in taken]
        assert sum(len(each[Columns.ACTIONS]) for each in rows) == 15 * played
        assert all(bool(each[Columns.LOSS_MASK].all()) for each in rows)


def test_two_learners_learn_as_one(build):
    """With players of all kinds, and a pool whose members play in other shares of the games of each learner."""
    players = {
        "player_0": "team/coala",
        "player_1": "ppo",
        "player_2": {"pool": {"learner/pg": 0.5, "team/coala": 0.5}},
    }
    configs = [config(players, learners=learners).environment("public_goods_v0") for learners in (0, 2)]
    for each in configs:
        each.env_config = {"num_agents": 3, "num_steps": 5}
    one, two = map(build, configs)
    for algo in (one, two):
        algo.train()
    assert_same_weights(one, two, atol=2e-5)


def test_groups_stay_whole_where_games_are_left_out(build):
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


def test_results_tell_of_inner_episodes(build):
    result = build(config()).train()["env_runners"]
    of_inner = result["inner_episodes"]["player_0"]["reward_per_step"]
    assert sorted(of_inner) == ["0", "1", "2"]
    mean = sum(float(each) for each in of_inner.values()) / 3
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
def test_what_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        config(**changes).validate()


def test_members_of_a_population_have_no_settings_of_their_own():
    with pytest.raises(ValueError, match=r"players.player_0: with meta.population coala has no settings of its own"):
        config({"player_0": {"player": "coala", "lr": 0.1}, "player_1": "learner/pg"}).meta(population=2).validate()


def test_games_that_end_early_and_fragments_are_refused():
    with pytest.raises(ValueError, match="inner episodes must have a fixed length"):
        COALAConfig().environment("escape_room_v0").validate()
    with pytest.raises(ValueError, match="rollout_fragment_length"):
        config().env_runners(rollout_fragment_length=5).validate()
