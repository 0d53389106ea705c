"""Learning curves and costs of Reciprocators on RLlib's own algorithms and env runners.

``python -m benchmarks.episodes parity ipd|coins --seeds 3`` compares PPO with the Reciprocator algorithm, with the same
settings and numbers of environment steps.
``python -m benchmarks.episodes overhead ipd|coins`` times PPO with and without ``reciprocate()`` in alternation.
``python -m benchmarks.episodes throughput ipd|coins`` compares PPO, APPO and IMPALA with a remote env runner.
``python -m benchmarks.episodes capacity ipd|coins`` extrapolates measured sizes and times to 64 env runners.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
import warnings
from functools import partial
from typing import Any

STEPS = 8192
GAMES = {
    "ipd": {
        "env": "ipd_v0",
        "outcome": "cooperation_rate",
        "reciprocity": {"reward": "petty", "weight": 5.0, "balance_decay": 0.0, "observe_balance": False},
        "training": {"lr": 0.005, "gamma": 0.96, "lambda_": 1.0, "clip_param": 0.2, "entropy_coeff": 0.02},
        "hiddens": [16, 16],
    },
    "coins": {
        "env": "coins_v0",
        "outcome": "own_coin_share",
        "reciprocity": {"reward": "petty_payoff", "weight": 0.5, "balance_decay": 0.99, "observe_balance": True},
        "training": {"lr": 0.005, "gamma": 0.99, "lambda_": 0.8, "clip_param": 0.15, "entropy_coeff": 0.01},
        "hiddens": [64, 64],
    },
}
# uniform_share is the former default, with which the numbers in docs/results.md were measured.
ESTIMATOR = {"influence": "reward", "uniform_share": 0.0, "estimator_epochs": 4, "buffer_iterations": 3}


def network(game: dict[str, Any]) -> dict[str, Any]:
    """Returns the ``model_config`` of RLlib's default network for a game."""
    return {"fcnet_hiddens": game["hiddens"], "fcnet_activation": "relu", "vf_share_layers": False}


def fast(game: dict[str, Any], seed: int, *, rllibs_network: bool = False) -> Any:
    """Builds the Reciprocator algorithm, with its own networks or RLlib's."""
    from rllib_reciprocator import ReciprocatorConfig

    config = ReciprocatorConfig().environment(game["env"]).reciprocity(**game["reciprocity"], **ESTIMATOR)
    config.training(**game["training"], num_epochs=10, bootstrap_at_horizon=True)
    model = {"model": "rllib", **network(game)} if rllibs_network else {"fcnet_hiddens": game["hiddens"]}
    config.env_runners(num_envs_per_env_runner=STEPS // 32).rl_module(model_config=model)
    return config.debugging(seed=seed).build_algo()


def stock(game: dict[str, Any], seed: int, *, reciprocal: bool = True, steps: int = STEPS) -> Any:
    """Builds RLlib's PPO, with or without ``reciprocate()``."""
    from rllib_reciprocator.algorithms.registry import algorithm_class

    config = algorithm_class("PPO").get_default_config()
    players: dict[str, Any] = {"players": {"*": "reciprocator" if reciprocal else "ppo"}}
    if reciprocal:
        players["reciprocity"] = {**game["reciprocity"], **ESTIMATOR}
    config.environment(game["env"])
    config.env_runners(num_env_runners=0, num_envs_per_env_runner=32, rollout_fragment_length=32)
    config.training(**game["training"], num_epochs=10, train_batch_size_per_learner=steps, minibatch_size=steps)
    config.training(use_kl_loss=False, vf_loss_coeff=0.5, vf_clip_param=float("inf"), shuffle_batch_per_epoch=False)
    config.rl_module(model_config=network(game)).debugging(seed=seed)
    return config.update_from_dict(players).build_algo()


def parity(game: dict[str, Any], seeds: int, iterations: int) -> None:
    """Prints learning curves for every seed: the batched engine, the same with RLlib's network, and RLlib's PPO."""
    for seed in range(1, seeds + 1):
        for label, build in (
            ("Reciprocator", fast),
            ("the same, RLlib's network", partial(fast, rllibs_network=True)),
            ("PPO + reciprocate", stock),
        ):
            algo = build(game, seed)
            curve, start = [], time.perf_counter()
            for iteration in range(1, iterations + 1):
                outcomes = algo.train()["env_runners"]["outcomes"]
                rates = [float(outcomes[agent][game["outcome"]]) for agent in sorted(outcomes)]
                if iteration % 5 == 0:
                    curve.append(f"{iteration}: {statistics.fmean(rates):.2f}")
            seconds = (time.perf_counter() - start) / iterations
            algo.stop()
            print(f"seed {seed}  {label:25} {seconds:.2f} s/iteration  " + "  ".join(curve), flush=True)


def overhead(game: dict[str, Any], rounds: int) -> None:
    """Times iterations of PPO with and without ``reciprocate()`` in alternation."""
    algos = [stock(game, 1, reciprocal=reciprocal, steps=4096) for reciprocal in (True, False)]
    for algo in algos:
        algo.train()
    pairs = []
    for _ in range(rounds):
        times = []
        for algo in algos:
            start = time.perf_counter()
            algo.train()
            times.append(time.perf_counter() - start)
        pairs.append(times)
    for algo in algos:
        algo.stop()
    seconds, plain_seconds = (statistics.median(pair[k] for pair in pairs) for k in range(2))
    ratios = sorted(a / b for a, b in pairs)
    print(
        f"{game['env']}: PPO with reciprocate() {seconds:.2f} s per iteration of 4,096 environment steps, without"
        f" {plain_seconds:.2f} s: ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )


def throughput(game: dict[str, Any], seconds: float = 40.0) -> None:
    """Prints environment steps per second with a remote env runner, and the sizes of samples and weights.

    Compares Reciprocators on synchronous PPO with those on asynchronous APPO and IMPALA.
    """
    from ray import cloudpickle

    from rllib_reciprocator.algorithms.registry import algorithm_class

    for name in ("PPO", "APPO", "IMPALA"):
        config = algorithm_class(name).get_default_config().environment(game["env"])
        config.env_runners(num_env_runners=1, num_envs_per_env_runner=32, rollout_fragment_length=32)
        config.training(lr=game["training"]["lr"], train_batch_size_per_learner=4096)
        if name == "PPO":
            config.training(minibatch_size=4096, num_epochs=1)
        else:
            config.use_env_runner_state_server = False
            config.reporting(min_time_s_per_iteration=2)
        players = {"players": {"*": "reciprocator"}, "reciprocity": {**game["reciprocity"], **ESTIMATOR}}
        algo = config.debugging(seed=1).update_from_dict(players).build_algo()
        lifetime = ("env_runners", "num_env_steps_sampled_lifetime")
        # Trains until the first samples have arrived, so that start-up is not timed.
        while not (initial_steps := algo.metrics.peek(lifetime, default=0)):
            algo.train()
        start = time.perf_counter()
        while time.perf_counter() - start < seconds:
            algo.train()
        rate = (algo.metrics.peek(lifetime) - initial_steps) / (time.perf_counter() - start)
        size = algo.env_runner_group.foreach_env_runner(
            lambda runner: len(cloudpickle.dumps(runner.sample())), local_env_runner=False
        )[0]
        weights = len(cloudpickle.dumps(algo.learner_group.get_weights()))
        algo.stop()
        print(
            f"{game['env']}, {name}: {rate:,.0f} environment steps/s; a sample of 1,024 steps has {size / 1e6:.2f} MB,"
            f" weights have {weights / 1e6:.2f} MB",
            flush=True,
        )


def capacity(game: dict[str, Any], rounds: int, runners: int = 64) -> None:
    """Measures the environment steps per second of one env runner and of one learner, and prints the needs of many.

    Env runner and learner have one core. The learner makes one epoch per batch, as IMPALA's does.

    Args:
        game: Item of ``GAMES``.
        rounds: Number of measurements.
        runners: Number of env runners to extrapolate to.
    """
    from ray import cloudpickle

    algo = stock(game, 1, steps=4096)
    episodes, sampling_seconds, learning_seconds = [], [], []
    for _ in range(rounds):
        start = time.perf_counter()
        episodes = [episode for _ in range(4) for episode in algo.env_runner.sample(num_timesteps=1024)]
        sampling_seconds.append(time.perf_counter() - start)
        size = len(cloudpickle.dumps(episodes))
        steps = sum(map(len, episodes))
        start = time.perf_counter()
        algo.learner_group.update(episodes=episodes, timesteps={}, num_epochs=1, minibatch_size=1024)
        learning_seconds.append(time.perf_counter() - start)
    weights = len(cloudpickle.dumps(algo.learner_group.get_weights()))
    algo.stop()
    sampling_rate, learning_rate = (steps / statistics.median(times) for times in (sampling_seconds, learning_seconds))
    print(
        f"{game['env']}: an env runner samples {sampling_rate:,.0f} environment steps/s, a learner processes"
        f" {learning_rate:,.0f}/s; {size / steps:.0f} bytes per environment step, weights {weights / 1e6:.2f} MB.\n"
        f"{runners} env runners: {runners * sampling_rate:,.0f} environment steps/s,"
        f" {runners * sampling_rate * size / steps / 1e6:.1f} MB/s to the learners,"
        f" {runners * sampling_rate / learning_rate:.1f} learners with one core,"
        f" {runners * weights / 1e6:.1f} MB per synchronization of weights"
    )


def main() -> None:
    """Runs the selected benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["parity", "overhead", "throughput", "capacity"])
    parser.add_argument("game", choices=list(GAMES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    import ray
    import torch

    torch.set_num_threads(1)
    ray.init(address="local", num_cpus=3, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    logging.disable(logging.WARNING)
    if options.what == "parity":
        parity(GAMES[options.game], options.seeds, options.iterations)
    elif options.what == "throughput":
        throughput(GAMES[options.game])
    elif options.what == "capacity":
        capacity(GAMES[options.game], options.rounds)
    else:
        overhead(GAMES[options.game], options.rounds)


if __name__ == "__main__":
    main()
