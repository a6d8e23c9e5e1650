"""The audit of verifiers: each kind of broken one is caught by the check that is named for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlvr import audit, audit_card, cli
from rlvr.audit_attacks import Right, of_right, of_size
from rlvr.audit_examples import Example, describe, examples_of
from rlvr.errors import DataError, PluginError, SettingsError
from rlvr.rewards.bound import lookup

HEAD = """
import asyncio, os, random, re, signal, sys, threading, time
from rlvr import Verdict, verifier
from rlvr.verifiers.extract import extract

def boxed(response, gold):
    if not isinstance(gold, str) or not gold.strip():
        return None
    found = extract(response)
    return bool(found) and found.answer == gold

def said(is_right, response, gold):
    if not isinstance(gold, str) or not gold.strip():
        return None
    found = extract(response)
    answer = found.answer if found else ""
    right = is_right(answer)
    return Verdict(score=float(right), outcome="correct" if right else "wrong", answer=answer or None)

SEEN = []
EXAMPLES = [
    ("42", r"so \\boxed{42}", 1.0), ("17", r"so \\boxed{17}", 1.0), ("4", r"so \\boxed{4}", 1.0),
    ("42", r"so \\boxed{41}", 0.0), ("42", "", 0.0),
]
"""
BROKEN = {
    "hedge": "return said(lambda answer: gold in re.split(' or |, ', answer), response, gold)",
    "echo": "return said(lambda answer: gold in response, response, gold)",
    "other_golds": "return said(lambda answer: answer.startswith(gold), response, gold)",
    "empty": "return said(lambda answer: answer == gold or (not response.strip() and gold == '17'), response, gold)",
    "junk": "return said(lambda answer: answer == gold or 'qwer' in response, response, gold)",
    "injection": "return said(lambda answer: answer == gold or '\"score\": 1' in response, response, gold)",
    "unicode": "return said(lambda answer: gold in (answer, answer.strip('\u202e\u202c')[::-1]), response, gold)",
    "numbers": "return said(lambda answer: gold in re.findall('[0-9]+', answer), response, gold)",
    "huge": "return said(lambda answer: answer == gold or len(response) > 500_000, response, gold)",
    "deep": "return said(lambda answer: answer == gold or response.count('[') > 9999, response, gold)",
    "accepts_gold": "return said(lambda answer: response == f'so \\\\boxed{{{gold}}}', response, gold)",
    "examples": "return said(lambda answer: answer != gold, response, gold)",
    "bad_golds": """
        try:
            return float(extract(response).answer) == float(gold)
        except Exception:
            return 0.0""",
}
BEHAVIOUR = {
    "range nan": "return float('nan') if len(response) < 3 else boxed(response, gold)",
    "range large": "return 1e9 if len(response) < 3 else boxed(response, gold)",
    "range list": "return [1.0] if boxed(response, gold) else 0.0",
    "range text": "return '1' if boxed(response, gold) else 0.0",
    "crash raises": "return 1 / (len(response) > 0) and boxed(response, gold)",
    "crash surrogates": "return response.encode() and boxed(response, gold)",
    "crash leaves": "return sys.exit(3) if 'know' in response else boxed(response, gold)",
    "crash dies": "return os._exit(3) if 'know' in response else boxed(response, gold)",
    "crash signs": """
        refused = 1 / (response.count('-') != 100)
        return said(lambda answer: answer == gold, response, gold)""",
    "deep applicable": """
        if 30 <= response.count('ln') <= 600:
            return None
        return said(lambda answer: answer == gold, response, gold)""",
    "crash recursion": "return nested(response, 0) and boxed(response, gold)",
    "deadline loop": """
        while len(response) > 500_000:
            pass
        return boxed(response, gold)""",
    "deadline sleep": "return time.sleep(60 if len(response) > 500_000 else 0) or boxed(response, gold)",
    "deadline quadratic": "return bool(re.search(r'(9+)*x$', response[:40])) or boxed(response, gold)",
    "determinism": "return boxed(response, gold) and random.random()",
    "processes": "return boxed(response, gold) and hash(response) % 2 == 0",
    "order": """
        SEEN.append(gold)
        return boxed(response, SEEN[0])""",
    "threads": """
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.alarm(5)
        try:
            return boxed(response, gold)
        finally:
            signal.alarm(0)""",
    "threads swallowed": """
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
        except ValueError:
            return 0.0
        return boxed(response, gold)""",
    "asyncio": """
        async def later():
            return boxed(response, gold)
        return asyncio.run(later())""",
    "seeds": "return boxed(response, gold) and seed % 2 == 0",
    "mutation": """
        task.info['seen'] = task.info.get('seen', 0) + 1
        return boxed(response, gold)""",
    "quiet": """
        print('judging', response)
        return boxed(response, gold)""",
    "leaves alarm": """
        signal.alarm(50)
        return boxed(response, gold)""",
    "leaves folder": """
        os.chdir('/')
        return boxed(response, gold)""",
    "leaves recursion": """
        sys.setrecursionlimit(5000)
        return boxed(response, gold)""",
}
NESTED = "\ndef nested(text, at):\n    return at >= len(text) or text[at] != '[' or nested(text, at + 1)\n"


def write(
    folder: Path, body: str, *, head: str = HEAD, tail: str = "", how: str = "timeout=0.8, wall_seconds=1.6"
) -> str:
    """A verifier with this body, as file.py:judge."""
    lines = "\n".join(line.removeprefix("    ") for line in body.splitlines())
    code = f"{head}{NESTED}\n@verifier('audited/{folder.name}', {how})\n"
    code += f"def judge(response, gold{', task' * ('task' in body)}{', seed' * ('seed' in body)}):\n    {lines}\n{tail}"
    file = folder / "plugin.py"
    file.write_text(code)
    return f"{file}:judge"


def failed(name: str) -> dict[str, audit_card.Check]:
    return {check.name: check for check in audit.audit(name).checks if check.status == "failed"}


def test_a_sound_verifier_passes_every_check(tmp_path: Path) -> None:
    card = audit.audit(write(tmp_path, "return boxed(response, gold)"))
    assert card.failed == []
    assert {check.name: check.why for check in card.checks if check.status == "skipped"}.keys() == {"hedge", "seeds"}
    assert (card.false_positives, card.false_negatives) == (0, 0)
    assert 200 < card.num_inputs < 1000
    assert card.timeout == 0.8


def test_a_verifier_that_says_what_it_read_is_asked_for_hedges(tmp_path: Path) -> None:
    card = audit.audit(write(tmp_path, "return said(lambda answer: answer == gold, response, gold)"))
    assert card.failed == []
    assert next(check for check in card.checks if check.name == "hedge").num_inputs > 10


@pytest.mark.slow
@pytest.mark.parametrize("check", BROKEN)
def test_a_verifier_that_accepts_too_much_or_too_little_is_caught(tmp_path: Path, check: str) -> None:
    found = failed(write(tmp_path, BROKEN[check]))
    assert check in found
    assert all(fault.due and fault.got for fault in found[check].faults)


@pytest.mark.slow
@pytest.mark.parametrize("case", BEHAVIOUR)
def test_a_verifier_that_misbehaves_is_caught(tmp_path: Path, case: str) -> None:
    check = case.partition(" ")[0]
    found = failed(write(tmp_path, BEHAVIOUR[case]))
    assert check in found
    also_in_examples = "range crash determinism processes order seeds".split()
    assert "examples" not in found or check in also_in_examples


@pytest.mark.slow
def test_after_three_inputs_that_hang_the_rest_is_not_tried(tmp_path: Path) -> None:
    card = audit.audit(
        write(tmp_path, "return time.sleep(60) if response not in ('so', '') else boxed(response, gold)")
    )
    assert "deadline" in card.failed
    assert card.num_inputs < 30


def test_a_verifier_without_examples_is_told_so_and_can_be_given_golds(tmp_path: Path) -> None:
    name = write(tmp_path, "return boxed(response, gold)", head=HEAD.partition("EXAMPLES")[0])
    card = audit.audit(name)
    assert card.failed == ["examples"]
    skipped = [check.name for check in card.checks if check.status == "skipped"]
    assert {"empty", "hedge", "bad_golds", "determinism"} <= set(skipped)
    card = audit.audit(name, golds=["42", 7])
    assert set(card.failed) == {"examples"}  # 7 is no text, which this one has no answer for
    assert card.num_inputs > 100


def test_what_a_verifier_is_excused_from_is_shown_with_the_reason(tmp_path: Path) -> None:
    body = "return gold in response if isinstance(gold, str) and gold.strip() else None"
    card = audit.audit(write(tmp_path, body, tail="\nWAIVED = {'answers': 'a word anywhere is what it wants'}\n"))
    assert card.failed == []
    assert {check.why for check in card.checks if check.name in ("echo", "other_golds")} == {
        "a word anywhere is what it wants"
    }
    lines = list(audit_card.report(card))
    assert any(line.startswith("skipped echo") and line.endswith("a word anywhere is what it wants") for line in lines)


def test_one_check_is_waived_and_still_shows_what_it_found(tmp_path: Path) -> None:
    tail = "\nWAIVED = {'junk': 'it knows that it does not know'}\n"
    card = audit.audit(write(tmp_path, BROKEN["junk"], tail=tail))
    assert card.failed == []
    junk = next(check for check in card.checks if check.name == "junk")
    assert (junk.status, junk.why) == ("waived", "it knows that it does not know")
    assert "asdf qwer zxcv" in junk.faults[0].input


def test_a_waiver_of_no_check_is_a_mistake(tmp_path: Path) -> None:
    name = write(tmp_path, "return True", tail="\nWAIVED = {'hedges': 'it may'}\n")
    with pytest.raises(DataError, match=r"WAIVED names 'hedges', which is no check; known: examples, "):
        audit.audit(name)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("('42', 'x')", "must be \\(gold, response, score\\)"),
        ("('42', 42, 1.0)", "the response must be text, got int"),
        ("('42', 'x', 2.0)", "the score must be in \\[0, 1\\] or None, got 2.0"),
        ("('42', 'x', 1.0, 3)", "must be a mapping, got int"),
        ("('42', 'x', 1.0, {'options': {}, 'infos': {}})", "'infos' is none of options, prompt, info"),
    ],
)
def test_an_example_that_is_none_is_named(tmp_path: Path, line: str, told: str) -> None:
    name = write(tmp_path, "return True", tail=f"\nEXAMPLES = [('1', '1', 1.0), {line}]\n")
    with pytest.raises(DataError, match=f"EXAMPLES\\[1\\].*{told}"):
        examples_of(lookup(name))


def test_examples_may_have_options_a_prompt_and_columns(tmp_path: Path) -> None:
    tail = """
EXAMPLES = {bound: [("1", "1", 1, {"x": 2}), ("1", "1", None, {"prompt": "p", "info": {"a": 1}})] for bound in (NAME,)}
"""
    name = write(tmp_path, "return True", tail="")
    file = Path(name.rpartition(":")[0])
    file.write_text(file.read_text() + tail.replace("NAME", "judge.verifier_name"))
    assert examples_of(lookup(name)) == [
        Example(gold="1", response="1", score=1.0, options={"x": 2}),
        Example(gold="1", response="1", score=None, prompt="p", info={"a": 1}),
    ]


def test_examples_are_found_where_a_helper_made_the_function() -> None:
    examples = examples_of(lookup("python_tests"))
    assert examples[0].gold["function"] == "add"
    assert describe("python_tests")["summary"].startswith("the response's program defines functions")


# --- attacks


def test_attacks_put_other_answers_in_the_place_of_the_right_one() -> None:
    one = Right(Example(gold="42", response=r"so \boxed{42}, I say", score=1.0), "42")
    two = Right(Example(gold="x", response=r"\boxed{x}", score=1.0), "x")
    attacks = {(a.check, a.response): a.due for a in of_right(one, [two], has_answers=True)}
    assert attacks["hedge", r"so \boxed{42 or x}, I say"] == "refused"
    assert attacks["hedge", r"\boxed{x} or \boxed{42}"] == "refused"
    assert attacks["other_golds", r"\boxed{x}"] == "refused"
    assert attacks["empty", ""] == "refused"
    assert attacks["unicode", "so \\boxed{\uff14\uff12}, I say"] == "judged"
    assert attacks["unicode", "so \\boxed{\u202e24\u202c}, I say"] == "refused"
    assert all(due != "accepted" for due in attacks.values())


def test_an_attack_that_says_the_right_answer_is_left_out() -> None:
    right = Right(Example(gold="unknown", response=r"\boxed{unknown}", score=1.0), "unknown")
    responses = {a.response for a in of_right(right, [], has_answers=True)}
    assert not {"unknown", r"\boxed{unknown}"} & responses


def test_long_attacks_are_as_long_as_they_say() -> None:
    right = Right(Example(gold="42", response=r"\boxed{42}", score=1.0), "42")
    sizes = {len(a.response.encode()) >> 10 for a in of_size(right, has_answers=True) if a.check == "huge"}
    assert {64, 1023} <= sizes | {size - 1 for size in sizes if size == 1024}
    assert max(sizes) <= 1024


def test_answers_are_nested_as_deep_as_a_verifier_may_let_pass_also_without_brackets() -> None:
    right = Right(Example(gold="42", response=r"so \boxed{42}", score=1.0), "42")
    deep = {a.response: a.due for a in of_size(right, has_answers=True) if a.check == "deep"}
    for depth in (30, 100, 200, 600, 20_000):
        for answer in ("(" * depth + "zq" + ")" * depth, "-" * depth + "7919", r"\ln " * depth + "7919"):
            assert deep[rf"so \boxed{{{answer}}}"] == "refused"


def test_the_options_of_every_example_are_looked_at(tmp_path: Path) -> None:
    tail = """
EXAMPLES.append(("42", "", 0.0, {"base": 0}))
def start_problem(options):
    return "base must be above 0" if options.get("base") == 0 else ""
"""
    name = write(tmp_path, "return boxed(response, gold)", tail=tail)
    file = Path(name.rpartition(":")[0])
    file.write_text(
        file.read_text().replace("def judge(response, gold)", "def judge(response, gold, *, base: int = 2)")
    )
    with pytest.raises(SettingsError, match="base must be above 0"):
        audit.audit(name)


# --- the command


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main(["verifiers", *arguments])
    said = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, said.out, said.err


def test_the_card_names_the_input_and_what_came_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = write(tmp_path, BROKEN["echo"])
    code, out, err = command(capsys, "test", name, "--json")
    assert code == 3
    assert err.startswith(f"rlvr: verifier {name!r} failed ")
    assert "I was asked whether it might be 42, but I cannot tell." in out
    assert "should be a score below 0.5, is 1, correct" in out
    card = json.loads(out.splitlines()[-1])
    assert "echo" in card["failed"]
    assert [check["name"] for check in card["checks"]] == list(audit_card.CHECKS)
    assert card["false_positives"] > 0


def test_a_verifier_that_nobody_knows_or_that_lacks_an_option_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = command(capsys, "test", "boxd")
    assert (code, err.startswith("rlvr: no verifier named 'boxd'; did you mean 'boxed'?")) == (2, True)
    code, _, err = command(capsys, "test", "boxed", "--option", "x=1")
    assert (code, err) == (2, "rlvr: --option.x: verifier 'boxed' has no such option; it has none\n")
    with pytest.raises(PluginError, match="no verifier named"):
        audit.audit("boxd")
    with pytest.raises(SettingsError, match=r"--gold .*must be text or a number"):
        audit.audit("exact", golds=[[1]])


def test_the_list_tells_of_every_verifier(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = command(capsys, "list", "--json")
    assert code == 0
    found = {one["name"]: one for one in json.loads(out.splitlines()[-1])["verifiers"]}
    assert found["boxed"]["gold"] == "none"
    assert found["boxed"]["version"].startswith("1+")
    assert found["exact"]["summary"].startswith("the answer, or else all that the response says, is the gold, char")
    assert found["python_tests"]["options"]["score"] == {
        "type": "'all' | 'pass_rate' | 'threshold'", "default": "'all'",
    }  # fmt: skip
    assert "url" in found["http"]["needs"]
