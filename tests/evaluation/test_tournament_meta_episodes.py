"""Tournaments, evaluations and training with frozen policies whose memory lasts for a meta-episode."""

import numpy as np
import pytest
import torch

from rllib_reciprocator import ReciprocatorConfig
from rllib_reciprocator.algorithms.coala import COALAConfig
from rllib_reciprocator.algorithms.lio import LIOConfig
from rllib_reciprocator.algorithms.registry import algorithm_class
from rllib_reciprocator.algorithms.shaper import ShaperConfig
from rllib_reciprocator.evaluation import open_evaluator
from rllib_reciprocator.evaluation.tournament import enter, hold, ranking, standings, tournament
from rllib_reciprocator.utils.errors import UserError

INNER, COPIES, STEPS = 3, 4, 5
UPDATE_GATE, CANDIDATE, SCALE, BIAS = 2.0, 3.0, 8.0, -3.0


def count_steps(learner):
    """Sets the weights so that the hidden state and the probability of defecting increase with every step."""
    actor = learner.module["player_0"].unwrapped().actor
    with torch.no_grad():
        for parameter in actor.memory.parameters():
            parameter.zero_()
        cell = actor.memory.cell
        actor.memory.bias_ih_l0[cell : 2 * cell] = UPDATE_GATE
        actor.memory.bias_ih_l0[2 * cell :] = CANDIDATE
        actor.head.weight.fill_(SCALE / cell)
        actor.head.bias.fill_(BIAS)


def expected_cooperation():
    """Computes the probability of cooperating at every step of a meta-episode, ``[INNER, STEPS]``."""
    memory, probabilities = 0.0, []
    update = 1 / (1 + np.exp(-UPDATE_GATE))
    for _ in range(INNER * STEPS):
        memory = update * memory + (1 - update) * np.tanh(CANDIDATE)
        probabilities.append(1 - 1 / (1 + np.exp(-(SCALE * memory + BIAS))))
    return np.reshape(probabilities, (INNER, STEPS))


def save_checkpoint(config, folder, change=None):
    algo = config.build_algo()
    if change:
        algo.learner_group.foreach_learner(change)
    path = algo.save_to_path(folder)
    algo.stop()
    return path


def coala_config(kind="coala", inner=INNER, copies=COPIES, **learner):
    config = ShaperConfig() if kind == "shaper" else COALAConfig()
    players = {"player_0": "shaper" if kind == "shaper" else "coala", "player_1": "learner/pg"}
    config.environment("ipd_v0", env_config={"num_steps": STEPS}).players(players)
    config.meta(inner_episodes=inner, copies=copies, credit="mfos" if kind == "mfos" else "coala")
    if learner:
        config.learning_player("pg", **learner)
    config.rl_module(model_config={"use_gru": True, "gru_cell_size": 2, "fcnet_hiddens": []})
    return config.env_runners(num_envs_per_env_runner=2 * copies).debugging(seed=1)


@pytest.fixture(scope="module")
def checkpoints(ray_cluster, tmp_path_factory):
    folder = tmp_path_factory.mktemp("meta")
    return {
        **{
            kind: save_checkpoint(coala_config(kind), folder / kind, count_steps)
            for kind in ("coala", "mfos", "shaper")
        },
        "still": save_checkpoint(coala_config(lr=0.0), folder / "still"),
        "longer": save_checkpoint(coala_config(inner=5, lr=1.0), folder / "longer"),
        "wider": save_checkpoint(coala_config(copies=8), folder / "wider"),
        "plain": save_checkpoint(
            ReciprocatorConfig()
            .environment("ipd_v0", env_config={"num_steps": STEPS})
            .players({"player_*": "ppo"})
            .env_runners(num_envs_per_env_runner=8)
            .debugging(seed=1),
            folder / "plain",
        ),
    }


def test_cooperation_decreases_within_meta_episodes():
    first, *_, last = expected_cooperation().mean(1)
    assert first > 0.5 > 0.1 > last


@pytest.mark.parametrize("kind", ["coala", "mfos", "shaper"])
def test_policies_with_memory_play_whole_meta_episodes_in_tournaments(checkpoints, kind):
    """Meta-episodes are played in self-play, with a policy without memory and with a scripted policy.

    The memory is not reset at inner episodes.
    """
    entrants = enter(
        [f"x={checkpoints[kind]}#player_0", f"p={checkpoints['plain']}#player_0", "scripted/always_defect"]
    )
    results = hold(tournament(entrants, games=3000, seed=1))
    expected = expected_cooperation().mean()
    for partner in ("x", "p", "always_defect"):
        group = results[(results["entrant"] == "x") & (results["others"] == (partner,))]
        assert set(group["games"]) == {INNER}
        assert group["cooperation_rate"].mean() == pytest.approx(expected, abs=0.02)
    table = standings(results).set_index(["entrant", "partner"])
    assert table.loc[("x", "p"), "games"] == 3000
    assert table.loc[("x", "p"), "samples"] == 1000
    assert table.loc[("p", "always_defect"), "samples"] == 3000
    # The reward is -3 in steps in which it cooperates and the co-player defects, and -2 in the other steps.
    assert table.loc[("x", "always_defect"), "return"] == pytest.approx(-STEPS * (2 + expected), abs=0.1)


def test_policies_with_memory_play_whole_meta_episodes_in_evaluations_of_other_runs(checkpoints):
    evaluator = open_evaluator(
        checkpoints["plain"], {"player_1": f"checkpoint/{checkpoints['coala']}#player_0"}, seed=1
    )
    row = evaluator.evaluate(3000)["players"]["player_1"]
    by_number = row["inner_episodes"]["cooperation_rate"]
    assert by_number == pytest.approx(expected_cooperation().mean(1), abs=0.03)
    assert len(evaluator.trace(30)) == 30 * STEPS


def test_policies_with_memory_play_whole_meta_episodes_as_frozen_players(checkpoints, tmp_path):
    config = ReciprocatorConfig().environment("ipd_v0", env_config={"num_steps": STEPS}).debugging(seed=1)
    config.players({"player_0": "ppo", "player_1": f"checkpoint/{checkpoints['coala']}#player_0"})
    algo = config.env_runners(num_envs_per_env_runner=1000).build_algo()
    rates = [algo.train()["env_runners"]["outcomes"]["player_1"]["cooperation_rate"] for _ in range(INNER + 1)]
    path = algo.save_to_path(tmp_path / "second")
    algo.stop()
    expected = expected_cooperation().mean(1)
    assert rates == pytest.approx([*expected, expected[0]], abs=0.03)
    row = open_evaluator(path, seed=1).evaluate(3000)["players"]["player_1"]
    assert row["inner_episodes"]["cooperation_rate"] == pytest.approx(expected, abs=0.03)


def test_frozen_players_with_different_meta_episodes(checkpoints):
    players = {f"player_{k}": f"checkpoint/{checkpoints[name]}#player_0" for k, name in enumerate(("coala", "longer"))}
    message = (
        "meta.inner_episodes: missing; set it, as the frozen policies of player_0 and player_1 were"
        " trained with 3 and 5"
    )
    with pytest.raises(UserError, match=message):
        open_evaluator(checkpoints["plain"], players)


def test_rllib_env_runners_refuse_policies_with_memory(stock, checkpoints):
    with pytest.raises(UserError, match="has a memory across inner episodes and needs the batched engine"):
        open_evaluator(stock, {"player_1": f"checkpoint/{checkpoints['coala']}#player_0"})


def test_online_learners_have_the_settings_of_the_run(checkpoints):
    """Online learners have the learning rate of the run, 0; with a higher one, they learn to defect."""
    entrants = [f"x={checkpoints['still']}#player_0", "learner/pg", "scripted/always_cooperate"]
    results = hold(tournament(enter(entrants), games=1200, seed=1))
    group = results[(results["entrant"] == "learner/pg") & (results["others"] == ("always_cooperate",))]
    assert set(group["games"]) == {INNER * COPIES}
    assert group["cooperation_rate"].mean() == pytest.approx(0.5, abs=0.03)
    faster = hold(tournament(enter(entrants), games=1200, seed=1, learning_players={"pg": {"lr": 20.0}}))
    group = faster[(faster["entrant"] == "learner/pg") & (faster["others"] == ("always_cooperate",))]
    assert group["cooperation_rate"].mean() < 0.35


def test_runs_with_conflicting_settings_are_refused(checkpoints):
    def tournament_of(*names, **options):
        entrants = [f"{name}={checkpoints[name]}#player_0" for name in names]
        return tournament(enter([*entrants, "learner/pg"]), games=24, **options)

    with pytest.raises(
        UserError, match=r"longer: was trained with meta\.inner_episodes 5, and coala with 3; give it, e.g."
    ):
        tournament_of("coala", "longer", learning_players={"pg": {}})
    with pytest.raises(UserError, match=r"wider: was trained with meta\.copies 8, and coala with 4; give it, e.g."):
        tournament_of("coala", "wider")
    with pytest.raises(UserError, match="learner/pg: the runs of coala and still have different settings"):
        tournament_of("coala", "still")
    settings = tournament_of(
        "coala", "longer", "wider", meta={"inner_episodes": 2, "copies": 2}, learning_players={"pg": {}}
    )
    results = hold(settings)
    assert set(results["games"]) == {2, 4}


@pytest.fixture(scope="module")
def lio_checkpoint(ray_cluster, tmp_path_factory):
    config = LIOConfig().environment("ipd_v0", env_config={"num_steps": STEPS}).debugging(seed=1)
    return save_checkpoint(config.env_runners(num_envs_per_env_runner=8), tmp_path_factory.mktemp("giving") / "lio")


def test_incentives_are_averaged_over_the_same_groups_as_returns(lio_checkpoint, tmp_path):
    """In groups in which no agent gives incentives, incentives received and given count as 0."""
    scripts = ["scripted/tit_for_tat", "scripted/always_defect"]
    results = hold(tournament(enter([f"lio={lio_checkpoint}#player_0", *scripts]), games=20))
    table = standings(results).set_index(["entrant", "partner"])
    assert table.notna().all(axis=None)
    pair = table.loc[("tit_for_tat", "always_defect")]
    assert (pair["received"], pair["given"]) == (0.0, 0.0)
    incentives = table.loc[("tit_for_tat", "lio"), "received"]
    assert incentives > 0.0
    assert table.loc[("lio", "tit_for_tat"), "given"] == pytest.approx(incentives)
    ranks = ranking(results, ["lio", "tit_for_tat", "always_defect"])
    assert ranks.loc["tit_for_tat", "received"] == pytest.approx(incentives / 2)
    means = table.loc["tit_for_tat"].drop("tit_for_tat")
    assert ranks.loc["tit_for_tat", "return"] == pytest.approx(means["return"].mean())


def test_results_without_incentives_have_no_given_column():
    results = hold(tournament(enter(["scripted/random", "a=scripted/random"]), games=4, env="ipd_v0"))
    assert "given" not in results


def test_entrants_from_rllib_runs_are_checked_too(ray_cluster, tmp_path):
    config = algorithm_class("PPO").get_default_config().environment("ipd_v0", env_config={"num_steps": 6})
    config.env_runners(num_env_runners=0).update_from_dict({"players": {"*": "ppo"}})
    path = save_checkpoint(config, tmp_path / "stock")
    with pytest.raises(UserError, match="mine#player_0: was trained with num_steps 6, and the game has 5"):
        tournament(enter([f"mine={path}", "scripted/random"]), env="ipd_v0", env_config={"num_steps": 5})
