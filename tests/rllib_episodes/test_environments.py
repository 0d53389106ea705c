import numpy as np
import pytest
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.tune.registry import ENV_CREATOR, _global_registry

from rllib_reciprocator.rllib_episodes import environments


def make_env(name, **config):
    environments.register(name)
    return _global_registry.get(ENV_CREATOR, name)(config)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("coins_v0", {"num_agents": 3}),
        ("pettingzoo/butterfly/knights_archers_zombies_v11", {"max_cycles": 20}),
        ("pettingzoo/butterfly/pistonball_v6", {"n_pistons": 3, "max_cycles": 8}),
        ("pettingzoo/classic/rps_v2", {}),
    ],
)
def test_episodes_follow_the_interface(name, config):
    env = make_env(name, **config)
    assert isinstance(env, MultiAgentEnv)
    for _ in range(2):
        obs, _ = env.reset(seed=1)
        for _ in range(300):
            assert set(obs) <= set(env.possible_agents)
            assert all(env.get_observation_space(agent).contains(value) for agent, value in obs.items())
            actions = {agent: env.get_action_space(agent).sample() for agent in env.env.agents}
            obs, rewards, terminated, truncated, _ = env.step(actions)
            assert all(np.isfinite(reward) for reward in rewards.values())
            if terminated["__all__"] or truncated["__all__"]:
                break
        assert not env.env.agents
        assert terminated["__all__"] or truncated["__all__"]
    env.close()


@pytest.mark.slow
def test_melting_pot_trains():
    pytest.importorskip("meltingpot")
    from rllib_reciprocator.algorithms.registry import algorithm_class

    env = make_env("meltingpot/clean_up", num_agents=3, max_steps=6)
    obs, _ = env.reset()
    assert all(env.get_observation_space(agent).contains(value) for agent, value in obs.items())
    for t in range(6):
        _, _, terminated, truncated, _ = env.step(dict.fromkeys(env.possible_agents, t))
    assert truncated["__all__"]
    assert not terminated["__all__"]
    env.close()
    config = algorithm_class("PPO").get_default_config().environment("meltingpot/clean_up")
    config.environment(env_config={"num_agents": 3, "max_steps": 100})
    config.env_runners(num_env_runners=0, rollout_fragment_length=50)
    config.training(train_batch_size_per_learner=100, minibatch_size=50, num_epochs=1)
    config.rl_module(model_config={"conv_filters": [[8, 8, 8], [16, 3, 2]]})
    players = {"players": {"*": "reciprocator"}, "reciprocity": {"weight": 0.1, "observe_balance": True}}
    algo = config.update_from_dict(players).build_algo()
    for _ in range(3):
        result = algo.train()
    assert np.isfinite(float(result["learners"]["influence"]["loss"]))
    assert np.isfinite(float(result["learners"]["player_0"]["total_loss"]))
    algo.stop()


def test_missing_melting_pot_is_reported_with_the_install_command(monkeypatch):
    monkeypatch.setattr(environments, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install rllib_reciprocator\[meltingpot\]"):
        environments.register("meltingpot/clean_up")


def test_agents_keep_their_order():
    assert make_env("coins_v0", num_agents=4).possible_agents == ["player_0", "player_1", "player_2", "player_3"]


def test_wrappers_by_name():
    plain_env = make_env("pettingzoo/butterfly/knights_archers_zombies_v11")
    wrappers = ["flatten_v0", {"dtype_v0": {"dtype": "float32"}}]
    wrapped_env = make_env("pettingzoo/butterfly/knights_archers_zombies_v11", wrappers=wrappers)
    plain_space, wrapped_space = (env.get_observation_space("archer_0") for env in (plain_env, wrapped_env))
    assert wrapped_space.shape == (int(np.prod(plain_space.shape)),)
    assert wrapped_space.dtype == np.float32


def test_user_defined_modules():
    assert make_env("pettingzoo/tests.helpers.pettingzoo_module").possible_agents == ["player_0", "player_1"]


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("pettingzoo/butterfly/pistonball_v5", "did you mean 'butterfly/pistonball_v6'"),
        ("pettingzoo/no_such_package.env", "there is no module"),
    ],
)
def test_missing_environments_are_refused(name, complaint):
    with pytest.raises(ValueError, match=complaint):
        environments.register(name)
    assert environments.is_known(name)


def test_module_without_an_environment_is_refused():
    with pytest.raises(ValueError, match="has neither parallel_env"):
        make_env("pettingzoo/json")
