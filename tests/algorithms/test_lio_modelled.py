"""Tests of LIO with models of co-players."""

import numpy as np
import pytest
import torch
from ray.rllib.core.columns import Columns

from rllib_reciprocator.algorithms.lio import LIOConfig
from rllib_reciprocator.engine.update_rule import LEARN
from rllib_reciprocator.intrinsic.incentives.modelled_credit import ModelledCredit
from tests.helpers.incentives import incentive_rule, joint_observations, lio_config, run_both_phases, run_phase
from tests.helpers.weights import weights


@pytest.mark.parametrize("reward_scale", [1.0, 0.5])
def test_exact_models_give_the_same_credit(build, reward_scale):
    """Copies the co-players' policies into the givers' models, and expects the credit of known policies."""
    incentives = {"opponents": "modelled", "opponent_hiddens": [8], "opponent_lr": 0.0}
    algo = build(lio_config(incentives=incentives, epsilon=0.0, entropy_coeff=0.0, reward_scale=reward_scale))
    learner, rule = algo.learner_group._learner, incentive_rule(algo)
    models = rule.models.networks
    assert rule.models.others.tolist() == [1, 0]
    with torch.no_grad():
        for row, agent in enumerate((1, 0)):
            actor = learner.module[f"player_{agent}"].unwrapped().actor
            for stacked_layer, layer in ((models[0], actor.encoder.connected[0]), (models[2], actor.head)):
                stacked_layer.weight[row] = layer.weight.t()
                stacked_layer.bias[row] = layer.bias
    tau = algo.sample()
    run_phase(algo, LEARN, tau)
    algo.sync()
    after, previous = algo.sample(), rule._previous
    gains = rule._gains(after)
    credit = rule._credit(previous, after, gains)
    modelled_credit, _ = ModelledCredit(rule).compute(previous.inputs, previous.batch, after, gains)
    assert float(credit.abs().max()) > 1e-6
    torch.testing.assert_close(modelled_credit, credit, atol=1e-3 * float(credit.abs().max()), rtol=1e-3)


def test_models_learn_the_policies_of_co_players(build):
    incentives = {"opponents": "modelled", "opponent_hiddens": [16], "opponent_epochs": 20}
    players = {"player_0": "lio", "player_1": {"player": "pg", "lr": 0.0}, "player_2": {"player": "pg", "lr": 0.0}}
    algo = build(lio_config(players, 3, games=64, incentives=incentives, epsilon=0.0))
    losses = [float(algo.train()["learners"]["opponents"]["opponents_loss"]) for _ in range(6)]
    assert losses[-1] < losses[0]
    sample = algo.sample()
    module = algo.learner_group._learner.module["player_2"].unwrapped()
    rows = {name: column.flatten(0, 2) for name, column in sample.modules["player_2"].steps.items()}
    policy = module.get_train_action_dist_cls().from_logits(module.forward_train(rows)[Columns.ACTION_DIST_INPUTS])
    obs, models = joint_observations(sample, 3).flatten(0, 1), incentive_rule(algo).models
    log_probs = models(obs, sample.actions.flatten(0, 1))
    assert models.others.tolist() == [1, 2, 2, 0, 0, 1]
    log_probs_of_2 = policy.logp(rows[Columns.ACTIONS])
    for row in (1, 2):
        assert float((log_probs[row].exp() - log_probs_of_2.exp()).abs().mean()) < 0.1


def test_givers_with_models_ignore_incentives_of_other_givers(build):
    """Scales the third agent's incentive function, and expects the same update of the first agent's."""
    incentives = {"opponents": "modelled", "opponent_hiddens": [8], "lr": 0.05}
    weights_by_scale = []
    for scale in (1.0, 4.0):
        algo = build(lio_config(agents=3, incentives=incentives))
        sample = algo.sample()
        state = algo.learner_group.get_weights()
        state["incentives"] = {
            name: np.concatenate([value[:2], scale * value[2:]]) if name.startswith("functions") else value
            for name, value in state["incentives"].items()
        }
        algo.learner_group.set_weights(state)
        start_weights = weights(algo)
        run_both_phases(algo, sample)
        weights_by_scale.append(weights(algo))
    function_keys = [key for key in start_weights if key.startswith("incentives/functions")]
    assert function_keys
    assert any(not np.array_equal(weights_by_scale[0][key][0], start_weights[key][0]) for key in function_keys)
    for key in function_keys:
        np.testing.assert_array_equal(weights_by_scale[0][key][0], weights_by_scale[1][key][0], err_msg=key)


def test_models_of_co_players_with_pools_raise():
    players = {"player_0": "lio", "player_1": {"pool": {"pg": 0.5, "scripted/random": 0.5}}}
    with pytest.raises(ValueError, match=r"opponents: modelled .* players.player_1 is a pool; set it to known"):
        lio_config(players, incentives={"opponents": "modelled"}).validate()


def test_models_without_inferable_observations_raise():
    with pytest.raises(ValueError, match="opponents: modelled needs an environment in which agents can infer"):
        LIOConfig().environment("cleanup_v0").incentives(opponents="modelled").validate()


def test_models_of_co_players_with_scaled_advantages_raise():
    config = lio_config(incentives={"opponents": "modelled"}).training(scale_advantages=True)
    with pytest.raises(ValueError, match=r"scale_advantages: not supported with incentives.opponents modelled"):
        config.validate()
