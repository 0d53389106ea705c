import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.rllib.core.columns import Columns

from rllib_reciprocator.algorithms.shaper import ShaperConfig
from rllib_reciprocator.algorithms.shaper.evolution import expected_fitness, mirrored_noise
from rllib_reciprocator.algorithms.shaper.evolved_module import MEMBER, SEED, EvolvedModule
from rllib_reciprocator.engine import BatchedEnvRunner
from rllib_reciprocator.engine.sample import concatenate
from tests.helpers.batches import prepared
from tests.helpers.weights import assert_same_weights, weights

PAYOFFS = [[[1.0, 1.0], [-1.0, 2.0]], [[2.0, -1.0], [0.0, 0.0]]]
NETWORKS = {"one_hot": True, "fcnet_hiddens": [], "use_gru": True, "gru_cell_size": 4, "vf_share_layers": True}


# --- the estimate ----------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**62), groups=st.integers(1, 9), agents=st.integers(1, 3), size=st.integers(1, 40))
@settings(max_examples=50, deadline=None)
def test_noise_is_mirrored_between_neighbouring_groups_and_follows_from_the_seed(seed, groups, agents, size):
    noise = mirrored_noise(seed, groups, agents, size)
    assert noise.shape == (groups * agents, size)
    of_groups = noise.view(groups, agents, size)
    assert torch.equal(of_groups[1::2], -of_groups[: groups // 2 * 2 : 2])
    assert torch.equal(noise, mirrored_noise(seed, groups, agents, size))
    others = mirrored_noise(seed + 1, groups, agents, size)
    assert not bool((noise == others).any())


def test_the_estimate_by_hand():
    """Two members: 3 / 2 of the first one's noise less 1 / 2 of the other's."""
    mean = torch.zeros(3, requires_grad=True)
    noise = torch.tensor([[1.0, 0.0, 2.0], [0.0, 4.0, -2.0]])
    total = expected_fitness(mean, noise, torch.tensor([3.0, -1.0]), torch.tensor(2.0))
    assert torch.autograd.grad(total, mean)[0].tolist() == [1.5, -2.0, 4.0]


def test_the_estimate_is_the_gradient_of_what_members_get():
    """Of a quadratic fitness, mirrored perturbations leave nothing of its even part; the rest is noise of the draws."""
    wanted, sigma, members = torch.tensor([1.0, -2.0, 0.5, 0.0]), torch.tensor(0.3), 200_000
    mean = torch.tensor([0.2, 0.1, -0.4, 0.0], requires_grad=True)
    noise = mirrored_noise(1, members, 1, 4)
    fitness = -(mean.detach() + sigma * noise - wanted).square().sum(1)
    found = torch.autograd.grad(expected_fitness(mean, noise, fitness, sigma) / members, mean)[0]
    torch.testing.assert_close(found, 2.0 * (wanted - mean.detach()), atol=0.1, rtol=0.0)


# --- members of a population -----------------------------------------------------------------------------------------


def config(players=None, *, env="ipd_v0", games=32, learners=0, networks=None, env_config=None, **training):
    return (
        ShaperConfig()
        .environment(env, env_config=env_config or ({"num_steps": 5, "payoffs": PAYOFFS} if env == "ipd_v0" else {}))
        .players(players or {"player_0": "shaper", "player_1": "learner/pg"})
        .meta(inner_episodes=3, copies=4)
        .training(**training)
        .rl_module(model_config=NETWORKS if networks is None else networks)
        .env_runners(num_envs_per_env_runner=games)
        .learners(num_learners=learners)
        .debugging(seed=1)
    )


def runner_of(a_config, index=0):
    a_config.validate()
    return BatchedEnvRunner(config=a_config, worker_index=index)


def member(module, mean, number):
    """The parameters that a member plays with."""
    of_all = mirrored_noise(int(module.perturbations()[SEED][0, 0]), module._groups, module._agents, mean.numel())
    return mean + module.sigma * of_all[number]


def flat(module):
    return torch.cat([each.detach().flatten() for each in module.actor.parameters()])


@pytest.mark.parametrize(
    ("env", "networks"),
    [
        ("ipd_v0", NETWORKS),
        ("ipd_v0", {"fcnet_hiddens": [8], "use_lru": True, "lru_cell_size": 4}),
        ("coins_v0", {"conv_filters": [4], "fcnet_hiddens": [8], "use_gru": True, "gru_cell_size": 4}),
        ("cleanup_lite_v0", {"fcnet_hiddens": [8]}),
        ("cleanup_lite_v0", {"conv_filters": [4], "fcnet_hiddens": [8], "use_lru": True, "lru_cell_size": 4}),
    ],
)
def test_members_play_side_by_side_as_each_would_alone(env, networks):
    """In every step of a meta-episode, with the memories of their own that they have then."""
    players = {"player_0": "team/shaper", "player_1": "team/shaper"}
    runner = runner_of(config(players, env=env, networks=networks, games=16, env_config={"num_steps": 3}))
    module = runner.module["shaper"].unwrapped()
    module.sigma.fill_(0.3)
    (sample,) = runner.sample()
    assert set(module.perturbations()) == {SEED, MEMBER}
    columns = sample.modules["shaper"]
    mean = flat(module)
    alone = EvolvedModule(
        observation_space=module.observation_space, action_space=module.action_space, model_config=module.model_config
    )
    for number in (0, 3, 5):
        group, agent = divmod(number, 2)
        torch.nn.utils.vector_to_parameters(member(module, mean, number), alone.actor.parameters())
        rows = slice(group * 4, (group + 1) * 4)
        memory = {name: value.expand(4, -1) for name, value in (alone.get_initial_state() or {}).items()}
        for t in range(9):
            batch = {Columns.OBS: columns[Columns.OBS][rows, agent, t], Columns.STATE_IN: memory}
            out = alone.forward_exploration(batch)
            memory = out.get(Columns.STATE_OUT, {})
            torch.testing.assert_close(
                out[Columns.ACTION_DIST_INPUTS],
                columns[Columns.ACTION_DIST_INPUTS][rows, agent, t],
                atol=1e-5,
                rtol=1e-5,
            )


def test_every_meta_episode_has_perturbations_of_its_own(build):
    algo = build(config())
    module = algo.env_runner.module["player_0"].unwrapped()
    seeds = []
    for _ in range(3):
        (sample,) = algo.env_runner.sample()
        column = sample.streams["player_0"][SEED]
        assert column.shape == (32, 1)
        assert len(column.unique()) == 1
        assert sample.streams["player_0"][MEMBER][:, 0].tolist() == [k // 4 for k in range(32)]
        seeds.append(int(column[0, 0]))
    assert len(set(seeds)) == 3
    assert float(module.sigma) == pytest.approx(0.3)


def test_a_step_follows_what_members_got(build):
    """The first step of Adam is the learning rate towards the sign of the gradient."""
    algo = build(config(lr=0.01, grad_clip=None))
    learner = algo.learner_group._learner
    module = learner.module["player_0"].unwrapped()
    (sample,) = algo.env_runner.sample()
    before = flat(module)
    columns = prepared(algo, sample)["player_0"]
    fitness = sample.rewards[..., 0].mean(1).view(8, 4).mean(1)
    torch.testing.assert_close(columns["fitness"], fitness)
    noise = mirrored_noise(int(columns[SEED][0]), 8, 1, len(before))
    better = (fitness - fitness.mean()) / fitness.std(correction=0)
    gradient = (better[:, None] * noise).mean(0) / 0.3
    told = learner._gradient_step("player_0", columns)
    assert float(told["fitness_mean"]) == pytest.approx(float(fitness.mean()), abs=1e-6)
    sure = gradient.abs() > 1e-3
    assert int(sure.sum()) > len(before) // 2
    torch.testing.assert_close((flat(module) - before)[sure], 0.01 * gradient.sign()[sure], atol=1e-5, rtol=0.0)


def test_nothing_but_the_actor_of_who_evolves_changes(build):
    algo = build(config({"player_0": "shaper", "player_1": "ppo"}, networks={"fcnet_hiddens": [4]}))
    before = weights(algo)
    algo.train()
    after = weights(algo)
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert {name for name in changed if name.startswith("player_0")} == {
        name for name in before if name.startswith("player_0/actor")
    }
    assert {name.split(".")[0] for name in changed if name.startswith("player_1")} == {
        "player_1/actor",
        "player_1/critic",
    }


def test_only_groups_in_which_it_plays_count(build):
    players = {"player_0": {"pool": {"shaper": 0.5, "scripted/random": 0.5}}, "player_1": "learner/pg"}
    algo = build(config(players, games=64))
    (sample,) = algo.env_runner.sample()
    columns = prepared(algo, sample)["player_0"]
    drawn = sample.joint["members"][::4, 0, 0] == 0
    assert 0 < int(drawn.sum()) < 16
    assert torch.equal(columns["played"], drawn)
    before = flat(algo.learner_group._learner.module["player_0"].unwrapped())
    columns["fitness"] = torch.where(columns["played"], 1.0, columns["fitness"] + 100.0)
    algo.learner_group._learner._gradient_step("player_0", columns)
    # All who played got the same: nobody is better than the others.
    after = flat(algo.learner_group._learner.module["player_0"].unwrapped())
    torch.testing.assert_close(after, before, atol=1e-4, rtol=0.0)


def of_three(**sizes):
    """With players of all kinds, and a pool whose members play in other shares of the games of each learner."""
    players = {
        "player_0": "team/shaper",
        "player_1": "coala",
        "player_2": {"pool": {"learner/pg": 0.5, "team/shaper": 0.5}},
    }
    goods = {"num_agents": 3, "num_steps": 5}
    return config(players, env="public_goods_v0", env_config=goods, networks={"fcnet_hiddens": [4]}, **sizes)


def test_where_it_plays_in_no_group_nothing_changes(build):
    players = {"player_0": {"pool": {"shaper": 1e-6, "scripted/random": 1.0 - 1e-6}}, "player_1": "ppo"}
    algo = build(config(players, networks={"fcnet_hiddens": [4]}))
    before = flat(algo.learner_group._learner.module["player_0"].unwrapped())
    told = algo.train()["learners"]["player_0"]
    assert (float(told["fitness_mean"]), float(told["fitness_std"])) == (0.0, 0.0)
    assert torch.equal(before, flat(algo.learner_group._learner.module["player_0"].unwrapped()))


def test_two_learners_learn_as_one(build):
    one, two = (build(of_three(learners=learners)) for learners in (0, 2))
    for algo in (one, two):
        algo.train()
    assert_same_weights(one, two, atol=2e-5)


def test_runners_draw_for_themselves_and_a_learner_draws_the_same(build):
    algo = build(of_three())
    sample = concatenate([runner_of(of_three(), index).sample()[0] for index in (1, 2)])
    seeds = sample.streams["shaper"][SEED][:, 0]
    assert len(seeds.unique()) == 2
    learner = algo.learner_group._learner
    columns = prepared(algo, sample)["shaper"]
    assert torch.equal(columns[SEED].view(16, 2), seeds.view(16, 4)[:, :1].expand(-1, 2))
    assert columns[MEMBER].tolist() == [*range(16), *range(16)]
    before = flat(learner.module["shaper"].unwrapped())
    learner._gradient_step("shaper", columns)
    assert not torch.equal(before, flat(learner.module["shaper"].unwrapped()))


def test_the_mean_plays_in_evaluations_and_where_likeliest_actions_are_asked_for(build):
    algo = build(config())
    algo.train()
    module = algo.env_runner.module["player_0"].unwrapped()
    obs = torch.as_tensor(algo.env_runner.game.reset()[:, 0])
    memory = {name: value.expand(32, -1) for name, value in module.get_initial_state().items()}
    batch = {Columns.OBS: obs, Columns.STATE_IN: memory}
    likeliest = module.forward_inference(batch)[Columns.ACTION_DIST_INPUTS]
    assert len(likeliest.unique()) == 1
    assert len(module.forward_exploration(batch)[Columns.ACTION_DIST_INPUTS].unique()) == 8
    play = algo.config.copy(copy_frozen=False)
    play.in_evaluation = True
    play.validate()
    runner = type(algo.env_runner)(config=play, worker_index=0)
    runner.module.set_state(algo.env_runner.module.get_state())
    (sample,) = runner.sample(num_episodes=1)
    first = sample.modules["player_0"][Columns.ACTION_DIST_INPUTS][:, 0, 0]
    torch.testing.assert_close(first.unique(), likeliest.unique())


def test_how_far_perturbations_go_follows_a_schedule_in_runners_too(build):
    algo = build(config(sigma=[[0, 0.2], [960, 0.1]]))
    of_runner = algo.env_runner.module["player_0"].unwrapped()
    assert float(of_runner.sigma) == pytest.approx(0.2)
    told = [algo.train()["learners"]["player_0"]["sigma"] for _ in range(3)]
    # An iteration is 480 joint steps.
    assert [float(each) for each in told] == pytest.approx([0.15, 0.1, 0.1])
    assert float(of_runner.sigma) == pytest.approx(0.1)


def test_members_explore_too(build):
    algo = build(config({"player_0": "shaper", "player_1": "learner/pg"}, epsilon=1.0))
    (sample,) = algo.env_runner.sample()
    logits = sample.modules["player_0"][Columns.ACTION_DIST_INPUTS]
    torch.testing.assert_close(logits, torch.zeros_like(logits))
    assert set(algo.train()["learners"]) >= {"player_0"}


def test_learns_to_defect_against_who_always_cooperates(build):
    algo = build(config({"player_0": "shaper", "player_1": "scripted/always_cooperate"}, games=128, lr=0.1, sigma=0.5))
    results = [algo.train()["env_runners"] for _ in range(12)]
    assert float(results[0]["reward_per_step"]["player_0"]) < 1.7
    assert float(results[-1]["reward_per_step"]["player_0"]) > 1.85


@pytest.mark.parametrize(
    ("players", "networks", "message"),
    [
        (None, {"model": "rllib"}, "players.player_0: shaper needs the networks of model_config.model actor_critic"),
        ({"player_*": "shapr"}, None, "there is no player 'shapr'; did you mean 'shaper'"),
    ],
)
def test_what_cannot_be_is_refused(players, networks, message):
    with pytest.raises(ValueError, match=message):
        config(players, networks=networks).validate()


@pytest.mark.parametrize(
    ("sigma", "message"),
    [
        (0, "^sigma: 0 is out of range"),
        (-0.1, "^sigma: -0.1 is out of range"),
        (float("nan"), "^sigma: nan is out of range"),
        (1e30, r"^sigma: 1e\+30 is out of range .* above 0 and at most 1000$"),
        ([[0, 0.3], [100, 0.0]], "^sigma: 0 at step 100 is out of range"),
        ([[0, 1e30], [100, 0.1]], r"^sigma: 1e\+30 at step 0 is out of range"),
    ],
)
def test_perturbations_need_a_finite_positive_standard_deviation(sigma, message):
    with pytest.raises(ValueError, match=message):
        config(sigma=sigma).validate()


def test_one_group_is_refused():
    with pytest.raises(ValueError, match=r"^num_envs_per_env_runner: 4 .*player_0 has a single perturbation.* use 8"):
        config(games=4).validate()
    config(games=8).validate()
    config(games=4).env_runners(num_env_runners=2).validate()
    shared = config({"player_*": "team/both"}, games=4)
    shared.validate()
