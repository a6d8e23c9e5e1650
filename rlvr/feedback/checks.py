"""What makes an item or a judgement usable, as one line about what is wrong with it. Pure; standard library only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from rlvr.errors import near
from rlvr.feedback.records import ATTRIBUTES, MODES, MOST_COMPLETIONS, Item, Judgement, Mode, Ranking

MOST_RATING = 1e9
"""Of scales that people use; sums of the squares of what is larger may leave the numbers."""
MOST_CHARACTERS = 200_000
"""Of a prompt, a completion or a text that somebody wrote: more than a person reads on a page."""
NAME_CHARACTERS = 100
"""Of the name of an annotator, an attribute or a label."""
NOTE_CHARACTERS = 2000
"""Of a comment, or of the reason of a skip."""
ID_CHARACTERS = 500
FIELDS: dict[Mode, str] = {
    "compare": "ranking",
    "rank": "ranking",
    "rate": "ratings",
    "thumbs": "thumbs",
    "write": "text",
    "spans": "spans",
}
"""What a judgement of each mode must hold."""
_NUM_COMPLETIONS: dict[Mode, tuple[int, int]] = {
    "compare": (2, MOST_COMPLETIONS),
    "rank": (2, MOST_COMPLETIONS),
    "rate": (1, MOST_COMPLETIONS),
    "thumbs": (1, MOST_COMPLETIONS),
    "write": (0, 1),
    "spans": (1, MOST_COMPLETIONS),
}


def attributes_of(item: Item) -> tuple[str, ...]:
    """What is rated of each completion; () where nothing is."""
    return item.attributes or (ATTRIBUTES if item.mode == "rate" else ())


def item_problem(item: Item) -> str:
    """Why nobody can be asked this; "" where all is well."""
    if not item.id or len(item.id) > ID_CHARACTERS:
        return f"id must have 1 to {ID_CHARACTERS} characters, has {len(item.id)}"
    if item.mode not in MODES:
        return f"mode must be one of {', '.join(MODES)}, got {item.mode!r}"
    least, most = _NUM_COMPLETIONS[item.mode]
    num = len(item.completions)
    if not least <= num <= most:
        return f"mode {item.mode} needs {f'{least} to {most}' if least < most else least} completions, got {num}"
    texts = {"id": item.id, "source": item.source}
    texts |= {f"completions[{k}]": text for k, text in enumerate(item.completions)}
    if isinstance(item.prompt, str):
        texts["prompt"] = item.prompt
    else:
        texts |= {f"prompt[{k}]": turn["content"] for k, turn in enumerate(item.prompt)}
        texts |= {f"prompt[{k}].role": turn["role"] for k, turn in enumerate(item.prompt)}
    for what, text in texts.items():
        if problem := text_problem(text, MOST_CHARACTERS):
            return f"{what} {problem}"
    if isinstance(item.prompt, tuple) and sum(len(turn["content"]) for turn in item.prompt) > MOST_CHARACTERS:
        return f"prompt has more than {MOST_CHARACTERS} characters, which nobody reads on a page"
    if not item.completions and not (item.prompt if isinstance(item.prompt, tuple) else item.prompt.strip()):
        return "neither a prompt nor a completion is there to be shown"
    if num > 1:
        first_at: dict[str, int] = {}
        for k, text in enumerate(item.completions):
            if (before := first_at.setdefault(text.strip(), k)) != k:
                return f"completions[{before}] and completions[{k}] are the same text; keep one of them"
    for name in item.attributes:
        if problem := name_problem(name):
            return f"attribute {name[:40]!r} {problem}"
    if len(set(item.attributes)) < len(item.attributes):
        return "an attribute is named twice"
    if item.gold is not None and (problem := judgement_problem(item, item.gold)):
        return f"gold: {problem}"
    return ""


def judgement_problem(item: Item, judgement: Judgement) -> str:
    """Why that is no judgement of the item; "" where it is one. Numbers are only held to be finite."""
    given = {name for name in ("ranking", "text", "spans") if getattr(judgement, name) is not None}
    given |= {name for name in ("ratings", "thumbs") if getattr(judgement, name)}
    if judgement.skipped is not None:
        if given:
            return f"skipped, and {', '.join(sorted(given))} beside it: which of the two?"
        if not judgement.skipped.strip():
            return "skipped needs a reason"
        return _named("skipped", text_problem(judgement.skipped, NOTE_CHARACTERS))
    needed = FIELDS[item.mode]
    if needed not in given:
        return f"mode {item.mode} needs {needed}"
    allowed = {needed} | ({"ratings"} if attributes_of(item) else set())
    if given - allowed:
        return f"mode {item.mode} has no {', '.join(sorted(given - allowed))}"
    num = len(item.completions)
    problem = ""
    if judgement.ranking is not None:
        problem = _named("ranking", ranking_problem(judgement.ranking, num))
    if not problem and judgement.ratings:
        problem = _ratings_problem(judgement.ratings, attributes_of(item), num)
    if not problem and judgement.thumbs:
        problem = _thumbs_problem(judgement.thumbs, num)
    if not problem and judgement.text is not None:
        too_long = text_problem(judgement.text, MOST_CHARACTERS)
        problem = _named("text", too_long or ("" if judgement.text.strip() else "is empty"))
    if not problem and judgement.spans is not None:
        problem = _spans_problem(item, judgement)
    return problem


def ranking_problem(ranking: Ranking, num: int) -> str:
    """Why those are not places for completions 0 to num - 1; "" where each has one place."""
    named = [k for place in ranking for k in place]
    if any(not place for place in ranking):
        return "has an empty place"
    if strange := [k for k in named if not is_index(k, num)]:
        return f"names completion {str(strange[0])[:40]}, and there are {num} (0 to {num - 1})"
    if len(set(named)) < len(named):
        return f"names completion {next(k for k in named if named.count(k) > 1)} twice"
    if lacking := sorted(set(range(num)) - set(named)):
        return f"does not name completion {', '.join(map(str, lacking))}; every one needs a place"
    return ""


def is_index(value: Any, num: int) -> bool:
    """Whether it is a whole number from 0 to num - 1; True and 1.0 are none."""
    return type(value) is int and 0 <= value < num


def text_problem(text: str, most: int) -> str:
    """Why a text cannot be kept and exported; "" where it can."""
    if len(text) > most:
        return f"has {len(text)} characters; at most {most} can be shown"
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return "holds half a surrogate pair, which is no valid text"
    return ""


def name_problem(name: str) -> str:
    """Why nobody and nothing can be called that; "" where it can."""
    if not name.strip() or name != name.strip():
        return "must have a letter, and no blank at either end"
    if len(name) > NAME_CHARACTERS:
        return f"has {len(name)} characters; a name has at most {NAME_CHARACTERS}"
    if not name.isprintable():  # also half a surrogate pair
        return "holds a control character"
    return ""


def _ratings_problem(ratings: Mapping[str, Mapping[str, float]], attributes: Iterable[str], num: int) -> str:
    known = list(attributes)
    for index, given in ratings.items():
        if problem := _index_problem(index, num):
            return f"ratings: {problem}"
        for name, value in given.items():
            if name not in known:
                return f"ratings: no attribute {name[:40]!r} is asked; {near(name, known)}known: {', '.join(known)}"
            if type(value) not in (int, float) or not is_finite(value) or abs(value) > MOST_RATING:
                return f"ratings: {name} of completion {index} must be a finite number of at most {MOST_RATING:g}"
    return "" if any(ratings.values()) else "ratings: holds none"


def _thumbs_problem(thumbs: Mapping[str, bool], num: int) -> str:
    for index, value in thumbs.items():
        if problem := _index_problem(index, num):
            return f"thumbs: {problem}"
        if type(value) is not bool:
            return f"thumbs: that of completion {index} must be true or false"
    return ""


def _spans_problem(item: Item, judgement: Judgement) -> str:
    assert judgement.spans is not None
    for span in judgement.spans:
        if not is_index(span.completion, len(item.completions)):
            return f"spans: no completion {str(span.completion)[:40]}; there are {len(item.completions)}"
        length = len(item.completions[span.completion])
        if not (type(span.first) is type(span.end) is int and 0 <= span.first < span.end <= length):
            at = f"{str(span.first)[:20]} to {str(span.end)[:20]}"
            return f"spans: {at} is not within completion {span.completion}, which has {length} characters"
        if problem := name_problem(span.label):
            return f"spans: label {span.label[:40]!r} {problem}"
    return ""


def _index_problem(index: str, num: int) -> str:
    if index not in map(str, range(num)):
        return f"no completion {index[:40]!r}; there are {num} (0 to {num - 1})"
    return ""


def is_finite(value: float) -> bool:
    """Also of whole numbers beyond what a float holds, which are not."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _named(what: str, problem: str) -> str:
    return f"{what} {problem}" if problem else ""
