"""Scripted strategies as RLModules without parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, get_type_hints

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor

from rllib_reciprocator.engine.player_sources import PlayerSource
from rllib_reciprocator.models.action_masks import MASK_START, masked
from rllib_reciprocator.models.distributions import distribution_for
from rllib_reciprocator.utils.distributed import ParameterlessModule
from rllib_reciprocator.utils.import_paths import import_attribute
from social_dilemmas.registry import did_you_mean

if TYPE_CHECKING:
    from rllib_reciprocator.engine.config import BatchedConfig
    from rllib_reciprocator.engine.player_mapping import Player
    from social_dilemmas.batched_game import BatchedGame

SCRIPTED = "scripted"
COOPERATE, DEFECT = 0, 1
PROVOKED = "provoked"
# Logit of an action that is taken with probability 1. It is large enough for a sigmoid of exactly 1 in float32, and
# finite, so that the entropy is finite too.
CERTAIN = 1e4


class View(NamedTuple):
    """Inputs of a memory-1 strategy; rows are environments, or environments and steps.

    Attributes:
        first: ``[rows]`` bool, True in the first step of an episode.
        own: ``[rows]`` bool, True if the player itself defected in the last step.
        others: ``[rows, N - 1]`` bool, True for the other players that defected in the last step.
    """

    first: Tensor
    own: Tensor
    others: Tensor


def _always_cooperate(view: View) -> Tensor:
    return torch.zeros_like(view.own)


def _always_defect(view: View) -> Tensor:
    return torch.ones_like(view.own)


def _tit_for_tat(view: View) -> Tensor:
    return view.others.float().mean(-1) > 0.5


def _win_stay_lose_shift(view: View) -> Tensor:
    return ~view.first & (view.others != view.own[..., None]).any(-1)


# Functions from the last joint action to True for defection. Against one other player they are the strategies of the
# literature (Axelrod 1984; Nowak and Sigmund 1993). Against several, tit-for-tat defects if more than half of them
# defected, and win-stay-lose-shift cooperates if all players took the same action.
MEMORY_1: dict[str, Callable[[View], Tensor]] = {
    "always_cooperate": _always_cooperate,
    "always_defect": _always_defect,
    "tit_for_tat": _tit_for_tat,
    "win_stay_lose_shift": _win_stay_lose_shift,
}
GRIM_TRIGGER, RANDOM = "grim_trigger", "random"
STRATEGIES = (*MEMORY_1, GRIM_TRIGGER, RANDOM)


def memory_1_strategy(name: str) -> Callable[[View], Tensor] | None:
    """Returns the function of a memory-1 strategy; None for strategies with another memory.

    Args:
        name: Name of a strategy, or ``module:function`` of a function from :class:`View` to ``[rows]`` bool, True for
            defection.

    Raises:
        ValueError: If the function cannot be imported, or its argument is not annotated as :class:`View`.
    """
    if ":" not in name:
        return MEMORY_1.get(name)
    try:
        function = import_attribute(name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{SCRIPTED}/{name}: cannot be imported ({error})") from None
    try:
        types = get_type_hints(function) if inspect.isfunction(function) else {}
    except NameError:  # an annotation that cannot be resolved
        types = {}
    # The annotation keeps checkpoints from calling arbitrary functions of modules that are imported already.
    if View not in types.values():
        raise ValueError(f"{SCRIPTED}/{name}: is not a function with an argument that is annotated as View")
    return function


def can_cooperate(action_names: Sequence[str] | None) -> bool:
    """Returns True if the actions are to cooperate and to defect, or if they are not known."""
    return action_names is None or tuple(action_names) == ("cooperate", "defect")


class ScriptedModule(ParameterlessModule, TorchRLModule):
    """Module that plays the strategy ``model_config["strategy"]``.

    Also returns ``action_dist_inputs``, because influence is an expectation over the action distribution.

    All strategies but ``random`` read the observation of a matrix game: the last actions, the player's own first, and
    ``-1`` before the first step. ``grim_trigger`` cooperates until another player defects, then defects for the rest
    of the episode; its recurrent state is the flag that it has been provoked.
    """

    def setup(self) -> None:
        """Reads the strategy and chooses the action distribution."""
        self.strategy = self.model_config["strategy"]
        self._defects = memory_1_strategy(self.strategy)
        self.action_dist_cls = distribution_for(self.action_space)

    def get_initial_state(self) -> dict[str, Tensor]:
        """Returns the unprovoked state of grim trigger; the other strategies have no state."""
        return {PROVOKED: torch.zeros((), dtype=torch.bool)} if self.strategy == GRIM_TRIGGER else {}

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        obs = batch[Columns.OBS]
        if self.strategy == RANDOM:
            width = self.action_dist_cls.required_input_dim(self.action_space)
            logits = torch.zeros(*obs.shape[:1], width, device=obs.device)
            start = self.model_config.get(MASK_START)
            return {Columns.ACTION_DIST_INPUTS: logits if start is None else masked(logits, obs, start, width)}
        view = View(first=obs[..., 0] < 0, own=obs[..., 0] > 0.5, others=obs[..., 1:] > 0.5)
        if self.strategy == GRIM_TRIGGER:
            return self._grim(view.others.any(-1), batch[Columns.STATE_IN][PROVOKED])
        assert self._defects is not None
        return _with_certainty(self._defects(view))

    @staticmethod
    def _grim(provoked: Tensor, before: Tensor) -> dict[str, Any]:
        """Returns the outputs for provocations ``[rows]``, or ``[rows, time]`` as RLlib batches stateful modules."""
        if provoked.dim() == 1:
            provoked = provoked | before
            return {**_with_certainty(provoked), Columns.STATE_OUT: {PROVOKED: provoked}}
        provoked = (provoked | before[:, None]).cummax(1).values
        return {**_with_certainty(provoked), Columns.STATE_OUT: {PROVOKED: provoked[:, -1]}}


def _with_certainty(defects: Tensor) -> dict[str, Tensor]:
    """Returns actions and the inputs of their Bernoulli distribution; ``defects`` is ``[..]`` bool."""
    logits = torch.where(defects, CERTAIN, -CERTAIN)[..., None]
    return {Columns.ACTIONS: defects.long(), Columns.ACTION_DIST_INPUTS: logits}


class ScriptedPlayers(PlayerSource):
    """Players ``scripted/STRATEGY``."""

    kind: ClassVar[str] = SCRIPTED

    def resolve(
        self, source: str, agent: str, action_names: Sequence[str] | None, online_learners: Sequence[str]
    ) -> str:
        """Returns the name or path of the strategy; those other than ``random`` need the actions of a matrix game."""
        if ":" in source:
            memory_1_strategy(source)
        elif source not in STRATEGIES:
            raise ValueError(f"there is no strategy {source!r}{did_you_mean(source, STRATEGIES)}")
        if source != RANDOM and not can_cooperate(action_names):
            raise ValueError(f"scripted/{source} needs the actions cooperate and defect; use scripted/random here")
        return source

    def names(self, online_learners: Sequence[str]) -> Sequence[str]:
        """Returns the names of the strategies."""
        return (*STRATEGIES, "MODULE:FUNCTION")

    def module_spec(self, config: BatchedConfig, game: BatchedGame, player: Player) -> RLModuleSpec:
        """Builds the spec of a strategy's module."""
        return RLModuleSpec(
            ScriptedModule,
            model_config={"strategy": player.source},
            observation_space=game.observation_space,
            action_space=game.action_space,
        )


SOURCE = ScriptedPlayers()
