"""The table verifier: reading CSV, TSV and Markdown, comparing without an order, scoring cells."""

from __future__ import annotations

import csv
import io
import random
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr.rewards.bound import apply, gold_problem, lookup, start_problems
from rlvr.types import Task, Verdict
from rlvr.verifiers import table_values
from rlvr.verifiers.code_text import Refused
from rlvr.verifiers.table_text import Table, guess_format, markdown_tables, read_table

GOLD = [
    {"city": "Oslo", "people": 709000, "share": 0.125},
    {"city": "Rome", "people": 2755000, "share": 0.5},
    {"city": "Bern", "people": 134000, "share": None},
]
CSV = "city,people,share\nOslo,709000,0.125\nRome,2755000,0.5\nBern,134000,\n"


def judge(gold: Any, response: str, **options: Any) -> Verdict:
    return apply(lookup("table"), response, Task(id="t", prompt="p", gold=gold), options)


def as_csv(rows: list[list[str]], delimiter: str = ",") -> str:
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter).writerows(rows)
    return file.getvalue()


@pytest.mark.parametrize(("gold", "response", "score"), table_values.EXAMPLES)
def test_the_examples_are_judged_as_they_say(gold: Any, response: str, score: float) -> None:
    assert judge(gold, response).score == score


@pytest.mark.parametrize(
    "response",
    [
        CSV,
        CSV.replace(",", "\t"),
        f"Here:\n```csv\n{CSV}```\nDone.",
        f"```\n{CSV}```",
        f"```tsv\n{CSV.replace(',', chr(9))}```",
        f"<think>{CSV}{CSV}</think><answer>{CSV}</answer>",
        "| city | people | share |\n|---|:-:|--:|\n| Oslo | 709000 | 0.125 |\n| Rome | 2755000 | 0.5 |\n|Bern|134000||",
        "city | people | share\n--- | --- | ---\nOslo | 7.09e5 | 0.1250\nRome | 2755000 | 0.5\nBern | 134000 | |\n",
        "As asked:\n\n|people|share|city|\n|-|-|-|\n|134000||Bern|\n|2755000|0.5|Rome|\n|709000|0.125|Oslo|\n\nDone.",
        '"share","city","people"\r\n"0.5","Rome","2755000"\r\n"","Bern","134000"\r\n"0.125","Oslo","709000"\r\n',
    ],
)
def test_the_same_table_is_right_in_every_form_and_order(response: str) -> None:
    assert judge(GOLD, response).score == 1.0
    assert judge([["city", "people", "share"], *[list(row.values()) for row in GOLD]], response).score == 1.0
    assert judge(CSV, response).score == 1.0


@pytest.mark.parametrize(
    ("response", "options", "outcome", "reason"),
    [
        (CSV.replace("0.5", "0.51"), {}, "wrong", "row 2, 'share': '0.51', the gold says '0.5'"),
        (CSV.replace("0.5", "0.51"), {"tolerance": 0.02}, "correct", "3 rows of 3 columns are as wanted"),
        (CSV.replace("0.5", "0.52"), {"absolute": 0.01}, "wrong", "row 2, 'share': '0.52', the gold says '0.5'"),
        (CSV.replace("Oslo", "oslo"), {}, "wrong", "row 1, 'city': 'oslo', the gold says 'Oslo'"),
        (CSV.replace("134000,", "134000,0"), {}, "wrong", "row 3, 'share': '0', the gold says ''"),
        (CSV.replace("city", "town"), {}, "wrong", "no column 'city', and 1 more"),
        (CSV + "Oslo,709000,0.125\n", {}, "wrong", "4 rows, the gold has 3"),
        (CSV.replace("Rome,2755000,0.5", "Oslo,709000,0.125"), {}, "wrong", "row 2, 'city': 'Oslo', the gold"),
        ("people,city,share\n1,2,3\n", {"column_order": True}, "wrong", "the columns stand in the order 'people'"),
        (CSV.replace("Oslo,709000,0.125\nRome,2755000,0.5", "Rome,2755000,0.5\nOslo,709000,0.125"), {"row_order": True},
         "wrong", "row 1, 'city': 'Rome', the gold says 'Oslo', and 1 more"),
        (CSV, {"row_order": True, "column_order": True, "format": "csv"}, "correct", "3 rows of 3"),
        (CSV, {"format": "tsv"}, "wrong", "no column 'city', 'people', 'share', and 1 more"),
        (CSV, {"format": "markdown"}, "malformed", "the second line is no rule such as"),
        ("city,people,share\nOslo,709000\n", {}, "malformed", "line 2 has 2 cells, the header has 3"),
        ("city,,share\n1,2,3\n", {}, "malformed", "column 2 has no name"),
        ('city,people\n"Os"lo,1\n', {}, "malformed", "no CSV: ',' expected after '\"'"),
        ("|a|b|\n|-|-|\n|1|2|\n\n|a|b|\n|-|-|\n|1|2|\n", {}, "malformed", "2 tables, and one is wanted"),
        ("", {}, "no_answer", "the response is empty"),
        ("<think>" + CSV, {}, "no_answer", "the response is still thinking when it ends"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told(response: str, options: dict[str, Any], outcome: str, reason: str) -> None:
    verdict = judge(GOLD, response, **options)
    assert (verdict.outcome, verdict.score) == (outcome, float(outcome == "correct"))
    assert reason in verdict.reason


def test_cells_are_scored_by_f1() -> None:
    def points(response: str, **options: Any) -> float | None:
        return judge(GOLD, response, score="cells", **options).score

    assert points(CSV) == 1.0
    assert points(CSV.replace("0.5", "0.6")) == pytest.approx(8 / 9)
    assert points("city,people,share\nOslo,709000,0.125\n") == pytest.approx(2 * 3 / (9 + 3))
    assert points("city\nOslo\nRome\nBern\n") == pytest.approx(2 * 3 / (9 + 3))
    # further columns and rows count as given
    assert points(CSV.replace("\n", ",x\n")) == pytest.approx(2 * 9 / (9 + 12))
    assert points(CSV + "Rome,2755000,0.5\n") == pytest.approx(2 * 9 / (9 + 12))
    # each row of the gold is beside one of the response, whatever the order
    shuffled = "city,people,share\nBern,134001,\nOslo,709000,0.125\nRome,2755000,0.6\n"
    assert points(shuffled) == pytest.approx(7 / 9)
    assert points(shuffled, row_order=True) == 0.0
    # cells of the right columns in rows that nobody wanted together
    assert points("city,people,share\nOslo,2755000,\nRome,134000,0.125\nBern,709000,0.5\n") == pytest.approx(3 / 9)
    assert points("people,city,share\n709000,Oslo,0.125\n2755000,Rome,0.5\n134000,Bern,\n", column_order=True) == (
        pytest.approx(3 / 9)
    )
    assert points("name\nx\n") == 0.0


def test_checks_say_how_much_of_columns_rows_and_cells_is_right() -> None:
    checks = judge(GOLD, CSV.replace("0.5", "0.6")).checks
    assert {name: check["score"] for name, check in checks.items()} == {
        "columns": 1.0, "rows": pytest.approx(2 / 3), "cells": pytest.approx(8 / 9),
    }  # fmt: skip
    assert checks["rows"]["wrong"] == ["row 2, 'share': '0.6', the gold says '0.5'"]
    assert checks["cells"]["reason"] == "8 right, 9 wanted, 9 given"
    wrong = judge([{"a": k} for k in range(900)], "a\n" + "x\n" * 900)
    assert len(wrong.checks["rows"]["wrong"]) == 32


def test_a_table_without_rows_is_a_table() -> None:
    gold = [["a", "b"]]
    assert judge(gold, "b,a\n", score="cells").score == judge(gold, "a,b").score == 1.0
    assert judge(gold, "a,b,c\n", score="cells").score == judge(gold, "a,b\n1,2\n", score="cells").score == 0.0


@pytest.mark.parametrize(
    ("cell", "given", "same"),
    [(1, "1.0", True), (1, "1.00e0", True), (1, "+1", True), ("1", "1.0", True), (0.1, ".1", False),
     (0.1, "0.10", True), (-0.0, "0", True), ("007", "7", False), ("1,5", "1.5", False),
     ("1 000", "1000", False), (True, "TRUE", True),
     (True, "1", False), (None, "", True), (None, "null", False), ("a", "a ", True), ("a", "A", False),
     (1e300, "1e300", True), ("nan", "nan", True), (2**70, str(2**70), True), (2**70, str(2**70 + 1), False)],
)  # fmt: skip
def test_cells_that_are_numbers_are_compared_as_numbers(cell: Any, given: str, same: bool) -> None:
    assert judge([{"x": cell, "y": 1}], as_csv([["x", "y"], [given, "1"]])).score == float(same)


def test_a_tolerance_pairs_rows_so_that_all_find_one() -> None:
    gold = [{"x": 1.0}, {"x": 1.1}]
    for response in ("x\n1.05\n1.15\n", "x\n1.15\n1.05\n"):
        assert judge(gold, response, absolute=0.06).score == 1.0
    assert judge(gold, "x\n1.05\n1.05\n", absolute=0.06).score == 1.0
    assert judge(gold, "x\n1.15\n1.15\n", absolute=0.06).score == 0.0


CELLS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zs"]), max_size=6)


@settings(deadline=None)
@given(st.data())
def test_what_csv_writes_is_read_and_right_in_any_order(data: st.DataObject) -> None:
    columns = data.draw(st.lists(CELLS.filter(bool), min_size=1, max_size=4, unique=True))
    rows = data.draw(st.lists(st.lists(CELLS, min_size=len(columns), max_size=len(columns)), max_size=4))
    rows = [row for row in rows if any(row)]
    table = read_table(as_csv([columns, *rows]), "csv")
    assert table == Table(tuple(columns), tuple(map(tuple, rows)))
    order = data.draw(st.permutations(range(len(columns))))
    shuffled = [[row[k] for k in order] for row in [columns, *data.draw(st.permutations(rows))]]
    assert judge([columns, *rows], f"<answer>\n{as_csv(shuffled)}</answer>", format="csv").score == 1.0


@settings(deadline=None)
@given(st.text(alphabet='|-:,"\t\n ab1`\\'))
def test_no_text_raises(text: str) -> None:
    for form in ("csv", "tsv", "markdown"):
        found = read_table(text, form)
        assert isinstance(found, Table) or found.outcome in ("malformed", "no_answer", "too_complex")
    verdict = judge([{"a": 1}], text, score="cells")
    assert verdict.score is not None


@pytest.mark.parametrize(
    "text",
    ["|" * 260_000, "a|b\n" + "-|-\n" * 60_000, "a,b\n" + "1,2\n" * 9_000, '"' * 260_000, "\n" * 260_000,
     "a,b\n" + '"' * 250_000, ",".join(map(str, range(40_000))), "a|b\n" + "-" * 250_000 + "|" + "-", "\\|" * 130_000,
     "a\n" + "1e999\n" * 9_000, "|a|\n" + "|" + " " * 200_000 + "-|\n", "a,b\n" + "9" * 131_000 + ",1\n"],
    ids=lambda text: repr(text[:8]),
)  # fmt: skip
@pytest.mark.parametrize("options", [{}, {"score": "cells", "absolute": 0.5}], ids=str)
def test_hostile_text_costs_its_length(text: str, options: dict[str, Any]) -> None:
    start = time.process_time()
    verdict = judge([{"a": k, "b": 2 * k} for k in range(100)], text, **options)
    assert time.process_time() - start < 1.0
    assert verdict.score is not None and verdict.score < 1
    assert len(str(verdict.checks)) < 20_000


@pytest.mark.parametrize(
    ("gold", "reason"),
    [
        (None, "the row has no gold"),
        ([], "the gold must be a list of mappings"),
        ({"a": 1}, "the gold must be a list of mappings"),
        ([{"a": 1}, {"b": 1}], "row 1 of the gold has other keys than row 0"),
        ([["a", "b"], [1]], "row 1 of the gold has 1 cells, its header has 2"),
        ([{"a": 1}, ["a"]], "the gold has rows of different kinds"),
        ([["a", "a"]], "the gold is no table: two columns are named 'a'"),
        ([[]], "the gold is no table: it has no columns"),
        ([{"a": [1]}], "the gold has cells that are neither texts nor numbers"),
        ([{"a": float("inf")}], "the gold is no table: Out of range"),
        ("a,b\n1\n", "the gold is no table: line 2 has 1 cells"),
        ("", "the gold is no table: the table is empty"),
    ],
)
def test_a_gold_that_is_no_table_is_never_the_responses_fault(gold: Any, reason: str) -> None:
    verdict = judge(gold, CSV)
    assert (verdict.score, verdict.outcome) == (None, "gold_invalid")
    assert reason in verdict.reason
    assert gold_problem(lookup("table"), Task(id="t", prompt="p", gold=gold)) == verdict.reason


def test_too_many_rows_for_a_tolerance_are_the_golds_fault() -> None:
    gold = [{"x": k} for k in range(300)]
    text = "x\n" + "\n".join(str(k) for k in range(300))
    assert judge(gold, text, absolute=0.1).outcome == "gold_invalid"
    assert judge(gold, text, absolute=0.1, row_order=True).score == 1.0
    assert judge(gold, text).score == 1.0


def test_a_gold_may_be_the_json_of_rows() -> None:
    assert judge('[{"a": 1, "b": "x"}]', "a,b\n1,x\n").score == 1.0


def test_forms_are_told_apart_by_two_lines() -> None:
    assert [guess_format(text) for text in ("a,b\n", "a\tb\n", "a|b\n-|-\n", "a|b\n1|2\n", "|a|\n|-|")] == [
        "csv", "tsv", "markdown", "csv", "markdown",
    ]  # fmt: skip
    assert markdown_tables("x\n|a|\n|-|\n|1|\ny\n\nb|c\n-|-\n") == ["|a|\n|-|\n|1|", "b|c\n-|-"]
    found = read_table("a|b\n-|-\nx\\|y|z\n", "markdown")
    assert found == Table(("a", "b"), (("x|y", "z"),))
    assert isinstance(read_table("a|b\n-\n", "markdown"), Refused)


def test_rows_in_any_order_take_no_time_to_speak_of() -> None:
    rows = [[str(k), f"name{k}", str(k / 7)] for k in range(5000)]
    random.Random(1).shuffle(rows)
    gold = [["id", "name", "x"], *sorted(rows)]
    text = as_csv([["id", "name", "x"], *rows])
    start = time.process_time()
    assert judge(gold, text).score == 1.0
    assert time.process_time() - start < 1.0


def test_unknown_options_are_told() -> None:
    (line,) = start_problems("table", {"row_ordr": True}, "rewards.answer.options")
    assert "did you mean 'row_order'?" in line


def test_rows_that_are_too_many_for_a_tolerance_are_told_beforehand() -> None:
    task = Task(id="t", prompt="p", gold=[{"n": k} for k in range(3000)])
    bound = lookup("table")
    assert gold_problem(bound, task) == gold_problem(bound, task, {"tolerance": 0.1, "row_order": True}) == ""
    verdict = apply(bound, "n\n1\n", task, {"tolerance": 0.1})
    assert gold_problem(bound, task, {"tolerance": 0.1}) == verdict.reason
    assert "3000 rows without an order" in verdict.reason
