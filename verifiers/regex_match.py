r"""regex: the answer, or the whole response, matches a pattern.

Gold: the pattern; not read where the option pattern names one.

Patterns are RE2's (https://github.com/google/re2/wiki/Syntax), whose time grows with the text and no faster; it has no
backreferences and no lookaround. Flags stand in the pattern: (?i) for any case, (?s) for a dot that matches line ends.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Literal

from rlvr.plugins import verifier
from rlvr.types import Task, Verdict
from rlvr.verifiers.answer_text import short
from rlvr.verifiers.extract import extract

_LONGEST_PATTERN = 10_000
_LONGEST_TEXT = 1 << 20
_NEVER = {
    "(?=": "lookahead", "(?!": "lookahead", "(?<=": "lookbehind", "(?<!": "lookbehind", "(?P=": "a backreference",
    "(?>": "an atomic group", "(?(": "a condition",
}  # fmt: skip


@verifier("regex", version="1")
def regex(
    response: str,
    gold: Any = None,
    *,
    pattern: str | None = None,
    text: Literal["answer", "response"] = "answer",
    mode: Literal["full", "search"] = "full",
) -> Verdict:
    """full: the whole of the text matches; search: some of it does. The text is the answer, or the whole response with
    its thinking; blanks around it do not count.
    """
    wanted, compiled = _pattern(gold, pattern)
    if isinstance(compiled, str):
        return Verdict(score=None, outcome="gold_invalid", reason=compiled)
    found = extract(response) if text == "answer" else None
    if text == "answer" and found is None:
        return Verdict(score=0.0, outcome="no_answer", reason="the response commits to no answer")
    subject, how = (response.strip(), "response") if found is None else (found.answer, found.how)
    if len(subject) > _LONGEST_TEXT:
        reason = f"{len(subject)} characters, and at most {_LONGEST_TEXT} are matched"
        return Verdict(score=0.0, outcome="too_complex", reason=reason, how=how)
    try:
        match = compiled.fullmatch(subject) if mode == "full" else compiled.search(subject)
    except UnicodeEncodeError:
        reason = "half a surrogate pair, which is no valid text"
        return Verdict(score=0.0, outcome="malformed", reason=reason, how=how)
    return Verdict(
        score=float(match is not None),
        outcome="wrong" if match is None else "correct",
        reason=f"the {text} {'does not match' if match is None else 'matches'} {short(wanted)}",
        answer=subject,
        how=how,
        stage=mode,
    )


def _pattern(gold: Any, option: str | None) -> tuple[str, Any]:
    """(the pattern, RE2's of it or one sentence on why there is none)"""
    wanted = gold if option is None else option
    if not isinstance(wanted, str) or not wanted:
        what = "the gold is empty" if wanted in (None, "") else f"the gold is no text but {type(wanted).__name__}"
        return "", f"no pattern: {what}, and no option names one"
    return wanted, compile_pattern(wanted)


@functools.lru_cache(maxsize=1024)
def compile_pattern(pattern: str) -> Any:
    """RE2's pattern, or one sentence on what is wrong with it and where; positions count characters from 0."""
    import re2

    if len(pattern) > _LONGEST_PATTERN:
        return f"the pattern has {len(pattern)} characters, and at most {_LONGEST_PATTERN} are read"
    quiet = re2.Options()
    quiet.log_errors = False
    try:
        return re2.compile(pattern, quiet)
    except UnicodeEncodeError as error:
        return f"the pattern has half a surrogate pair at character {error.start}"
    except re2.error as error:
        return _told(pattern, error)


def _told(pattern: str, error: Exception) -> str:
    message = error.args[0].decode(errors="replace") if error.args and isinstance(error.args[0], bytes) else str(error)
    what, _, piece = message.rpartition(": ")
    piece = next((sign for sign in _NEVER if sign.startswith(piece) and sign in pattern), piece) if what else ""
    is_plain = piece not in ("", pattern) and pattern.count(piece) == 1  # RE2 names the piece, not where it stands
    where = f" at character {pattern.index(piece)}" if is_plain else ""
    told = f"the pattern is no regular expression of RE2{where}: {message[:200]}"
    named = next((name for sign, name in _NEVER.items() if piece.startswith(sign)), None)
    if named is None and len(piece) == 2 and piece[0] == "\\" and piece[1] in "123456789k":
        named = "a backreference"
    return f"{told} ({named}, which has no place on an engine that is linear in the text)" if named else told


def warm_up() -> None:
    """The engine is loaded before a response is judged."""
    compile_pattern("a")


def start_problem(options: Mapping[str, Any]) -> str:
    """A pattern that RE2 cannot read."""
    pattern = options.get("pattern")
    if pattern is None:
        return ""
    compiled = compile_pattern(pattern) if pattern else "it is empty"
    return f"option pattern: {compiled}" if isinstance(compiled, str) else ""


def gold_problem(verifier: str, task: Task, options: Mapping[str, Any] | None = None) -> str:
    """Why there is no pattern, of the gold or of the options."""
    compiled = _pattern(task.gold, (options or {}).get("pattern"))[1]
    return compiled if isinstance(compiled, str) else ""


WAIVED = {"accepts_gold": "the gold is a pattern, which need not match itself"}
EXAMPLES = [  # gold, response, score: right, wrong, malformed, trying to cheat
    (r"[0-9]{4}-[0-9]{2}", r"in \boxed{2024-05}", 1.0),
    (r"(?i)ya?es", "<think>no</think> The answer is YES.", 1.0),
    (r"[0-9]{4}-[0-9]{2}", r"in \boxed{2024-5}", 0.0),
    (r"[0-9]{4}", r"\boxed{12345}", 0.0),
    (r"[0-9]{4}", "1234", 0.0),
    (r"[0-9]{4}", "", 0.0),
    (r"(a+)+b", r"\boxed{" + "a" * 5000 + "}", 0.0),
    (r"[0-9]{4}", r"\boxed{[0-9]{4}}", 0.0),
    (r"[0-9]{4}", r"<think>\boxed{1234}", 0.0),
]
