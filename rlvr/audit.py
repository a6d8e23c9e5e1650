"""Audits a verifier: its own examples, what a model might write instead of an answer, and how it behaves as a program.

Everything is judged where it can be killed: by the pool that training uses, and by the verifier itself in processes of
its own (audit_probe.py). Every check says which input failed, and what came back.
"""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from rlvr.audit_attacks import Input, Right, of_golds, of_right, of_size
from rlvr.audit_card import ANSWERS, CHECKS, Card, Check, Fault, Status, line_of, named, short, told
from rlvr.audit_examples import Example, examples_of, waivers_of, written
from rlvr.audit_probe import Found, Mode, probe, same
from rlvr.errors import DataError, SettingsError
from rlvr.rewards.bound import Bound, gold_problem, lookup, start_problems
from rlvr.rewards.verified import MEMORY_MIB, VerifierPool
from rlvr.tasks import needs_gold
from rlvr.types import Verdict

_OF_ANSWERS = ("accepts_gold", "other_golds", "hedge", "echo")
_MOST_GOLDS = 4
"""Of the examples, with which attacks are made."""
_MOST_HUNG = 3
"""Inputs that use up the timeout before the rest is not tried."""
_PROCESSES = 8
_SEEDS = 8
_SAMPLE_SECONDS = 1.0
"""Of judging, for the sample that is judged again in other ways."""
_SAMPLE_CHARACTERS = 100_000
_MOST_ERRORS = 12


@dataclass(slots=True)
class _Judged:
    """An input with what came of it."""

    input: Input
    verdict: Verdict
    seconds: float
    """From the question to the verdict, by the clock."""
    hung: bool


def audit(name: str, options: Mapping[str, Any] | None = None, golds: Sequence[Any] = ()) -> Card:
    r"""Report card of a verifier of any kind of name. `options` go over those of each example; each of `golds` must be
    accepted as `\boxed{gold}`.

    PluginError, SettingsError: no such verifier, options that it does not take, a machine on which it cannot judge.
    """
    bound = lookup(name)
    examples = [replace(one, options={**one.options, **(options or {})}) for one in examples_of(bound)]
    for gold in golds:
        if (text := _as_answer(gold)) is None:
            raise SettingsError(f"--gold {gold!r}: must be text or a number")
        examples.append(Example(gold=gold, response=f"\\boxed{{{text}}}", score=1.0, options=options or {}))
    waivers = waivers_of(bound)
    if unknown := set(waivers) - {*CHECKS, ANSWERS}:
        told = f"{', '.join(CHECKS)}, or {ANSWERS} for all that concern right answers"
        raise DataError(f"verifier {name!r}: WAIVED names {sorted(unknown)[0]!r}, which is no check; known: {told}")
    given = {json.dumps(one.options, default=str): one.options for one in examples} or {"": options or {}}
    if problems := [line for each in given.values() for line in start_problems(name, each, "--option")]:
        raise SettingsError("\n".join(dict.fromkeys(problems)))
    return _Audit(name, bound, examples, waivers).run()


class _Audit:
    """The state of one audit: what was judged, what each check found."""

    def __init__(self, name: str, bound: Bound, examples: Sequence[Example], waivers: Mapping[str, str]) -> None:
        self.name, self.bound, self.examples, self.waivers = name, bound, examples, waivers
        self.judged: list[_Judged] = []
        self.faults: dict[str, list[Fault]] = {check: [] for check in CHECKS}
        self.skipped: dict[str, str] = {}
        self.counts: dict[str, int] = dict.fromkeys(CHECKS, 0)
        self.false_positives = self.false_negatives = 0
        self.takes_gold = "gold" in bound.parameters
        self.has_answers = self.takes_gold and ANSWERS not in waivers

    def run(self) -> Card:
        with VerifierPool([self.name], 1, MEMORY_MIB) as pool:
            self.pool = pool
            rights = self._examples()
            self._attacks(rights)
        self._times()
        self._as_a_program()
        slowest = max(self.judged, key=lambda one: one.seconds, default=None)
        return Card(
            verifier=self.bound.name,
            version=self.judged[0].verdict.version if self.judged else self.bound.version,
            checks=tuple(self._line(check, self.waivers.get(check)) for check in CHECKS),
            num_inputs=len(self.judged),
            false_positives=self.false_positives,
            false_negatives=self.false_negatives,
            slowest=named(slowest.input) if slowest else "",
            slowest_ms=1000 * slowest.seconds if slowest else 0.0,
            timeout=self.bound.timeout,
        )

    def _line(self, check: str, waiver: str | None) -> Check:
        faults = tuple(self.faults[check])
        status: Status = "failed" if faults else "skipped" if check in self.skipped else "ok"
        why = self.skipped.get(check, "") if status == "skipped" else ""
        if waiver is not None and status == "failed":
            status, why = "waived", waiver
        return Check(name=check, status=status, num_inputs=self.counts[check], why=why, faults=faults)

    # --- what it says of responses

    def _examples(self) -> list[Right]:
        """Judge the examples; one right one for each gold, such that no two golds have the same answer."""
        if not self.examples:
            fault = Fault(
                input="EXAMPLES",
                due="[(gold, response, score), ...] beside the verifier",
                got="there are none, so most checks have nothing to try",
            )
            self.faults["examples"].append(fault)
            return []
        rights: dict[str, Right] = {}
        for k, example in enumerate(self.examples):
            asked = Input.of(example, "examples", f"number {k + 1}", example.response, "judged")
            verdict = self._judge(asked)
            if verdict.score is None or example.score is None:
                is_right = verdict.score is example.score and verdict.outcome != "error"
            else:
                is_right = abs(verdict.score - example.score) < 1e-9
            if not is_right:
                self._count(example.score, verdict)
                due = "no score" if example.score is None else f"a score of {example.score:g}"
                self.faults["examples"].append(Fault(input=named(asked), due=due, got=told(verdict)))
            elif example.score == 1:
                rights.setdefault(_key(example), Right(example, verdict.answer))
        scores = {example.score for example in self.examples}
        for score, word in ((1.0, "right"), (0.0, "wrong")):
            if score not in scores:
                due = f"an example that is {word} (score {score:g})"
                self.faults["examples"].append(Fault(input="EXAMPLES", due=due, got="there is none"))
        found = sorted(rights.values(), key=lambda right: right.form is None)
        answers = [right.answer for right in found]
        # golds with answers of their own first: they are the ones that can be mixed
        order = sorted(range(len(found)), key=lambda k: answers.index(answers[k]) != k)
        return [found[k] for k in order[:_MOST_GOLDS]]

    def _attacks(self, rights: Sequence[Right]) -> None:
        if not rights:
            of_responses = list(CHECKS)[1 : list(CHECKS).index("range")]
            self.skipped |= dict.fromkeys(of_responses, "no example is right, so there is no task to attack")
            return
        self._accepts_gold(rights)
        others = {id(right): self._others(right, rights) if self.has_answers else [] for right in rights}
        for right in rights:
            for attack in of_right(right, others[id(right)], has_answers=self.has_answers):
                self._try(attack)
        for attack in of_size(rights[0], has_answers=self.has_answers):
            self._try(attack)
        if self.takes_gold:
            has_hook = hasattr(inspect.getmodule(self.bound.function), "gold_problem")
            bad = of_golds(
                rights,
                lambda *asked: gold_problem(self.bound, *asked) if has_hook else None,
                needed=needs_gold(self.name),
            )
            for attack in bad:
                self._try(attack)
        else:
            self.skipped["bad_golds"] = "it takes no gold"
        if all(right.answer is None or right.form is None for right in rights):
            self.skipped["hedge"] = "no verdict on a right example says which part of the response is the answer"
        if not self.counts["other_golds"]:
            self.skipped["other_golds"] = "the examples have one gold alone"
        if not self.has_answers:
            self.skipped |= dict.fromkeys(_OF_ANSWERS, self.waivers.get(ANSWERS, "it takes no gold"))

    def _accepts_gold(self, rights: Sequence[Right]) -> None:
        """A right example proves it; a verifier that reads boxes must take the gold in one, too."""
        if not self.has_answers:
            return
        boxes = [right for right in rights if "boxed{" in right.example.response and right.form is not None]
        boxes = [right for right in boxes if right.form and "\\boxed{\0" in right.form.replace(" ", "")]
        self.counts["accepts_gold"] += len(rights)
        for right in boxes:
            if (text := _as_answer(right.example.gold)) is not None:
                boxed = f"\\boxed{{{text}}}"
                self._try(Input.of(right.example, "accepts_gold", "the gold in a box", boxed, "accepted"))

    def _others(self, right: Right, rights: Sequence[Right]) -> list[Right]:
        """Right examples of other tasks: those whose gold means the same accept each other's responses."""
        found = []
        for other in rights:
            if other is right or other.example.options != right.example.options:
                continue
            there, back = self._judge(_swapped(right, other)), self._judge(_swapped(other, right))
            if not ((there.score or 0) >= 0.5 and (back.score or 0) >= 0.5):
                found.append(other)
        return found

    def _try(self, asked: Input) -> None:
        """Judge an attack; what came back is a fault of its check unless it is what is due."""
        hung = sum(one.hung for one in self.judged)
        if hung >= _MOST_HUNG:
            self.skipped.setdefault(asked.check, f"{hung} inputs used up its time, so the rest was not tried")
            return
        verdict = self._judge(asked)
        score = verdict.score
        if asked.due == "unscored":
            fault = "no score" if score is not None else ""
        elif verdict.outcome == "error":  # told once, by the checks range and crash
            fault = ""
        elif score is None:
            fault = "a score, for gold_problem() says nothing" if asked.check == "bad_golds" else "a score"
        elif asked.due == "refused" and score >= 0.5:
            fault = "a score below 0.5"
        elif asked.due == "accepted" and score < 0.5:
            fault = "a score of at least 0.5"
        else:
            fault = ""
        if fault:
            self._count({"refused": 0.0, "accepted": 1.0}.get(asked.due), verdict)
            self.faults[asked.check].append(Fault(input=named(asked), due=fault, got=told(verdict)))

    def _judge(self, asked: Input) -> Verdict:
        self.counts[asked.check] += 1
        start = time.perf_counter()
        verdict = self.pool.submit(self.name, asked.response, asked.task(), asked.options).result()
        seconds = time.perf_counter() - start
        spent = verdict.outcome == "timeout" and seconds >= 0.9 * self.bound.timeout
        hung = spent or (verdict.outcome == "error" and seconds >= 0.9 * self.bound.wall_limit)
        self.judged.append(_Judged(asked, verdict, seconds, hung))
        return verdict

    def _count(self, due: float | None, verdict: Verdict) -> None:
        if due is not None and verdict.score is not None:
            self.false_positives += due < 0.5 <= verdict.score
            self.false_negatives += verdict.score < 0.5 <= due

    # --- what it does as a program

    def _times(self) -> None:
        self.counts["deadline"] = len(self.judged)
        for one in self.judged:
            if one.hung:
                due = f"a verdict within {self.bound.timeout:g} s of CPU"
                got = f"none after {one.seconds:.2f} s: {told(one.verdict)}"
                self.faults["deadline"].append(Fault(input=named(one.input), due=due, got=got))

    def _sample(self) -> list[_Judged]:
        """Inputs of every check that are quick to judge, and those that ended in an error without ending a process."""
        sample: list[_Judged] = []
        errors: list[_Judged] = []
        seconds, per_check = 0.0, dict.fromkeys(CHECKS, 0)
        for one in self.judged:
            if one.hung or "its process ended" in one.verdict.reason or "no verdict after" in one.verdict.reason:
                continue
            if one.verdict.outcome == "error":
                errors.append(one)
                continue
            small = len(one.input.response) <= _SAMPLE_CHARACTERS
            limit = len(self.examples) if one.input.check == "examples" else 6
            if small and per_check[one.input.check] < limit and seconds + one.seconds <= _SAMPLE_SECONDS:
                sample.append(one)
                seconds += one.seconds
                per_check[one.input.check] += 1
        return sample + errors[:_MOST_ERRORS]

    def _as_a_program(self) -> None:
        sample = self._sample()
        once = self._probe(sample, "once", hash_seed=1)
        self._errors(sample, once)
        of_programs = list(CHECKS)[list(CHECKS).index("determinism") :]
        if not sample:
            self.skipped |= dict.fromkeys(of_programs, "no input was judged in time")
            return
        self.counts |= dict.fromkeys(of_programs, len(sample))
        repeated = self._probe(sample, "repeat", hash_seed=2)
        if not self._is_broken("determinism", repeated):
            for k, one in enumerate(sample):
                self._differs("determinism", one, repeated.verdicts[k])
        self._in_eight(sample)
        if not self._is_broken("processes", once):
            for k, one in enumerate(sample):
                self._differs("processes", one, [same(one.verdict), once.verdicts[k][0]])
            self._behaviour(sample, once)
            modes: tuple[tuple[str, Mode], ...] = (("order", "reverse"), ("threads", "threads"), ("asyncio", "asyncio"))
            for check, mode in modes:
                found = self._probe(sample, mode, hash_seed=1)
                if not self._is_broken(check, found):
                    for k, one in enumerate(sample):
                        self._differs(check, one, [once.verdicts[k][0], found.verdicts[k][0]])

    def _probe(self, sample: Sequence[_Judged], mode: Mode, hash_seed: int) -> Found:
        if not sample:
            return Found(broken="there is nothing to judge")
        return probe(
            self.name,
            [one.input for one in sample],
            mode,
            hash_seed=hash_seed,
            memory_mib=MEMORY_MIB,
            seconds=60 + 20 * _SAMPLE_SECONDS + self.bound.timeout,
        )

    def _errors(self, sample: Sequence[_Judged], once: Found) -> None:
        """Verdicts of outcome `error`: something that may not be returned, or else a failure."""
        returned = {id(one): once.returned[k] for k, one in enumerate(sample) if not once.broken and once.returned[k]}
        scored = [one for one in self.judged if one.input.due != "unscored" and not one.hung]
        self.counts["range"] = self.counts["crash"] = len(scored)
        for one in scored:
            if one.verdict.outcome != "error":
                continue
            if id(one) in returned or " returned " in one.verdict.reason:
                due = "a Verdict, a bool, a number in [0, 1] or None"
                got = returned.get(id(one)) or one.verdict.reason
                self.faults["range"].append(Fault(input=named(one.input), due=due, got=short(got)))
            else:
                fault = Fault(input=named(one.input), due="a verdict on the response", got=told(one.verdict))
                self.faults["crash"].append(fault)

    def _in_eight(self, sample: Sequence[_Judged]) -> None:
        with VerifierPool([self.name], _PROCESSES, MEMORY_MIB) as pool:
            self._compare("processes", sample, [self._submit(pool, one) for one in sample])
            if "seed" not in self.bound.parameters:
                self.skipped["seeds"] = "it takes no seed"
                return
            for k in range(_SEEDS):  # a verifier's seed is made of the run's and the task's id
                self._compare("seeds", sample, [self._submit(pool, one, task_id=f"audit:{k}") for one in sample])

    def _submit(self, pool: VerifierPool, one: _Judged, task_id: str = "audit") -> Future[Verdict]:
        asked = one.input
        return pool.submit(self.name, asked.response, replace(asked.task(), id=task_id), asked.options)

    def _compare(self, check: str, sample: Sequence[_Judged], futures: Sequence[Future[Verdict]]) -> None:
        for one, future in zip(sample, futures, strict=True):
            pair = [same(one.verdict), same(future.result())]
            # points that were drawn may stand in the reason: of a seed, only what it must not decide is compared
            self._differs(check, one, pair if check != "seeds" else [[*line[:2], ""] for line in pair])

    def _behaviour(self, sample: Sequence[_Judged], once: Found) -> None:
        for k, one in enumerate(sample):
            if once.changed[k]:
                fault = Fault(input=named(one.input), due="task and options as they were", got=once.changed[k])
                self.faults["mutation"].append(fault)
        everything = f"all {len(sample)} inputs"
        if once.printed:
            fault = Fault(input=everything, due="nothing on stdout and stderr", got=short(repr(once.printed)))
            self.faults["quiet"].append(fault)
        for what in once.left:
            self.faults["leaves"].append(Fault(input=everything, due=f"{what} as before", got="something else"))

    def _is_broken(self, check: str, found: Found) -> bool:
        if found.broken:
            fault = Fault(input="all of the sample", due="verdicts", got=found.broken)
            self.faults[check].append(fault)
        return bool(found.broken)

    def _differs(self, check: str, one: _Judged, verdicts: Sequence[Sequence[Any]]) -> None:
        first = verdicts[0]
        for other in verdicts[1:]:
            if json.dumps(first) != json.dumps(other):
                fault = Fault(
                    input=named(one.input), due=f"the same each time, such as {line_of(first)}", got=line_of(other)
                )
                self.faults[check].append(fault)
                return


def _as_answer(gold: Any) -> str | None:
    """What a box with the gold holds; None of data, which a verifier may want in another form."""
    return written(gold) if isinstance(gold, str | int | float) else None


def _swapped(task: Right, response: Right) -> Input:
    name = "another task's right response"
    return Input.of(task.example, "other_golds", name, response.example.response, "judged")


def _key(example: Example) -> str:
    return json.dumps([example.gold, example.options, example.info, example.prompt], default=str, sort_keys=True)
