"""Tests of update rules: names of their optimizers, which checkpoints contain, and the order in which they run."""

import shutil
from itertools import pairwise

import numpy as np
import pytest

from rllib_reciprocator import ReciprocatorConfig
from rllib_reciprocator.algorithms.lio import LIOConfig
from rllib_reciprocator.engine.update_rule import LEARN, LOOK_AHEAD, Stage
from rllib_reciprocator.utils.checkpoints import unpickle
from tests.helpers.weights import weights
from tests.regression.record import DATA, unpack_frozen
from tests.regression.runs import RUNS


@pytest.mark.parametrize("name", RUNS)
def test_optimizers_have_the_names_in_stored_checkpoints(build, tmp_path, name):
    config = RUNS[name].config(unpack_frozen()).learners(num_learners=0)
    learner = build(config.env_runners(num_env_runners=0)).learner_group._learner
    optimizers = [optimizer for names in learner._module_optimizers.values() for optimizer in names]
    assert sorted(optimizers) == sorted(learner._named_optimizers), "a name is registered twice"
    shutil.unpack_archive(DATA / f"{name}.zip", tmp_path)
    stored_state = unpickle(tmp_path / "learner_group" / "learner" / "state.pkl")["optimizer"]
    assert learner._named_optimizers.keys() == stored_state.keys()
    for optimizer_name, optimizer in learner._named_optimizers.items():
        groups, stored_groups = (
            [len(group["params"]) for group in state["param_groups"]]
            for state in (optimizer.state_dict(), stored_state[optimizer_name]["state"])
        )
        assert groups == stored_groups, optimizer_name


def lio(**settings):
    """Returns a run with rules of all stages."""
    return (
        LIOConfig()
        .environment("ipd_v0", env_config={"num_steps": 4})
        .players({"player_0": "lio", "player_1": "reciprocator"})
        .incentives(hiddens=[8], **settings)
        .intrinsic("reciprocity", influence="reward", estimator_hiddens=[8], warmup_iterations=1)
        .training(updates_per_iteration=2, num_epochs=1)
        .rl_module(model_config={"fcnet_hiddens": [8]})
        .env_runners(num_envs_per_env_runner=8)
        .debugging(seed=1)
    )


def recorded(algo, monkeypatch):
    """Returns a list to which each phase of an update appends the stages of the rules that run, and the targets."""
    learner, events = algo.learner_group._learner, []

    def record(owner, name, event):
        function = getattr(owner, name)

        def run(*arguments, **settings):
            events.append(event(*arguments))
            return function(*arguments, **settings)

        monkeypatch.setattr(owner, name, run)

    for rule in learner.rules:
        record(rule, "update", lambda learner, batch, info, rule=rule: (info.phase, rule.stage))
    record(learner, "compute_targets", lambda batch, iteration: "targets")
    return events


ESTIMATORS, POLICIES, AFTER_POLICIES = ((LEARN, stage) for stage in Stage)


@pytest.mark.parametrize("learned_by", ["look_ahead", "policy_gradient"])
def test_rules_run_in_the_order_of_their_stages(build, monkeypatch, learned_by):
    """Expects estimators before targets, and policies before the rules that use their steps."""
    algo = build(lio(learned_by=learned_by))
    events = recorded(algo, monkeypatch)
    algo.train()
    assert events == 2 * [ESTIMATORS, "targets"], "only estimators are trained while they warm up"
    events.clear()
    algo.train()
    update = [ESTIMATORS, "targets", POLICIES, POLICIES, AFTER_POLICIES]
    assert events == 2 * (update + ([(LOOK_AHEAD, Stage.AFTER_POLICIES)] if learned_by == "look_ahead" else []))


@pytest.mark.parametrize("learned_by", ["look_ahead", "policy_gradient"])
def test_rules_are_sorted_by_stage_and_each_module_has_one(build, learned_by):
    algo = build(lio(learned_by=learned_by))
    learner = algo.learner_group._learner
    stages = [rule.stage for rule in learner.rules]
    assert stages == sorted(stages) == [Stage.ESTIMATORS, Stage.POLICIES, Stage.POLICIES, Stage.AFTER_POLICIES]
    module_ids = [module_id for rule in learner.rules for module_id in rule.module_ids]
    assert sorted(module_ids) == ["incentives", "influence", "player_0", "player_1"]
    assert all(learner.rule_of[module_id] is rule for rule in learner.rules for module_id in rule.module_ids)


def test_estimators_alone_change_while_they_warm_up(build):
    algo = build(lio())
    states = [weights(algo)]
    for _ in range(2):
        algo.train()
        states.append(weights(algo))
    changed_names = [
        {name.split("/")[0] for name in before if not np.array_equal(before[name], after[name])}
        for before, after in pairwise(states)
    ]
    assert changed_names == [{"influence"}, {"incentives", "influence", "player_0", "player_1"}]


def test_phases_follow_from_the_rules_of_the_run(build):
    assert build(lio()).config.update_phases() == [LEARN, LOOK_AHEAD]
    assert build(lio(learned_by="policy_gradient")).config.update_phases() == [LEARN]
    reciprocators = ReciprocatorConfig().environment("ipd_v0").env_runners(num_envs_per_env_runner=4)
    assert build(reciprocators).config.update_phases() == [LEARN]
