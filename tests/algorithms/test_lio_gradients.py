"""Tests of the gradient of LIO's incentive functions through the gradient steps of policies."""

import numpy as np
import pytest
import torch
import tree
from ray.rllib.core.columns import Columns

from rllib_reciprocator.engine.rollout_batch import RolloutBatch
from rllib_reciprocator.engine.update_rule import LEARN, LOOK_AHEAD
from rllib_reciprocator.intrinsic.incentives import GIVEN
from rllib_reciprocator.models import LOGITS
from tests.helpers.incentives import incentive_rule, joint_observations, lio_config, run_phase


def autograd_through_policy_step(algo, before, tau, after, gains, weight_of_self):
    """Returns the gradients of all givers' losses with respect to incentive functions, through the policies' step.

    Recomputes incentives, advantages, the policies' losses and steps, and each giver's loss on the rollout after the
    update. Only the gains of givers, and with them the critics' values, are taken from the learner.
    """
    learner, functions = algo.learner_group._learner, incentive_rule(algo).functions
    n = tau.rewards.shape[-1]
    play_masks = [sample.in_first_episode() for sample in (tau, after)]
    given_before = tau.columns[GIVEN].flatten(0, 1) if functions.observes_given else None
    incentives = functions.incentives(joint_observations(tau, n).flatten(0, 1), tau.actions.flatten(0, 1), given_before)
    incentives = incentives.unflatten(0, play_masks[0].shape) * play_masks[0][..., None, None]
    rewards = tau.rewards * play_masks[0][..., None] + incentives.sum(-2) - weight_of_self * incentives.sum(-1)
    config, critics = learner.config, [learner.rule_of[f"player_{i}"].needs_critic for i in range(n)]
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
        batch = {name: column.flatten(0, 2) for name, column in sample.modules[f"player_{index}"].steps.items()}
        wrapper = Wrapped(module)
        named_params = {f"module.{name}": param for name, param in parameters.items()}
        outputs = torch.func.functional_call(wrapper, named_params, (batch,))
        return [output.unflatten(0, sample.rewards.shape[:2]) for output in outputs]

    def log_probabilities(index, parameters, sample):
        return policy(index, parameters, sample)[0]

    returns = discounted(rewards, gamma * lambdas, play_masks[0])
    for index in range(n):
        if not critics[index] and learner.config.use_baseline:
            returns = torch.cat(
                [
                    returns[..., :index],
                    subtract_means(returns, play_masks[0])[..., index : index + 1],
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
            valid_advantages = advantages[play_masks[0]]
            # A critic's values would only add a constant to the advantages, but change their standard deviation.
            advantages = (advantages - valid_advantages.mean()) / valid_advantages.std(correction=0)
        objective = ((logp * advantages + config.entropy_coeff * uniform_kl) * play_masks[0]).sum() / len(returns)
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
    derivatives = []
    for giver in range(n):
        valid_advantages = [j for j in range(n) if j != giver or weight_of_self]
        loss = -sum(
            (log_probabilities(j, learned_params[j], after) * gains[..., giver] * play_masks[1]).sum() / len(gains)
            for j in valid_advantages
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
def test_gradient_matches_autograd_through_the_policy_step(build, agents, player, clip, charged, baseline, normalize):
    """Covers two and three givers, returns and critics, early ends of episodes, clipping, and observed totals."""
    incentives = {"charge_giver": charged, "observe_given": True, "cost_coeff": 0.0}
    learning = {"grad_clip": clip, "critic_epochs": 3, "use_baseline": baseline, "normalize_advantages": normalize}
    algo = build(lio_config(player, agents, incentives=incentives, **learning))
    algo.train()
    learner, rule = algo.learner_group._learner, incentive_rule(algo)
    tau, gradients_by_optimizer, all_gains = algo.sample(), {}, []
    before = [
        {name: param.detach().clone() for name, param in learner.module[f"player_{i}"].unwrapped().named_parameters()}
        for i in range(agents)
    ]
    run_phase(algo, LEARN, tau)
    algo.sync()
    after = algo.sample()
    assert not bool(tau.in_first_episode().all())  # some episodes end early
    original_gains = rule._gains

    def record_gains(batch):
        all_gains.append(original_gains(batch))
        return all_gains[-1]

    rule._gains, rule.step = record_gains, gradients_by_optimizer.setdefault
    run_phase(algo, LOOK_AHEAD, after)
    (gains,) = all_gains
    expected = autograd_through_policy_step(algo, before, tau, after, gains, float(charged))
    scale = max(float(gradient.abs().max()) for gradient in expected)
    assert scale > 1e-6
    for gradient, reference in zip(gradients_by_optimizer["reward"], expected, strict=True):
        torch.testing.assert_close(gradient, reference, atol=1e-3 * scale, rtol=1e-3)


def in_double(batch):
    """Returns a rollout with floating-point columns in double precision."""

    def convert(column):
        return column.astype(np.float64) if np.issubdtype(column.dtype, np.floating) else column

    return RolloutBatch.from_state(tree.map_structure(convert, batch.get_state()))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"grad_clip": 0.05},
        {"normalize_advantages": True},
        {"grad_clip": 0.05, "normalize_advantages": True},
        {"reward_scale": 0.05},
        {"scale_advantages": True},
        {"scale_advantages": True, "reward_scale": 0.5, "normalize_advantages": True},
    ],
)
def test_gradient_matches_finite_differences_through_a_policy_update(build, settings):
    """Differentiates the loss of giver 0 after the policies' update along a direction of its incentive function."""
    algo = build(lio_config(games=32, incentives={"cost_coeff": 0.0, "cost_lr": None}, gamma=0.9, **settings))
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
    play_masks, gains = after.in_first_episode(), torch.zeros_like(after.rewards[..., 0])
    running = torch.zeros_like(gains[:, 0])
    for t in reversed(range(gains.shape[1])):
        running = after.rewards[:, t, 0] * play_masks[:, t] + 0.9 * running
        gains[:, t] = running
    gains = (gains - (gains * play_masks).sum(0) / play_masks.sum(0).clamp(min=1)) * play_masks

    def loss(size):
        for module_id, module in modules.items():
            module.load_state_dict(start[module_id])
        with torch.no_grad():
            for parameter, component in zip(functions.parameters(), direction, strict=True):
                parameter += size * component
        algo.learn(tau, phase=LEARN, report=False)
        rows = {name: column.flatten(0, 2) for name, column in after.modules["player_1"].steps.items()}
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
    algo.learn(after, phase=LOOK_AHEAD)
    along = sum(float((gradient * component).sum()) for gradient, component in zip(gradients, direction, strict=True))
    assert abs(difference) > 1e-5
    assert along == pytest.approx(difference, rel=1e-3)
