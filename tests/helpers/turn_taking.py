"""PettingZoo environment whose agents take turns, terminate early and enter late."""

import gymnasium
import numpy as np
from pettingzoo import AECEnv


class Turns(AECEnv):
    """Environment in which ``short`` terminates in round ``dies`` and ``last`` has its first turn in round ``enters``.

    Action 1 pays 1 to every other agent that is alive. The observation is the index of the agent and the round.
    """

    def __init__(self, rounds=4, dies=2, enters=1):
        super().__init__()
        self.metadata = {"name": "turns_v0", "is_parallelizable": False}
        self.possible_agents = ["first", "short", "last"]
        self.rounds, self.dies, self.enters = rounds, dies, enters
        self.render_mode = None

    def observation_space(self, agent):
        return gymnasium.spaces.Box(0.0, 100.0, (2,), np.float32)

    def action_space(self, agent):
        return gymnasium.spaces.Discrete(2)

    def observe(self, agent):
        return np.array([self.possible_agents.index(agent), self.round], np.float32)

    def reset(self, seed=None, options=None):
        self.agents = self.possible_agents[:]
        self.round = 0
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos = {agent: {} for agent in self.agents}
        self._order = self._turn_order()
        self.agent_selection = self._order.pop(0)

    def _turn_order(self):
        living = [agent for agent in self.agents if not self.terminations[agent]]
        return [agent for agent in living if agent != "last" or self.round >= self.enters]

    def step(self, action):
        agent = self.agent_selection
        if self.terminations[agent] or self.truncations[agent]:
            self._was_dead_step(action)
            return
        self._cumulative_rewards[agent] = 0.0
        living = [name for name in self.agents if not self.terminations[name]]
        self.rewards = {name: float(action) * (name in living and name != agent) for name in self.agents}
        if not self._order:
            self.round += 1
            if self.round == self.dies and "short" in self.agents:
                self.terminations["short"] = True
            if self.round == self.rounds:
                self.truncations = {name: not self.terminations[name] for name in self.agents}
            self._order = self._turn_order()
        self.agent_selection = self._order.pop(0) if self._order else self.agents[0]
        self._accumulate_rewards()
        self._deads_step_first()


env = Turns
