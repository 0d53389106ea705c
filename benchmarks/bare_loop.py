"""Lower bounds for training times: two Reciprocators in bare PyTorch loops.

They do the same work as an iteration of the algorithm, without RLlib, checkpoints, settings, and metrics other than the
cooperation rate.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rllib_reciprocator.engine.learner import ITERATION
from rllib_reciprocator.engine.update_rule import LEARN, UpdateInfo


class BareLoop:
    """Training loop of two Reciprocators in the iterated prisoner's dilemma.

    An iteration samples a rollout, computes influence and reciprocal rewards, and runs full-batch PPO epochs for both
    players.
    """

    def __init__(
        self, width: int, clip: float, normalize_returns: bool, games: int = 2048, steps: int = 32, epochs: int = 10
    ) -> None:
        """Builds the networks and tables.

        Args:
            width: Width of the hidden layers.
            clip: PPO clip parameter.
            normalize_returns: If True, returns are normalized; if False, advantages.
            games: Number of parallel environments B.
            steps: Steps per episode T.
            epochs: PPO epochs per iteration.
        """
        self.games, self.steps, self.epochs = games, steps, epochs
        self.clip, self.normalize_returns = clip, normalize_returns
        self.gamma, self.weight, self.entropy = 0.96, 5.0, 0.02

        def network() -> nn.Sequential:
            return nn.Sequential(
                nn.Linear(2, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)
            )

        self.actors, self.critics = [network(), network()], [network(), network()]
        self.optimizers = [
            torch.optim.Adam([*actor.parameters(), *critic.parameters()], lr=5e-3)
            for actor, critic in zip(self.actors, self.critics, strict=True)
        ]
        self.payoffs = torch.tensor([[-1.0, -1.0], [-3.0, 0.0], [0.0, -3.0], [-2.0, -2.0]])
        joint = [(0, 0), (0, 1), (1, 0), (1, 1)]
        # State 0 is the start of an episode, state 1 + k the joint action k; both agents see their own action first.
        observations = [[(-1.0, 0.0)] * 2] + [[(a, b), (b, a)] for a, b in joint]
        self.observations = torch.tensor(observations, dtype=torch.float32)
        # Probability of defection by state and agent, estimated in every iteration for the next one.
        self.defects = torch.full((5, 2), 0.5)

    def _influence_table(self) -> Tensor:
        payoffs = self.payoffs.view(1, 2, 2, 2)
        action_probs = torch.stack([1 - self.defects, self.defects], -1)
        first = payoffs - (action_probs[:, 0, :, None, None] * payoffs).sum(1, keepdim=True)
        second = payoffs - (action_probs[:, 1, None, :, None] * payoffs).sum(2, keepdim=True)
        return torch.stack([first, second], -2).reshape(20, 2, 2)

    def iterate(self) -> float:
        """Runs one training iteration.

        Returns:
            The cooperation rate of the rollout.
        """
        table = self._influence_table()
        state = torch.zeros(self.games, dtype=torch.int64)
        balance = torch.zeros(self.games, 2, 2)
        rows: dict[str, list[Tensor]] = {name: [] for name in ("obs", "actions", "logp", "reward", "state")}
        with torch.no_grad():
            for _ in range(self.steps):
                obs = self.observations[state]
                logits = torch.stack([actor(obs[:, i]) for i, actor in enumerate(self.actors)], 1).squeeze(-1)
                actions = (torch.rand_like(logits) < logits.sigmoid()).long()
                joint = actions[:, 0] * 2 + actions[:, 1]
                influence = table[state * 4 + joint]
                reciprocal = (balance * influence.transpose(1, 2)).sum(1) - (
                    balance * influence.transpose(1, 2)
                ).diagonal(dim1=1, dim2=2)
                rows["obs"].append(obs)
                rows["actions"].append(actions)
                rows["logp"].append(functional.logsigmoid(torch.where(actions > 0, logits, -logits)))
                rows["reward"].append(self.payoffs[joint] + self.weight * reciprocal)
                rows["state"].append(state)
                balance = influence
                state = joint + 1
            obs, actions, logp, rewards, states = (
                torch.stack(rows[name], 1) for name in ("obs", "actions", "logp", "reward", "state")
            )
            counts = torch.zeros(5, 2).index_add_(0, states.flatten(), actions.flatten(0, 1).float())
            visits = torch.bincount(states.flatten(), minlength=5)[:, None]
            self.defects = (counts + 1) / (visits + 2)
            returns = torch.empty_like(rewards)
            future_return = torch.zeros(self.games, 2)
            for t in reversed(range(self.steps)):
                future_return = rewards[:, t] + self.gamma * future_return
                returns[:, t] = future_return
        for i, (actor, critic, optimizer) in enumerate(zip(self.actors, self.critics, self.optimizers, strict=True)):
            agent_obs, agent_actions = obs[:, :, i].flatten(0, 1).contiguous(), actions[:, :, i].flatten()
            old_logp, targets = logp[:, :, i].flatten(), returns[:, :, i].flatten()
            with torch.no_grad():
                if self.normalize_returns:
                    targets = (targets - targets.mean()) / targets.std()
                advantages = targets - critic(agent_obs).squeeze(-1)
                if not self.normalize_returns:
                    advantages = (advantages - advantages.mean()) / advantages.std()
            for _ in range(self.epochs):
                logits = actor(agent_obs).squeeze(-1)
                ratio = (functional.logsigmoid(torch.where(agent_actions > 0, logits, -logits)) - old_logp).exp()
                surrogate = torch.min(ratio * advantages, ratio.clamp(1 - self.clip, 1 + self.clip) * advantages)
                entropy = functional.softplus(logits) - logits * logits.sigmoid()
                value_loss = (critic(agent_obs).squeeze(-1) - targets).square()
                loss = (-surrogate + 0.5 * value_loss - self.entropy * entropy).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return float((actions == 0).float().mean())


class BareEpochs:
    """Plain PPO loop over one batch of an algorithm, with the algorithm's networks.

    The difference to an iteration of the algorithm is everything else: sampling, influence, the estimator and RLlib.
    """

    def __init__(self, algorithm: Any) -> None:
        """Copies the networks of an algorithm and samples one batch.

        Args:
            algorithm: A built Reciprocator with one learner.
        """
        self.config = algorithm.config
        (sample,) = algorithm.env_runner.sample()
        learner = algorithm.learner_group._learner
        learner.before_gradient_based_update(timesteps={ITERATION: algorithm.iteration})
        info = UpdateInfo(LEARN, algorithm.iteration, timestep=0, generators=learner._generators)
        learner.prepare(sample.to(learner.device), info)
        self.players = []
        for module_id, rows in info.rows.items():
            module = deepcopy(learner.unwrapped(module_id))
            self.players.append((module, torch.optim.Adam(module.parameters(), lr=self.config.lr), rows))

    def iterate(self) -> None:
        """Runs the full-batch PPO epochs of all players."""
        clip = self.config.clip_param
        for _ in range(self.config.num_epochs):
            for module, optimizer, batch in self.players:
                out = module._forward_train(batch)
                policy = module.action_dist_cls.from_logits(out["action_dist_inputs"])
                ratio = (policy.logp(batch["actions"]) - batch["action_logp"]).exp()
                advantages = batch["advantages"]
                surrogate = torch.min(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
                value_loss = (module.compute_values(batch) - batch["value_targets"]).square()
                entropy = self.config.entropy_coeff * policy.entropy()
                loss = (self.config.vf_loss_coeff * value_loss - surrogate - entropy).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
