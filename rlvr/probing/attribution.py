"""Which words earn a reward: each is taken out, and what the reward loses is put to its account (occlusion).

https://arxiv.org/abs/1311.2901 section 4 for images, https://arxiv.org/abs/1612.08220 for words. Exact for the reward
as it is, one forward for each unit; what two units only do together is put to the account of both.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rlvr.errors import DataError
from rlvr.probing.scorer import Scorer, needed
from rlvr.types import Prompt

Unit = Literal["word", "token"]
How = Literal["delete", "mask"]
_WORD = re.compile(r"\w+(?:[-'’]\w+)*|[^\w\s]")
_SCALE = 12
"""Characters of the longest bar."""


@dataclass(frozen=True, slots=True)
class Share:
    """Of one unit: Share(text="thanks", first=4, end=10, value=0.83). first, end: characters of the completion."""

    text: str
    first: int
    end: int
    value: float
    """Reward with it - reward without it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribution:
    """What a completion earned, and each of its units."""

    prompt: Prompt
    completion: str
    reward: float
    unit: Unit
    how: How
    shares: tuple[Share, ...]

    @property
    def largest(self) -> Share | None:
        """The unit that moves the reward most, in either direction."""
        return max(self.shares, key=lambda share: abs(share.value), default=None)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def attribute(
    scorer: Scorer,
    prompt: Prompt,
    completion: str,
    *,
    unit: Unit = "word",
    how: How = "delete",
    max_units: int = 2048,
) -> Attribution:
    """The reward of a completion and the share of each word or token in it.

    delete: the unit is left out (a word with the space before it); mask: it becomes the tokenizer's mask token, which
    encoders have. DataError: too long for the model, more than max_units, or no mask token.
    """
    rows, spans = _token_rows(scorer, prompt, completion, how) if unit == "token" else (None, word_spans(completion))
    if len(spans) > max_units:
        raise DataError(f"a completion of {len(spans)} {unit}s: at most {max_units} are taken out one by one")
    if rows is None:
        mask = _mask(scorer)[0] if how == "mask" else None
        texts = [completion, *(without(completion, first, end, mask) for first, end in spans)]
        rows = [scorer.ids(prompt, text) for text in texts]
    reward, *lesser = needed(scorer.of_ids(rows), "a completion")
    shares = tuple(
        Share(completion[first:end], first, end, reward - less)
        for (first, end), less in zip(spans, lesser, strict=True)
    )
    return Attribution(prompt=prompt, completion=completion, reward=reward, unit=unit, how=how, shares=shares)


def word_spans(text: str) -> list[tuple[int, int]]:
    """Characters first..end-1 of each word and of each mark between words."""
    return [match.span() for match in _WORD.finditer(text)]


def without(text: str, first: int, end: int, mask: str | None = None) -> str:
    """The text without these characters and the space before them, or with a mask in their place."""
    if mask is not None:
        return text[:first] + mask + text[end:]
    if text[first - 1 : first] == " ":
        return text[: first - 1] + text[end:]
    rest = text[end:]
    return text[:first] + (rest.removeprefix(" ") if first == 0 else rest)  # "book, a" has to become "book a"


def _mask(scorer: Scorer) -> tuple[str, int]:
    token, id = scorer.tokenizer.mask_token, scorer.tokenizer.mask_token_id
    if token is None or id is None:
        raise DataError(f"{scorer.path}: its tokenizer has no mask token; take units out with how=delete")
    return token, id


def _token_rows(
    scorer: Scorer, prompt: Prompt, completion: str, how: How
) -> tuple[list[list[int]], list[tuple[int, int]]]:
    """(the whole row and the row without each token of the completion, characters of each)"""
    whole = scorer.ids(prompt, completion)
    told = scorer.tokenizer(completion, add_special_tokens=False, return_offsets_mapping=True)
    spans, num = [(int(a), int(b)) for a, b in told["offset_mapping"]], len(told["input_ids"])
    start = _place(whole, list(told["input_ids"]))
    if start is None:
        raise DataError(f"{scorer.path}: its chat template rewrites the completion; take out words instead of tokens")
    rows = [whole]
    for k in range(start, start + num):
        rows.append([*whole[:k], *([_mask(scorer)[1]] if how == "mask" else []), *whole[k + 1 :]])
    return rows, spans


def _place(row: Sequence[int], part: Sequence[int]) -> int | None:
    """Where the last copy of `part` begins in a row."""
    starts = range(len(row) - len(part), -1, -1)
    return next((k for k in starts if list(row[k : k + len(part)]) == list(part)), None)


# --- for people ------------------------------------------------------------------------------------------------------


def render(found: Attribution) -> list[str]:
    """A line for each unit: its share with its sign, a bar of its size, the unit."""
    lines = [f"reward {found.reward:+.4f}; what it loses without each {found.unit} ({found.how}):"]
    most = max((abs(share.value) for share in found.shares), default=0.0)
    for share in found.shares:
        size = round(_SCALE * abs(share.value) / most) if most else 0
        bar = ("+" if share.value > 0 else "-") * size
        lines.append(f"{share.value:+10.4f} {bar:{_SCALE}} {share.text!r}")
    return lines
