"""Advantages that need more than the siblings' rewards, and a coefficient that moves: from settings to weights."""

from __future__ import annotations

import math
import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import test_ranks as ranks
import torch
from attempts import differences
from test_kills import RL, Case
from test_rl import advantages_by_hand, make_recipe, steps_of, train
from test_rl_resume import stopping_at

from rlvr import checkpoint, runs
from rlvr.errors import Stopped
from rlvr.loops import rl
from rlvr.loss_settings import AdaptiveKl
from rlvr.policy import load_model

PLUGIN = '''
def tasks(n, prefix="q"):
    for k in range(n):
        yield {"id": f"{prefix}{k}", "prompt": f"{prefix} {k}:", "gold": "-"}

def share(response):
    """Share of letters and digits."""
    return sum(c.isascii() and c.isalnum() for c in response) / max(1, len(response))

def low(response):
    """Starts with a character of ASCII, and says nothing of what starts with a letter."""
    return None if response[:1].isalpha() and response[:1].isascii() else float(response[:1].isascii())
'''


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("plugin") / "toy.py"
    path.write_text(PLUGIN)
    return str(path)


def rows_by_task(run: Path, step: int) -> dict[str, list[dict[str, Any]]]:
    groups: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in runs.read_rollouts(run, step):
        groups[row["task"]].append(row)
    return groups


# --- the reward of a greedy completion as the baseline ---------------------------------------------------------------

GREEDY = ["advantage.kind=greedy", "steps=3", "optim.lr=3e-3"]


def test_advantages_are_what_the_greedy_completion_of_the_same_policy_did_not_earn(
    tiny_model: Path, plugin: str, tmp_path: Path
) -> None:
    train(make_recipe(tmp_path / "run", tiny_model, plugin, "share", *GREEDY))
    train(make_recipe(tmp_path / "plain", tiny_model, plugin, "share", "steps=1"))
    siblings = [row for row in runs.read_rollouts(tmp_path / "run", 1) if not row["greedy"]]
    # what is drawn is drawn as without it
    assert [row["token_ids"] for row in siblings] == [
        row["token_ids"] for row in runs.read_rollouts(tmp_path / "plain", 1)
    ]
    moved = False
    for step, metrics in enumerate(steps_of(tmp_path / "run"), start=1):
        baselines = []
        for rows in rows_by_task(tmp_path / "run", step).values():
            *drawn, greedy = rows
            assert [row["greedy"] for row in rows] == [False] * 4 + [True]
            assert greedy["advantage"] is None
            assert greedy["reward"] == greedy["verdicts"][0]["score"]
            assert [row["advantage"] for row in drawn] == pytest.approx([r["reward"] - greedy["reward"] for r in drawn])
            baselines.append(greedy["reward"])
        assert metrics["reward/greedy"] == pytest.approx(sum(baselines) / 4)
        drawn = [row for row in runs.read_rollouts(tmp_path / "run", step) if not row["greedy"]]
        assert metrics["reward"] == pytest.approx(sum(row["reward"] for row in drawn) / 16)
        # at temperature 0 the engine's log-probabilities are no policy's; those of the others still agree
        assert metrics["sampling/sampling_logp_difference/mean"] < 1e-5
        moved = moved or metrics["grad_norm"] > 0
    assert moved
    tokens = sum(len(row["token_ids"]) for step in (1, 2, 3) for row in runs.read_rollouts(tmp_path / "run", step))
    assert steps_of(tmp_path / "run")[-1]["num_tokens"] == tokens


def test_the_greedy_completion_is_the_likeliest_under_the_policy_of_its_step(
    tiny_model: Path, plugin: str, tmp_path: Path
) -> None:
    train(make_recipe(tmp_path / "run", tiny_model, plugin, "share", "advantage.kind=greedy", "steps=1"))
    model, _ = load_model(make_recipe(tmp_path / "run", tiny_model, plugin, "share").model)
    for row in runs.read_rollouts(tmp_path / "run", 1):
        if row["greedy"]:
            ids = row["prompt_ids"]
            for token in row["token_ids"]:
                assert int(model(torch.tensor([ids])).logits[0, -1].argmax()) == token
                ids = [*ids, token]


# --- each part of the reward compared for itself ---------------------------------------------------------------------


def gdpo_by_hand(groups: Sequence[Sequence[Sequence[float | None]]], weights: Sequence[float]) -> list[list[float]]:
    """groups: [P][G][K] scores, None where a part has none."""
    eps = 1e-4
    sums = [[0.0] * len(group) for group in groups]
    for p, group in enumerate(groups):
        for k, weight in enumerate(weights):
            known = [score for scores in group if (score := scores[k]) is not None]
            mean = sum(known) / max(1, len(known))
            std = math.sqrt(sum((s - mean) ** 2 for s in known) / max(1, len(known) - 1))
            for g, scores in enumerate(group):
                if (score := scores[k]) is not None:
                    sums[p][g] += weight * (score - mean) / (std + eps)
    every = [s for group in sums for s in group]
    mean = sum(every) / len(every)
    std = math.sqrt(sum((s - mean) ** 2 for s in every) / (len(every) - 1))
    return [[(s - mean) / (std + eps) for s in group] for group in sums]


def test_each_part_is_normalised_for_itself_before_they_are_added(
    tiny_model: Path, plugin: str, tmp_path: Path
) -> None:
    settings = [
        "advantage.kind=gdpo",
        f"rewards={{low: {{verifier: '{plugin}:low', weight: 0.25}}, luck: {{kind: random, weight: 0}}, "
        f"share: {{verifier: '{plugin}:share', weight: 2.0}}}}",
        "overlong={buffer: 0.5, penalty: 0.5}",
        "optim.lr=3e-3",
    ]
    train(make_recipe(tmp_path / "run", tiny_model, plugin, "share", *settings))
    silent, rows, by_hand = 0, [], []
    for step, metrics in enumerate(steps_of(tmp_path / "run"), start=1):
        rows = list(rows_by_task(tmp_path / "run", step).values())
        scores = [
            [
                [{v["part"]: v["score"] for v in row["verdicts"]}[part] for part in ("low", "share", "overlong")]
                for row in group
            ]
            for group in rows
        ]
        by_hand = gdpo_by_hand(scores, [0.25, 2.0, -0.5])
        for group, expected in zip(rows, by_hand, strict=True):
            assert [row["advantage"] for row in group] == pytest.approx(expected, rel=1e-5, abs=1e-6)
        silent += sum(score is None for group in scores for row in group for score in row)
        assert metrics["grad_norm"] > 0
    assert silent > 0
    rewards = [row["reward"] for row in rows[0]]
    plain = advantages_by_hand(make_recipe(tmp_path, tiny_model, plugin, "share"), rewards)
    assert max(abs(a - b) for a, b in zip(by_hand[0], plain, strict=True)) > 0.05


# --- a coefficient that follows the divergence -----------------------------------------------------------------------


def test_the_coefficient_moves_by_a_fifth_of_the_steps_share_of_the_horizon_at_most() -> None:
    # https://arxiv.org/abs/1909.08593: e = clip(KL / target - 1, -0.2, 0.2), beta (1 + K e); here K = 64 / 256
    adaptive = AdaptiveKl(target=0.5, horizon=256)
    for kl, factor in [
        (0.5, 1.0),
        (0.55, 1 + 0.1 / 4),
        (0.45, 1 - 0.1 / 4),
        (0.6, 1.05),
        (50.0, 1.05),
        (0.0, 0.95),
        (-3.0, 0.95),  # k1 of a step may be below 0
    ]:
        assert rl.next_kl_coef(0.3, kl, 64, adaptive) == pytest.approx(0.3 * factor, rel=1e-12)
    assert rl.next_kl_coef(0.3, 1.0, 256, adaptive) == pytest.approx(0.36, rel=1e-12)
    smallest = rl.next_kl_coef(3e-308, 0.0, 256, adaptive)
    assert smallest > 0 and rl.next_kl_coef(smallest, 9.0, 256, adaptive) > smallest
    with pytest.raises(ValueError, match=r"horizon must be at least the completions of a step \(257\), got 256"):
        rl.next_kl_coef(0.3, 1.0, 257, adaptive)


ADAPTIVE = ["kl.coef=0.2", "kl.adaptive={target: 0.003, horizon: 40}", "steps=6", "optim.lr=5e-3", "checkpoint.every=2"]


@pytest.mark.parametrize("where", ["loss", "reward"])
def test_each_step_is_learnt_with_the_coefficient_that_those_before_left(
    where: str, tiny_model: Path, plugin: str, tmp_path: Path
) -> None:
    settings = [*ADAPTIVE, f"kl.where={where}"]
    train(make_recipe(tmp_path / "run", tiny_model, plugin, "share", *settings))
    rows = steps_of(tmp_path / "run")
    coef, factors = 0.2, []
    for row in rows:
        assert row["kl/coef"] == pytest.approx(coef, rel=1e-12)
        factors.append(1 + min(max(row["kl"] / 0.003 - 1, -0.2), 0.2) * 16 / 40)
        coef *= factors[-1]
    assert min(factors) == pytest.approx(0.92) and max(factors) > 1.01  # it starts as the reference and leaves it
    found = checkpoint.load_newest(tmp_path / "run" / "checkpoints")
    assert found is not None
    assert found[2]["kl_coef"] == pytest.approx(coef, rel=1e-12)
    # the same steps with a coefficient that stays are others, from the first step in which it moved on
    fixed = ["kl.coef=0.2", "steps=6", "optim.lr=5e-3", f"kl.where={where}"]
    train(make_recipe(tmp_path / "fixed", tiny_model, plugin, "share", *fixed))
    other = steps_of(tmp_path / "fixed")
    assert "kl/coef" not in other[0]
    assert [row["loss"] for row in rows[:1]] == [row["loss"] for row in other[:1]]
    assert all(row["grad_norm"] != theirs["grad_norm"] for row, theirs in zip(rows[3:], other[3:], strict=True))


# --- and all of it in a run that did not come to its end at once -----------------------------------------------------


@pytest.mark.parametrize("settings", [GREEDY, ADAPTIVE], ids=["greedy", "adaptive"])
def test_a_run_that_was_stopped_while_it_sampled_ends_the_same(
    settings: list[str], tiny_model: Path, plugin: str, tmp_path: Path
) -> None:
    settings = [*settings, "checkpoint.every=0"]
    train(make_recipe(tmp_path / "unbroken", tiny_model, plugin, "share", *settings))
    recipe = make_recipe(tmp_path / "run", tiny_model, plugin, "share", *settings)
    for when, done in (("sampling 7/", 0), ("training", 1), ("training", 2), ("sampling 9/", 2)):
        with pytest.raises(Stopped):
            stopping_at(when, recipe)
        assert len(steps_of(tmp_path / "run")) == done
    train(recipe)
    assert differences(tmp_path / "run", tmp_path / "unbroken") == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "last"),
    [
        ({"advantage": {"kind": "greedy"}}, "reward/greedy"),
        ({"kl": {"coef": 0.2, "adaptive": {"target": 0.003, "horizon": 40}}}, "kl/coef"),
    ],
    ids=["greedy", "adaptive"],
)
def test_a_run_that_was_killed_ends_bit_for_bit(
    changes: dict[str, Any], last: str, tiny_model: Path, plugin: str, tmp_path: Path
) -> None:
    data = {"source": "generator", "path": f"{plugin}:tasks", "args": {"n": 30}, "verifier": f"{plugin}:share"}
    of = Case(tmp_path, {**RL, "model": {"path": str(tiny_model)}, "data": data, **changes})
    whole = of.whole()
    for where in ("score@3", "update@2", "checkpoint.renamed@1", "micro@1", "record@2"):
        of.kill("killed", where)
    of.finish("killed")
    assert differences(of.run("killed"), whole) == []
    assert len({row[last] for row in steps_of(whole)}) > 1  # it is no constant that came back


@pytest.mark.slow
def test_two_processes_have_one_coefficient_also_when_they_go_on_after_a_kill(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {
        "steps": 6,
        "kl": {"coef": 0.5, "adaptive": {"target": 1e-5, "horizon": 16}},  # it grows by a fifth in each step
        "optim": {"lr": 3e-3},
        "checkpoint": {"every": 1},
    }
    code, said = ranks.ended(ranks.start(tmp_path, tiny_model, "one", "rl", 1, **changes))
    assert code == 0, said
    monkeypatch.setenv("RLVR_FAILPOINT", "record:kill@4")  # the main rank alone records
    code, said = ranks.ended(ranks.start(tmp_path, tiny_model, "two", "rl", 2, **changes))
    assert code != 0 and "failpoint record: kill" in said, said
    monkeypatch.delenv("RLVR_FAILPOINT")
    code, said = ranks.ended(ranks.start(tmp_path, tiny_model, "two", "rl", 2, **changes))
    assert code == 0 and "resuming after step 3" in said, said
    one, two = (steps_of(tmp_path / run) for run in ("one", "two"))
    assert one[-1]["kl/coef"] > 0.9
    for name in ("kl/coef", "kl", "loss", "grad_norm"):
        assert [row[name] for row in two] == pytest.approx([row[name] for row in one], rel=1e-3, abs=1e-6), name


def test_a_checkpoint_that_knows_no_coefficient_goes_on_with_the_recipes(
    tiny_model: Path, plugin: str, tmp_path: Path
) -> None:
    settings = ["kl.coef=0.2", "steps=3", "checkpoint.every=1"]
    recipe = make_recipe(tmp_path / "run", tiny_model, plugin, "share", *settings)
    train(make_recipe(tmp_path / "unbroken", tiny_model, plugin, "share", *settings))
    with pytest.raises(Stopped):
        stopping_at("training", recipe)
    folder = tmp_path / "run" / "checkpoints"
    found = checkpoint.load_newest(folder)
    assert found is not None
    step, tensors, numbers, _ = found
    assert (step, numbers.pop("kl_coef")) == (1, 0.2)
    for path in folder.iterdir():
        shutil.rmtree(path)
    checkpoint.save(folder, step, tensors, numbers, keep=2)
    train(recipe)
    assert differences(tmp_path / "run", tmp_path / "unbroken") == []
