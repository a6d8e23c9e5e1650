r"""math: the answer equals the gold as mathematics.

Stages, each of which may decide: extract, exact (same text), number (exact rationals), shape (words, choices, hedges,
echoes, lists, sets), formula (by value, 40 digits), guard (too large to be safe), sympy (math-verify).
Run where it can be killed: the last stage has no deadline of its own.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Literal

from rlvr.plugins import verifier
from rlvr.types import Task, Verdict
from rlvr.verifiers.answer_text import short
from rlvr.verifiers.extract import extract
from rlvr.verifiers.gold_text import gold_answer
from rlvr.verifiers.math_algebra import by_algebra, can_be_read
from rlvr.verifiers.math_echo import repeats_task
from rlvr.verifiers.math_gold import Gold, Opinion, equality, read_gold
from rlvr.verifiers.math_guard import builds_set, num_primes, too_complex, unfinished
from rlvr.verifiers.math_shape import by_formula, by_number, by_shape, by_symbols, can_be_compared
from rlvr.verifiers.math_spelling import LONGEST, balanced, normalised, squeeze
from rlvr.verifiers.math_words import says_other

_MOST_WORDS = 20
"""Of a gold in words; what is longer is a solution, not an answer."""


@verifier("math", version="3", timeout=1.0)
def math(
    response: str,
    gold: Any,
    seed: int = 0,
    task: Task | None = None,
    *,
    extraction: Literal["strict", "lenient"] = "strict",
    explain: bool = False,
) -> Verdict:
    """1 where the answer equals the gold, 0 where it does not; None where the gold itself cannot be read.

    extraction: strict takes an answer that the response commits to; lenient, for evaluation alone, also its last
    formula or number. explain: what each stage saw and said, in checks["stages"]. `seed` draws the points at which
    formulas are compared; `task` tells what was asked, for an answer that only repeats it.
    """
    want, problem = _gold_text(gold)
    if problem:
        return Verdict(score=None, outcome="gold_invalid", reason=problem, stage="gold")
    found = extract(response, lenient=extraction == "lenient")
    if found is None:
        checks = {"stages": [{"stage": "extract", "said": "no answer"}]} if explain else {}
        reason = "the response commits to no answer"
        return Verdict(score=0.0, outcome="no_answer", reason=reason, stage="extract", checks=checks)
    trace: list[dict[str, Any]] | None = None
    if explain:
        trace = [{"stage": "extract", "saw": short(response[-200:]), "said": f"{found.how}: {short(found.answer)}"}]
    opinion = _compare(want, found.answer, found.how == "boxed_list", seed, trace)
    if opinion.outcome == "correct" and opinion.stage != "exact" and task is not None and task.prompt:
        opinion = _echo(want, found.answer, task) or opinion
    score = {"correct": 1.0, "gold_invalid": None}.get(opinion.outcome, 0.0)
    return Verdict(
        score=score,
        outcome=opinion.outcome,
        reason=opinion.reason,
        answer=found.answer,
        how=found.how,
        stage=opinion.stage,
        checks={"stages": trace} if trace else {},
    )


def _echo(gold: str, answer: str, task: Task) -> Opinion | None:
    """A number is asked for, and the answer is the arithmetic of the question."""
    if read_gold(normalised(gold)).quantity is None or not repeats_task(
        normalised(answer).rpartition("=")[2].strip(), task.prompt
    ):
        return None
    return Opinion("unevaluated", "shape", f"{short(answer)} repeats the arithmetic of the task")


def warm_up() -> None:
    """Import and exercise math-verify, so that no verdict pays for it (0.7 s of CPU)."""
    by_algebra("x+\\frac{1}{2}", "\\frac{2x+1}{2}")
    by_algebra("[1,2)", "[1,2)")
    _compare("\\sqrt{8}", "2\\sqrt{2}", False, 0, None)


def gold_problem(verifier_name: str, task: Task) -> str:
    """Why the gold is no use: empty, unbalanced, prose, no mathematics that is read here, or not equal to itself."""
    text, problem = _gold_text(task.gold)
    if problem:
        return problem
    return _problem_of(text)


@lru_cache(4096)
def _problem_of(text: str) -> str:
    found = extract(rf"\boxed{{{text}}}")
    if found is None or squeeze(normalised(found.answer)) != squeeze(normalised(text)):
        return f"the gold {short(text)} is not what is read from \\boxed{{}} around it"
    g = normalised(text)
    gold = read_gold(g)
    if gold.quantity is not None:
        return ""
    if len(re.findall(r"(?<![\\A-Za-z])[A-Za-z]{2,}", g)) > _MOST_WORDS:
        return f"the gold {short(text)} is prose; an answer is wanted"
    # what is too complex for algebra equals itself as it is written
    if can_be_compared(gold) or too_complex(g) or can_be_read(g):
        return ""
    return f"the gold {short(text)} cannot be read as mathematics"


def _gold_text(gold: Any) -> tuple[str, str]:
    """(text, ""), or ("", what is wrong with it)."""
    text, problem = gold_answer(gold)
    return _checked_gold(text) if text else ("", problem)


@lru_cache(4096)
def _checked_gold(text: str) -> tuple[str, str]:
    normal = normalised(text)
    if not normal:
        return "", "the gold is empty"
    if not balanced(normal):
        return "", f"the brackets of the gold {short(text)} do not match"
    return text, ""


# --- the stages


_PLAIN_INTEGER = re.compile(r"-?[1-9]\d{0,60}|0")


def _compare(gold: str, answer: str, several: bool, seed: int, trace: list[dict[str, Any]] | None) -> Opinion:
    if trace is None and _PLAIN_INTEGER.fullmatch(answer) and _PLAIN_INTEGER.fullmatch(gold):
        return equality(gold == answer, "exact" if gold == answer else "number", gold, answer)
    if len(answer) > LONGEST and answer != gold:
        return _told(trace, Opinion("too_complex", "guard", f"the answer is longer than {LONGEST} characters"))
    g, a = normalised(gold), normalised(answer)
    if trace is not None:
        trace.append({"stage": "normalise", "saw": {"gold": gold, "answer": answer}, "said": {"gold": g, "answer": a}})
    if not a:
        return _told(trace, Opinion("no_answer", "extract", "the answer is blank"))
    if squeeze(g) == squeeze(a):
        return _told(trace, Opinion("correct", "exact", f"{short(answer)} is the gold as written"))
    if problem := _problem_of(gold):
        return _told(trace, Opinion("gold_invalid", "gold", problem))
    known = read_gold(g)
    for stage in _STAGES:
        opinion = stage(known, a, several, seed)
        if opinion is not None:
            return _told(trace, opinion)
        if trace is not None:
            trace.append({"stage": stage.__name__.strip("_"), "said": "undecided"})
    return _told(trace, by_algebra((known.quantity and known.quantity.as_text()) or g, a))


def _number(gold: Gold, answer: str, several: bool, seed: int) -> Opinion | None:
    return by_number(gold, answer)


def _shape(gold: Gold, answer: str, several: bool, seed: int) -> Opinion | None:
    return by_shape(gold, answer, several, seed)


def _formula(gold: Gold, answer: str, several: bool, seed: int) -> Opinion | None:
    return by_formula(gold, answer, seed)


def _guard(gold: Gold, answer: str, several: bool, seed: int) -> Opinion | None:
    if trouble := too_complex(answer):
        return Opinion("too_complex", "guard", trouble)
    if trouble := too_complex(gold.text):
        return Opinion("wrong", "guard", f"{short(answer)} is not the gold as written, which has {trouble}")
    if not balanced(answer):
        return Opinion("malformed", "guard", "the brackets of the answer do not match")
    if trouble := unfinished(answer):
        return Opinion("malformed", "guard", trouble)
    if builds_set(answer) and not builds_set(gold.text):
        return Opinion("unevaluated", "guard", "a set by its condition, the gold has its values")
    if says_other(gold.text, answer):
        return Opinion("wrong", "guard", f"{short(answer)} has other words than {short(gold.text)}")
    if num_primes(answer) != num_primes(gold.text):
        return Opinion("wrong", "guard", f"{short(answer)} has other primes than {short(gold.text)}")
    return None


def _symbols(gold: Gold, answer: str, several: bool, seed: int) -> Opinion | None:
    return by_symbols(gold, answer)


_STAGES = (_number, _shape, _formula, _guard, _symbols)


def _told(trace: list[dict[str, Any]] | None, opinion: Opinion) -> Opinion:
    if trace is not None:
        trace.append({"stage": opinion.stage, "said": f"{opinion.outcome}: {opinion.reason}"})
    return opinion


EXAMPLES = [  # gold, response, score: right, wrong, malformed, trying to cheat
    ("42", r"so \boxed{42}", 1.0),
    (42, r"\boxed{42.0}", 1.0),
    (0.5, r"\boxed{\frac{1}{2}}", 1.0),
    ("7/2", r"\boxed{3\frac{1}{2}}", 1.0),
    ("1234567", "#### 1,234,567", 1.0),
    (r"50\%", r"\boxed{0.5}", 1.0),
    (r"2\sqrt{3}", r"\boxed{\sqrt{12}}", 1.0),
    ("(a+b)^2", r"\boxed{a^2+2ab+b^2}", 1.0),
    ("2,3", r"$\boxed{2}$ and $\boxed{3}$", 1.0),
    (r"x\ge 5", r"\boxed{[5,\infty)}", 1.0),
    (r"\text{even}", r"\boxed{\text{Even}}", 1.0),
    ("42", r"\boxed{41}", 0.0),
    ("50", r"\boxed{50\%}", 0.0),
    ("1.0000001", r"\boxed{1.0000002}", 0.0),
    (r"1-\sqrt{2}", r"\boxed{1}", 0.0),
    ("5 cm", r"\boxed{5 \text{ m}}", 0.0),
    ("ABC", r"\boxed{BCA}", 0.0),
    ("42", r"\boxed{42", 0.0),
    ("42", "42", 0.0),
    ("42", r"<think>\boxed{42}", 0.0),
    ("42", r"\boxed{41 \text{ or } 42}", 0.0),
    ("42", r"\boxed{41} or \boxed{42}", 0.0),
    ("5050", r"\boxed{\sum_{k=1}^{100} k}", 0.0),
    ("5", r"\boxed{9^{9^{9^9}}}", 0.0),
    ("", r"\boxed{42}", None),
    (None, r"\boxed{42}", None),
    (r"\frac{1}{2", r"\boxed{0.5}", None),
]
