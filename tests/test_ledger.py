"""`rlvr why` and `rlvr rescore`: a reward's story, and what another verifier would have said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_rl import make_recipe, steps_of, train

from rlvr import cli, rescore, runs
from rlvr.errors import DataError, SettingsError
from rlvr.why import render, why

PLUGIN = '''
import pathlib

def tasks(n, prefix="q"):
    for k in range(n):
        yield {"id": f"{prefix}{k}", "prompt": f"{prefix} {k}:", "gold": {"first": "abcdefghijklm"}, "level": k}

def early(response, gold, task):
    """The first character is early in the alphabet."""
    assert task.info["level"] == int(task.id[1:])
    print("looking at", repr(response[:1]))
    return response[:1] in gold["first"] if response else False

def late(response, gold):
    return not (response[:1] in gold["first"] if response else False)

def form(response):
    return len(response) > 3

def broken(response):
    raise RuntimeError("never works")

def fragile(response):
    if not response[:1].isascii():
        raise RuntimeError("cannot read this")
    return True

def moody(response):
    """Also looks at what is no part of the response."""
    return (pathlib.Path(__file__).parent / "mood").exists()
'''


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("plugin") / "toy.py"
    path.write_text(PLUGIN)
    return str(path)


@pytest.fixture(scope="module")
def run(tiny_model: Path, plugin: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps of two parts, with a penalty for length."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    parts = [f"rewards.answer.verifier={plugin}:early", f"rewards.form={{verifier: '{plugin}:form', weight: 0.5}}"]
    train(make_recipe(folder, tiny_model, plugin, "early", *parts, "sample.group_size=8", "overlong.buffer=0.5"))
    return folder


def recorded(run: Path, step: int) -> list[dict[str, Any]]:
    return runs.read_rollouts(run, step)


# --- why -------------------------------------------------------------------------------------------------------------


def test_the_terms_of_every_reward_add_up_to_it(run: Path) -> None:
    for row in recorded(run, 1):
        story = why(run, row["id"])
        assert [term["part"] for term in story["terms"]] == ["answer", "form", "overlong"]
        assert sum(term["value"] for term in story["terms"]) == pytest.approx(row["reward"])
        assert [term["weight"] for term in story["terms"]] == [1.0, 0.5, -1.0]
        assert [other["id"] for other in story["siblings"]] == [
            other["id"] for other in recorded(run, 1) if other["group"] == row["group"]
        ]


def test_a_story_names_verifier_version_input_and_what_was_printed(run: Path, plugin: str) -> None:
    row = next(row for row in recorded(run, 1) if row["response"])
    story = why(run, row["id"])
    answer = story["verdicts"][0]
    assert answer["verifier"] == f"{plugin}:early"
    assert len(answer["input_hash"]) == 16 and "+" in answer["version"]
    assert answer["stderr"].strip() == f"looking at {row['response'][:1]!r}"
    text = render(story)
    assert f"verifier {plugin}:early {answer['version']}" in text
    assert "looking at" in text and answer["input_hash"] in text


@pytest.mark.parametrize("sign", [1, -1])
def test_the_effect_says_which_way_the_policy_was_pushed(run: Path, sign: int) -> None:
    row = next(row for row in recorded(run, 1) if (row["advantage"] or 0) * sign > 0)
    direction = "up: more likely" if sign > 0 else "down: less likely"
    assert why(run, row["id"])["effect"].startswith(f"pushed {direction}")
    assert f"advantage {row['advantage']:+.4g}" in render(why(run, row["id"]))


def test_what_a_response_holds_cannot_steer_the_terminal(run: Path) -> None:
    story = why(run, recorded(run, 1)[0]["id"])
    story["response"] = "\x1b[2Jgone\x07 \u202e \ud800 fine"
    shown = render(story)
    assert "\x1b" not in shown and "\x07" not in shown and "\u202e" not in shown and "\ud800" not in shown
    assert "\\x1b[2Jgone" in shown and "fine" in shown


def test_an_id_that_is_not_there_is_answered_with_the_nearest(run: Path) -> None:
    known = recorded(run, 1)[0]["id"]
    with pytest.raises(DataError, match=f"did you mean '{known}'"):
        why(run, known + "0")
    with pytest.raises(DataError, match="has no rollouts of step 77"):
        why(run, "77/q1/0")
    with pytest.raises(DataError, match="STEP/TASK/SAMPLE"):
        why(run, "q1")
    with pytest.raises(DataError, match="is no run folder"):
        why(run.parent, known)


def test_the_command_prints_it_and_gives_it_as_json(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = recorded(run, 1)[0]["id"]
    with pytest.raises(SystemExit) as ended:
        cli.main(["why", str(run), known, "--json"])
    assert ended.value.code == 0
    *shown, last = capsys.readouterr().out.strip().split("\n")
    assert json.loads(json.dumps(why(run, known))).items() <= json.loads(last).items()
    assert shown[0].startswith(f"rollout {known} of {run}")


def test_an_optional_part_that_failed_for_a_sibling_is_no_term(tiny_model: Path, plugin: str, tmp_path: Path) -> None:
    parts = [
        f"rewards.answer.verifier={plugin}:early",
        f"rewards.extra={{verifier: '{plugin}:fragile', weight: 0.5, optional: true}}",
    ]
    train(make_recipe(tmp_path / "run", tiny_model, plugin, "early", *parts, "sample.group_size=8", "steps=1"))
    left_out = 0
    for row in recorded(tmp_path / "run", 1):
        story = why(tmp_path / "run", row["id"])
        assert sum(term["value"] or 0.0 for term in story["terms"]) == pytest.approx(row["reward"])
        if story["terms"][1]["left_out"]:
            left_out += 1
            assert "left out for the whole group" in render(story)
    assert left_out > 0


# --- rescore ---------------------------------------------------------------------------------------------------------


def reports(run: Path, verifier: str, part: str | None = None, **options: Any) -> list[rescore.StepReport]:
    return list(rescore.rescore(run, rescore.plan(run, verifier, part, options)))


def test_the_same_verifier_changes_nothing(run: Path, plugin: str) -> None:
    for report in reports(run, f"{plugin}:early"):
        assert (report.n, report.changed, report.flips, report.unstable) == (32, 0, 0, 0)
        assert report.reward[0] == pytest.approx(report.reward[1])
        assert report.reward[0] == pytest.approx(steps_of(run)[report.step - 1]["reward"])


def test_the_opposite_verifier_changes_everything_and_turns_advantages_round(run: Path, plugin: str) -> None:
    for report in reports(run, f"{plugin}:late", "answer"):
        rows = recorded(run, report.step)
        right = sum(row["verdicts"][0]["score"] for row in rows)
        assert (report.changed, report.up, report.down) == (32, 32 - right, right)
        # by hand: rewards of a group with the answer's score turned round, compared with their mean
        flips = 0
        for number in {row["group"] for row in rows}:
            group = [row for row in rows if row["group"] == number]
            turned = [row["reward"] + 1 - 2 * row["verdicts"][0]["score"] for row in group]
            for row, reward in zip(group, turned, strict=True):
                flips += (row["advantage"] or 0.0) * (reward - sum(turned) / len(turned)) < -1e-9
        assert report.flips == flips > 0
        assert {change.id for change in report.changes} == {row["id"] for row in rows}


def test_our_failure_is_no_score_and_its_rollouts_have_no_advantage(run: Path, plugin: str) -> None:
    for report in reports(run, f"{plugin}:broken", "answer"):
        assert report.unjudged == (0, 32)
        assert report.num_rewarded == (32, 0)
        assert report.reward[1] is None
        assert (report.up, report.flips) == (0, 0)
        assert all(change.after.outcome == "error" and change.reward[1] is None for change in report.changes)


def test_a_verifier_that_is_not_deterministic_is_told(plugin: str, tiny_model: Path, tmp_path: Path) -> None:
    train(make_recipe(tmp_path / "run", tiny_model, plugin, "moody"))
    (Path(plugin).parent / "mood").touch()
    for report in reports(tmp_path / "run", f"{plugin}:moody"):
        assert (report.unstable, report.changed, report.up) == (16, 16, 16)


def test_which_part_is_meant_must_be_plain(run: Path, plugin: str) -> None:
    assert rescore.plan(run, f"{plugin}:early").part == "answer"
    with pytest.raises(SettingsError, match=r"--part is needed.*has answer, form"):
        rescore.plan(run, f"{plugin}:late")
    with pytest.raises(SettingsError, match="no such verified part; did you mean 'form'"):
        rescore.plan(run, f"{plugin}:late", "from")
    with pytest.raises(SettingsError, match="has no such option"):
        rescore.plan(run, f"{plugin}:early", "answer", {"colour": "red"})


def test_steps_that_are_not_there_are_told(run: Path, plugin: str) -> None:
    plan = rescore.plan(run, f"{plugin}:early")
    with pytest.raises(DataError, match="no rollouts of step 9"):
        list(rescore.rescore(run, plan, [1, 9]))


def test_the_command_lists_changes_writes_them_and_leaves_the_run_alone(
    run: Path, plugin: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    out = tmp_path / "changes.jsonl"
    arguments = ["rescore", str(run), "-v", f"{plugin}:late", "--part", "answer", "--steps", "2"]
    with pytest.raises(SystemExit) as ended:
        cli.main([*arguments, "--out", str(out), "--json"])
    assert ended.value.code == 0
    last = json.loads(capsys.readouterr().out.strip().split("\n")[-1])
    assert (last["n"], last["changed"], last["part"]) == (32, 32, "answer")
    assert [step["step"] for step in last["steps"]] == [2]
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert {row["id"] for row in written} == {row["id"] for row in recorded(run, 2)}
    assert sum(row["flips"] for row in written) == last["flips"]
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_a_bad_step_list_is_one_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["rescore", str(run), "-v", "exact", "--part", "answer", "--steps", "a-b"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "rlvr: --steps must be numbers and ranges, such as 1,50,100-150, got 'a-b'\n"
