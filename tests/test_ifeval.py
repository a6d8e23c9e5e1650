from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.rewards.bound import apply, lookup, option_problems
from rlvr.types import Task, Verdict
from rlvr.verifiers import ifeval as module
from rlvr.verifiers.ifeval_kinds import IFEVAL
from rlvr.verifiers.ifeval_more import FUNCTIONS, IFEVALG, KINDS
from rlvr.verifiers.ifeval_text import divided, joined_words, paragraphs, said, sentences, visible, words
from tests.ifeval_cases import CASES

BOUND = lookup("ifeval")


def judge(response: str, gold: Any, info: dict[str, Any] | None = None, **options: object) -> Verdict:
    return apply(BOUND, response, Task(id="t", prompt="", gold=gold, info=info or {}), options)


def problem(gold: Any, info: dict[str, Any] | None = None) -> str:
    return module.gold_problem("ifeval", Task(id="t", prompt="", gold=gold, info=info or {}))


def one(kind: str, **args: Any) -> dict[str, Any]:
    return {"constraints": [{"kind": kind, **args}]}


@pytest.mark.parametrize(("gold", "response", "score"), module.EXAMPLES)
def test_the_examples_hold(gold: Any, response: str, score: float | None) -> None:
    assert judge(response, gold).score == score


def test_there_are_25_kinds_of_ifeval_54_of_ifevalg_and_25_functions() -> None:
    assert (len(IFEVAL), len(IFEVAL) + len(IFEVALG), len(FUNCTIONS)) == (25, 54, 25)
    assert len(KINDS) == 79


def test_each_kind_has_three_right_three_wrong_and_three_that_cheat() -> None:
    assert sorted(CASES) == sorted(KINDS)
    assert {name for name, cases in CASES.items() if min(map(len, cases[1:])) < 3} == set()


@pytest.mark.parametrize("kind", CASES)
def test_what_follows_passes_and_what_does_not_or_pretends_to_fails(kind: str) -> None:
    cases = CASES[kind]
    gold = one(kind, **cases.args)
    told = {response: judge(response, gold) for response in (*cases.right, *cases.wrong, *cases.cheats)}
    scores = {response: verdict.score for response, verdict in told.items()}
    assert scores == {
        **dict.fromkeys(cases.wrong, 0.0),
        **dict.fromkeys(cases.cheats, 0.0),
        **dict.fromkeys(cases.right, 1.0),
    }
    assert all(verdict.reason for verdict in told.values())


# counting


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Mr. Smith went to Washington. He met Dr. Jones at 9:30 a.m. on Monday.", 2),
        ("He lives in the U.S. She lives in the U.K. now.", 2),
        ("It costs $3.50 (i.e. too much). Pay it!", 2),
        ("Wait... what? Yes... No.", 3),
        ('"Stop!" she cried. "Why?"', 3),
        ("J. R. Tolkien wrote it. So did I. We both did.", 3),
        ("1. First item.\n2. Second item.\n3. Third one", 3),
        ("A heading\n\nOne sentence\nover two lines.", 1),
        ("See example.com or v2.1.3 for more", 1),
        ("你好。今天很好！是吗？", 3),
        ("यह घर है। वह घर है।", 2),
        ("**Bold.** Plain.", 2),
        ("42.", 1),
        ("...", 0),
        ("", 0),
    ],
)
def test_sentences_are_counted_as_a_reader_does(text: str, count: int) -> None:
    assert len(sentences(text)) == count


def test_words_are_counted_by_their_letters() -> None:
    assert words("Don't stop_now: 3.5 हिन्दी 你好 naïve") == (
        "Don",
        "t",
        "stop_now",
        "3",
        "5",
        "हिन्दी",
        "你",
        "好",
        "naïve",
    )
    assert joined_words("WELL-KNOWN U.S. don't and/or -- *x*") == ("WELL-KNOWN", "U.S", "don't", "and/or", "x")
    assert paragraphs("a\n\nb\nc\n \n\n\nd\n") == ["a", "b\nc", "d"]
    assert divided("***a***b") == ["a", "b"]
    assert divided("a******b") is None
    assert divided("a * * * b") == ["a * * * b"]
    assert divided("a\n* * *\nb***c", spaced=True) == ["a", "b", "c"]


def test_keywords_are_text_and_no_patterns() -> None:
    assert judge("I like C++ a lot", one("keywords:existence", keywords=["C++"])).score == 1.0
    assert judge("abc", one("keywords:existence", keywords=["a.c"])).score == 0.0
    assert judge("I like C++.", one("keywords:forbidden_words", forbidden_words=["C++"])).score == 0.0
    assert judge("我的猫很好", one("keywords:forbidden_words", forbidden_words=["猫"])).score == 0.0


def test_keywords_within_words_count_as_in_ifeval_unless_whole_words_are_asked_for() -> None:
    gold = one("keywords:existence", keywords=["cat"])
    assert judge("concatenate", gold).score == 1.0
    assert judge("concatenate", gold, whole_words=True).score == 0.0
    assert judge("the (Cat)", gold, whole_words=True).score == 1.0
    often = one("keywords:frequency", keyword="cat", frequency=2, relation="less than")
    assert judge("cat, cats", often).score == 0.0
    assert judge("cat, cats", often, whole_words=True).score == 1.0


@pytest.mark.parametrize(
    ("relation", "followed"),
    [("less than", [2]), ("at least", [3, 4]), ("at most", [2, 3]), ("exactly", [3]), ("around", [2, 3, 4])],
)
def test_relations_compare_the_count(relation: str, followed: list[int]) -> None:
    gold = one("length_constraints:number_words", num_words=3, relation=relation)
    assert [n for n in (2, 3, 4) if judge("word " * n, gold).score] == followed


# forms of the gold

NO_COMMA = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{"num_words": None, "keywords": None}]}


@pytest.mark.parametrize(
    "gold",
    [
        NO_COMMA,
        json.dumps(NO_COMMA),
        {"instruction_id": "punctuation:no_comma", "kwargs": [None]},
        [{"instruction_id": ["punctuation:no_comma"], "kwargs": [None]}],
        "[{'instruction_id': ['punctuation:no_comma'], 'kwargs': [None]}]",
        "{'func_name': 'validate_no_commas', 'N': None}",
        '{"func_name": "validate_no_commas", "N": null, "options": null}',
        {"func_name": "validate_no_commas"},
        one("punctuation:no_comma"),
        [{"kind": "punctuation:no_comma"}],
        {"kind": "punctuation:no_comma"},
        json.dumps(json.dumps(NO_COMMA)),
    ],
    ids=str,
)
def test_each_form_of_gold_is_read(gold: Any) -> None:
    assert problem(gold) == ""
    assert judge("No comma here", gold).score == 1.0
    assert judge("One, two", gold).score == 0.0


@pytest.mark.parametrize("gold", [None, ""])
def test_the_columns_of_the_row_are_read_where_there_is_no_gold(gold: Any) -> None:
    info = {**NO_COMMA, "key": 1000}
    assert problem(gold, info) == ""
    assert judge("One, two", gold, info).score == 0.0
    assert "the gold must be" in problem(gold, {"key": 1000})


def test_counts_of_a_table_with_empty_cells_are_whole_numbers() -> None:
    assert judge("a b c", one("length_constraints:number_words", num_words=3.0, relation="at least")).score == 1.0


@pytest.mark.parametrize(
    ("gold", "told"),
    [
        (one("punctuation:no_commas"), "did you mean 'punctuation:no_comma'?"),
        ({"func_name": "validate_titel"}, "did you mean 'validate_title'?"),
        (one("keywords:existence"), "keywords:existence: its argument 'keywords' is missing"),
        (one("keywords:existence", keywords=None), "its argument 'keywords' is missing"),
        (one("keywords:existence", keywords=[]), "keywords must be a list of texts"),
        (one("keywords:existence", keywords="sun"), "keywords must be a list of texts"),
        (one("keywords:existence", keywords=["sun", 3]), "keywords must be text of 1 to 1000 characters"),
        (one("keywords:existence", keywords=["\u200b"]), "keywords must be text of 1 to 1000 characters"),
        (one("keywords:existence", keyword=["sun"]), "no argument 'keyword'; did you mean 'keywords'?"),
        (one("punctuation:no_comma", n=1), "has no argument 'n'; it has none"),
        (
            one("keywords:frequency", keyword="a", frequency="3", relation="at least"),
            "frequency must be a whole number",
        ),
        (
            one("keywords:frequency", keyword="a", frequency=True, relation="at least"),
            "frequency must be a whole number",
        ),
        (
            one("keywords:frequency", keyword="a", frequency=2.5, relation="at least"),
            "frequency must be a whole number",
        ),
        (one("keywords:frequency", keyword="a", frequency=-1, relation="at least"), "frequency must be a whole number"),
        (one("keywords:frequency", keyword="a", frequency=1, relation="atleast"), "did you mean 'at least'?"),
        (one("keywords:frequency", keyword="a", frequency=1, relation=["at least"]), "relation must be one of"),
        (one("keywords:letter_frequency", letter="ab", let_frequency=1, let_relation="at least"), "one character"),
        (one("language:response_language", language="klingon"), "language must be a language code"),
        (one("first_word:first_word_answer", first_word="two words"), "first_word must be one word"),
        (
            one("length_constraints:nth_paragraph_first_word", num_paragraphs=2, nth_paragraph=3, first_word="a"),
            "there is no paragraph 3 of 2",
        ),
        (one("copy:repeat_phrase", phrase="two words", small_n=2), "phrase must have at least 3 words"),
        (one("new:copy_span_idx", prompt_to_repeat="abc", n_start=2, n_end=9), "n_end, which must be at most 3"),
        ({"instruction_id_list": ["punctuation:no_comma"], "kwargs": []}, "lists of one length"),
        ({"instruction_id_list": ["punctuation:no_comma"]}, "lists of one length"),
        ({"instruction_id_list": ["punctuation:no_comma"], "kwargs": [[1]]}, "its kwargs must be an object"),
        ({"constraints": []}, "no constraint"),
        ({"constraints": "none"}, "constraints must be a list"),
        ([], "no constraint"),
        (7, "the gold must be"),
        ({}, "the gold must be"),
        ({"answer": 42}, "the gold must be"),
        ("be nice", "neither JSON nor a Python literal"),
        ("[" * 100_000, "neither JSON nor a Python literal"),
        ("x" * 1_000_001, "1000000 is the most"),
        ({1: {2, 3}}, "the gold is no plain data"),
        (one(3), "no constraint '3' is known"),  # type: ignore[arg-type]
    ],
)
def test_a_gold_that_is_no_use_is_told_and_is_no_zero(gold: Any, told: str) -> None:
    assert told in problem(gold)
    assert "\n" not in problem(gold)
    verdict = judge("No comma here", gold)
    assert (verdict.score, verdict.outcome) == (None, "gold_invalid")
    assert told in verdict.reason


@pytest.mark.parametrize("kind", CASES)
def test_no_argument_may_be_missing(kind: str) -> None:
    args = CASES[kind].args
    assert set(args) == set(KINDS[kind].args)
    for name in args:
        rest = {key: value for key, value in args.items() if key != name}
        assert f"its argument {name!r} is missing" in problem(one(kind, **rest))


# verdicts

THREE = {
    "instruction_id_list": [
        "change_case:capital_word_frequency",
        "change_case:capital_word_frequency",
        "startend:quotation",
    ],
    "kwargs": [
        {"capital_relation": "less than", "capital_frequency": 3},
        {"capital_relation": "at least", "capital_frequency": 1},
        {},
    ],
}


def test_each_constraint_is_in_the_verdict_also_where_a_kind_comes_twice() -> None:
    verdict = judge("ONE two THREE FOUR", THREE, score="mean")
    assert {name: check["score"] for name, check in verdict.checks.items()} == {
        "change_case:capital_word_frequency": 0.0,
        "change_case:capital_word_frequency#2": 1.0,
        "startend:quotation": 0.0,
    }
    assert verdict.checks["change_case:capital_word_frequency"]["reason"] == "3 words in capitals, less than 3 wanted"
    assert verdict.score == pytest.approx(1 / 3)
    assert verdict.outcome == "partial"
    assert verdict.reason.startswith("1 of 3 constraints followed; change_case:capital_word_frequency: 3 words")
    json.dumps(dict(verdict.checks))


def test_all_or_the_mean_decides() -> None:
    assert judge("ONE two", THREE).score == 0.0
    assert judge("ONE two", THREE, score="mean").score == pytest.approx(2 / 3)
    assert judge('"ONE two"', THREE).score == judge('"ONE two"', THREE, score="mean").score == 1.0
    assert option_problems("ifeval", {"score": "some"}, "o") != []
    assert option_problems("ifeval", {"score": "mean", "loose": True, "whole_words": True}, "o") == []


@pytest.mark.parametrize(
    ("response", "gold"),
    [
        ("Sure, here it is:\nNo comma here", NO_COMMA),  # without the first line
        ("No comma here\nI hope, this helps", NO_COMMA),  # the last
        ("Sure, here:\nNo comma\nYours, Ann", NO_COMMA),  # both
        ('*"Yes."*', one("startend:quotation")),  # the asterisks
        ('Here:\n*"Yes."*', one("startend:quotation")),
        ('*"Yes."*\nBye', one("startend:quotation")),
        ('Here:\n**"Yes."**\nBye', one("startend:quotation")),
    ],
)
def test_loose_counting_forgives_the_frame_and_strict_does_not(response: str, gold: Any) -> None:
    assert judge(response, gold).score == 0.0
    assert judge(response, gold, loose=True).score == 1.0
    assert judge(response, gold, loose=True).stage == "loose"


def test_loose_counting_takes_each_constraint_by_itself_and_no_blank_text() -> None:
    gold = {
        "constraints": [{"kind": "punctuation:no_comma"}, {"kind": "startend:end_checker", "end_phrase": "Bye, Ann"}]
    }
    assert judge("Hello\nBye, Ann", gold).score == 0.0
    assert judge("Hello\nBye, Ann", gold, loose=True).score == 1.0
    assert judge("One, two", NO_COMMA, loose=True).score == 0.0


@pytest.mark.parametrize("response", ["", " \n", "<think>no comma", "<think>a</think>"])
def test_an_empty_or_unfinished_response_follows_nothing(response: str) -> None:
    for loose in (False, True):
        verdict = judge(response, NO_COMMA, loose=loose)
        assert (verdict.score, verdict.outcome) == (0.0, "no_answer")


def test_only_what_is_said_is_judged() -> None:
    assert judge("<think>one, two</think>No comma", NO_COMMA).score == 1.0
    assert judge("<think>No comma</think>one, two", NO_COMMA).score == 0.0
    assert said("<think>x</think>\n<answer>y</answer>\n") == "y"
    assert said("a <answer>y</answer>") == "a <answer>y</answer>"


def test_sixty_repeats_give_one_verdict() -> None:
    gold = {"constraints": [{"kind": kind, **cases.args} for kind, cases in CASES.items()]}
    told = {repr(judge("Hello world. Bonjour Paris!", gold, loose=True).checks) for _ in range(60)}
    assert len(told) == 1


UNITS = (
    "a",
    "a ",
    "*",
    "* ",
    "<<",
    "[a",
    "\n",
    "\n ",
    "p.",
    "-",
    ".\n",
    "Section 1",
    "\u0301",
    '{"a":',
    "[",
    "sun ",
    "Time ",
)
MORE_UNITS = (
    "One. ",
    "日",
    "“",
    "Mr. ",
    "1. ",
    "My answer is yes.",
    "***",
    "\u05b0\u05b1",
    "_",
    "s\u200b",
    "\t",
    "<think>",
)


@pytest.mark.parametrize("unit", UNITS + MORE_UNITS)
def test_hostile_text_of_64_thousand_characters_costs_its_length(unit: str) -> None:
    text = unit * (64_000 // len(unit))
    slowest = ("", 0.0)
    for kind, cases in CASES.items():
        start = time.process_time()
        assert judge(text + "x", one(kind, **cases.args), loose=True).score is not None
        slowest = max(slowest, (kind, time.process_time() - start), key=lambda item: item[1])
    assert slowest[1] < 0.9, slowest


@given(st.text(max_size=200), st.sampled_from(sorted(CASES)), st.booleans())
def test_any_text_gets_zero_or_one_and_loose_is_never_harder(text: str, kind: str, whole_words: bool) -> None:
    gold = one(kind, **CASES[kind].args)
    strict = judge(text, gold, whole_words=whole_words)
    loose = judge(text, gold, whole_words=whole_words, loose=True)
    assert strict.score in (0.0, 1.0)
    assert loose.score is not None
    assert loose.score >= strict.score


@given(st.text(max_size=300))
def test_sentences_and_words_are_pieces_of_the_text_in_order(text: str) -> None:
    for pieces in (sentences(text), words(text), joined_words(text)):
        at = 0
        for piece in pieces:
            found = text.find(piece, at)
            assert found >= at, (piece, at)
            at = found + len(piece)


def test_nothing_is_seen_of_characters_that_are_blank() -> None:
    for sign in ("\u200b", "\u00ad", "\u2060", "\u3164", "\u2800", "\u115f", "\uffa0", "\ufe0f", "\U000e0041", "\0"):
        assert visible(f"a{sign}b{sign}") == "ab", ascii(sign)
    assert visible("é 한글 ⠁ नि") == "é 한글 ⠁ नि"
