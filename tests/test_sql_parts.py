"""The parts of sql: text, rows, variants, and DuckDB."""

from __future__ import annotations

import random
import sqlite3
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr.rewards.bound import apply, gold_problem, lookup
from rlvr.rewards.verified import VerifierPool
from rlvr.types import Task
from rlvr.verifiers import sql_result
from rlvr.verifiers.code_text import Refused
from rlvr.verifiers.sql_engine import Contents, QueryError
from rlvr.verifiers.sql_rows import comparable, same_rows, ties
from rlvr.verifiers.sql_sqlite import from_contents, from_script
from rlvr.verifiers.sql_text import find_query, is_ordered, is_read, literals
from rlvr.verifiers.sql_variants import KINDS, reordered, variant

SCHOOL = """
CREATE TABLE class (id INTEGER PRIMARY KEY, room TEXT NOT NULL UNIQUE, seats INTEGER CHECK (seats > 3));
CREATE TABLE pupil (id INTEGER PRIMARY KEY, class_id INTEGER NOT NULL REFERENCES class(id), name TEXT, flag INTEGER);
CREATE TABLE friend (a INTEGER REFERENCES pupil(id), b INTEGER REFERENCES pupil(id), PRIMARY KEY (a, b)) WITHOUT ROWID;
CREATE INDEX by_name ON pupil(name);
CREATE VIEW roomy AS SELECT * FROM class WHERE seats > 10;
INSERT INTO class VALUES (1,'r1',10),(2,'r2',12),(3,'r3',30),(4,'r4',9);
INSERT INTO pupil VALUES (1,1,'a',0),(2,1,'b',1),(3,2,'c',1),(4,3,'d',0),(5,3,'e',1),(6,3,'f',0),(7,4,'g',1);
INSERT INTO friend VALUES (1,2),(2,3),(3,4),(5,6),(6,7);
"""


@pytest.mark.parametrize(
    ("response", "query", "how"),
    [
        ("```sql\nSELECT 1\n```", "SELECT 1", "fence"),
        ("```SQL\nSELECT 1\n```\n```sql\nSELECT 2;\n```\nDone.", "SELECT 2;", "fence"),
        ("```sql\nSELECT 1\n```\n```python\nprint(1)\n```", "SELECT 1", "fence"),
        ("```\nselect 1\n```", "select 1", "fence"),
        ("<answer>\nSELECT *\nFROM t\n</answer>", "SELECT *\nFROM t", "answer_tag"),
        (r"\boxed{SELECT 1}", "SELECT 1", "boxed"),
        ("  -- all\n WITH t AS (SELECT 1) SELECT * FROM t", "-- all\n WITH t AS (SELECT 1) SELECT * FROM t", "whole"),
        ("(SELECT 1)", "(SELECT 1)", "whole"),
        ("<think>```sql\nSELECT 0\n```</think>SELECT 1", "SELECT 1", "whole"),
    ],
)
def test_the_query_is_found(response: str, query: str, how: str) -> None:
    found = find_query(response)
    assert not isinstance(found, Refused)
    assert (found.text, found.how) == (query, how)


@pytest.mark.parametrize(
    "response",
    ["", "I would SELECT it.", "```sql\nSELECT 1", "```\nnothing\n```", "<think>SELECT 1", "```sql\n\n```", "Selected"],
)
def test_no_query_is_found_where_none_is_committed_to(response: str) -> None:
    found = find_query(response)
    assert isinstance(found, Refused)
    assert found.outcome == "no_answer"


@pytest.mark.parametrize(
    ("query", "ordered"),
    [
        ("SELECT a FROM t ORDER BY a", True),
        ("select a from t\norder\n by a limit 3", True),
        ("SELECT a FROM (SELECT a FROM t ORDER BY a)", False),
        ("SELECT row_number() OVER (ORDER BY a) FROM t", False),
        ("SELECT 'x ORDER BY y' FROM t", False),
        ('SELECT "ORDER BY" FROM t -- ORDER BY a', False),
        ("SELECT a FROM t /* ( */ ORDER BY a", True),
        ("SELECT a FROM t UNION SELECT b FROM u ORDER BY 1", True),
        ("WITH c AS (SELECT 1 ORDER BY 1) SELECT * FROM c", False),
    ],
)
def test_only_an_order_outside_brackets_orders(query: str, ordered: bool) -> None:
    assert is_ordered(query) is ordered


def test_a_query_begins_as_one() -> None:
    assert all(is_read(text) for text in ("SELECT 1", "-- x\n(with a as (select 1) select 2)", "/**/ VALUES (1)"))
    assert not any(is_read(text) for text in ("EXPLAIN SELECT 1", "DELETE FROM t", "", "-- SELECT 1", "PRAGMA x"))


def test_rows_are_compared_as_sql_does() -> None:
    assert same_rows(comparable([(1, "a")]), comparable([(1.0, "a")]), (1,), 0.0)
    for left, right in (((None,), ("",)), ((None,), (0,)), ((1,), ("1",)), ((b"a",), ("a",)), ((True,), (1,))):
        assert not same_rows(comparable([left]), comparable([right]), (1,), 1e-9)
    nan = float("nan")
    assert same_rows(comparable([(nan,)]), comparable([(nan,)]), (1,), 0.0)


def test_rows_count_as_often_as_they_occur() -> None:
    assert not same_rows([(1,), (1,), (2,)], [(1,), (2,), (2,)], (3,), 1e-9)
    assert same_rows([(1,), (1,), (2,)], [(2,), (1,), (1,)], (3,), 1e-9)
    assert not same_rows([(1,), (1,), (2,)], [(2,), (1,), (1,)], (1, 2, 3), 1e-9)


def test_ties_are_the_blocks_that_all_orders_share() -> None:
    a, b, c, d = ("a",), ("b",), ("c",), ("d",)
    assert ties([[a, b, c, d], [a, c, b, d]]) == (1, 3, 4)
    assert ties([[a, b, c, d], [a, c, b, d], [b, a, c, d]]) == (3, 4)
    assert ties([[a, b], [a, b]]) == (1, 2)


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.sampled_from("abc")), max_size=8), st.randoms())
def test_rounding_and_order_do_not_matter_where_the_gold_has_none(rows: list[Any], rng: random.Random) -> None:
    moved = [(value * (1 + 1e-13), name) for value, name in rows]
    rng.shuffle(moved)
    assert same_rows(rows, moved, (len(rows),), 1e-9)


def school() -> Contents:
    return from_script(SCHOOL).contents()


def test_a_database_as_data_knows_its_keys_and_links() -> None:
    tables = {table.name: table for table in school().tables}
    assert tables["class"].keys == ((0,), (1,))
    assert tables["friend"].keys == ((0, 1),)
    assert [(link.columns, link.parent, link.parent_columns) for link in tables["friend"].links] == [
        ((1,), "pupil", (0,)),
        ((0,), "pupil", (0,)),
    ]
    assert tables["pupil"].rows[0] == (1, 1, "a", 0)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(KINDS), st.integers(0, 10**6))
def test_what_a_schema_declares_stays_true_in_every_variant(kind: str, seed: int) -> None:
    made = variant(school(), kind, random.Random(seed))
    tables = {table.name: table for table in made.tables}
    for table in made.tables:
        for key in table.keys:
            values = [tuple(row[c] for c in key) for row in table.rows]
            assert len(values) == len(set(values))
        for link in table.links:
            parents = {tuple(row[c] for c in link.parent_columns) for row in tables[link.parent].rows}
            assert {tuple(row[c] for c in link.columns) for row in table.rows} <= parents
    assert {row[3] for row in tables["pupil"].rows} <= {0, 1}  # few values: no others
    again = variant(school(), kind, random.Random(seed))
    assert again == made
    database = from_contents(made)
    for table in made.tables:
        count = database.run(f"SELECT count(*) FROM {table.name}", most_rows=1, steps=10**6).rows[0][0]
        assert count == len(table.rows) or (table.name == "class" and kind in ("values", "all"))


def test_variants_differ_from_what_they_are_made_of() -> None:
    before = {table.name: sorted(map(repr, table.rows)) for table in school().tables}
    made = variant(school(), "fewer", random.Random(1))
    assert all(len(table.rows) < len(before[table.name]) for table in made.tables)
    made = variant(school(), "doubled", random.Random(1))
    assert len(made.tables[0].rows) > 4 and len(made.tables[1].rows) > 7
    made = variant(school(), "values", random.Random(1))
    assert any(sorted(map(repr, table.rows)) != before[table.name] for table in made.tables)
    for other in reordered(school()):
        assert {table.name: sorted(map(repr, table.rows)) for table in other.tables} == before
        assert from_contents(other).run("SELECT count(*) FROM roomy", most_rows=1, steps=10**6).rows == ((2,),)


# --- DuckDB


def duck(query: str, response: str, schema: str = sql_result._SCHEMA, **options: Any) -> Any:
    task = Task(id="t", prompt="", gold={"query": query, "schema": schema})
    return apply(lookup("sql"), f"```sql\n{response}\n```", task, {"engine": "duckdb", **options})


def test_duckdb_judges_by_the_same_rules() -> None:
    gold = "SELECT country FROM singer"
    assert duck(gold, "SELECT country FROM singer").score == 1.0
    assert duck(gold, "SELECT DISTINCT country FROM singer").score == 0.0
    assert duck(gold, "SELECT coalesce(country, '') FROM singer").score == 0.0
    assert duck(gold, "SELECT contry FROM singer").outcome == "malformed"


DUCKDB_ATTACKS = [
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM glob('/etc/*')",
    "SELECT * FROM sniff_csv('/etc/passwd')",
    "COPY singer TO 'attacked.csv'",
    "ATTACH 'attacked.db' AS x",
    "EXPORT DATABASE 'attacked'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET threads = 4",
    "SET enable_external_access = true",
    "PRAGMA enable_profiling",
    "CALL pragma_version()",
    "SELECT 8; DROP TABLE singer",
    "DELETE FROM singer",
    "WITH x AS (INSERT INTO singer VALUES (99, 'z', NULL, 1) RETURNING *) SELECT count(*) FROM x",
    "WITH x AS (DELETE FROM singer RETURNING *) SELECT count(*) FROM x",
    "SELECT count(*) FROM singer WHERE random() < 2",
    "SELECT count(*) FROM singer WHERE current_date > '2000-01-01'",
    "SELECT count(*) FROM duckdb_settings()",
    "SELECT current_setting('threads')",
    "SELECT sleep_ms(100000)",
    "SELECT pg_sleep(100000)",
    "SELECT (100000).sleep_ms()",
    'SELECT main."pg_sleep"(100000)',
    "SELECT E'\\'', pg_sleep(100000), '1'",
    "SELECT $$'$$, pg_sleep(100000), $$'$$",
    "SELECT [pg_sleep(100000)]",
    "SELECT -- \r pg_sleep(100000)",
    "SELECT count(*) FROM singer WHERE name <> (SELECT name FROM singer USING SAMPLE 1)",
    "SELECT * FROM json_execute_serialized_sql('{}')",
    "SELECT list_aggregate([8], 'sum')",
    "SELECT version()",
    "SELECT user()",
    "SELECT age(TIMESTAMP '2020-01-01')",
    "SELECT '\ud800'",
    "SELECT '\0'",
    "SELECT nextval('s')",
    "SELECT range(8) FROM singer",
    "SELECT * FROM query('DROP TABLE singer')",
    "SELECT count(*) FROM task",  # a Python variable of the caller
    "SELECT " + "(" * 3000 + "1" + ")" * 3000,
]


@pytest.mark.parametrize("query", DUCKDB_ATTACKS, ids=lambda query: ascii(query[:40]))
def test_duckdb_refuses_attacks_and_leaves_nothing_behind(
    query: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    gold = "SELECT count(*) FROM singer"
    verdict = duck(gold, query)
    assert (verdict.score, verdict.outcome) == (0.0, "malformed"), verdict
    assert list(tmp_path.iterdir()) == []
    assert duck(gold, "SELECT count(id) FROM singer").score == 1.0


def test_duckdb_has_the_functions_that_questions_ask_for() -> None:
    asked = "count(*) FILTER (name LIKE 'A%'), sum(age + 1) // 2, string_agg(upper(name), ',' ORDER BY name)"
    asked += ", max(round(age / 7, 2)), min(coalesce(country, '')), max(extract(year FROM DATE '2020-01-01'))"
    asked += ", max(CASE WHEN name ~ 'a' THEN age END), median(age), max(age::VARCHAR || 'x'), count(DISTINCT country)"
    ranked = "SELECT rank() OVER (ORDER BY age), lag(id) OVER (ORDER BY id), age(DATE '2020-01-01', DATE '2019-01-01')"
    for query in (f"SELECT {asked} FROM singer", f"{ranked} FROM singer", "SELECT id FROM singer, unnest([1, 2])"):
        assert duck(query, query).score == 1.0, query


@pytest.mark.parametrize("engine", ["sqlite", "duckdb"])
def test_a_gold_that_is_no_text_is_never_the_models_zero(engine: str) -> None:
    for gold in ({"query": "SELECT '\ud800'", "schema": SCHOOL}, {"query": "SELECT 1", "schema": SCHOOL + "--\ud800"}):
        verdict = apply(lookup("sql"), "SELECT 1", Task(id="t", prompt="", gold=gold), {"engine": engine})
        assert (verdict.score, verdict.outcome) == (None, "gold_invalid"), verdict


def test_duckdb_ends_an_endless_query_with_its_worker_and_judges_on() -> None:
    task = Task(id="t", prompt="", gold={"query": "SELECT count(*) FROM singer", "schema": sql_result._SCHEMA})
    endless = "SELECT count(*) FROM range(100000000) a, range(100000000) b WHERE a.range % 7 = b.range % 5"
    with VerifierPool(["sql"], workers=1, memory_mib=4096) as pool:
        jobs = [("sql", f"```sql\n{text}\n```", task) for text in (endless, "SELECT count(id) FROM singer")]
        verdicts = pool.judge(jobs, {"sql": {"engine": "duckdb"}})
    assert [verdict.score for verdict in verdicts] == [0.0, 1.0]
    assert verdicts[0].outcome in ("timeout", "too_complex")  # whichever of CPU and memory it is that runs out


def test_duckdb_reads_its_own_files(tmp_path: Path) -> None:
    import duckdb

    path = tmp_path / "school.duckdb"
    connection = duckdb.connect(str(path))
    connection.execute(
        "CREATE TABLE n (id INTEGER PRIMARY KEY, d DECIMAL(10, 2), CHECK (d > 0)); "
        "INSERT INTO n VALUES (1, 1.5), (2, 2.25), (3, 3)"
    )
    connection.close()
    before = path.read_bytes()
    task = Task(id="t", prompt="", gold={"query": "SELECT sum(d) FROM n", "database": str(path)})
    right = apply(lookup("sql"), "SELECT 6.75 * 0 + sum(d) FROM n", task, {"engine": "duckdb"})
    wrong = apply(lookup("sql"), "SELECT 6.75 FROM n LIMIT 1", task, {"engine": "duckdb"})
    assert (right.score, wrong.score) == (1.0, 0.0), (right, wrong)
    assert path.read_bytes() == before


def test_literals_belong_to_the_column_they_are_set_against() -> None:
    columns = {"age", "name", "d"}
    query = "SELECT name FROM t WHERE age BETWEEN 3 AND 5.5 AND 'it''s' = t.name AND d > DATE '2020-01-01' LIMIT 7"
    assert literals(query, columns) == {
        "name": ["it's"],
        "age": [Fraction(3), Fraction(11, 2)],
        "d": ["2020-01-01"],
    }
    assert literals("SELECT age FROM t WHERE age > -4 OR NOT (age IN (1, 2))", columns) == {
        "age": [Fraction(-4), Fraction(1), Fraction(2)]
    }


def test_what_a_column_may_not_hold_does_not_come_into_it() -> None:
    for literal in ({"seats": [Fraction(10**9)], "flag": [Fraction(7)], "name": ["2024", "x-1"]}, {}):
        for seed in range(5):
            made = variant(school(), "values", random.Random(seed), literal)
            tables = {table.name: table for table in made.tables}
            assert {row[2] for row in tables["pupil"].rows} <= set("abcdefg")
            assert {row[3] for row in tables["pupil"].rows} <= {0, 1}
            assert all(9 <= row[2] <= 30 for row in tables["class"].rows)
    made = variant(school(), "values", random.Random(1), {"name": ["zed"], "flag": [Fraction(1)]})
    assert "zed" in {row[2] for row in made.tables[1].rows}


class _Breaks:
    """A connection whose next query fails as DuckDB does where it has lost its database, and then works no more."""

    def __init__(self, connection: Any, kind: str) -> None:
        self._connection, self._kind, self.is_broken = connection, kind, False

    def execute(self, statement: Any, *values: Any) -> Any:
        import duckdb

        if self.is_broken or not isinstance(statement, str):
            self.is_broken = True
            raise getattr(duckdb, self._kind)(f"{self._kind}: it broke")
        return self._connection.execute(statement, *values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


@pytest.mark.parametrize("kind", ["FatalException", "InternalException"])
def test_an_engine_that_broke_is_our_failure_once_and_no_later_responses(kind: str) -> None:
    from rlvr.verifiers.sql_gold import compiled, read_gold

    gold = {"query": "SELECT count(*) FROM n", "schema": "CREATE TABLE n (d INT); INSERT INTO n VALUES (1), (2);"}
    ready = compiled(read_gold(gold, {}, ""), "duckdb", 3, "values")
    database: Any = ready.asked[0].database
    database._connection = _Breaks(database._connection, kind)
    task = Task(id="t", prompt="", gold=gold)
    first = apply(lookup("sql"), "SELECT sum(1) FROM n", task, {"engine": "duckdb"})
    assert (first.score, first.outcome, first.reason) == (None, "error", f"DuckDB itself failed: {kind}: it broke")
    assert apply(lookup("sql"), "SELECT sum(1) FROM n", task, {"engine": "duckdb"}).score == 1.0


def test_what_is_told_is_why_the_query_failed_and_not_that_its_transaction_ended_badly() -> None:
    import duckdb

    from rlvr.verifiers import sql_duckdb

    class NoWayBack:
        def __init__(self, connection: Any) -> None:
            self._connection = connection

        def execute(self, statement: Any, *values: Any) -> Any:
            if statement == "ROLLBACK":
                raise duckdb.TransactionException("no transaction is active")
            return self._connection.execute(statement, *values)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._connection, name)

    for query, reason in (
        ("SELECT * FROM nowhere", "nowhere does not exist"),
        ("SELECT * FROM n", "no transaction is active"),
    ):
        database = sql_duckdb.from_script("CREATE TABLE n (d INT); INSERT INTO n VALUES (1)")
        database._connection = NoWayBack(database._connection)
        with pytest.raises(QueryError, match=reason):
            database.run(query, most_rows=3, steps=1000)


def test_a_gold_is_checked_with_the_options_that_it_is_judged_with(tmp_path: Path) -> None:
    schema = "CREATE TABLE n (d INT); INSERT INTO n SELECT range FROM range(5);"
    only_duckdb = {"query": "SELECT sum(d) FROM n", "schema": schema}
    task, bound = Task(id="t", prompt="", gold=only_duckdb), lookup("sql")
    assert gold_problem(bound, task, {"engine": "duckdb"}) == ""
    assert "the schema cannot be built" in gold_problem(bound, task)
    assert "one database alone" in gold_problem(bound, task, {"engine": "duckdb", "perturb": "none"})
    with sqlite3.connect(tmp_path / "a.sqlite") as made:
        made.executescript("CREATE TABLE n (d INT); INSERT INTO n VALUES (1), (2), (3);")
    named = Task(id="t", prompt="", gold="SELECT sum(d) FROM n", info={"db": "a"})
    assert gold_problem(bound, named, {"database": f"{tmp_path}/{{db}}.sqlite"}) == ""
    assert "no database file" in gold_problem(bound, named, {"database": f"{tmp_path}/{{db}}.none"})
    assert gold_problem(bound, named) == apply(bound, "SELECT 1", named).reason != ""
