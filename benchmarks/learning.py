"""Trains a tuned example over several seeds and prints how cooperation went.

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


def merged(settings: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    """Settings with others in their place, mapping by mapping."""
    both = {**settings, **others}
    for key, value in others.items():
        if isinstance(value, dict) and isinstance(settings.get(key), dict):
            both[key] = merged(settings[key], value)
    return both


def main() -> None:
    """Parses and trains."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("example", help="name of a tuned example")
    parser.add_argument("--seeds", type=int, default=10, help="how many")
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--report", type=int, nargs="+", default=[25, 50, 100, 200, 300], help="iterations to print")
    parser.add_argument("--threshold", type=float, default=0.9, help="of the first iteration to look for")
    parser.add_argument("--outcome", default="cooperation_rate")
    parser.add_argument(
        "--greedy", type=int, metavar="EPISODES", help="evaluate the collective return in such episodes of greedy play"
    )
    parser.add_argument("--config", type=yaml.safe_load, default={}, help="settings that differ, as '{lr: 0.01}'")
    options = parser.parse_args()

    warnings.filterwarnings("ignore")
    import ray
    import torch

    from rllib_reciprocator.experiments.figures import figures
    from rllib_reciprocator.experiments.schema import read_file
    from rllib_reciprocator.experiments.validation import build_config, check

    torch.set_num_threads(1)
    ray.init(address="local", num_cpus=1, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    logging.disable(logging.WARNING)
    (experiment,) = read_file(Path("tuned_examples", f"{options.example}.yaml"))
    algorithm = check(experiment, options.example)
    firsts: list[float] = []
    lasts: list[float] = []
    not_finite = 0
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        settings = {**merged(experiment.config, options.config), "seed": seed}
        if options.greedy:
            evaluation = {"evaluation_interval": 1, "evaluation_duration": options.greedy}
            settings |= {**evaluation, "evaluation_config": {"explore": False}}
        algo = build_config(algorithm, experiment.env, settings).build_algo()
        first, reached, episodes, seconds, shown = None, None, 0, 0.0, []
        for iteration in range(1, options.iterations + 1):
            start = time.perf_counter()
            result = algo.train()
            seconds += time.perf_counter() - start
            not_finite += sum(not math.isfinite(value) for _, _, value in figures(result))
            seen = result["evaluation" if options.greedy else "env_runners"]
            seen = seen.get("env_runners", seen)
            rates = [float(seen["outcomes"][agent][options.outcome]) for agent in sorted(seen["outcomes"])]
            if options.greedy:
                rates = [float(seen["episode_return_mean"])]
            if first is None and min(rates) >= options.threshold:
                first, reached = iteration, seconds
                episodes = int(result["env_runners"]["num_episodes_lifetime"])
            if iteration in options.report:
                returns = seen["agent_episode_returns_mean"]
                mean = " ".join(f"{float(returns[agent]):.1f}" for agent in sorted(returns))
                shown.append(f"{iteration}: " + " ".join(f"{rate:.3f}" for rate in rates) + f" ({mean})")
        algo.stop()
        firsts.append(first if first is not None else float("inf"))
        when = "never" if first is None else f"at {first} ({reached:.1f} s, {episodes} episodes)"
        print(
            f"seed {seed:2}  {options.threshold} {when}  {seconds / options.iterations:.3f} s/iteration  "
            + "  ".join(shown),
            flush=True,
        )
        lasts.append(min(rates))
    print(f"median first iteration at {options.threshold}: {statistics.median(firsts)}")
    at_the_end = sum(last >= options.threshold for last in lasts)
    print(f"of {options.seeds} seeds {sum(map(math.isfinite, firsts))} reached it, {at_the_end} at the end")
    print(f"figures that are not finite: {not_finite}")


if __name__ == "__main__":
    main()
