"""Names of classes and functions that pickles in checkpoints may use.

The tables map modules to names in them, separated by spaces. Restricted unpicklers look up no other names in the
constructor arguments of algorithms and modules; weights need none of them.
"""

from __future__ import annotations

from collections.abc import Mapping

from rllib_reciprocator.registry import BATCHED_ALGORITHMS, PLAYER_KINDS

# First, classes that are called: containers, paths and similar.
_CALLED = {
    "builtins": "bytearray complex range set slice",
    "collections": "Counter deque",
    "pathlib": "Path PosixPath PurePath PurePosixPath",
    "pathlib._local": "Path PosixPath PurePath PurePosixPath",
    "ray.rllib.algorithms.algorithm_config": "TorchCompileWhatToCompile",
    "torch": "Size device",
}
# Second, classes whose objects are created without a constructor call and get a state: settings, specs and spaces.
_BUILT = {
    "gymnasium.spaces.box": "Box",
    "gymnasium.spaces.dict": "Dict",
    "gymnasium.spaces.discrete": "Discrete",
    "gymnasium.spaces.graph": "Graph",
    "gymnasium.spaces.multi_binary": "MultiBinary",
    "gymnasium.spaces.multi_discrete": "MultiDiscrete",
    "gymnasium.spaces.oneof": "OneOf",
    "gymnasium.spaces.sequence": "Sequence",
    "gymnasium.spaces.text": "Text",
    "gymnasium.spaces.tuple": "Tuple",
    "ray.rllib.core.rl_module.default_model_config": "DefaultModelConfig",
    "ray.rllib.core.rl_module.multi_rl_module": "MultiRLModuleSpec",
    "ray.rllib.core.rl_module.rl_module": "RLModuleSpec",
    "rllib_reciprocator.algorithms.coala.settings": "COALASettings",
    "rllib_reciprocator.engine.meta_episodes": "MetaSettings",
    "rllib_reciprocator.rllib_episodes.composition": "Composition EpisodeSetup",
    "rllib_reciprocator.rllib_episodes.influence": "EpisodeReciprocity",
    "rllib_reciprocator.rllib_episodes.joint_steps": "JointSpaces",
    "rllib_reciprocator.rllib_episodes.env_spec": "EnvSpec",
    "rllib_reciprocator.intrinsic.incentives.settings": "IncentiveSettings",
    "rllib_reciprocator.intrinsic.inequity_aversion": "InequityAversionSettings",
    "rllib_reciprocator.intrinsic.reciprocity.settings": "ReciprocitySettings WeightSchedule",
    "rllib_reciprocator.intrinsic.shared_reward": "SharedRewardSettings",
    "rllib_reciprocator.intrinsic.social_value_orientation": "SocialValueOrientationSettings",
    "rllib_reciprocator.models.settings": "ModelSettings",
    "rllib_reciprocator.engine.online_learner_settings": "LearningSettings",
    "rllib_reciprocator.engine.player_mapping": "Player",
}
# Third, names that are only referred to.
_NAMED = {
    "builtins": "bool bytes dict float frozenset int list object str tuple",
    "numpy": "bool_ float32 float64 int32 int64 ndarray uint8",
    "numpy.random._pcg64": "PCG64",
    "numpy.random.bit_generator": "SeedSequence",
    "ray.rllib.algorithms.algorithm_config": "AlgorithmConfig.DEFAULT_POLICY_MAPPING_FN",
    "ray.rllib.algorithms.appo.appo": "APPO APPOConfig",
    "ray.rllib.algorithms.appo.torch.appo_torch_learner": "APPOTorchLearner",
    "ray.rllib.algorithms.appo.torch.default_appo_torch_rl_module": "DefaultAPPOTorchRLModule",
    "ray.rllib.algorithms.bc.bc": "BC BCConfig",
    "ray.rllib.algorithms.bc.bc_catalog": "BCCatalog",
    "ray.rllib.algorithms.bc.torch.default_bc_torch_rl_module": "DefaultBCTorchRLModule",
    "ray.rllib.algorithms.cql.cql": "CQL CQLConfig",
    "ray.rllib.algorithms.cql.torch.cql_torch_learner": "CQLTorchLearner",
    "ray.rllib.algorithms.cql.torch.default_cql_torch_rl_module": "DefaultCQLTorchRLModule",
    "ray.rllib.algorithms.dqn.dqn": "DQN DQNConfig",
    "ray.rllib.algorithms.dqn.dqn_catalog": "DQNCatalog",
    "ray.rllib.algorithms.dqn.torch.default_dqn_torch_rl_module": "DefaultDQNTorchRLModule",
    "ray.rllib.algorithms.dqn.torch.dqn_torch_learner": "DQNTorchLearner",
    "ray.rllib.algorithms.dreamerv3.dreamerv3": "DreamerV3 DreamerV3Config",
    "ray.rllib.algorithms.dreamerv3.dreamerv3_catalog": "DreamerV3Catalog",
    "ray.rllib.algorithms.dreamerv3.torch.dreamerv3_torch_learner": "DreamerV3TorchLearner",
    "ray.rllib.algorithms.dreamerv3.torch.dreamerv3_torch_rl_module": "DreamerV3TorchRLModule",
    "ray.rllib.algorithms.impala.impala": "IMPALA IMPALAConfig",
    "ray.rllib.algorithms.impala.torch.impala_torch_learner": "IMPALATorchLearner",
    "ray.rllib.algorithms.iql.iql": "IQL IQLConfig",
    "ray.rllib.algorithms.iql.torch.default_iql_torch_rl_module": "DefaultIQLTorchRLModule",
    "ray.rllib.algorithms.iql.torch.iql_torch_learner": "IQLTorchLearner",
    "ray.rllib.algorithms.marwil.marwil": "MARWIL MARWILConfig",
    "ray.rllib.algorithms.marwil.torch.marwil_torch_learner": "MARWILTorchLearner",
    "ray.rllib.algorithms.ppo.ppo": "PPO PPOConfig",
    "ray.rllib.algorithms.ppo.ppo_catalog": "PPOCatalog",
    "ray.rllib.algorithms.ppo.torch.default_ppo_torch_rl_module": "DefaultPPOTorchRLModule",
    "ray.rllib.algorithms.ppo.torch.ppo_torch_learner": "PPOTorchLearner",
    "ray.rllib.algorithms.sac.sac": "SAC SACConfig",
    "ray.rllib.algorithms.sac.sac_catalog": "SACCatalog",
    "ray.rllib.algorithms.sac.torch.default_sac_torch_rl_module": "DefaultSACTorchRLModule",
    "ray.rllib.algorithms.sac.torch.sac_torch_learner": "SACTorchLearner",
    "ray.rllib.algorithms.tqc.torch.default_tqc_torch_rl_module": "DefaultTQCTorchRLModule",
    "ray.rllib.algorithms.tqc.torch.tqc_torch_learner": "TQCTorchLearner",
    "ray.rllib.algorithms.tqc.tqc": "TQC TQCConfig",
    "ray.rllib.algorithms.tqc.tqc_catalog": "TQCCatalog",
    "ray.rllib.callbacks.callbacks": "RLlibCallback",
    "ray.rllib.core.models.catalog": "Catalog",
    "ray.rllib.core.rl_module.multi_rl_module": "MultiRLModule",
    "ray.rllib.core.rl_module.torch.torch_rl_module": "TorchDDPRLModule",
    "ray.rllib.env.multi_agent_env_runner": "MultiAgentEnvRunner",
    "ray.rllib.env.single_agent_env_runner": "SingleAgentEnvRunner",
    "ray.rllib.evaluation.collectors.simple_list_collector": "SimpleListCollector",
    "ray.rllib.utils.metrics.stats.ema": "EmaStats",
    "ray.rllib.utils.metrics.stats.item": "ItemStats",
    "ray.rllib.utils.metrics.stats.item_series": "ItemSeriesStats",
    "ray.rllib.utils.metrics.stats.lifetime_sum": "LifetimeSumStats",
    "ray.rllib.utils.metrics.stats.max": "MaxStats",
    "ray.rllib.utils.metrics.stats.mean": "MeanStats",
    "ray.rllib.utils.metrics.stats.min": "MinStats",
    "ray.rllib.utils.metrics.stats.percentiles": "PercentilesStats",
    "ray.rllib.utils.metrics.stats.sum": "SumStats",
    "rllib_reciprocator.engine.config": "BatchedConfig",
    "rllib_reciprocator.engine.env_runner": "BatchedEnvRunner",
    "rllib_reciprocator.engine.learner": "BatchedLearner",
    "rllib_reciprocator.utils.divergence": "DivergenceCallback",
    "rllib_reciprocator.rllib_episodes.algorithms": "APPO APPOConfig IMPALA IMPALAConfig PPO PPOConfig",
    "rllib_reciprocator.rllib_episodes.influence_callback": "EpisodeInfluenceCallback",
    "rllib_reciprocator.rllib_episodes.learners": (
        "PlayersAPPOLearner PlayersIMPALALearner PlayersPPOLearner"
        " RestoringAPPOLearner RestoringIMPALALearner RestoringPPOLearner"
        " ReciprocalAPPOLearner ReciprocalIMPALALearner ReciprocalPPOLearner"
    ),
    "rllib_reciprocator.rllib_episodes.outcomes_callback": "EpisodeOutcomesCallback",
    "rllib_reciprocator.rllib_episodes.rewards_callback": "RewardPerStepCallback",
    "rllib_reciprocator.intrinsic.incentives.incentive_functions": "IncentiveFunctions",
    "rllib_reciprocator.intrinsic.incentives.opponent_models": "OpponentModels",
    "rllib_reciprocator.intrinsic.reciprocity.estimators.counterfactual": "CounterfactualInfluence",
    "rllib_reciprocator.intrinsic.reciprocity.estimators.mixed_reward_model": "MixedRewardModelInfluence",
    "rllib_reciprocator.intrinsic.reciprocity.estimators.own_view": "OwnViewInfluence",
    "rllib_reciprocator.intrinsic.reciprocity.estimators.reward_model": "RewardModelInfluence",
    "rllib_reciprocator.intrinsic.reciprocity.estimators.tabular": "TabularInfluence",
    "rllib_reciprocator.intrinsic.reciprocity.estimators.transition_model": "TransitionInfluence",
    "rllib_reciprocator.intrinsic.reciprocity.estimators.value_model": "ValueInfluence",
    "rllib_reciprocator.models.actor_critic": "ActorCriticModule",
    "rllib_reciprocator.models.default_model": "DefaultModelModule",
    "rllib_reciprocator.models.rllib_form": "AdaptedModule",
    "rllib_reciprocator.models.masked_model": "MaskedAPPOModule MaskedPPOModule",
    "rllib_reciprocator.players.axelrod_strategies": "AxelrodModule",
    "rllib_reciprocator.players.learning": "LearningModule",
    "rllib_reciprocator.players.scripted": "ScriptedModule",
}
# Functions of this package that settings use in functools.partial.
APPLIED = frozenset(
    {
        ("rllib_reciprocator.engine.config", "_module_of"),
        ("rllib_reciprocator.rllib_episodes.composition", "learner_pieces"),
        ("rllib_reciprocator.rllib_episodes.composition", "runner_pieces"),
        ("rllib_reciprocator.rllib_episodes.modules", "_module_of"),
        ("rllib_reciprocator.rllib_episodes.observations", "preparing"),
        ("rllib_reciprocator.rllib_episodes.observations", "preparing_one"),
        ("rllib_reciprocator.rllib_episodes.reciprocate", "_learner_pieces"),
        ("rllib_reciprocator.rllib_episodes.reciprocate", "_runner_pieces"),
    }
)
# Names that have moved to another module or were renamed since earlier versions. Modules that moved as a whole are in
# moved_modules.py.
MOVED_NAMES = {
    ("rllib_reciprocator.algorithms.coala.coala", "COALASettings"): (
        "rllib_reciprocator.algorithms.coala.settings",
        "COALASettings",
    ),
    **{
        (f"rllib_reciprocator.algorithms.{package}.learner", name): (
            "rllib_reciprocator.engine.learner",
            "BatchedLearner",
        )
        for package, name in {
            "advantage_alignment": "AdvantageAlignmentLearner",
            "coala": "COALALearner",
            "lio": "LIOLearner",
            "shaper": "ShaperLearner",
        }.items()
    },
    ("rllib_reciprocator.rllib_episodes.env_spec", "KnownEnvironment"): (
        "rllib_reciprocator.rllib_episodes.env_spec",
        "EnvSpec",
    ),
    ("rllib_reciprocator.algorithms.reciprocator.reciprocator", "_own_module"): (
        "rllib_reciprocator.engine.config",
        "_module_of",
    ),
    ("rllib_reciprocator.callbacks.social_metrics", "SocialMetricsCallback"): (
        "ray.rllib.callbacks.callbacks",
        "RLlibCallback",
    ),
    **{
        (f"rllib_reciprocator.intrinsic.{package}", name): (f"rllib_reciprocator.intrinsic.{package}.settings", name)
        for package, names in {
            "incentives": "IncentiveSettings",
            "reciprocity": "ReciprocitySettings WeightSchedule",
        }.items()
        for name in names.split()
    },
}


def _names(table: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    return frozenset((module, name) for module, names in table.items() for name in names.split())


def _registered_names() -> frozenset[tuple[str, str]]:
    """Returns the registered algorithms, their configurations, and the module classes of kinds of players."""
    paths = [path for kind in PLAYER_KINDS.values() for path in (kind.get("algorithm"), kind.get("module")) if path]
    paths += [f"{path}Config" for path in BATCHED_ALGORITHMS.values()]
    return frozenset(tuple(path.split(":")) for path in paths)


CALLED, BUILT, NAMED = _names(_CALLED), _names(_BUILT), _names(_NAMED) | _registered_names()
