import numpy as np
import pytest
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.tune.registry import ENV_CREATOR, _global_registry

from rllib_reciprocator.rllib_episodes import environments


def made(name, **config):
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
def test_episodes_keep_to_the_interface(name, config):
    env = made(name, **config)
    assert isinstance(env, MultiAgentEnv)
    for _ in range(2):
        obs, _ = env.reset(seed=1)
        for _ in range(300):
            assert set(obs) <= set(env.possible_agents)
            assert all(env.get_observation_space(agent).contains(seen) for agent, seen in obs.items())
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

    env = made("meltingpot/clean_up", num_agents=3, max_steps=6)
    obs, _ = env.reset()
    assert all(env.get_observation_space(agent).contains(seen) for agent, seen in obs.items())
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


def test_melting_pot_that_is_not_installed_says_how(monkeypatch):
    monkeypatch.setattr(environments, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install rllib_reciprocator\[meltingpot\]"):
        environments.register("meltingpot/clean_up")


def test_agents_keep_their_order():
    assert made("coins_v0", num_agents=4).possible_agents == ["player_0", "player_1", "player_2", "player_3"]


def test_wrappers_by_name():
    plain = made("pettingzoo/butterfly/knights_archers_zombies_v11")
    wrappers = ["flatten_v0", {"dtype_v0": {"dtype": "float32"}}]
    wrapped = made("pettingzoo/butterfly/knights_archers_zombies_v11", wrappers=wrappers)
    one, other = (env.get_observation_space("archer_0") for env in (plain, wrapped))
    assert other.shape == (int(np.prod(one.shape)),)
    assert other.dtype == np.float32


def test_modules_of_anybodys():
    assert made("pettingzoo/tests.helpers.pettingzoo_module").possible_agents == ["player_0", "player_1"]


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("pettingzoo/butterfly/pistonball_v5", "did you mean 'butterfly/pistonball_v6'"),
        ("pettingzoo/no_such_package.env", "there is no module"),
    ],
)
def test_what_is_not_there(name, complaint):
    with pytest.raises(ValueError, match=complaint):
        environments.register(name)
    assert environments.is_known(name)


def test_a_module_without_an_environment():
    with pytest.raises(ValueError, match="has neither parallel_env"):
        made("pettingzoo/json")
