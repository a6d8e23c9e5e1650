"""`rlvr verify --explain`: the stages of one verdict as people read them."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlvr import cli
from rlvr.errors import DataError, SettingsError
from rlvr.verify import explain, read_cases, trace


@pytest.fixture
def staged(tmp_path: Path) -> str:
    """A verifier that tells its stages where it is asked to."""
    file = tmp_path / "staged.py"
    file.write_text(
        "import sys\n"
        "from rlvr import Verdict\n\n"
        "def judge(response, gold, *, explain: bool = False):\n"
        "    print('one line', file=sys.stderr)\n"
        "    stages = [{'stage': 'read', 'outcome': 'no', 'saw': [1]}, {'stage': 'compare', 'reason': 'same text'}]\n"
        "    checks = {'form': {'score': 1.0, 'reason': 'a box'}, **({'stages': stages} if explain else {})}\n"
        "    return Verdict(score=1.0, outcome='correct', reason='it is', answer='4', how='boxed', stage='compare',\n"
        "                   checks=checks)\n"
    )
    return f"{file}:judge"


def test_a_trace_shows_answer_stages_checks_and_who_judged(staged: str) -> None:
    lines = trace(explain("4", "4", staged))
    assert lines[:8] == [
        "score     1",
        "outcome   correct",
        "reason    it is",
        "answer    4   (found by: boxed)",
        "stage     compare",
        "  1. read  no  saw=[1]",
        "  2. compare  same text",
        "check     form: 1.0  a box",
    ]
    assert lines[-1].startswith(f"verifier  {staged} 1+")
    assert lines[-1].endswith(" ms")


def test_stages_are_asked_for_unless_an_option_says_otherwise(staged: str) -> None:
    assert len(explain("4", "4", staged)["checks"]["stages"]) == 2
    assert "stages" not in explain("4", "4", staged, {"explain": False})["checks"]


def test_math_tells_its_stages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["verify", "--explain", r"\frac{7}{2}", r"so \boxed{3.5}"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith("score     1\noutcome   correct\n")
    assert "\n  1. extract  " in out


def test_an_option_that_is_not_there_is_told() -> None:
    with pytest.raises(SettingsError, match=r"--option.explian: verifier 'math' has no such option; did you mean"):
        explain("4", "4", "math", {"explian": True})


@pytest.mark.parametrize(
    ("verifier", "gold", "response", "score"),
    [
        ("f1", '{"text": ["a cat", "dog"]}', "dog", 1.0),
        ("length", '{"at_most": 5}', "three short words", 1.0),
        ("choice", '["A", "C"]', r"\boxed{AC}", 1.0),
        ("math", "[1, 2]", r"\boxed{[1,2]}", 1.0),
        ("repetition", "", "all words differ here", 1.0),
    ],
)
def test_a_gold_of_the_command_line_is_what_its_json_says(
    verifier: str, gold: str, response: str, score: float
) -> None:
    options = {"multiple": True} if verifier == "choice" else {}
    assert explain(gold, response, verifier, options)["score"] == score


def test_rows_need_no_gold_where_the_verifier_needs_none(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text('{"response": "all words differ here"}\n')
    (case,) = read_cases(path, "repetition")
    assert case.gold is None
    with pytest.raises(DataError, match=r"cases.jsonl:1: no gold"):
        read_cases(path, "math")
