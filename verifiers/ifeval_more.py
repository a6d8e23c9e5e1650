"""The further 29 kinds of IFEvalG and the 25 functions of open-instruct's RLVR-IFeval, as data like IFEval's own.

Counting is as in allenai/open-instruct, with these defects mended besides IFEval's: marks are no words; a word is
looked for as a word; each repeated phrase must differ in exactly one inner word; "between and including" an index may
include it; * * * divides as *** does; a palindrome has three letters; one lone word is no wrapped bigram.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from rlvr.verifiers.answer_text import short
from rlvr.verifiers.ifeval_kinds import (
    IFEVAL,
    RELATION,
    Kind,
    Result,
    at_least,
    bullets,
    capital_word_count,
    compare,
    divided_paragraphs,
    ends_with,
    has_keywords,
    highlights,
    in_capitals,
    in_language,
    in_lower_case,
    is_json,
    keyword_count,
    language_code,
    letter,
    letter_count,
    nth_paragraph_first_word,
    one_option,
    one_word,
    phrase,
    phrases,
    placeholders,
    postscript,
    prompt,
    quoted,
    repeats_prompt,
    sections,
    sentence_count,
    spaced_paragraphs,
    title,
    two_responses,
    without,
    without_words,
    word_count,
)
from rlvr.verifiers.ifeval_text import bare, count_of, divided, has_word, joined_words, sentences

# copies


def copies(text: str, *, prompt: str) -> Result:
    """The request alone, ignoring case."""
    right = text.strip().lower() == prompt.strip().lower()
    return right, "is the request" if right else "is not the request, word for word"


def copies_times(text: str, *, prompt: str, n: int) -> Result:
    """The request so often, divided by ******, and nothing else."""
    pieces = text.split("******")
    if len(pieces) != n:
        return compare(len(pieces), "exactly", n, "pieces divided by ******")
    return (all(copies(piece, prompt=prompt)[0] for piece in pieces), f"{n} pieces, the request in each wanted")


def copies_span(text: str, *, prompt: str, start: int, end: int) -> Result:
    """The characters of the request from start to end, with or without the last."""
    wanted = {prompt[start:stop].strip().lower() for stop in (end, end + 1)}
    right = text.strip().lower() in wanted
    return right, "is the span" if right else f"is not {short(prompt[start:end])}"


def repeats_phrase(text: str, *, phrase: str, n: int) -> Result:
    """Runs of words from the phrase's first to its last, as long as it, with exactly one other word inside."""
    wanted = [bare(word) for word in phrase.split()]
    found = [bare(word) for word in text.split()]
    count, k = 0, 0
    while k + len(wanted) <= len(found):
        run = found[k : k + len(wanted)]
        if run[0] == wanted[0] and run[-1] == wanted[-1]:
            others = sum(a != b for a, b in zip(run, wanted, strict=True))
            if others != 1:
                return False, f"{short(' '.join(run))} differs in {others} words, 1 wanted"
            count += 1
            k += len(wanted)
        else:
            k += 1
    return compare(count, "exactly", n, "phrases with one word replaced")


# words


def keywords_once_twice(text: str, *, once: str, twice: str, whole_words: bool = False) -> Result:
    """One keyword once, another twice, ignoring case."""
    counts = [count_of(text, word, whole=whole_words) for word in (once, twice)]
    return counts == [1, 2], f"{counts[0]} times {short(once)} (1 wanted), {counts[1]} times {short(twice)} (2 wanted)"


def keyword_at(text: str, *, keyword: str, sentence: int, word: int) -> Result:
    """The keyword is this word of this sentence, ignoring case."""
    found = sentences(text)
    if len(found) < sentence:
        return False, f"{len(found)} sentences, the keyword wanted in number {sentence}"
    tokens = joined_words(found[sentence - 1])
    at = tokens[word - 1] if len(tokens) >= word else ""
    return at.lower() == keyword.lower(), f"word {word} of sentence {sentence} is {short(at)}, {short(keyword)} wanted"


def no_neighbours_in_alphabet(text: str) -> Result:
    """No word with b comes right after one with a, and so on."""
    firsts = [bare(token)[:1] for token in text.split()]
    for first, second in pairwise(firsts):
        if first.isalpha() and second.isalpha() and ord(second) - ord(first) == 1:
            return False, f"a word with {first} stands before one with {second}"
    return True, "no two words with neighbouring letters"


def has_palindrome(text: str) -> Result:
    """A word of three letters or more reads the same backwards."""
    for token in text.split():
        word = bare(token)
        if len(word) >= 3 and word == word[::-1] and word.isalpha():
            return True, f"{short(word)} is a palindrome"
    return False, "no palindrome of three letters or more"


def starts_as_it_ends(text: str) -> Result:
    """First and last word are the same, and nothing stands behind the last."""
    tokens = text.split()
    if len(tokens) < 2:
        return False, "fewer than two words"
    first, last = bare(tokens[0]), tokens[-1].lower()
    right = first != "" and first == last
    return right, f"begins with {short(first)}, ends with {short(last)}"


def unique_words(text: str) -> Result:
    """No word twice, ignoring case."""
    seen: set[str] = set()
    for word in map(str.casefold, joined_words(text)):
        if word in seen:
            return False, f"{short(word)} stands twice"
        seen.add(word)
    return bool(seen), f"{len(seen)} words, each once"


def lower_case_words(text: str, *, n: int) -> Result:
    """At most so many words in lower case."""
    count = sum(word.islower() and word.isalpha() for word in joined_words(text))
    return compare(count, "at most", n, "words in lower case")


def letters(text: str, *, n: int, relation: str) -> Result:
    """So many letters, of any alphabet."""
    return compare(sum(map(str.isalpha, text)), relation, n, "letters")


def composition(text: str, *, n_sentences: int, n_words: int) -> Result:
    """Three paragraphs between ***, each of so many sentences of so many words."""
    pieces = divided(text, spaced=True)
    if pieces is None or len(pieces) != 3:
        return compare(len(pieces or ()), "exactly", 3, "paragraphs divided by ***")
    for k, piece in enumerate(pieces, start=1):
        found = sentences(piece)
        if len(found) != n_sentences:
            return compare(len(found), "exactly", n_sentences, f"sentences in paragraph {k}")
        for sentence in found:
            if len(joined_words(sentence)) != n_words:
                return compare(len(joined_words(sentence)), "exactly", n_words, f"words in {short(sentence)}")
    return True, f"3 paragraphs of {n_sentences} sentences of {n_words} words"


# first and last words


def sentences_begin_with(text: str, *, word: str) -> Result:
    """The first word of each sentence."""
    found = [bare(sentence.split()[0]) for sentence in sentences(text)]
    return _all_are(found, word, "begins")


def sentences_end_with(text: str, *, word: str) -> Result:
    """The last word of each sentence."""
    found = [bare(sentence.split()[-1]) for sentence in sentences(text)]
    return _all_are(found, word, "ends")


def begins_with(text: str, *, word: str) -> Result:
    """The first word."""
    return _all_are([bare(token) for token in text.split(maxsplit=1)[:1]], word, "begins")


def ends_with_word(text: str, *, word: str) -> Result:
    """The last word."""
    return _all_are([bare(token) for token in text.rsplit(maxsplit=1)[-1:]], word, "ends")


def _all_are(found: list[str], word: str, verb: str) -> Result:
    wanted = bare(word)
    other = next((token for token in found if token != wanted), None)
    if other is not None or not found:
        return False, f"one {verb} with {short(other or '')}, {short(wanted)} wanted"
    return True, f"each {verb} with {short(wanted)}"


# form


def hyphenated_sentences(text: str) -> Result:
    """As many sentences as hyphens divide, each of them one, and no blank beside a hyphen."""
    pieces = text.strip().split("-")
    if any(piece != piece.strip() for piece in pieces):
        return False, "a blank beside a hyphen"
    right = tuple(pieces) == sentences(text.strip().replace("-", " "))
    return right, "hyphens join the sentences" if right else "sentences are not what the hyphens join"


def words_in_brackets(text: str) -> Result:
    """[Each] [word] in brackets."""
    tokens = text.split()
    bad = next((token for token in tokens if not (token[0] == "[" and token[-1] == "]" and has_word(token))), None)
    return bad is None and bool(tokens), f"{short(bad)} is not in brackets" if bad else "each word is in brackets"


_WRAPS = re.compile("<<|>>")


def wrapped_bigrams(text: str) -> Result:
    """<<a b>> <<c d>>; a last word without a partner may be wrapped alone."""
    tokens = text.split()
    for k in range(0, len(tokens), 2):
        pair = tokens[k : k + 2]
        joined = " ".join(pair)
        is_wrapped = joined.startswith("<<") and joined.endswith(">>") and not _WRAPS.search(joined[2:-2])
        if not (is_wrapped and all(map(has_word, pair))):
            return False, f"{short(joined)} is no bigram in << >>"
    return len(tokens) > 1, f"{len(tokens)} words in << >>"


_PROMPT = ("prompt", prompt)
_NONE_OF: Mapping[str, Mapping[str, Any]] = {
    "dot": {"marks": ".．。｡․‥…﹒۔", "name": "dot"},
    "exclamation": {"marks": "!！﹗‼⁉❗❕¡", "name": "exclamation mark"},
}


def _phrase_problem(args: Mapping[str, Any]) -> str:
    return "" if len(args["phrase"].split()) >= 3 else "phrase must have at least 3 words, one of them inside"


def _span_problem(args: Mapping[str, Any]) -> str:
    start, end, length = args["start"], args["end"], len(args["prompt"])
    return "" if start < end <= length else f"n_start must be below n_end, which must be at most {length}"


IFEVALG: Mapping[str, Kind] = {
    "copy:repeat_phrase": Kind(
        repeats_phrase, {"phrase": ("phrase", phrase), "small_n": ("n", at_least(1))}, problem=_phrase_problem
    ),
    "copy:copy": Kind(copies, {"prompt_to_repeat": _PROMPT}),
    "copy:copying_simple": Kind(copies, {"prompt_to_repeat": _PROMPT}),
    "copy:copying_multiple": Kind(copies_times, {"prompt_to_repeat": _PROMPT, "N": ("n", at_least(1))}),
    "new:copy_span_idx": Kind(
        copies_span,
        {"prompt_to_repeat": _PROMPT, "n_start": ("start", at_least(0)), "n_end": ("end", at_least(1))},
        problem=_span_problem,
    ),
    "detectable_format:sentence_hyphens": Kind(hyphenated_sentences),
    "detectable_format:square_brackets": Kind(words_in_brackets),
    "detectable_format:bigram_wrapping": Kind(wrapped_bigrams),
    "keywords:no_adjacent_consecutive": Kind(no_neighbours_in_alphabet),
    "keywords:word_once": Kind(
        keyword_count, {"keyword": ("keyword", phrase)}, fixed={"n": 1, "relation": "exactly"}, by_words=True
    ),
    "keywords:word_count_different_numbers": IFEVAL["keywords:frequency"],
    "keywords:exclude_word_harder": Kind(without_words, {"keyword": ("forbidden", lambda value: (phrase(value),))}),
    "keywords:palindrome": Kind(has_palindrome),
    "keywords:keyword_specific_position": Kind(
        keyword_at, {"keyword": ("keyword", one_word), "n": ("sentence", at_least(1)), "m": ("word", at_least(1))}
    ),
    "keywords:start_end": Kind(starts_as_it_ends),
    "paragraphs:paragraphs": Kind(divided_paragraphs, fixed={"n": 2, "spaced": True}),
    "paragraphs:paragraphs2": Kind(spaced_paragraphs, fixed={"n": 2}),
    "first_word:first_word_sent": Kind(sentences_begin_with, {"first_word": ("word", one_word)}),
    "first_word:first_word_answer": Kind(begins_with, {"first_word": ("word", one_word)}),
    "last_word:last_word_sent": Kind(sentences_end_with, {"last_word": ("word", one_word)}),
    "last_word:last_word_answer": Kind(ends_with_word, {"last_word": ("word", one_word)}),
    "punctuation:punctuation_dot": Kind(without, fixed=_NONE_OF["dot"]),
    "punctuation:punctuation_exclamation": Kind(without, fixed=_NONE_OF["exclamation"]),
    "count:lowercase_counting": Kind(lower_case_words, {"N": ("n", at_least(0))}),
    "count:count_unique": Kind(unique_words),
    "count:count_increment_word": Kind(
        keywords_once_twice, {"keyword1": ("once", phrase), "keyword2": ("twice", phrase)}, by_words=True
    ),
    "count:counting_composition": Kind(
        composition, {"n_sent": ("n_sentences", at_least(1)), "n_words": ("n_words", at_least(1))}
    ),
    "letters:letter_counting": Kind(letters, {"N": ("n", at_least(0)), "relation": RELATION}),
    "letters:letter_counting2": IFEVAL["keywords:letter_frequency"],
}

_N = ("n", at_least(0))

FUNCTIONS: Mapping[str, Kind] = {
    "verify_keywords": Kind(has_keywords, {"keyword_list": ("keywords", phrases)}, by_words=True),
    "verify_keyword_frequency": Kind(
        keyword_count, {"word": ("keyword", phrase), "N": _N}, fixed={"relation": "exactly", "whole_words": True}
    ),
    "validate_forbidden_words": Kind(without_words, {"forbidden_words": ("forbidden", phrases)}),
    "verify_letter_frequency": Kind(
        letter_count, {"letter": ("letter", letter), "N": _N}, fixed={"relation": "exactly", "ignore_case": False}
    ),
    "validate_response_language": Kind(in_language, {"language": ("code", language_code)}),
    "verify_paragraph_count": Kind(divided_paragraphs, {"N": ("n", at_least(1))}, fixed={"spaced": True}),
    "validate_word_constraint": Kind(word_count, {"N": _N, "quantifier": RELATION}, fixed={"by_blanks": True}),
    "verify_sentence_constraint": Kind(sentence_count, {"N": _N, "quantifier": RELATION}),
    "validate_paragraphs": Kind(
        nth_paragraph_first_word,
        {"N": ("n", at_least(1)), "i": ("nth", at_least(1)), "first_word": ("word", one_word)},
        problem=IFEVAL["length_constraints:nth_paragraph_first_word"].problem,
    ),
    "verify_postscript": Kind(postscript, {"postscript_marker": ("marker", phrase)}),
    "validate_placeholders": Kind(placeholders, {"N": _N}),
    "verify_bullet_points": Kind(bullets, {"N": _N}),
    "validate_title": Kind(title),
    "validate_choice": Kind(one_option, {"options": ("options", phrases)}),
    "validate_highlighted_sections": Kind(highlights, {"N": _N}),
    "validate_sections": Kind(
        sections, {"N": _N, "section_splitter": ("splitter", phrase)}, fixed={"ignore_case": True}
    ),
    "validate_json_format": Kind(is_json),
    "validate_repeat_prompt": Kind(repeats_prompt, {"original_prompt": _PROMPT}),
    "validate_two_responses": Kind(two_responses),
    "validate_uppercase": Kind(in_capitals),
    "validate_lowercase": Kind(in_lower_case),
    "validate_frequency_capital_words": Kind(capital_word_count, {"N": _N, "quantifier": RELATION}),
    "validate_end": Kind(ends_with, {"end_phrase": ("phrase", phrase)}),
    "validate_quotation": Kind(quoted),
    "validate_no_commas": IFEVAL["punctuation:no_comma"],
}
"""By open-instruct's names of functions, `func_name` in the gold."""

KINDS: Mapping[str, Kind] = {**IFEVAL, **IFEVALG, **FUNCTIONS}
