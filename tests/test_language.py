from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.rewards.bound import apply, lookup, option_problems
from rlvr.types import Task, Verdict
from rlvr.verifiers import language as module
from rlvr.verifiers.language_guess import CODES, UNKNOWN, detect, known_code, letters_by_script
from tests.language_rare import OTHERS
from tests.language_sentences import SENTENCES

OF_IFEVAL = (
    "en es pt ar hi fr ru de ja it bn uk th ur ta te bg ko pl he fa vi ne sw kn mr gu pa ml fi".split()  # its 30 codes
)
GERMAN, ENGLISH = SENTENCES["de"][0], SENTENCES["en"][0]
BOUND = lookup("language")


def judge(response: str, gold: object, **options: object) -> Verdict:
    return apply(BOUND, response, Task(id="t", prompt="", gold=gold), options)


def right(sentences: dict[str, tuple[str, ...]]) -> float:
    found = [detect(text).code == code for code, texts in sentences.items() for text in texts]
    return sum(found) / len(found)


@pytest.mark.parametrize(("gold", "response", "score"), module.EXAMPLES)
def test_the_examples_hold(gold: object, response: str, score: float | None) -> None:
    assert judge(response, gold).score == score


def test_every_language_of_ifeval_has_four_sentences_here() -> None:
    assert [code for code in OF_IFEVAL if len(SENTENCES[code]) < 4] == []
    assert set(SENTENCES) <= set(CODES)


def test_sentences_are_told_by_language() -> None:
    assert right(SENTENCES) >= 0.98
    assert right({code: SENTENCES[code] for code in OF_IFEVAL}) >= 0.98
    assert right({code: tuple(map(str.upper, texts)) for code, texts in SENTENCES.items()}) >= 0.97


def test_short_sentences_of_rare_words_are_told_by_language() -> None:
    assert right(OTHERS) >= 0.9
    assert right({code: texts for code, texts in OTHERS.items() if code in OF_IFEVAL}) >= 0.93


@pytest.mark.parametrize("code", SENTENCES)
def test_a_text_of_four_sentences_is_told_for_sure(code: str) -> None:
    found = detect(" ".join(SENTENCES[code]))
    assert found.code == code
    assert found.share >= 0.75


@pytest.mark.parametrize(
    "text",
    [
        "",
        "12345",
        "3.14 + 2 = 5.14",
        "!!!",
        "😀🎉",
        "E = mc^2",
        "x",
        "f(x)",
        "$x + y$",
        "https://example.org/the",
        "qwzx",
    ],
)
def test_text_without_a_language_has_none(text: str) -> None:
    assert detect(text).code == UNKNOWN
    assert judge(text, "en").score == 0.0


def test_sixty_repeats_give_one_answer_whatever_the_hash_seed() -> None:
    texts = ["Hello world", "Bonjour Paris", "Привет, мир!", "No."]
    code = "from rlvr.verifiers.language_guess import detect\n"
    code += f"print([[str(detect.__wrapped__(t)) for _ in range(60)] for t in {texts!r}])"
    told = set()
    for seed in ("0", "1", "77"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        told.add(done.stdout)
    assert len(told) == 1
    assert [len(set(answers)) for answers in eval(told.pop())] == [1, 1, 1, 1]


def test_code_formulas_and_addresses_do_not_count() -> None:
    code = "```python\nfor the_item in the_list:\n    print(the_item) # this is what they are\n```"
    assert detect(f"{GERMAN}\n{code}\n`the_list` https://example.org/this/is/the/one $the + of$").code == "de"
    assert detect(f"{GERMAN}\n```text\n{ENGLISH * 4}\n```").code == "en"


def test_mixing_scripts_costs_the_share() -> None:
    mixed = f"{ENGLISH} 我哥哥去年夏天在南京买了三辆旧自行车。"
    assert judge(ENGLISH, "en").score == 1.0
    assert judge(mixed, "en").score == 0.0
    letters = judge(mixed, "en", score="letters")
    han, latin = 18 / 1.6, sum(map(str.isalpha, ENGLISH)) / 5
    assert letters.score == pytest.approx(latin / (latin + han))
    assert letters.outcome == "partial"


def test_the_share_of_sentences_is_by_their_length() -> None:
    text = f"{ENGLISH} {GERMAN} 12345. {ENGLISH}"
    lengths = [letters_by_script(one)["latin"] for one in (ENGLISH, GERMAN)]
    wanted = 2 * lengths[0] / (2 * lengths[0] + lengths[1])
    assert judge(text, "en", score="sentences").score == pytest.approx(wanted)
    assert judge(text, ["en", "de"], score="sentences").score == pytest.approx(1.0)
    assert judge(text, "fr", score="sentences").score == 0.0
    assert judge("12345.", "en", score="sentences").score == 0.0


def test_what_is_judged_can_be_the_thinking() -> None:
    response = f"<think>{GERMAN}</think>{ENGLISH}"
    assert judge(response, "en").score == 1.0
    assert judge(response, "de", of="thinking").score == 1.0
    assert judge(response, "en", of="thinking").score == 0.0
    assert judge(f"<think>{GERMAN}", "de", of="thinking").score == 1.0
    assert judge(ENGLISH, "en", of="thinking").outcome == "no_answer"
    assert judge(response, ["de"], of="all", score="sentences").outcome == "partial"


def test_a_language_can_stand_in_the_options() -> None:
    assert judge(GERMAN, None, languages=["de"]).score == 1.0
    assert judge(GERMAN, None).outcome == "gold_invalid"
    assert "did you mean" not in module.start_problem({"languages": ["de"]})
    assert "no language 'xx' is known" in module.start_problem({"languages": ["xx"]})
    assert option_problems("language", {"score": "word"}, "o") != []
    assert option_problems("language", {"score": "letters", "languages": ["de", "en"]}, "o") == []


@pytest.mark.parametrize("gold", ["klingon", [], 7, ["de", "xx"], {"de": 1}, ""])
def test_a_gold_that_names_no_language_is_told_and_no_zero(gold: object) -> None:
    assert judge(GERMAN, gold).score is None
    assert module.gold_problem("language", Task(id="t", prompt="", gold=gold)) != ""
    assert module.gold_problem("language", Task(id="t", prompt="", gold="zh-CN")) == ""


def test_codes_have_other_spellings() -> None:
    names = ("zh-cn", "zh-TW", "nb", "EN", "pt_BR", "iw", "fil", "tlh")
    assert [known_code(name) for name in names] == ["zh", "zh", "no", "en", "pt", "he", "tl", None]


HOSTILE = [
    "a",
    "ab ",
    "é",
    "a\u0301",
    "$",
    "```",
    "`",
    "<a",
    "a@",
    "http://",
    "\\a",
    "The cat. ",
    "$a ",
    "\u05b0\u05b1",
    "日",
    "'",
    "𝒳",
]


@pytest.mark.parametrize("unit", HOSTILE)
@pytest.mark.parametrize("score", ["whole", "sentences", "letters"])
def test_hostile_text_of_64_thousand_characters_costs_its_length(unit: str, score: str) -> None:
    text = unit * (64_000 // len(unit))
    start = time.process_time()
    verdict = judge(text, "en", score=score)
    assert time.process_time() - start < 0.7
    assert verdict.score is not None


@given(st.text(max_size=300))
def test_any_text_gets_a_score_in_range_and_the_same_twice(text: str) -> None:
    for score in ("whole", "sentences", "letters"):
        first, second = judge(text, "de", score=score), judge(text, "de", score=score)
        assert first.score is not None
        assert (first.score, first.reason, first.checks) == (second.score, second.reason, second.checks)


@pytest.mark.parametrize("gold", [None, "42", ["de"], 17, "klingon"])
def test_the_option_is_what_is_wanted_whatever_the_gold_of_the_other_parts_says(gold: object) -> None:
    assert judge(ENGLISH, gold, languages=["en"]).score == 1.0
    assert judge(GERMAN, gold, languages=["en"]).score == 0.0
    assert module.gold_problem("language", Task(id="t", prompt="", gold=gold), {"languages": ["en"]}) == ""
