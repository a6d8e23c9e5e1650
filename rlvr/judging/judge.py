"""The judge: pairs in, log odds out; answers in, scores out. What it could not tell is an abstention with its reason.

All questions of one call go out together, so that an endpoint is kept busy.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from rlvr.errors import DataError, SettingsError
from rlvr.judge_settings import Constitution, Judging, Pairwise, Reference, Rubric
from rlvr.judging import asking
from rlvr.judging.questions import (
    TEMPLATES,
    Question,
    pair_messages,
    reference_messages,
    rubric_messages,
    rubric_schema,
)
from rlvr.judging.replies import Reply, log_odds, ratings
from rlvr.odds import sigmoid
from rlvr.seeds import permutation, seed_for
from rlvr.types import Message, Prompt

_SEEDS = 2**31
"""OpenAI's and vLLM's seeds are 32 bit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Which of two answers is better? Pair(prompt="2+2?", a="4", b="5", key="t1/0-1")"""

    prompt: Prompt
    a: str
    b: str
    key: str
    """What lots are drawn by; its own for each pair."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Single:
    """How good is one answer? Single(prompt="2+2?", answer="4", key="t1/0", reference="4")"""

    prompt: Prompt
    answer: str
    key: str
    reference: str | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """What was paid for an opinion."""

    questions: float = 0.0
    prompt_tokens: float = 0.0
    completion_tokens: float = 0.0
    price: float = 0.0

    @staticmethod
    def of(replies: Iterable[Reply], settings: Judging) -> Cost:
        replies = list(replies)
        prompt = sum(reply.prompt_tokens for reply in replies)
        written = sum(reply.completion_tokens for reply in replies)
        price = (prompt * settings.prices.prompt + written * settings.prices.completion) / 1e6
        return Cost(len(replies), prompt, written, price)

    def plus(self, other: Cost, share: float = 1.0) -> Cost:
        return Cost(
            self.questions + share * other.questions,
            self.prompt_tokens + share * other.prompt_tokens,
            self.completion_tokens + share * other.completion_tokens,
            self.price + share * other.price,
        )

    def checks(self) -> dict[str, float]:
        """For a verdict's checks."""
        return {
            "questions": self.questions,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "cost": self.price,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What the judge thinks of a pair. Compared(logit=1.3, orders=(2.1, 0.5))"""

    logit: float | None
    """Log odds that `a` is better; None: abstained, or the two orders disagree and those are not kept."""
    orders: tuple[float | None, ...] = ()
    """Log odds that `a` is better where it stood first and where it stood second (of one order: the one asked)."""
    a_first: tuple[bool, ...] = ()
    """Beside `orders`."""
    problem: str = ""
    """Why there is no logit."""
    flipped: bool = False
    """The two orders name different winners."""
    criterion: str = ""
    """By which it was compared, where that was drawn."""
    cost: Cost = field(default_factory=Cost)

    @property
    def probability(self) -> float | None:
        """That `a` is better."""
        return None if self.logit is None else sigmoid(self.logit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rated:
    """What the judge thinks of one answer. Rated(score=0.75, ratings={"correct": 7.0})"""

    score: float | None
    """In [0, 1]; None: abstained."""
    ratings: Mapping[str, float] = field(default_factory=dict)
    """By criterion, means over the samples."""
    problem: str = ""
    cost: Cost = field(default_factory=Cost)


class Judge:
    """Asks by the settings, over whoever they name. As safe from threads as who is asked: an endpoint is."""

    def __init__(self, settings: Judging, seed: int = 0, cache: Path | None = None, *, setting: str = "") -> None:
        """seed: the run's; cache: a file of replies that were paid for; setting: where the settings stand, such as
        "rewards.helpful.", for messages. SettingsError, DataError where something cannot be used."""
        self.settings, self._seed = settings, seed
        self._secret = asking.secret_of(settings, seed, setting)
        method = settings.method
        self.criteria = rubric_of(method, setting) if isinstance(method, Rubric) else {}
        self.principles = principles_of(method, setting) if isinstance(method, Constitution) else ()
        self.asker = asking.build(settings, cache, setting=f"{setting}by")
        self.name = self.asker.name
        self.version = f"1+{self._digest()}"

    def close(self) -> None:
        self.asker.close()

    def _digest(self) -> str:
        """Eight hexadecimal digits of the judge, its templates and the settings that an opinion depends on."""
        read = self.settings.model_dump(
            mode="json", include={"method", "samples", "temperature", "reason", "max_tokens"}
        )
        weights = {name: (each.text, each.weight) for name, each in self.criteria.items()}
        whole = json.dumps([TEMPLATES, self.asker.identity, read, weights, list(self.principles)], sort_keys=True)
        return hashlib.blake2b(whole.encode(), digest_size=4).hexdigest()

    # --- pairs -------------------------------------------------------------------------------------------------------

    def compare(self, pairs: Sequence[Pair]) -> list[Compared]:
        """One opinion for each pair; abstentions among them."""
        plans = [self._plan(pair) for pair in pairs]
        replies = iter(self.asker.ask([question for plan in plans for view in plan for question in view.questions]))
        return [self._compared(plan, [[next(replies) for _ in view.questions] for view in plan]) for plan in plans]

    def _plan(self, pair: Pair) -> list[_View]:
        method = self.settings.method
        assert isinstance(method, Pairwise | Constitution)
        if isinstance(method, Pairwise):
            criteria = [method.criterion]
        elif method.draw == "all":
            criteria = list(self.principles)
        else:
            number = seed_for(self._seed, self.settings.seed, "judge_principle", pair.key) % len(self.principles)
            criteria = [self.principles[number]]
        orders = [True, False]
        if method.orders == "one":
            orders = [seed_for(self._seed, self.settings.seed, "judge_order", pair.key) % 2 == 0]
        return [self._view(pair, criterion, a_first) for criterion in criteria for a_first in orders]

    def _view(self, pair: Pair, criterion: str, a_first: bool) -> _View:
        method = self.settings.method
        assert isinstance(method, Pairwise | Constitution)
        first, second = (pair.a, pair.b) if a_first else (pair.b, pair.a)
        messages = pair_messages(self.settings, pair.prompt, first, second, criterion=criterion, secret=self._secret)
        return _View(self._questions(messages, method.letters), a_first, criterion)

    def _compared(self, plan: Sequence[_View], replies: Sequence[Sequence[Reply]]) -> Compared:
        method = self.settings.method
        assert isinstance(method, Pairwise | Constitution)
        odds: list[float | None] = []
        problem = ""
        for view, told in zip(plan, replies, strict=True):
            found, why = log_odds(told, method.letters, reasoned=self.settings.reason)
            problem = problem or why
            odds.append(found if found is None or view.a_first else -found)
        known = [each for each in odds if each is not None]
        logit = fmean(known) if len(known) == len(odds) else None
        by_order = [
            _mean([z for z, v in zip(odds, plan, strict=True) if v.a_first == first]) for first in (True, False)
        ]
        flipped = by_order[0] is not None and by_order[1] is not None and by_order[0] * by_order[1] < 0
        if logit is not None and flipped and method.keep == "consistent":
            logit, problem = None, "the two orders name different winners"
        asked = [first for first in (True, False) if any(view.a_first == first for view in plan)]
        return Compared(
            logit=logit,
            orders=tuple(by_order[0 if first else 1] for first in asked),
            a_first=tuple(asked),
            problem=problem if logit is None else "",
            flipped=flipped,
            criterion=plan[0].criterion if isinstance(method, Constitution) and method.draw == "one" else "",
            cost=Cost.of((reply for told in replies for reply in told), self.settings),
        )

    # --- single answers ----------------------------------------------------------------------------------------------

    def rate(self, singles: Sequence[Single]) -> list[Rated]:
        """One opinion for each answer; abstentions among them."""
        rubric = isinstance(self.settings.method, Rubric)
        plans = [self._rubric(single) if rubric else self._reference(single) for single in singles]
        replies = iter(self.asker.ask([question for plan in plans for view in plan for question in view.questions]))
        read = self._rated if rubric else self._matched
        return [read(plan, [[next(replies) for _ in view.questions] for view in plan]) for plan in plans]

    def _rubric(self, single: Single) -> list[_View]:
        method = self.settings.method
        assert isinstance(method, Rubric)
        texts = {name: each.text for name, each in self.criteria.items()}
        messages = rubric_messages(self.settings, texts, single.prompt, single.answer, secret=self._secret)
        schema = None if self.settings.reason else rubric_schema(method, list(texts))
        return [_View(self._questions(messages, (), schema), True, "")]

    def _rated(self, plan: Sequence[_View], replies: Sequence[Sequence[Reply]]) -> Rated:
        method = self.settings.method
        assert isinstance(method, Rubric)
        told = [ratings(reply, list(self.criteria), method.low, method.high) for reply in replies[0]]
        known = [numbers for numbers, _ in told if numbers is not None]
        cost = Cost.of(replies[0], self.settings)
        if not known:
            return Rated(score=None, problem=next(why for _, why in told), cost=cost)
        means = {name: fmean(numbers[name] for numbers in known) for name in self.criteria}
        whole = math.fsum(each.weight for each in self.criteria.values())
        shares = {name: (mean - method.low) / (method.high - method.low) for name, mean in means.items()}
        score = math.fsum(self.criteria[name].weight * share for name, share in shares.items()) / whole
        return Rated(score=min(max(score, 0.0), 1.0), ratings=means, cost=cost)

    def _reference(self, single: Single) -> list[_View]:
        method = self.settings.method
        assert isinstance(method, Reference) and single.reference is not None
        orders = [True, False]
        if method.orders == "one":
            orders = [seed_for(self._seed, self.settings.seed, "judge_order", single.key) % 2 == 0]
        views: list[_View] = []
        for straight in orders:
            letters = method.letters if straight else method.letters[::-1]
            messages = reference_messages(
                self.settings, single.prompt, single.reference, single.answer, letters=letters, secret=self._secret
            )
            views.append(_View(self._questions(messages, method.letters), straight, ""))
        return views

    def _matched(self, plan: Sequence[_View], replies: Sequence[Sequence[Reply]]) -> Rated:
        method = self.settings.method
        assert isinstance(method, Reference)
        odds: list[float] = []
        cost = Cost.of((reply for told in replies for reply in told), self.settings)
        for view, told in zip(plan, replies, strict=True):
            found, why = log_odds(told, method.letters, reasoned=self.settings.reason)
            if found is None:
                return Rated(score=None, problem=why, cost=cost)
            odds.append(found if view.a_first else -found)
        return Rated(score=sigmoid(fmean(odds)), ratings={}, cost=cost)

    def _questions(
        self, messages: tuple[Message, ...], letters: tuple[str, ...], schema: Mapping[str, Any] | None = None
    ) -> list[Question]:
        """One for each sample; all that differs is the seed."""
        settings = self.settings
        told = "\0".join(turn["content"] for turn in messages)
        most = settings.max_tokens or (1024 if settings.reason else 8 if letters else 256)
        temperature = settings.temperature
        return [
            Question(
                messages=messages,
                max_tokens=most,
                temperature=temperature if temperature is not None else float(settings.samples > 1),
                seed=seed_for(self._seed, settings.seed, "judge", told, k) % _SEEDS,
                letters=letters,
                schema=schema,
            )
            for k in range(settings.samples)
        ]


@dataclass(frozen=True, slots=True)
class _View:
    """One way of asking: its samples, and which answer (or letter for yes) came first."""

    questions: list[Question]
    a_first: bool
    criterion: str


def pairs_of(num: int, most: int, *key: int | str) -> list[tuple[int, int]]:
    """All pairs of 0..num-1, or where those are more than `most` so many of a round-robin by lot.

    Each one's neighbours on a circle come first, in an order that the key fixes, so that none is left without a
    comparison while most >= num.
    """
    every = [(i, j) for i in range(num) for j in range(i + 1, num)]
    if len(every) <= most:
        return every
    order = permutation(num, "judge_pairs", *key)
    chosen: dict[tuple[int, int], None] = {}
    for step in range(1, num // 2 + 1):
        for k in range(num):
            i, j = sorted((order[k], order[(k + step) % num]))
            chosen[i, j] = None
    return sorted(list(chosen)[:most])


def rubric_of(method: Rubric, setting: str = "") -> dict[str, Any]:
    """Criteria by name, from the settings or their file. DataError, SettingsError."""
    if method.file is None:
        return dict(method.criteria)
    import yaml
    from pydantic import ValidationError

    where = f"{setting}method.file: {method.file}"
    text = _text(method.file, where)
    try:
        read = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a day that is none, a number of 5000 digits
        raise SettingsError(f"{where} is no YAML: {' '.join(str(error).split())[:200]}") from None
    except RecursionError:
        raise SettingsError(f"{where} is nested too deep") from None
    if not isinstance(read, Mapping) or not read:
        raise SettingsError(f"{where} must hold criteria by name, such as `correct: the answer is right`")
    given = {name: {"text": each} if isinstance(each, str) else each for name, each in read.items()}
    try:
        return dict(Rubric.model_validate({"kind": "rubric", "criteria": given}).criteria)
    except ValidationError as error:
        first = error.errors()[0]
        raise SettingsError(f"{where}: {'.'.join(map(str, first['loc'][1:]))}: {first['msg']}") from None


def principles_of(method: Constitution, setting: str = "") -> tuple[str, ...]:
    """Principles, from the settings or their file. DataError, SettingsError."""
    if method.file is None:
        return method.principles
    where = f"{setting}method.file: {method.file}"
    lines = [line.strip() for line in _text(method.file, where).splitlines()]
    found = tuple(line for line in lines if line and not line.startswith("#"))
    if not found:
        raise SettingsError(f"{where} holds no principle; write one on each line")
    return found


def _text(file: str, where: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{where}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{where} is no UTF-8 text") from None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None
