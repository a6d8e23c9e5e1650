"""`rlvr sample`: the same seeds give the same texts, whatever happens in between; and what becomes of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rlvr import cli, failpoints
from rlvr.loops import sample as sampling
from rlvr.preferences import load_preferences
from rlvr.recipe import Data, VerifiedReward
from rlvr.reward_settings import PreferenceData
from rlvr.tasks import load_demonstrations
from rlvr.types import Completion, Group, Rollout, Task, Verdict

PROMPTS = ("one", "two", "three", "four", "five")
VERIFIER = '''
def letters(response):
    """Share of the response that is a letter."""
    return sum(c.isalpha() for c in response) / len(response) if response else 0.0

def picky(response):
    if len(response) % 2:
        raise RuntimeError("broken")
    return letters(response)
'''


@pytest.fixture(autouse=True)
def _fresh_failpoints() -> None:
    failpoints._reached.clear()


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join(json.dumps({"id": f"t{k}", "prompt": text}) + "\n" for k, text in enumerate(PROMPTS)))
    return path


@pytest.fixture
def judge(tmp_path: Path) -> str:
    (tmp_path / "judge.py").write_text(VERIFIER)
    return str(tmp_path / "judge.py")


def arguments(model: Path, tasks: Path, out: Path, *more: str) -> list[str]:
    named = ["sample", "--model", str(model), "--tasks", str(tasks), "--out", str(out)]
    return [*named, "-n", "3", "--max-tokens", "6", "--engine", "hf", *more]


def sample(*given: Any) -> int:
    with pytest.raises(SystemExit) as done:
        cli.main(arguments(*given))
    return int(done.value.code or 0)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_task_has_its_completions_in_the_form_that_labelling_takes(
    tiny_model: Path, tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sample(tiny_model, tasks, tmp_path / "out.jsonl", "--json") == 0
    found = rows(tmp_path / "out.jsonl")
    assert [(row["id"], row["prompt"]) for row in found] == [(f"t{k}", text) for k, text in enumerate(PROMPTS)]
    assert all(set(row) == {"id", "prompt", "completions", "finish"} for row in found)
    assert all(len(row["completions"]) == len(row["finish"]) == 3 for row in found)
    assert len({text for row in found for text in row["completions"]}) > 10
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (figures["n_tasks"], figures["n_rows"], figures["n_samples"]) == (5, 5, 3)
    cut = sum(finish == "length" for row in found for finish in row["finish"])
    assert figures["truncated"] == pytest.approx(cut / 15)
    assert sorted(file.name for file in tmp_path.iterdir()) == [".out.jsonl.made", "out.jsonl", "tasks.jsonl"]


def test_texts_depend_on_seed_task_and_number_alone(tiny_model: Path, tasks: Path, tmp_path: Path) -> None:
    first, alone, other = (tmp_path / name for name in ("first.jsonl", "alone.jsonl", "other.jsonl"))
    assert sample(tiny_model, tasks, first) == 0
    lines = tasks.read_text().splitlines(keepends=True)
    tasks.write_text(lines[3])
    assert sample(tiny_model, tasks, alone, "eval.samples=2") == 0
    expected = rows(first)[3]
    assert rows(alone)[0]["completions"] == expected["completions"][:2]
    assert sample(tiny_model, tasks, other, "--seed", "1") == 0
    assert rows(other)[0]["completions"] != expected["completions"]


def test_a_full_disk_keeps_what_is_done_and_the_same_command_ends_with_the_same_file(
    tiny_model: Path,
    tasks: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    assert sample(tiny_model, tasks, whole) == 0
    failpoints._reached.clear()
    monkeypatch.setenv("RLVR_FAILPOINT", "grouplog.append:enospc@3")
    assert sample(tiny_model, tasks, out) == 4
    assert "No space left" in capsys.readouterr().err
    assert not out.exists()
    monkeypatch.delenv("RLVR_FAILPOINT")
    assert sample(tiny_model, tasks, out) == 0
    assert "2 of 5 tasks were sampled before" in capsys.readouterr().out
    assert out.read_bytes() == whole.read_bytes()


def test_a_finished_file_is_never_replaced(
    tiny_model: Path, tasks: Path, tmp_path: Path, judge: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    best = ["--best-of", f"{judge}:letters"]
    assert sample(tiny_model, tasks, out, "--json", *best) == 0
    figures, before = json.loads(capsys.readouterr().out.splitlines()[-1]), out.read_bytes()
    assert sample(tiny_model, tasks, out, "--json", *best) == 0
    told = capsys.readouterr().out
    assert "is made already, with these settings" in told
    assert json.loads(told.splitlines()[-1]) == figures
    for other in (["--seed", "1", *best], ["eval.samples=2", *best], ["--min-score", "0.5", *best], []):
        assert sample(tiny_model, tasks, out, *other) != 0
        assert f"--out {out} exists and was made with other settings: remove it" in capsys.readouterr().err
    Path(judge).write_text(VERIFIER.replace("isalpha", "isdigit"))
    assert sample(tiny_model, tasks, out, *best) != 0
    assert out.read_bytes() == before
    out.unlink()
    assert sample(tiny_model, tasks, out, *best) == 0
    assert [row["score"] for row in rows(out)] != [row["score"] for row in map(json.loads, before.splitlines())]


def test_what_other_settings_sampled_is_not_taken(
    tiny_model: Path, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    assert sample(tiny_model, tasks, whole, "--seed", "1") == 0
    failpoints._reached.clear()
    monkeypatch.setenv("RLVR_FAILPOINT", "grouplog.append:enospc@3")
    assert sample(tiny_model, tasks, out) == 4
    monkeypatch.delenv("RLVR_FAILPOINT")
    assert sample(tiny_model, tasks, out, "--seed", "1") == 0
    assert "2 groups are of another run" in capsys.readouterr().out
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.slow
def test_a_killed_command_goes_on_and_ends_with_the_same_file(tiny_model: Path, tasks: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    assert sample(tiny_model, tasks, whole) == 0
    command = [sys.executable, "-m", "rlvr", *arguments(tiny_model, tasks, out)]
    killed = subprocess.run(
        command, env={**os.environ, "RLVR_FAILPOINT": "grouplog.append:kill@4"}, check=False, timeout=120
    )
    assert killed.returncode == -signal.SIGKILL
    assert not out.exists()
    assert sample(tiny_model, tasks, out) == 0
    assert out.read_bytes() == whole.read_bytes()


def share_of_letters(text: str) -> float:
    return sum(c.isalpha() for c in text) / len(text) if text else 0.0


def test_the_best_of_n_are_demonstrations(tiny_model: Path, tasks: Path, tmp_path: Path, judge: str) -> None:
    everything, best = tmp_path / "all.jsonl", tmp_path / "best.jsonl"
    assert sample(tiny_model, tasks, everything) == 0
    assert sample(tiny_model, tasks, best, "--best-of", f"{judge}:letters") == 0
    expected = [max(row["completions"], key=share_of_letters) for row in rows(everything)]
    assert [row["completion"] for row in rows(best)] == expected
    assert [row["score"] for row in rows(best)] == pytest.approx([share_of_letters(text) for text in expected])
    loaded = load_demonstrations(Data(path=str(best))).rows
    assert [(row.id, row.prompt, row.completion) for row in loaded] == [
        (f"t{k}", PROMPTS[k], expected[k]) for k in range(5)
    ]


def test_the_best_and_the_worst_are_a_comparison(tiny_model: Path, tasks: Path, tmp_path: Path, judge: str) -> None:
    everything, pairs = tmp_path / "all.jsonl", tmp_path / "pairs.jsonl"
    assert sample(tiny_model, tasks, everything) == 0
    assert sample(tiny_model, tasks, pairs, "--pairs-by", f"{judge}:letters") == 0
    expected = {
        row["id"]: (max(row["completions"], key=share_of_letters), min(row["completions"], key=share_of_letters))
        for row in rows(everything)
        if len({share_of_letters(text) for text in row["completions"]}) > 1
    }
    assert expected
    assert {row["id"]: (row["chosen"], row["rejected"]) for row in rows(pairs)} == expected
    assert all(row["score_chosen"] > row["score_rejected"] for row in rows(pairs))
    loaded = load_preferences(PreferenceData(path=str(pairs))).rows
    assert {row.id: (row.chosen, row.rejected) for row in loaded} == expected


def test_tasks_whose_best_is_not_good_enough_have_no_row(
    tiny_model: Path, tasks: Path, tmp_path: Path, judge: str
) -> None:
    best, good = tmp_path / "best.jsonl", tmp_path / "good.jsonl"
    assert sample(tiny_model, tasks, best, "--best-of", f"{judge}:letters") == 0
    limit = sorted(row["score"] for row in rows(best))[2]
    assert sample(tiny_model, tasks, good, "--best-of", f"{judge}:letters", "--min-score", str(limit)) == 0
    assert rows(good) == [row for row in rows(best) if row["score"] >= limit]


def test_what_could_not_be_judged_is_no_best_one(
    tiny_model: Path, tasks: Path, tmp_path: Path, judge: str, capsys: pytest.CaptureFixture[str]
) -> None:
    everything, best = tmp_path / "all.jsonl", tmp_path / "best.jsonl"
    assert sample(tiny_model, tasks, everything) == 0
    assert sample(tiny_model, tasks, best, "--best-of", f"{judge}:picky", "--json") == 0
    even = {row["id"]: [text for text in row["completions"] if len(text) % 2 == 0] for row in rows(everything)}
    assert {row["id"]: row["completion"] for row in rows(best)} == {
        id: max(texts, key=share_of_letters) for id, texts in even.items() if texts
    }
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["unjudged"] == 15 - sum(map(len, even.values())) > 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--best-of", "math", "--pairs-by", "math"], "give one of them"),
        (["--min-score", "1"], "--min-score goes with"),
        (["--best-of", "maths"], "maths"),
        (["--best-of", "math"], "no gold"),
        (["-n", "1", "--pairs-by", "boxed"], "-n must be at least 2"),
        (["--engine", "vlm"], "vlm"),
    ],
)
def test_what_does_not_fit_is_one_line_before_anything_is_sampled(
    more: list[str], message: str, tiny_model: Path, tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sample(tiny_model, tasks, tmp_path / "out.jsonl", *more) != 0
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()


def test_a_folder_that_is_no_reward_model_is_told_of(
    tiny_model: Path, tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rm" / "model").mkdir(parents=True)
    (tmp_path / "rm" / "model" / "config.json").write_text("{}")
    assert sample(tiny_model, tasks, tmp_path / "out.jsonl", "--best-of", str(tmp_path / "rm")) != 0
    assert f"did you mean {tmp_path / 'rm' / 'model'}?" in capsys.readouterr().err
    assert sample(tiny_model, tasks, tmp_path / "out.jsonl", "--best-of", str(tiny_model)) != 0
    assert "no classifier" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("texts", "is_row"), [(("4 ", "4"), False), (("4", ""), False), (("", "4"), False), (("4", "5"), True)]
)
def test_pairs_that_no_loader_would_take_are_not_written(texts: tuple[str, str], is_row: bool) -> None:
    rollouts = []
    for k, text in enumerate(texts):
        numbers = {"token_ids": (1,), "logprobs": (0.0,), "trained": (True,), "versions": ((0, 0),)}
        completion = Completion(text=text, finish="stop", **numbers)
        verdict = Verdict(score=1.0 - k, outcome="partial", reason="planted")
        rollouts.append(
            Rollout(id=f"0/t/{k}", completion=completion, verdicts={sampling._PART: verdict}, reward=1.0 - k)
        )
    group = Group(task=Task(id="t", prompt="2+2="), prompt_ids=(1,), rollouts=tuple(rollouts))
    pick = sampling.Pick(form="pairs", by=VerifiedReward(verifier="math"))
    row = sampling._row(group, pick, sampling._Counts())
    assert (row is not None) == is_row
