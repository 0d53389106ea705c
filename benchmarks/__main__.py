"""Speed on one core: an iteration against a bare PyTorch loop of the same work, in alternation; and game stepping.

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
    """Times a tuned example and the bare loop turn by turn."""
    from benchmarks.bare_loop import BareLoop
    from rllib_reciprocator.experiments.schema import read_file
    from rllib_reciprocator.experiments.validation import build_config, check

    (experiment,) = read_file(Path("tuned_examples", f"{example}.yaml"))
    algo = build_config(check(experiment, example), experiment.env, {**experiment.config, "seed": 1}).build_algo()
    bare = BareLoop(width, clip, normalize_returns)
    for call in (algo.train, bare.iterate) * 3:
        call()
    pairs = [(_seconds(algo.train), _seconds(bare.iterate)) for _ in range(ROUNDS)]
    algo.stop()
    ours, floor = statistics.median(p[0] for p in pairs), statistics.median(p[1] for p in pairs)
    ratios = sorted(a / b for a, b in pairs)
    print(
        f"{example:26} {ours:.3f} s an iteration, bare loop {floor:.3f} s: ratio {statistics.median(ratios):.2f}"
        f" ({ratios[0]:.2f} to {ratios[-1]:.2f}); {65_536 / ours:,.0f} joint steps/s, learning included"
    )


def coins_paper(rounds: int = 2) -> None:
    """Times the paper's settings for Coins, with and without an update of the estimator, beside its bare epochs."""
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
    updated, plain, floor = (statistics.median(row[k] for row in rows) for k in range(3))
    print(
        f"{example}: {updated:.1f} s an iteration with an update of the estimator, {plain:.1f} s without; its bare"
        f" policy epochs {floor:.1f} s: ratios {updated / floor:.2f} and {plain / floor:.2f}"
    )


# Games whose stepping is timed: copies, and their settings.
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


def stepping(game_id: str, games: int, settings: dict[str, Any]) -> None:
    """Times random play, with the actions given and with drawing them included."""
    import torch

    import social_dilemmas

    game = social_dilemmas.make(game_id, games, **settings)
    steps = 2000 if game_id in ("ipd_v0", "coins_v0") else 200
    generator = torch.Generator().manual_seed(0)
    shape = (games, game.num_agents)
    given = [torch.randint(int(game.action_space.n), shape, generator=generator) for _ in range(64)]

    def play(draw: bool) -> None:
        game.reset()
        for t in range(steps):
            game.step(torch.randint(int(game.action_space.n), shape, generator=generator) if draw else given[t % 64])
            if (t + 1) % game.horizon == 0:
                game.reset()

    play(draw=True)
    rates = [[games * steps / _seconds(lambda draw=draw: play(draw)) / 1e6 for draw in (False, True)] for _ in range(5)]
    step, drawn = (statistics.median(rate[k] for rate in rates) for k in (0, 1))
    what = f"{game_id} {' '.join(map(str, settings.values()))}"
    print(f"{what:26} {games:5} copies: {step:.3f} million joint steps/s; {drawn:.3f} with drawing the actions")


def growth() -> None:
    """Seconds an iteration of Reciprocators in Coins, by number of agents and of games."""
    from rllib_reciprocator import ReciprocatorConfig

    print("Coins on 5x5, reward model, 10 epochs: seconds an iteration (joint steps/s)")
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
        print(f"  {agents} agents, {games:5} games  {seconds:6.2f}  ({games * 32 / seconds:,.0f})", flush=True)


def main() -> None:
    """Runs everything, or what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only",
        choices=["games", "iterations", "growth", "coins-paper"],
        help="what to run; games and iterations by default",
    )
    only = parser.parse_args().only
    warnings.filterwarnings("ignore")
    import torch

    torch.set_num_threads(1)
    if only in (None, "games"):
        for game_id, games, settings in GAMES:
            stepping(game_id, games, settings)
    if only != "games":
        import ray

        ray.init(address="local", num_cpus=1, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
        logging.disable(logging.WARNING)
        if only in ("growth", "coins-paper"):
            {"growth": growth, "coins-paper": coins_paper}[only]()
            return
        iterations("reciprocator_ipd_paper", width=2, clip=0.1, normalize_returns=True)
        iterations("reciprocator_ipd", width=16, clip=0.2, normalize_returns=False)
        print(f"resident memory at its peak: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
