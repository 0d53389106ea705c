"""Tests of Shaper's perturbations, and of the gradient that is estimated from their fitness."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.rllib.core.columns import Columns

from rllib_reciprocator.algorithms.shaper.evolution import expected_fitness, mirrored_noise
from rllib_reciprocator.algorithms.shaper.evolved_module import MEMBER, SEED, EvolvedModule
from tests.helpers.batches import prepared_batch
from tests.helpers.shaper import NETWORKS, build_runner, flat, shaper_config


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


def member(module, mean, number):
    """Returns the perturbed parameters of a member."""
    noise = mirrored_noise(int(module.perturbations()[SEED][0, 0]), module._groups, module._agents, mean.numel())
    return mean + module.sigma * noise[number]


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
    runner = build_runner(shaper_config(players, env=env, networks=networks, games=16, env_config={"num_steps": 3}))
    module = runner.module["shaper"].unwrapped()
    module.sigma.fill_(0.3)
    (sample,) = runner.sample()
    assert set(module.perturbations()) == {SEED, MEMBER}
    columns = sample.modules["shaper"].steps
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
    algo = build(shaper_config())
    module = algo.env_runner.module["player_0"].unwrapped()
    seeds = []
    for _ in range(3):
        (sample,) = algo.env_runner.sample()
        column = sample.modules["player_0"].extra[SEED]
        assert column.shape == (32, 1)
        assert len(column.unique()) == 1
        assert sample.modules["player_0"].extra[MEMBER][:, 0].tolist() == [k // 4 for k in range(32)]
        seeds.append(int(column[0, 0]))
    assert len(set(seeds)) == 3
    assert float(module.sigma) == pytest.approx(0.3)


def test_gradient_step_follows_the_fitness(build):
    """Expects a first step of Adam, which is the learning rate times the sign of the gradient."""
    algo = build(shaper_config(lr=0.01, grad_clip=None))
    learner = algo.learner_group._learner
    module = learner.module["player_0"].unwrapped()
    (sample,) = algo.env_runner.sample()
    before = flat(module)
    batch, info = prepared_batch(algo, sample)
    rows, rule = info.rows["player_0"], learner.rule_of["player_0"]
    fitness = sample.rewards[..., 0].mean(1).view(8, 4).mean(1)
    torch.testing.assert_close(rule._fitness("player_0", batch, rows)[0], fitness)
    noise = mirrored_noise(int(sample.modules["player_0"].extra[SEED][0, 0]), 8, 1, len(before))
    normalized_fitness = (fitness - fitness.mean()) / fitness.std(correction=0)
    gradient = (normalized_fitness[:, None] * noise).mean(0) / 0.3
    stats = rule._evolve(learner, "player_0", batch, rows)
    assert float(stats["fitness_mean"]) == pytest.approx(float(fitness.mean()), abs=1e-6)
    is_large = gradient.abs() > 1e-3
    assert int(is_large.sum()) > len(before) // 2
    torch.testing.assert_close((flat(module) - before)[is_large], 0.01 * gradient.sign()[is_large], atol=1e-5, rtol=0.0)
