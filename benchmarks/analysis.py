"""Speed of evaluations and tournaments on one core: ``python -m benchmarks.analysis``."""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
import warnings


def main() -> None:
    """Trains policies for a few iterations, then times an evaluation and a tournament."""
    warnings.filterwarnings("ignore")
    import ray
    import torch

    from rllib_reciprocator import ReciprocatorConfig
    from rllib_reciprocator.evaluation import open_evaluator
    from rllib_reciprocator.evaluation.tournament import enter, hold, tournament

    torch.set_num_threads(1)
    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    logging.disable(logging.WARNING)
    config = ReciprocatorConfig().environment("ipd_v0").env_runners(num_envs_per_env_runner=512)
    with tempfile.TemporaryDirectory() as folder:
        entrants = [f"scripted/{name}" for name in ("tit_for_tat", "always_defect", "always_cooperate", "random")]
        for seed in range(1, 5):
            algo = config.copy(copy_frozen=False).debugging(seed=seed).build_algo()
            for _ in range(10):
                algo.train()
            entrants.append(f"run_{seed}={algo.save_to_path(f'{folder}/{seed}')}")
            algo.stop()

        evaluator = open_evaluator(f"{folder}/1", seed=1)
        times = []
        for _ in range(4):
            start = time.perf_counter()
            evaluator.evaluate(100_000)
            times.append(time.perf_counter() - start)
        print(
            f"100,000 episodes of 32 steps of ipd_v0: {times[0]:.2f} s the first time, including imports;"
            f" then {statistics.median(times[1:]):.2f} s"
        )

        schedule = tournament(enter(entrants), games=1000)
        for workers in (0, 2):
            start = time.perf_counter()
            hold(schedule, workers)
            seconds = time.perf_counter() - start
            label = f"{workers} Ray tasks" if workers else "one process"
            print(
                f"{len(schedule.entrants)} players, {len(schedule.groups())} pairs, 1,000 games per pair, {label}:"
                f" {seconds:.1f} s"
            )


if __name__ == "__main__":
    main()
