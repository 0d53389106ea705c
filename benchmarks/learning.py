"""Trains a tuned example with several seeds and prints the outcome over training.

``python -m benchmarks.learning reciprocator_ipd --seeds 10 --iterations 300``
"""

from __future__ import annotations

import argparse
import logging
import math
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import yaml


def merge(settings: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """Merges settings recursively. Values in ``overrides`` take precedence."""
    result = {**settings, **overrides}
    for key, value in overrides.items():
        if isinstance(value, dict) and isinstance(settings.get(key), dict):
            result[key] = merge(settings[key], value)
    return result


def main() -> None:
    """Trains all seeds and prints one line per seed and a summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("example", help="name of a tuned example")
    parser.add_argument("--seeds", type=int, default=10, help="number of seeds")
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--report", type=int, nargs="+", default=[25, 50, 100, 200, 300], help="iterations to print")
    parser.add_argument("--threshold", type=float, default=0.9, help="value that defines the first iteration")
    parser.add_argument("--outcome", default="cooperation_rate")
    parser.add_argument(
        "--greedy", type=int, metavar="EPISODES", help="use the collective return in this many episodes of greedy play"
    )
    parser.add_argument("--config", type=yaml.safe_load, default={}, help="settings to change, e.g. '{lr: 0.01}'")
    options = parser.parse_args()

    warnings.filterwarnings("ignore")
    import ray
    import torch

    from rllib_reciprocator.experiments.schema import read_file
    from rllib_reciprocator.experiments.validation import build_config, check
    from rllib_reciprocator.results.metrics import iterate_metrics

    torch.set_num_threads(1)
    ray.init(address="local", num_cpus=1, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    logging.disable(logging.WARNING)
    (experiment,) = read_file(Path("tuned_examples", f"{options.example}.yaml"))
    algorithm = check(experiment, options.example)
    first_iterations: list[float] = []
    final_values: list[float] = []
    not_finite = 0
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        settings = {**merge(experiment.config, options.config), "seed": seed}
        if options.greedy:
            evaluation = {"evaluation_interval": 1, "evaluation_duration": options.greedy}
            settings |= {**evaluation, "evaluation_config": {"explore": False}}
        algo = build_config(algorithm, experiment.env, settings).build_algo()
        first_iteration, seconds_to_threshold, episodes, seconds, curve = None, None, 0, 0.0, []
        for iteration in range(1, options.iterations + 1):
            start = time.perf_counter()
            result = algo.train()
            seconds += time.perf_counter() - start
            not_finite += sum(not math.isfinite(value) for _, _, value in iterate_metrics(result))
            stats = result["evaluation" if options.greedy else "env_runners"]
            # Evaluation results contain those of the env runners one level below.
            stats = stats.get("env_runners", stats)
            values = [float(stats["outcomes"][agent][options.outcome]) for agent in sorted(stats["outcomes"])]
            if options.greedy:
                values = [float(stats["episode_return_mean"])]
            if first_iteration is None and min(values) >= options.threshold:
                first_iteration, seconds_to_threshold = iteration, seconds
                episodes = int(result["env_runners"]["num_episodes_lifetime"])
            if iteration in options.report:
                returns = stats["agent_episode_returns_mean"]
                mean = " ".join(f"{float(returns[agent]):.1f}" for agent in sorted(returns))
                curve.append(f"{iteration}: " + " ".join(f"{value:.3f}" for value in values) + f" ({mean})")
        algo.stop()
        first_iterations.append(first_iteration if first_iteration is not None else float("inf"))
        when = (
            "never"
            if first_iteration is None
            else f"at {first_iteration} ({seconds_to_threshold:.1f} s, {episodes} episodes)"
        )
        print(
            f"seed {seed:2}  {options.threshold} {when}  {seconds / options.iterations:.3f} s/iteration  "
            + "  ".join(curve),
            flush=True,
        )
        final_values.append(min(values))
    print(f"median first iteration at {options.threshold}: {statistics.median(first_iterations)}")
    at_the_end = sum(value >= options.threshold for value in final_values)
    print(f"of {options.seeds} seeds {sum(map(math.isfinite, first_iterations))} reached it, {at_the_end} at the end")
    print(f"metrics that are not finite: {not_finite}")


if __name__ == "__main__":
    main()
