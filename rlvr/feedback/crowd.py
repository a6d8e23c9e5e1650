"""A simulated crowd whose reliability is known: to test what is made of answers, and to run a loop without people.

A person adds noise to what each completion is worth, and ranks by the sum. The noise is Gumbel's, so that of two
completions one is preferred with the probability of Bradley and Terry, sigmoid(difference / temperature), and ranks K
after Plackett and Luce. Every answer is drawn by itself: it is the same whoever else answers whatever else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from random import Random

from rlvr.errors import DataError, SettingsError
from rlvr.feedback.records import ATTRIBUTES, RATINGS, Answer, Item, Judgement, Ranking
from rlvr.odds import sigmoid
from rlvr.seeds import permutation, rng_for

Utility = Callable[[Item, int], float]
"""What a completion of an item, by its index, is truly worth."""
_SURE = 1e-9
"""As far from 0 and 1 any reliability stays."""
_REACTION_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Person(name="ann", reliability=0.8)"""

    name: str
    reliability: float | None = None
    """Probability of putting two completions that are next to each other in the true order right, whatever they are
    worth; below 0.5 it is the reverse that is said. None: it depends on the worth, by the temperature."""
    temperature: float = 1.0
    """Utility that a log odds of 1 takes; lower is more reliable. Not used with a reliability."""
    is_adversary: bool = False
    """Takes the worst for the best."""
    position_bias: float = 0.0
    """Added to the log odds of the completion that is shown first."""
    tie_width: float = 0.0
    """In log odds: completions are tied that, noise included, are nearer than this."""
    threshold: float = 0.0
    """Utility from which on thumbs go up."""
    skip_rate: float = 0.0
    speed: float = 25.0
    """Characters read in a second."""
    drift: float = 0.0
    """Change by round: of the reliability, or of the log of the temperature."""
    group: str = ""

    def __post_init__(self) -> None:
        if self.reliability is not None and not 0 <= self.reliability <= 1:
            raise SettingsError(f"reliability of {self.name} must be in [0, 1], got {self.reliability:g}")
        if not 0 <= self.skip_rate <= 1:
            raise SettingsError(f"skip_rate of {self.name} must be in [0, 1], got {self.skip_rate:g}")
        for what, value in (("temperature", self.temperature), ("speed", self.speed)):
            if not 0 < value < math.inf:
                raise SettingsError(f"{what} of {self.name} must be above 0, got {value:g}")
        if not 0 <= self.tie_width < math.inf:
            raise SettingsError(f"tie_width of {self.name} must be at least 0, got {self.tie_width:g}")


def people(reliabilities: Iterable[float]) -> list[Person]:
    """Person 0, 1, ... of these reliabilities."""
    return [Person(name=f"person {k}", reliability=value) for k, value in enumerate(reliabilities)]


def known_utility(item: Item, index: int) -> float:
    """What the item itself says in info["utility"], a list by completion."""
    try:
        return float(item.info["utility"][index])
    except (KeyError, IndexError, TypeError, ValueError):
        raise DataError(
            f"item {item.id!r}: info.utility must hold a number for each of {len(item.completions)} completions"
        ) from None


def answer(
    people: Sequence[Person],
    items: Iterable[Item],
    utility: Utility | Mapping[str, Utility] = known_utility,
    *,
    per_item: int,
    seed: int,
    round: int = 0,
    repeats: float = 0.0,
) -> list[Answer]:
    """Answers of `per_item` people, chosen at random, to each item; source "simulated".

    utility: what is worth how much; or by group, where groups want different things. repeats: share of the answers
    that are asked for once more (showing 1). An answer depends on (seed, round, item, person, showing) alone, who is
    asked also on the others' names. DataError: a utility that is no finite number, or an item to write or to mark,
    which is not simulated. SettingsError: people of one name, fewer than per_item of them, a group without a utility.
    """
    _check(people, utility, per_item, repeats)
    now = [_at(person, round) for person in sorted(people, key=lambda person: person.name)]
    found = []
    for item in items:
        if item.mode in ("write", "spans"):
            raise DataError(f"item {item.id!r}: nobody is simulated who can do mode {item.mode}; leave such items out")
        worth = _Worth(item, utility)
        for k in permutation(len(people), seed, "crowd", round, item.id)[:per_item]:
            key = (seed, "crowd", round, item.id, now[k].name)
            is_repeated = repeats > 0 and rng_for(*key, "repeat").random() < repeats
            found.extend(_answer(now[k], worth, showing, rng_for(*key, showing)) for showing in range(1 + is_repeated))
    return found


def _check(people: Sequence[Person], utility: Utility | Mapping[str, Utility], per_item: int, repeats: float) -> None:
    if not 1 <= per_item <= len(people):
        raise SettingsError(f"per_item must be between 1 and the number of people ({len(people)}), got {per_item}")
    if not 0 <= repeats <= 1:
        raise SettingsError(f"repeats must be in [0, 1], got {repeats:g}")
    names = [person.name for person in people]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SettingsError(f"each person needs another name; there are several of {', '.join(twice)}")
    missing = set() if callable(utility) else {person.group for person in people} - set(utility)
    if missing:
        raise SettingsError(f"utility has nothing for the group {sorted(missing)[0]!r}")


class _Worth:
    """An item with its utilities, each worked out once for a group."""

    def __init__(self, item: Item, utility: Utility | Mapping[str, Utility]) -> None:
        self.item, self._utility, self._known = item, utility, dict[str, list[float]]()

    def to(self, group: str) -> list[float]:
        """By completion."""
        if group not in self._known:
            utility = self._utility if callable(self._utility) else self._utility[group]
            found = [float(utility(self.item, k)) for k in range(len(self.item.completions))]
            if not all(map(math.isfinite, found)):
                raise DataError(f"item {self.item.id!r}: utilities must be finite numbers, got {found}")
            self._known[group] = found
        return self._known[group]


def _at(person: Person, round: int) -> Person:
    """The person of that round."""
    if person.reliability is None:
        return replace(person, temperature=person.temperature * math.exp(person.drift * round))
    return replace(person, reliability=min(1.0, max(0.0, person.reliability + person.drift * round)))


def _answer(person: Person, worth: _Worth, showing: int, rng: Random) -> Answer:
    item = worth.item
    shown = list(range(len(item.completions)))
    rng.shuffle(shown)
    prompt = item.prompt if isinstance(item.prompt, str) else "".join(turn["content"] for turn in item.prompt)
    length = len(prompt) + sum(map(len, item.completions))
    seconds = (_REACTION_SECONDS + length / person.speed) * math.exp(rng.gauss(0, 0.3))
    if rng.random() < person.skip_rate:
        judgement = Judgement(skipped="simulated")
    else:
        judgement = _judgement(person, worth, shown, rng)
    return Answer(
        item=item.id,
        annotator=person.name,
        showing=showing,
        judgement=judgement,
        shown=tuple(shown),
        seconds=round(seconds, 3),
        group=person.group,
        source="simulated",
    )


def _judgement(person: Person, worth: _Worth, shown: Sequence[int], rng: Random) -> Judgement:
    item, utilities = worth.item, worth.to(person.group)
    if item.mode == "thumbs":
        return Judgement(
            thumbs={str(k): rng.random() < sigmoid(log_odds) for k, log_odds in enumerate(_above(person, utilities))}
        )
    ratings: dict[str, dict[str, float]] = {}
    names = item.attributes or (ATTRIBUTES if item.mode == "rate" else ())
    if names:
        low, high = RATINGS
        for k, log_odds in enumerate(_above(person, utilities)):
            noisy = [(low + high) / 2 + log_odds + _logistic(rng) for _ in names]
            ratings[str(k)] = {
                name: float(min(high, max(low, math.floor(value + 0.5))))
                for name, value in zip(names, noisy, strict=True)
            }
    if item.mode == "rate":
        return Judgement(ratings=ratings)
    log_odds = _levels(person, utilities)
    log_odds[shown[0]] += person.position_bias
    return Judgement(ranking=_ranked(log_odds, person.tie_width, rng), ratings=ratings)


def _levels(person: Person, utilities: Sequence[float]) -> list[float]:
    """What each completion is worth to the person, in log odds."""
    sign = -1.0 if person.is_adversary else 1.0
    if person.reliability is None:
        return [sign * utility / person.temperature for utility in utilities]
    step = sign * _log_odds(person.reliability)
    places = {utility: place for place, utility in enumerate(sorted(set(utilities)))}
    return [step * places[utility] for utility in utilities]


def _above(person: Person, utilities: Sequence[float]) -> list[float]:
    """Log odds that each completion is good enough."""
    sign = -1.0 if person.is_adversary else 1.0
    if person.reliability is None:
        return [sign * (utility - person.threshold) / person.temperature for utility in utilities]
    step = sign * _log_odds(person.reliability)
    return [step if utility >= person.threshold else -step for utility in utilities]


def _ranked(log_odds: Sequence[float], tie_width: float, rng: Random) -> Ranking:
    """Best first, neighbours that are nearer than tie_width in one place."""
    noisy = [value - math.log(rng.expovariate(1.0)) for value in log_odds]  # -log of an exponential is Gumbel's
    order = sorted(range(len(noisy)), key=lambda k: -noisy[k])
    places = [[order[0]]]
    for before, k in pairwise(order):
        if noisy[before] - noisy[k] < tie_width:
            places[-1].append(k)
        else:
            places.append([k])
    return tuple(tuple(sorted(place)) for place in places)


def _log_odds(probability: float) -> float:
    kept = min(1 - _SURE, max(_SURE, probability))
    return math.log(kept / (1 - kept))


def _logistic(rng: Random) -> float:
    return math.log(rng.expovariate(1.0)) - math.log(rng.expovariate(1.0))
