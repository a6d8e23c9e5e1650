"""What people are asked, from the rows of a file."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from rlvr.errors import DataError
from rlvr.feedback.items import load_golds, load_items
from rlvr.feedback.records import Item, Judgement, Span
from rlvr.reward_settings import PreferenceData


def rows(tmp_path: Path, *given: dict[str, Any], **how: Any) -> list[Item]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in given))
    return load_items(PreferenceData(path=str(path)), **how).rows


def test_two_completions_are_compared_and_more_are_ranked(tmp_path: Path) -> None:
    pair, three = rows(
        tmp_path,
        {"id": 7, "prompt": "p", "completions": ["a", "b"], "model": "m", "n": 1.5},
        {"prompt": "p", "responses": [{"text": "a"}, "b", {"response": "c"}], "source": "s"},
    )
    assert pair == Item(id="7", prompt="p", completions=("a", "b"), mode="compare", info={"model": "m", "n": 1.5})
    assert three == Item(id="rows:2", prompt="p", completions=("a", "b", "c"), mode="rank", source="s")


def test_chosen_and_rejected_are_compared_and_their_preference_is_no_gold(tmp_path: Path) -> None:
    plain, implicit, best_of, helpsteer = rows(
        tmp_path,
        {"prompt": "p", "chosen": "good", "rejected": "bad", "margin": 2},
        {
            "chosen": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "good"}],
            "rejected": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "bad"}],
        },
        {"prompt": "p", "chosen": ["a"], "rejected": ["b", "c"]},
        {"prompt": "p", "response_1": "x", "response_2": "y", "preference_strength": -2},
    )
    assert (plain.completions, plain.mode, plain.gold, plain.info) == (("good", "bad"), "compare", None, {"margin": 2})
    assert implicit.prompt == ({"role": "user", "content": "hi"},)
    assert implicit.completions == ("good", "bad")
    assert (best_of.completions, best_of.mode) == (("a", "b", "c"), "rank")
    assert (helpsteer.completions, helpsteer.info) == (("x", "y"), {"preference_strength": -2})


def test_a_single_completion_gets_a_thumb_or_ratings_and_a_prompt_alone_is_written(tmp_path: Path) -> None:
    given = (
        {"prompt": "p", "completion": "c"},
        {"prompt": "p", "completion": "d", "attributes": ["nice"]},
        {"prompt": "q"},
        {"prompt": "r", "draft": "almost"},
        {"text": "alone"},
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}], "mode": "spans"},
    )
    found = [(item.mode, item.prompt, item.completions, item.attributes) for item in rows(tmp_path, *given)]
    assert found == [
        ("thumbs", "p", ("c",), ()),
        ("rate", "p", ("d",), ("nice",)),
        ("write", "q", (), ()),
        ("write", "r", ("almost",), ()),
        ("thumbs", "", ("alone",), ()),
        ("spans", ({"role": "user", "content": "hi"},), ("ho",), ()),
    ]


def test_the_rows_own_mode_and_attributes_win(tmp_path: Path) -> None:
    given = {"prompt": "p", "completions": ["a", "b"], "mode": "compare", "attributes": "x, y"}
    other = {"prompt": "q", "completions": ["a", "b"]}
    one, two = rows(tmp_path, given, other, mode="rate", attributes=["helpful"])
    assert (one.mode, one.attributes, one.info) == ("compare", ("x", "y"), {})
    assert (two.mode, two.attributes) == ("rate", ("helpful",))


@pytest.mark.parametrize(
    ("row", "gold"),
    [
        ({"gold": {"best": 1}}, Judgement(ranking=((1,), (0, 2)))),
        ({"gold": {"best": [0, 2]}}, Judgement(ranking=((0, 2), (1,)))),
        ({"gold": {"order": [1, [0, 2]]}}, Judgement(ranking=((1,), (0, 2)))),
        ({"gold": '{"ranking": [[2], [1], [0]]}'}, Judgement(ranking=((2,), (1,), (0,)))),
        ({"gold": {"best": 0, "order": None}}, Judgement(ranking=((0,), (1, 2)))),
        (
            {"mode": "thumbs", "gold": {"thumbs": {"0": True, "2": False}}},
            Judgement(thumbs={"0": True, "2": False}),
        ),
        (
            {"mode": "rate", "gold": {"ratings": {"1": {"safe": 7}}}},
            Judgement(ratings={"1": {"safe": 7}}),
        ),
        (
            {"mode": "spans", "gold": {"spans": [{"completion": 1, "first": 0, "end": 1}]}},
            Judgement(spans=(Span(completion=1, first=0, end=1),)),
        ),
        ({"mode": "spans", "gold": {"spans": []}}, Judgement(spans=())),
        ({"gold": None}, None),
        ({"gold": ""}, None),
    ],
)
def test_a_gold_is_read_in_the_files_terms(tmp_path: Path, row: dict[str, Any], gold: Judgement | None) -> None:
    [item] = rows(tmp_path, {"prompt": "p", "completions": ["a", "b", "c"], **row})
    assert item.gold == gold
    assert item.info == {}


@pytest.mark.parametrize("gold", ["17", 17, 1, 0, "1", "Paris", True, ["a", "b"], [[1], [0]], {"tests": ["x"]}, 0.5])
def test_the_gold_of_a_task_is_none_of_the_comparison_and_is_kept(tmp_path: Path, gold: Any) -> None:
    one, two = rows(
        tmp_path,
        {"prompt": "12 + 5 ?", "completions": ["a", "b", "c", "d"], "finish": ["stop"] * 4, "gold": gold},
        {"prompt": "12 + 5 ?", "completion": "a", "gold": gold},
    )
    assert (one.mode, one.gold, one.info) == ("rank", None, {"finish": ["stop"] * 4, "task_gold": gold})
    assert (two.mode, two.gold, two.info) == ("thumbs", None, {"task_gold": gold})


def test_a_gold_of_one_completion_is_a_thumb_or_ratings(tmp_path: Path) -> None:
    thumb, rated, written = rows(
        tmp_path,
        {"prompt": "p", "completion": "c", "gold": {"thumb": True}},
        {"prompt": "p", "completion": "c", "attributes": ["safe"], "gold": {"ratings": {"safe": 2}}},
        {"prompt": "6*7?", "gold": "42"},
    )
    assert thumb.gold == Judgement(thumbs={"0": True})
    assert rated.gold == Judgement(ratings={"0": {"safe": 2}})
    assert (written.mode, written.gold, written.info) == ("write", None, {"task_gold": "42"})


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"prompt": "p", "completions": ["a"], "mode": "compare"}, "mode compare needs 2 to 9 completions, got 1"),
        ({"prompt": "p", "chosen": "a"}, "chosen without rejected: two answers are needed to compare"),
        ({"prompt": "p", "rejected": "a"}, "rejected without chosen"),
        ({"prompt": "p", "chosen": "a", "rejected": "a"}, r"completions\[0\] and completions\[1\] are the same text"),
        ({"prompt": "p", "completions": ["a", None]}, r"completions\[1\] is empty"),
        ({"prompt": "p", "completions": ["", " "]}, r"completions\[0\] and completions\[1\] are the same text"),
        ({"prompt": "p", "completions": ["a", 3]}, r"completions\[1\] must be text"),
        ({"prompt": "p", "completions": list("abcdefghij")}, "mode rank needs 2 to 9 completions, got 10"),
        ({"prompt": "p", "completions": ["a", "x" * 1_000_000]}, r"completions\[1\] has 1000000 characters; at most"),
        ({"prompt": "p", "completions": ["a", "\ud83d"]}, "half a surrogate pair"),
        ({"promt": "p", "completions": ["a", "b"]}, r"no prompt .*did you mean data.columns.prompt=promt"),
        ({"prompt": "p", "completions": ["a", "b"], "mode": "rnak"}, "mode must be one of .*did you mean 'rank'"),
        (
            {"prompt": "p", "completions": ["a", "b"], "gold": {"best": 0, "ordr": 1}},
            "gold has no 'ordr'; did you mean 'order'",
        ),
        ({"prompt": "p", "completions": ["a", "b"], "gold": {"best": 2}}, "gold: ranking names completion 2"),
        ({"prompt": "p", "completions": ["a", "b"], "gold": {"thumb": True}}, "gold: mode compare needs ranking"),
        ({"prompt": "p", "completions": ["a", "b"], "gold": {"best": 0, "order": [1, 0]}}, "both best and order"),
        ({"prompt": "p", "completion": "c", "attributes": ["a", "a"]}, "an attribute is named twice"),
        (
            {"prompt": "p", "completion": "c", "mode": "spans", "gold": {"spans": [{"first": 0, "end": 9}]}},
            "not within",
        ),
    ],
)
def test_a_bad_row_is_named_with_what_is_wrong(tmp_path: Path, row: dict[str, Any], why: str) -> None:
    with pytest.raises(DataError, match=rf"(?s)1 of 1 rows cannot be used.*\nrows\.jsonl:1: .*{why}"):
        rows(tmp_path, row)


def test_all_bad_rows_are_told_at_once(tmp_path: Path) -> None:
    good = {"id": "x", "prompt": "p", "completions": ["a", "b"]}
    same = {"id": "y", "prompt": "p", "completions": ["b", "a"]}
    with pytest.raises(DataError) as caught:
        rows(tmp_path, good, {**good, "prompt": "q"}, same, {"prompt": "p", "chosen": "a"})
    lines = str(caught.value).splitlines()
    assert "3 of 4 rows cannot be used" in lines[0]
    assert lines[1] == "rows.jsonl:2: id 'x' is already that of rows.jsonl:1"
    assert lines[2] == "rows.jsonl:3: asks the same as rows.jsonl:1; keep one of them"
    assert lines[3].startswith("rows.jsonl:4: chosen without rejected")


def test_nothing_to_compare_is_said_where_the_mode_was_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing to compare: neither completions, nor chosen and rejected \(has: id"):
        rows(tmp_path, {"id": "x", "prompt": "p"}, mode="compare")


def test_csv_and_parquet_give_the_same_items(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    given = [
        {"id": "a", "prompt": "p", "completions": ["x", "y"], "gold": {"best": 1}, "attributes": ["nice"]},
        {"id": "b", "prompt": "q", "completions": ["x", "y"], "gold": {"best": 0}, "attributes": ["nice"]},
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(given), tmp_path / "rows.parquet")
    with open(tmp_path / "rows.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(given[0]))
        writer.writeheader()
        writer.writerows(
            {name: json.dumps(value) if not isinstance(value, str) else value for name, value in row.items()}
            for row in given
        )
    expected = rows(tmp_path, *given)
    assert expected[0].gold == Judgement(ranking=((1,), (0,)))
    for name in ("rows.parquet", "rows.csv"):
        assert load_items(PreferenceData(path=str(tmp_path / name))).rows == expected


def test_golds_of_another_file_go_to_their_items_or_are_items_of_their_own(tmp_path: Path) -> None:
    items = rows(
        tmp_path, {"id": "a", "prompt": "p", "completions": ["x", "y"], "model": "m"}, {"id": "b", "prompt": "q"}
    )
    golds = tmp_path / "golds.jsonl"
    golds.write_text(
        '{"id": "a", "gold": {"best": 1}}\n{"id": "g", "prompt": "r", "completions": ["x", "y"], "gold": {"best": 0}}\n'
    )
    a, b, g = load_golds(PreferenceData(path=str(golds)), items, mode="auto", attributes=())
    assert (a.gold, a.info, b) == (Judgement(ranking=((1,), (0,))), {"model": "m"}, items[1])
    assert (g.id, g.gold) == ("g", Judgement(ranking=((0,), (1,))))
    for line, why in (
        ('{"id": "a", "gold": 1}', "gold must be an object such as .*, got a number"),
        ('{"id": "g", "prompt": "r", "completions": ["x", "y"], "gold": "17"}', "gold must be an object.*, got text"),
        ('{"id": "z", "gold": 1}', "there is no item 'z'"),
        ('{"id": "a"}', "no gold"),
        ('{"id": "a", "prompt": "p", "completions": ["x", "z"], "gold": {"best": 0}}', "there with other content"),
    ):
        golds.write_text(line)
        with pytest.raises(DataError, match=why):
            load_golds(PreferenceData(path=str(golds)), items, mode="auto", attributes=())
