"""sql: results on several databases, attacks, golds that tell nothing."""

from __future__ import annotations

import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rlvr.rewards.bound import apply, lookup, option_problems
from rlvr.rewards.verified import VerifierPool
from rlvr.types import Task, Verdict
from rlvr.verifiers.sql_result import EXAMPLES, gold_problem

SHOP = """
CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT UNIQUE, kind TEXT, price REAL);
CREATE TABLE sale (item_id INTEGER REFERENCES item(id), day TEXT, num INTEGER);
INSERT INTO item VALUES (1,'pen','office',1.5),(2,'mug','kitchen',8.0),(3,'pot','kitchen',25.0),(4,'ink','office',1.5);
INSERT INTO item VALUES (5,'cup','kitchen',4.25),(6,'pad','office',NULL);
INSERT INTO sale VALUES (1,'2024-01-01',3),(1,'2024-01-02',5),(2,'2024-01-01',1),(3,'2024-02-01',2),(5,'2024-02-03',7);
INSERT INTO sale VALUES (1,'2024-01-01',3),(4,'2024-03-01',4),(2,'2024-03-05',6);
"""


def judge(query: str, response: str, schema: str = SHOP, gold: Any = None, **options: Any) -> Verdict:
    gold = gold or {"query": query, "schema": schema}
    text = response if "```" in response or not response.strip() else f"```sql\n{response}\n```"
    return apply(lookup("sql"), text, Task(id="t", prompt="", gold=gold), options)


@pytest.mark.parametrize(("gold", "response", "score"), EXAMPLES)
def test_sql_judges_its_own_examples(gold: Any, response: str, score: float | None) -> None:
    verdict = apply(lookup("sql"), response, Task(id="t", prompt="", gold=gold))
    assert verdict.score == score, verdict
    assert verdict.outcome != "error"
    assert verdict.reason


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("SELECT name FROM item", "SELECT i.name FROM item i ORDER BY price"),
        ("SELECT name FROM item ORDER BY price DESC", "SELECT name FROM item ORDER BY price IS NULL, -price"),
        ("SELECT kind, count(*) FROM item GROUP BY kind", "SELECT kind, sum(1) FROM item GROUP BY 1 ORDER BY 2"),
        ("SELECT avg(price) FROM item", "SELECT sum(price) / count(price) FROM item"),
        ("SELECT sum(num) FROM sale", "SELECT total(num) FROM sale"),
        (
            "SELECT name FROM item WHERE id NOT IN (SELECT item_id FROM sale)",
            "SELECT name FROM item LEFT JOIN sale ON id = item_id WHERE item_id IS NULL",
        ),
        (
            "SELECT name, sum(num) FROM item JOIN sale ON id = item_id GROUP BY id",
            "WITH t AS (SELECT item_id i, sum(num) n FROM sale GROUP BY 1) SELECT name, n FROM item, t WHERE i = id",
        ),
        (
            "SELECT count(*) FROM sale WHERE day LIKE '2024-01%'",
            "SELECT count(*) FROM sale WHERE strftime('%m', day) = '01'",
        ),
        ("SELECT kind FROM item INTERSECT SELECT kind FROM item", "SELECT DISTINCT kind FROM item"),
    ],
)
def test_another_way_to_the_same_result_is_correct(gold: str, answer: str) -> None:
    verdict = judge(gold, answer)
    assert (verdict.score, verdict.outcome) == (1.0, "correct"), verdict
    assert verdict.checks["databases"] == verdict.checks["agreed"] >= 2


@pytest.mark.parametrize(
    ("gold", "answer", "reason"),
    [
        ("SELECT kind FROM item", "SELECT DISTINCT kind FROM item", "2 rows, the gold has 6"),
        ("SELECT DISTINCT kind FROM item", "SELECT kind FROM item", "more than the gold's 2 rows"),
        ("SELECT name FROM item ORDER BY price DESC", "SELECT name FROM item", "in another order"),
        ("SELECT name FROM item ORDER BY price DESC", "SELECT name FROM item ORDER BY price", "in another order"),
        ("SELECT price FROM item", "SELECT coalesce(price, 0) FROM item", "other values"),
        ("SELECT price FROM item", "SELECT coalesce(price, '') FROM item", "other values"),
        ("SELECT num FROM sale", "SELECT CAST(num AS TEXT) FROM sale", "other values"),
        ("SELECT name FROM item", "SELECT name, id FROM item", "2 columns, the gold has 1"),
        ("SELECT name, id FROM item", "SELECT id, name FROM item", "other values"),
        ("SELECT count(*) FROM item", "SELECT 6", "reads no table"),
        ("SELECT count(*) FROM item", "VALUES (6)", "reads no table"),
        ("SELECT count(*) FROM item", "SELECT 6 FROM item LIMIT 1", "other values"),
        ("SELECT max(price) FROM item", "SELECT price FROM item WHERE id = 3", "(database "),
        ("SELECT name FROM item WHERE kind = 'office'", "SELECT name FROM item WHERE id IN (1, 4, 6)", "(database "),
        ("SELECT count(item_id) FROM sale", "SELECT count(DISTINCT item_id) + 3 FROM sale", "(database "),
        ("SELECT sum(num) FROM sale", "SELECT sum(DISTINCT num) + 3 FROM sale", "(database "),
    ],
)  # fmt: skip
def test_another_result_earns_nothing(gold: str, answer: str, reason: str) -> None:
    verdict = judge(gold, answer)
    assert (verdict.score, verdict.outcome) == (0.0, "wrong"), verdict
    assert reason in verdict.reason


def test_queries_that_agree_on_the_given_database_alone_fail_on_one_of_our_making() -> None:
    lucky = "SELECT name FROM item WHERE id IN (1, 4, 6)"
    gold = "SELECT name FROM item WHERE kind = 'office'"
    assert judge(gold, lucky).checks["agreed"] >= 1


def test_tied_rows_may_stand_either_way() -> None:
    # pen and ink both cost 1.5
    gold = "SELECT name FROM item WHERE price IS NOT NULL ORDER BY price"
    assert judge(gold, "SELECT name FROM item WHERE price >= 0 ORDER BY price, name").score == 1.0
    assert judge(gold, "SELECT name FROM item WHERE price >= 0 ORDER BY price, name DESC").score == 1.0
    assert judge(gold, "SELECT name FROM item WHERE price >= 0 ORDER BY name").score == 0.0


def test_column_names_count_only_where_asked_for() -> None:
    assert judge("SELECT name AS item FROM item", "SELECT name FROM item").score == 1.0
    assert judge("SELECT name AS item FROM item", "SELECT name FROM item", column_names=True).score == 0.0
    assert judge("SELECT name AS item FROM item", "SELECT name ITEM FROM item", column_names=True).score == 1.0


def test_floats_are_equal_within_the_tolerance() -> None:
    gold, near = "SELECT name, price FROM item", "SELECT name, price * 1.001 FROM item"
    assert judge(gold, near).score == 0.0
    assert judge(gold, near, tolerance=0.01).score == 1.0
    assert judge("SELECT price FROM item", "SELECT price * 3 / 3 FROM item").score == 1.0


ATTACKS = [
    ("ATTACH DATABASE 'attacked.db' AS x", "malformed"),
    ("SELECT 6; ATTACH DATABASE 'attacked.db' AS x", "malformed"),
    ("VACUUM INTO 'attacked.db'", "malformed"),
    ("DROP TABLE item", "malformed"),
    ("DELETE FROM item", "malformed"),
    ("INSERT INTO item VALUES (9, 'x', 'y', 1)", "malformed"),
    ("WITH x AS (SELECT 1) DELETE FROM item", "malformed"),
    ("WITH x AS (SELECT 1) INSERT INTO item SELECT 9, 'x', 'y', 1", "malformed"),
    ("CREATE TABLE x AS SELECT 6", "malformed"),
    ("CREATE TEMP TABLE x AS SELECT 6", "malformed"),
    ("PRAGMA writable_schema = ON", "malformed"),
    ("SELECT * FROM pragma_table_info('item')", "malformed"),
    ("SELECT count(*) FROM sqlite_master", "malformed"),
    ("SELECT count(*) FROM dbstat", "malformed"),
    ("SELECT load_extension('./evil.so')", "malformed"),
    ("SELECT readfile('/etc/passwd') FROM item", "malformed"),
    ("SELECT writefile('attacked.db', 'x') FROM item", "malformed"),
    ("SELECT fts3_tokenizer('simple') FROM item", "malformed"),
    ("SELECT random() FROM item", "malformed"),
    ("SELECT hex(randomblob(1000000000)) FROM item", "malformed"),
    ("SELECT zeroblob(1000000000) FROM item", "malformed"),
    ("SELECT date('now') FROM item", "malformed"),
    ("SELECT date('n' || 'ow') FROM item", "malformed"),
    ("SELECT datetime() FROM item", "malformed"),
    ("SELECT current_timestamp FROM item", "malformed"),
    ("EXPLAIN SELECT count(*) FROM item", "malformed"),
    ("BEGIN", "malformed"),
    ("SELECT ?", "malformed"),
    ("SELECT count(*) FROM item /* not closed, which SQLite allows", "correct"),
    ("SELECT count(*) FROM item -- ; DROP TABLE item", "correct"),
    ("SELECT 'x", "malformed"),
    ("SELECT \x00", "malformed"),
    ("SELECT '\ud800'", "malformed"),
    ("SELECT " + "(" * 5000 + "1" + ")" * 5000, "malformed"),
    ("SELECT 1" + " UNION ALL SELECT 1" * 500, "malformed"),
    ("SELECT " + ", ".join(["1"] * 3000), "malformed"),
    ("SELECT 1 -- " + "x" * 30_000, "too_complex"),
    ("SELECT length(printf('%.*c', 1000000000, 'x')) FROM item", "malformed"),
    ("SELECT length(printf('%1000000000d', 1)) FROM item", "malformed"),
    ("SELECT length(replace(hex(printf('%9999d', 1)), '2', printf('%9999d', 1))) FROM item", "too_complex"),
    (
        "SELECT length(group_concat(replace(printf('%9999d', a.id), ' ', '0123456789'))) FROM item a, item b",
        "too_complex",
    ),
    ("WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c", "too_complex"),
    ("WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c", "wrong"),
    ("SELECT count(*) FROM item a, item b, item c, item d, item e, item f, item g, item h, item i", "too_complex"),
]


@pytest.mark.parametrize(("query", "outcome"), ATTACKS, ids=lambda value: str(value)[:40].encode("ascii", "replace"))
def test_attacks_are_refused_and_leave_nothing_behind(
    query: str, outcome: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    gold = "SELECT count(*) FROM item"
    verdict = judge(gold, query)
    assert verdict.outcome == outcome, verdict
    assert list(tmp_path.iterdir()) == []
    assert judge(gold, "SELECT count(id) FROM item").score == 1.0  # on the same connections


def test_an_endless_query_ends_by_counted_steps_with_the_same_words_each_time() -> None:
    endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"
    verdicts = [judge("SELECT count(*) FROM item", endless) for _ in range(3)]
    assert {verdict.reason for verdict in verdicts} == {"the query takes more than 2000000 steps"}
    assert judge("SELECT count(*) FROM item", endless, steps=5000).reason == "the query takes more than 5000 steps"


@pytest.mark.slow
def test_a_query_that_hoards_memory_ends_in_its_worker() -> None:
    row = "replace(printf('%9999d', 1), ' ', '0123456789')"
    hoard = (
        f"WITH RECURSIVE c(x, y) AS (SELECT 1, {row} UNION ALL SELECT x + 1, y || '' FROM c LIMIT 100000) "
        "SELECT count(y) FROM (SELECT y FROM c ORDER BY y DESC LIMIT 90000)"
    )
    task = Task(id="t", prompt="", gold={"query": "SELECT count(*) FROM item", "schema": SHOP})
    with VerifierPool(["sql"], workers=1, memory_mib=2048) as pool:
        verdicts = pool.judge([("sql", f"```sql\n{text}\n```", task) for text in (hoard, "SELECT count(id) FROM item")])
    assert [verdict.score for verdict in verdicts] == [0.0, 1.0]
    assert verdicts[0].outcome in ("too_complex", "timeout")


def make_file(path: Path, script: str = SHOP) -> Path:
    connection = sqlite3.connect(path)
    connection.executescript(script)
    connection.close()
    return path


def test_a_database_file_is_read_and_stays_as_it_is(tmp_path: Path) -> None:
    path = make_file(tmp_path / "shop #1?.sqlite")
    before = path.read_bytes()
    gold = {"query": "SELECT kind, count(*) FROM item GROUP BY kind", "database": str(path)}
    assert judge("", "SELECT kind, count(id) FROM item GROUP BY kind", gold=gold).score == 1.0
    assert judge("", "DELETE FROM item", gold=gold).score == 0.0
    assert judge("", "SELECT 'office', 3 UNION SELECT 'kitchen', 3 FROM item", gold=gold).score == 0.0
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    path = make_file(tmp_path / "shop.sqlite")
    gold = {"query": "SELECT name FROM item WHERE price > 20", "database": str(path)}
    task = Task(id="t", prompt="", gold=gold)
    assert gold_problem("sql", task) == ""
    path.unlink()
    make_file(path, SHOP + "DROP TABLE sale; DELETE FROM item WHERE price > 20;")
    assert "empty" in gold_problem("sql", task)


def test_rows_of_a_large_file_are_judged_whole_and_copied_in_part(tmp_path: Path) -> None:
    path = tmp_path / "large.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE n (id INTEGER PRIMARY KEY, v INTEGER)")
    connection.executemany("INSERT INTO n VALUES (?, ?)", [(k, k * 7919 % 1009) for k in range(20_000)])
    connection.commit()
    connection.close()
    gold = {"query": "SELECT count(*) FROM n WHERE v < 100", "database": str(path)}
    assert judge("", "SELECT count(*) FROM n WHERE v <= 99", gold=gold).score == 1.0
    assert judge("", "SELECT count(*) FROM (SELECT * FROM n LIMIT 500) WHERE v < 100", gold=gold).score == 0.0


def test_several_databases_can_be_given_and_none_be_made() -> None:
    other = SHOP + "DELETE FROM item WHERE kind = 'office';"
    gold = {"query": "SELECT count(*) FROM item", "databases": [SHOP, {"schema": other}]}
    verdict = judge("", "SELECT count(id) FROM item", gold=gold, perturb="none")
    assert (verdict.score, verdict.checks) == (1.0, {"databases": 2, "agreed": 2})
    assert judge("", "SELECT 6 FROM item LIMIT 1", gold=gold, perturb="none").score == 0.0
    assert "one database alone" in judge("SELECT count(*) FROM item", "SELECT 6", perturb="none").reason


def test_rows_may_be_lists_or_mappings() -> None:
    schema = "CREATE TABLE t (a INTEGER, b TEXT)"
    for rows in ([[1, "x"], [2, "y"], [3, None]], [{"b": "x", "a": 1}, {"a": 2, "b": "y"}, {"a": 3, "b": None}]):
        gold = {"query": "SELECT b FROM t WHERE a > 1", "schema": schema, "rows": {"t": rows}}
        assert judge("", "SELECT b FROM t WHERE NOT a <= 1", gold=gold).score == 1.0
    gold = {
        "query": "SELECT b FROM t",
        "schema": schema,
        "inserts": ["INSERT INTO t VALUES (1, 'x')", "INSERT INTO t VALUES (2, 'y')"],
    }
    assert judge("", "SELECT b FROM t", gold=gold).score == 1.0


def test_a_gold_of_text_finds_its_database_in_the_row_or_by_the_option(tmp_path: Path) -> None:
    make_file(tmp_path / "shop.sqlite")
    by_row = Task(id="t", prompt="", gold="SELECT name FROM item", info={"schema": SHOP})
    by_option = Task(id="t", prompt="", gold="SELECT name FROM item", info={"db_id": "shop"})
    pattern = str(tmp_path / "{db_id}.sqlite")
    assert apply(lookup("sql"), "SELECT name FROM item", by_row).score == 1.0
    assert apply(lookup("sql"), "SELECT name FROM item", by_option, {"database": pattern}).score == 1.0
    unknown = apply(lookup("sql"), "SELECT name FROM item", by_option, {"database": "{db}.sqlite"})
    assert (unknown.outcome, unknown.score) == ("gold_invalid", None)
    assert "'db'" in unknown.reason


@pytest.mark.parametrize(
    ("gold", "reason"),
    [
        (None, "must be a query"),
        ({}, "no query"),
        ({"query": "SELECT 1"}, "no database"),
        ({"query": "SELECT 1", "shema": SHOP}, "did you mean 'schema'?"),
        ({"query": "SELECT 1", "schema": SHOP, "database": "x.sqlite"}, "several of"),
        ({"query": "SELECT name FROM item", "database": "none.sqlite"}, "no database file"),
        ({"query": "SELECT name FROM item", "schema": "CREATE TABLE item (name"}, "cannot be built"),
        ({"query": "SELECT name FROM item", "schema": SHOP + "ATTACH 'attacked.db' AS x;"}, "not authorized"),
        ({"query": "SELECT name FROM item", "schema": SHOP + "PRAGMA journal_mode=WAL;"}, "not authorized"),
        ({"query": "SELECT nam FROM item", "schema": SHOP}, "no such column"),
        ({"query": "DELETE FROM item", "schema": SHOP}, "must begin with SELECT"),
        ({"query": "SELECT name FROM item WHERE price > 1000", "schema": SHOP}, "is empty on all"),
        ({"query": "SELECT 5", "schema": SHOP}, "reads no table"),
        ({"query": "SELECT count(*) > 0 FROM item", "schema": SHOP}, "same on all"),
        ({"query": "SELECT name FROM item LIMIT 1", "schema": SHOP}, "order in which rows are stored"),
        ({"query": "SELECT name FROM item WHERE date('now') > '2000'", "schema": SHOP}, "current time"),
        ({"query": "SELECT name FROM item", "schema": SHOP, "rows": {"item": [[1], [1, 2]]}}, "different forms"),
        ({"query": "SELECT name FROM item", "schema": SHOP, "rows": [1]}, "mapping of tables"),
        ({"query": "SELECT name FROM item", "databases": "x"}, "must be a list"),
    ],
)
def test_a_gold_that_tells_nothing_is_never_the_models_zero(gold: Any, reason: str, tmp_path: Path) -> None:
    verdict = apply(lookup("sql"), "SELECT name FROM item", Task(id="t", prompt="", gold=gold))
    assert (verdict.score, verdict.outcome) == (None, "gold_invalid"), verdict
    assert reason in verdict.reason
    assert gold_problem("sql", Task(id="t", prompt="", gold=gold)) == verdict.reason


def test_a_broken_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "broken.sqlite"
    path.write_text("this is no database, though it is long enough to be looked at as one" * 100)
    problem = gold_problem("sql", Task(id="t", prompt="", gold={"query": "SELECT a FROM t", "database": str(path)}))
    assert "cannot be read as a SQLite database" in problem


def test_verdicts_are_the_same_in_threads_and_processes() -> None:
    task = Task(id="t", prompt="", gold={"query": "SELECT kind, sum(price) FROM item GROUP BY kind", "schema": SHOP})
    texts = [
        "SELECT kind, sum(price) FROM item GROUP BY 1",
        "SELECT kind, 3 FROM item GROUP BY 1",
        "SELECT kind, max(price) FROM item GROUP BY 1",
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x FROM c) SELECT x, x FROM c, item WHERE x = 2",
    ] * 4

    def view(verdict: Verdict) -> str:
        return json.dumps([verdict.score, verdict.outcome, verdict.reason, verdict.checks])

    here = [view(apply(lookup("sql"), text, task)) for text in texts]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda text: view(apply(lookup("sql"), text, task)), texts)) == here
    with VerifierPool(["sql"], workers=2, memory_mib=2048) as pool:
        assert [view(verdict) for verdict in pool.judge([("sql", text, task) for text in texts])] == here


def test_options_are_checked_before_anything_starts() -> None:
    assert option_problems("sql", {"engine": "duckdb", "variants": 5, "perturb": "rows"}, "o") == []
    problems = option_problems("sql", {"engine": "mysql", "variants": -1, "steps": 1, "tolerence": 0.1}, "o")
    assert [line.partition(":")[0] for line in problems] == ["o.engine", "o.variants", "o.steps", "o.tolerence"]


NEAR = [
    ("SELECT name FROM item WHERE price > 4", "SELECT name FROM item WHERE price >= 4"),
    ("SELECT name FROM item WHERE price >= 4", "SELECT name FROM item WHERE price > 4"),
    ("SELECT count(*) FROM sale WHERE num > 3", "SELECT count(*) FROM sale WHERE num >= 3"),
    ("SELECT count(*) FROM sale WHERE num > 3", "SELECT count(*) FROM sale WHERE num > 2"),
    ("SELECT count(*) FROM sale WHERE num > 3", "SELECT count(*) FROM sale WHERE num > 4"),
    ("SELECT day FROM sale WHERE num BETWEEN 2 AND 5", "SELECT day FROM sale WHERE num BETWEEN 2 AND 4"),
    ("SELECT count(*) FROM sale WHERE day < '2024-02-01'", "SELECT count(*) FROM sale WHERE day <= '2024-02-01'"),
    ("SELECT count(*) FROM sale WHERE day > '2024-01-31'", "SELECT count(*) FROM sale WHERE day >= '2024-01-31'"),
    ("SELECT sum(num) FROM sale WHERE 3 <= num", "SELECT sum(num) FROM sale WHERE 3 < num"),
    (
        "SELECT count(*) FROM item WHERE kind = 'office'",
        "SELECT count(*) FROM item WHERE name IN ('pen','ink','pad')",
    ),
    ("SELECT count(*) FROM item WHERE kind = 'office'", "SELECT count(*) FROM item WHERE id IN (1, 4, 6)"),
    ("SELECT count(*) FROM item WHERE kind = 'office'", "SELECT count(*) / 2 FROM item"),
]


@pytest.mark.parametrize(("gold", "answer"), NEAR)
@pytest.mark.parametrize("engine", ["sqlite", "duckdb"])
def test_a_query_that_misses_the_gold_by_one_value_earns_nothing(gold: str, answer: str, engine: str) -> None:
    schema = SHOP.replace("id INTEGER PRIMARY KEY, name TEXT UNIQUE", "id INTEGER PRIMARY KEY, name TEXT")
    verdict = judge(gold, answer, schema, engine=engine)
    assert (verdict.score, verdict.outcome) == (0.0, "wrong"), verdict
    assert judge(gold, gold + " ", schema, engine=engine).score == 1.0
