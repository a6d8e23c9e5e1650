r"""tags: the form alone. Each tag opens and closes once, in order, with something in it; there is no gold.

<think>7 times 6</think><answer>42</answer> has the form of tags: [think, answer]. The rules, which are the names of the
verdict's checks: once:TAG (one <TAG> and one </TAG>), order (no tag within or before another that comes first),
body:TAG (not blank), before, between and after (blanks alone outside the tags, unless an option allows text there).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal

from rlvr.plugins import verifier
from rlvr.types import Verdict
from rlvr.verifiers.ifeval_text import visible

_TAG = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_DEFAULT = ["think", "answer"]


@verifier("tags", version="1")
def tag_grammar(
    response: str,
    *,
    tags: list[str] = _DEFAULT,
    score: Literal["all", "share"] = "all",
    before: bool = False,
    between: bool = False,
    after: bool = False,
    prefilled: bool = False,
) -> Verdict:
    """all: 1 where every rule is met; share: the share of the rules that are. before, between, after: text may stand
    there. prefilled: the prompt has opened the first tag, so the response starts within it.
    """
    text = f"<{tags[0]}>{response}" if prefilled else response
    checks = dict(_rules(text, tags, {"before": before, "between": between, "after": after}))
    broken = [check["reason"] for check in checks.values() if check["score"] == 0]
    share = 1 - len(broken) / len(checks)
    points = float(not broken) if score == "all" else share
    if broken:
        more = f", and {len(broken) - 1} more" if len(broken) > 1 else ""
        reason = f"{broken[0]}{more}"
    else:
        reason = f"{', '.join(f'<{tag}>' for tag in tags)} as wanted"
    has_none = not any(f"<{tag}>" in response for tag in tags)
    outcome = "correct" if points == 1 else "partial" if points > 0 else "no_answer" if has_none else "malformed"
    return Verdict(score=points, outcome=outcome, reason=reason, stage="tags", checks=checks)


def _rules(text: str, tags: list[str], allowed: Mapping[str, bool]) -> list[tuple[str, dict[str, Any]]]:
    """(rule, {"score", "reason"}). A rule that rests on one that is broken is broken too: no form, no credit for it."""
    spans: dict[str, tuple[int, int, int, int]] = {}  # <, behind >, </, behind >
    problems: dict[str, str] = {}
    for tag in tags:
        opens, closes = text.count(f"<{tag}>"), text.count(f"</{tag}>")
        problems[f"once:{tag}"] = (
            "" if (opens, closes) == (1, 1) else f"one <{tag}> and one </{tag}> are wanted, got {opens} and {closes}"
        )
        if opens == closes == 1:
            start, end = text.find(f"<{tag}>"), text.find(f"</{tag}>")
            spans[tag] = (start, start + len(tag) + 2, end, end + len(tag) + 3)
    marks = [mark for tag in tags if tag in spans for mark in spans[tag]]
    in_order = len(spans) == len(tags) and marks == sorted(marks)
    wanted = " ".join(f"<{tag}></{tag}>" for tag in tags)
    problems["order"] = "" if in_order else f"the tags do not stand one behind the other as {wanted}"
    for tag in tags:
        has_body = tag in spans and visible(text[spans[tag][1] : spans[tag][2]]).strip() != ""
        problems[f"body:{tag}"] = (
            "" if has_body else f"<{tag}> is empty" if tag in spans else f"no <{tag}> to look into"
        )
    outside = {"before": "", "between": "", "after": ""}
    if in_order:
        ends = [spans[tag] for tag in tags]
        outside["before"], outside["after"] = text[: ends[0][0]], text[ends[-1][3] :]
        outside["between"] = "".join(text[a[3] : b[0]] for a, b in pairwise(ends))
    for name, found in outside.items():
        if not allowed[name] and not (name == "between" and len(tags) == 1):
            told = f"text {name} the tags: {found.strip()[:40]!r}" if found.strip() else ""
            problems[name] = told if in_order else f"no tags in order to look {name}"
    return [(name, {"score": float(not told), "reason": told}) for name, told in problems.items()]


def start_problem(options: Mapping[str, Any]) -> str:
    """Tags that are none."""
    tags = options.get("tags", _DEFAULT)
    if not tags:
        return "option tags must name at least one tag"
    for tag in tags:
        if not _TAG.fullmatch(tag):
            return f"option tags: {tag!r} is no name of a tag (think, answer; without < and >)"
    if len(set(tags)) < len(tags):
        return f"option tags: each stands once, got {', '.join(tags)}"
    return ""


EXAMPLES = [  # gold, response, score: right, wrong, malformed, trying to cheat
    (None, "<think>7 times 6</think><answer>42</answer>", 1.0),
    (None, "<think>\n7 times 6\n</think>\n\n<answer>\n42\n</answer>\n", 1.0),
    (None, "42", 0.0),
    (None, "", 0.0),
    (None, "<think>7 times 6</think>", 0.0),
    (None, "<answer>42</answer><think>7 times 6</think>", 0.0),
    (None, "<think>7 times 6</think><answer>42</answer> I hope that helps!", 0.0),
    (None, "<think></think><answer>42</answer>", 0.0),
    (None, "<think> \n </think><answer>42</answer>", 0.0),
    (None, "<think>\u200b\u3164</think><answer>42</answer>", 0.0),
    (None, "<think>a</think><think>b</think><answer>42</answer>", 0.0),
    (None, "<think><think>a</think></think><answer>42</answer>", 0.0),
    (None, "<think>a<answer>42</answer></think>", 0.0),
    (None, "<think>a</think><answer>41</answer><answer>42</answer>", 0.0),
]
