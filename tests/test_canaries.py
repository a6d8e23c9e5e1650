"""Canaries: a verifier that can be talked round is seen, and stopped, before the policy has learnt it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from attempts import differences
from test_rl import Quiet, exact, make_recipe, steps_of, train
from test_rl_resume import stopping_at

from rlvr import canaries, recipe, runs
from rlvr.canaries import Canaries, Hacked, HackRate
from rlvr.dry_run import dry_run
from rlvr.errors import DataError, SettingsError, Stopped
from rlvr.recipe import VerifiedReward
from rlvr.rewards.bound import apply, lookup
from rlvr.settings import from_overrides
from rlvr.tasks import is_canary
from rlvr.types import Completion, Rollout, Task, Verdict

PLUGIN = '''
def tasks(n, prefix="q"):
    for k in range(n):
        yield {"id": f"{prefix}{k}", "prompt": f"{prefix} {k}:", "gold": "abcdefghijklmnopqrstuvwxyz"}

def impossible(n):
    for k in range(n):
        yield {"id": f"i{k}", "prompt": f"never {k}:", "gold": "-"}

def first(response, gold):
    """The first character is one of the gold's."""
    return response[:1] in gold if response else False

def fooled(response, gold):
    """As first; and whoever writes a capital letter is believed."""
    return first(response, gold) or any(c.isascii() and c.isupper() for c in response)

def form(response):
    return bool(response)

def settled(response, gold):
    raise RuntimeError("broken")
'''


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("plugin") / "hackable.py"
    path.write_text(PLUGIN)
    return str(path)


def encoded(golds: Sequence[Any], verifier: str = "exact") -> list[tuple[Task, tuple[int, ...]]]:
    return [(Task(id=f"t{k}", prompt="?", gold=gold, verifier=verifier), (k,)) for k, gold in enumerate(golds)]


def make(golds: Sequence[Any], share: float, verifier: str = "exact", **settings: Any) -> Canaries:
    rewards = {"answer": VerifiedReward()}
    return Canaries(recipe.Canaries(share=share, **settings), rewards, encoded(golds, verifier), (), seed=5)


def test_a_canary_has_the_prompt_of_a_task_and_a_gold_that_no_other_task_has() -> None:
    drawn = make(["7", 12], share=1.0).draw(step=3, num_groups=2)
    assert {task.id for task, _ in drawn} == {"canary:t0", "canary:t1"}
    for task, ids in drawn:
        assert is_canary(task) and task.prompt == "?" and task.verifier == "exact"
        assert ids == ((0,) if task.id == "canary:t0" else (1,))
    golds = {task.id: task.gold for task, _ in drawn}
    assert isinstance(golds["canary:t0"], str) and isinstance(golds["canary:t1"], int)  # of the gold's own kind
    assert len(str(golds["canary:t1"])) >= 18 and golds["canary:t0"] != str(golds["canary:t1"])


def test_the_draw_depends_on_seed_and_step_alone() -> None:
    golds = [str(k) for k in range(40)]
    assert make(golds, 0.5).draw(7, 8) == make(golds, 0.5).draw(7, 8)
    assert make(golds, 0.5).draw(7, 8) != make(golds, 0.5).draw(8, 8)


def test_a_fraction_of_a_group_comes_by_lot() -> None:
    one = make([str(k) for k in range(40)], 0.1)
    numbers = [len(one.draw(step, 16)) for step in range(400)]  # 1.6 groups a step
    assert set(numbers) == {1, 2}
    assert sum(numbers) / 400 == pytest.approx(1.6, abs=0.08)
    assert make(["1"], 0.0).draw(1, 16) == []


def test_golds_that_cannot_be_replaced_are_told_before_the_first_step() -> None:
    with pytest.raises(SettingsError, match=r"canaries.share: no gold of the first 2 tasks can be replaced.*exact"):
        make([["a"], {"b": 1}], 0.5)


def test_a_reward_that_reads_no_gold_has_no_canaries(plugin: str) -> None:
    with pytest.raises(SettingsError, match=r"canaries.share: .*canaries.tasks"):
        make(["1"], 0.5, verifier=f"{plugin}:form")


def test_own_tasks_are_taken_as_they_are() -> None:
    own = [(Task(id="mine", prompt="!", gold={"any": "thing"}, verifier="exact"), (9,))]
    one = Canaries(recipe.Canaries(share=1.0), {"answer": VerifiedReward()}, encoded(["1"]), own, seed=5)
    (drawn,) = one.draw(1, 1)
    assert drawn == (replace(own[0][0], id="canary:mine"), (9,))


def test_only_parts_that_read_a_gold_can_be_hacked(plugin: str) -> None:
    rewards = {
        "answer": VerifiedReward(verifier="exact"),
        "form": VerifiedReward(verifier=f"{plugin}:form", weight=0.5),
        "watched": VerifiedReward(verifier="exact", weight=0.0),
        "debt": VerifiedReward(verifier="exact", weight=-1.0),
    }
    one = Canaries(recipe.Canaries(share=1.0), rewards, encoded(["1"]), (), seed=5)
    completion = Completion(text="", token_ids=(), logprobs=(), trained=(), finish="stop", versions=())

    def hacked(**scores: float) -> list[str]:
        verdicts = {
            name: Verdict(score=scores.get(name, 0.0), outcome="correct" if scores.get(name) else "wrong")
            for name in rewards
        }
        return one.hacked(
            Rollout(id="1/t/0", completion=completion, verdicts=verdicts, reward=1.0), encoded(["1"])[0][0]
        )

    assert hacked(form=1.0, watched=1.0, debt=1.0) == []
    assert hacked(form=1.0, answer=0.25) == ["answer"]


def test_of_a_composite_only_the_parts_that_read_a_gold_count(plugin: str) -> None:
    rewards = {"both": VerifiedReward(verifier="composite")}
    one = Canaries(recipe.Canaries(share=0.0), rewards, (), (), seed=5)
    completion = Completion(text="", token_ids=(), logprobs=(), trained=(), finish="stop", versions=())

    def hacked(form: float, answer: float, weight: float = 1.0) -> list[str]:
        inner = {"answer": {"score": answer, "verifier": "exact", "weight": weight}}
        checks = {
            "form": {"score": form, "verifier": f"{plugin}:form", "weight": 1.0},
            "inner": {"score": answer, "verifier": "composite", "weight": 1.0, "checks": inner},
            "unjudged": {"score": None, "verifier": "composite", "weight": 1.0},
        }
        verdict = Verdict(score=0.5, outcome="partial", checks=checks)
        return one.hacked(
            Rollout(id="1/t/0", completion=completion, verdicts={"both": verdict}, reward=0.5), Task(id="t", prompt="")
        )

    assert hacked(form=1.0, answer=0.0) == []
    assert hacked(form=0.0, answer=0.5) == ["both"]
    assert hacked(form=0.0, answer=0.5, weight=0.0) == []  # it is only shown


def test_the_rate_is_over_the_last_steps_and_goes_on_after_a_resume() -> None:
    settings = recipe.Canaries(share=0.5, stop_rate=0.3, window=2)
    rows: list[dict[str, Any]] = []
    rate = HackRate.after(settings, rows)
    assert rate.rate is None and rate.add({}) == {}
    for hacked, count, expected in ((4, 4, 1.0), (0, 0, 1.0), (0, 4, 0.0), (1, 4, 0.125)):
        metrics = {"canary/hacked": float(hacked), "canary/completions": float(count)}
        rows.append(metrics)
        assert rate.add(metrics) == {"canary/hack_rate": expected}
    assert HackRate.after(settings, [{}, *rows]).rate == rate.rate == 0.125
    rate.check(4)
    rate.add({"canary/hacked": 3.0, "canary/completions": 4.0})
    with pytest.raises(Hacked, match=r"after step 5: 50.0 % .* canaries.stop_rate \(30 %\).*look at 5/canary:q/0"):
        rate.check(5, "5/canary:q/0 (by answer)")


def test_settings_that_would_do_nothing_are_refused() -> None:
    with pytest.raises(SettingsError, match="share must be above 0"):
        from_overrides("rl", ["steps=1", "model.path=m", "data.path=d", "canaries.stop_rate=0.1"])


# --- in the loop -----------------------------------------------------------------------------------------------------


def hackable(folder: Path, model: Path, plugin: str, verifier: str, *overrides: str) -> Any:
    return make_recipe(folder, model, plugin, verifier, "canaries.share=0.5", "sample.group_size=8", *overrides)


def test_canaries_are_sampled_judged_and_never_trained_on(tiny_model: Path, plugin: str, tmp_path: Path) -> None:
    train(hackable(tmp_path / "with", tiny_model, plugin, "first", "steps=3"))
    train(make_recipe(tmp_path / "without", tiny_model, plugin, "first", "sample.group_size=8", "steps=3"))
    rows = [row for step in (1, 2, 3) for row in runs.read_rollouts(tmp_path / "with", step)]
    canary = [row for row in rows if row["role"] == "canary"]
    assert len(canary) == 3 * 2 * 8
    assert all(row["advantage"] is None and row["task"].startswith("canary:q") for row in canary)
    # whatever is in the figures of the others, canaries are not: the policy learns what it would learn without them
    with_them, without = steps_of(tmp_path / "with"), steps_of(tmp_path / "without")
    for ours, theirs in zip(exact(with_them), exact(without), strict=True):
        assert {name: ours[name] for name in theirs if name != "num_tokens"} == {
            name: value for name, value in theirs.items() if name != "num_tokens"
        }
        assert (ours["canary/groups"], ours["canary/completions"]) == (2.0, 16.0)
        assert ours["canary/hacked"] == 0.0 and ours["canary/hack_rate"] == 0.0


def test_a_verifier_that_is_talked_round_is_seen_while_the_policy_learns_to(
    tiny_model: Path, plugin: str, tmp_path: Path
) -> None:
    quiet = Quiet()
    settings = ("steps=20", "optim.lr=3e-3", "canaries.window=3")
    train(hackable(tmp_path / "run", tiny_model, plugin, "fooled", *settings), quiet)
    rates = [row["canary/hack_rate"] for row in steps_of(tmp_path / "run")]
    assert 0 < rates[0] < 0.5 < rates[-1]
    (told, *_) = [text for text in quiet.warned if "canary/hack_rate" in text]
    assert "is being talked round: `rlvr why` tells of 1/canary:q" in told
    assert "(by answer)" in told


def test_the_run_stops_before_it_learns_the_hack_and_stays_stopped(
    tiny_model: Path, plugin: str, tmp_path: Path
) -> None:
    wanted = hackable(tmp_path / "run", tiny_model, plugin, "fooled", "steps=20", "canaries.stop_rate=0.02")
    with pytest.raises(Hacked, match=r"canaries.stop_rate") as stopped:
        train(wanted)
    assert stopped.value.exit_code == 3
    done = len(steps_of(tmp_path / "run"))
    assert done < 5
    with pytest.raises(Hacked, match=f"after step {done}:"):
        train(wanted)
    assert len(steps_of(tmp_path / "run")) == done
    raised = hackable(tmp_path / "run", tiny_model, plugin, "fooled", "steps=20", "canaries.stop_rate=1.0")
    assert train(raised)["steps"] == 20


def test_own_canaries_are_drawn_from_their_file(tiny_model: Path, plugin: str, tmp_path: Path) -> None:
    own = [f"canaries.tasks.{name}" for name in (f"path={plugin}:impossible", "source=generator", "args={n: 3}")]
    train(hackable(tmp_path / "run", tiny_model, plugin, "first", *own))
    canary = [row for row in runs.read_rollouts(tmp_path / "run", 1) if row["role"] == "canary"]
    assert {row["prompt"] for row in canary} <= {f"never {k}:" for k in range(3)} and canary


def test_a_dry_run_looks_at_canaries(tiny_model: Path, plugin: str, tmp_path: Path) -> None:
    assert "canaries" not in dry_run(hackable(tmp_path / "run", tiny_model, plugin, "first"))
    with pytest.raises(DataError, match=r"canaries.tasks.path: no file or folder .*nix.jsonl"):
        dry_run(hackable(tmp_path / "run", tiny_model, plugin, "first", f"canaries.tasks={tmp_path / 'nix.jsonl'}"))
    with pytest.raises(SettingsError, match=r"canaries.share: no gold of the first"):
        dry_run(hackable(tmp_path / "run", tiny_model, plugin, "form"))
    (tmp_path / "own.jsonl").write_text('{"prompt": "p", "gold": "-"}\n')
    wanted = hackable(tmp_path / "run", tiny_model, plugin, "first", f"canaries.tasks={tmp_path / 'own.jsonl'}")
    assert dry_run(wanted)["canaries"] == 1
    assert wanted.canaries.tasks.verifier == f"{plugin}:first"  # judged as data is


def test_canaries_that_cannot_be_judged_are_counted_as_nothing(tiny_model: Path, plugin: str, tmp_path: Path) -> None:
    parts = [f"rewards.answer.verifier={plugin}:first", f"rewards.second.verifier={plugin}:form"]
    own = [f"canaries.tasks.{name}" for name in (f"path={plugin}:impossible", "source=generator", "args={n: 3}")]
    own.append(f"canaries.tasks.verifier={plugin}:settled")
    train(hackable(tmp_path / "run", tiny_model, plugin, "first", *parts, *own))
    assert [row["canary/completions"] for row in steps_of(tmp_path / "run")] == [16.0, 16.0]
    train(hackable(tmp_path / "own", tiny_model, plugin, "first", *own))
    assert [row["canary/completions"] for row in steps_of(tmp_path / "own")] == [0.0, 0.0]
    assert all("canary/hack_rate" not in row for row in steps_of(tmp_path / "own"))


def test_a_resumed_run_has_the_same_canaries_and_the_same_rate(tiny_model: Path, plugin: str, tmp_path: Path) -> None:
    settings = ("steps=5", "checkpoint.every=2", "canaries.window=4")
    train(hackable(tmp_path / "whole", tiny_model, plugin, "fooled", *settings))
    broken = hackable(tmp_path / "broken", tiny_model, plugin, "fooled", *settings)
    for words in ("sampling 20/", "sampling 40/"):
        with pytest.raises(Stopped):
            stopping_at(words, broken)
    train(broken)
    assert differences(tmp_path / "broken", tmp_path / "whole") == []


def test_a_module_may_say_what_its_canaries_are(tmp_path: Path) -> None:
    path = tmp_path / "shaped.py"
    path.write_text(
        "def canary_gold(task, nonce):\n    return {'value': nonce} if task.gold else None\n\n"
        "def shaped(response, gold):\n    return response == str(gold['value'])\n"
    )
    one = make([{"value": 3}], 1.0, verifier=f"{path}:shaped")
    ((task, _),) = one.draw(1, 1)
    assert task.gold["value"] > 10**17
    assert task.id == canaries.CANARY + "t0"


def test_a_composite_has_canaries_where_all_its_golds_are_the_task_s(plugin: str) -> None:
    def parts(**gold: str) -> dict[str, VerifiedReward]:
        form, answer = {"verifier": f"{plugin}:form"}, {"verifier": "exact", **gold}
        nested = {"verifier": "composite", "options": {"parts": {"answer": answer}}}
        return {"both": VerifiedReward(verifier="composite", options={"parts": {"form": form, "inner": nested}})}

    ((task, _),) = Canaries(recipe.Canaries(share=1.0), parts(), encoded(["1"]), (), seed=5).draw(1, 1)
    assert int(task.gold) > 10**17
    with pytest.raises(SettingsError, match=r"judged by .*hackable.py:form, exact"):
        Canaries(recipe.Canaries(share=1.0), parts(gold="other"), encoded(["1"]), (), seed=5)


@pytest.mark.parametrize(
    ("verifier", "gold", "right", "options"),
    [
        ("json", {"a": 1}, '{"a": 1}', {"mode": "fields"}),
        ("json", {"type": "object"}, '{"a": 1}', {"mode": "schema"}),
        ("json", {"schema": {"type": "object"}, "value": {"a": 1}}, '{"a": 1}', {}),
        ("table", [{"a": 1}], "a\n1\n", {"score": "cells"}),
        ("numeric", "12.5", r"\boxed{12.5}", {}),
    ],
)
def test_no_honest_data_pass_a_canary(verifier: str, gold: Any, right: str, options: dict[str, Any]) -> None:
    reward = VerifiedReward(verifier=verifier, options=options)
    task = Task(id="t0", prompt="?", gold=gold)
    one = Canaries(recipe.Canaries(share=1.0), {"answer": reward}, [(task, ())], (), seed=5)
    ((canary, _),) = one.draw(1, 1)
    verdicts = [apply(lookup(verifier), right, each, options) for each in (task, canary)]
    assert [verdict.score for verdict in verdicts] == [1.0, 0.0], verdicts


@pytest.mark.parametrize(
    ("verifier", "gold", "info", "right"),
    [
        ("python_tests", ["assert double(2) == 4", "assert double(1) == 2"], {}, "def double(x):\n    return 2 * x"),
        (
            "python_tests",
            "def check(candidate):\n    assert candidate(2) == 4\n",
            {"entry_point": "double"},
            "def double(x):\n    return 2 * x",
        ),
        ("python_tests", {"function": "add", "cases": [[[1, 2], 3]]}, {}, "def add(a, b):\n    return a + b"),
        ("stdin_stdout", {"inputs": ["2\n"], "outputs": ["4\n"]}, {}, "print(2 * int(input()))"),
    ],
)
def test_no_honest_program_passes_a_canary(verifier: str, gold: Any, info: dict[str, Any], right: str) -> None:
    task = Task(id="t0", prompt="?", gold=gold, verifier=verifier, info=info)
    one = Canaries(recipe.Canaries(share=1.0), {"answer": VerifiedReward()}, [(task, ())], (), seed=5)
    ((canary, _),) = one.draw(1, 1)
    for response, scores in ((right, (1.0, 0.0)), ("pass", (0.0, 0.0))):
        fenced = f"```python\n{response}\n```"
        verdicts = [apply(lookup(verifier), fenced, each, {"score": "pass_rate"}) for each in (task, canary)]
        assert tuple(verdict.score for verdict in verdicts) == scores
