"""Influence of players whose policies are deterministic: their true action distributions, and the uniform share."""

import copy
import pickle
import shutil
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
from rllib_reciprocator import ReciprocatorConfig, reciprocate
from rllib_reciprocator.algorithms.reciprocator.reciprocator import Reciprocator
from rllib_reciprocator.algorithms.registry import algorithm_class
from rllib_reciprocator.engine import BatchedEnvRunner
from rllib_reciprocator.experiments.errors import UserError
from rllib_reciprocator.experiments.validation import build_config
from rllib_reciprocator.intrinsic.reciprocity import ReciprocitySettings
from rllib_reciprocator.intrinsic.reciprocity.estimators import OwnViewInfluence, TransitionInfluence
from rllib_reciprocator.rllib_episodes.influence import influence_of
from rllib_reciprocator.rllib_episodes.joint_steps import JointSpaces
from rllib_reciprocator.utils.checkpoints import read_config
from tests.helpers.multi_agent_envs import ActionsOnlyModule, ComeAndGo, Mixed, own_policy

DETERMINISTIC = ("always_defect", "tit_for_tat", "grim_trigger", "win_stay_lose_shift")
NO_DISTRIBUTION = (
    "its module returns no action_dist_inputs, which counterfactual policy needs; set reciprocity.counterfactual to"
    " uniform"
)


def batched(players=None, env="ipd_v0", **reciprocity):
    config = (
        ReciprocatorConfig().environment(env, env_config={"num_steps": 6}).players(players or {"*": "reciprocator"})
    )
    config.reciprocity(**{"influence": "reward", **reciprocity}).rl_module(model_config={"fcnet_hiddens": [8]})
    return config.env_runners(num_envs_per_env_runner=8).training(num_epochs=1).debugging(seed=1)


def on_episodes(players, **reciprocity):
    config = algorithm_class("PPO").get_default_config().environment("ipd_v0", env_config={"num_steps": 6})
    config.env_runners(num_env_runners=0, rollout_fragment_length=6).rl_module(model_config={"fcnet_hiddens": [8]})
    config.training(train_batch_size_per_learner=24, minibatch_size=12, num_epochs=1).debugging(seed=1)
    return config.update_from_dict({"players": players, "reciprocity": reciprocity})


def sampled_by_batches(config, *, explore=True):
    """``[B, T, N, N]``, the influence in one batched sample."""
    config.validate()
    return BatchedEnvRunner(config=config, worker_index=0).sample(explore=explore)[0].joint["influence"]


def sampled_in_episodes(config, *, explore=True):
    """``[rows, N, N]``, the influence in some of RLlib's episodes."""
    config.env_runners(explore=explore).validate()
    runner = MultiAgentEnvRunner(config=config, worker_index=0)
    chunks = runner.sample(num_episodes=4)
    known = config.episode_reciprocity
    steps = [known.joint_steps(chunk) for chunk in chunks]
    return influence_of(runner.module, known, chunks, steps, explore=explore)


ENGINES = pytest.mark.parametrize(
    ("make", "sample"), [(batched, sampled_by_batches), (on_episodes, sampled_in_episodes)], ids=["batched", "episodes"]
)


@ENGINES
@pytest.mark.parametrize("strategy", DETERMINISTIC)
def test_a_scripted_player_has_influence_by_the_uniform_share_alone(make, sample, strategy):
    players = {"player_0": "reciprocator", "player_1": f"scripted/{strategy}"}
    none, third, all_uniform, default = (
        sample(make(players, **given))
        for given in ({"uniform_share": 0.0}, {"uniform_share": 0.3}, {"counterfactual": "uniform"}, {})
    )
    of_scripted, of_learner = (..., 1, 0), (..., 0, 1)
    assert none[of_learner].abs().mean() > 1e-3
    torch.testing.assert_close(none[of_scripted], torch.zeros_like(none[of_scripted]), atol=1e-5, rtol=0)
    assert all_uniform[of_scripted].abs().mean() > 1e-3
    torch.testing.assert_close(third[of_scripted], 0.3 * all_uniform[of_scripted], atol=1e-5, rtol=1e-4)
    assert torch.equal(default, third)


@ENGINES
def test_players_that_do_not_explore_have_a_deterministic_policy(make, sample):
    influence = sample(make({"*": "reciprocator"}, uniform_share=0.0), explore=False)
    torch.testing.assert_close(influence, torch.zeros_like(influence), atol=1e-5, rtol=0)
    assert sample(make({"*": "reciprocator"}), explore=False).abs().max() > 1e-3


def share_of(config):
    config.validate()
    return config.rl_module_spec.rl_module_specs["influence"].model_config["uniform_share"]


@pytest.mark.parametrize(
    ("given", "share"),
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
def test_the_default_share_follows_from_the_estimator(given, share):
    assert share_of(batched(env="coins_v0", **given)) == share


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        (batched(influence="tabular", uniform_share=0.3), "uniform_share: not used by tabular; set exploration"),
        (batched(influence="counterfactual", uniform_share=0.3), "uniform_share: used by reward, value and transition"),
        (
            batched(counterfactual="uniform", uniform_share=0.3),
            "uniform_share: not used with counterfactual uniform",
        ),
        (batched({"player_0": "reciprocator", "player_1": "axelrod/Random"}), "players.player_1: axelrod/Random draws"),
        (
            batched({"player_0": "reciprocator", "player_1": {"pool": {"axelrod/Random": 0.5, "ppo": 0.5}}}),
            "set reciprocity.counterfactual to modelled or uniform",
        ),
    ],
)
def test_what_cannot_be_is_refused(config, complaint):
    with pytest.raises(ValueError, match=complaint):
        config.validate()


@pytest.mark.parametrize(
    ("player", "given"),
    [
        ("axelrod/Random", {"counterfactual": "modelled"}),
        ("axelrod/Random", {"counterfactual": "uniform"}),
        ("axelrod/Random", {"influence": "tabular"}),
        ("axelrod/TitForTat", {}),
    ],
)
def test_players_of_the_axelrod_library_that_are_not_refused(player, given):
    batched({"player_0": "reciprocator", "player_1": player}, **given).validate()


@pytest.mark.parametrize("given", [{"counterfactual": "modelled"}, {"counterfactual": "uniform", "uniform_share": 0.3}])
def test_on_episodes_counterfactuals_are_of_the_policy_or_uniform(given):
    with pytest.raises(ValueError, match="reciprocity"):
        on_episodes({"*": "reciprocator"}, **given)


def test_from_a_file_a_module_without_a_distribution_is_refused_before_anything_starts():
    settings = {
        "players": {"player_0": "reciprocator", "player_1": "module/tests.helpers.multi_agent_envs:ActionsOnlyModule"},
        "num_env_runners": 0,
    }
    with pytest.raises(UserError) as refused:
        build_config(algorithm_class("PPO"), "ipd_v0", settings)
    assert str(refused.value) == f"config.players.player_1: {NO_DISTRIBUTION}"
    build_config(algorithm_class("PPO"), "ipd_v0", {**settings, "reciprocity": {"counterfactual": "uniform"}})


def beside_actions_only(**reciprocity):
    register_env("come_and_go", ComeAndGo)
    config = PPOConfig().environment("come_and_go").env_runners(num_env_runners=0, rollout_fragment_length=7)
    agents = ["stays", "early", "late"]
    config.multi_agent(policies=agents, policy_mapping_fn=own_policy, policies_to_train=["stays", "late"])
    config.training(train_batch_size_per_learner=14, minibatch_size=7, num_epochs=1)
    specs = {"stays": RLModuleSpec(), "early": RLModuleSpec(module_class=ActionsOnlyModule), "late": RLModuleSpec()}
    config.rl_module(rl_module_spec=MultiRLModuleSpec(rl_module_specs=specs), model_config={"fcnet_hiddens": [8]})
    return reciprocate(config, **reciprocity)


def test_in_python_a_module_without_a_distribution_is_refused_when_the_algorithm_is_built(build):
    with pytest.raises(ValueError, match=f"players.early: {NO_DISTRIBUTION}"):
        build(beside_actions_only())
    result = build(beside_actions_only(counterfactual="uniform")).train()
    assert result["env_runners"]["influence"]["early_on_stays"] != 0.0


def test_sampling_refuses_a_module_without_a_distribution():
    """Samples without an algorithm, as an evaluation does."""
    config = beside_actions_only()
    config.validate()
    with pytest.raises(ValueError, match=f"players.early: {NO_DISTRIBUTION}"):
        MultiAgentEnvRunner(config=config, worker_index=0).sample(num_episodes=1)


def test_a_uniform_choice_is_one_among_the_legal_actions():
    """Two agents with masks, one of them among other observations; a mask that allows nothing is of who waits."""
    masked = spaces.Dict({"action_mask": spaces.Box(0, 1, (3,)), "observation": spaces.Box(0, 255, (2,), "uint8")})
    later = spaces.Dict({"action_mask": spaces.MultiBinary(2), "a_class_map": spaces.Box(0, 4, (1, 2), "uint8")})
    observations = {"plain": spaces.Discrete(2), "masked": masked, "later": later}
    actions = {"plain": spaces.Discrete(3), "masked": spaces.Discrete(3), "later": spaces.Discrete(2)}
    joint = JointSpaces(observations, actions)
    parts = [[1, 0, 1], [1, 0, 1, 0, 0, 1], [*[0, 1, 0, 0, 0] * 2, 0, 1, 1], [0.5]]
    state = torch.tensor([[value for part in parts for value in part]])
    assert state.shape[1] == joint.state.shape[0]
    legal = {agent: joint.legal_actions(agent, state).tolist()[0] for agent in observations}
    assert legal == {"plain": [True] * 3, "masked": [True, False, True], "later": [False, True]}
    assert joint.legal_actions("masked", torch.zeros_like(state)).all()


def test_a_share_of_alternatives_to_actions_that_cannot_be_counted_is_of_the_space():
    """Influence is linear in the counterfactual: it lies between that of the policy and that of the space."""
    register_env("mixed", Mixed)
    agents = ["camera", "clerk", "clock"]
    config = PPOConfig().environment("mixed").multi_agent(policies=agents, policy_mapping_fn=own_policy)
    flat = {"multi_agent": True, "agent_ids": ["clerk", "clock"]}
    config.env_runners(num_env_runners=0, env_to_module_connector=lambda *_: FlattenObservations(**flat))
    config.rl_module(model_config={"fcnet_hiddens": [8]}).debugging(seed=1)
    config = reciprocate(config, observe_balance=False)
    config.validate()
    runner = MultiAgentEnvRunner(config=config, worker_index=0)
    chunks, known = runner.sample(num_episodes=2), config.episode_reciprocity
    steps, settings = (
        [known.joint_steps(chunk) for chunk in chunks],
        runner.module["influence"].unwrapped().model_config,
    )

    def influence(**given):
        settings.update(given)
        torch.manual_seed(0)
        return influence_of(runner.module, known, chunks, steps)

    of_policy = influence(uniform_share=0.0)
    by_share = {share: influence(uniform_share=share) for share in (0.25, 1.0)}
    of_space = influence(counterfactual="uniform")
    for j, i in ((0, 1), (1, 0), (2, 0)):
        assert (of_space[:, j, i] - of_policy[:, j, i]).abs().max() > 1e-5
    torch.testing.assert_close(by_share[1.0], of_space, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(by_share[0.25], 0.25 * of_space + 0.75 * of_policy, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("sees", ["state", "own"])
def test_other_estimators_mix_a_given_share_too(sees):
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


def test_tuned_examples_with_the_papers_settings_mix_nothing():
    examples = Path(__file__).parents[3] / "tuned_examples"
    for name in ("reciprocator_coins_paper", "reciprocator_coins", "reciprocator_coins_vs_ppo"):
        (entry,) = yaml.safe_load((examples / f"{name}.yaml").read_text()).values()
        config = build_config(algorithm_class(entry["run"]), entry["env"], entry["config"])
        assert share_of(config) == (0.0 if name.endswith("_paper") else 0.3), name


@pytest.fixture(scope="module")
def checkpoint(ray_cluster, tmp_path_factory):
    algo = batched(env="coins_v0", balance_decay=0.9).build_algo()
    algo.train()
    path = algo.save_to_path(tmp_path_factory.mktemp("new") / "checkpoint")
    algo.stop()
    return Path(path)


def of_former_version(checkpoint, folder, stored):
    """The checkpoint as versions wrote it whose ``uniform_share`` was 0 unless it was given."""
    shutil.copytree(checkpoint, folder)
    file = folder / "class_and_ctor_args.pkl"
    content = pickle.loads(file.read_bytes())
    (state,), _ = content["ctor_args_and_kwargs"]
    del state["_defaults_version"]
    if stored == "no settings":
        state["intrinsic_settings"] = {}
    else:
        settings = copy.deepcopy(state["intrinsic_settings"]["reciprocity"])
        assert "uniform_share" not in settings.model_fields_set
        del settings.__dict__["uniform_share"]
        if stored == "0.0":
            settings.__dict__["uniform_share"] = 0.0
        state["intrinsic_settings"] = {"reciprocity": settings}
    file.write_bytes(pickle.dumps(content))
    file = folder / "learner_group/learner/rl_module/influence/class_and_ctor_args.pkl"
    content = pickle.loads(file.read_bytes())
    _, arguments = content["ctor_args_and_kwargs"]
    del arguments["model_config"]["uniform_share"]
    file.write_bytes(pickle.dumps(content))
    return folder


@pytest.mark.parametrize("stored", ["0.0", "nothing", "no settings"])
def test_checkpoints_of_former_versions_keep_a_share_of_0(checkpoint, tmp_path, stored):
    former = of_former_version(checkpoint, tmp_path / "former", stored)
    config = read_config(former)
    assert share_of(config) == 0.0
    # Also where other settings are made from theirs, and when they are saved again.
    assert share_of(config.copy(copy_frozen=False).reciprocity(weight=0.1)) == 0.0
    state = pickle.loads(pickle.dumps(config.get_state()))
    assert share_of(ReciprocatorConfig.from_state(state).reciprocity(weight=0.1)) == 0.0
    # A player of theirs brings its own estimator.
    config = batched({"player_0": "reciprocator", "player_1": f"checkpoint/{former}"}, env="coins_v0")
    assert share_of(config) == 0.3
    spec = config.rl_module_spec.rl_module_specs["influence+player_1"]
    assert spec.model_config.get("uniform_share", 0.0) == 0.0


def test_new_checkpoints_keep_their_share(checkpoint):
    config = read_config(checkpoint)
    assert share_of(config) == share_of(config.copy(copy_frozen=False).reciprocity(weight=0.1)) == 0.3
    assert pickle.loads(pickle.dumps(ReciprocitySettings(uniform_share=0.2))).uniform_share == 0.2
    assert pickle.loads(pickle.dumps(ReciprocitySettings())).model_fields_set == set()


@pytest.mark.parametrize("former", [False, True])
def test_a_restored_algorithm_measures_as_its_checkpoint_did(ray_cluster, checkpoint, tmp_path, former):
    path = of_former_version(checkpoint, tmp_path / "former", "nothing") if former else checkpoint
    algo = Reciprocator.from_checkpoint(str(path))
    try:
        assert algo.env_runner.module["influence"].unwrapped().uniform_share == (0.0 if former else 0.3)
    finally:
        algo.stop()


def test_batched_games_use_the_reported_distribution_of_modules_that_sample_by_themselves(ray_cluster):
    players = {"player_0": "reciprocator", "player_1": "module/tests.helpers.multi_agent_envs:SamplingModule"}
    a_config = batched(players).reciprocity(uniform_share=0.0, influence="reward")
    algo = a_config.build_algo()
    sample = algo.sample()
    algo.stop()
    assert not sample.joint["actions"][..., 1].any()
    # Its first action is one of two that it might have taken.
    assert float(sample.modules["player_1"]["action_logp"].exp().mean()) == pytest.approx(0.5)
    assert float(sample.joint["influence"][..., 1, 0].abs().max()) > 1e-4


def test_batched_games_refuse_modules_that_report_no_distribution():
    players = {"player_0": "reciprocator", "player_1": "module/tests.helpers.multi_agent_envs:ActionsOnlyModule"}
    with pytest.raises(ValueError, match=r"players.player_1: its module returns no action_dist_inputs, which learning"):
        batched(players).validate()
