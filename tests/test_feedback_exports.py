"""Answers of people as rows to train on: what stands in them, and that our commands and TRL's conventions read them."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import multiprocessing
import os
import re
import resource
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scorer_cases import save_scorer

from rlvr import ancestry_rows, lineage
from rlvr.errors import DataError, DiskError, SettingsError
from rlvr.feedback import export_files
from rlvr.feedback.exports import Export, Exported, Form, Labels, export, export_rows
from rlvr.feedback.names import Names
from rlvr.feedback.records import Answer, Item, Judgement, Ranking, Span
from rlvr.feedback.schema import Draft
from rlvr.feedback.store import Store
from rlvr.preferences import load_preferences, load_rankings, load_ratings
from rlvr.recipe import Data
from rlvr.reward_settings import PreferenceData
from rlvr.tasks import load_demonstrations

PAIR = Item(id="q", prompt="2+2?", completions=("4", "5"), source="sums", info={"model": "m1"})
RANK = Item(id="r", prompt="Hi", completions=("x", "y", "z"), mode="rank")
FIRST, SECOND, TIED = ((0,), (1,)), ((1,), (0,)), ((0, 1),)


def said(item: Item, who: str, ranking: Ranking | None = None, **more: Any) -> Answer:
    showing, group = more.pop("showing", 0), more.pop("group", "")
    judgement = Judgement(ranking=ranking, **more)
    return Answer(item=item.id, annotator=who, showing=showing, group=group, judgement=judgement)


def hashed(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def made(
    items: Sequence[Item], answers: Iterable[Answer], groups: Mapping[str, str] | None = None, **options: Any
) -> Exported:
    return export_rows(items, answers, Export(**options), hashed, groups or {})


def people(*names: str) -> list[str]:
    return sorted(map(hashed, names))


# --- comparisons -----------------------------------------------------------------------------------------------------


def test_a_comparison_is_the_share_of_its_votes_and_a_tie_is_half_a_vote() -> None:
    # 2 for the second, 1 for the first, 1 tie: (2 + 0.5) / 4; of 6 pairs of people 1 says the same
    answers = [said(PAIR, "a", SECOND), said(PAIR, "b", SECOND), said(PAIR, "c", FIRST), said(PAIR, "d", TIED)]
    (row,) = made([PAIR], answers).rows
    assert row == {
        "id": "q",
        "prompt": "2+2?",
        "chosen": "5",
        "rejected": "4",
        "votes": {"chosen": 2, "rejected": 1, "tie": 1},
        "probability": 0.625,
        "agreement": pytest.approx(1 / 6),
        "annotators": people("a", "b", "c", "d"),
        "source": "sums",
    }


def test_a_ranking_of_three_gives_its_three_pairs() -> None:
    # z > x > y by one, z > (x = y) by the other
    found = made([RANK], [said(RANK, "a", ((2,), (0,), (1,))), said(RANK, "b", ((2,), (0, 1)))])
    assert [(row["id"], row["chosen"], row["rejected"], row["probability"]) for row in found.rows] == [
        ("r/0-1", "x", "y", 0.75),
        ("r/0-2", "z", "x", 1.0),
        ("r/1-2", "z", "y", 1.0),
    ]
    assert [row["agreement"] for row in found.rows] == [0.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("votes", "chosen", "probability"),
    [
        ((FIRST, FIRST, SECOND), "4", 1.0),
        ((SECOND, SECOND, FIRST, TIED), "5", 1.0),
        ((FIRST, SECOND), "4", 0.5),
        ((TIED, TIED, FIRST), "4", 0.5),
        ((TIED, FIRST), "4", 0.5),
    ],
)
def test_a_majority_is_sure_and_where_there_is_none_it_is_a_tie(
    votes: Sequence[Ranking], chosen: str, probability: float
) -> None:
    answers = [said(PAIR, f"p{k}", ranking) for k, ranking in enumerate(votes)]
    (row,) = made([PAIR], answers, labels="majority").rows
    assert (row["chosen"], row["probability"]) == (chosen, probability)
    assert "votes" not in row and sum(row["vote_counts"].values()) == len(votes)


def test_dawid_skene_follows_the_two_who_are_right_and_not_the_three_who_guess() -> None:
    items = [Item(id=f"q{k}", prompt=f"p{k}", completions=("good", "bad")) for k in range(60)]
    answers = []
    for k, item in enumerate(items):
        answers += [said(item, "expert 1", FIRST), said(item, "expert 2", FIRST)]
        for guesser in range(3):  # of each item's 3 guessers, by a fixed pattern, half say the reverse
            answers.append(said(item, f"guesser {guesser}", SECOND if (k >> guesser) % 2 else FIRST))
    outvoted = [k for k in range(60) if all((k >> g) % 2 for g in range(3))]
    by_votes = made(items, answers).rows
    by_reliability = made(items, answers, labels="dawid_skene").rows
    assert outvoted and all(by_votes[k]["chosen"] == "bad" for k in outvoted)
    assert all(row["chosen"] == "good" and row["probability"] > 0.9 for row in by_reliability)


def test_dawid_skene_of_a_group_does_not_take_the_other_group_for_liars() -> None:
    items = [Item(id=f"q{k}", prompt=f"p{k}", completions=("plain", "flowery")) for k in range(30)]
    answers = [
        said(item, f"{g}{n}", FIRST if g == "a" else SECOND, group=g) for item in items for g in "ab" for n in "12"
    ]
    rows = made(items, answers, labels="dawid_skene", by_group=True).rows
    assert {(row["group"], row["chosen"]) for row in rows} == {("a", "plain"), ("b", "flowery")}
    assert min(row["probability"] for row in rows) > 0.8
    together = made(items, answers, labels="dawid_skene").rows
    assert {row["group"] for row in rows} == {"a", "b"} and "group" not in together[0]


def test_items_with_a_known_answer_tell_who_is_reliable_though_they_are_left_out() -> None:
    # the two who say the reverse outvote the one who is right; only the known answers tell which is which
    golds = [Item(id=f"g{k}", prompt="p", completions=("a", "b"), gold=Judgement(ranking=FIRST)) for k in range(20)]
    items = [*golds, *(Item(id=f"q{k}", prompt="p", completions=("a", "b")) for k in range(10))]
    answers = [said(item, who, FIRST if who == "good" else SECOND) for item in items for who in ("good", "r1", "r2")]
    kept = made(items, answers, labels="dawid_skene")
    found = made(items, answers, labels="dawid_skene", with_gold=False)
    assert [row["id"] for row in found.rows] == [f"q{k}" for k in range(10)] and found.left_out == {"gold": 20}
    assert found.rows == kept.rows[20:] and all(row["chosen"] == "a" for row in found.rows)
    assert all(row["chosen"] == "a" and row["probability"] == 1.0 for row in kept.rows[:20]), "the known answer"
    ranking = made(items, answers, labels="dawid_skene", with_gold=False, form="ranking")
    assert len(ranking.rows) == 10 and all(row["ranks"] == [1, 2] for row in ranking.rows)
    assert ranking.left_out == {"gold": 20}


def test_thumbs_with_a_known_answer_tell_who_is_reliable_though_they_are_left_out() -> None:
    def thumb(name: str, gold: Judgement | None = None) -> Item:
        return Item(id=name, prompt="p", completions=("a",), mode="thumbs", gold=gold)

    good, bad = (Judgement(thumbs={"0": is_good}) for is_good in (True, False))
    golds = [thumb(f"g{k}", bad if k % 2 else good) for k in range(40)]
    items = [*golds, *(thumb(f"q{k}") for k in range(10))]
    answers = [
        said(item, who, thumbs={"0": (k % 2 == 0) == (who == "good")})
        for k, item in enumerate(items)
        for who in ("good", "r1", "r2")
    ]
    found = made(items, answers, labels="dawid_skene", with_gold=False, form="unpaired")
    assert [(row["id"], row["label"]) for row in found.rows] == [(f"q{k}", k % 2 == 0) for k in range(10)]
    assert found.left_out == {"gold": 40}


def test_groups_have_rows_of_their_own_and_who_is_in_none_has_no_group() -> None:
    answers = [said(PAIR, "a", FIRST), said(PAIR, "b", SECOND), said(PAIR, "c", SECOND), said(PAIR, "d", TIED)]
    rows = made([PAIR], answers, {"a": "young", "b": "old", "c": "old"}, by_group=True).rows
    assert [(row["id"], row["group"], row["chosen"], row["probability"]) for row in rows] == [
        ("q@young", "young", "4", 1.0),
        ("q@old", "old", "5", 1.0),
        ("q", None, "4", 0.5),
    ]
    assert rows[1]["annotators"] == people("b", "c")


def test_the_first_answer_of_a_person_counts_and_a_skip_is_none() -> None:
    answers = [
        said(PAIR, "a", SECOND, showing=1),  # asked again, and changed his mind
        said(PAIR, "a", FIRST, showing=0),
        said(PAIR, "b", skipped="unclear"),
        said(PAIR, "b", SECOND, showing=1),
    ]
    (row,) = made([PAIR], answers).rows
    assert row["votes"] == {"chosen": 1, "rejected": 1, "tie": 0}


def test_what_is_left_out_is_counted_by_its_reason() -> None:
    items = [
        PAIR,
        Item(id="alone", prompt="p", completions=("a", "b")),
        Item(id="nobody", prompt="p2", completions=("a", "b")),
        Item(id="skipped", prompt="p3", completions=("a", "b")),
        Item(id="tie", prompt="p4", completions=("a", "b")),
        Item(id="known", prompt="p5", completions=("a", "b"), gold=Judgement(ranking=FIRST)),
        Item(id="thumb", prompt="p6", completions=("a",), mode="thumbs"),
    ]
    two = [said(item, who, FIRST) for item in (PAIR, items[5]) for who in "ab"]
    two += [said(items[4], "a", FIRST), said(items[4], "b", SECOND)]
    two += [said(items[1], "a", FIRST), said(items[3], "a", skipped="x"), said(items[6], "a", thumbs={"0": True})]
    found = made(items, two, min_votes=2, keeps_ties=False, with_gold=False)
    assert [row["id"] for row in found.rows] == ["q"]
    assert found.left_out == {
        "few_votes": 1, "unanswered": 1, "skipped": 1, "ties": 1, "gold": 1, "other_mode": 1
    }  # fmt: skip
    kept = made(items, two)
    assert [row["id"] for row in kept.rows] == ["q", "alone", "tie", "known"] and kept.num_ties == 1


def test_some_people_can_be_left_out_by_name_or_by_hash() -> None:
    answers = [said(PAIR, "a", FIRST), said(PAIR, "b", SECOND), said(PAIR, "c", SECOND)]
    (row,) = made([PAIR], answers, without=("b", hashed("c"))).rows
    assert (row["chosen"], row["annotators"]) == ("4", people("a"))
    with pytest.raises(DataError, match="--without dave: no answer is by somebody of this name or hash"):
        made([PAIR], answers, without=("dave",))
    with pytest.raises(DataError, match="is the name of one and the hash of another"):
        made([PAIR], [*answers, said(PAIR, hashed("c"), FIRST)], without=(hashed("c"),))


@pytest.mark.parametrize("form", ["raw", "preference"])
def test_answers_that_do_not_count_are_counted(form: Form) -> None:
    found = made([PAIR], [said(PAIR, "a", FIRST), said(PAIR, "b", SECOND)], form=form, without=("b", "a"))
    assert (found.rows, found.left_out["without"], found.num_items, found.num_answers) == ([], 2, 1, 0)


def test_an_edit_is_preferred_to_its_draft_and_a_draft_that_stays_says_nothing() -> None:
    item = Item(id="w", prompt="p", completions=("rough",), mode="write")
    answers = [said(item, "a", text="fine"), said(item, "b", text="fine"), said(item, "c", text="rough ")]
    found = made([item], answers)
    (row,) = found.rows
    assert (row["chosen"], row["rejected"], row["votes"]["chosen"], row["probability"]) == ("fine", "rough", 2, 1.0)
    assert found.left_out == {"same_text": 1}


def test_info_is_exported_only_when_it_is_asked_for() -> None:
    answers = [said(PAIR, "a", FIRST)]
    assert "info" not in made([PAIR], answers).rows[0]
    assert json.loads(made([PAIR], answers, with_info=True).rows[0]["info"]) == {"model": "m1"}


def test_a_user_among_the_columns_of_an_item_is_hashed_too() -> None:
    item = Item(id="i", prompt="p", completions=("a", "b"), info={"user": "zoe", "deep": [{"by": "zoe"}], "model": "m"})
    (row,) = made([item], [said(item, "zoe", FIRST)], with_info=True).rows
    assert json.loads(row["info"]) == {"user": hashed("zoe"), "deep": [{"by": hashed("zoe")}], "model": "m"}


def test_a_user_who_is_a_number_is_hashed_too() -> None:
    item = Item(id="i", prompt="p", completions=("a", "b"), info={"user": 42, "step": 43, "is_new": True})
    (row,) = made([item], [said(item, "42", FIRST), said(item, "True", FIRST)], with_info=True).rows
    assert json.loads(row["info"]) == {"user": hashed("42"), "step": 43, "is_new": True}


def test_no_name_of_a_person_is_in_any_form() -> None:
    item = Item(id="w", prompt="p", completions=("rough",), mode="write")
    thumb = Item(id="t", prompt="p", completions=("ok",), mode="thumbs", attributes=("polite",))
    answers = [
        said(PAIR, "zacharias", FIRST),
        said(item, "zacharias", text="fine"),
        said(thumb, "zacharias", thumbs={"0": True}, ratings={"0": {"polite": 3}}),
    ]
    for form in ("preference", "unpaired", "ranking", "sft", "ratings", "raw"):
        rows = made([PAIR, item, thumb], answers, form=form).rows
        assert rows and "zacharias" not in json.dumps(rows) and hashed("zacharias") in json.dumps(rows)


def test_names_are_taken_out_of_whatever_somebody_may_have_written_them_into() -> None:
    item = Item(
        id="chat bob-7", prompt="Is bob here?", completions=("bob is", "no"), source="log_of_bob", info={
            "votes": {"bob": 1, "ann lee": 2}, "by": "bob & ann lee.", "deep": [{"run/bob/3": ["bobby", "abob"]}],
            "al": "al", "note": "al said so", "number": 1234, "is_new": True, "seconds": 1.5,
        },
    )  # fmt: skip
    answers = [
        replace(said(item, "bob", FIRST, group="team of bob"), comment="bob: sure (ann lee too)"),
        said(item, "ann lee", skipped="bob knows"),
        said(item, "al", SECOND),
        said(item, "1234", FIRST),
    ]
    bob, ann = hashed("bob"), hashed("ann lee")
    raw = made([item], answers, form="raw", with_info=True).rows
    assert json.loads(raw[0]["info"]) == {
        "votes": {bob: 1, ann: 2}, "by": f"{bob} & {ann}.", "deep": [{f"run/{bob}/3": ["bobby", "abob"]}],
        hashed("al"): hashed("al"), "note": "al said so", "number": hashed("1234"), "is_new": True, "seconds": 1.5,
    }  # fmt: skip
    assert {key: raw[0][key] for key in ("id", "item", "source", "group", "comment")} == {
        "id": f"chat {bob}-7#0", "item": f"chat {bob}-7", "source": f"log_of_{bob}", "group": f"team of {bob}",
        "comment": f"{bob}: sure ({ann} too)",
    }  # fmt: skip
    assert json.loads(raw[1]["judgement"]) == {"skipped": f"{bob} knows"}
    (row, _) = made([item], answers, by_group=True).rows
    assert (row["id"], row["group"]) == (f"chat {bob}-7@team of {bob}", f"team of {bob}")
    assert (row["prompt"], row["chosen"]) == ("Is bob here?", "bob is"), "what was asked and answered is data"


def test_names_are_found_in_any_case_and_two_that_differ_in_case_are_two() -> None:
    names = Names(["bob", "Ann Lee", "ann lee", "Straße", "@x", "@who"], hashed)
    assert names.text("Bob said BOB_2 to bobby") == f"{hashed('bob')} said {hashed('bob')}_2 to bobby"
    assert names.text("Ann Lee, ann lee, ANN LEE") == ", ".join(map(hashed, ("Ann Lee", "ann lee", "Ann Lee")))
    assert names.text("STRASSE 1, @x, @Who") == f"{hashed('Straße')} 1, @x, {hashed('@who')}"
    assert names.value({"BOB": "@X"}) == {hashed("bob"): hashed("@x")}


def test_who_gave_no_name_is_not_looked_for() -> None:
    names = Names(["anonymous", "imported", "imported votes.jsonl:3#1", "deployed", "imported by bob"], hashed)
    for text in ("imported-2024", "anonymous", "deployed: m3", "imported votes.jsonl:3#1"):
        assert names.text(text) == names.value(text) == text
    assert names.text("imported by bob") == hashed("imported by bob"), "a name that somebody chose"
    item = replace(PAIR, id="imported-2024", info={"from": "imported"})
    (row,) = made([item], [said(item, "imported", FIRST)], with_info=True).rows
    assert (row["id"], row["info"], row["annotators"]) == ("imported-2024", '{"from": "imported"}', people("imported"))


def test_names_of_digits_are_taken_out_where_they_are_a_whole_value() -> None:
    item = replace(PAIR, id="pairs:120", source="round 120", info={"user": "120", "log": "120/7"})
    answer = replace(said(item, "120", FIRST, group="120"), comment="120 words")
    (row,) = made([item], [answer], form="raw", with_info=True).rows
    assert [row[name] for name in ("item", "source", "comment")] == ["pairs:120", "round 120", "120 words"]
    assert (json.loads(row["info"]), row["group"]) == ({"user": hashed("120"), "log": "120/7"}, hashed("120"))
    (row,) = made([item], [answer], {"120": "120"}, by_group=True).rows
    assert (row["id"], row["group"]) == (f"pairs:120@{hashed('120')}", hashed("120"))


def test_how_many_names_begin_alike_costs_nothing() -> None:
    def calls(num: int) -> int:
        names = Names([f"crowd votes.jsonl:{k}#{k % 3}" for k in range(num)], hashed)
        text, counts = "crowd votes.jsonl:7#1 or crowd votes.jsonl:x; " * 20, Counter[str]()
        before = sys.getprofile()
        sys.setprofile(lambda frame, event, given: counts.update([event]))
        try:
            replaced = names.text(text)
        finally:
            sys.setprofile(before)
        assert replaced == f"{hashed('crowd votes.jsonl:7#1')} or crowd votes.jsonl:x; " * 20
        return sum(counts.values())

    assert calls(30) == calls(3000) > 0


def test_who_took_everything_back_is_named_nowhere_either(tmp_path: Path) -> None:
    item = Item(id="q", prompt="2+2?", completions=("4", "5"), info={"first asked": "zoe"})
    with Store.open(tmp_path / "votes.db", create=True) as store:
        store.add([item], [said(item, "ann", FIRST), said(item, "zoe", SECOND)])
        store.append([Draft(uuid="u", kind="undo", annotator="zoe", item="q")])
        (row,) = export(store, Export(with_info=True)).rows
        assert json.loads(row["info"]) == {"first asked": store.annotator_hash("zoe")}
        assert row["annotators"] == [store.annotator_hash("ann")]


NAMES = st.text("qZzé_ -@.1", min_size=1, max_size=7).map(str.strip).filter(bool)
TASKS_OWN = {"prompt", "completion", "completions", "chosen", "rejected", "text"}


def strings(value: Any) -> Iterator[str]:
    """Every text in a row, keys of objects and what is written as JSON among them."""
    if isinstance(value, dict):
        for key, given in value.items():
            if key not in TASKS_OWN:
                yield from (key, *strings(json.loads(given) if key in ("info", "judgement") else given))
    elif isinstance(value, list):
        for given in value:
            yield from strings(given)
    elif isinstance(value, str):
        yield value


@settings(max_examples=15, deadline=None)
@given(
    names=st.lists(NAMES, min_size=2, max_size=5, unique=True),
    parts=st.lists(st.lists(st.integers(0, 9), max_size=5), min_size=8, max_size=8),
)
def test_no_name_is_anywhere_but_in_the_tasks_own_text(names: list[str], parts: list[list[int]]) -> None:
    words = [*names, " ", "-", "x", "_", "9"]
    texts = itertools.cycle("".join(words[k % len(words)] for k in part) for part in parts)

    def text() -> str:
        return next(texts)

    def item(mode: Any, num: int) -> Item:
        info = {text(): [text(), {text(): text()}], "user": names[0]}
        completions = tuple(f"{k} {names[0]}" for k in range(num))
        return Item(
            id=f"{text()}:{mode}", prompt=names[1], completions=completions, mode=mode, source=text(), info=info
        )

    items = [item("compare", 2), item("rank", 3), item("thumbs", 1), item("write", 1), item("rate", 1)]
    judged = [
        {"ranking": FIRST}, {"ranking": ((2,), (0, 1))}, {"thumbs": {"0": True}}, {"text": names[0]},
        {"ratings": {"0": {"polite": 3}}},
    ]  # fmt: skip
    answers = []
    for who in names:
        for one, judgement in zip(items, judged, strict=True):
            answers.append(replace(said(one, who, **judgement, group=text()), comment=text()))  # type: ignore[arg-type]
    answers.append(said(items[0], names[0], showing=1, skipped=text() or "none"))
    for form in get_args(Form):
        for by_group in (False, True):
            rows = made(items, answers, form=form, with_info=True, by_group=by_group).rows
            assert rows
            none_is_in(rows, names)


def none_is_in(rows: Any, names: Iterable[str]) -> None:
    words = [
        (r"(?<![^\W_])" * name[0].isalnum()) + re.escape(name) + (r"(?![^\W_])" * name[-1].isalnum())
        for name in names
        if len(name) > 2 and not name.isdecimal()
    ]
    for string in strings(rows):
        assert not [word for word in words if re.search(word, string, re.IGNORECASE)], string


@pytest.mark.parametrize("form", get_args(Form))
def test_no_name_is_in_a_file_of_either_kind(tmp_path: Path, form: Form) -> None:
    items, answers = everything()
    names = {"a": "zoë", "b": "bob smith", "c": "u42"}
    info = {name: [f"by {name}"] for name in names.values()}
    items = [replace(item, info=info, source="of u42", id=f"{item.id} zoë") for item in items]
    answers = [
        replace(a, item=f"{a.item} zoë", annotator=names[a.annotator], group="bob smith's", comment="as u42 says")
        for a in answers
    ]
    rows = made(items, answers, form=form, with_info=True, by_group=True).rows
    for name in ("o.jsonl", "o.parquet"):
        export_files.write(rows, tmp_path / name)
    none_is_in([json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()], names.values())
    none_is_in(pq.read_table(tmp_path / "o.parquet").to_pylist(), names.values())
    assert hashed("zoë") in (tmp_path / "o.jsonl").read_text()


# --- other forms -----------------------------------------------------------------------------------------------------


def test_a_ranking_goes_by_the_mean_of_its_pairs() -> None:
    # points (pairs won, ties half) of x, y, z: a 1, 0, 2; b 2, 1, 0; c .5, .5, 2 -> 3.5, 1.5, 4
    answers = [
        said(RANK, "a", ((2,), (0,), (1,))),
        said(RANK, "b", ((0,), (1,), (2,))),
        said(RANK, "c", ((2,), (0, 1))),
    ]
    (row,) = made([RANK], answers, form="ranking").rows
    assert (row["completions"], row["ranks"]) == (["x", "y", "z"], [2, 3, 1])
    votes = dict(zip(row["annotators"], row["votes"], strict=True))
    assert votes == {hashed("a"): [2, 3, 1], hashed("b"): [1, 2, 3], hashed("c"): [2, 2, 1]}
    # x before y 2 of 3 (1 of 3 pairs of people agree), z before x 2 of 3, z before y 2 of 3
    assert row["agreement"] == pytest.approx(1 / 3)


def test_equal_points_share_a_place_and_a_ranking_of_one_place_is_none() -> None:
    (row,) = made(
        [RANK], [said(RANK, "a", ((2,), (0,), (1,))), said(RANK, "b", ((2,), (1,), (0,)))], form="ranking"
    ).rows
    assert row["ranks"] == [2, 2, 1]
    none = made([RANK], [said(RANK, "a", ((0, 1, 2),))], form="ranking")
    assert (none.rows, none.left_out) == ([], {"no_order": 1})
    without = made([RANK], [said(RANK, "a", ((2,), (0, 1)))], form="ranking", keeps_ties=False)
    assert (without.rows, without.left_out) == ([], {"ties": 1})


def test_majorities_in_a_circle_share_a_place() -> None:
    # x > y > z, y > z > x, z > x > y: each wins one of its two pairs
    orders = (((0,), (1,), (2,)), ((1,), (2,), (0,)), ((2,), (0,), (1,)))
    answers = [said(RANK, f"p{k}", order) for k, order in enumerate(orders)]
    answers.append(said(RANK, "p3", ((0,), (1,), (2,))))  # x before y 3:1, y before z 3:1, and x before z 2:2
    (row,) = made([RANK], answers, form="ranking", labels="majority").rows
    assert row["ranks"] == [1, 2, 3]  # points 1.5, 1, 0.5


def test_thumbs_are_labels_with_how_sure_they_are() -> None:
    item = Item(id="t", prompt="p", completions=("good", "bad"), mode="thumbs")
    answers = [said(item, who, thumbs={"0": who != "a", "1": False}) for who in "abcd"]
    rows = made([item], answers, form="unpaired").rows
    assert [(row["id"], row["completion"], row["label"], row["probability"]) for row in rows] == [
        ("t/0", "good", True, 0.75),
        ("t/1", "bad", False, 1.0),
    ]
    assert rows[0]["votes"] == {"up": 3, "down": 1} and rows[0]["agreement"] == 0.5


def test_ratings_are_means_and_medians_by_attribute() -> None:
    item = Item(id="t", prompt="p", completions=("c",), mode="rate", attributes=("polite", "safe"))
    given = [{"polite": 1}, {"polite": 2, "safe": 7}, {"polite": 6}]
    answers = [said(item, str(k), ratings={"0": numbers}) for k, numbers in enumerate(given)]
    (row,) = made([item], answers, form="ratings").rows
    assert row["scores"] == {"polite": 3.0, "safe": 7.0} and row["num_ratings"] == {"polite": 3, "safe": 1}
    assert row["deviation"] == {"polite": pytest.approx((14 / 3) ** 0.5), "safe": None}
    assert made([item], answers, form="ratings", labels="majority").rows[0]["scores"] == {"polite": 2.0, "safe": 7.0}


def test_raw_rows_hold_every_answer_with_repeats_and_skips() -> None:
    marked = Item(id="s", prompt="p", completions=("damn it",), mode="spans")
    answers = [
        said(PAIR, "a", FIRST, group="g"),
        said(PAIR, "a", SECOND, showing=1),
        said(PAIR, "b", skipped="unclear"),
        said(marked, "a", spans=(Span(completion=0, first=0, end=4),)),
        said(marked, "b", spans=()),
    ]
    rows = made([PAIR, marked], answers, form="raw").rows
    assert [json.loads(row["judgement"]) for row in rows] == [
        {"ranking": [[0], [1]]},
        {"ranking": [[1], [0]]},
        {"skipped": "unclear"},
        {"spans": [{"completion": 0, "first": 0, "end": 4, "label": "toxic"}]},
        {"spans": []},
    ]
    assert [row["showing"] for row in rows] == [0, 1, 0, 0, 0] and rows[0]["group"] == "g"


@pytest.mark.parametrize("labels", ["majority", "dawid_skene"])
@pytest.mark.parametrize("form", ["ranking", "unpaired", "preference"])
def test_votes_beside_what_was_concluded_from_them_are_vote_counts(form: Form, labels: Labels) -> None:
    thumb = Item(id="t", prompt="p", completions=("ok",), mode="thumbs")
    answers = [said(PAIR, "a", FIRST), said(thumb, "a", thumbs={"0": True})]
    (row,) = made([PAIR, thumb], answers, form=form, labels=labels).rows
    (by_votes,) = made([PAIR, thumb], answers, form=form).rows
    assert "votes" not in row and row["vote_counts"] == by_votes["votes"] and "vote_counts" not in by_votes


def test_dawid_skene_is_refused_where_there_are_no_classes() -> None:
    with pytest.raises(SettingsError, match="--labels dawid_skene goes with preference, unpaired and ranking, not sft"):
        made([PAIR], [], form="sft", labels="dawid_skene")


# --- files -----------------------------------------------------------------------------------------------------------

CHAT = ({"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"})


def everything() -> tuple[list[Item], list[Answer]]:
    pair = Item(id="c", prompt="2+2?", completions=("4", "5 é"), source="sums")
    rank = Item(id="r", prompt=CHAT, completions=("x", "y", "z"), mode="rank")  # type: ignore[arg-type]
    thumb = Item(id="t", prompt="say", completions=("ok",), mode="thumbs", attributes=("polite", "own one"))
    write = Item(id="w", prompt="write", completions=("rough",), mode="write")
    answers = [
        said(pair, "a", FIRST, group="g"),
        said(pair, "b", SECOND),
        said(pair, "c", FIRST, group="g"),
        said(rank, "a", ((2,), (0,), (1,)), group="g"),
        said(thumb, "b", thumbs={"0": False}, ratings={"0": {"polite": 2}}),
        said(thumb, "c", thumbs={"0": False}, ratings={"0": {"polite": 4, "own one": 1}}),
        said(write, "a", text="fine"),
    ]
    return [pair, rank, thumb, write], answers


@pytest.fixture
def db(tmp_path: Path) -> Path:
    items, answers = everything()
    with Store.open(tmp_path / "votes.db", create=True) as store:
        store.add(items, answers)
    return tmp_path / "votes.db"


def exported(db: Path, to: Path, form: Form, labels: Labels = "votes") -> Path:
    with Store.open(db, readonly=True) as store:
        export_files.write(export(store, Export(form=form, labels=labels)).rows, to)
    return to


TARGETS = ("out.jsonl", "out.parquet", "out")


@pytest.mark.parametrize("name", TARGETS)
def test_every_file_is_read_as_preferences_without_a_setting(db: Path, tmp_path: Path, name: str) -> None:
    data = PreferenceData(path=str(exported(db, tmp_path / name, "preference")))
    rows = load_preferences(data).rows
    assert [(row.id, row.chosen, row.rejected, row.source) for row in rows] == [
        ("c", "4", "5 é", "sums"),
        ("r/0-1", "x", "y", ""),
        ("r/0-2", "z", "x", ""),
        ("r/1-2", "z", "y", ""),
        ("w/0", "fine", "rough", ""),
    ]
    assert rows[0].probability == pytest.approx(2 / 3) and dict(rows[0].votes) == {"chosen": 2, "rejected": 1, "tie": 0}
    assert rows[1].prompt == CHAT and rows[0].prompt == ({"role": "user", "content": "2+2?"},)
    assert len(rows[0].annotators) == 3


@pytest.mark.parametrize("labels", ["majority", "dawid_skene"])
def test_other_labels_are_read_too_though_the_votes_say_something_else(
    db: Path, tmp_path: Path, labels: Labels
) -> None:
    rows = load_preferences(PreferenceData(path=str(exported(db, tmp_path / "o.jsonl", "preference", labels)))).rows
    assert len(rows) == 5 and all(0.5 <= row.probability <= 1 and not row.votes for row in rows)


@pytest.mark.parametrize("name", TARGETS)
def test_every_other_form_is_read_by_its_loader(db: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    rankings = load_rankings(PreferenceData(path=str(exported(db, path.with_stem("rank"), "ranking")))).rows
    assert [row.order for row in rankings] == [((0,), (1,)), ((2,), (0,), (1,))]
    thumbs = load_ratings(PreferenceData(path=str(exported(db, path.with_stem("thumbs"), "unpaired")))).rows
    assert [(row.completion, row.label) for row in thumbs] == [("ok", False)]
    ratings = load_ratings(PreferenceData(path=str(exported(db, path.with_stem("rate"), "ratings")))).rows
    assert [dict(row.scores) for row in ratings] == [{"polite": 3.0, "own one": 1.0}]
    written = load_demonstrations(Data(path=str(exported(db, path.with_stem("sft"), "sft")))).rows
    assert [(row.prompt, row.completion) for row in written] == [("write", "fine")]
    exported(db, path.with_stem("raw"), "raw")


def test_the_datasets_library_reads_trls_columns(db: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    found = datasets.load_from_disk(str(exported(db, tmp_path / "folder", "preference")))
    cache = str(tmp_path / "cache")
    lines = datasets.load_dataset(
        "json", data_files=str(exported(db, tmp_path / "a.jsonl", "preference")), split="train", cache_dir=cache
    )
    assert found[2]["prompt"] == list(CHAT) == lines[2]["prompt"]
    assert found[2]["chosen"] == [{"role": "assistant", "content": "z"}] == lines[2]["chosen"]
    assert found[0]["votes"] == {"chosen": 2, "rejected": 1, "tie": 0} == lines[0]["votes"]
    thumbs = datasets.load_from_disk(str(exported(db, tmp_path / "thumbs", "unpaired")))
    assert thumbs.features["label"].dtype == "bool" and thumbs[0]["completion"] == "ok"


@pytest.mark.parametrize("name", TARGETS)
def test_the_same_database_gives_the_same_bytes(db: Path, tmp_path: Path, name: str) -> None:
    def content(path: Path) -> list[tuple[str, bytes]]:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        return [(file.name.replace(path.name, ""), file.read_bytes()) for file in files]

    one, two = (exported(db, tmp_path / folder / name, "preference") for folder in _folders(tmp_path))
    assert content(one) == content(two)


def _folders(tmp_path: Path) -> list[str]:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    return ["one", "two"]


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_there_is_never_written_over(tmp_path: Path, name: str) -> None:
    rows = made([PAIR], [said(PAIR, "a", FIRST)]).rows
    export_files.write(rows, tmp_path / name)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match="exists: remove it, or name another file"):
        export_files.write(rows, tmp_path / name)
    assert sorted(tmp_path.rglob("*")) == before, "nothing is left beside it either"


def test_a_target_that_cannot_be_is_told_before_any_work(tmp_path: Path) -> None:
    for name in ("out.csv", "out.jsonl.gz", "out.JSONL", "out.parquet.2"):
        with pytest.raises(DataError, match=r"must end in \.jsonl or \.parquet, or be the name of a new folder"):
            export_files.check_target(tmp_path / name)
    export_files.check_target(tmp_path / "labels.v2")
    for folder in ("nowhere", "n" * 300):
        with pytest.raises(DiskError, match="no such folder"):
            export_files.check_target(tmp_path / folder / "out.jsonl")
    with pytest.raises(DataError, match=r"--to x{40}\.\.\.: a name has at most 230 bytes, this one has 306"):
        export_files.check_target(tmp_path / ("x" * 300 + ".jsonl"))


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ""])
def test_the_longest_name_there_may_be_is_written(db: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / ("é" * 100 + "x" * (30 - len(suffix)) + suffix)
    export_files.check_target(out)
    exported(db, out, "preference")
    if out.is_file():
        lineage.note_origin(out, [], made_by="rlvr feedback export")
    assert out.exists()


def test_an_id_that_held_a_name_still_leads_back_to_its_item(tmp_path: Path) -> None:
    item = replace(PAIR, id="asked-by-alice")
    with Store.open(tmp_path / "v.db", create=True) as store:
        store.add([item], [said(item, "alice", FIRST)])
        (row,) = export(store, Export(form="preference")).rows
    assert "alice" not in row["id"]
    for name in (row["id"], item.id):
        (event,) = ancestry_rows.answers_behind(name, tmp_path / "v.db")
        assert event["judgement"]["ranking"] == [[0], [1]] and "alice" not in json.dumps(event)


@pytest.mark.parametrize("name", TARGETS)
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    rows = made([PAIR], [said(PAIR, "a", FIRST)]).rows
    rows = [{**rows[0], "id": str(k), "prompt": "".join(hashed(f"{k} {j}") for j in range(50))} for k in range(200)]

    def limited() -> None:  # a file beyond this size fails as one on a full disk does
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            export_files.write(rows, tmp_path / name)
        except DiskError:
            os._exit(44)
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=limited)
    process.start()
    process.join(60)
    assert process.exitcode == 44
    assert list(tmp_path.iterdir()) == []


def test_rows_without_a_prompt_are_left_out() -> None:
    item = Item(id="t", prompt="", completions=("just a text",), mode="thumbs")
    found = made([item], [said(item, "a", thumbs={"0": True})], form="unpaired")
    assert (found.rows, found.left_out) == ([], {"no_prompt": 1})


def test_rows_of_the_same_name_are_told_apart() -> None:
    twin = Item(id="r/0-1", prompt="p", completions=("a", "b"))
    rows = made([RANK, twin], [said(RANK, "a", ((2,), (0,), (1,))), said(twin, "a", FIRST)]).rows
    assert [row["id"] for row in rows] == ["r/0-1", "r/0-2", "r/1-2", "r/0-1~2"]


# --- TRL itself ------------------------------------------------------------------------------------------------------

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / ".venv-bench" / "ready").exists(), reason="no .venv-bench: make setup-bench")
def test_trls_own_trainers_take_a_step_on_what_is_exported(tiny_model: Path, tmp_path: Path) -> None:
    items, answers = everything()
    forms: list[Form] = ["preference", "unpaired", "sft"]
    for form in forms:
        export_files.write(made(items, answers, form=form).rows, tmp_path / form)
    export_files.write(made(items[:1], [a for a in answers if a.item == "c"]).rows, tmp_path / "plain")
    scorer = save_scorer(tmp_path / "scorer")
    program = [str(ROOT / ".venv-bench" / "bin" / "python"), str(ROOT / "tests" / "bench" / "trl_rows.py")]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [*program, str(tmp_path), str(tiny_model), str(scorer)],
        env=env,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert {name: of["rows"] for name, of in found.items()} == {
        "reward preference": 5, "dpo preference": 5, "reward plain": 1, "dpo plain": 1, "kto": 1, "sft": 1
    }  # fmt: skip
    # a policy that is its own reference: log 2, and half of the weight
    assert found["dpo preference"]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert found["dpo plain"]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert found["kto"]["loss"] == pytest.approx(0.5, abs=1e-6)
    assert {"chosen_ids", "rejected_ids"} <= set(found["reward preference"]["columns"])
    assert {"input_ids", "labels"} <= set(found["sft"]["columns"])
