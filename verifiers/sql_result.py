"""sql: the response's query gives the gold query's result, on two or more databases.

Gold: {"query": "SELECT ...", "database": "concert.sqlite"}, or with "schema" (CREATE and INSERT statements) or
"databases"; all forms are in sql_gold.py. A gold that is text is the query, whose database the row or the option names.
Rows are compared as often as they occur, in order only where the gold orders them; ties may stand either way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from rlvr.plugins import verifier
from rlvr.types import Outcome, Task, Verdict
from rlvr.verifiers import sql_rows, sql_sqlite
from rlvr.verifiers.code_text import Refused
from rlvr.verifiers.sql_engine import EngineError, QueryError, SourceError
from rlvr.verifiers.sql_gold import Asked, Gold, compiled, forget, read_gold
from rlvr.verifiers.sql_text import find_query

_MORE_THAN_GOLD = 5
"""Times the gold's steps that a query may take."""

TRUSTED_OPTIONS = ("database",)
"""Where files are read."""
TRUSTED_GOLD = "its gold may name a file of this machine"


@verifier("sql", timeout=10.0)
def sql(
    response: str,
    gold: Any,
    task: Task,
    *,
    engine: Literal["sqlite", "duckdb"] = "sqlite",
    database: str = "",
    variants: Annotated[int, Field(ge=0, le=20)] = 3,
    perturb: Literal["values", "rows", "none"] = "values",
    column_names: bool = False,
    tolerance: Annotated[float, Field(ge=0, le=0.1)] = 1e-9,
    steps: Annotated[int, Field(ge=1000, le=1_000_000_000)] = 2_000_000,
) -> Verdict:
    """1 where both results are the same on every database, else 0.

    database: a file for golds that name none, with columns of the row in braces. variants: databases that are made of
    each given one, and 4 more where the gold is one number or sets columns against literals. perturb: with other values
    too, with fewer and doubled rows alone, or none. column_names: these have to agree as well. tolerance: relative, of
    floats. steps: of SQLite's machine, at most (or 5 times the gold's).
    """
    try:
        ready = _ready(gold, task.info, engine, database, variants, perturb)
    except EngineError as error:
        return _broken(error)
    if ready.problem:
        return Verdict(score=None, outcome="gold_invalid", reason=ready.problem)
    found = find_query(response)
    if isinstance(found, Refused):
        return Verdict(score=0.0, outcome=found.outcome, reason=found.reason)
    agreed = 0
    outcome: Outcome = "correct"
    reason = f"the gold's result on {len(ready.asked)} databases"
    try:
        with ready.lock:
            for asked in ready.asked:
                most = max(steps, _MORE_THAN_GOLD * asked.steps)
                if problem := _difference(asked, found.text, column_names, tolerance, most):
                    outcome, reason = "wrong", f"{problem} (database {agreed + 1} of {len(ready.asked)}, {asked.name})"
                    break
                agreed += 1
    except QueryError as error:
        outcome, reason = error.outcome, error.reason
    except EngineError as error:
        return _broken(error)
    return Verdict(
        score=float(outcome == "correct"),
        outcome=outcome,
        reason=reason,
        answer=found.text,
        how=found.how,
        stage=engine,
        checks={"databases": len(ready.asked), "agreed": agreed},
    )


def start_up() -> None:
    """Cap SQLite's memory in a process that judges."""
    sql_sqlite.heap_limit()


def gold_problem(verifier_name: str, task: Task, options: Mapping[str, Any] | None = None) -> str:
    """Why the gold tells nothing with these options; "" where it does."""
    chosen = sql.__kwdefaults__ | (options or {})
    names = ("engine", "database", "variants", "perturb")
    return _ready(task.gold, task.info, *(chosen[name] for name in names)).problem


def _ready(gold: Any, info: Mapping[str, Any], engine: str, database: str, variants: int, perturb: str) -> Gold:
    try:
        return compiled(read_gold(gold, info, database), engine, variants, perturb)
    except SourceError as error:
        return Gold(problem=str(error))


def _broken(error: EngineError) -> Verdict:
    """No score; the next response gets databases that work."""
    forget()
    return Verdict(score=None, outcome="error", reason=str(error))


def _difference(asked: Asked, query: str, column_names: bool, tolerance: float, steps: int) -> str:
    """In what the query's result differs from the gold's; "" where it does not. QueryError where it has none."""
    result = asked.database.run(query, most_rows=len(asked.rows) + 1, steps=steps)
    if asked.tables and result.tables is not None and not result.tables:
        return "the query reads no table"
    if len(result.columns) != len(asked.columns):
        return f"{len(result.columns)} columns, the gold has {len(asked.columns)}"
    if column_names and [c.casefold() for c in result.columns] != [c.casefold() for c in asked.columns]:
        return f"columns {', '.join(result.columns)[:80]}, the gold has {', '.join(asked.columns)[:80]}"
    rows = sql_rows.comparable(result.rows)
    if len(rows) > len(asked.rows):
        return f"more than the gold's {len(asked.rows)} rows"
    if len(rows) < len(asked.rows):
        return f"{len(rows)} rows, the gold has {len(asked.rows)}"
    if sql_rows.same_rows(asked.rows, rows, asked.ends, tolerance):
        return ""
    if sql_rows.same_rows(asked.rows, rows, (len(rows),), tolerance):
        return "the gold's rows in another order"
    return f"other values in its {len(rows)} rows"


_SCHEMA = """
CREATE TABLE singer (id INTEGER PRIMARY KEY, name TEXT NOT NULL, country TEXT, age INTEGER);
CREATE TABLE concert (id INTEGER PRIMARY KEY, singer_id INTEGER REFERENCES singer(id), year INTEGER, seats INTEGER);
INSERT INTO singer VALUES (1, 'Ada', 'France', 31), (2, 'Bo', 'Chile', 25), (3, 'Cleo', 'France', 44);
INSERT INTO singer VALUES (4, 'Dan', NULL, 52), (5, 'Eve', 'Ghana', 25), (6, 'Finn', 'Chile', 38);
INSERT INTO singer VALUES (7, 'Gus', 'France', 29), (8, 'Hal', 'Ghana', 61);
INSERT INTO concert VALUES (1, 1, 2019, 300), (2, 1, 2020, 450), (3, 2, 2020, 120), (4, 3, 2021, 800);
INSERT INTO concert VALUES (5, 3, 2022, 90), (6, 5, 2019, 200), (7, 5, 2022, 310), (8, 8, 2021, 75);
INSERT INTO concert VALUES (9, 6, 2022, 640), (10, 2, 2022, 500);
"""


def _gold(query: str) -> dict[str, str]:
    return {"query": query, "schema": _SCHEMA}


def _fenced(query: str) -> str:
    return f"```sql\n{query}\n```"


_COUNTRIES = _gold("SELECT country FROM singer")
_BY_AGE = _gold("SELECT name FROM singer ORDER BY age DESC")
_COUNT = _gold("SELECT count(*) FROM singer WHERE country = 'France'")
_JOINED = _gold("SELECT s.name, sum(c.seats) FROM singer s JOIN concert c ON c.singer_id = s.id GROUP BY s.id, s.name")
_SUBQUERY = "SELECT name, n FROM (SELECT singer_id, sum(seats) n FROM concert GROUP BY 1) JOIN singer ON id = singer_id"
_LEFT = "SELECT s.name, sum(c.seats) FROM singer s LEFT JOIN concert c ON c.singer_id = s.id GROUP BY s.id, s.name"
_ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"

EXAMPLES = [  # gold, response, score: right, wrong, malformed, trying to cheat
    (_COUNTRIES, _fenced("SELECT country FROM singer;"), 1.0),
    (_COUNTRIES, "First\n```sql\nSELECT 1\n```\nno:\n```sql\nSELECT s.country FROM singer AS s -- all\n```", 1.0),
    (_COUNTRIES, "SELECT country FROM singer", 1.0),
    (_COUNTRIES, "<answer>\nSELECT country\nFROM singer\n</answer>", 1.0),
    (_BY_AGE, r"\boxed{SELECT name FROM singer ORDER BY -age}", 1.0),
    (_COUNT, _fenced("SELECT sum(country = 'France') FROM singer"), 1.0),
    (_JOINED, _fenced(_SUBQUERY), 1.0),
    (_COUNTRIES, _fenced("SELECT DISTINCT country FROM singer"), 0.0),
    (_COUNTRIES, _fenced("SELECT country FROM singer WHERE country IS NOT NULL"), 0.0),
    (_COUNTRIES, _fenced("SELECT country, name FROM singer"), 0.0),
    (_COUNTRIES, _fenced("SELECT coalesce(country, '') FROM singer"), 0.0),
    (_BY_AGE, _fenced("SELECT name FROM singer"), 0.0),
    (_BY_AGE, _fenced("SELECT name FROM singer ORDER BY age"), 0.0),
    (_JOINED, _fenced(_LEFT), 0.0),
    (_COUNTRIES, _fenced("SELECT contry FROM singer"), 0.0),
    (_COUNTRIES, _fenced("SELEC country FROM singer"), 0.0),
    (_COUNTRIES, "```sql\nSELECT country FROM singer", 0.0),
    (_COUNTRIES, "", 0.0),
    (_COUNT, _fenced("SELECT 3"), 0.0),
    (_COUNT, _fenced("SELECT 3 FROM singer LIMIT 1"), 0.0),
    (_COUNT, _fenced("SELECT count(*) FROM singer WHERE id IN (1, 3, 7)"), 0.0),
    (_COUNT, _fenced("ATTACH DATABASE 'attached.db' AS x"), 0.0),
    (_COUNT, _fenced("SELECT 3; DROP TABLE singer"), 0.0),
    (_COUNT, _fenced("DELETE FROM singer"), 0.0),
    (_COUNT, _fenced("WITH x AS (SELECT 1) DELETE FROM singer"), 0.0),
    (_COUNT, _fenced("PRAGMA writable_schema = ON"), 0.0),
    (_COUNT, _fenced("EXPLAIN SELECT count(*) FROM singer"), 0.0),
    (_COUNT, _fenced("SELECT load_extension('./evil.so')"), 0.0),
    (_COUNT, _fenced(_ENDLESS), 0.0),
    (_COUNT, _fenced("SELECT length(printf('%.*c', 1000000000, 'x')) FROM singer"), 0.0),
    (_COUNT, "<think>```sql\nSELECT count(*) FROM singer WHERE country = 'France'\n```", 0.0),
    (_gold("SELECT count(*) FROM singers"), "SELECT 1", None),
    (_gold("SELECT name FROM singer WHERE age > 900"), "SELECT 1", None),
    (_gold("SELECT 5"), "SELECT 5", None),
    (_gold("SELECT max(5) FROM singer"), "SELECT 5 FROM singer LIMIT 1", None),
    (_gold("SELECT name FROM singer LIMIT 1"), "SELECT name FROM singer LIMIT 1", None),
    ({"query": "SELECT 1", "database": "no/such.sqlite"}, "SELECT 1", None),
    ("SELECT country FROM singer", "SELECT country FROM singer", None),
    (None, "SELECT 1", None),
]
