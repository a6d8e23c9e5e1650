"""DuckDB as an engine for queries that nobody trusts.

It reaches no file, no network and no extension, and its settings are locked
(https://duckdb.org/docs/stable/operations_manual/securing_duckdb/overview). One statement, a query, runs in a read-only
transaction with little memory. Nothing counts its steps: an endless query ends with the CPU seconds of the process that
judges.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rlvr.verifiers.sql_duckdb_calls import refused
from rlvr.verifiers.sql_engine import (
    MOST_COPIED,
    Contents,
    EngineError,
    Link,
    QueryError,
    Result,
    RowsOf,
    SourceError,
    Table,
    quoted,
    told,
)
from rlvr.verifiers.sql_text import is_text

_LOCKED: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": "false",
    "allow_community_extensions": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",
    "temp_directory": "",
    "memory_limit": "256MB",
    "threads": "1",
    "max_expression_depth": "250",
    "lock_configuration": "true",
}
_NESTED = re.compile(r"\[\d*\]\Z|\A(?:list|struct|map|union|array)\b", re.IGNORECASE)
_BREAKING = ("InternalException", "FatalException")
"""After one of them each further query of the database fails."""


def from_script(script: str, rows: Sequence[RowsOf] = ()) -> DuckdbDatabase:
    """A database in memory, by statements of DuckDB. SourceError where they fail, or ask for more than it may."""
    connection = _connect(":memory:")
    try:
        connection.execute(script)
        for table, columns, values in rows:
            names = f" ({', '.join(map(quoted, columns))})" if columns else ""
            for row in values:
                connection.execute(f"INSERT INTO {quoted(table)}{names} VALUES ({', '.join('?' * len(row))})", row)
    except _error() as error:
        raise SourceError(f"the schema cannot be built: {told(error)}") from None
    return DuckdbDatabase(connection)


def from_file(path: Path) -> DuckdbDatabase:
    """A database file, which stays as it is. SourceError where it is none."""
    if not path.is_file():
        raise SourceError(f"no database file {path}")
    try:
        return DuckdbDatabase(_connect(str(path), read_only=True))
    except _error() as error:
        raise SourceError(f"{path} cannot be read as a DuckDB database: {told(error)}") from None


def from_contents(contents: Contents) -> DuckdbDatabase:
    """A database in memory with these rows; those that break a constraint are left out. SourceError where it fails."""
    connection = _connect(":memory:")
    try:
        for statement, keyless, table in zip(contents.create, contents.keyless, contents.tables, strict=True):
            create, _, checks = statement.partition("\0")
            connection.execute(create)
            if table.rows:
                kinds = connection.execute(f"SELECT * FROM {quoted(table.name)} LIMIT 0").description or []
                types = [str(kind[1]) for kind in kinds]
                columns = (
                    f"unnest(?::{kind}[]) AS {quoted(name)}" for kind, name in zip(types, table.columns, strict=True)
                )
                rows = f"SELECT * FROM (SELECT {', '.join(columns)})" + (f" WHERE {checks}" if checks else "")
                values = [list(column) for column in zip(*table.rows, strict=True)]
                insert = "INSERT OR IGNORE" if table.keys and create != keyless else "INSERT"
                connection.execute(f"{insert} INTO {quoted(table.name)} {rows}", values)
        for statement in contents.views:
            connection.execute(statement)
    except _error() as error:
        raise SourceError(f"the database cannot be copied: {told(error)}") from None
    return DuckdbDatabase(connection)


class DuckdbDatabase:
    """A connection on which each query is alone in a read-only transaction."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def run(self, query: str, *, most_rows: int, steps: int) -> Result:
        """See Database.run; steps are not counted."""
        del steps
        if not is_text(query):
            raise QueryError("malformed", "the query fails: it is no text")
        try:
            if asked := _refused(self._connection, query):
                raise QueryError("malformed", f"the query does more than read the tables: {asked} is not to be had")
            statements = self._connection.extract_statements(query)
            if [statement.type.name for statement in statements] != ["SELECT"]:
                raise QueryError("malformed", "one query alone is run")
            self._connection.execute("BEGIN TRANSACTION READ ONLY")
            try:
                result = self._result(statements[0], most_rows)
            except BaseException:
                with contextlib.suppress(_error()):  # why the query failed is what is told
                    self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("ROLLBACK")
        except MemoryError:
            raise QueryError("too_complex", "the query needs more memory than allowed") from None
        except (_error(), ValueError, OverflowError) as error:  # dates that Python does not know
            kind = type(error).__name__
            if kind == "OutOfMemoryException":
                raise QueryError("too_complex", "the query needs more memory than allowed") from None
            if kind in _BREAKING:
                raise EngineError(f"DuckDB itself failed: {told(error)}") from None
            raise QueryError("malformed", f"the query fails: {told(error)}") from None
        return result

    def _result(self, statement: Any, most_rows: int) -> Result:
        done = self._connection.execute(statement)
        columns = tuple(column[0] for column in done.description or ())
        nested = [str(column[1]) for column in done.description or () if _NESTED.search(str(column[1]))]
        if nested:  # to fetch one takes Python minutes where it is long
            raise QueryError("malformed", f"a column of {nested[0][:40]} is not compared; unnest it or cast it to text")
        return Result(columns, tuple(done.fetchmany(most_rows)))

    def contents(self) -> Contents:
        """See Database.contents."""
        ask: Callable[..., list[Any]] = lambda text, *values: self._connection.execute(text, values).fetchall()  # noqa: E731
        where = "database_name = current_database() AND schema_name = current_schema()"
        names = [row[0] for row in ask(f"SELECT table_name FROM duckdb_tables() WHERE {where} ORDER BY table_oid")]
        found = [_table(ask, name, where) for name in names]
        sizes = [ask(f"SELECT count(*) FROM {quoted(name)}")[0][0] for name in names]
        views = ask(f"SELECT sql FROM duckdb_views() WHERE {where} AND NOT internal ORDER BY view_oid")
        return Contents(
            tuple(table for table, _, _ in found),
            max(sizes, default=0) <= MOST_COPIED,
            tuple(create for _, create, _ in found),
            tuple(keyless for _, _, keyless in found),
            views=tuple(row[0] for row in views),
        )


def _connect(where: str, read_only: bool = False) -> Any:
    import duckdb

    return duckdb.connect(where, read_only=read_only, config=_LOCKED)


def _error() -> Any:
    import duckdb

    return duckdb.Error


def _table(ask: Callable[..., list[Any]], name: str, where: str) -> tuple[Table, str, str]:
    """The table, how to create it (behind NUL what its rows have to fulfil), and without keys."""
    columns = ask(f"SELECT column_name, data_type FROM duckdb_columns() WHERE {where} AND table_name = ?", name)
    own = [column for column, _ in columns]
    keys, links, checks = [], [], []
    for kind, indices, expression, parent, targets in ask(
        "SELECT constraint_type, constraint_column_indexes, expression, referenced_table, referenced_column_names "
        f"FROM duckdb_constraints() WHERE {where} AND table_name = ?",
        name,
    ):
        if kind in ("PRIMARY KEY", "UNIQUE"):
            keys.append(tuple(sorted(indices)))
        elif kind == "CHECK":
            checks.append(f"coalesce(({expression}), true)")
        elif kind == "FOREIGN KEY":
            there = [
                row[0]
                for row in ask(f"SELECT column_name FROM duckdb_columns() WHERE {where} AND table_name = ?", parent)
            ]
            links.append(Link(tuple(indices), parent, tuple(there.index(target) for target in targets)))
    typed = [f"{quoted(column)} {kind}" for column, kind in columns]
    unique = [f"UNIQUE ({', '.join(quoted(own[k]) for k in key)})" for key in keys]
    rows = ask(f"SELECT * FROM {quoted(name)} LIMIT {MOST_COPIED}")
    create, keyless = (f"CREATE TABLE {quoted(name)} ({', '.join(parts)})" for parts in ([*typed, *unique], typed))
    table = Table(name, tuple(own), tuple(rows), tuple(dict.fromkeys(keys)), tuple(links))
    return table, create + "\0" + " AND ".join(checks), keyless


def _refused(connection: Any, query: str) -> str:
    ((parsed,),) = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [query]).fetchall()
    return refused(parsed)
