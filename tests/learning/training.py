"""Trains tuned examples with changed settings, for tests of their claims."""

from pathlib import Path

from rllib_reciprocator.experiments.schema import read_file
from rllib_reciprocator.experiments.validation import build_config, check

TUNED_EXAMPLES = Path(__file__).parents[2] / "tuned_examples"
GREEDY_EPISODES = 64


def change_settings(settings, changes):
    """Returns settings with recursively merged changes."""
    result = {**settings, **changes}
    for name, value in changes.items():
        if isinstance(value, dict) and isinstance(settings.get(name), dict):
            result[name] = change_settings(settings[name], value)
    return result


def train_example(example, iterations, *, seed=1, is_greedy=False, players=None, **changes):
    """Trains a tuned example.

    Args:
        example: Name of the example.
        iterations: Number of training iterations.
        seed: Seed of the run.
        is_greedy: If True, returns the results of a greedy evaluation after the last iteration.
        players: Players by agent or pattern, instead of the example's.
        **changes: Settings that differ from the example's; mappings are merged with the example's.

    Returns:
        The env runners' results of the last iteration.
    """
    (experiment,) = read_file(TUNED_EXAMPLES / f"{example}.yaml")
    settings = change_settings(experiment.config, {**changes, "seed": seed})
    if players is not None:
        settings["players"] = players
    if is_greedy:
        settings |= {"evaluation_interval": iterations, "evaluation_duration": GREEDY_EPISODES}
        settings["evaluation_config"] = {"explore": False}
    algo = build_config(check(experiment, example), experiment.env, settings).build_algo()
    try:
        for _ in range(iterations):
            results = algo.train()
    finally:
        algo.stop()
    return results["evaluation"]["env_runners"] if is_greedy else results["env_runners"]


def outcomes(results, name):
    """Returns an outcome of each agent, in the order of their names."""
    return [float(results["outcomes"][agent][name]) for agent in sorted(results["outcomes"])]


def rewards_per_step(results):
    """Returns the mean extrinsic reward per step of each agent, in the order of their names."""
    return [float(results["reward_per_step"][agent]) for agent in sorted(results["reward_per_step"])]
