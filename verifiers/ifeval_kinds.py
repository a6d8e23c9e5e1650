"""The 25 kinds of constraints of IFEval (arxiv 2311.07911), as data: what each asks for, and what checks it.

Each check takes the text and its arguments and says whether the text follows, and why. Counting is as in
google-research/instruction_following_eval, with these defects mended: an argument that is missing is an error, not
drawn at random; keywords are text, not patterns; what carries no letter or digit (`[]`, `<<.>>`, an empty bullet, an
empty section, a rule ---) is no placeholder, title, bullet or section; two options are no choice; a text whose language
cannot be told follows no language; JSON is an object or a list; commas of other scripts are commas; a paragraph is
what blank lines divide, however many; the request repeated alone is no answer to it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rlvr.errors import near
from rlvr.verifiers import language_guess as language
from rlvr.verifiers.answer_text import short
from rlvr.verifiers.ifeval_text import (
    count_of,
    divided,
    has_word,
    joined_words,
    paragraphs,
    sentences,
    visible,
    whole_spans,
    words,
)

Result = tuple[bool, str]
"""Whether the text follows the constraint, and why."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of constraint. Kind(no_comma) asks for nothing more."""

    check: Callable[..., Result]
    args: Mapping[str, tuple[str, Callable[[Any], Any]]] = field(default_factory=dict)
    """What a gold gives, by its name there: the check's own name for it, and what reads it (ValueError: why not)."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the check that this kind settles."""
    by_words: bool = False
    """The check looks for words, and takes whole_words."""
    problem: Callable[[Mapping[str, Any]], str] | None = None
    """Why arguments that are right each do not go together, or ""."""


# What reads an argument: the value that the check gets, or a ValueError that ends "ARGUMENT must be ...".

_LONGEST_PHRASE = 1000
_LONGEST_PROMPT = 100_000


def at_least(low: int) -> Callable[[Any], int]:
    """A count; 3.0 is 3, as tables with empty cells have it."""

    def read(value: Any) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or value < low:
            raise ValueError(f"a whole number from {low}")
        return value

    return read


def phrase(value: Any) -> str:
    """Text that is looked for."""
    if not isinstance(value, str) or not visible(value).strip() or len(value) > _LONGEST_PHRASE:
        raise ValueError(f"text of 1 to {_LONGEST_PHRASE} characters")
    return value.strip()


def prompt(value: Any) -> str:
    """A whole request."""
    if not isinstance(value, str) or not value.strip() or len(value) > _LONGEST_PROMPT:
        raise ValueError(f"text of 1 to {_LONGEST_PROMPT} characters")
    return value


def phrases(value: Any) -> tuple[str, ...]:
    """Texts that are looked for."""
    if not isinstance(value, list | tuple) or not value:
        raise ValueError("a list of texts, not empty")
    return tuple(phrase(one) for one in value)


def one_word(value: Any) -> str:
    """A word; a list of one word too, as some data sets have it."""
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    text = phrase(value)
    if len(text.split()) > 1:
        raise ValueError("one word")
    return text


def letter(value: Any) -> str:
    """One character, not only a to z: IFEval asks for "#" too."""
    if not isinstance(value, str) or len(value.strip()) != 1:
        raise ValueError("one character")
    return value.strip()


def relation(value: Any) -> str:
    """How a count is compared."""
    if not isinstance(value, str) or value not in _RELATIONS:
        raise ValueError(_one_of(value, _RELATIONS))
    return value


def language_code(value: Any) -> str:
    """A language that can be told."""
    code = language.known_code(value) if isinstance(value, str) else None
    if code is None:
        raise ValueError(f"a language code, {_one_of(value, language.CODES)}")
    return code


def _one_of(value: Any, known: Iterable[str]) -> str:
    hint = near(value, known).strip() if isinstance(value, str) else ""
    return f"one of {', '.join(known)}{f' ({hint})' if hint else ''}"


# How a count is compared.

_RELATIONS: Mapping[str, Callable[[int, int, int], bool]] = {
    "less than": lambda count, n, _: count < n,
    "at least": lambda count, n, _: count >= n,
    "at most": lambda count, n, _: count <= n,
    "exactly": lambda count, n, _: count == n,
    "around": lambda count, n, slack: abs(count - n) <= slack,
}


def compare(count: int, relation: str, n: int, what: str, *, slack: int | None = None) -> Result:
    """around: within a tenth of n, at least 1, or within the slack."""
    slack = max(round(n / 10), 1) if slack is None else slack
    return _RELATIONS[relation](count, n, slack), f"{count} {what}, {relation} {n} wanted"


# keywords


def has_keywords(text: str, *, keywords: tuple[str, ...], whole_words: bool = False) -> Result:
    """Each keyword is there, ignoring case."""
    missing = [word for word in keywords if not count_of(text, word, whole=whole_words)]
    return not missing, f"without {', '.join(map(short, missing))}" if missing else "all keywords are there"


def keyword_count(text: str, *, keyword: str, n: int, relation: str, whole_words: bool = False) -> Result:
    """The keyword is there so often, ignoring case."""
    return compare(count_of(text, keyword, whole=whole_words), relation, n, f"times {short(keyword)}")


def without_words(text: str, *, forbidden: tuple[str, ...]) -> Result:
    """None of the words is there as a whole word."""
    found = [word for word in forbidden if count_of(text, word, whole=True)]
    return not found, f"has {', '.join(map(short, found))}" if found else "no forbidden word"


def letter_count(text: str, *, letter: str, n: int, relation: str, ignore_case: bool = True) -> Result:
    """The character is there so often."""
    count = text.lower().count(letter.lower()) if ignore_case else text.count(letter)
    return compare(count, relation, n, f"times {letter!r}")


# language and case


def in_language(text: str, *, code: str) -> Result:
    """Told as this language, and mainly in its script."""
    found = language.detect(text)
    return found.code == code and found.share >= language.MAINLY, f"{found.told}, {code} wanted"


def in_capitals(text: str) -> Result:
    """English, without a lower-case letter."""
    return _in_case(text, str.isupper, "lower-case letters")


def in_lower_case(text: str) -> Result:
    """English, without a capital letter."""
    return _in_case(text, str.islower, "capital letters")


def _in_case(text: str, has_case: Callable[[str], bool], fault: str) -> Result:
    if not has_case(text):
        return False, f"has {fault}, or no letters"
    followed, reason = in_language(text, code="en")
    return followed, "all letters as wanted, English" if followed else reason


def capital_word_count(text: str, *, n: int, relation: str) -> Result:
    """So many words are in capitals; "A-B" and "DON'T" are one each."""
    count = sum(map(str.isupper, joined_words(text)))
    return compare(count, relation, n, "words in capitals")


# length


def sentence_count(text: str, *, n: int, relation: str) -> Result:
    """So many sentences; around is one more or less."""
    return compare(len(sentences(text)), relation, n, "sentences", slack=1)


def word_count(text: str, *, n: int, relation: str, by_blanks: bool = False) -> Result:
    """So many words."""
    return compare(len(text.split() if by_blanks else words(text)), relation, n, "words")


def divided_paragraphs(text: str, *, n: int, spaced: bool = False) -> Result:
    """So many pieces between ***."""
    pieces = divided(text, spaced=spaced)
    if pieces is None:
        return False, "an empty paragraph between two dividers"
    return compare(len(pieces), "exactly", n, "paragraphs divided by ***")


def spaced_paragraphs(text: str, *, n: int) -> Result:
    """So many pieces between blank lines."""
    return compare(len(paragraphs(text)), "exactly", n, "paragraphs divided by blank lines")


_LEADING = "'\"“‘"
_WORD_ENDS = frozenset(".,?!'\"’”;:")


def nth_paragraph_first_word(text: str, *, n: int, nth: int, word: str) -> Result:
    """So many pieces between blank lines, of which the nth begins with the word."""
    found = paragraphs(text)
    if len(found) != n:
        return compare(len(found), "exactly", n, "paragraphs divided by blank lines")
    first = found[nth - 1].split()[0].lstrip(_LEADING)
    cut = next((k for k, letter in enumerate(first) if letter in _WORD_ENDS), len(first))
    right = first[:cut].lower() == word.lower()
    return right, f"paragraph {nth} begins with {short(first[:cut])}, {short(word)} wanted"


# what is in it

_BRACKETS = re.compile(r"\[([^\[\]\n]*)\]")


def placeholders(text: str, *, n: int) -> Result:
    """At least so many [things]."""
    count = sum(has_word(inner) for inner in _BRACKETS.findall(text))
    return compare(count, "at least", n, "placeholders in square brackets")


def postscript(text: str, *, marker: str) -> Result:
    """The marker, ignoring case, with something behind it."""
    pattern = _POSTSCRIPTS.get(marker)
    if pattern is None:
        at = text.lower().rfind(marker.lower())
        ends = [at + len(marker)] if at >= 0 else []
    else:
        ends = [match.end() for match in pattern.finditer(text)]
    if not ends:
        return False, f"no {marker}"
    followed = has_word(text[ends[0] :])
    return followed, f"{marker} is there" if followed else f"nothing behind {marker}"


_POSTSCRIPTS = {
    "P.S.": re.compile(r"(?<!\w)p\.\s?s\.", re.IGNORECASE),
    "P.P.S": re.compile(r"(?<!\w)p\.\s?p\.\s?s\b", re.IGNORECASE),
}


# form


def bullets(text: str, *, n: int) -> Result:
    """Exactly so many lines that begin with * or -."""
    count = sum(map(_is_bullet, text.split("\n")))
    return compare(count, "exactly", n, "bullet points")


def _is_bullet(line: str) -> bool:
    line = line.strip()
    if not line.startswith(("*", "-")) or line.startswith("**"):
        return False
    return bool(line.strip("*-_ \t"))  # a rule, or a bullet without a point, is none


def one_option(text: str, *, options: tuple[str, ...]) -> Result:
    """Exactly one of the options stands in the text as whole words; one inside a longer one does not count."""
    found = []
    for option in sorted(set(options), key=lambda option: (-len(option), option)):
        if spans := whole_spans(text, option):
            found.append(option)
            cuts = [0, *(edge for span in spans for edge in span), len(text)]
            text = "\n".join(text[cuts[k] : cuts[k + 1]] for k in range(0, len(cuts), 2))
    if len(found) == 1:
        return True, f"chose {short(found[0])}"
    return False, f"several options: {', '.join(map(short, found))}" if found else "none of the options"


_SINGLE = re.compile(r"\*([^\n*]*)\*")
_DOUBLE = re.compile(r"\*\*([^\n*]*)\*\*")


def highlights(text: str, *, n: int) -> Result:
    """At least so many *things* and **things**."""
    count = sum(has_word(inner) for pattern in (_SINGLE, _DOUBLE) for inner in pattern.findall(text))
    return compare(count, "at least", n, "highlighted sections")


def sections(text: str, *, n: int, splitter: str, ignore_case: bool = False) -> Result:
    """At least so many marks "Section 1" with something behind each."""
    pattern = rf"\s?{re.escape(splitter)}\s?\d+\s?"
    pieces = re.split(pattern, text, flags=re.IGNORECASE if ignore_case else 0)[1:]
    return compare(sum(map(has_word, pieces)), "at least", n, f"sections under {splitter} X")


def is_json(text: str) -> Result:
    """A JSON object or list alone, in a fence or not."""
    inner = text.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        inner = inner.removeprefix(fence)
    inner = inner.removesuffix("```").strip()
    if not inner.startswith(("{", "[")):
        return False, "no JSON object or list"
    try:
        json.loads(inner, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        return False, f"no JSON: {type(error).__name__}"
    return True, "JSON"


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def title(text: str) -> Result:
    """A line with <<a title>>."""
    for line in text.split("\n"):
        left = line.find("<<")
        right = line.rfind(">>")
        if 0 <= left < right and has_word(line[left:right]):
            return True, "has a title"
    return False, "no title in << >>"


# the whole


_SIX_STARS = re.compile(r"(?<!\S)\*{6}(?!\S)")


def two_responses(text: str) -> Result:
    """Two responses divided by ****** on its own, not of the same words."""
    pieces = [piece.strip() for piece in _SIX_STARS.split(text)]
    if not all(pieces[1:-1]):
        return False, "an empty response between two dividers"
    pieces = [piece for piece in pieces if piece]
    if len(pieces) != 2:
        return compare(len(pieces), "exactly", 2, "responses divided by ******")
    same = len({tuple(word.casefold() for word in words(piece)) for piece in pieces}) == 1
    return not same, "both responses are the same" if same else "two responses"


def repeats_prompt(text: str, *, prompt: str) -> Result:
    """The request first, ignoring case, then something more."""
    text, prompt = text.strip().lower(), prompt.strip().lower()
    if not text.startswith(prompt):
        return False, "does not begin with the request"
    answered = has_word(text[len(prompt) :])
    return answered, "the request, then an answer" if answered else "no answer behind the request"


def ends_with(text: str, *, phrase: str) -> Result:
    """The phrase comes last, ignoring case; quotation marks behind it do not count."""
    right = text.strip().strip('"').lower().endswith(phrase.strip().lower())
    return right, f"{'ends' if right else 'does not end'} with {short(phrase)}"


def quoted(text: str) -> Result:
    """In double quotation marks from the first to the last character."""
    text = text.strip()
    right = len(text) > 2 and text[0] == text[-1] == '"' and has_word(text)
    return right, "in quotation marks" if right else "not in double quotation marks"


_COMMAS = ",，،､﹐﹑、"


def without(text: str, *, marks: str, name: str) -> Result:
    """None of the marks is there."""
    found = [mark for mark in marks if mark in text]
    return not found, f"has {found[0]!r}" if found else f"no {name}"


RELATION = ("relation", relation)

IFEVAL: Mapping[str, Kind] = {
    "keywords:existence": Kind(has_keywords, {"keywords": ("keywords", phrases)}, by_words=True),
    "keywords:frequency": Kind(
        keyword_count,
        {"keyword": ("keyword", phrase), "frequency": ("n", at_least(0)), "relation": RELATION},
        by_words=True,
    ),
    "keywords:forbidden_words": Kind(without_words, {"forbidden_words": ("forbidden", phrases)}),
    "keywords:letter_frequency": Kind(
        letter_count,
        {"letter": ("letter", letter), "let_frequency": ("n", at_least(0)), "let_relation": RELATION},
    ),
    "language:response_language": Kind(in_language, {"language": ("code", language_code)}),
    "length_constraints:number_sentences": Kind(
        sentence_count, {"num_sentences": ("n", at_least(0)), "relation": RELATION}
    ),
    "length_constraints:number_paragraphs": Kind(divided_paragraphs, {"num_paragraphs": ("n", at_least(1))}),
    "length_constraints:number_words": Kind(word_count, {"num_words": ("n", at_least(0)), "relation": RELATION}),
    "length_constraints:nth_paragraph_first_word": Kind(
        nth_paragraph_first_word,
        {
            "num_paragraphs": ("n", at_least(1)),
            "nth_paragraph": ("nth", at_least(1)),
            "first_word": ("word", one_word),
        },
        problem=lambda args: "" if args["nth"] <= args["n"] else f"there is no paragraph {args['nth']} of {args['n']}",
    ),
    "detectable_content:number_placeholders": Kind(placeholders, {"num_placeholders": ("n", at_least(0))}),
    "detectable_content:postscript": Kind(postscript, {"postscript_marker": ("marker", phrase)}),
    "detectable_format:number_bullet_lists": Kind(bullets, {"num_bullets": ("n", at_least(0))}),
    "detectable_format:constrained_response": Kind(
        one_option, fixed={"options": ("My answer is yes.", "My answer is no.", "My answer is maybe.")}
    ),
    "detectable_format:number_highlighted_sections": Kind(highlights, {"num_highlights": ("n", at_least(0))}),
    "detectable_format:multiple_sections": Kind(
        sections, {"section_spliter": ("splitter", phrase), "num_sections": ("n", at_least(0))}
    ),
    "detectable_format:json_format": Kind(is_json),
    "detectable_format:title": Kind(title),
    "combination:two_responses": Kind(two_responses),
    "combination:repeat_prompt": Kind(repeats_prompt, {"prompt_to_repeat": ("prompt", prompt)}),
    "startend:end_checker": Kind(ends_with, {"end_phrase": ("phrase", phrase)}),
    "startend:quotation": Kind(quoted),
    "change_case:capital_word_frequency": Kind(
        capital_word_count, {"capital_frequency": ("n", at_least(0)), "capital_relation": RELATION}
    ),
    "change_case:english_capital": Kind(in_capitals),
    "change_case:english_lowercase": Kind(in_lower_case),
    "punctuation:no_comma": Kind(without, fixed={"marks": _COMMAS, "name": "comma"}),
}
