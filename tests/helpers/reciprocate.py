"""Configurations with reciprocity on RLlib's env runners, in an environment whose agents enter and leave."""

from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner

from rllib_reciprocator import reciprocate
from tests.helpers.multi_agent_envs import own_policy

AGENTS = ("stays", "early", "late")


def plain(kind=PPOConfig, env="come_and_go", agents=AGENTS, fragment=5, envs=2, env_config=None):
    config = (
        kind()
        .environment(env, env_config=env_config or {})
        .multi_agent(policies=list(agents), policy_mapping_fn=own_policy)
        .env_runners(num_env_runners=0, num_envs_per_env_runner=envs, rollout_fragment_length=fragment)
        .training(train_batch_size_per_learner=fragment * envs * 4)
        .rl_module(model_config={"fcnet_hiddens": [8]})
        .debugging(seed=1)
    )
    return config.training(minibatch_size=10, num_epochs=2) if kind is PPOConfig else config


def config(players=None, *, horizon=7, **settings):
    plain_settings = {
        name: settings.pop(name) for name in ("kind", "env", "agents", "fragment", "env_config") if name in settings
    }
    defaults = {"weight": 0.5, "balance_decay": 0.9, "estimator_minibatch_size": 16}
    return reciprocate(plain(**plain_settings), players, horizon=horizon, **{**defaults, **settings})


def runner(a_config):
    a_config.validate()
    return MultiAgentEnvRunner(config=a_config, worker_index=0)
