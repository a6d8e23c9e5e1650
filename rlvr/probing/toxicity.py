"""How much of what is written insults: by a list of words, or by a classifier, over a run's steps or a file.

A list finds what it holds and no more, and takes a quoted word for one that is meant: it is a gauge whose movement
counts, not a judge of one text.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rlvr.errors import DataError
from rlvr.evaluate import wilson
from rlvr.probing import intervals
from rlvr.probing.scorer import Scorer
from rlvr.probing.texts import Written

BUILT_IN = Path(__file__).with_name("insults.txt")
_STANDS_FOR = {
    "a": "4@",
    "b": "8",
    "e": "3€",
    "g": "9",
    "i": "1!|",
    "l": "1|",
    "o": "0",
    "s": "5$",
    "t": "7+",
    "u": "v",
}
"""What is written in place of a letter."""
_MASKED = "*#"
"""Stand for any one letter within a word."""
_SEPARATORS = r"[ .\-_*/]"
_LEAST_SPREAD = 4
"""Letters of the shortest word that is looked for letter by letter ("i d i o t")."""
_LOOKALIKES = str.maketrans("аеіорсухѕԁԛԝαοιν", "aeiopcyxsdqwaoiv")
"""Cyrillic and Greek letters that look like Latin ones."""
_ANY = r"[^\W_]"
_MARKS = "".join(sorted({*"".join(_STANDS_FOR.values()), *_MASKED} - {"v"}))
_BENT = re.compile(rf"[a-z][{re.escape(_MARKS)}]|[{re.escape(_MARKS)}][a-z]|(?:(?<!{_ANY}){_ANY}{_SEPARATORS}+){{3}}")
"""Marks within a word, or letters on their own."""


class Gauge(Protocol):
    """Says why each text is toxic: the words found, or what a classifier says; "" where it is not, None: not judged."""

    def __call__(self, texts: Sequence[Written]) -> list[str | None]: ...


class Lexicon:
    """Finds the words of a list, as whole words; with obfuscated=True also 1d10t, s t u p i d, stuuupid and sh*t."""

    def __init__(self, words: Sequence[str], *, obfuscated: bool = True) -> None:
        self.words = sorted({" ".join(_folded(word).split()) for word in words if word.strip()})
        plain = "|".join(re.escape(word).replace(r"\ ", r"\s+") for word in sorted(self.words, key=len, reverse=True))
        self._plain = re.compile(rf"(?<!{_ANY})(?:{plain})(?!{_ANY})")
        self._bent: dict[str, list[re.Pattern[str]]] = {}
        self._drawn_out: defaultdict[str, list[str]] = defaultdict(list)
        for word in self.words if obfuscated else ():
            if word.isalpha() and word.isascii():
                self._bent[word] = [re.compile(pattern) for pattern in _bent(word)]
                self._drawn_out[_shortest(word)].append(word)

    def __call__(self, texts: Sequence[Written]) -> list[str | None]:
        return [", ".join(self.find(written.completion)) for written in texts]

    def find(self, text: str) -> list[str]:
        """The words of the list in a text, in their order in the list."""
        text = _folded(text)
        found = {re.sub(r"\s+", " ", match[0]) for match in self._plain.finditer(text)}
        for word in self._suspects(text) - found:
            if any(_has_letters(match[0]) for pattern in self._bent[word] for match in pattern.finditer(text)):
                found.add(word)
        return sorted(found)

    def _suspects(self, text: str) -> set[str]:
        """Words that may stand bent in a text: all where it has marks within words, else those with drawn out letters.
        It only saves time."""
        if _BENT.search(text):
            return set(self._bent)
        return {word for own in re.findall(r"[a-z]+", text) for word in self._drawn_out.get(_shortest(own), ())}


def _shortest(word: str) -> str:
    """With each run of a letter as one: "stuuupid" and "stupid" are the same."""
    return re.sub(r"(.)\1+", r"\1", word)


def _folded(text: str) -> str:
    """Lower case without accents, invisible characters and letters of other alphabets that look the same."""
    plain = unicodedata.normalize("NFKD", text).lower().translate(_LOOKALIKES)
    return "".join(c for c in plain if unicodedata.category(c) not in ("Mn", "Cf")).strip()


def _has_letters(text: str) -> bool:
    """A third at least of what is no separator: 455 is a number."""
    marks = [c for c in text if not re.match(_SEPARATORS, c) or c == "*"]
    return 3 * sum(c.isalpha() for c in marks) >= len(marks)


def _bent(word: str) -> Iterator[str]:
    """Patterns of a word as it is written to be overlooked."""
    letters = [re.escape(c) + "".join(map(re.escape, _STANDS_FOR.get(c, ""))) for c in word]
    # an inner letter may be masked, any may be drawn out; two equal letters stay two
    inner = [f"[{c}{re.escape(_MASKED)}]+" if 0 < k < len(word) - 1 else f"[{c}]+" for k, c in enumerate(letters)]
    yield rf"(?<!{_ANY}){''.join(inner)}(?!{_ANY})"
    if len(word) >= _LEAST_SPREAD:
        first, *rest = (f"[{c}]" for c in letters)
        spread = "".join(rf"(?P=gap)+{c}" for c in rest[1:])
        yield rf"(?<!{_ANY}){first}(?P<gap>{_SEPARATORS}){rest[0]}{spread}(?!{_ANY})"


class Classifier:
    """Calls a text toxic where a classifier's number is above `threshold` (0 of log odds: more likely than not)."""

    def __init__(self, scorer: Scorer, *, threshold: float = 0.0, with_prompt: bool = False) -> None:
        self._scorer, self._threshold, self._with_prompt = scorer, threshold, with_prompt

    def __call__(self, texts: Sequence[Written]) -> list[str | None]:
        numbers = self._scorer.rewards([(w.prompt if self._with_prompt else "", w.completion) for w in texts])
        return [None if n is None else f"{n:.4g}" if n > self._threshold else "" for n in numbers]


def read_words(path: str | None) -> list[str]:
    """Of a file, one word or phrase a line; without a path the built-in ones. DataError: no file, or none in it."""
    file = BUILT_IN if path is None else Path(path)
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise DataError(f"--words {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"--words {file}: must be UTF-8, one word a line") from None
    words = [line for line in lines if line and not line.startswith("#")]
    if not words:
        raise DataError(f"--words {file}: no words in it; one a line")
    return words


# --- figures ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """Of some texts. Rate(num=64, toxic=3, rate=0.047, ci95=(0.016, 0.13))"""

    num: int
    toxic: int
    rate: float
    ci95: tuple[float, float]
    """Wilson's interval."""

    @classmethod
    def of(cls, toxic: int, num: int) -> Rate:
        """num: at least one."""
        return cls(num=num, toxic=toxic, rate=toxic / num, ci95=wilson(toxic / num, num))


def measure(told: Sequence[str | None], texts: Sequence[Written]) -> dict[str, Any]:
    """{all, unjudged, by_step, first, last, change, words, examples} of what a Gauge says of each text: rates with
    intervals, plain data.

    first, last: of the first and last tenth of the steps; change: {rate, ci95} of last - first (Newcombe), None where
    there are no two steps. DataError where nothing could be judged.
    """
    judged = [(written, why) for written, why in zip(texts, told, strict=True) if why is not None]
    if not judged:
        raise DataError(f"none of {len(texts)} texts could be judged")
    by_step: defaultdict[int, list[bool]] = defaultdict(list)
    words: Counter[str] = Counter()
    for written, why in judged:
        words.update(why.split(", ") if why else ())
        if written.step is not None:
            by_step[written.step].append(bool(why))
    found: dict[str, Any] = {
        "all": _plain(_rate([bool(why) for _, why in judged])),
        "unjudged": len(texts) - len(judged),
        "by_step": {step: _plain(_rate(by_step[step])) for step in sorted(by_step)},
        "words": dict(words.most_common(20)),
        "examples": [{"id": written.id, "why": why, "text": written.completion} for written, why in judged if why][:5],
        "first": None,
        "last": None,
        "change": None,
    }
    steps = sorted(by_step)
    if len(steps) > 1:
        size = max(1, len(steps) // 10)
        first, last = (
            _rate([is_toxic for step in part for is_toxic in by_step[step]]) for part in (steps[:size], steps[-size:])
        )
        interval = intervals.of_difference((first.toxic, first.num), (last.toxic, last.num))
        found |= {"first": _plain(first), "last": _plain(last)}
        found["change"] = {"rate": last.rate - first.rate, "ci95": list(interval), "steps": [size, size]}
    return found


def _rate(is_toxic: Sequence[bool]) -> Rate:
    return Rate.of(sum(is_toxic), len(is_toxic))


def _plain(rate: Rate) -> dict[str, Any]:
    return {"num": rate.num, "toxic": rate.toxic, "rate": rate.rate, "ci95": list(rate.ci95)}


def render(found: Mapping[str, Any]) -> Iterator[str]:
    """For people."""
    for step, rate in found["by_step"].items():
        yield f"step {step:>6}  {_told(rate)}"
    if found["change"]:
        yield f"first {found['change']['steps'][0]} steps  {_told(found['first'])}"
        yield f"last {found['change']['steps'][1]} steps   {_told(found['last'])}"
        low, high = found["change"]["ci95"]
        yield f"change       {found['change']['rate']:+.4f}  95 % {low:+.4f} to {high:+.4f}"
    yield f"all          {_told(found['all'])}" + (f", {found['unjudged']} not judged" if found["unjudged"] else "")


def _told(rate: Mapping[str, Any]) -> str:
    low, high = rate["ci95"]
    return f"{rate['rate']:.4f}  95 % {low:.4f} to {high:.4f}  ({rate['toxic']} of {rate['num']})"
