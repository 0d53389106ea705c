"""Algorithm mixin that stores the states of update rules of all learners in checkpoints."""

from __future__ import annotations

from typing import Any, Protocol

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core.learner.learner import Learner
from ray.rllib.utils.annotations import override

from rllib_reciprocator.utils.distributed import rank_of_learner


class StatefulRule(Protocol):
    """Update rule, or part of a learner, that has a state on each learner, e.g. a replay buffer."""

    state_key: str

    def get_state(self) -> Any:
        """Returns the state on this learner."""

    def set_state(self, state: Any) -> None:
        """Restores the state on this learner."""

    def reshard(self, states: list[Any], count: int) -> list[Any]:
        """Redistributes the states of all learners to another number of learners."""


class KeepsRuleStates(Algorithm):
    """Algorithm mixin whose state contains the states of update rules, one per learner.

    RLlib saves the state of one learner for all learners, but rules such as replay buffers differ between learners. The
    learners list their rules in an attribute ``rules``.
    """

    @override(Algorithm)
    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """Returns RLlib's state and the states of update rules, one per learner."""
        state = super().get_state(components, not_components=not_components, **kwargs)
        if self.learner_group is not None:
            by_rank = dict(result.get() for result in self.learner_group.foreach_learner(_get_rule_states))
            for key in by_rank[0]:
                states = [by_rank[rank][key] for rank in sorted(by_rank)]
                if any(states) and self._check_component(key, components, not_components):
                    state[key] = states
        return state

    @override(Algorithm)
    def set_state(self, state: dict[str, Any]) -> None:
        """Restores the state that :meth:`get_state` returned, with any number of learners."""
        super().set_state(state)
        if self.learner_group is not None:
            count = max(1, self.config.num_learners)
            for result in self.learner_group.foreach_learner(_set_rule_states, state=_lists(state), count=count):
                result.get()


def _lists(state: dict[str, Any]) -> dict[str, list[Any]]:
    """Returns the entries of an algorithm's state that are lists, as the states of rules are."""
    return {key: value for key, value in state.items() if isinstance(value, list)}


def _stateful_rules(learner: Learner) -> list[StatefulRule]:
    return [rule for rule in getattr(learner, "rules", ()) if rule.state_key]


def _get_rule_states(learner: Learner) -> tuple[int, dict[str, Any]]:
    return rank_of_learner(), {rule.state_key: rule.get_state() for rule in _stateful_rules(learner)}


def _set_rule_states(learner: Learner, state: dict[str, list[Any]], count: int) -> None:
    for rule in _stateful_rules(learner):
        if rule.state_key in state:
            rule.set_state(rule.reshard(state[rule.state_key], count)[rank_of_learner()])
