"""How a reward moves when a text speaks of another group of people and of nothing else new."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from rlvr.probing import intervals
from rlvr.probing.scorer import Scorer, Text
from rlvr.probing.terms import Terms, swap
from rlvr.probing.texts import Written
from rlvr.seeds import seed_for
from rlvr.types import prompt_text

_NUM_WORST = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One text about one group and about another. text_a, text_b: completion, or the prompt where only that differs."""

    id: str
    reward_a: float
    reward_b: float
    a: Text
    b: Text

    @property
    def delta(self) -> float:
        return self.reward_a - self.reward_b


@dataclass(frozen=True, slots=True, kw_only=True)
class Sway:
    """Two groups of an attribute. Sway(attribute="gender", a="female", b="male", num=120, mean=0.3, ci95=(0.2, 0.4))"""

    attribute: str
    a: str
    b: str
    num: int
    """Texts that speak of one of both."""
    mixed: int
    """Texts left out because they speak of both."""
    unscored: int
    """Texts left out because the model could not take them."""
    unknown: int
    """Texts left out because the tokenizer does not know a word of one of both, and reads another or none for it."""
    mean: float | None
    """Of reward(about a) - reward(about b)."""
    ci95: tuple[float, float] | None
    """Of the mean over texts; None of fewer than two."""
    worst: tuple[dict[str, Any], ...] = ()
    """The texts that are swayed most, with both versions."""

    @property
    def is_swayed(self) -> bool:
        """Whether 0 is outside of the interval."""
        return self.ci95 is not None and not self.ci95[0] <= 0 <= self.ci95[1]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "swayed": self.is_swayed}


def probe(
    scorer: Scorer,
    texts: Sequence[Written],
    tables: Sequence[Terms],
    *,
    where: str = "both",
    groups: Sequence[str] = (),
    seed: int = 0,
) -> list[Sway]:
    """For each two groups of each table, over the texts that speak of one of them.

    where: prompt, completion or both are swapped; groups: only pairs of these. Texts about a group of the pair are read
    as they are and with the other group's words, whichever of both they are about.
    """
    found: list[Sway] = []
    for table in tables:
        spoken = [_groups(table, written, where) for written in texts]
        for a, b in combinations(table.groups, 2):
            if groups and not {a, b} <= set(groups):
                continue
            told = [(w, own & {a, b}) for w, own in zip(texts, spoken, strict=True) if own & {a, b}]
            if told:
                found.append(_sway(scorer, table, a, b, told, where, seed))
    return found


def _groups(table: Terms, written: Written, where: str) -> set[str]:
    prompt = prompt_text(written.prompt)
    texts = {"prompt": [prompt], "completion": [written.completion], "both": [prompt, written.completion]}[where]
    return {group for text in texts for group in table.groups_in(text)}


def _sway(
    scorer: Scorer, table: Terms, a: str, b: str, told: Sequence[tuple[Written, set[str]]], where: str, seed: int
) -> Sway:
    single = [(written, own) for written, own in told if len(own) == 1]
    versions = list(_versions(table, single, a, b, where))
    tokens = [(scorer.ids(*about_a), scorer.ids(*about_b)) for _, about_a, about_b in versions]
    known = [k for k, both in enumerate(tokens) if scorer.tells_apart(*both)]
    num_all, versions = len(versions), [versions[k] for k in known]
    rewards = scorer.of_ids([ids for k in known for ids in tokens[k]])
    pairs = [
        Pair(id=written.id, reward_a=of_a, reward_b=of_b, a=about_a, b=about_b)
        for (written, about_a, about_b), of_a, of_b in zip(versions, rewards[::2], rewards[1::2], strict=True)
        if of_a is not None and of_b is not None
    ]
    deltas = [pair.delta for pair in pairs]
    interval = intervals.of_mean(deltas, seed=seed_for(seed, "probe", table.attribute, a, b)) if pairs else None
    worst = sorted(pairs, key=lambda pair: (-abs(pair.delta), pair.id))[:_NUM_WORST]
    return Sway(
        attribute=table.attribute,
        a=a,
        b=b,
        num=len(pairs),
        mixed=len(told) - len(single),
        unscored=len(versions) - len(pairs),
        unknown=num_all - len(versions),
        mean=sum(deltas) / len(deltas) if deltas else None,
        ci95=interval if len(pairs) > 1 else None,
        worst=tuple(_worst(pair) for pair in worst),
    )


def _versions(
    table: Terms, told: Sequence[tuple[Written, set[str]]], a: str, b: str, where: str
) -> Iterator[tuple[Written, Text, Text]]:
    """(text, about a, about b); texts with a word that the other group has none for are left out."""
    for written, own in told:
        original: Text = (written.prompt, written.completion)
        old, new = (a, b) if own == {a} else (b, a)
        other = swap(table, *original, old, new, where)
        if other is not None and other != original:
            yield written, *((original, other) if old == a else (other, original))


def _worst(pair: Pair) -> dict[str, Any]:
    differ = 1 if pair.a[1] != pair.b[1] else 0
    return {"id": pair.id, "delta": pair.delta, "a": pair.a[differ], "b": pair.b[differ]}


# --- for people ------------------------------------------------------------------------------------------------------


def render(sways: Sequence[Sway], num_worst: int = 1) -> Iterator[str]:
    """A line for each pair of groups, with the text that is swayed most."""
    yield f"{'attribute':14} {'a':18} {'b':18} {'texts':>6} {'mean a - b':>11}  95 %"
    for sway in sways:
        interval = f"{sway.ci95[0]:+.4f} to {sway.ci95[1]:+.4f}" if sway.ci95 else "too few texts"
        mark = "  swayed" if sway.is_swayed else ""
        mark += f"  ({sway.unknown} left out: words that the tokenizer does not know)" if sway.unknown else ""
        mean = f"{sway.mean:+.4f}" if sway.mean is not None else "none"
        yield f"{sway.attribute:14} {sway.a:18} {sway.b:18} {sway.num:>6} {mean:>11}  {interval}{mark}"
        if sway.is_swayed:
            for one in sway.worst[:num_worst]:
                yield f"    {one['delta']:+.4f} {one['id']}: {_short(one['a'])} | {_short(one['b'])}"


def _short(text: Any) -> str:
    shown = " ".join(str(text).split())
    return repr(shown if len(shown) <= 70 else f"{shown[:67]}...")
