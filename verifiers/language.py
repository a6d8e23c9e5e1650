"""language: the response is in the wanted language, or how much of it is: also a reward against mixing languages.

Gold: an ISO 639-1 code such as "de", or a list of codes of which each is right; not read where the option languages
is set.
How a language is told: language_guess.py. Text of digits, marks or code alone is in no language.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rlvr.errors import near
from rlvr.plugins import verifier
from rlvr.types import Task, Verdict
from rlvr.verifiers.ifeval_text import said, sentences
from rlvr.verifiers.language_guess import (
    CODES,
    MAINLY,
    UNKNOWN,
    detect,
    known_code,
    letters_by_script,
    prose,
    script_weights,
    scripts_of,
)


@verifier("language", version="1")
def language(
    response: str,
    gold: Any = None,
    *,
    languages: list[str] | None = None,
    score: Literal["whole", "sentences", "letters"] = "whole",
    of: Literal["said", "thinking", "all"] = "said",
) -> Verdict:
    """whole: 1 where most of it is in a wanted language and at least 0.75 of its words are in that language's script.
    sentences: the share of sentences, by length, that are; those that cannot be told do not count. letters: the share
    of words in a wanted language's script, which is cheap and sees Chinese in an English chain of thought, yet not
    French in it. of: what stands behind `</think>`, the thinking before it, or both.
    """
    wanted, problem = _wanted(gold if languages is None else languages)
    if problem:
        return Verdict(score=None, outcome="gold_invalid", reason=problem)
    text = _part(response, of)
    if text is None or not text.strip():
        what = "thinking" if of == "thinking" else "response"
        return Verdict(score=0.0, outcome="no_answer", reason=f"there is no {what} to judge")
    shares = _SHARES[score](text, wanted)
    share = min(1.0, sum(shares.get(code, 0.0) for code in wanted))
    if score == "letters":
        share = shares["wanted"]
    elif score == "whole":
        share = float(share >= MAINLY)
    told = ", ".join(
        f"{name} {part:.0%}" for name, part in sorted(shares.items(), key=lambda item: (-item[1], item[0]))
    )
    return Verdict(
        score=share,
        outcome="correct" if share == 1.0 else "partial" if share else "wrong",
        reason=f"{told or 'its language cannot be told'}; {' or '.join(wanted)} wanted",
        stage=score,
        checks={name: {"score": part, "reason": "share of the text"} for name, part in sorted(shares.items())},
    )


def _whole(text: str, wanted: Sequence[str]) -> dict[str, float]:
    found = detect(text)
    return {found.code: found.share} if found.code != UNKNOWN else {}


def _sentences(text: str, wanted: Sequence[str]) -> dict[str, float]:
    """Language -> share of the letters that stand in sentences (or lines) of this language."""
    lengths: dict[str, int] = {}
    for line in prose(text).split("\n"):
        for sentence in sentences(line):
            code = detect(sentence).code
            if code != UNKNOWN:
                lengths[code] = lengths.get(code, 0) + sum(letters_by_script(sentence).values())
    total = sum(lengths.values())
    return {code: length / total for code, length in lengths.items()}


def _letters(text: str, wanted: Sequence[str]) -> dict[str, float]:
    weights = script_weights(prose(text))
    total = sum(weights.values())
    ours = sum(weights.get(script, 0.0) for script in {script for code in wanted for script in scripts_of(code)})
    shares = {script: weight / total for script, weight in weights.items()}
    return {**shares, "wanted": ours / total if total else 0.0}


_SHARES = {"whole": _whole, "sentences": _sentences, "letters": _letters}


def _part(response: str, of: str) -> str | None:
    if of == "said":
        return said(response)
    if of == "all":
        return response
    before, mark, _ = response.rpartition("</think>")
    if mark:
        return before
    _, mark, behind = response.partition("<think>")
    return behind if mark else None


def _wanted(value: Any) -> tuple[list[str], str]:
    """The codes that are right, and why there are none."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list | tuple) or not value or not all(isinstance(name, str) for name in value):
        return (
            [],
            f"the gold must be a language code or a list of them, or the option languages be set, got {value!r:.80}",
        )
    codes = {name: known_code(name) for name in value}
    for name, code in codes.items():
        if code is None:
            return [], f"no language {name[:40]!r} is known here; {near(name, CODES)}known: {', '.join(CODES)}"
    return list(dict.fromkeys(code for code in codes.values() if code)), ""


def gold_problem(verifier_name: str, task: Task, options: Mapping[str, Any] | None = None) -> str:
    """Why the task's gold names no language; "" where it does, or where the options do in its place."""
    languages = (options or {}).get("languages")
    return _wanted(task.gold if languages is None else languages)[1]


def start_problem(options: Mapping[str, Any]) -> str:
    """Why nothing can be judged with these options."""
    languages = options.get("languages")
    return "" if languages is None else _wanted(languages)[1]


def warm_up() -> None:
    """Make the tables of words and trigrams before workers are forked."""
    for text in ("the house", "дом и сад", "في البيت", "घर में है"):
        detect(text)


_GERMAN = "Der Zug kommt heute später, weil es in den Bergen geschneit hat."
_FINNISH = "Juna on tänään myöhässä, koska vuorilla on satanut lunta."
_ENGLISH = "The train is late today because it has snowed in the mountains."

EXAMPLES = [  # gold, response, score: right, wrong, malformed, trying to cheat
    ("de", _GERMAN, 1.0),
    ("de", _GERMAN.upper(), 1.0),
    ("de", f"<think>{_ENGLISH}</think>{_GERMAN}", 1.0),
    (["fi", "sv"], _FINNISH, 1.0),
    ("de", _ENGLISH, 0.0),
    ("zh", "今日は山に雪が降ったので、電車が遅れています。", 0.0),
    ("de", "", 0.0),
    ("de", "12345", 0.0),
    ("de", "!!! ???", 0.0),
    ("de", f"<think>{_GERMAN}", 0.0),
    ("de", f"{_ENGLISH} {_ENGLISH} Und der die das.", 0.0),
    ("hi", f"{_ENGLISH} {_ENGLISH} यह है।", 0.0),
    ("klingon", _ENGLISH, None),
    ([], _ENGLISH, None),
]
