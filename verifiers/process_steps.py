"""steps: the share of a worked solution's steps that follow from what stands before them.

Gold: the final answer, or none. A step is an equality between neighbours in `a = b = c`. Between constants it is
checked exactly; `x^2-1 = (x-1)(x+1)` is checked as an identity; `2x = 6` is an equation, which has to have the
solutions of those before it (linear ones in any number of names, quadratic ones in one) or to hold at them. An equation
that is independent of what stands before it is a condition of the task, or says what a name stands for: not checked.
Nor is a right step that does nothing (`x + 0 = x`, `a + b = b + a`), or that uses no number or name of the prompt or of
a step that does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from rlvr.plugins import verifier
from rlvr.types import Outcome, Task, Verdict
from rlvr.verifiers.answer_text import after_thinking, short
from rlvr.verifiers.extract import extract
from rlvr.verifiers.gold_text import gold_answer
from rlvr.verifiers.math_formula import evaluate_exact, formula, same_value
from rlvr.verifiers.math_spelling import normalised
from rlvr.verifiers.math_text import assigned
from rlvr.verifiers.steps_algebra import Knowledge, degree, difference, names_of
from rlvr.verifiers.steps_idle import Token, key, plain, said_in, things, used
from rlvr.verifiers.steps_text import statements

_MOST_STATEMENTS = 200
_MOST_SHOWN = 40
_LONGEST_SIDE = 400


@dataclass(frozen=True, slots=True)
class Step:
    """Step("2 + 2 = 5", False, "2+2 is not 5")"""

    text: str
    ok: bool | None
    """None: not checked, and so it counts neither way."""
    reason: str


@verifier("steps", timeout=3.0)
def steps(
    response: str,
    seed: int,
    gold: Any = None,
    task: Task | None = None,
    *,
    score: Literal["share", "all"] = "share",
    least: Annotated[int, Field(ge=1)] = 2,
    part: Literal["spoken", "all"] = "spoken",
) -> Verdict:
    """Right steps / checked steps, or with score: all 1 where none is wrong.

    0 where fewer than `least` different steps can be checked: prose, `1 = 1`, conditions and steps said twice are none.
    With a gold, 0 unless the response commits to an answer that equals it, and a right step arrives at it. part: all
    reads the thinking too.
    """
    want = None
    if gold is not None:
        want, problem = _gold_text(gold)
        if problem:
            return Verdict(score=None, outcome="gold_invalid", reason=problem)
    text = response if part == "all" else after_thinking(response)
    if text is None:
        return Verdict(score=0.0, outcome="no_answer", reason="the response is still thinking when it ends")
    found = statements(text, _MOST_STATEMENTS + 1)
    if len(found) > _MOST_STATEMENTS:
        return Verdict(score=0.0, outcome="too_complex", reason=f"more than {_MOST_STATEMENTS} lines of steps")
    work = _Work(seed, set(said_in(task.prompt)) if task is not None else set())
    for statement in found:
        for k, (left, right) in enumerate(zip(statement.sides, statement.sides[1:], strict=False)):
            work.step(left, right, is_rewriting=k > 0)
    return _verdict(work, response, want, score, least)


def gold_problem(verifier_name: str, task: Task) -> str:
    """Why the gold is no final answer; "" where it is one, or there is none."""
    return "" if task.gold is None else _gold_text(task.gold)[1]


def _gold_text(gold: Any) -> tuple[str, str]:
    text, problem = gold_answer(gold)
    if problem:
        return "", problem
    want = assigned(normalised(text))[1]
    return (want, "") if formula(want) is not None else ("", f"the gold {short(text)} is no value that can be compared")


@dataclass(slots=True)
class _Work:
    """What has been said and checked so far."""

    seed: int
    known: set[Token]
    """Numbers and names of the prompt and of the steps that use them; what the prompt has none of is not asked for."""
    found: list[Step] = field(default_factory=list)
    seen: set[frozenset[tuple[Token, ...]]] = field(default_factory=set)
    done: set[frozenset[tuple[str, ...]]] = field(default_factory=set)
    """Right steps, whatever the order of their terms."""
    knowledge: Knowledge = field(default_factory=Knowledge)
    reached: set[str] = field(default_factory=set)
    """Sides of right steps."""

    def step(self, left: str, right: str, is_rewriting: bool) -> None:
        """is_rewriting: the step goes on from another in the same chain, and so states no condition."""
        ok, reason = self._judge(left, right, is_rewriting)
        if ok is not False and self.known:
            if not self.known.isdisjoint(used(left, right)):
                self.known |= things(left, right)
            elif ok:
                ok, reason = None, "it uses nothing of the task, nor of the steps before it"
        if ok:
            ok, reason = self._worth(left, right, reason)
        self.found.append(Step(f"{left} = {right}", ok, reason))
        if ok:
            self.reached |= {left, right}

    def _worth(self, left: str, right: str, reason: str) -> tuple[bool | None, str]:
        """What a right step counts."""
        terms = frozenset((key(left), key(right)))
        if len(terms) == 1:
            return None, "nothing is done but to change the order, or to add 0 or multiply by 1"
        if terms in self.done:
            return None, "said before"
        self.done.add(terms)
        return True, reason

    def _judge(self, left: str, right: str, is_rewriting: bool) -> tuple[bool | None, str]:
        if max(len(left), len(right)) > _LONGEST_SIDE:
            return None, f"a side is longer than {_LONGEST_SIDE} characters"
        said = frozenset((plain(left), plain(right)))
        if len(said) == 1:
            return None, "both sides are the same, but for what does nothing"
        if said in self.seen:
            return None, "said before"
        self.seen.add(said)
        read = [formula(left), formula(right)]
        if read[0] is None or read[1] is None:
            return None, "a side cannot be read"
        if read[0].names or read[1].names:
            return self._equation(left, right, is_rewriting and bool(read[0].names and read[1].names))
        exact = [evaluate_exact(side) for side in (left, right)]
        if all(_is_number(side) for side in (left, right)) and exact[0] == exact[1]:
            return None, "a number is itself"
        same = same_value(left, right, self.seed)
        if same is None:
            return None, "not decided"
        return same, f"{short(left)} {'equals' if same else 'is not'} {short(right)}"

    def _equation(self, left: str, right: str, is_rewriting: bool) -> tuple[bool | None, str]:
        if same_value(left, right, self.seed):
            return True, "both sides are the same formula"
        equation = difference(left, right)
        if equation is None:
            return None, "no polynomial equation"
        if not equation:
            return True, "both sides are the same formula"
        if not names_of(equation):
            return False, f"{short(left)} is not {short(right)}, whatever the names stand for"
        follows = self.knowledge.follows(equation)
        if follows == "no":
            return False, "it does not follow from what stands before it"
        if follows == "yes":
            if degree(equation) > 1:
                self.knowledge.add(equation)
            return True, "it follows from what stands before it"
        if is_rewriting:
            return False, f"{short(left)} is not {short(right)} for all values"
        self.knowledge.add(equation)
        return None, "a condition, or what a name stands for"


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).removeprefix("-").isdecimal()


def _verdict(work: _Work, response: str, want: str | None, score: str, least: int) -> Verdict:
    checked = [step for step in work.found if step.ok is not None]
    wrong = next((step for step in checked if not step.ok), None)
    num_right = sum(bool(step.ok) for step in checked)
    share = num_right / len(checked) if checked else 0.0
    checks = {
        "num_steps": len(work.found),
        "num_checked": len(checked),
        "num_right": num_right,
        "steps": [{"text": s.text[:120], "ok": s.ok, "reason": s.reason} for s in work.found[:_MOST_SHOWN]],
    }
    found = extract(response)
    told: dict[str, Any] = {"answer": found and found.answer, "how": found.how if found else "", "stage": "steps"}
    if len(checked) < least:
        outcome: Outcome = "no_answer" if not work.found else "malformed"
        reason = f"{len(checked)} of {len(work.found)} steps can be checked, at least {least} are wanted"
        return Verdict(score=0.0, outcome=outcome, reason=reason, checks=checks, **told)
    if want is not None and found is None:
        reason = "the response commits to no answer"
        return Verdict(score=0.0, outcome="no_answer", reason=reason, checks=checks, **told)
    if (
        want is not None
        and found is not None
        and not same_value(want, assigned(normalised(found.answer))[1], work.seed)
    ):
        reason = f"the answer {short(found.answer)} is not {short(want)}"
        return Verdict(score=0.0, outcome="wrong", reason=reason, checks=checks, **told)
    if want is not None and not any(same_value(want, side, work.seed) for side in sorted(work.reached)):
        reason = f"no right step arrives at {short(want)}"
        return Verdict(score=0.0, outcome="wrong", reason=reason, checks=checks, **told)
    earned = share if score == "share" else float(wrong is None)
    outcome = "correct" if earned == 1 else "partial" if earned else "wrong"
    reason = f"all {len(checked)} checked steps follow"
    if wrong is not None:
        reason = f"{num_right} of {len(checked)} checked steps follow; the first that does not: {short(wrong.text)}"
    return Verdict(score=earned, outcome=outcome, reason=reason, checks=checks, **told)


WAIVED = {"accepts_gold": "the answer without its steps earns nothing"}
EXAMPLES = [  # gold, response, score: right, wrong, malformed, trying to cheat
    ("17", "There are 3 * 4 = <<3*4=12>>12 eggs. With 5 more, 12 + 5 = 17 eggs.\n#### 17", 1.0),
    (2, "2x + 3 = 7\n2x = 4\nx = 2\nSo \\boxed{2}", 1.0),
    ("3", "x^2 - 9 = (x - 3)(x + 3)\n(x-3)(x+3) = 0; x = 3 or x = -3. The answer is 3.", 1.0),
    ("2", "x + y = 5\nx - y = 1\n2x = 6\nx = 3\ny = 2\n\\boxed{y = 2}", 1.0),
    ("5/6", "1/2 + 1/3 = 3/6 + 2/6 = 5/6\n\\boxed{\\frac{5}{6}}", 1.0),
    (None, "3 * 4 = 12\n12 + 5 = 17", 1.0),
    (None, "3 * 4 = 12\n12 + 5 = 18", 0.5),
    ("17", "3 * 4 = 13\n12 + 5 = 17\n#### 17", 0.5),
    ("5", "2x + 3 = 7\n2x = 10\nx = 5\n\\boxed{5}", 0.0),
    ("17", "3 * 4 = 12\n12 + 5 = 17\n\\boxed{18}", 0.0),
    ("17", "3 * 4 = 12\n12 + 5 = 17", 0.0),
    (None, "", 0.0),
    (None, "First we think hard, and then we are done.", 0.0),
    (None, "= = =\n3 + = 4\n(1 = 1)", 0.0),
    ("17", "17 * 1 = 17\n17 + 0 = 17\n\\boxed{17}", 0.0),
    (None, "x + 0 = x\na + b = b + a\n3 = 3 / 1", 0.0),
    (None, "1 = 1\n2 = 2\n3 = 3\n4 = 4.0", 0.0),
    (None, "2 + 2 = 4\n" * 50, 0.0),
    (None, "x = 5\ny = 6\nz = 7", 0.0),
    ("17", "1 + 1 = 2\n2 + 2 = 4\n\\boxed{17}", 0.0),
    ("17", "3 * 4 = 12\n12 + 5 = 17\n\\boxed{17 or 18}", 0.0),
    (None, "<think>3 * 4 = 12\n12 + 5 = 17", 0.0),
    ([17], "3 * 4 = 12\n12 + 5 = 17", None),
    ("no number at all", "3 * 4 = 12\n12 + 5 = 17", None),
]
