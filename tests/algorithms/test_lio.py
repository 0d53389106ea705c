from dataclasses import fields

import numpy as np
import pytest
import torch
import tree
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.training_data import TrainingData
from rllib_reciprocator.algorithms.lio.credit import directional, gradients, worth_of_incentives
from rllib_reciprocator.algorithms.lio.learner import INCENTIVES_PHASE, POLICIES_PHASE
from rllib_reciprocator.engine.sample import Sample, concatenate

from rllib_reciprocator import ReciprocatorConfig
from rllib_reciprocator.algorithms.lio import LIO, LIOConfig
from rllib_reciprocator.engine.learner import ITERATION
from rllib_reciprocator.models import GIVEN, LOGITS
from tests.helpers.weights import assert_same_weights, weights

LIFETIME = "num_env_steps_sampled_lifetime"


def config(players="lio", agents=2, games=16, learners=0, incentives=None, env="escape_room_v0", **training):
    settings = {"num_levers": agents - 1} if env == "escape_room_v0" else {"num_steps": 5}
    settings |= {"num_agents": agents} if env in ("escape_room_v0", "public_goods_v0") else {}
    a_config = (
        LIOConfig()
        .environment(env, env_config=settings)
        .players(players if isinstance(players, dict) else {"player_*": players})
        .training(**{"lr": 0.3, "epsilon": 0.3, "updates_per_iteration": 2, **training})
        .rl_module(model_config={"fcnet_hiddens": [8]})
        .env_runners(num_envs_per_env_runner=games)
        .learners(num_learners=learners)
        .debugging(seed=1)
    )
    return a_config.incentives(**{"hiddens": [8], "lr": 0.01, **(incentives or {})})


def phase(algo, name, sample, lifetime=0):
    """Runs one phase of an update on a sample."""
    algo.learner_group.update(
        training_data=TrainingData(batch=sample.to_batch()),
        timesteps={LIFETIME: lifetime, ITERATION: 0},
        num_epochs=1,
        phase=name,
    )


# --- the gradient ----------------------------------------------------------------------------------------------------


def test_worth_of_incentives_by_hand():
    credit = torch.zeros(1, 3, 2, 2)
    credit[0, :, 0, 1] = torch.tensor([1.0, 2.0, 4.0])
    derivatives = worth_of_incentives(credit, torch.tensor([0.9, 0.5]))
    # A reward in the last step adds to all three advantages: 4 + 0.5 * 2 + 0.25 * 1.
    assert derivatives[0, :, 0, 1].tolist() == [1.0, 2.5, 5.25]
    assert not derivatives[0, :, 1].any()


def test_directional_derivatives_match_forward_mode():
    torch.manual_seed(0)
    layer = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    rows, parameters = torch.randn(6, 3), dict(layer.named_parameters())
    direction = [torch.randn_like(param) for param in parameters.values()]
    (derivative,) = directional(lambda: layer(rows)[:, 0], list(parameters.values()), [direction])
    tangents = dict(zip(parameters, direction, strict=True))
    _, expected = torch.func.jvp(
        lambda p: torch.func.functional_call(layer, p, (rows,))[:, 0],
        ({name: param.detach() for name, param in parameters.items()},),
        (tangents,),
    )
    torch.testing.assert_close(derivative, expected)
    (gradient,) = gradients(layer(rows)[:, 0], list(parameters.values()), torch.ones(1, 6))
    assert float(gradient[-1]) == pytest.approx(6.0)


def autograd_through_policy_step(learner, before, tau, after, weight_of_self):
    """Returns the gradients of all givers' losses with respect to incentive functions, through the policies' step.

    Recomputes incentives, advantages, the policies' losses and steps, and each giver's loss on the rollout after the
    update. Only the critics' values are taken from the learner.
    """
    functions = learner._functions
    n = tau.rewards.shape[-1]
    played = [sample.in_first_episode() for sample in (tau, after)]
    obs = [
        torch.stack([batch.modules[f"player_{i}"][Columns.OBS][:, 0] for i in range(n)], 2) for batch in (tau, after)
    ]
    given_before = tau.joint[GIVEN].flatten(0, 1) if functions.observes_given else None
    incentives = functions.incentives(obs[0].flatten(0, 1), tau.joint["actions"].flatten(0, 1), given_before)
    incentives = incentives.unflatten(0, played[0].shape) * played[0][..., None, None]
    rewards = tau.rewards * played[0][..., None] + incentives.sum(-2) - weight_of_self * incentives.sum(-1)
    config, critics = learner.config, [learner._losses[f"player_{i}"] == "ac" for i in range(n)]
    gamma = torch.full((n,), config.gamma)
    lambdas = torch.tensor([config.lambda_ if critic else 1.0 for critic in critics])

    def discounted(values, factor, mask):
        sums, total = [], torch.zeros_like(values[:, 0])
        for t in reversed(range(values.shape[1])):
            total = values[:, t] * mask[:, t, None] + factor * total
            sums.append(total)
        return torch.stack(sums[::-1], 1)

    def subtract_means(values, mask):
        counts = mask.sum(0)[:, None].clamp(min=1)
        return values - (values * mask[..., None]).sum(0) / counts

    def policy(index, parameters, sample):
        module = learner.module[f"player_{index}"].unwrapped()
        batch = {name: column.flatten(0, 2) for name, column in sample.modules[f"player_{index}"].items()}
        wrapped = Wrapped(module)
        named = {f"module.{name}": param for name, param in parameters.items()}
        outputs = torch.func.functional_call(wrapped, named, (batch,))
        return [output.unflatten(0, sample.rewards.shape[:2]) for output in outputs]

    def log_probabilities(index, parameters, sample):
        return policy(index, parameters, sample)[0]

    returns = discounted(rewards, gamma * lambdas, played[0])
    for index in range(n):
        if not critics[index] and learner.config.use_baseline:
            returns = torch.cat(
                [
                    returns[..., :index],
                    subtract_means(returns, played[0])[..., index : index + 1],
                    returns[..., index + 1 :],
                ],
                -1,
            )
    learned_params = []
    for index in range(n):
        point = {name: param.clone().requires_grad_() for name, param in before[index].items()}
        logp, uniform_kl = policy(index, point, tau)
        advantages = returns[..., index]
        if config.normalize_advantages:
            counted = advantages[played[0]]
            # A critic's values would only add a constant to the advantages, but change their standard deviation.
            advantages = (advantages - counted.mean()) / counted.std(correction=0)
        objective = ((logp * advantages + config.entropy_coeff * uniform_kl) * played[0]).sum() / len(returns)
        names = [name for name in point if name.startswith("actor")]
        gradient = torch.autograd.grad(objective, [point[name] for name in names], create_graph=True)
        scale = 1.0
        if config.grad_clip is not None:
            norm = torch.cat([part.flatten() for part in gradient]).norm()
            assert float(norm) > config.grad_clip
            scale = config.grad_clip / norm
        param_steps = [config.lr * scale * part for part in gradient]
        # Uses the learner's parameters after the step, with the derivatives of the step computed here: the latter lacks
        # the values of critics, which do not depend on incentives.
        new_params = dict(learner.module[f"player_{index}"].unwrapped().named_parameters())
        learned_params.append(
            {name: new_params[name].detach() + g - g.detach() for name, g in zip(names, param_steps, strict=True)}
        )
        if not critics[index]:
            for name, g in zip(names, param_steps, strict=True):
                torch.testing.assert_close(
                    new_params[name].detach(), point[name].detach() + g.detach(), atol=1e-5, rtol=1e-4
                )
    outer_gains = learner._gains_for_test
    derivatives = []
    for giver in range(n):
        counted = [j for j in range(n) if j != giver or weight_of_self]
        loss = -sum(
            (log_probabilities(j, learned_params[j], after) * outer_gains[..., giver] * played[1]).sum()
            / len(outer_gains)
            for j in counted
        )
        parameters = list(functions.functions.parameters())
        derivatives.append(torch.autograd.grad(loss, parameters, retain_graph=True))
    # Parameters are stacked by giver; a giver's slice is trained on its own loss only.
    return [torch.stack([derivatives[giver][k][giver] for giver in range(n)]) for k in range(len(derivatives[0]))]


class Wrapped(torch.nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, batch):
        out = self.module.forward_train(batch)
        policy = self.module.get_train_action_dist_cls().from_logits(out[Columns.ACTION_DIST_INPUTS])
        return policy.logp(batch[Columns.ACTIONS]), torch.log_softmax(out[LOGITS], -1).mean(-1)


@pytest.mark.parametrize(
    ("agents", "player", "clip", "charged", "baseline", "normalize"),
    [
        (2, "lio", None, False, True, False),
        (2, "lio", 0.1, True, False, False),
        (2, "lio", None, False, True, True),
        (3, "lio", None, True, True, False),
        (3, "lio", 0.1, False, True, True),
        (2, "lio_ac", None, False, True, False),
        (3, "lio_ac", None, True, True, False),
    ],
)
def test_gradient_matches_autograd_through_the_policy_step(
    build, monkeypatch, agents, player, clip, charged, baseline, normalize
):
    """Covers two and three givers, returns and critics, early ends of episodes, clipping, and observed totals."""
    incentives = {"charge_giver": charged, "observe_given": True, "cost_coeff": 0.0}
    learning = {"grad_clip": clip, "critic_epochs": 3, "use_baseline": baseline, "normalize_advantages": normalize}
    algo = build(config(player, agents, incentives=incentives, **learning))
    algo.train()
    learner = algo.learner_group._learner
    tau, gradients_by_optimizer = algo.sample(), {}
    before = [
        {name: param.detach().clone() for name, param in learner.module[f"player_{i}"].unwrapped().named_parameters()}
        for i in range(agents)
    ]
    phase(algo, POLICIES_PHASE, tau)
    algo.sync()
    after = algo.sample()
    assert not bool(tau.in_first_episode().all())  # some episodes end early
    original_gains = type(learner)._gains

    def record_gains(self, parts, joint):
        self._gains_for_test = original_gains(self, parts, joint)
        return self._gains_for_test

    monkeypatch.setattr(type(learner), "_gains", record_gains)
    monkeypatch.setattr(
        type(learner), "_step", lambda self, name, gradient: gradients_by_optimizer.setdefault(name, gradient)
    )
    phase(algo, INCENTIVES_PHASE, after)
    expected = autograd_through_policy_step(learner, before, tau, after, float(charged))
    scale = max(float(gradient.abs().max()) for gradient in expected)
    assert scale > 1e-6
    for gradient, reference in zip(gradients_by_optimizer["reward"], expected, strict=True):
        torch.testing.assert_close(gradient, reference, atol=1e-3 * scale, rtol=1e-3)


def in_double(sample):
    """Returns a sample with floating-point columns in double precision."""
    columns = {field.name: getattr(sample, field.name) for field in fields(Sample)}
    return Sample(
        **tree.map_structure(lambda column: column.double() if column.is_floating_point() else column, columns)
    )


@pytest.mark.parametrize(
    "settings",
    [{}, {"grad_clip": 0.05}, {"normalize_advantages": True}, {"grad_clip": 0.05, "normalize_advantages": True}],
)
def test_gradient_matches_finite_differences_through_a_policy_update(build, settings):
    """Differentiates the loss of giver 0 after the policies' update along a direction of its incentive function."""
    algo = build(config(games=32, incentives={"cost_coeff": 0.0, "cost_lr": None}, gamma=0.9, **settings))
    learner = algo.learner_group._learner
    tau, after = in_double(algo.sample()), in_double(algo.sample())
    modules = {module_id: module.unwrapped().double() for module_id, module in learner.module.items()}
    start = {
        module_id: {name: value.clone() for name, value in module.state_dict().items()}
        for module_id, module in modules.items()
    }
    functions = learner.module["incentives"].unwrapped().functions
    torch.manual_seed(0)
    direction = [torch.randn_like(param) for param in functions.parameters()]
    for component in direction:
        component[1:] = 0.0
    played, gains = after.in_first_episode(), torch.zeros_like(after.rewards[..., 0])
    running = torch.zeros_like(gains[:, 0])
    for t in reversed(range(gains.shape[1])):
        running = after.rewards[:, t, 0] * played[:, t] + 0.9 * running
        gains[:, t] = running
    gains = (gains - (gains * played).sum(0) / played.sum(0).clamp(min=1)) * played

    def loss(size):
        for module_id, module in modules.items():
            module.load_state_dict(start[module_id])
        with torch.no_grad():
            for parameter, component in zip(functions.parameters(), direction, strict=True):
                parameter += size * component
        algo.learn(tau, phase=POLICIES_PHASE, report=False)
        rows = {name: column.flatten(0, 2) for name, column in after.modules["player_1"].items()}
        with torch.no_grad():
            logp, _ = Wrapped(learner.module["player_1"].unwrapped())(rows)
        return float(-(logp.view_as(gains) * gains).sum() / len(gains))

    size = 1e-4
    difference = (loss(size) - loss(-size)) / (2 * size)
    loss(0.0)
    gradients = []
    learner.get_optimizer("incentives", "reward").register_step_pre_hook(
        lambda optimizer, *_: gradients.extend(param.grad.clone() for param in optimizer.param_groups[0]["params"])
    )
    algo.learn(after, phase=INCENTIVES_PHASE)
    along = sum(float((gradient * component).sum()) for gradient, component in zip(gradients, direction, strict=True))
    assert abs(difference) > 1e-5
    assert along == pytest.approx(difference, rel=1e-3)


def test_ppo_recipients_are_approximated_by_one_sgd_step(build):
    """Compares gradients with those for a recipient that is trained by policy gradients, at a small learning rate."""
    gradients = []
    for recipient in ("pg", "ppo"):
        players = {"player_0": "lio", "player_1": recipient}
        incentives = {"cost_coeff": 0.0, "cost_lr": None}
        algo = build(config(players, lr=1e-5, use_baseline=False, num_epochs=1, incentives=incentives))
        tau, after = algo.sample(), algo.sample()
        algo.learn(tau, phase=POLICIES_PHASE, report=False)
        algo.learner_group._learner.get_optimizer("incentives", "reward").register_step_pre_hook(
            lambda optimizer, *_: gradients.append(optimizer.param_groups[0]["params"][0].grad[0].clone())
        )
        algo.learn(after, phase=INCENTIVES_PHASE)
    assert float(gradients[0].abs().max()) > 0.0
    torch.testing.assert_close(*gradients, rtol=0.05, atol=0.02 * float(gradients[0].abs().max()))


def test_giver_advantages_without_critics_by_hand(build):
    algo = build(config(gamma=0.9))
    sample = algo.sample()
    learner = algo.learner_group._learner
    parts = learner.on_device(sample.to_batch())
    gains = learner._gains(parts, learner.joint_columns(parts))
    lengths = sample.in_first_episode().sum(1).tolist()
    to_go = [
        [sum(0.9 ** (k - t) * float(sample.rewards[b, k, 1]) for k in range(t, length)) for t in range(length)]
        for b, length in enumerate(lengths)
    ]
    for t in range(5):
        mean = np.mean([returns[t] for returns in to_go if len(returns) > t] or [0.0])
        for b, returns in enumerate(to_go):
            expected = returns[t] - mean if len(returns) > t else 0.0
            assert float(gains[b, t, 1]) == pytest.approx(expected, abs=1e-4)


def test_cost_coeff_follows_its_schedule(build):
    """Expects a schedule from 2 to 0 to have a value of 1 halfway."""
    algos = []
    for coeff in (1.0, [[0, 2.0], [1000, 0.0]]):
        algo = build(config(incentives={"cost_coeff": coeff, "cost_lr": None}))
        sample = algo.sample()
        for name, lifetime in ((POLICIES_PHASE, 0), (INCENTIVES_PHASE, 500)):
            phase(algo, name, sample, lifetime=lifetime)
        algos.append(algo)
    assert_same_weights(*algos)


def test_cost_counts_without_a_separate_optimizer(build):
    """Uses one Adam optimizer for both losses: the cost still changes the update."""
    weights_by_coeff = []
    for coeff in (0.0, 1.0):
        algo = build(config(incentives={"cost_coeff": coeff, "cost_lr": None, "lr": 0.01}))
        sample = algo.sample()
        for name in (POLICIES_PHASE, INCENTIVES_PHASE):
            phase(algo, name, sample)
        weights_by_coeff.append(weights(algo))
    free_params, charged_params = (
        {key: params[key] for key in params if key.startswith("incentives/")} for params in weights_by_coeff
    )
    assert any(not np.array_equal(free_params[key], charged_params[key]) for key in free_params)


def test_the_cost_is_discounted_and_averaged_over_episodes(build):
    algo = build(config(gamma=0.5, incentives={"cost_coeff": 3.0, "max_incentive": 2.0}))
    sample = algo.sample()
    played = sample.in_first_episode()
    shares = sample.joint["incentives"].sum((-1, -2)) / 2.0 * played
    expected = 3.0 * float((shares * 0.5 ** torch.arange(5)).sum()) / 16
    algo.learn(sample, phase=POLICIES_PHASE, report=False)
    algo.learn(sample, phase=INCENTIVES_PHASE)
    cost = float(algo.metrics.peek(("learners", "incentives", "incentive_cost")))
    assert cost == pytest.approx(expected, rel=1e-4)
    assert cost < 0.9 * 3.0 * float(shares.sum()) / 16


def test_giver_critics_bootstrap_at_the_horizon(build):
    """Computes advantages of extrinsic rewards by hand from the critics' values."""
    a_config = config("lio_ac", env="ipd_v0", bootstrap_at_horizon=True, use_baseline=False, lambda_=0.8, gamma=0.9)
    algo = build(a_config.incentives(critic_lr=0.0))
    sample = algo.sample()
    # The last step terminates the episode in half of the environments, instead of truncating it.
    sample.joint["terminated"][:8, -1] = True
    learner = algo.learner_group._learner
    values = []
    for columns, name in ((sample.modules, Columns.OBS), (sample.streams, "last/obs")):
        obs = torch.stack([columns[f"player_{i}"][name][:, 0] for i in range(2)], -1 if name == "last/obs" else 2)
        obs = obs.transpose(1, 2) if name == "last/obs" else obs.flatten(0, 1)
        values.append(learner._functions.values(obs).detach())
    before = values[0].view(16, 5, 2)
    after = torch.cat([before[:, 1:], values[1][:, None]], 1)
    after[:8, -1] = 0.0
    errors = sample.rewards + 0.9 * after - before
    expected, running = torch.zeros_like(errors), 0.0
    for t in reversed(range(5)):
        running = errors[:, t] + 0.9 * 0.8 * running
        expected[:, t] = running
    parts = learner.on_device(sample.to_batch())
    gains = learner._gains(parts, learner.joint_columns(parts))
    torch.testing.assert_close(gains, expected, atol=1e-5, rtol=1e-4)


def test_givers_with_models_ignore_incentives_of_other_givers(build):
    """Scales the third agent's incentive function, and expects the same update of the first agent's."""
    incentives = {"opponents": "modelled", "opponent_hiddens": [8], "lr": 0.05}
    weights_by_scale = []
    for scale in (1.0, 4.0):
        algo = build(config(agents=3, incentives=incentives))
        sample = algo.sample()
        state = algo.learner_group.get_weights()
        state["incentives"] = {
            name: np.concatenate([value[:2], scale * value[2:]]) if name.startswith("functions") else value
            for name, value in state["incentives"].items()
        }
        algo.learner_group.set_weights(state)
        start_weights = weights(algo)
        for name in (POLICIES_PHASE, INCENTIVES_PHASE):
            phase(algo, name, sample)
        weights_by_scale.append(weights(algo))
    function_keys = [key for key in start_weights if key.startswith("incentives/functions")]
    assert function_keys
    assert any(not np.array_equal(weights_by_scale[0][key][0], start_weights[key][0]) for key in function_keys)
    for key in function_keys:
        np.testing.assert_array_equal(weights_by_scale[0][key][0], weights_by_scale[1][key][0], err_msg=key)


def test_models_of_co_players_with_pools_raise():
    players = {"player_0": "lio", "player_1": {"pool": {"pg": 0.5, "scripted/random": 0.5}}}
    with pytest.raises(ValueError, match=r"opponents: modelled .* players.player_1 is a pool; set it to known"):
        config(players, incentives={"opponents": "modelled"}).validate()


# --- givers and recipients -------------------------------------------------------------------------------------------


def test_incentives_are_bounded_and_given_to_trained_co_players(build):
    players = {"player_0": "lio", "player_1": "scripted/random", "player_2": {"player": "lio", "gives": False}}
    algo = build(config(players, 3, incentives={"max_incentive": 3.0}))
    sample = algo.sample()
    incentives = sample.joint["incentives"]
    is_paid = incentives.amax((0, 1)) > 0
    assert is_paid.tolist() == [[False, False, True], [False, False, False], [False, False, False]]
    assert 0.0 < float(incentives[..., 0, 2].min()) <= float(incentives.max()) < 3.0
    torch.testing.assert_close(sample.joint["received"], incentives.sum(-2))
    before = weights(algo)
    algo.train()
    changed = {key.split("/")[0] for key, value in weights(algo).items() if not np.array_equal(value, before[key])}
    assert changed == {"player_0", "player_2", "incentives"}


def test_incentives_match_their_function_and_accumulate(build):
    algo = build(config(agents=3, incentives={"observe_given": True}, env="public_goods_v0"))
    sample = algo.sample()
    functions = algo.env_runner.module["incentives"].unwrapped()
    obs = torch.stack([sample.modules[f"player_{i}"][Columns.OBS][:, 0] for i in range(3)], 2)
    given_before = sample.joint[GIVEN]
    incentives = functions.incentives(
        obs.flatten(0, 1), sample.joint["actions"].flatten(0, 1), given_before.flatten(0, 1)
    )
    torch.testing.assert_close(incentives.view_as(sample.joint["incentives"]), sample.joint["incentives"])
    totals = sample.joint["incentives"].cumsum(1)
    assert not given_before[:, 0].any()
    for i in range(3):
        for k in range(2):
            torch.testing.assert_close(given_before[:, 1:, i, k], totals[:, :-1, i, (i + k + 1) % 3])
    inputs = sample.modules["player_1"][GIVEN][:, 0]
    torch.testing.assert_close(inputs, given_before[:, :, 1])


def test_policies_are_trained_on_received_incentives(build):
    algo = build(config(players={"player_0": "lio", "player_1": "pg"}, gamma=1.0, env="ipd_v0"))
    sample = algo.sample()
    learner = algo.learner_group._learner
    parts = learner.on_device(sample.to_batch())
    joint = learner.joint_columns(parts)
    learner.prepare(parts, joint)
    paid = sample.joint["incentives"][..., 0, 1]
    torch.testing.assert_close(joint["shaped_rewards"][..., 1], sample.rewards[..., 1] + paid)
    torch.testing.assert_close(joint["shaped_rewards"][..., 0], sample.rewards[..., 0])


def test_charged_givers_pay_their_incentives(build):
    algo = build(config(incentives={"charge_giver": True}, env="ipd_v0"))
    sample = algo.sample()
    learner = algo.learner_group._learner
    parts = learner.on_device(sample.to_batch())
    joint = learner.joint_columns(parts)
    learner.prepare(parts, joint)
    incentives = sample.joint["incentives"]
    net = incentives.sum(-2) - incentives.sum(-1)
    torch.testing.assert_close(joint["shaped_rewards"], sample.rewards + net)


def test_indistinguishable_actions_get_equal_incentives(build):
    algo = build(config(incentives={"told_actions": ["door"]}))
    functions = algo.env_runner.module["incentives"].unwrapped()
    obs = torch.rand(1, 2, 6)
    paid = [float(functions.incentives(obs, torch.tensor([[0, action]]))[0, 0, 1]) for action in range(3)]
    assert paid[0] == paid[1] != paid[2]


@pytest.mark.parametrize(
    "player", ["ppo", "reciprocator", "ac", {"player": "ppo", "intrinsic": {"inequity_aversion": {}}}]
)
def test_other_kinds_of_players_receive_incentives(build, player):
    algo = build(config({"player_0": "lio_ac", "player_1": player}, num_epochs=2, env="coins_v0", lr=0.01))
    before = weights(algo)
    result = algo.train()
    assert result["env_runners"]["incentives"].keys() == {"player_0_to_player_1"}
    changed = {key.split("/")[0] for key, value in weights(algo).items() if not np.array_equal(value, before[key])}
    assert {"player_0", "player_1", "incentives"} <= changed


@pytest.mark.parametrize("player", ["lio", "lio_ac"])
def test_incentives_are_learned_with_linear_recurrent_units(build, player):
    """Differentiates through a policy's step, which takes second derivatives of its memory."""
    a_config = config(player).rl_module(model_config={"fcnet_hiddens": [8], "use_lru": True})
    algo = build(a_config)
    before = weights(algo)
    algo.train()
    changed = {key.split("/")[0] for key, value in weights(algo).items() if not np.array_equal(value, before[key])}
    assert changed == {"player_0", "player_1", "incentives"}


def test_policies_and_incentives_wait_while_estimators_warm_up(build):
    a_config = config({"player_0": "lio", "player_1": "reciprocator"}, env="coins_v0", lr=0.01, updates_per_iteration=1)
    algo = build(a_config.intrinsic("reciprocity", warmup_iterations=1))
    before = weights(algo)
    algo.train()
    changed = {key.split("/")[0] for key, value in weights(algo).items() if not np.array_equal(value, before[key])}
    assert changed == {"influence"}
    algo.train()
    changed = {key.split("/")[0] for key, value in weights(algo).items() if not np.array_equal(value, before[key])}
    assert changed == {"influence", "incentives", "player_0", "player_1"}


def test_influence_includes_received_incentives(build):
    """Expects the rewards of a Reciprocator to be extrinsic rewards plus received incentives."""
    algo = build(config({"player_0": "lio", "player_1": "reciprocator"}, env="coins_v0", lr=0.01))
    sample, estimator_rows = algo.sample(), {}
    learner = algo.learner_group._learner
    learner._fit_estimator = lambda rows, iteration: estimator_rows.update(rows)
    parts = learner.on_device(sample.to_batch())
    learner.prepare(parts, learner.joint_columns(parts))
    expected = (sample.rewards + sample.joint["received"]).flatten(0, 1)
    torch.testing.assert_close(estimator_rows["rewards"], expected)


# --- runs ------------------------------------------------------------------------------------------------------------


@pytest.mark.processes
def test_two_learners_match_one(build):
    local, remote = (build(config(agents=3, learners=learners, entropy_coeff=0.1)) for learners in (0, 2))
    state = local.learner_group.get_weights()
    remote.learner_group.set_weights(state)
    tau, after = local.sample(), local.sample()
    for algo in (local, remote):
        phase(algo, POLICIES_PHASE, tau)
        phase(algo, INCENTIVES_PHASE, after)
    assert_same_weights(local, remote, atol=2e-5)
    initial_weights = {f"{key}/{name}": value for key, params in state.items() for name, value in params.items()}
    changed_keys = [key for key, value in weights(local).items() if np.abs(value - initial_weights[key]).max() > 1e-3]
    assert any(key.startswith("incentives") for key in changed_keys)
    assert any(key.startswith("player_2") for key in changed_keys)


def test_restored_runs_that_reuse_samples_continue_identically(build, tmp_path):
    def build_run():
        return build(config(reuse_samples=True))

    whole = build_run()
    whole.train()
    whole.save_to_path(tmp_path)
    expected = whole.train()
    resumed = build_run()
    resumed.restore_from_path(tmp_path)
    resumed_result = resumed.train()
    assert resumed_result["env_runners"]["incentives"] == expected["env_runners"]["incentives"]
    assert_same_weights(whole, resumed)


def test_reused_samples_reduce_the_number_of_steps(build):
    steps = [
        build(config(reuse_samples=reuse)).train()["env_runners"]["num_env_steps_sampled"] for reuse in (False, True)
    ]
    # Two updates take three samples instead of four. Episodes have at most five steps and may end early.
    assert steps[1] < steps[0] <= 4 * 16 * 5
    assert steps[0] / steps[1] == pytest.approx(4 / 3, abs=0.15)


def test_incentives_of_reused_samples_are_recomputed(build):
    algo = build(config())
    sample = algo.sample()
    learner = algo.learner_group._learner
    with torch.no_grad():
        for param in learner._functions.functions.parameters():
            param.mul_(3.0)
    parts = learner.on_device(sample.to_batch())
    joint = learner.joint_columns(parts)
    learner.prepare(parts, joint)
    assert not torch.allclose(joint["incentives"], sample.joint["incentives"])


def test_results_report_incentives_by_pair_and_action(build):
    algo = build(config())
    sample = algo.sample(report=False)
    result = algo.env_runner.get_metrics()
    played = sample.in_first_episode()
    paid = sample.joint["incentives"][..., 0, 1][played]
    actions = sample.joint["actions"][..., 1][played]
    assert float(result["incentives"]["player_0_to_player_1"].peek()) == pytest.approx(float(paid.mean()), rel=1e-4)
    for action, name in enumerate(("lever", "start", "door")):
        incentive = result["incentives_by_action"]["player_0_to_player_1"][name].peek()
        assert float(incentive) == pytest.approx(float(paid[actions == action].mean()), rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"incentives": {"told_actions": ["dor"]}}, "there is no action 'dor'.* 'door'"),
        ({"incentives": {"max_incentive": -1.0}}, "max_incentive"),
        ({"players": {"player_*": {"player": "pg", "gives": False}}}, "is for players with incentives only"),
        ({"players": {"player_*": {"player": "lio", "gives": 2}}}, "must be true or false"),
        ({"grad_clip": 1.0, "grad_clip_by": "value"}, "grad_clip_by: must be global_norm"),
    ],
)
def test_invalid_settings_raise(changes, message):
    with pytest.raises(ValueError, match=message):
        config(**changes).validate()


def test_incentives_with_another_algorithm_raise():
    a_config = (
        ReciprocatorConfig().environment("ipd_v0").players({"*": {"player": "ppo", "intrinsic": {"incentives": {}}}})
    )
    with pytest.raises(ValueError, match="incentives can be trained by run: LIO only"):
        a_config.validate()


class CustomLIO(LIO):
    """Subclass of LIO with another name."""


def test_subclasses_train_incentives():
    for a_config in (config(), CustomLIO.get_default_config().environment("escape_room_v0")):
        a_config.algo_class = CustomLIO
        a_config.validate()
        assert a_config.givers() == [0, 1]


# --- other runs ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(ray_cluster, tmp_path_factory):
    algo = config(agents=3, incentives={"observe_given": True}, env="public_goods_v0").build_algo()
    algo.train()
    path = algo.save_to_path(tmp_path_factory.mktemp("lio") / "checkpoint")
    algo.stop()
    return path


def reciprocators(players):
    return (
        ReciprocatorConfig()
        .environment("public_goods_v0", env_config={"num_steps": 5, "num_agents": 3})
        .players(players)
        .env_runners(num_envs_per_env_runner=8)
        .debugging(seed=1)
    )


def test_frozen_givers_give_in_other_runs(build, trained):
    algo = build(reciprocators({"player_0": f"checkpoint/{trained}#player_0", "*": "reciprocator"}))
    sample = algo.sample()
    assert (sample.joint["incentives"][..., 0, 1:] > 0).all()
    assert not sample.joint["incentives"][..., 1:, :].any()
    learner = algo.learner_group._learner
    parts = learner.on_device(sample.to_batch())
    joint = learner.joint_columns(parts)
    shaped = learner.shape_rewards(joint)
    plain = learner.shape_rewards({**joint, "received": torch.zeros_like(joint["received"])})
    torch.testing.assert_close(shaped - plain, sample.joint["received"])


def test_incentive_functions_play_any_agent(build, trained):
    """Plays agent 0 with agent 2's function, and expects its incentives to be rotated along with its inputs."""
    players = {"player_0": f"checkpoint/{trained}#player_2", "player_1": "scripted/random", "player_2": "ppo"}
    algo = build(reciprocators(players))
    sample = algo.sample()
    functions = algo.env_runner.module["incentives+player_0"].unwrapped()
    given_before, actions = sample.joint[GIVEN], sample.joint["actions"]
    rotation = torch.tensor([1, 2, 0])  # agent 0 in the place of agent 2, agent 1 in that of agent 0
    obs = _observations_of_agent_0(algo)
    repeated_obs = obs[:, :, None].expand(-1, -1, 3, *[-1] * (obs.dim() - 2))  # only the giver's observation counts
    rows = [column.flatten(0, 1) for column in (repeated_obs, actions[..., rotation], given_before[:, :, rotation])]
    incentives = functions.incentives(*rows).unflatten(0, actions.shape[:2])[:, :, 2]
    torch.testing.assert_close(sample.joint["incentives"][:, :, 0][..., rotation], incentives)


def _observations_of_agent_0(algo):
    """Samples the same fragment again and returns the observations of agent 0, ``[B, T, ..]``."""
    runner, step_obs = algo.env_runner, []
    runner._fragments_with_weights = 0
    act = runner._act

    def record_obs(*args):
        step_obs.append(runner._obs[:, 0].clone())
        return act(*args)

    runner._act = record_obs
    runner.start_over()
    runner.sample()
    return torch.stack(step_obs, 1)


@pytest.mark.processes
def test_samples_of_several_runners_are_concatenated(build):
    algo = build(config(games=8, reuse_samples=True).env_runners(num_env_runners=2))
    result = algo.train()
    metrics = result["env_runners"]
    assert metrics["num_episodes"] == 3 * 2 * 8
    assert metrics["num_env_steps_sampled"] <= 3 * 2 * 8 * 5
    sample = concatenate([algo.sample()])
    assert len(sample.rewards) == 16


# --- models of co-players --------------------------------------------------------------------------------------------


def test_exact_models_give_the_same_credit(build):
    """Copies the co-players' policies into the givers' models, and expects the credit of known policies."""
    incentives = {"opponents": "modelled", "opponent_hiddens": [8], "opponent_lr": 0.0}
    algo = build(config(incentives=incentives, epsilon=0.0, entropy_coeff=0.0))
    learner = algo.learner_group._learner
    models = learner._models.networks
    assert learner._models.others.tolist() == [1, 0]
    with torch.no_grad():
        for row, agent in enumerate((1, 0)):
            actor = learner.module[f"player_{agent}"].unwrapped().actor
            for stacked, layer in ((models[0], actor.encoder.connected[0]), (models[2], actor.head)):
                stacked.weight[row] = layer.weight.t()
                stacked.bias[row] = layer.bias
    tau = algo.sample()
    phase(algo, POLICIES_PHASE, tau)
    algo.sync()
    after, policy_update = algo.sample(), learner._lesson
    parts = learner.on_device(after.to_batch())
    joint = learner.joint_columns(parts)
    gains = learner._gains(parts, joint)
    credit = learner._credit(policy_update, parts, joint, gains)
    modelled_credit = learner._credit_by_models(policy_update, parts, joint, gains)
    assert float(credit.abs().max()) > 1e-6
    torch.testing.assert_close(modelled_credit, credit, atol=1e-3 * float(credit.abs().max()), rtol=1e-3)


def test_models_learn_the_policies_of_co_players(build):
    incentives = {"opponents": "modelled", "opponent_hiddens": [16], "opponent_epochs": 20}
    players = {"player_0": "lio", "player_1": {"player": "pg", "lr": 0.0}, "player_2": {"player": "pg", "lr": 0.0}}
    algo = build(config(players, 3, games=64, incentives=incentives, epsilon=0.0))
    losses = [float(algo.train()["learners"]["opponents"]["opponents_loss"]) for _ in range(6)]
    assert losses[-1] < losses[0]
    sample = algo.sample()
    module = algo.learner_group._learner.module["player_2"].unwrapped()
    rows = {name: column.flatten(0, 2) for name, column in sample.modules["player_2"].items()}
    policy = module.get_train_action_dist_cls().from_logits(module.forward_train(rows)[Columns.ACTION_DIST_INPUTS])
    obs = torch.stack([sample.modules[f"player_{i}"][Columns.OBS][:, 0] for i in range(3)], 2).flatten(0, 1)
    log_probs = algo.learner_group._learner._models(obs, sample.joint["actions"].flatten(0, 1))
    assert algo.learner_group._learner._models.others.tolist() == [1, 2, 2, 0, 0, 1]
    log_probs_of_2 = policy.logp(rows[Columns.ACTIONS])
    for row in (1, 2):
        assert float((log_probs[row].exp() - log_probs_of_2.exp()).abs().mean()) < 0.1


def test_models_without_inferable_observations_raise():
    with pytest.raises(ValueError, match="opponents: modelled needs an environment in which agents can infer"):
        LIOConfig().environment("cleanup_v0").incentives(opponents="modelled").validate()


# --- incentives as continuous actions --------------------------------------------------------------------------------

DRAWN = {"learned_by": "policy_gradient", "charge_giver": True, "lr": 0.5}


def test_sampled_incentives_are_outputs_plus_noise(build):
    algo = build(config(incentives=DRAWN, env="ipd_v0"))
    sample = algo.sample()
    functions, noise = algo.env_runner.module["incentives"].unwrapped(), sample.joint["incentive_noise"]
    obs = torch.stack([sample.modules[f"player_{i}"][Columns.OBS][:, 0] for i in range(2)], 2)
    outputs = functions.outputs(obs.flatten(0, 1), sample.joint["actions"].flatten(0, 1)).unflatten(0, noise.shape[:2])
    paid = 2.0 * (outputs + noise).sigmoid()
    torch.testing.assert_close(sample.joint["incentives"][..., 0, 1], paid[..., 0, 0])
    torch.testing.assert_close(sample.joint["incentives"][..., 1, 0], paid[..., 1, 0])
    assert float(noise.std()) == pytest.approx(1.0, abs=0.2)
    same_seed = build(config(incentives=DRAWN, env="ipd_v0")).sample()
    assert torch.equal(same_seed.joint["incentive_noise"], noise)


def test_incentive_functions_take_policy_gradient_steps(build):
    """Expects the gradient of the normal log-density, weighted with advantages and averaged over episodes."""
    algo = build(config(incentives=DRAWN))
    sample = algo.sample()
    learner = algo.learner_group._learner
    functions = learner._functions
    parts = learner.on_device(sample.to_batch())
    batches = learner.prepare(parts, learner.joint_columns(parts))
    obs = torch.stack([sample.modules[f"player_{i}"][Columns.OBS][:, 0] for i in range(2)], 2).flatten(0, 1)
    mean = functions.outputs(obs, sample.joint["actions"].flatten(0, 1))[..., 0]
    samples = (mean + sample.joint["incentive_noise"].flatten(0, 1)[..., 0]).detach()
    density = torch.distributions.Normal(mean, 1.0).log_prob(samples)
    advantages = torch.stack(
        [batches[f"player_{i}"]["advantages"] * batches[f"player_{i}"][Columns.LOSS_MASK] for i in range(2)], -1
    )
    parameters = list(functions.functions.parameters())
    gradient = torch.autograd.grad((density * advantages).sum() / 16, parameters)
    expected = [p.detach() + 0.5 * g for p, g in zip(parameters, gradient, strict=True)]
    assert max(float(g.abs().max()) for g in gradient) > 1e-3
    learner.improve(batches, 1, None, False)
    for parameter, value in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter, value, atol=1e-6, rtol=1e-4)


def test_sampled_incentives_need_one_rollout_per_update(build):
    assert build(config(incentives=DRAWN)).train()["env_runners"]["num_episodes"] == 2 * 16
