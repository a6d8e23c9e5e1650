"""Alarms: a proxy that is being gamed is told of, in time, and noise is not."""

from __future__ import annotations

import json
import math
import random
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scorer_cases import make_rollout
from test_rl import Quiet, exact, make_recipe, steps_of, train

from rlvr import chat, recipe
from rlvr.alarms import EARLY, LEVEL, Alarmed, Alarms, measured, trend_p
from rlvr.errors import SettingsError
from rlvr.recipe import MajorityReward, RandomReward, SelfCertaintyReward, VerifiedReward
from rlvr.reward_settings import ModelReward
from rlvr.settings import from_overrides
from rlvr.types import Group, Rollout, Task, Verdict

STYLE, ORACLE = ModelReward(kind="model", path="rm"), VerifiedReward(verifier="math", weight=0.0)
VOTES = MajorityReward(kind="majority")


def rows(num: int, seed: int = 0, noise: float = 0.05, **ends: tuple[float, float]) -> list[dict[str, float]]:
    """Metrics of `num` steps, each going from its first value to its last on a line with noise around it."""
    rng = random.Random(seed)
    names = {name: name.replace("__", "/") for name in ends}
    return [
        {"reward": 0.0}
        | {
            names[name]: first + (last - first) * k / (num - 1) + noise * rng.gauss(0, 1)
            for name, (first, last) in ends.items()
        }
        for k in range(num)
    ]


def first_steps(alarms: Alarms, metrics: Sequence[dict[str, float]]) -> dict[str, int]:
    """Alarm: the step in which it came."""
    found: dict[str, int] = {}
    for step, row in enumerate(metrics, start=1):
        for name, value in alarms.add(row)[0].items():
            if value:
                found.setdefault(name, step)
    return found


def of(rewards: dict[str, Any], **more: Any) -> Alarms:
    return Alarms(recipe.Alarms(**more), rewards)


# --- the test of a trend ---------------------------------------------------------------------------------------------


@given(st.lists(st.integers(-5, 5), min_size=4, max_size=30))
@settings(max_examples=60, deadline=None)
def test_a_trend_is_spearmans_with_ties(values: list[int]) -> None:
    p = trend_p(values)
    assert p + trend_p([-value for value in values]) == pytest.approx(1.0)
    if len(set(values)) == 1:
        assert p == 0.5
    else:
        assert p == pytest.approx(stats.spearmanr(range(len(values)), values, alternative="greater").pvalue, abs=1e-9)


def test_steps_in_a_row_that_all_rise_are_certain_and_two_say_nothing() -> None:
    assert trend_p([1, 2, 3, 4]) == 0.0 and trend_p([4, 3, 2, 1]) == 1.0
    assert trend_p([1, 2]) == trend_p([]) == 0.5


# --- over-optimisation -----------------------------------------------------------------------------------------------


def test_a_proxy_that_rises_while_the_truth_falls_is_told_of_once() -> None:
    alarms = of({"style": STYLE, "right": ORACLE})
    told = [alarms.add(row) for row in rows(60, rewards__style__mean=(0.0, 2.0), rewards__right__mean=(0.8, 0.4))]
    states = [metrics["alarm/over_optimisation"] for metrics, _ in told]
    words = [text for _, texts in told for text in texts]
    assert states[:15] == [0.0] * 15 and states[-1] == 1.0
    assert len(words) == 1
    first = states.index(1.0)
    assert told[first][1] == words
    assert (
        f"over the last {first + 1} steps style rose" in words[0] and "while right, which is verified, fell" in words[0]
    )


def test_a_slow_fall_is_seen_over_the_whole_run_and_a_late_one_over_its_end() -> None:
    slow = rows(150, rewards__style__mean=(0.0, 2.0), rewards__right__mean=(0.57, 0.42))
    assert 40 < first_steps(of({"style": STYLE, "right": ORACLE}), slow)["alarm/over_optimisation"] < 150
    up = rows(100, rewards__style__mean=(0.0, 2.0), rewards__right__mean=(0.2, 0.9))
    down = rows(60, 1, rewards__style__mean=(2.0, 3.0), rewards__right__mean=(0.9, 0.6))
    assert 100 < first_steps(of({"style": STYLE, "right": ORACLE}), up + down)["alarm/over_optimisation"] < 160


@pytest.mark.parametrize(
    ("style", "right"), [((0, 2), (0.4, 0.8)), ((0, 2), (0.6, 0.6)), ((2, 0), (0.8, 0.4)), ((0, 0), (0.8, 0.4))]
)
def test_whatever_else_they_do_is_no_alarm(style: tuple[float, float], right: tuple[float, float]) -> None:
    metrics = rows(100, rewards__style__mean=style, rewards__right__mean=right)
    assert first_steps(of({"style": STYLE, "right": ORACLE}), metrics) == {}


def test_a_truth_that_stands_still_hardly_ever_raises_it() -> None:
    num = sum(
        bool(
            first_steps(
                of({"style": STYLE, "right": ORACLE}, window=32),
                rows(96, seed, rewards__style__mean=(0.0, 2.0), rewards__right__mean=(0.6, 0.6)),
            )
        )
        for seed in range(40)
    )
    assert num <= 1  # p below LEVEL is expected in fewer than one in a hundred


def test_only_parts_that_stand_for_something_have_alarms() -> None:
    row = rows(20, rewards__style__mean=(0, 1), rewards__right__mean=(1, 0))[0]
    named = {
        "style": STYLE.model_copy(update={"weight": 0.0}),
        "right": VerifiedReward(verifier="math"),
        "coin": RandomReward(kind="random"),
    }
    assert of(named).add(row) == ({}, [])
    assert of({"style": STYLE}).add(row)[0] == {"alarm/length_bias": 0.0}
    assert set(of({"style": STYLE, "right": ORACLE}).add(row)[0]) == {"alarm/length_bias", "alarm/over_optimisation"}
    assert set(of({"votes": VOTES}).add(row)[0]) == {"alarm/length_bias", "alarm/collapse"}


# --- what is measured ------------------------------------------------------------------------------------------------


def group(
    lengths: Sequence[int], worths: Sequence[float | None], rights: Sequence[float | None] | None = None
) -> Group:
    def rollout(k: int) -> Rollout:
        plain = make_rollout("x" * lengths[k], k, finish="length")
        worth, right = worths[k], (rights or [1.0] * len(lengths))[k]
        verdicts = {
            "style": Verdict(score=None, outcome="error")
            if worth is None
            else Verdict(score=0.5, value=worth, outcome="partial"),
            "right": Verdict(score=None, outcome="not_applicable")
            if right is None
            else Verdict(score=right, outcome="partial"),
        }
        return Rollout(id=plain.id, completion=plain.completion, verdicts=verdicts, reward=worth)

    return Group(task=Task(id="t", prompt="q"), prompt_ids=(3,), rollouts=tuple(map(rollout, range(len(lengths)))))


def test_slope_and_correlation_are_within_groups() -> None:
    # in both groups 0.5 per token, though the longer group is worth less
    found = measured([group([1, 2, 3], [0.5, 1.0, 1.5]), group([11, 13], [-5.0, -4.0])], {"style": STYLE})
    assert found["rewards/style/length_slope"] == pytest.approx(0.5)
    assert found["rewards/style/length_corr"] == pytest.approx(1.0)
    assert found["completions/distinct_ratio"] == 1.0


def test_what_the_verified_part_explains_is_no_bias() -> None:
    rewards = {"style": STYLE, "right": ORACLE}
    rng = np.random.default_rng(0)
    right_GK = rng.integers(0, 2, (6, 8)).astype(float)
    length_GK = rng.integers(5, 15, (6, 8)) + (10 * right_GK).astype(int)  # right answers are longer
    worth_GK = 2 * right_GK + 0.1 * rng.normal(size=right_GK.shape)
    groups = [group(*each) for each in zip(length_GK.tolist(), worth_GK.tolist(), right_GK.tolist(), strict=True)]
    assert measured(groups, {"style": STYLE})["rewards/style/length_corr"] > 0.7
    assert abs(measured(groups, rewards)["rewards/style/length_corr"]) < 0.3
    # the textbook's partial correlation of three
    centred = [
        np.concatenate([row - row.mean() for row in table]) for table in (length_GK.astype(float), worth_GK, right_GK)
    ]
    r = np.corrcoef(centred)
    expected = (r[0, 1] - r[0, 2] * r[1, 2]) / math.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2))
    assert measured(groups, rewards)["rewards/style/length_corr"] == pytest.approx(expected)


def test_what_was_not_judged_counts_as_nothing() -> None:
    rewards = {"style": STYLE, "right": ORACLE}
    known, unknown = group([1, 2, 4], [1.0, 2.0, 3.0]), group([1, 9, 2, 4], [1.0, None, 2.0, 3.0])
    assert (
        measured([unknown], rewards)["rewards/style/length_corr"]
        == measured([known], rewards)["rewards/style/length_corr"]
    )
    silent = group([1, 2, 4], [1.0, 2.0, 3.0], [None, 1.0, 0.0])
    assert (
        measured([silent], rewards)["rewards/style/length_corr"]
        == measured([known], rewards)["rewards/style/length_corr"]
    )
    none = measured([group([3, 3], [1.0, 2.0]), group([1, 2], [None, None])], rewards)
    assert none["rewards/style/length_slope"] == 0.0 and "rewards/style/length_corr" not in none


# --- length ----------------------------------------------------------------------------------------------------------


def lengthy(
    num: int = 40, corr: float = 0.6, length: tuple[float, float] = (20, 30), **more: Any
) -> list[dict[str, float]]:
    metrics = rows(num, rewards__style__mean=(0, 2), rewards__right__mean=more.get("right", (0.6, 0.7)))
    lengths = rows(num, 1, noise=0.5, completions__mean_length=length, rewards__style__length_slope=(0.1, 0.1))
    corrs = rows(num, 2, noise=0.2, rewards__style__length_corr=(corr, corr))
    return [one | other | third for one, other, third in zip(metrics, lengths, corrs, strict=True)]


def test_length_that_is_paid_for_and_grows_is_told_of() -> None:
    assert first_steps(of({"style": STYLE, "right": ORACLE}), lengthy())["alarm/length_bias"] <= 24
    shrinking = lengthy(corr=-0.6, length=(30, 20))
    assert first_steps(of({"style": STYLE}), shrinking)["alarm/length_bias"] <= 24


@pytest.mark.parametrize(
    "metrics",
    [lengthy(corr=0.1), lengthy(length=(20, 20)), lengthy(corr=0.6, length=(30, 20)), lengthy(corr=-0.6)],
    ids=["not paid for", "no growth", "shrinks though paid for", "grows though it costs"],
)
def test_length_alone_is_no_alarm(metrics: list[dict[str, float]]) -> None:
    assert first_steps(of({"style": STYLE, "right": ORACLE}), metrics) == {}


def save_length_biased(folder: Path) -> str:
    """A reward model whose number grows with the position of the last token, and depends on nothing else."""
    from transformers import GPT2Config, GPT2ForSequenceClassification

    tokenizer = chat.byte_tokenizer()
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=256,
        n_embd=16,
        n_layer=1,
        n_head=2,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    config.num_labels = 1
    model = GPT2ForSequenceClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.transformer.ln_f.weight.fill_(1.0)
        model.transformer.wpe.weight[:, 0] = torch.arange(256) / 64
        model.transformer.wpe.weight[:, 1] = 1.0
        model.score.weight[0, 0] = 1.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


PLUGIN = '''
def tasks(n, prefix="q"):
    for k in range(n):
        yield {"id": f"{prefix}{k}", "prompt": f"{prefix} {k}:", "gold": "-"}

def brief(response):
    """What is wanted: nothing is too long."""
    return len(response) <= 24
'''


def planted(folder: Path, model: Path, tmp_path: Path, *overrides: str) -> recipe.RlRecipe:
    plugin = tmp_path / "toy.py"
    plugin.write_text(PLUGIN)
    stop = json.dumps([*(string.ascii_letters + string.digits)[::2]])  # completions end early to begin with
    return make_recipe(
        folder,
        model,
        str(plugin),
        "brief",
        "optim.lr=5e-4",
        "sample.group_size=8",
        "sample.groups_per_step=8",
        "sample.max_tokens=48",
        f"sample.stop={stop}",
        f"rewards.style={{kind: model, path: {save_length_biased(tmp_path / 'rm')}}}",
        f"rewards.answer={{verifier: '{plugin}:brief', weight: 0}}",
        "alarms.window=8",
        *overrides,
    )


@pytest.mark.slow
def test_a_length_biased_reward_model_raises_the_alarm_before_the_true_reward_falls(
    tiny_model: Path, tmp_path: Path
) -> None:
    quiet = Quiet()
    train(planted(tmp_path / "run", tiny_model, tmp_path, "steps=30"), quiet)
    steps = steps_of(tmp_path / "run")
    true = [row["rewards/answer/mean"] for row in steps]
    alarm = [row["alarm/length_bias"] for row in steps].index(1.0)
    assert alarm < [row["alarm/over_optimisation"] for row in steps].index(1.0)
    assert np.mean(true[alarm - 4 : alarm + 1]) > np.mean(true[:5]) - 0.02
    assert np.mean(true[-5:]) < np.mean(true[:5]) - 0.1
    (told,) = [text for text in quiet.warned if "alarm/length_bias" in text]
    assert f"over the last {alarm + 1} steps style rose" in told and "longer" in told


@pytest.mark.slow
def test_an_alarm_may_end_the_run_and_a_resumed_run_has_the_same(tiny_model: Path, tmp_path: Path) -> None:
    small = ("sample.groups_per_step=4", "optim.lr=1e-3", "sample.max_tokens=32", "steps=16", "checkpoint.every=5")
    whole = planted(tmp_path / "whole", tiny_model, tmp_path, *small)
    train(whole)
    states = [row["alarm/length_bias"] for row in steps_of(tmp_path / "whole")]
    first = states.index(1.0) + 1
    assert 8 <= first < 16
    ending = planted(tmp_path / "run", tiny_model, tmp_path, *small, "alarms.stop=true")
    with pytest.raises(Alarmed, match=f"after step {first}: over the last .* alarms.stop=false goes on"):
        train(ending)
    assert len(steps_of(tmp_path / "run")) == first
    with pytest.raises(Alarmed, match=f"after step {first}: alarm/length_bias came before"):
        train(ending)
    quiet = Quiet()
    train(planted(tmp_path / "run", tiny_model, tmp_path, *small, "alarms.stop=false"), quiet)
    assert exact(steps_of(tmp_path / "run")) == exact(steps_of(tmp_path / "whole"))
    assert not any("alarm/length_bias" in text for text in quiet.warned)


# --- collapse --------------------------------------------------------------------------------------------------------


def collapsing(right: tuple[float, float], **ends: tuple[float, float]) -> list[dict[str, float]]:
    start = rows(
        4, noise=0.02, rewards__right__mean=(right[0], right[0]), **{name: (v[0], v[0]) for name, v in ends.items()}
    )
    return start + rows(40, 1, noise=0.02, rewards__right__mean=right, **ends)


@pytest.mark.parametrize(
    "ends",
    [
        {"completions__distinct_ratio": (0.95, 0.1)},
        {"entropy": (1.2, 0.1)},
        {"rewards__votes__majority_share": (0.6, 1.1)},
    ],
    ids=str,
)
def test_answers_that_become_alike_without_becoming_right_are_told_of(ends: dict[str, tuple[float, float]]) -> None:
    rewards = {"votes": VOTES, "right": ORACLE}
    assert "alarm/collapse" in first_steps(of(rewards), collapsing((0.5, 0.4), **ends))
    assert "alarm/collapse" in first_steps(of({"votes": VOTES}), collapsing((0.5, 0.4), **ends))
    assert first_steps(of(rewards), collapsing((0.3, 0.9), **ends)) == {}
    assert "alarm/collapse" not in first_steps(of({"style": STYLE}), collapsing((0.5, 0.4), **ends))


def test_answers_that_stay_different_raise_nothing() -> None:
    kept = collapsing(
        (0.5, 0.5),
        completions__distinct_ratio=(0.9, 0.7),
        entropy=(1.2, 0.8),
        rewards__votes__majority_share=(0.5, 0.7),
    )
    certain = SelfCertaintyReward(kind="self_certainty")
    assert first_steps(of({"votes": VOTES, "certain": certain, "right": ORACLE}), kept) == {}


def test_rows_of_evaluations_are_no_steps_and_levels_are_as_documented() -> None:
    metrics = rows(60, rewards__style__mean=(0.0, 2.0), rewards__right__mean=(0.8, 0.4))
    rewards = {"style": STYLE, "right": ORACLE}
    whole, states = of(rewards), []
    for row in metrics:
        states.append(whole.add(row)[0])
    recorded = [row | state for row, state in zip(metrics, states, strict=True)]
    resumed = Alarms.after(recipe.Alarms(), rewards, [{"eval/pass@1": 0.5, "step": 0}, *recorded[:40]])
    assert [resumed.add(row)[0] for row in metrics[40:]] == states[40:]
    assert LEVEL < EARLY < 0.01


def test_settings_are_few_and_checked() -> None:
    base = ["steps=1", "model.path=m", "data.path=d"]
    with pytest.raises(SettingsError, match=r"alarms.window"):
        from_overrides("rl", [*base, "alarms.window=4"])
    found = from_overrides("rl", base)
    assert isinstance(found, recipe.RlRecipe) and found.alarms == recipe.Alarms(window=16, stop=False)
