"""Speed on one core: training iterations, alternating with a bare PyTorch loop of the same work, and steps of games.

``OMP_NUM_THREADS=1 python -m benchmarks`` (``make bench``).
"""

from __future__ import annotations

import argparse
import logging
import resource
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROUNDS = 15


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def iterations(example: str, width: int, clip: float, normalize_returns: bool) -> None:
    """Times iterations of a tuned example and of the bare loop in alternation.

    Args:
        example: Name of the tuned example.
        width: Width of the hidden layers of the bare loop's networks.
        clip: PPO clip parameter of the bare loop.
        normalize_returns: If True, the bare loop normalizes returns; if False, advantages.
    """
    from benchmarks.bare_loop import BareLoop
    from rllib_reciprocator.experiments.schema import read_file
    from rllib_reciprocator.experiments.validation import build_config, check

    (experiment,) = read_file(Path("tuned_examples", f"{example}.yaml"))
    algo = build_config(check(experiment, example), experiment.env, {**experiment.config, "seed": 1}).build_algo()
    bare = BareLoop(width, clip, normalize_returns)
    # Warm-up.
    for call in (algo.train, bare.iterate) * 3:
        call()
    pairs = [(_seconds(algo.train), _seconds(bare.iterate)) for _ in range(ROUNDS)]
    algo.stop()
    seconds, bare_seconds = statistics.median(p[0] for p in pairs), statistics.median(p[1] for p in pairs)
    ratios = sorted(a / b for a, b in pairs)
    print(
        f"{example:26} {seconds:.3f} s/iteration, bare loop {bare_seconds:.3f} s: ratio {statistics.median(ratios):.2f}"
        f" ({ratios[0]:.2f} to {ratios[-1]:.2f}); {65_536 / seconds:,.0f} environment steps/s, including learning"
    )


def coins_paper(rounds: int = 2) -> None:
    """Times iterations with the paper's settings for Coins, with and without estimator updates, and bare PPO epochs."""
    from benchmarks.bare_loop import BareEpochs
    from rllib_reciprocator.experiments.schema import read_file
    from rllib_reciprocator.experiments.validation import build_config, check

    example = "reciprocator_coins_paper"
    (experiment,) = read_file(Path("tuned_examples", f"{example}.yaml"))
    algo = build_config(check(experiment, example), experiment.env, {**experiment.config, "seed": 1}).build_algo()
    for _ in range(experiment.config["reciprocity"]["warmup_iterations"]):
        algo.train()
    bare = BareEpochs(algo)
    # Estimators are updated in iterations 0, 2, 4, ..
    rows = [(_seconds(algo.train), _seconds(algo.train), _seconds(bare.iterate)) for _ in range(rounds)]
    algo.stop()
    update_seconds, plain_seconds, bare_seconds = (statistics.median(row[k] for row in rows) for k in range(3))
    print(
        f"{example}: {update_seconds:.1f} s/iteration with an estimator update, {plain_seconds:.1f} s without, bare PPO"
        f" epochs {bare_seconds:.1f} s: ratios {update_seconds / bare_seconds:.2f}"
        f" and {plain_seconds / bare_seconds:.2f}"
    )


# Games whose steps are timed: id, number of parallel environments, settings.
GAMES: tuple[tuple[str, int, dict[str, Any]], ...] = (
    ("ipd_v0", 2048, {}),
    ("coins_v0", 2048, {}),
    ("escape_room_v0", 4096, {}),
    ("cleanup_v0", 256, {"map": "small"}),
    ("cleanup_v0", 256, {"map": "medium"}),
    ("cleanup_v0", 256, {"map": "full"}),
    ("cleanup_v0", 1024, {"map": "full"}),
    ("cleanup_v0", 1024, {"map": "full", "num_agents": 10}),
    ("harvest_v0", 256, {"map": "full"}),
    ("harvest_v0", 1024, {"map": "full"}),
    ("matrix_grid_v0", 256, {"map": "small"}),
    ("matrix_grid_v0", 256, {"map": "melting_pot"}),
)


def step_rates(game_id: str, games: int, settings: dict[str, Any]) -> None:
    """Times steps with random actions, once with precomputed actions and once including their sampling."""
    import torch

    import social_dilemmas

    game = social_dilemmas.make(game_id, games, **settings)
    steps = 2000 if game_id in ("ipd_v0", "coins_v0") else 200
    generator = torch.Generator().manual_seed(0)
    shape = (games, game.num_agents)
    joint_actions = [torch.randint(int(game.action_space.n), shape, generator=generator) for _ in range(64)]

    def play(draw: bool) -> None:
        game.reset()
        for t in range(steps):
            game.step(
                torch.randint(int(game.action_space.n), shape, generator=generator) if draw else joint_actions[t % 64]
            )
            if (t + 1) % game.horizon == 0:
                game.reset()

    play(draw=True)
    rates = [[games * steps / _seconds(lambda draw=draw: play(draw)) / 1e6 for draw in (False, True)] for _ in range(5)]
    step_rate, sampling_rate = (statistics.median(rate[k] for rate in rates) for k in (0, 1))
    label = f"{game_id} {' '.join(map(str, settings.values()))}"
    print(
        f"{label:26} {games:5} environments: {step_rate:.3f} million environment steps/s;"
        f" {sampling_rate:.3f} with action sampling"
    )


def growth() -> None:
    """Prints seconds per iteration of Reciprocators in Coins, by number of agents and of parallel environments."""
    from rllib_reciprocator import ReciprocatorConfig

    print("Coins on 5x5, reward model, 10 epochs: seconds per iteration (environment steps/s)")
    shapes = [(agents, 256) for agents in (2, 3, 5, 8)] + [(2, games) for games in (512, 1024, 2048, 4096, 8192)]
    for agents, games in shapes:
        config = (
            ReciprocatorConfig()
            .environment("coins_v0", env_config={"num_agents": agents, "grid_size": 5})
            .reciprocity(reward="petty_payoff", weight=0.5, balance_decay=0.99, estimator_epochs=4)
            .env_runners(num_envs_per_env_runner=games)
            .rl_module(model_config={"fcnet_hiddens": [64, 64]})
            .debugging(seed=1)
        )
        algo = config.build_algo()
        algo.train()
        seconds = min(_seconds(algo.train) for _ in range(2))
        algo.stop()
        print(f"  {agents} agents, {games:5} environments  {seconds:6.2f}  ({games * 32 / seconds:,.0f})", flush=True)


def main() -> None:
    """Runs the selected benchmark; by default steps of games and training iterations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only",
        choices=["games", "iterations", "growth", "coins-paper"],
        help="benchmark to run; defaults to games and iterations",
    )
    only = parser.parse_args().only
    warnings.filterwarnings("ignore")
    import torch

    torch.set_num_threads(1)
    if only in (None, "games"):
        for game_id, games, settings in GAMES:
            step_rates(game_id, games, settings)
    if only != "games":
        import ray

        ray.init(address="local", num_cpus=1, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
        logging.disable(logging.WARNING)
        if only in ("growth", "coins-paper"):
            {"growth": growth, "coins-paper": coins_paper}[only]()
            return
        iterations("reciprocator_ipd_paper", width=2, clip=0.1, normalize_returns=True)
        iterations("reciprocator_ipd", width=16, clip=0.2, normalize_returns=False)
        print(f"peak resident memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
