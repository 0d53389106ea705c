import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.rllib.core.columns import Columns
from rllib_reciprocator.engine.sample import concatenate

from rllib_reciprocator.algorithms.shaper import ShaperConfig
from rllib_reciprocator.algorithms.shaper.evolution import expected_fitness, mirrored_noise
from rllib_reciprocator.algorithms.shaper.evolved_module import MEMBER, SEED, EvolvedModule
from rllib_reciprocator.engine import BatchedEnvRunner
from tests.helpers.batches import prepared
from tests.helpers.weights import assert_same_weights, weights

PAYOFFS = [[[1.0, 1.0], [-1.0, 2.0]], [[2.0, -1.0], [0.0, 0.0]]]
NETWORKS = {"one_hot": True, "fcnet_hiddens": [], "use_gru": True, "gru_cell_size": 4, "vf_share_layers": True}


# --- the estimate ----------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**62), groups=st.integers(1, 9), agents=st.integers(1, 3), size=st.integers(1, 40))
@settings(max_examples=50, deadline=None)
def test_noise_is_mirrored_between_pairs_of_groups_and_seeded(seed, groups, agents, size):
    noise = mirrored_noise(seed, groups, agents, size)
    assert noise.shape == (groups * agents, size)
    group_noise = noise.view(groups, agents, size)
    assert torch.equal(group_noise[1::2], -group_noise[: groups // 2 * 2 : 2])
    assert torch.equal(noise, mirrored_noise(seed, groups, agents, size))
    other_noise = mirrored_noise(seed + 1, groups, agents, size)
    assert not bool((noise == other_noise).any())


def test_gradient_estimate_by_hand():
    """Expects 3 / 2 times the noise of the first member minus 1 / 2 times that of the second."""
    mean = torch.zeros(3, requires_grad=True)
    noise = torch.tensor([[1.0, 0.0, 2.0], [0.0, 4.0, -2.0]])
    total = expected_fitness(mean, noise, torch.tensor([3.0, -1.0]), torch.tensor(2.0))
    assert torch.autograd.grad(total, mean)[0].tolist() == [1.5, -2.0, 4.0]


def test_gradient_estimate_of_a_quadratic_fitness():
    """Compares with the exact gradient. The even part of the fitness cancels in mirrored pairs."""
    optimum, sigma, members = torch.tensor([1.0, -2.0, 0.5, 0.0]), torch.tensor(0.3), 200_000
    mean = torch.tensor([0.2, 0.1, -0.4, 0.0], requires_grad=True)
    noise = mirrored_noise(1, members, 1, 4)
    fitness = -(mean.detach() + sigma * noise - optimum).square().sum(1)
    gradient = torch.autograd.grad(expected_fitness(mean, noise, fitness, sigma) / members, mean)[0]
    torch.testing.assert_close(gradient, 2.0 * (optimum - mean.detach()), atol=0.1, rtol=0.0)


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


def build_runner(a_config, index=0):
    a_config.validate()
    return BatchedEnvRunner(config=a_config, worker_index=index)


def member(module, mean, number):
    """Returns the perturbed parameters of a member."""
    noise = mirrored_noise(int(module.perturbations()[SEED][0, 0]), module._groups, module._agents, mean.numel())
    return mean + module.sigma * noise[number]


def flat(module):
    return torch.cat([param.detach().flatten() for param in module.actor.parameters()])


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
def test_stacked_members_match_single_policies(env, networks):
    """Compares outputs at every step of a meta-episode, with each member's memory."""
    players = {"player_0": "team/shaper", "player_1": "team/shaper"}
    runner = build_runner(config(players, env=env, networks=networks, games=16, env_config={"num_steps": 3}))
    module = runner.module["shaper"].unwrapped()
    module.sigma.fill_(0.3)
    (sample,) = runner.sample()
    assert set(module.perturbations()) == {SEED, MEMBER}
    columns = sample.modules["shaper"]
    mean = flat(module)
    single = EvolvedModule(
        observation_space=module.observation_space, action_space=module.action_space, model_config=module.model_config
    )
    for number in (0, 3, 5):
        group, agent = divmod(number, 2)
        torch.nn.utils.vector_to_parameters(member(module, mean, number), single.actor.parameters())
        rows = slice(group * 4, (group + 1) * 4)
        memory = {name: value.expand(4, -1) for name, value in (single.get_initial_state() or {}).items()}
        for t in range(9):
            batch = {Columns.OBS: columns[Columns.OBS][rows, agent, t], Columns.STATE_IN: memory}
            out = single.forward_exploration(batch)
            memory = out.get(Columns.STATE_OUT, {})
            torch.testing.assert_close(
                out[Columns.ACTION_DIST_INPUTS],
                columns[Columns.ACTION_DIST_INPUTS][rows, agent, t],
                atol=1e-5,
                rtol=1e-5,
            )


def test_every_meta_episode_has_new_perturbations(build):
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


def test_gradient_step_follows_the_fitness(build):
    """Expects a first step of Adam, which is the learning rate times the sign of the gradient."""
    algo = build(config(lr=0.01, grad_clip=None))
    learner = algo.learner_group._learner
    module = learner.module["player_0"].unwrapped()
    (sample,) = algo.env_runner.sample()
    before = flat(module)
    columns = prepared(algo, sample)["player_0"]
    fitness = sample.rewards[..., 0].mean(1).view(8, 4).mean(1)
    torch.testing.assert_close(columns["fitness"], fitness)
    noise = mirrored_noise(int(columns[SEED][0]), 8, 1, len(before))
    normalized_fitness = (fitness - fitness.mean()) / fitness.std(correction=0)
    gradient = (normalized_fitness[:, None] * noise).mean(0) / 0.3
    stats = learner._gradient_step("player_0", columns)
    assert float(stats["fitness_mean"]) == pytest.approx(float(fitness.mean()), abs=1e-6)
    is_large = gradient.abs() > 1e-3
    assert int(is_large.sum()) > len(before) // 2
    torch.testing.assert_close((flat(module) - before)[is_large], 0.01 * gradient.sign()[is_large], atol=1e-5, rtol=0.0)


def test_only_the_actor_of_an_evolved_policy_changes(build):
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


def test_groups_of_other_pool_members_are_not_counted(build):
    players = {"player_0": {"pool": {"shaper": 0.5, "scripted/random": 0.5}}, "player_1": "learner/pg"}
    algo = build(config(players, games=64))
    (sample,) = algo.env_runner.sample()
    columns = prepared(algo, sample)["player_0"]
    is_playing = sample.joint["members"][::4, 0, 0] == 0
    assert 0 < int(is_playing.sum()) < 16
    assert torch.equal(columns["played"], is_playing)
    before = flat(algo.learner_group._learner.module["player_0"].unwrapped())
    columns["fitness"] = torch.where(columns["played"], 1.0, columns["fitness"] + 100.0)
    algo.learner_group._learner._gradient_step("player_0", columns)
    # All members that play have the same fitness, so that the gradient is zero.
    after = flat(algo.learner_group._learner.module["player_0"].unwrapped())
    torch.testing.assert_close(after, before, atol=1e-4, rtol=0.0)


def three_agent_config(**sizes):
    """Returns a configuration with all kinds of players.

    The members of its pool play different shares of each learner's environments.
    """
    players = {
        "player_0": "team/shaper",
        "player_1": "coala",
        "player_2": {"pool": {"learner/pg": 0.5, "team/shaper": 0.5}},
    }
    goods = {"num_agents": 3, "num_steps": 5}
    return config(players, env="public_goods_v0", env_config=goods, networks={"fcnet_hiddens": [4]}, **sizes)


def test_populations_that_play_in_no_group_are_unchanged(build):
    players = {"player_0": {"pool": {"shaper": 1e-6, "scripted/random": 1.0 - 1e-6}}, "player_1": "ppo"}
    algo = build(config(players, networks={"fcnet_hiddens": [4]}))
    before = flat(algo.learner_group._learner.module["player_0"].unwrapped())
    stats = algo.train()["learners"]["player_0"]
    assert (float(stats["fitness_mean"]), float(stats["fitness_std"])) == (0.0, 0.0)
    assert torch.equal(before, flat(algo.learner_group._learner.module["player_0"].unwrapped()))


@pytest.mark.processes
def test_two_learners_match_one(build):
    local, remote = (build(three_agent_config(learners=learners)) for learners in (0, 2))
    for algo in (local, remote):
        algo.train()
    assert_same_weights(local, remote, atol=2e-5)


def test_learners_reproduce_the_perturbations_of_all_runners(build):
    algo = build(three_agent_config())
    sample = concatenate([build_runner(three_agent_config(), index).sample()[0] for index in (1, 2)])
    seeds = sample.streams["shaper"][SEED][:, 0]
    assert len(seeds.unique()) == 2
    learner = algo.learner_group._learner
    columns = prepared(algo, sample)["shaper"]
    assert torch.equal(columns[SEED].view(16, 2), seeds.view(16, 4)[:, :1].expand(-1, 2))
    assert columns[MEMBER].tolist() == [*range(16), *range(16)]
    before = flat(learner.module["shaper"].unwrapped())
    learner._gradient_step("shaper", columns)
    assert not torch.equal(before, flat(learner.module["shaper"].unwrapped()))


def test_the_mean_plays_in_evaluations_and_forward_inference(build):
    algo = build(config())
    algo.train()
    module = algo.env_runner.module["player_0"].unwrapped()
    obs = torch.as_tensor(algo.env_runner.game.reset()[:, 0])
    memory = {name: value.expand(32, -1) for name, value in module.get_initial_state().items()}
    batch = {Columns.OBS: obs, Columns.STATE_IN: memory}
    greedy_logits = module.forward_inference(batch)[Columns.ACTION_DIST_INPUTS]
    assert len(greedy_logits.unique()) == 1
    assert len(module.forward_exploration(batch)[Columns.ACTION_DIST_INPUTS].unique()) == 8
    evaluation_config = algo.config.copy(copy_frozen=False)
    evaluation_config.in_evaluation = True
    evaluation_config.validate()
    runner = type(algo.env_runner)(config=evaluation_config, worker_index=0)
    runner.module.set_state(algo.env_runner.module.get_state())
    (sample,) = runner.sample(num_episodes=1)
    first_logits = sample.modules["player_0"][Columns.ACTION_DIST_INPUTS][:, 0, 0]
    torch.testing.assert_close(first_logits.unique(), greedy_logits.unique())


def test_sigma_follows_its_schedule_in_runners_too(build):
    algo = build(config(sigma=[[0, 0.2], [960, 0.1]]))
    runner_module = algo.env_runner.module["player_0"].unwrapped()
    assert float(runner_module.sigma) == pytest.approx(0.2)
    sigmas = [algo.train()["learners"]["player_0"]["sigma"] for _ in range(3)]
    # An iteration has 480 environment steps.
    assert [float(sigma) for sigma in sigmas] == pytest.approx([0.15, 0.1, 0.1])
    assert float(runner_module.sigma) == pytest.approx(0.1)


def test_members_use_epsilon_exploration(build):
    algo = build(config({"player_0": "shaper", "player_1": "learner/pg"}, epsilon=1.0))
    (sample,) = algo.env_runner.sample()
    logits = sample.modules["player_0"][Columns.ACTION_DIST_INPUTS]
    torch.testing.assert_close(logits, torch.zeros_like(logits))
    assert set(algo.train()["learners"]) >= {"player_0"}


def test_learns_to_defect_against_always_cooperate(build):
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
def test_invalid_settings_raise(players, networks, message):
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


def test_single_group_raises():
    with pytest.raises(ValueError, match=r"^num_envs_per_env_runner: 4 .*player_0 has a single perturbation.* use 8"):
        config(games=4).validate()
    config(games=8).validate()
    config(games=4).env_runners(num_env_runners=2).validate()
    shared = config({"player_*": "team/both"}, games=4)
    shared.validate()
