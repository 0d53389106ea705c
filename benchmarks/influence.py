"""Accuracy of learned influence estimators in Coins, by the number of environment steps in their training data.

``python -m benchmarks.influence``. The exact influence of a step is computed by enumerating the actions of every agent.
"""

from __future__ import annotations

import argparse
import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor

import social_dilemmas
from rllib_reciprocator.engine.advantages import returns_after
from rllib_reciprocator.intrinsic.reciprocity import REWARDS, balance, reciprocal_reward
from rllib_reciprocator.intrinsic.reciprocity.estimators import (
    CounterfactualInfluence,
    OwnViewInfluence,
    RewardModelInfluence,
    Transition,
)
from rllib_reciprocator.intrinsic.reciprocity.estimators.regression import RegressionInfluence
from rllib_reciprocator.intrinsic.reciprocity.estimators.view import OBSERVATIONS, OWN, STATE, view, view_space

ESTIMATORS: dict[str, tuple[type[RegressionInfluence], dict[str, Any]]] = {
    "reward": (RewardModelInfluence, {}),
    "reward, modelled": (RewardModelInfluence, {"counterfactual": "modelled"}),
    "reward, uniform": (RewardModelInfluence, {"counterfactual": "uniform"}),
    "reward, own": (OwnViewInfluence, {"counterfactual": "modelled", "sees": OWN}),
    "reward, observations": (RewardModelInfluence, {"sees": OBSERVATIONS}),
    "reward, shared": (RewardModelInfluence, {"sees": OBSERVATIONS, "shared": True}),
    "counterfactual": (CounterfactualInfluence, {}),
}
GAMMA = 0.99


class RandomEpisodes(NamedTuple):
    """Episodes of random policies.

    Attributes:
        steps: Transitions ``[B, T, ..]``, with the inputs of the estimator.
        behavior: Action probabilities of the behavior policies, ``[B, T, N, A]``.
        exact: Exact influence of j on i, ``[B, T, N, N]`` by ``[j, i]``.
        ended: Mask of the last steps of the episodes, ``[B, T]`` bool.
    """

    steps: Transition
    behavior: Tensor
    exact: Tensor
    ended: Tensor


def played(games: int, *, sees: str = STATE, seed: int = 0, num_agents: int = 2, num_steps: int = 32) -> RandomEpisodes:
    """Samples one episode per environment with random linear softmax policies of the observations.

    Args:
        games: Number of parallel environments B.
        sees: Inputs of the estimator, as ``estimator_sees``.
        seed: Seed of environments and actions.
        num_agents: Number of agents N.
        num_steps: Steps per episode T.

    Returns:
        The episodes, with the exact influence of every step.
    """
    settings: dict[str, Any] = {"num_agents": num_agents, "num_steps": num_steps}
    game, simulator = (social_dilemmas.make("coins_v0", games, **settings) for _ in range(2))
    generator = torch.Generator().manual_seed(seed)
    obs = game.reset(seed=seed)
    # The policies do not depend on the seed, so that test episodes have the same distribution as training episodes.
    policies = torch.randn(num_agents, obs[0, 0].numel(), 5, generator=torch.Generator().manual_seed(99))
    columns: dict[str, list[Tensor]] = {}
    for _ in range(num_steps):
        behavior = torch.einsum("bni,nia->bna", obs.flatten(2), policies).softmax(-1)
        actions = torch.multinomial(behavior.flatten(0, 1), 1, generator=generator).view(games, num_agents)
        inputs, state, time_left = view(game, obs, sees, game.state()), game.get_state(), game.time_left()
        step = game.step(actions)
        # Influence of j: the rewards minus their expectation over j's actions, all other actions fixed.
        exact = step.rewards[:, None].repeat(1, num_agents, 1)
        for j in range(num_agents):
            for action in range(5):
                simulator.set_state(state)
                joint = actions.clone()
                joint[:, j] = action
                exact[:, j] -= behavior[:, j, action, None] * simulator.step(joint).rewards
        for name, value in (
            ("state", inputs),
            ("actions", actions),
            ("rewards", step.rewards),
            ("time_left", time_left),
            ("behavior", behavior),
            ("exact", exact),
            ("ended", step.truncated),
        ):
            columns.setdefault(name, []).append(value)
        obs = step.obs
    joint_columns = {name: torch.stack(values, 1) for name, values in columns.items()}
    behavior, exact, is_last = (joint_columns.pop(name) for name in ("behavior", "exact", "ended"))
    steps = Transition(**joint_columns, future_returns=returns_after(joint_columns["rewards"], is_last, GAMMA))
    return RandomEpisodes(steps, behavior, exact, is_last)


def estimator(kind: type[RegressionInfluence], *, num_agents: int = 2, seed: int = 0, **overrides: Any) -> Any:
    """Builds an estimator for Coins.

    Args:
        kind: Class of the estimator.
        num_agents: Number of agents.
        seed: Seed of its initial weights.
        **overrides: Settings that replace the defaults here.

    Returns:
        The untrained estimator.
    """
    torch.manual_seed(seed)
    game = social_dilemmas.make("coins_v0", num_agents=num_agents)
    settings = {
        "counterfactual": "policy",
        "hiddens": [64, 64],
        "epochs": 1,
        "minibatch_size": 512,
        "future_weight": 0.0,
        "gamma": GAMMA,
        "tau": 1.0,
        "sees": STATE,
        **overrides,
    }
    space = view_space(game, settings.pop("sees"))
    settings["num_agents"] = num_agents
    return kind(observation_space=space, action_space=game.action_space, model_config=settings)


def fit(model: RegressionInfluence, data: RandomEpisodes, updates: int = 12, lr: float = 0.005) -> None:
    """Trains an estimator on episodes as its learner does, with ``updates`` times all of its epochs."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    generator = torch.Generator().manual_seed(0)
    replay = model.replay_rows(data.steps, data.ended)
    for _ in range(updates):
        for batch in model.minibatches(replay, generator):
            loss = torch.stack(list(model.losses(batch, model.forward_train(batch)).values())).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.after_fit()


def correlation(estimate: Tensor, exact: Tensor) -> float:
    """Returns the correlation of estimated and exact influence, over pairs of different agents."""
    pairs = ~torch.eye(exact.shape[-1], dtype=torch.bool)
    return float(torch.corrcoef(torch.stack([estimate[..., pairs].flatten(), exact[..., pairs].flatten()]))[0, 1])


def error(estimate: Tensor, exact: Tensor) -> float:
    """Returns the RMS error relative to the RMS of the exact influence, over pairs of different agents."""
    pairs = ~torch.eye(exact.shape[-1], dtype=torch.bool)
    return float((estimate - exact)[..., pairs].square().mean().sqrt() / exact[..., pairs].square().mean().sqrt())


def mean_reciprocal(received_influence: Tensor, own_influence: Tensor) -> float:
    """Returns the mean reciprocal reward (petty_payoff, decay 0.99) for this influence.

    Args:
        received_influence: Influence as estimated by the influenced agents, ``[B, T, N, N]``.
        own_influence: Influence as estimated by the influencers, of the same shape.
    """
    rule = REWARDS["petty_payoff"]
    starts = torch.zeros(received_influence.shape[1], received_influence.shape[0], dtype=torch.bool)
    starts[0] = True
    balances = balance(received_influence.transpose(0, 1), rule, GAMMA, starts)
    return float(reciprocal_reward(balances, own_influence.transpose(0, 1), rule).mean())


def main() -> None:
    """Prints a table of the accuracy of all estimators."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--games", type=int, nargs="+", default=[256, 2048, 8192], help="numbers of training episodes (32 steps)"
    )
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    exact = played(512, seed=1000)
    print(f"exact: mean reciprocal reward {mean_reciprocal(exact.exact, exact.exact):+.4f}")
    print(f"{'estimator':20} {'steps':>8}  correlation  error  mean reciprocal reward")
    for name, (kind, settings) in ESTIMATORS.items():
        test_data = played(512, seed=1000, sees=settings.get("sees", STATE))
        for games in options.games:
            scores = []
            for seed in range(options.seeds):
                model = estimator(kind, seed=seed, **settings)
                fit(model, played(games, seed=seed, sees=settings.get("sees", STATE)), updates=20)
                influence = model.influence(test_data.steps, test_data.behavior)
                # Influence as estimated by the influenced agents, and as estimated by the influencers.
                estimates = torch.stack(list(influence)).flatten(0, 1)
                targets = test_data.exact.repeat(2, 1, 1, 1)
                scores.append((correlation(estimates, targets), error(estimates, targets), mean_reciprocal(*influence)))
            means = torch.tensor(scores).mean(0).tolist()
            print(f"{name:20} {games * 32:8,}  {means[0]:11.2f}  {means[1]:5.2f}  {means[2]:+.4f}", flush=True)


if __name__ == "__main__":
    main()
