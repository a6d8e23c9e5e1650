"""Rows of preferences that cannot be used: one line each, with the file, the row, what is wrong and the fix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlvr.errors import DataError
from rlvr.preferences import LOADERS, kind_of, load_preferences
from rlvr.reward_settings import PreferenceData

PAIR = {"prompt": "p", "chosen": "a", "rejected": "b"}
RANKED = {"prompt": "p", "completions": ["a", "b", "c"], "order": [0, 1, 2]}
RATED = {"prompt": "p", "completion": "a", "label": True}
CHOICE = {"prompt": "p", "chosen": ["a"], "rejected": ["b", "c"]}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def data(folder: Path, *rows: Any, **settings: Any) -> PreferenceData:
    path = folder / "rows.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return PreferenceData(path=str(path), **settings)


COMPARISONS = {
    "equal texts": ({"rejected": "a"}, "chosen and rejected are the same text, so that nothing is preferred"),
    "equal but for white space": ({"rejected": " a\n"}, "chosen and rejected are the same text, so that nothing"),
    "empty": ({"rejected": " \n"}, "rejected is empty"),
    "half a character": ({"chosen": "\ud83d"}, "chosen holds half a surrogate pair, which is no valid text"),
    "a number": ({"chosen": 7}, "chosen must be text or one assistant's message, got a number"),
    "no other side": ({"rejected": None}, "no rejected (has: prompt, chosen, rejected; name its column with"),
    "no prompt": ({"prompt": None, "chosen": "x", "rejected": "y"}, "no prompt (has: prompt, chosen, rejected; name"),
    "a prompt without turns": ({"prompt": []}, "prompt is empty (column 'prompt')"),
    "an empty prompt": ({"prompt": " "}, "prompt is empty (column 'prompt')"),
    "a prompt that is no text": ({"prompt": 3}, "prompt must be text or messages, got a number (column 'prompt')"),
    "score below": (
        {"score_chosen": 3, "score_rejected": 4.5},
        "score_chosen 3 is below score_rejected 4.5: which is the better one? Swap the texts or the scores",
    ),
    "score not a number": ({"score_chosen": "good", "score_rejected": 1}, "score_chosen must be a number, got 'good'"),
    "score not finite": ({"score_chosen": 1, "score_rejected": float("-inf")}, "score_rejected must be a finite numb"),
    "difference not finite": (
        {"score_chosen": 1e308, "score_rejected": -1e308},
        "score_chosen - score_rejected is no finite number",
    ),
    "margin below 0": ({"margin": -0.5}, "margin is -0.5, which says that rejected is the better one; swap the two"),
    "a tie with a margin": (
        {"probability": 0.5, "margin": 2},
        "a tie (probability 0.5) has no margin, and the row's is 2; which of the two is right?",
    ),
    "a tie with scores": (
        {"votes": {"tie": 2}, "score_chosen": 3, "score_rejected": 1},
        "a tie (probability 0.5) has no margin, and the row's is 2; which of the two is right?",
    ),
    "equal scores with a margin": (
        {"score_chosen": 3, "score_rejected": 3, "margin": 1},
        "score_chosen and score_rejected are equal, and margin is 1; take one of them out",
    ),
    "equal scores and ratings that are not": (
        {"score_chosen": 3, "score_rejected": 3, "chosen_rating": 5, "rejected_rating": 4},
        "score_chosen and score_rejected are equal, and chosen_rating is above rejected_rating; take one of them out",
    ),
    "scores and ratings": (
        {"score_chosen": 3, "score_rejected": 1, "chosen_rating": 4, "rejected_rating": 5},
        "chosen_rating 4 is below rejected_rating 5: which is the better one?",
    ),
    "margin not finite": ({"margin": float("nan")}, "margin must be a finite number, got nan"),
    "margin beyond any float": ({"margin": 10**400}, "margin must be a finite number, got inf"),
    "margin not a number": ({"margin": True}, "margin must be a number, got bool"),
    "probability beyond 1": ({"probability": 70}, "probability must be in [0, 1], got 70"),
    "probability of the other": (
        {"probability": 0.25},
        "probability is 0.25, which says that rejected is the better one; swap the two and give 0.75",
    ),
    "true probability": ({"true_probability": -0.1}, "true_probability must be in [0, 1], got -0.1"),
    "votes against": (
        {"votes": {"chosen": 1, "rejected": 2}},
        "votes: 2 for rejected and 1 for chosen; swap the texts and the votes",
    ),
    "votes and probability": (
        {"votes": {"chosen": 3, "rejected": 1}, "probability": 0.9},
        "probability is 0.9 and the votes say 0.75; give one of the two",
    ),
    "votes for nobody": ({"votes": {"chosen": 0, "rejected": 0}}, "votes holds no vote"),
    "unknown votes": (
        {"votes": {"chosen": 1, "reject": 1}},
        "votes has votes for 'reject' (did you mean 'rejected'? known: chosen, rejected, tie)",
    ),
    "half a vote": ({"votes": {"chosen": 1.5}}, "votes.chosen must be a whole number >= 0, got 1.5"),
    "votes as a number": ({"votes": 3}, 'votes must be an object such as {"chosen": 3, "rejected": 1, "tie": 1}, got'),
    "annotators": ({"annotators": [1]}, "annotators must be a list of names, got [1]"),
    "lists of texts": (
        {"chosen": ["a"], "rejected": ["b"]},
        "chosen and rejected are lists of texts: rows of best-of-N, to measure with alone",
    ),
    "text and messages": (
        {"chosen": [user("p"), assistant("a")]},
        "one of chosen and rejected is text and the other a conversation; write both alike",
    ),
    "prompts that differ": (
        {"prompt": None, "chosen": [user("p"), assistant("a")], "rejected": [user("q"), assistant("b")]},
        "chosen and rejected answer different prompts: they differ before their last turns",
    ),
    "turns beside the prompt": (
        {"chosen": [user("p"), assistant("a")], "rejected": [user("q"), assistant("b")]},
        "the turns of rejected before its last are not the prompt; which of them was answered?",
    ),
    "no turn of the assistant's": (
        {"chosen": [user("p"), assistant("a"), user("thanks")], "rejected": [user("p"), assistant("b")]},
        "chosen must end with an assistant's turn, ends with the user's",
    ),
    "an empty turn": (
        {"chosen": [user("p"), assistant("a")], "rejected": [user("p"), assistant(" ")]},
        "rejected is empty",
    ),
    "no turn before the answer": (
        {"prompt": None, "chosen": [assistant("a")], "rejected": [assistant("b")]},
        "no prompt (has: prompt, chosen, rejected; name its column with data.columns.prompt=COLUMN)",
    ),
    "dialogues that part": (
        {
            "prompt": None,
            "chosen": "\n\nHuman: x\n\nAssistant: a\n\nHuman: y\n\nAssistant: c",
            "rejected": "\n\nHuman: x\n\nAssistant: b",
        },
        "chosen and rejected answer different prompts: they differ before their last turns",
    ),
    "texts with marks that part": (
        {
            "prompt": None,
            "chosen": "[INST] x [/INST] a [INST] y [/INST] c",
            "rejected": "[INST] x [/INST] b",
        },
        "chosen and rejected answer different prompts: they differ before their last answers",
    ),
    "nothing behind the prompt": (
        {"prompt": None, "chosen": "[INST] x [/INST]", "rejected": "[INST] x [/INST] b"},
        "chosen is empty behind the prompt",
    ),
    "another column that may be the prompt": (
        {"prompt": None, "asked": "Sky?", "chosen": "The sky is blue.", "rejected": "The sky is green."},
        "no prompt (has: prompt, chosen, rejected, asked; name its column with data.columns.prompt=COLUMN)",
    ),
}
RANKINGS = {
    "beyond the list": ({"order": [0, 1, 3]}, "order names completion 3, and there are 3 (0 to 2; the first is 0)"),
    "below the list": ({"order": [0, 1, -1]}, "order names completion -1, and there are 3 (0 to 2; the first is 0)"),
    "twice": ({"order": [0, [1, 2], 1]}, "order names completion 1 twice"),
    "left out": ({"order": [2]}, "order does not name completion 0, 1; every one needs a place"),
    "an empty place": ({"order": [[], [0, 1, 2]]}, "order has an empty place"),
    "names": ({"order": ["a", "b", "c"]}, "order must hold indices of completions, such as [[1, 2], [0]], got 'a'"),
    "true": ({"order": [True, 0, 2]}, "order must hold indices of completions, such as [[1, 2], [0]], got True"),
    "no list": ({"order": "a>b"}, "order must be a list, got text"),
    "an order that its scores deny": (
        {"order": [2, [0, 1]], "scores": [0.5, 0.1, 0.3]},
        "order puts completion 2 before 0, and scores the other way round; take one of them out, or name the column "
        "that is meant with data.columns.order",
    ),
    "ranks that their scores deny": (
        {"order": None, "ranks": [1, 2, 3], "scores": [0.5, 0.1, 0.3]},
        "ranks puts completion 1 before 2, and scores the other way round",
    ),
    "ranks in objects that their scores deny": (
        {
            "order": None,
            "completions": [{"text": "a", "rank": 1, "score": 0.1}, {"text": "b", "rank": 2, "score": 0.3}],
        },
        "rank puts completion 0 before 1, and score the other way round; take one of them out",
    ),
    "all in one place": ({"order": [[0, 1, 2]]}, "all 3 completions share one place, so that nothing is ordered"),
    "no order": ({"order": None}, "no order (has: prompt, completions, order; name its column with data.columns.order"),
    "too few ranks": ({"order": None, "ranks": [1, 2]}, "ranks holds 2 numbers for 3 completions"),
    "a rank that is none": ({"order": None, "ranks": [1, 2, "x"]}, "ranks[2] must be a number, got 'x'"),
    "a score that is none": ({"order": None, "scores": [1, 2, float("nan")]}, "scores[2] must be a finite number, got"),
    "equal texts": ({"completions": ["a", "b", "a"]}, "completions[0] and completions[2] are the same text; keep one"),
    "one alone": ({"completions": ["a"]}, "completions must hold at least two completions to rank, holds 1"),
    "no completions": ({"completions": "a"}, "completions must be a list of completions, got text"),
    "empty": ({"completions": ["a", "", "c"]}, "completions[1] is empty"),
    "an object without text": (
        {"completions": [{"reply": "a"}, {"reply": "b"}]},
        "completions[0] must be text or one assistant's message, got an object",
    ),
    "an object without score": (
        {"order": None, "completions": [{"response": "a", "overall_score": 1}, {"response": "b"}]},
        "completions[1] has no overall_score, which others have",
    ),
}
RATINGS = {
    "in words": ({"label": "good"}, "label must be true or false (1 or 0), got 'good'"),
    "beyond 1": ({"label": 2}, "label must be true or false (1 or 0), got 2"),
    "neither": ({"label": None}, "no label (has: prompt, completion, label; name its column with data.columns.label="),
    "both": (
        {"helpfulness": 3, "score": 1},
        "both a label and scores (score, helpfulness); say which is meant with data.columns.label=COLUMN or "
        "data.columns.scores=COLUMN",
    ),
    "score in words": ({"label": None, "score": "high"}, "score must be a number, got 'high'"),
    "score not finite": ({"label": None, "scores": {"safe": float("inf")}}, "scores.safe must be a finite number, got"),
    "empty": ({"completion": ""}, "completion is empty"),
    "no prompt": ({"prompt": None}, "no prompt (has: prompt, completion, label; name its column with"),
    "a conversation": (
        {"completion": [user("p"), assistant("a")]},
        "completion must be text or one assistant's message",
    ),
    "no answer": (
        {"completion": None, "messages": [user("p")]},
        "messages must end with an assistant's turn, with another before it",
    ),
}
BEST_OF = {
    "both": ({"rejected": ["b", "a"]}, "'a' is both among the chosen and the rejected"),
    "no list": ({"rejected": "b"}, "rejected must be a list of texts as its partner is, got text"),
    "no other side": ({"rejected": None}, "no rejected (has: prompt, chosen, rejected; name its column with"),
    "empty": ({"rejected": ["b", " "]}, "rejected[1] is empty"),
    "an empty list": ({"rejected": []}, "rejected is empty"),
    "no prompt": ({"prompt": None}, "no prompt (has: prompt, chosen, rejected; name its column with"),
}
KINDS: dict[str, tuple[dict[str, Any], dict[str, tuple[dict[str, Any], str]]]] = {
    "comparison": (PAIR, COMPARISONS),
    "ranking": (RANKED, RANKINGS),
    "rating": (RATED, RATINGS),
    "best_of": (CHOICE, BEST_OF),
}


@pytest.mark.parametrize("name", KINDS)
def test_good_rows_are_kept_beside_bad_ones_that_are_skipped(tmp_path: Path, name: str) -> None:
    good, cases = KINDS[name]
    given = data(tmp_path, good, *({**good, **change} for change, _ in cases.values()), on_bad_row="skip")
    loaded = LOADERS[kind_of(given)](given)
    assert ([row.id for row in loaded.rows], loaded.num_bad) == (["rows:1"], len(cases))


@pytest.mark.parametrize(("name", "case"), [(name, case) for name, (_, cases) in KINDS.items() for case in cases])
def test_a_bad_row_is_told_in_one_line(tmp_path: Path, name: str, case: str) -> None:
    good, cases = KINDS[name]
    change, expected = cases[case]
    given = data(tmp_path, good, {**good, **change})
    with pytest.raises(DataError) as told:
        LOADERS[name](given)  # type: ignore[index]  # pyright: ignore[reportArgumentType]
    head, line = str(told.value).split("\n")
    assert head == "rows.jsonl: 1 of 2 rows cannot be used (set data.on_bad_row=skip to leave them out):"
    assert line.startswith(f"rows.jsonl:2: {expected}")


def test_a_row_that_is_no_json_and_an_id_given_twice_are_bad(tmp_path: Path) -> None:
    given = data(tmp_path, "nope", {**PAIR, "id": "k"}, {**PAIR, "id": "k"}, 3)
    with pytest.raises(DataError) as told:
        load_preferences(given, setting="eval.tasks")
    assert str(told.value).split("\n") == [
        "rows.jsonl: 3 of 4 rows cannot be used (set eval.tasks.on_bad_row=skip to leave them out):",
        "rows.jsonl:1: not JSON: Expecting value: column 1 (char 0)",
        "rows.jsonl:3: id 'k' is already that of rows.jsonl:2",
        "rows.jsonl:4: not an object of columns but a number",
    ]
    assert kind_of(given) == "comparison"


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (
            {"prompt": "p", "choosen": "a", "rejekted": "b"},
            "no chosen (has: prompt, choosen, rejekted; did you mean data.columns.chosen=choosen?), nor its rejected",
        ),
        (
            {"prompt": "p", "candidates": ["a", "b"]},
            "neither chosen and rejected, nor completions and order, nor completion and label or scores (has: prompt, "
            "candidates; data.columns maps our words to your columns)",
        ),
        ({"prompt": "p", "completion": "a"}, "neither chosen and rejected, nor completions and order, nor completion"),
    ],
)
def test_columns_of_no_known_kind_are_named(tmp_path: Path, row: dict[str, Any], told: str) -> None:
    given = data(tmp_path, row)
    with pytest.raises(DataError) as error:
        kind_of(given)
    assert str(error.value).startswith(f"data.path: {given.path}: rows.jsonl:1: {told}")


def test_a_text_of_very_many_brackets_is_a_text(tmp_path: Path) -> None:
    text = "[" * 5000
    assert load_preferences(data(tmp_path, {"prompt": "p", "chosen": text, "rejected": "b"})).rows[0].chosen == text


def test_a_column_that_the_recipe_names_wrongly_is_told(tmp_path: Path) -> None:
    given = data(tmp_path, PAIR, columns={"chosen": "best"})
    with pytest.raises(
        DataError,
        match=r"rows\.jsonl:1: no column 'best' \(named by columns\.chosen or --column chosen=best; has: prompt, ch",
    ):
        kind_of(given)


def test_an_empty_file_is_told(tmp_path: Path) -> None:
    given = data(tmp_path)
    for read in (kind_of, load_preferences):
        with pytest.raises(DataError, match=r"rows\.jsonl.* holds no rows"):
            read(given)
