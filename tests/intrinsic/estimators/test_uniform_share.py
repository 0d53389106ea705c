"""Tests of the influence of deterministic policies: their true action distributions and the uniform share."""

from pathlib import Path

import pytest
import torch
import yaml
from gymnasium import spaces
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.connectors.env_to_module import FlattenObservations
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from ray.tune import register_env

from benchmarks.influence import estimator, played
from rllib_reciprocator import reciprocate
from rllib_reciprocator.algorithms.registry import algorithm_class
from rllib_reciprocator.engine import BatchedEnvRunner
from rllib_reciprocator.experiments.validation import build_config
from rllib_reciprocator.intrinsic.reciprocity.estimators import OwnViewInfluence, TransitionInfluence
from rllib_reciprocator.rllib_episodes.influence import influence_of
from rllib_reciprocator.rllib_episodes.joint_steps import JointSpaces
from rllib_reciprocator.utils.errors import UserError
from tests.helpers.multi_agent_envs import ActionsOnlyModule, ComeAndGo, Mixed, own_policy
from tests.helpers.uniform_share import batched, share_of

DETERMINISTIC = ("always_defect", "tit_for_tat", "grim_trigger", "win_stay_lose_shift")
NO_DISTRIBUTION = (
    "its module returns no action_dist_inputs, which counterfactual policy needs; set reciprocity.counterfactual to"
    " uniform"
)


def on_episodes(players, **reciprocity):
    config = algorithm_class("PPO").get_default_config().environment("ipd_v0", env_config={"num_steps": 6})
    config.env_runners(num_env_runners=0, rollout_fragment_length=6).rl_module(model_config={"fcnet_hiddens": [8]})
    config.training(train_batch_size_per_learner=24, minibatch_size=12, num_epochs=1).debugging(seed=1)
    return config.update_from_dict({"players": players, "reciprocity": reciprocity})


def sample_rollout(config, *, explore=True):
    """Returns the influence in one batched rollout, ``[B, T, N, N]``."""
    config.validate()
    return BatchedEnvRunner(config=config, worker_index=0).sample(explore=explore)[0].columns["influence"]


def sample_episodes(config, *, explore=True):
    """Returns the influence in episodes of RLlib's env runner, ``[rows, N, N]``."""
    config.env_runners(explore=explore).validate()
    runner = MultiAgentEnvRunner(config=config, worker_index=0)
    chunks = runner.sample(num_episodes=4)
    reciprocity = config.episode_reciprocity
    steps = [reciprocity.joint_steps(chunk) for chunk in chunks]
    return influence_of(runner.module, reciprocity, chunks, steps, explore=explore)


ENGINES = pytest.mark.parametrize(
    ("make", "sample"), [(batched, sample_rollout), (on_episodes, sample_episodes)], ids=["batched", "episodes"]
)


@ENGINES
@pytest.mark.parametrize("strategy", DETERMINISTIC)
def test_scripted_players_have_influence_only_by_the_uniform_share(make, sample, strategy):
    players = {"player_0": "reciprocator", "player_1": f"scripted/{strategy}"}
    without_share, with_share, uniform, default = (
        sample(make(players, **overrides))
        for overrides in ({"uniform_share": 0.0}, {"uniform_share": 0.3}, {"counterfactual": "uniform"}, {})
    )
    scripted_index, learner_index = (..., 1, 0), (..., 0, 1)
    assert without_share[learner_index].abs().mean() > 1e-3
    torch.testing.assert_close(
        without_share[scripted_index], torch.zeros_like(without_share[scripted_index]), atol=1e-5, rtol=0
    )
    assert uniform[scripted_index].abs().mean() > 1e-3
    torch.testing.assert_close(with_share[scripted_index], 0.3 * uniform[scripted_index], atol=1e-5, rtol=1e-4)
    assert torch.equal(default, with_share)


@ENGINES
def test_players_that_do_not_explore_have_a_deterministic_policy(make, sample):
    influence = sample(make({"*": "reciprocator"}, uniform_share=0.0), explore=False)
    torch.testing.assert_close(influence, torch.zeros_like(influence), atol=1e-5, rtol=0)
    assert sample(make({"*": "reciprocator"}), explore=False).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("overrides", "share"),
    [
        ({}, 0.3),
        ({"uniform_share": None}, 0.3),
        ({"uniform_share": 0.0}, 0.0),
        ({"uniform_share": 0.1}, 0.1),
        ({"counterfactual": "modelled"}, 0.3),
        ({"counterfactual": "uniform"}, 0.0),
        ({"estimator_sees": "observations"}, 0.3),
        ({"influence": "value", "estimator_sees": "observations", "estimator_shared": True}, 0.3),
        ({"influence": "transition"}, 0.0),
        ({"influence": "transition", "uniform_share": 0.2}, 0.2),
        ({"influence": "counterfactual"}, 0.0),
        ({"influence": "counterfactual", "uniform_share": 0.0}, 0.0),
        ({"estimator_sees": "own"}, 0.0),
        ({"estimator_sees": "own", "uniform_share": 0.2}, 0.2),
    ],
)
def test_the_default_share_follows_from_the_estimator(overrides, share):
    assert share_of(batched(env="coins_v0", **overrides)) == share


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        (batched(influence="tabular", uniform_share=0.3), "uniform_share: not used by tabular; set exploration"),
        (batched(influence="counterfactual", uniform_share=0.3), "uniform_share: used by reward, value and transition"),
        (
            batched(counterfactual="uniform", uniform_share=0.3),
            "uniform_share: not used with counterfactual uniform",
        ),
        (
            batched({"player_0": "reciprocator", "player_1": "axelrod/Random"}),
            "players.player_1: axelrod/Random samples",
        ),
        (
            batched({"player_0": "reciprocator", "player_1": {"pool": {"axelrod/Random": 0.5, "ppo": 0.5}}}),
            "set reciprocity.counterfactual to modelled or uniform",
        ),
    ],
)
def test_unsupported_settings_are_refused(config, complaint):
    with pytest.raises(ValueError, match=complaint):
        config.validate()


@pytest.mark.parametrize(
    ("player", "overrides"),
    [
        ("axelrod/Random", {"counterfactual": "modelled"}),
        ("axelrod/Random", {"counterfactual": "uniform"}),
        ("axelrod/Random", {"influence": "tabular"}),
        ("axelrod/TitForTat", {}),
    ],
)
def test_supported_axelrod_players_are_accepted(player, overrides):
    batched({"player_0": "reciprocator", "player_1": player}, **overrides).validate()


@pytest.mark.parametrize(
    "overrides", [{"counterfactual": "modelled"}, {"counterfactual": "uniform", "uniform_share": 0.3}]
)
def test_unsupported_counterfactuals_on_episodes_are_refused(overrides):
    with pytest.raises(ValueError, match="reciprocity"):
        on_episodes({"*": "reciprocator"}, **overrides)


def test_reading_settings_refuses_a_module_without_a_distribution():
    settings = {
        "players": {"player_0": "reciprocator", "player_1": "module/tests.helpers.multi_agent_envs:ActionsOnlyModule"},
        "num_env_runners": 0,
    }
    with pytest.raises(UserError) as error:
        build_config(algorithm_class("PPO"), "ipd_v0", settings)
    assert str(error.value) == f"config.players.player_1: {NO_DISTRIBUTION}"
    build_config(algorithm_class("PPO"), "ipd_v0", {**settings, "reciprocity": {"counterfactual": "uniform"}})


def config_with_actions_only(**reciprocity):
    register_env("come_and_go", ComeAndGo)
    config = PPOConfig().environment("come_and_go").env_runners(num_env_runners=0, rollout_fragment_length=7)
    agents = ["stays", "early", "late"]
    config.multi_agent(policies=agents, policy_mapping_fn=own_policy, policies_to_train=["stays", "late"])
    config.training(train_batch_size_per_learner=14, minibatch_size=7, num_epochs=1)
    specs = {"stays": RLModuleSpec(), "early": RLModuleSpec(module_class=ActionsOnlyModule), "late": RLModuleSpec()}
    config.rl_module(rl_module_spec=MultiRLModuleSpec(rl_module_specs=specs), model_config={"fcnet_hiddens": [8]})
    return reciprocate(config, **reciprocity)


def test_building_refuses_a_module_without_a_distribution(build):
    with pytest.raises(ValueError, match=f"players.early: {NO_DISTRIBUTION}"):
        build(config_with_actions_only())
    result = build(config_with_actions_only(counterfactual="uniform")).train()
    assert result["env_runners"]["influence"]["early_on_stays"] != 0.0


def test_sampling_refuses_a_module_without_a_distribution():
    """Samples without an algorithm, as an evaluation does."""
    config = config_with_actions_only()
    config.validate()
    with pytest.raises(ValueError, match=f"players.early: {NO_DISTRIBUTION}"):
        MultiAgentEnvRunner(config=config, worker_index=0).sample(num_episodes=1)


def test_uniform_counterfactual_covers_legal_actions_only():
    """Checks masks at different positions of observations; a mask that allows nothing, as while waiting, is ignored."""
    mask_first = spaces.Dict({"action_mask": spaces.Box(0, 1, (3,)), "observation": spaces.Box(0, 255, (2,), "uint8")})
    mask_second = spaces.Dict({"action_mask": spaces.MultiBinary(2), "a_class_map": spaces.Box(0, 4, (1, 2), "uint8")})
    observations = {"plain": spaces.Discrete(2), "masked": mask_first, "later": mask_second}
    actions = {"plain": spaces.Discrete(3), "masked": spaces.Discrete(3), "later": spaces.Discrete(2)}
    joint = JointSpaces(observations, actions)
    parts = [[1, 0, 1], [1, 0, 1, 0, 0, 1], [*[0, 1, 0, 0, 0] * 2, 0, 1, 1], [0.5]]
    state = torch.tensor([[value for part in parts for value in part]])
    assert state.shape[1] == joint.state.shape[0]
    legal = {agent: joint.legal_actions(agent, state).tolist()[0] for agent in observations}
    assert legal == {"plain": [True] * 3, "masked": [True, False, True], "later": [False, True]}
    assert joint.legal_actions("masked", torch.zeros_like(state)).all()


def test_uniform_share_of_non_discrete_actions_samples_the_space():
    """Checks that influence is linear in the counterfactual, between that of the policy and that of the space."""
    register_env("mixed", Mixed)
    agents = ["camera", "clerk", "clock"]
    config = PPOConfig().environment("mixed").multi_agent(policies=agents, policy_mapping_fn=own_policy)
    flat = {"multi_agent": True, "agent_ids": ["clerk", "clock"]}
    config.env_runners(num_env_runners=0, env_to_module_connector=lambda *_: FlattenObservations(**flat))
    config.rl_module(model_config={"fcnet_hiddens": [8]}).debugging(seed=1)
    config = reciprocate(config, observe_balance=False)
    config.validate()
    runner = MultiAgentEnvRunner(config=config, worker_index=0)
    chunks, reciprocity = runner.sample(num_episodes=2), config.episode_reciprocity
    steps, settings = (
        [reciprocity.joint_steps(chunk) for chunk in chunks],
        runner.module["influence"].unwrapped().model_config,
    )

    def influence(**overrides):
        settings.update(overrides)
        torch.manual_seed(0)
        return influence_of(runner.module, reciprocity, chunks, steps)

    policy_influence = influence(uniform_share=0.0)
    by_share = {share: influence(uniform_share=share) for share in (0.25, 1.0)}
    space_influence = influence(counterfactual="uniform")
    for j, i in ((0, 1), (1, 0), (2, 0)):
        assert (space_influence[:, j, i] - policy_influence[:, j, i]).abs().max() > 1e-5
    torch.testing.assert_close(by_share[1.0], space_influence, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(by_share[0.25], 0.25 * space_influence + 0.75 * policy_influence, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("sees", ["state", "own"])
def test_uniform_share_is_mixed_in_by_other_estimators(sees):
    kind = {"state": TransitionInfluence, "own": OwnViewInfluence}[sees]
    settings = {
        "sees": sees,
        "counterfactual": "modelled" if sees == "own" else "policy",
        "future_weight": 1.0,
        "horizon": 3,
    }
    data = played(8, num_steps=3, sees=sees)
    by_share = {}
    for share in (None, 0.0, 0.25, 1.0):
        model = estimator(kind, **settings, **({} if share is None else {"uniform_share": share}))
        by_share[share] = torch.stack(list(model.influence(data.steps, data.behavior)))
    torch.testing.assert_close(by_share[0.25], 0.75 * by_share[0.0] + 0.25 * by_share[1.0], atol=1e-5, rtol=1e-4)
    assert torch.equal(by_share[None], by_share[0.0])
    assert (by_share[1.0] - by_share[0.0]).abs().max() > 1e-3


def test_tuned_examples_of_the_paper_have_no_uniform_share():
    examples = Path(__file__).parents[3] / "tuned_examples"
    for name in ("reciprocator_coins_paper", "reciprocator_coins", "reciprocator_coins_vs_ppo"):
        (entry,) = yaml.safe_load((examples / f"{name}.yaml").read_text()).values()
        config = build_config(algorithm_class(entry["run"]), entry["env"], entry["config"])
        assert share_of(config) == (0.0 if name.endswith("_paper") else 0.3), name


def test_batched_games_use_the_reported_distribution_of_modules_that_sample_by_themselves(ray_cluster):
    players = {"player_0": "reciprocator", "player_1": "module/tests.helpers.multi_agent_envs:SamplingModule"}
    a_config = batched(players).reciprocity(uniform_share=0.0, influence="reward")
    algo = a_config.build_algo()
    sample = algo.sample()
    algo.stop()
    assert not sample.actions[..., 1].any()
    # The module always takes the first of two actions, but reports a uniform distribution.
    assert float(sample.modules["player_1"].steps["action_logp"].exp().mean()) == pytest.approx(0.5)
    assert float(sample.columns["influence"][..., 1, 0].abs().max()) > 1e-4


def test_batched_games_refuse_modules_that_report_no_distribution():
    players = {"player_0": "reciprocator", "player_1": "module/tests.helpers.multi_agent_envs:ActionsOnlyModule"}
    with pytest.raises(ValueError, match=r"players.player_1: its module returns no action_dist_inputs, which training"):
        batched(players).validate()
