"""SQLite as an engine for queries that nobody trusts.

A query reaches a connection that can only read: the file is opened read-only and immutable, or the database lives in
memory; an authorizer (https://sqlite.org/c3ref/set_authorizer.html) allows SELECT, recursion, reads of the database's
own tables and functions of a fixed list; sizes and steps are capped. Steps are those of SQLite's machine, so that no
clock takes part in a verdict.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rlvr.verifiers.sql_engine import (
    MOST_CELL,
    MOST_COPIED,
    Contents,
    Link,
    QueryError,
    Result,
    RowsOf,
    SourceError,
    Table,
    quoted,
    told,
)
from rlvr.verifiers.sql_text import MOST_CHARACTERS, is_read

_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: MOST_CELL,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 4 * MOST_CHARACTERS,  # bytes
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 200,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 50,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 250_000,
    sqlite3.SQLITE_LIMIT_FUNCTION_ARG: 64,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 1000,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 10,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}
_STEPS_BETWEEN = 1000
_MOST_SCRIPT_STEPS = 50_000_000
_HEAP_BYTES = 512 << 20
"""Of SQLite in a process that judges."""
_CLOCKS = ("date", "time", "datetime", "julianday", "unixepoch", "strftime")
_FORMATS = ("printf", "format")
_WIDE = re.compile(r"\*|\d{5}")
_FUNCTIONS = frozenset(
    "abs avg char coalesce concat concat_ws count cume_dist dense_rank first_value format glob group_concat hex "
    "ifnull iif instr json json_array json_array_length json_extract json_group_array json_group_object json_insert "
    "json_object json_patch json_quote json_remove json_replace json_set json_type json_valid lag last_value lead "
    "length like likelihood likely lower ltrim max min nth_value ntile nullif octet_length percent_rank printf quote "
    "rank replace round row_number rtrim sign soundex string_agg substr substring sum total trim typeof unhex unicode "
    "unlikely upper acos acosh asin asinh atan atan2 atanh ceil ceiling cos cosh degrees exp floor ln log log10 log2 "
    "mod pi pow power radians sin sinh sqrt tan tanh trunc -> ->>".split()
) | frozenset(_CLOCKS)
_TABLE_FUNCTIONS = ("json_each", "json_tree")
_SCRIPT_MAY = frozenset(
    getattr(sqlite3, f"SQLITE_{name}")
    for name in "CREATE_INDEX CREATE_TABLE CREATE_VIEW CREATE_TRIGGER DROP_INDEX DROP_TABLE DROP_VIEW DROP_TRIGGER "
    "INSERT UPDATE DELETE SELECT READ TRANSACTION SAVEPOINT ALTER_TABLE REINDEX ANALYZE FUNCTION RECURSIVE".split()
)


def heap_limit() -> None:
    """Cap SQLite's memory in this process, for good."""
    connection = sqlite3.connect(":memory:")
    connection.execute(f"PRAGMA hard_heap_limit={_HEAP_BYTES}").fetchall()
    connection.close()


def from_script(script: str, rows: Sequence[RowsOf] = ()) -> SqliteDatabase:
    """A database in memory, by CREATE and INSERT statements. SourceError where they fail or do anything else."""
    connection = _connect(":memory:")
    _count_steps(connection, _MOST_SCRIPT_STEPS)
    connection.set_authorizer(_script_may)
    try:
        connection.executescript(script)
        for table, columns, values in rows:
            names = f" ({', '.join(map(quoted, columns))})" if columns else ""
            marks = ", ".join("?" * len(values[0])) if values else ""
            connection.executemany(f"INSERT INTO {quoted(table)}{names} VALUES ({marks})", values)
    except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as error:
        connection.close()
        raise SourceError(f"the schema cannot be built: {told(error)}") from None
    return SqliteDatabase(connection)


def from_file(path: Path) -> SqliteDatabase:
    """A database file, which stays as it is. SourceError where there is none."""
    if not path.is_file():
        raise SourceError(f"no database file {path}")
    connection = _connect(f"file:{quote(str(path.resolve()))}?mode=ro&immutable=1")
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
    except sqlite3.Error as error:
        connection.close()
        raise SourceError(f"{path} cannot be read as a SQLite database: {told(error)}") from None
    return SqliteDatabase(connection)


def from_contents(contents: Contents) -> SqliteDatabase:
    """A database in memory with these rows; those that break a constraint are left out. SourceError where it fails."""
    connection = _connect(":memory:")
    connection.set_authorizer(_script_may)
    try:
        for statement in contents.create:
            connection.execute(statement)
        connection.execute("BEGIN")
        for table in contents.tables:
            names = ", ".join(map(quoted, table.columns))
            marks = ", ".join("?" * len(table.columns))
            connection.executemany(f"INSERT OR IGNORE INTO {quoted(table.name)} ({names}) VALUES ({marks})", table.rows)
        connection.execute("COMMIT")
        for statement in (*contents.indexes, *contents.views):
            connection.execute(statement)
    except sqlite3.Error as error:
        connection.close()
        raise SourceError(f"the database cannot be copied: {told(error)}") from None
    return SqliteDatabase(connection)


class SqliteDatabase:
    """A connection that from now on can only read."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        connection.set_authorizer(None)
        connection.execute("PRAGMA temp_store=MEMORY")
        connection.execute("PRAGMA query_only=ON")
        for name in _TABLE_FUNCTIONS:  # the first use of one writes to the schema in memory
            connection.execute(f"SELECT * FROM {name}('[]')").fetchall()
        rows = connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')").fetchall()
        self._own = frozenset(name.casefold() for (name,) in rows)
        self._read: set[str] = set()
        connection.set_authorizer(self._may)

    def run(self, query: str, *, most_rows: int, steps: int) -> Result:
        """See Database.run."""
        if not is_read(query):
            raise QueryError("malformed", "only a query is run: it must begin with SELECT, WITH or VALUES")
        counter = _count_steps(self._connection, steps)
        self._read.clear()
        try:
            cursor = self._connection.execute(query)
            rows = tuple(cursor.fetchmany(most_rows))
            columns = tuple(column[0] for column in cursor.description or ())
            cursor.close()
        except MemoryError:
            raise QueryError("too_complex", "the query needs more memory than allowed") from None
        except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as error:
            raise self._refusal(error, steps) from None
        finally:
            self._connection.set_progress_handler(None, 0)
        return Result(columns, rows, counter[0], frozenset(self._read))

    def contents(self) -> Contents:
        """See Database.contents. Virtual tables are left out."""
        self._connection.set_authorizer(None)
        try:
            return _contents(self._connection)
        finally:
            self._connection.set_authorizer(self._may)

    def _may(self, action: int, first: str | None, second: str | None, schema: str | None, source: str | None) -> int:
        if action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_RECURSIVE):
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_READ:
            name = (first or "").casefold()
            if name in self._own:
                self._read.add(name)
                return sqlite3.SQLITE_OK
            # with no column, it may be a subquery, of which only the rows count
            is_harmless = name in _TABLE_FUNCTIONS or (not second and not name.startswith("sqlite_"))
            return sqlite3.SQLITE_OK if is_harmless else sqlite3.SQLITE_DENY
        if action == sqlite3.SQLITE_FUNCTION and (second or "").casefold() in _FUNCTIONS:
            return sqlite3.SQLITE_OK
        return sqlite3.SQLITE_DENY

    @staticmethod
    def _refusal(error: Exception, steps: int) -> QueryError:
        said = told(error)
        if "interrupted" in said:
            return QueryError("too_complex", f"the query takes more than {steps} steps")
        if "too big" in said:
            return QueryError("too_complex", f"the query makes a value of more than {MOST_CELL} bytes")
        if "user-defined function" in said:
            said = "a date function asks for the current time, or printf for a field of 10,000 characters"
        if "not authorized" in said or "prohibited" in said:
            return QueryError("malformed", f"the query does more than read the tables: {said}")
        return QueryError("malformed", f"the query fails: {said}")


def _connect(where: str) -> sqlite3.Connection:
    # no statement cache: an authorizer is asked while a statement is prepared, and what it reads is recorded then
    connection = sqlite3.connect(
        where, uri=where.startswith("file:"), isolation_level=None, check_same_thread=False, cached_statements=0
    )
    connection.text_factory = _as_text
    for limit, value in _LIMITS.items():
        connection.setlimit(limit, value)
    connection.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, 1_000_000_000 if where == ":memory:" else 4 * MOST_CHARACTERS)
    for name in (*_CLOCKS, *_FORMATS):
        connection.create_function(name, -1, partial(_guarded, name), deterministic=True)
    return connection


def _as_text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")  # databases of others hold broken text


_pristine: list[sqlite3.Connection] = []


def _guarded(name: str, *arguments: Any) -> Any:
    """SQLite's own function of that name, where it asks for no current time and for no field of 10,000 characters.

    A wide field keeps one step of SQLite's machine busy for seconds, whatever the limits.
    """
    if name in _FORMATS:
        if arguments and _WIDE.search(str(arguments[0])):
            raise ValueError("too wide")
    else:
        times = arguments[1:] if name == "strftime" else arguments
        if not times or any(isinstance(one, str) and one.strip().casefold() == "now" for one in times):
            raise ValueError("the current time")
    if not _pristine:
        _pristine.append(sqlite3.connect(":memory:", check_same_thread=False))
        _pristine[0].setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MOST_CELL)
    marks = ", ".join("?" * len(arguments))
    return _pristine[0].execute(f"SELECT {name}({marks})", arguments).fetchone()[0]


def _count_steps(connection: sqlite3.Connection, most: int) -> list[int]:
    """A counter of thousands of steps, by which what runs next is interrupted after `most`."""
    counter = [0]

    def step() -> int:
        counter[0] += _STEPS_BETWEEN
        return int(counter[0] > most)

    connection.set_progress_handler(step, _STEPS_BETWEEN)
    return counter


def _script_may(action: int, first: str | None, second: str | None, schema: str | None, source: str | None) -> int:
    """Dumps begin with PRAGMA foreign_keys=OFF."""
    if action in _SCRIPT_MAY and (action != sqlite3.SQLITE_FUNCTION or (second or "").casefold() != "load_extension"):
        return sqlite3.SQLITE_OK
    is_harmless = action == sqlite3.SQLITE_PRAGMA and (first or "").casefold() == "foreign_keys"
    return sqlite3.SQLITE_OK if is_harmless else sqlite3.SQLITE_DENY


# --- a database as data


def _contents(connection: sqlite3.Connection) -> Contents:
    ask: Callable[..., list[Any]] = lambda text, *values: connection.execute(text, values).fetchall()  # noqa: E731
    made = ask(
        "SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    )
    virtual = [name for _, name, text in made if " ".join(text.split()[:2]).casefold() == "create virtual"]
    # what belongs to a virtual table bears its name and more
    plain = [
        (kind, name, text)
        for kind, name, text in made
        if not any(name == one or name.startswith(f"{one}_") for one in virtual)
    ]
    columns = {
        name: [row[1] for row in ask(f"PRAGMA table_xinfo({quoted(name)})") if row[6] == 0]
        for kind, name, _ in plain
        if kind == "table"
    }
    tables = [_table(ask, name, columns) for name in columns]
    sizes = [
        ask(f"SELECT count(*) FROM (SELECT 1 FROM {quoted(name)} LIMIT {MOST_COPIED + 1})")[0][0] for name in columns
    ]
    create = tuple(text for kind, _, text in plain if kind == "table")
    # without its own words a column loses its collation, and what it is generated from
    is_plain = not any(re.search(r"\b(?:collate|generated|as)\b", text, re.IGNORECASE) for text in create)
    return Contents(
        tuple(tables),
        max(sizes, default=0) <= MOST_COPIED,
        create,
        tuple(_keyless(ask, name) for name in columns) if is_plain else create,
        tuple(text for kind, _, text in plain if kind == "index"),
        tuple(text for kind, _, text in plain if kind == "view"),
    )


def _keyless(ask: Callable[..., list[Any]], name: str) -> str:
    columns = [f"{quoted(row[1])} {row[2]}" for row in ask(f"PRAGMA table_info({quoted(name)})")]
    return f"CREATE TABLE {quoted(name)} ({', '.join(columns)})"


def _table(ask: Callable[..., list[Any]], name: str, columns: dict[str, list[str]]) -> Table:
    own = columns[name]
    info = ask(f"PRAGMA table_info({quoted(name)})")
    primary = [row[1] for row in sorted(info, key=lambda row: row[5]) if row[5]]
    keys = [_indices(primary, own)] if primary else []
    for index in ask(f"PRAGMA index_list({quoted(name)})"):
        if index[2]:
            keys.append(_indices([row[2] for row in ask(f"PRAGMA index_info({quoted(index[1])})")], own))
    links: dict[int, list[Any]] = {}
    for row in ask(f"PRAGMA foreign_key_list({quoted(name)})"):
        links.setdefault(row[0], []).append(row)
    found = [link for rows in links.values() if (link := _link(ask, rows, own, columns)) is not None]
    names = ", ".join(map(quoted, own))
    rows = ask(f"SELECT {names} FROM {quoted(name)} LIMIT {MOST_COPIED}")
    return Table(name, tuple(own), tuple(rows), tuple(dict.fromkeys(key for key in keys if key)), tuple(found))


def _indices(names: Iterable[str | None], columns: Sequence[str]) -> tuple[int, ...]:
    """() where one of them is no column, such as an expression."""
    lower = [column.casefold() for column in columns]
    wanted = [(name or "").casefold() for name in names]
    return tuple(sorted(lower.index(name) for name in wanted)) if all(name in lower for name in wanted) else ()


def _link(ask: Callable[..., list[Any]], rows: list[Any], own: list[str], columns: dict[str, list[str]]) -> Link | None:
    rows = sorted(rows, key=lambda row: row[1])
    parent = next((name for name in columns if name.casefold() == rows[0][2].casefold()), None)
    if parent is None:
        return None
    targets = [row[4] for row in rows]
    if None in targets:  # the parent's primary key is meant
        info = ask(f"PRAGMA table_info({quoted(parent)})")
        targets = [row[1] for row in sorted(info, key=lambda row: row[5]) if row[5]]
    lower = [[name.casefold() for name in names] for names in (own, columns[parent])]
    try:
        left = tuple(lower[0].index(row[3].casefold()) for row in rows)
        right = tuple(lower[1].index(target.casefold()) for target in targets)
    except ValueError:
        return None
    return Link(left, parent, right) if len(left) == len(right) else None
