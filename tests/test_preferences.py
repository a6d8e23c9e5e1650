"""Comparisons, rankings, ratings and best-of-N rows from the columns that people's data sets have."""

from __future__ import annotations

import csv
import itertools
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.errors import DataError
from rlvr.preferences import (
    kind_of,
    load_best_of,
    load_preferences,
    load_rankings,
    load_ratings,
    prepare,
    without_held_out,
)
from rlvr.reward_settings import PreferenceData
from rlvr.types import BestOf, Message, Preference, Ranking, Rating

USER, YES, NO = (
    {"role": role, "content": text} for role, text in (("user", "Q"), ("assistant", "y"), ("assistant", "n"))
)
DIALOGUE = "\n\nHuman: Hi!\n\nAssistant: Hello.\n\nHuman: Bye?\n\nAssistant:"
TURNS = (
    Message(role="user", content="Hi!"),
    Message(role="assistant", content="Hello."),
    Message(role="user", content="Bye?"),
)


def data(folder: Path, *rows: dict[str, Any], **settings: Any) -> PreferenceData:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return PreferenceData(path=str(path), **settings)


def comparison(folder: Path, row: dict[str, Any], **settings: Any) -> Preference:
    given = data(folder, row, **settings)
    assert kind_of(given) == "comparison"
    (loaded,) = load_preferences(given).rows
    return loaded


PROMPTS_WITH_SIDES = {
    "explicit": ({"prompt": "p", "chosen": "a", "rejected": "b"}, ("p", "a", "b")),
    "question": ({"question": "p", "chosen": "a", "rejected": "b"}, ("p", "a", "b")),
    "explicit messages": ({"prompt": [USER], "chosen": [YES], "rejected": [NO]}, ((USER,), "y", "n")),
    "implicit messages": ({"chosen": [USER, YES], "rejected": [USER, NO]}, ((USER,), "y", "n")),
    "messages as JSON text": (
        {"chosen": json.dumps([USER, YES]), "rejected": json.dumps([USER, NO])},
        ((USER,), "y", "n"),
    ),
    "binarized": ({"prompt": "Q", "chosen": [USER, YES], "rejected": [USER, NO]}, ((USER,), "y", "n")),
    "a system message besides": (
        {"prompt": "Q", "chosen": [{"role": "system", "content": "S"}, USER, YES], "rejected": [USER, NO]},
        (({"role": "system", "content": "S"}, USER), "y", "n"),
    ),
    "HH": ({"chosen": DIALOGUE + " Yes", "rejected": DIALOGUE + " No"}, (TURNS, "Yes", "No")),
    "HH with a prompt": ({"prompt": DIALOGUE, "chosen": " Yes", "rejected": " No"}, (TURNS, "Yes", "No")),
    "a mark of the answer": (
        {"chosen": "user: q\nassistant: The same, yes", "rejected": "user: q\nassistant: The same, no"},
        ("user: q\nassistant: ", "The same, yes", "The same, no"),
    ),
    "implicit text": (
        {"chosen": "The sky is blue.", "rejected": "The sky is bright."},
        ("The sky is", " blue.", " bright."),
    ),
    "one begins the other": ({"chosen": "It is a big", "rejected": "It is a bigger"}, ("It is a", " big", " bigger")),
}


@pytest.mark.parametrize("case", PROMPTS_WITH_SIDES)
def test_the_prompt_is_found_in_each_dialect(tmp_path: Path, case: str) -> None:
    row, expected = PROMPTS_WITH_SIDES[case]
    found = comparison(tmp_path, row)
    assert (found.prompt, found.chosen, found.rejected) == expected
    assert (found.id, found.probability, found.margin, found.votes) == ("rows:1", 1.0, None, {})


LABELS = {
    "scores": ({"score_chosen": 8.5, "score_rejected": 6}, (2.5, 1.0)),
    "equal scores are a tie": ({"score_chosen": 7, "score_rejected": 7.0}, (0.0, 0.5)),
    "argilla's ratings": ({"chosen-rating": 5, "rejected-rating": 3}, (2.0, 1.0)),
    "a margin": ({"margin": 0.25}, (0.25, 1.0)),
    "a margin and scores": ({"margin": 0.25, "score_chosen": 9, "score_rejected": 1}, (0.25, 1.0)),
    "votes": ({"votes": {"chosen": 3, "rejected": 1, "tie": 1}}, (None, 0.7)),
    "votes of parquet": ({"votes": {"chosen": 3, "rejected": 1, "tie": None}}, (None, 0.75)),
    "only ties": ({"votes": {"tie": 2}}, (None, 0.5)),
    "a rounded share": ({"votes": {"chosen": 2, "rejected": 1}, "probability": 0.67}, (None, 0.67)),
    "a probability": ({"probability": 0.8}, (None, 0.8)),
    "text, as of CSV": ({"probability": "0.8", "margin": "1e-1", "votes": ""}, (0.1, 0.8)),
}


@pytest.mark.parametrize("case", LABELS)
def test_margin_and_probability_come_from_what_the_row_says(tmp_path: Path, case: str) -> None:
    columns, (margin, probability) = LABELS[case]
    found = comparison(tmp_path, {"prompt": "p", "chosen": "a", "rejected": "b", **columns})
    assert (found.margin, found.probability) == (margin, pytest.approx(probability))


@pytest.mark.parametrize(
    ("first", "second", "column"),
    [("response_1", "response_2", "preference_strength"), ("response1", "response2", "overall_preference")],
)
@pytest.mark.parametrize(
    ("strength", "expected"), [(2, ("b", "a", 2.0, 1.0)), (-3, ("a", "b", 3.0, 1.0)), (0, ("a", "b", 0.0, 0.5))]
)
def test_helpsteers_strength_names_the_better_response(
    tmp_path: Path, first: str, second: str, column: str, strength: int, expected: tuple[Any, ...]
) -> None:
    found = comparison(tmp_path, {"context": [USER], first: "a", second: "b", column: strength, "domain": "code"})
    assert (found.chosen, found.rejected, found.margin, found.probability) == expected
    assert (found.prompt, found.source) == ((USER,), "code")


ULTRAFEEDBACK = {
    "source": "flan",
    "instruction": "Add.",
    "models": ["a", "b", "c"],
    "completions": [
        {"model": "a", "annotations": {"honesty": {"Rating": "3"}}, "response": "r0", "overall_score": 7.5},
        {"model": "b", "annotations": {}, "response": "r1", "overall_score": 9.0},
        {"model": "c", "annotations": {}, "response": "r2", "overall_score": 7.5},
    ],
}


def test_ultrafeedback_is_a_ranking_and_its_best_with_the_rest(tmp_path: Path) -> None:
    given = data(tmp_path, ULTRAFEEDBACK)
    assert kind_of(given) == "ranking"
    (ranking,) = load_rankings(given).rows
    expected = Ranking(prompt="Add.", completions=("r0", "r1", "r2"), order=((1,), (0, 2)), id="rows:1", source="flan")
    assert ranking == expected
    pairs = load_preferences(given).rows
    assert [(p.id, p.chosen, p.rejected, p.margin) for p in pairs] == [
        ("rows:1/0", "r1", "r0", 1.5),
        ("rows:1/2", "r1", "r2", 1.5),
    ]
    (choice,) = load_best_of(given).rows
    assert choice == BestOf(prompt="Add.", chosen=("r1",), rejected=("r0", "r2"), id="rows:1", source="flan")


@pytest.mark.parametrize(
    "says",
    [
        {"completions": ["a", "b", "c"], "order": [2, [0, 1]]},
        {"completions": ["a", "b", "c"], "order": "[[2], [0, 1]]"},
        {"completions": ["a", "b", "c"], "ranks": [2, 2, 1]},
        {"completions": ["a", "b", "c"], "scores": [0.5, 0.5, 3]},
        {"answers": [{"answer": text, "rank": rank} for text, rank in (("a", 4), ("b", 4), ("c", 1))]},
        {"responses": [[{"role": "assistant", "content": text}] for text in "abc"], "ranking": [[2], [1, 0]]},
    ],
)
def test_an_order_may_be_places_ranks_or_scores(tmp_path: Path, says: dict[str, Any]) -> None:
    (found,) = load_rankings(data(tmp_path, {"prompt": "p", **says})).rows
    assert found.completions == ("a", "b", "c")
    assert [set(place) for place in found.order] == [{2}, {0, 1}]


RATINGS = {
    "HelpSteer": ({"response": "r", "helpfulness": 3, "verbosity": 1}, (None, {"helpfulness": 3.0, "verbosity": 1.0})),
    "unpaired": ({"completion": "r", "label": True}, (True, {})),
    "0 and 1": ({"completion": "r", "label": 0}, (False, {})),
    "CSV": ({"completion": "r", "label": "True", "score": ""}, (True, {})),
    "a number": ({"response": "r", "score": -2}, (None, {"score": -2.0})),
    "attributes": ({"response": "r", "scores": {"kind": 1, "safe": None}}, (None, {"kind": 1.0})),
    "a message": ({"completion": [{"role": "assistant", "content": "r"}], "label": 1.0}, (True, {})),
}


@pytest.mark.parametrize("case", RATINGS)
def test_ratings_are_labels_or_numbers(tmp_path: Path, case: str) -> None:
    columns, (label, scores) = RATINGS[case]
    given = data(tmp_path, {"prompt": "p", **columns})
    assert kind_of(given) == "rating"
    (found,) = load_ratings(given).rows
    assert found == Rating(prompt="p", completion="r", label=label, scores=scores, id="rows:1")


def test_texts_and_conversations_can_be_rated_by_themselves(tmp_path: Path) -> None:
    rows = load_ratings(data(tmp_path, {"text": "t", "label": 1}, {"messages": [USER, YES], "label": 0})).rows
    assert [(row.prompt, row.completion, row.label) for row in rows] == [("", "t", True), ((USER,), "y", False)]


def test_a_column_that_the_recipe_names_settles_what_is_meant(tmp_path: Path) -> None:
    row = {"ask": "p", "text": "r", "label": 1, "toxicity": 0.25, "score": 7}
    mapped = {"prompt": "ask", "scores": "toxicity"}
    (found,) = load_ratings(data(tmp_path, row, columns=mapped)).rows
    assert (found.label, found.scores) == (None, {"score": 0.25})
    (found,) = load_ratings(data(tmp_path, row, columns={"prompt": "ask", "label": "label"})).rows
    assert (found.prompt, found.label, found.scores) == ("p", True, {})
    nested = {"pair": {"good": "a", "bad": "b"}, "prompt": "p"}
    found = comparison(tmp_path, nested, columns={"chosen": "pair.good", "rejected": "pair.bad"})
    assert (found.chosen, found.rejected) == ("a", "b")


def test_scores_beside_an_order_may_agree_with_it_or_stand_aside(tmp_path: Path) -> None:
    row = {"prompt": "p", "completions": ["a", "b", "c"], "order": [[0, 2], 1], "scores": [0.5, 0.5, 0.9]}
    assert load_rankings(data(tmp_path, row)).rows[0].order == ((0, 2), (1,))
    row["scores"] = [0.1, 0.5, 0.9]
    assert load_rankings(data(tmp_path, row, columns={"order": "order"})).rows[0].order == ((0, 2), (1,))


def test_a_comparison_gives_labels_as_sure_as_it_is_itself(tmp_path: Path) -> None:
    votes = ({"chosen": 6, "rejected": 4}, {"tie": 2}, {"chosen": 1})
    rows = load_ratings(data(tmp_path, *({"prompt": "p", "chosen": "a", "rejected": "b", "votes": v} for v in votes)))
    assert [(row.label, row.probability) for row in rows.rows] == [
        *((True, 0.6), (False, 0.6), (True, 0.5), (False, 0.5), (True, 1.0), (False, 1.0))
    ]


def test_a_comparison_is_a_good_and_a_bad_completion(tmp_path: Path) -> None:
    given = data(tmp_path, {"prompt": "p", "chosen": "a", "rejected": "b"})
    rows = load_ratings(given).rows
    assert [(row.id, row.completion, row.label) for row in rows] == [
        ("rows:1/chosen", "a", True),
        ("rows:1/rejected", "b", False),
    ]


def test_rewardbench_is_read_in_both_of_its_forms(tmp_path: Path) -> None:
    old = {"prompt": "p", "chosen": "a", "rejected": "b", "subset": "xstest", "id": 3}
    given = data(tmp_path, old, {**old, "subset": "donotanswer"})
    assert kind_of(given) == "comparison"
    assert [row.id for row in load_preferences(given).rows] == ["xstest:3", "donotanswer:3"]
    assert load_best_of(given).rows[0] == BestOf(
        prompt="p", chosen=("a",), rejected=("b",), id="xstest:3", source="xstest"
    )
    new = {"id": "7", "prompt": "p", "chosen": ["a"], "rejected": ["b", "c", "d"], "num_correct": 1, "subset": "Math"}
    given = data(tmp_path, new)
    assert kind_of(given) == "best_of"
    (found,) = load_best_of(given).rows
    assert found == BestOf(prompt="p", chosen=("a",), rejected=("b", "c", "d"), id="Math:7", source="Math")


def test_csv_and_parquet_hold_the_same_rows(tmp_path: Path) -> None:
    row = {"prompt": [USER], "chosen": [YES], "rejected": [NO], "votes": {"chosen": 2, "rejected": 1}, "id": "k"}
    expected = comparison(tmp_path, row)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "rows.parquet")
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerow({k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()})
    for name in ("rows.parquet", "rows.csv"):
        assert load_preferences(PreferenceData(path=str(tmp_path / name))).rows == [expected]


def test_the_recipe_dresses_prompts(tmp_path: Path) -> None:
    row = {"prompt": "p", "chosen": "a", "rejected": "b"}
    found = comparison(tmp_path, row, system="S", prompt_template="Say: {prompt}")
    assert found.prompt == ({"role": "system", "content": "S"}, {"role": "user", "content": "Say: p"})


# --- held-out prompts ------------------------------------------------------------------------------------------------


def test_prompts_that_are_held_out_are_not_trained_on(tmp_path: Path) -> None:
    pair = {"chosen": "a", "rejected": "b"}
    (tmp_path / "held").mkdir()
    held = data(tmp_path / "held", {"prompt": [{"role": "user", "content": "q"}], "chosen": ["a"], "rejected": ["c"]})
    given = data(tmp_path, {"prompt": "p", **pair}, {"prompt": "q", **pair}, {"prompt": "r", **pair})
    prepared = prepare(given, held)
    assert ([row.prompt for row in prepared.rows], prepared.num_same) == (["p", "r"], 1)
    assert (prepared.kind, prepared.held_out_kind) == ("comparison", "best_of")
    assert [row.label for row in prepare(given, None, as_kind="rating").rows] == [True, False] * 3
    rows = load_preferences(given).rows
    with pytest.raises(DataError, match=r"^nothing is left to train on: every prompt is also in eval\.tasks$"):
        without_held_out(rows, rows)


# --- round trip ------------------------------------------------------------------------------------------------------

words = st.text(min_size=1, max_size=8).filter(lambda text: bool(text.strip()))
prompts = words | st.lists(
    st.builds(lambda role, content: Message(role=role, content=content), st.sampled_from(["system", "user"]), words),
    min_size=1,
    max_size=3,
).map(tuple)
numbers = st.floats(0, 1e6)


@st.composite
def comparisons(draw: st.DrawFn) -> Preference:
    chosen, rejected = draw(st.lists(words, min_size=2, max_size=2, unique_by=str.strip))
    won, lost, tie = draw(st.integers(0, 5)), draw(st.integers(0, 5)), draw(st.integers(0, 5))
    votes = {"chosen": max(won, lost), "rejected": min(won, lost), "tie": tie} if won + lost + tie else {}
    share = (max(won, lost) + tie / 2) / (won + lost + tie) if votes else draw(st.floats(0.5, 1))
    return Preference(
        id=draw(words),
        source=draw(st.text(max_size=3)),
        prompt=draw(prompts),
        chosen=chosen,
        rejected=rejected,
        votes=votes,
        probability=share,
        annotators=tuple(draw(st.lists(st.text(max_size=3), max_size=3))),
        margin=draw(st.none() | (numbers if share != 0.5 else st.just(0.0))),
        true_probability=draw(st.none() | st.floats(0, 1)),
    )


@st.composite
def rankings(draw: st.DrawFn) -> Ranking:
    texts = draw(st.lists(words, min_size=2, max_size=5, unique=True))
    shuffled = draw(st.permutations(range(len(texts))))
    cuts = sorted({0, draw(st.integers(1, len(texts) - 1)), draw(st.integers(1, len(texts) - 1)), len(texts)})
    order = tuple(tuple(shuffled[a:b]) for a, b in itertools.pairwise(cuts))
    return Ranking(id=draw(words), prompt=draw(prompts), completions=tuple(texts), order=order)


@st.composite
def ratings(draw: st.DrawFn) -> Rating:
    scores = draw(st.dictionaries(words, st.floats(allow_nan=False, allow_infinity=False), max_size=3))
    label = None if scores else draw(st.booleans())
    return Rating(id=draw(words), prompt=draw(prompts), completion=draw(words), label=label, scores=scores)


@given(row=comparisons() | rankings() | ratings())
def test_rows_of_our_own_types_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, row: Preference | Ranking | Rating
) -> None:
    given = data(tmp_path_factory.getbasetemp(), asdict(row))
    load: Any = {Preference: load_preferences, Ranking: load_rankings, Rating: load_ratings}[type(row)]
    assert load(given).rows == [row]
    assert kind_of(given) == {Preference: "comparison", Ranking: "ranking", Rating: "rating"}[type(row)]
