"""Answers that others collected: each format by small files as its documentation shows them."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from rlvr.errors import DataError, SettingsError
from rlvr.feedback.export_files import write
from rlvr.feedback.exports import Export, export
from rlvr.feedback.imports import Reading, import_file, load, thumb
from rlvr.feedback.records import Answer, Item, Judgement, Span
from rlvr.feedback.store import Store
from rlvr.reward_settings import PreferenceData
from rlvr.rows import read_rows


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "votes.db", create=True) as opened:
        yield opened


def file(tmp_path: Path, name: str, content: Any) -> Path:
    path = tmp_path / name
    if name.endswith(".jsonl"):
        content = "".join(json.dumps(row) + "\n" for row in content)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def told(store: Store) -> list[tuple[str, str, Any]]:
    """(annotator, what the completions mean to him, the rest) with texts in place of indices."""
    return [(a.annotator, *_in_words(store.item(a.item), a.judgement)) for a in store.answers()]


def _in_words(item: Item, judgement: Judgement) -> tuple[str, Any]:
    texts = item.completions
    if judgement.skipped is not None:
        return "skipped", (item.mode, judgement.skipped)
    if judgement.ranking is not None:
        return item.mode, [sorted(texts[k] for k in place) for place in judgement.ranking]
    if judgement.thumbs:
        return item.mode, {texts[int(k)]: good for k, good in judgement.thumbs.items()}
    if judgement.ratings:
        return item.mode, {texts[int(k)]: dict(given) for k, given in judgement.ratings.items()}
    if judgement.text is not None:
        return item.mode, (texts, judgement.text)
    assert judgement.spans is not None
    return item.mode, [(texts[s.completion][s.first : s.end], s.label) for s in judgement.spans]


def test_the_same_file_twice_adds_nothing(store: Store, tmp_path: Path) -> None:
    path = file(tmp_path, "v.csv", "prompt,reply_a,reply_b,choice,user\np,x,y,b,ann\np,x,y,a,bob\nq,x,y,tie,ann\n")
    assert import_file(store, path, Reading()) | {"file": ""} == {
        "file": "", "rows": 3, "bad_rows": 0, "items": 2, "answers": 3, "known_answers": 0, "left_out": {}
    }  # fmt: skip
    again = import_file(store, path.rename(tmp_path / "other name.csv"), Reading())
    assert (again["items"], again["answers"], again["known_answers"]) == (0, 0, 3)
    assert told(store) == [
        ("ann", "compare", [["y"], ["x"]]),
        ("bob", "compare", [["x"], ["y"]]),
        ("ann", "compare", [["x", "y"]]),
    ]


# --- plain rows ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"completions": ["x", "y", "z"], "order": [2, [0, 1]]}, ("rank", [["z"], ["x", "y"]])),
        ({"completions": ["x", "y", "z"], "ranks": [2, 1, 2]}, ("rank", [["y"], ["x", "z"]])),
        ({"completions": ["x", "y", "z"], "choice": "b"}, ("rank", [["y"], ["x", "z"]])),
        ({"completions": ["x", "y"], "choice": "1"}, ("compare", [["y"], ["x"]])),
        ({"response_1": "x", "response_2": "y", "choice": "1"}, ("compare", [["x"], ["y"]])),
        ({"answer_a": "x", "answer_b": "y", "winner": "y"}, ("compare", [["y"], ["x"]])),
        ({"output_a": "x", "output_b": "y", "output_c": "z", "ranking": "c > a = b"}, ("rank", [["z"], ["x", "y"]])),
        ({"chosen": "x", "rejected": "y"}, ("compare", [["x"], ["y"]])),
        ({"completion": "x", "thumb": "👎"}, ("thumbs", {"x": False})),
        ({"completion": "x", "label": 1}, ("thumbs", {"x": True})),
        ({"completion": "x", "edit": "better"}, ("write", (("x",), "better"))),
        ({"demonstration": "done"}, ("write", ((), "done"))),
        (
            {
                "prompt": None,
                "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}],
                "thumb": "up",
            },
            ("thumbs", {"yo": True}),
        ),
        ({"completion": "x", "helpful": 5, "polite": "2"}, ("rate", {"x": {"helpful": 5.0, "polite": 2.0}})),
        ({"completion": "x", "rating": 3}, ("rate", {"x": {"score": 3.0}})),
        ({"completion": "damn it", "spans": [{"start": 0, "end": 4}]}, ("spans", [("damn", "toxic")])),
        ({"completion": "x", "skipped": "no idea"}, ("skipped", ("thumbs", "no idea"))),
        ({"chosen": "x", "rejected": "y", "skipped": True}, ("skipped", ("compare", "skipped"))),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_a_row_says_what_one_person_thinks(store: Store, tmp_path: Path, row: Any, expected: Any) -> None:
    import_file(store, file(tmp_path, "rows.jsonl", [{"prompt": "p", "annotator": "ann", **row}]), Reading())
    assert told(store) == [("ann", *expected)]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        *(
            (word, True)
            for word in (True, 1, 1.0, "1", "+1", "yes", "Y", "good", "UP", "like", "👍", "👍🏽", "thumbs_up")
        ),
        *(
            (word, False)
            for word in (False, 0, 0.0, -1, "-1.0", "No", "n", "bad", "down", "dislike", "👎", ":thumbsdown:")
        ),
        *((word, None) for word in ("maybe", "", "2", 0.5, "up down", "thumbs", "10", math.nan, [], {"a": 1})),
    ],
)
def test_thumbs_are_said_in_many_words_and_all_others_are_refused(word: Any, expected: bool | None) -> None:
    assert thumb(word) is expected


def test_a_row_of_odd_values_names_its_row_and_what_is_known(tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "completion": "c", "thumb": "so so"},
        {"prompt": "p", "completion": "c", "thumb": True, "seconds": 1e300},
        {"prompt": "p", "completion": "c", "thumb": True, "user": {"id": 3}},
        {"prompt": "p", "completion": "c", "thumb": True, "more": json.loads("[" * 900 + "]" * 900)},
        {"prompt": "p", "completion": "c", "thumb": True},
    ]
    with pytest.raises(DataError) as caught:
        load(file(tmp_path, "odd.jsonl", rows), Reading(), ())
    head, *lines = str(caught.value).splitlines()
    assert head == "odd.jsonl: 4 of 5 rows cannot be used (--on-bad-row skip leaves them out):"
    assert lines[0].startswith("odd.jsonl:1: label must be one of true/false, yes/no,") and "👍/👎" in lines[0]
    assert lines[1:] == [
        "odd.jsonl:2: seconds must be from 0 to 31622400 (a year), got 1e+300",
        "odd.jsonl:3: annotator must be text, got an object",
        "odd.jsonl:4: nested deeper than 100 levels",
    ]


def test_messages_about_rows_of_data_sets_name_the_options_of_the_command(tmp_path: Path) -> None:
    path = file(tmp_path, "d.jsonl", [{"promt": "p", "chosen": "a", "rejected": "b"}])
    with pytest.raises(DataError, match=r"d.jsonl:1: no prompt \(.*; did you mean --column prompt=promt\?\)") as caught:
        load(path, Reading(), ())
    assert "data." not in str(caught.value) and "FILE" not in str(caught.value)
    path = file(tmp_path, "e.jsonl", [{"one": "p"}])
    with pytest.raises(DataError, match="--column maps our words to your columns") as caught:
        load(path, Reading(), ())
    assert "FILE." not in str(caught.value)
    path = file(tmp_path, "s.jsonl", [{"prompt": "p", "completion": "c", "points": 3}])
    (entry,) = load(path, Reading(form="trl", columns={"ratings": ("points",)}), ())[0].entries
    assert entry.judgement == Judgement(ratings={"0": {"score": 3.0}})


def test_a_file_given_to_a_recipe_whose_rows_are_generated_is_told_what_to_set() -> None:
    data = PreferenceData(path="pairs.jsonl", source="generator")
    with pytest.raises(SettingsError, match=r"^data.path: pairs.jsonl is no .* files need data.source=file$"):
        list(read_rows(data, "data"))


def test_feedback_on_a_deployed_model_trains_as_labels_and_pairs(store: Store, tmp_path: Path) -> None:
    log = [
        {
            "id": "f1",
            "prompt": "p",
            "completion": "meh",
            "thumb": False,
            "user": "u1",
            "model": "m",
            "rollout": "3/t/0",
        },
        {"id": "f2", "prompt": "p", "completion": "meh", "edit": "good", "user": "u1", "model": "m"},
        {"id": "f3", "prompt": "q", "chosen": "a", "rejected": "b", "user": "u2", "model": "m"},
    ]
    import_file(store, file(tmp_path, "log.jsonl", log), Reading())
    assert [dict(item.info) for item in store.items()] == [
        {"model": "m", "rollout": "3/t/0"},
        {"model": "m"},
        {"model": "m"},
    ]
    assert [a.source for a in store.answers()] == ["import"] * 3
    pairs = export(store, Export()).rows
    assert [(row["chosen"], row["rejected"]) for row in pairs] == [("good", "meh"), ("a", "b")]
    (thumb,) = export(store, Export(form="unpaired")).rows
    assert (thumb["completion"], thumb["label"]) == ("meh", False)


def test_seconds_groups_and_comments_are_kept(store: Store, tmp_path: Path) -> None:
    rows = "prompt,completion,thumb,worker,seconds,group,comment\np,c,up,w1,4.5,young,fine\n"
    import_file(store, file(tmp_path, "v.csv", rows), Reading())
    (answer,) = store.answers()
    assert (answer.seconds, answer.group, answer.comment) == (4.5, "young", "fine")
    assert store.groups() == {"w1": "young"}


def test_columns_of_other_names_are_named(store: Store, tmp_path: Path) -> None:
    path = file(tmp_path, "v.csv", "ask,left,right,verdict,who,tone\np,x,y,right,ann,3\n")
    columns = {"prompt": ("ask",), "completions": ("left", "right"), "choice": ("verdict",), "annotator": ("who",)}
    import_file(store, path, Reading(form="csv", columns=columns | {"ignore": ("tone",)}))
    assert told(store) == [("ann", "compare", [["y"], ["x"]])]
    assert dict(next(store.items()).info) == {}


OTHER = "question,a,b,winner\nQ1,x,y,a\nQ2,x,y,b\n"


@pytest.mark.parametrize(
    ("content", "columns"),
    [
        (OTHER, {"response_a": "a", "response_b": "b"}),
        (OTHER, {"response_b": "a", "response_a": "b"}),  # the winner is named by the file's own columns
        (OTHER.replace(",a,b,", ",left,right,"), {"response_b": "right", "response_a": "left"}),
        (OTHER.replace(",a,b,", ",left,right,"), {"response_b": "right", "response_a": "left", "prompt": "question"}),
    ],
)
def test_answers_in_columns_of_any_name_are_mapped(
    content: str, columns: dict[str, str], store: Store, tmp_path: Path
) -> None:
    reading = Reading(columns={word: (name,) for word, name in columns.items()})
    import_file(store, file(tmp_path, "other.csv", content), reading)
    orders = ([["x"], ["y"]], [["y"], ["x"]])
    assert told(store) == [("imported", "compare", order) for order in orders]


@pytest.mark.parametrize(
    ("content", "columns", "why"),
    [
        (OTHER, {}, "a choice needs two completions and more, and the row has 0 .has: question, a, b, winner; name the "
         "answers' columns with --column response_a=COLUMN --column response_b=COLUMN"),
        (OTHER, {"chosen": "a", "rejected": "b"}, "winner beside chosen and rejected, which say themselves what is "
         "better; .* --column response_a=COLUMN .* --column ignore=winner"),
        ("prompt,chosen,rejected,ranks,user\nQ,x,y,\"[2,1]\",ann\n", {}, "ranks beside chosen and rejected"),
        (OTHER, {"response_a": "q", "response_b": "b"}, "no column 'q' .--column response_a names it; has: question"),
        ("prompt,completion,thumb\n,c,up\n", {}, "prompt is empty$"),
        ("question,completion,thumb\n,c,up\n", {}, "question is empty$"),
        ("ask,completion,thumb\nA,c,up\n", {}, "no prompt .has: ask, completion, thumb; name its column with"),
        ("prompt,completion,thumb\nA,,up\n", {}, "completion is empty$"),
    ],
)  # fmt: skip
def test_what_is_missing_empty_or_said_twice_is_told_with_its_column(
    content: str, columns: dict[str, str], why: str, tmp_path: Path
) -> None:
    reading = Reading(columns={word: (name,) for word, name in columns.items()})
    with pytest.raises(DataError, match=rf"(?m)^bad\.csv:2: {why}"):
        load(file(tmp_path, "bad.csv", content), reading, ())


def test_what_no_rows_are_is_told_with_the_file_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^t\.csv:2: neither chosen and rejected"):
        load(file(tmp_path, "t.csv", "prompt\tresponse_a\tresponse_b\tchoice\nQ1\tx\ty\ta\n"), Reading(), ())


def test_words_for_many_answers_are_no_answers_of_their_own() -> None:
    columns = {word: (word,) for word in ("completions", "responses", "response_10", "response_9", "answer-s")}
    assert Reading(columns=columns).named("completions") == ("completions", "answer-s", "response_9", "response_10")


def test_two_files_that_speak_of_the_same_texts_meet_in_one_item(store: Store, tmp_path: Path) -> None:
    store.add_items([Item(id="mine", prompt="p", completions=("y", "x"))])
    import_file(
        store, file(tmp_path, "a.jsonl", [{"prompt": "p", "chosen": "x", "rejected": "y", "user": "u"}]), Reading()
    )
    chat = [{"role": "user", "content": "p"}]
    rows = [{"id": "else", "prompt": chat, "response_a": "y", "response_b": "x", "choice": "a", "user": "v"}]
    import_file(store, file(tmp_path, "b.jsonl", rows), Reading())
    assert [item.id for item in store.items()] == ["mine"]
    assert [(a.annotator, a.judgement.ranking) for a in store.answers()] == [("u", ((1,), (0,))), ("v", ((0,), (1,)))]


def test_a_log_that_was_posted_already_doubles_nothing(store: Store, tmp_path: Path) -> None:
    from rlvr.feedback.app import add_feedback
    from rlvr.feedback.submits import parse_feedback

    log = [{"id": f"f{k}", "prompt": "p", "completion": "c", "thumb": k > 0, "user": f"u{k}"} for k in range(3)]
    add_feedback(store, parse_feedback(log))
    import_file(store, file(tmp_path, "log.jsonl", log), Reading())
    assert len(list(store.items())) == 3
    assert [(a.item, a.annotator, a.judgement.thumbs["0"]) for a in store.answers()] == [
        ("api/f0", "u0", False),
        ("api/f1", "u1", True),
        ("api/f2", "u2", True),
    ]


def test_one_id_may_name_a_thumb_and_an_edit_but_not_two_questions(store: Store, tmp_path: Path) -> None:
    rows = [
        {"id": "f", "prompt": "p", "completion": "c", "thumb": True, "user": "u"},
        {"id": "f", "prompt": "p", "completion": "c", "edit": "d", "user": "u"},
    ]
    import_file(store, file(tmp_path, "a.jsonl", rows), Reading())
    assert [(item.id, item.mode) for item in store.items()] == [("f", "thumbs"), ("f/write", "write")]
    other = file(tmp_path, "b.jsonl", [{"id": "f", "prompt": "other", "completion": "c", "thumb": True, "user": "u"}])
    with pytest.raises(DataError, match=r"b\.jsonl:1: id 'f' is that of an item with other prompt"):
        import_file(store, other, Reading())


def test_the_chosen_one_does_not_always_stand_first(store: Store, tmp_path: Path) -> None:
    rows = [{"prompt": f"p{k}", "chosen": f"good {k}", "rejected": f"bad {k}", "user": "u"} for k in range(200)]
    import_file(store, file(tmp_path, "a.jsonl", rows), Reading())
    first = sum(a.judgement.ranking == ((0,), (1,)) for a in store.answers())
    assert 70 < first < 130


def test_all_bad_rows_are_told_at_once_and_nothing_is_added(store: Store, tmp_path: Path) -> None:
    rows: Sequence[dict[str, Any]] = [
        {"prompt": "p", "completion": "c", "thumb": "maybe", "user": "u"},
        {"prompt": "p", "completion": "c", "thumb": True, "user": "u"},
        {"completion": "c", "thumb": True, "user": "u"},
        {"prompt": "p", "response_a": "x", "response_b": "y", "choice": "c", "user": "u"},
        {"prompt": "p", "response_a": "x", "response_b": "x ", "choice": "a", "user": "u"},
        {"prompt": "p", "completion": "c", "thumb": True, "user": "u", "seconds": -1},
        {"prompt": "p", "completion": "abc", "spans": [{"first": 2, "end": 9}], "user": "u"},
        {"prompt": "p", "completion": "c", "thumb": True, "user": "a\nb"},
    ]
    path = file(tmp_path, "bad.jsonl", rows)
    path.write_text(path.read_text() + "{not json\n")
    with pytest.raises(DataError) as caught:
        import_file(store, path, Reading())
    lines = str(caught.value).splitlines()
    assert lines[0] == "bad.jsonl: 8 of 9 rows cannot be used (--on-bad-row skip leaves them out):"
    assert lines[1:] == [
        "bad.jsonl:1: label must be one of true/false, yes/no, y/n, good/bad, up/down, like/dislike, 1/0, +1/-1, "
        "👍/👎, liked/disliked, positive/negative, correct/incorrect, accept/reject, accepted/rejected, got 'maybe'",
        "bad.jsonl:3: no prompt (has: completion, thumb, user; name its column with --column prompt=COLUMN)",
        "bad.jsonl:4: choice 'c' is none of response_a, response_b, nor is it tie, equal, both or same",
        "bad.jsonl:5: completions[0] and completions[1] are the same text; keep one of them",
        "bad.jsonl:6: seconds must be from 0 to 31622400 (a year), got -1",
        "bad.jsonl:7: spans: 2 to 9 is not within completion 0, which has 3 characters",
        "bad.jsonl:8: annotator 'a\\nb' holds a control character",
        "bad.jsonl:9: not JSON: Expecting property name enclosed in double quotes: column 2 (char 1)",
    ]
    assert not list(store.items()) and not list(store.answers())
    figures = import_file(store, path, Reading(skips_bad_rows=True))
    assert (figures["answers"], figures["bad_rows"]) == (1, 8)


def test_a_file_that_is_not_there_or_holds_nothing_is_told(store: Store, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.csv: no such file"):
        import_file(store, tmp_path / "nothing.csv", Reading())
    with pytest.raises(DataError, match="holds no rows"):
        import_file(store, file(tmp_path, "empty.jsonl", []), Reading())
    with pytest.raises(DataError, match=r"must end in \.jsonl \.json \.parquet \.csv"):
        import_file(store, file(tmp_path, "a.txt", "x"), Reading())


# --- TRL's rows ------------------------------------------------------------------------------------------------------


def test_rows_of_trl_become_one_vote_each(store: Store, tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "hi"}]
    rows = [
        {
            "chosen": [*chat, {"role": "assistant", "content": "a"}],
            "rejected": [*chat, {"role": "assistant", "content": "b"}],
        },
        {"prompt": "p", "chosen": "x", "rejected": "y"},
    ]
    import_file(store, file(tmp_path, "t.jsonl", rows), Reading())
    assert told(store) == [("imported", "compare", [["a"], ["b"]]), ("imported", "compare", [["x"], ["y"]])]


def test_votes_of_a_row_with_a_long_id_stay_apart(store: Store, tmp_path: Path) -> None:
    row = {"prompt": "p", "chosen": "x", "rejected": "y", "votes": {"chosen": 2, "rejected": 1}}
    rows = [{**row, "id": "i" * 120 + end, "prompt": end} for end in "ab"]
    import_file(store, file(tmp_path, "t.jsonl", rows), Reading())
    assert [(row["votes"]["chosen"], row["votes"]["rejected"]) for row in export(store, Export()).rows] == [(2, 1)] * 2
    assert len({answer.annotator for answer in store.answers()}) == 6
    assert import_file(store, file(tmp_path, "t.jsonl", rows), Reading())["answers"] == 0


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "p", "completion": "c", "label": False}, ("thumbs", {"c": False})),
        ({"prompt": "p", "completion": "c"}, ("write", ((), "c"))),
        ({"messages": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "c"}]}, ("write", ((), "c"))),
        ({"prompt": "p", "completions": ["a", "b", "c"], "ranks": [1, 1, 2]}, ("rank", [["a", "b"], ["c"]])),
        ({"prompt": "p", "response": "c", "helpfulness": 4, "coherence": 3},
         ("rate", {"c": {"helpfulness": 4.0, "coherence": 3.0}})),
    ],
    ids=["unpaired", "sft", "messages", "ranking", "ratings"],
)  # fmt: skip
def test_other_rows_of_data_sets(store: Store, tmp_path: Path, row: Any, expected: Any) -> None:
    import_file(store, file(tmp_path, "t.jsonl", [row]), Reading())
    assert told(store) == [("imported", *expected)]


def test_what_was_exported_comes_back_with_its_votes(store: Store, tmp_path: Path) -> None:
    item = Item(id="q", prompt="p", completions=("x", "y"))
    orders = (((0,), (1,)), ((0,), (1,)), ((1,), (0,)), ((0, 1),))
    answers = [Answer(item="q", annotator=f"a{k}", judgement=Judgement(ranking=r)) for k, r in enumerate(orders)]
    store.add([item], answers)
    rows = export(store, Export()).rows
    write(rows, tmp_path / "out.jsonl")
    with Store.open(tmp_path / "second.db", create=True) as second:
        import_file(second, tmp_path / "out.jsonl", Reading())
        (back,) = export(second, Export()).rows
    for name in ("id", "prompt", "chosen", "rejected", "votes", "probability", "agreement"):
        assert back[name] == rows[0][name], name


# --- Argilla ---------------------------------------------------------------------------------------------------------

USER, OTHER = "0b5d1b0c-1d4a-4a6f-9a63-0c1f8b5ed001", "0b5d1b0c-1d4a-4a6f-9a63-0c1f8b5ed002"


def test_records_of_argilla_2_as_to_json_writes_them(store: Store, tmp_path: Path) -> None:
    record = {
        "id": "r1",
        "fields": {"instruction": "Be brief.", "response-1": "yes", "response-2": "well, yes"},
        "metadata": {"model": "m"},
        "suggestions": {"preference": {"value": ["response-2", "response-1"], "score": None, "agent": "gpt"}},
        "responses": {
            "preference": [
                {"value": ["response-1", "response-2"], "user_id": USER},
                {"value": ["response-2", "response-1"], "user_id": OTHER},
            ],
            "quality_response-1": [{"value": 4, "user_id": USER}],
            "quality_response-2": [{"value": 2, "user_id": USER}],
            "correction": [{"value": "Yes.", "user_id": OTHER}],
            "comment": [{"value": "too long", "user_id": OTHER}],
        },
        "vectors": {},
        "_server_id": "s1",
    }
    figures = import_file(store, file(tmp_path, "records.json", [record]), Reading())
    assert figures["answers"] == 4 and figures["rows"] == 1
    assert sorted(told(store), key=str) == sorted(
        [
            (USER, "compare", [["yes"], ["well, yes"]]),
            (USER, "rate", {"yes": {"quality": 4.0}, "well, yes": {"quality": 2.0}}),
            (OTHER, "compare", [["well, yes"], ["yes"]]),
            (OTHER, "write", ((), "Yes.")),
        ],
        key=str,
    )
    items = list(store.items())
    assert {item.prompt for item in items} == {"Be brief."} and dict(items[0].info) == {"model": "m"}
    assert {a.comment for a in store.answers() if a.annotator == OTHER} == {"too long"}


def test_flattened_records_of_argilla_2(store: Store, tmp_path: Path) -> None:
    record = {
        "id": "r1",
        "status": "completed",
        "_server_id": "s",
        "prompt": "p",
        "reply": "fine words",
        "good.responses": ["yes", "no"],
        "good.responses.users": [USER, OTHER],
        "good.responses.status": ["submitted", "submitted"],
        "toxic.responses": [[{"label": "rude", "start": 0, "end": 4}], []],
        "toxic.responses.users": [USER, OTHER],
        "toxic.responses.status": ["submitted", "draft"],
        "good.suggestion": "yes",
        "good.suggestion.score": None,
        "good.suggestion.agent": "gpt",
    }
    whole = {name: [value] for name, value in record.items()}  # to_dict(flatten=True)
    figures = import_file(store, file(tmp_path, "flat.json", whole), Reading())
    assert figures["left_out"] == {"drafts": 1}
    assert told(store) == [
        (USER, "thumbs", {"fine words": True}),
        (USER, "spans", [("fine", "rude")]),
        (OTHER, "thumbs", {"fine words": False}),
    ]


def test_records_of_argilla_1_with_a_tie_a_draft_and_a_discarded_one(store: Store, tmp_path: Path) -> None:
    ranks = [{"value": "reply-1", "rank": 1}, {"value": "reply-2", "rank": 2}, {"value": "reply-3", "rank": 1}]
    record = {
        "id": None,
        "fields": {"prompt": "p", "reply-1": "a", "reply-2": "b", "reply-3": "c"},
        "metadata": {},
        "responses": [
            {
                "user_id": USER,
                "values": {"order": {"value": ranks}, "topic": {"value": "sums"}},
                "status": "submitted",
            },
            {"user_id": OTHER, "values": {"order": {"value": ranks[:1]}}, "status": "draft"},
            {"user_id": None, "values": {}, "status": "discarded"},
        ],
        "suggestions": [{"question_name": "order", "value": ranks, "type": "model", "score": 0.5, "agent": "m"}],
        "external_id": "e1",
    }
    path = file(tmp_path, "v1.jsonl", [record])
    with pytest.raises(DataError, match="question 'topic' is answered 'sums', which is neither a completion's name"):
        import_file(store, path, Reading())
    figures = import_file(store, path, Reading(columns={"ignore": ("topic",)}))
    assert told(store) == [(USER, "rank", [["a", "c"], ["b"]]), ("imported", "skipped", ("rank", "discarded"))]
    assert figures["left_out"] == {"drafts": 1} and next(store.items()).id == "e1"


def test_argilla_1_as_a_hugging_face_data_set(store: Store, tmp_path: Path) -> None:
    record = {
        "prompt": "p",
        "response": "c",
        "helpful": [{"user_id": USER, "value": 5, "status": "submitted"}],
        "helpful-suggestion": 3,
        "helpful-suggestion-metadata": {"type": None, "score": None, "agent": None},
        "kind": {"user_id": [USER, OTHER], "value": ["good", "bad"], "status": ["submitted", "submitted"]},
        "external_id": "e1",
        "metadata": '{"model": "m"}',
    }
    import_file(store, file(tmp_path, "hf.jsonl", [record]), Reading())
    assert told(store) == [
        (USER, "thumbs", {"c": True}),
        (USER, "rate", {"c": {"helpful": 5.0}}),
        (OTHER, "thumbs", {"c": False}),
    ]


# --- Label Studio ----------------------------------------------------------------------------------------------------


def task(data: dict[str, Any], *results: dict[str, Any], **more: Any) -> dict[str, Any]:
    annotation = {"id": 1001, "completed_by": 10, "result": list(results), "was_cancelled": False, "lead_time": 4.288}
    return {"id": 7, "data": data, "annotations": [{**annotation, **more}], "predictions": [], "project": 83}


PAIR = {"prompt": "p", "text1": "left one", "text2": "right one"}
ITEMS = [{"id": "blog", "title": "T", "body": "one"}, {"id": "mdn", "body": "two"}, {"id": "wiki", "title": "three"}]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            task(PAIR, {"type": "pairwise", "from_name": "", "to_name": "text1,text2", "value": {"selected": "right"}}),
            ("compare", [["right one"], ["left one"]]),
        ),
        (
            task(PAIR, {"type": "pairwise", "from_name": "p", "to_name": "txt-2,txt-1", "value": {"selected": "left"}}),
            ("compare", [["left one"], ["right one"]]),
        ),
        (
            task(PAIR, {"type": "choices", "from_name": "c", "to_name": "text1", "value": {"choices": ["tie"]}}),
            ("compare", [["left one", "right one"]]),
        ),
        (
            task({"prompt": "p", "items": ITEMS}, {"type": "ranker", "from_name": "rank", "to_name": "results",
                 "value": {"ranker": ["mdn", "wiki", "blog"]}}),
            ("rank", [["two"], ["three"], ["one"]]),
        ),
        (
            task({"prompt": "p", "items": ITEMS}, {"type": "ranker", "from_name": "rank", "to_name": "results",
                 "value": {"ranker": {"best": ["mdn"], "fair": ["blog", "wiki"]}}}),
            ("rank", [["two"], ["one", "three"]]),
        ),
        (
            task({"prompt": "p", "answer": "c"}, {"type": "rating", "from_name": "polite", "to_name": "a",
                 "value": {"rating": 4}}),
            ("rate", {"c": {"polite": 4.0}}),
        ),
        (
            task({"prompt": "p", "answer": "c"}, {"type": "choices", "from_name": "ok", "to_name": "a",
                 "value": {"choices": ["Good"]}}),
            ("thumbs", {"c": True}),
        ),
        (
            task({"prompt": "p", "answer": "c"}, {"type": "textarea", "from_name": "fix", "to_name": "a",
                 "value": {"text": ["d"]}}),
            ("write", (("c",), "d")),
        ),
        (
            task({"prompt": "p", "answer": "you fool"}, {"type": "labels", "from_name": "toxic", "to_name": "a",
                 "value": {"start": 4, "end": 8, "text": "fool", "labels": ["insult"]}}),
            ("spans", [("fool", "insult")]),
        ),
    ],
    ids=["pairwise", "names of tags", "tie", "ranker", "buckets", "rating", "choice", "textarea", "labels"],
)  # fmt: skip
def test_every_tag_of_label_studio(store: Store, tmp_path: Path, given: Any, expected: Any) -> None:
    import_file(store, file(tmp_path, "export.json", [given]), Reading())
    assert told(store) == [("label-studio:10", *expected)]
    assert [answer.seconds for answer in store.answers()] == [4.288]


def test_a_cancelled_annotation_is_a_skip_and_an_empty_one_marks_nothing(store: Store, tmp_path: Path) -> None:
    data = {"prompt": "p", "answer": "you fool"}
    span = {
        "type": "labels",
        "from_name": "toxic",
        "to_name": "a",
        "value": {"start": 4, "end": 8, "labels": ["insult"]},
    }
    note = {"type": "textarea", "from_name": "comment", "to_name": "a", "value": {"text": ["hm"]}}
    first = task(data, span)
    first["annotations"] += [
        {"completed_by": {"id": 3, "email": "eve@example.org"}, "result": [], "was_cancelled": True, "lead_time": 2},
        {"completed_by": 4, "result": [note], "was_cancelled": False},
        {"completed_by": 5, "result": [], "was_cancelled": False},
    ]
    figures = import_file(store, file(tmp_path, "export.json", [first]), Reading())
    assert told(store) == [
        ("label-studio:10", "spans", [("fool", "insult")]),
        ("eve@example.org", "skipped", ("spans", "cancelled")),
        ("label-studio:4", "spans", []),
    ]
    assert [a.comment for a in store.answers()] == ["", "", "hm"]
    assert figures["left_out"] == {"annotations without a result": 1}


def test_what_label_studio_cannot_mean_is_told_with_its_task(store: Store, tmp_path: Path) -> None:
    three = {"prompt": "p", "a": "1", "b": "2", "c": "3"}
    tasks = [
        task(three, {"type": "pairwise", "from_name": "pw", "to_name": "x,y", "value": {"selected": "left"}}),
        task({"answer": "c"}, {"type": "choices", "from_name": "topic", "to_name": "a", "value": {"choices": ["art"]}}),
        {"id": 3, "prompt": "p", "choice": "left", "annotator": 1},
    ]
    with pytest.raises(DataError) as caught:
        import_file(store, file(tmp_path, "export.json", tasks), Reading())
    lines = str(caught.value).splitlines()[1:]
    assert [line.partition(": ")[0] for line in sorted(lines)] == ["export.json:1", "export.json:2", "export.json:3"]
    assert "two texts are compared, and the task has 3 (a, b, c)" in str(caught.value)
    assert "topic: 'art' is neither good nor bad" in str(caught.value)
    assert "export as JSON (JSON-MIN leaves out who answered)" in str(caught.value)


def test_spans_turn_with_the_completions_they_are_of(store: Store, tmp_path: Path) -> None:
    texts = {f"completion {k}": f"text number {k}" for k in "abcdefgh"}
    row = {"prompt": "p", "completions": list(texts.values()), "user": "u"}
    row["spans"] = [{"completion": k, "first": 12, "end": 13, "label": f"l{k}"} for k in range(8)]
    import_file(store, file(tmp_path, "a.jsonl", [row]), Reading())
    assert told(store) == [("u", "spans", [(letter, f"l{k}") for k, letter in enumerate("abcdefgh")])]
    (answer,) = store.answers()
    assert answer.judgement.spans is not None and isinstance(answer.judgement.spans[0], Span)
    assert [s.completion for s in answer.judgement.spans] != list(range(8)), "else nothing was turned"


# --- junk ------------------------------------------------------------------------------------------------------------

JUNK: list[Any] = [
    *(None, True, 0, -1, 1.5, math.inf, 10**30, "", " ", "tie", "[", "\ud83d", [], {}, [None], [[]], [1, "a"]),
    *({"a": 1}, {"rank": 1}, {"user_id": None, "value": None, "status": None}, {"0": {"a": "b"}}, [{"role": 1}]),
]


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Of everything in nested data."""
    yield at
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*at, key))


SPANS = {"toxic_reply-1": [{"value": [{"start": 0, "end": 1, "label": "x"}], "user_id": USER}]}
RANKS = [{"value": "reply-1", "rank": 1}, {"value": "reply-2", "rank": 2}]
FIELDS = {"prompt": "p", "reply-1": "a", "reply-2": "b"}
WHOLE: dict[str, Any] = {
    "argilla 2": {"id": "r", "fields": FIELDS, "responses": {"o": [{"value": ["reply-1", "reply-2"]}], **SPANS}},
    "argilla 1": {"fields": FIELDS, "responses": [{"user_id": USER, "values": {"o": {"value": RANKS}}}]},
    "flat": {"prompt": "p", "reply": "c", "g.responses": ["yes"], "g.responses.users": [USER]},
    "ranker": task(
        {"prompt": "p", "items": ITEMS}, {"type": "ranker", "from_name": "r", "value": {"ranker": ["blog"]}}
    ),
    "labels": task({"answer": "fool"}, {"type": "labels", "value": {"start": 0, "end": 4, "labels": ["x"]}}),
    "rows": {"prompt": "p", "completions": ["x", "y", "z"], "order": [2, [0, 1]], "user": "u", "seconds": 2},
    "thumb": {"prompt": "p", "completion": "x", "thumb": True, "helpful": 3, "spans": [{"first": 0, "end": 1}]},
    "trl": {"prompt": "p", "chosen": "x", "rejected": "y", "votes": {"chosen": 2, "rejected": 1}},
}


@pytest.mark.parametrize("name", WHOLE)
def test_junk_in_any_place_is_a_bad_row_and_never_a_crash(name: str, tmp_path: Path) -> None:
    num_refused = 0
    for number, at in enumerate(places(WHOLE[name])):
        for junk in random.Random(f"{name}{number}").sample(JUNK, 4) if at else ():
            record = copy.deepcopy(WHOLE[name])
            within = record
            for key in at[:-1]:
                within = within[key]
            within[at[-1]] = junk
            try:
                load(file(tmp_path, "junk.json", [record, WHOLE[name]]), Reading(), ())
            except DataError:
                num_refused += 1
    assert num_refused > 5
