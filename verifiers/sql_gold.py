"""A gold query with the databases that it was run on, and what it gave there.

    {"query": "SELECT ...", "database": "concert.sqlite"}                 a file, read only
    {"query": "SELECT ...", "schema": "CREATE TABLE ...; INSERT ..."}     a script; more rows in "rows"
    {"query": "SELECT ...", "databases": ["a.sqlite", "CREATE ...", {"schema": "...", "rows": {"t": [[1, "a"]]}}]}

To those that are given come databases of our making (sql_variants.py). A query whose result rests on the order in which
rows are stored, is empty everywhere, or is the same everywhere, tells nothing: such a gold is invalid.
"""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from rlvr import seeds
from rlvr.errors import near
from rlvr.verifiers import sql_rows, sql_variants
from rlvr.verifiers.sql_engine import MOST_ROWS, Contents, Database, QueryError, RowsOf, SourceError
from rlvr.verifiers.sql_text import is_ordered, literals

MOST_STEPS = 20_000_000
"""Of a gold query on one database."""
SOURCES = ("database", "databases", "schema")
_KNOWN = ("query", *SOURCES, "rows", "inserts")
_TRIES = 3
"""Databases made for each that is kept."""
_MORE = 4
"""Databases that are made besides, where the result is one number or the query sets columns against literals."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A database with the gold's result on it."""

    name: str
    """given, or the kind of variant."""
    database: Database
    columns: tuple[str, ...]
    rows: tuple[sql_rows.Row, ...]
    ends: tuple[int, ...]
    """Where blocks of rows end that may stand in any order."""
    steps: int
    tables: frozenset[str] | None


@dataclass(slots=True)
class Gold:
    """A gold that is ready, or what is wrong with it."""

    problem: str = ""
    asked: list[Asked] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    """A connection answers one query at a time."""


def read_gold(gold: Any, info: Mapping[str, Any], pattern: str) -> dict[str, Any]:
    """Query and sources as plain data. SourceError where one is missing or has another form.

    A gold that is text is the query; what it runs on then stands in the row's columns, or in the file that `pattern`
    names, such as "spider/{db_id}.sqlite" with columns of the row in braces.
    """
    if isinstance(gold, str):
        gold = {"query": gold} | {name: info[name] for name in (*SOURCES, "rows", "inserts") if info.get(name)}
    if not isinstance(gold, Mapping):
        raise SourceError(f"the gold must be a query or a mapping with one, got {type(gold).__name__}")
    for name in gold:
        if name not in _KNOWN:
            raise SourceError(
                f"the gold has no {str(name)[:40]!r}; {near(str(name), _KNOWN)}known: {', '.join(_KNOWN)}"
            )
    query = gold.get("query")
    if not isinstance(query, str) or not query.strip():
        raise SourceError("the gold has no query")
    sources = [gold[name] for name in SOURCES if gold.get(name)]
    if len(sources) > 1:
        raise SourceError(f"the gold has several of {', '.join(SOURCES)}; one is wanted")
    if not sources and pattern:
        sources = [_filled(pattern, info)]
    if not sources:
        raise SourceError(f"the gold has no database: give one of {', '.join(SOURCES)}")
    if gold.get("schema"):
        sources = [{"schema": gold["schema"], "rows": gold.get("rows"), "inserts": gold.get("inserts")}]
    listed = sources[0] if gold.get("databases") else sources
    if isinstance(listed, str) or not isinstance(listed, Sequence):
        raise SourceError(f"databases must be a list, got {type(listed).__name__}")
    return {"query": query.strip(), "sources": [_source(one) for one in listed]}


def _filled(pattern: str, info: Mapping[str, Any]) -> str:
    try:
        return pattern.format_map({name: str(value) for name, value in info.items()})
    except (KeyError, ValueError, IndexError) as error:
        raise SourceError(f"the option database {pattern!r} asks for a column that the row lacks: {error}") from None


def _source(source: Any) -> dict[str, Any]:
    if isinstance(source, str):
        return {"schema": source} if "create" in source.casefold() and "(" in source else _file(source)
    if not isinstance(source, Mapping) or not isinstance(source.get("schema"), str):
        raise SourceError(f"a database must be a path, a script or a mapping with a schema, got {str(source)[:60]!r}")
    inserts = source.get("inserts") or ""
    inserts = inserts if isinstance(inserts, str) else ";\n".join(map(str, inserts))
    return {"schema": f"{source['schema']};\n{inserts}", "rows": source.get("rows") or {}}


def _file(path: str) -> dict[str, Any]:
    try:
        state = os.stat(path)
    except (OSError, ValueError):
        raise SourceError(f"no database file {path[:200]}") from None
    return {"file": os.path.abspath(path), "bytes": state.st_size, "changed": state.st_mtime_ns}


def compiled(spec: Mapping[str, Any], engine: str, num_made: int, perturb: str) -> Gold:
    """The gold with all that it needs; the same one for the same values, as long as it is in use."""
    try:
        text = json.dumps(spec, sort_keys=True, ensure_ascii=False)
        text.encode()
    except (TypeError, ValueError) as error:
        return Gold(problem=f"the gold is not plain data: {error}")
    return _compiled(text, engine, num_made, perturb, os.getpid())


def forget() -> None:
    """Open each database anew where it is asked for next."""
    _compiled.cache_clear()


@lru_cache(64)
def _compiled(text: str, engine: str, num_made: int, perturb: str, pid: int) -> Gold:
    # pid: a connection is not carried over a fork
    try:
        spec = json.loads(text)
        return _Maker(spec["query"], _engine(engine), text, num_made, perturb).gold(spec["sources"])
    except SourceError as error:
        return Gold(problem=str(error))
    except MemoryError:
        return Gold(problem="its databases need more memory than a worker has")


def _engine(name: str) -> ModuleType:
    if name == "duckdb":
        from rlvr.verifiers import sql_duckdb

        return sql_duckdb
    from rlvr.verifiers import sql_sqlite

    return sql_sqlite


@dataclass(frozen=True, slots=True)
class _Maker:
    query: str
    engine: ModuleType
    key: str
    """Of all randomness."""
    num_made: int
    perturb: str

    def gold(self, sources: Sequence[Mapping[str, Any]]) -> Gold:
        """SourceError where the gold tells nothing."""
        bases = [self._open(source) for source in sources]
        contents = [base.contents() for base in bases]
        asked = [self._ask("given", base, held) for base, held in zip(bases, contents, strict=True)]
        for k, held in enumerate(contents):
            asked += self._made(held, k, [one for one in asked if one])
        num_unstable = asked.count(None)
        asked = [one for one in asked if one]
        if num_unstable >= len(asked):
            raise SourceError("the gold's result depends on the order in which rows are stored")
        if asked[0].tables is not None and not asked[0].tables:
            raise SourceError("the gold query reads no table")
        if not any(one.rows for one in asked):
            raise SourceError(f"the gold's result is empty on all {len(asked)} databases")
        if len(asked) < 2:
            raise SourceError("one database alone tells too little: give several, or let some be made (perturb)")
        if len({_bag(one) for one in asked}) < 2:
            raise SourceError(f"the gold's result is the same on all {len(asked)} databases, so a constant would pass")
        return Gold(asked=asked)

    def _open(self, source: Mapping[str, Any]) -> Database:
        if "file" in source:
            return self.engine.from_file(Path(source["file"]))
        return self.engine.from_script(source["schema"], _rows(source.get("rows") or {}))

    def _made(self, contents: Contents, base: int, before: Sequence[Asked]) -> list[Asked | None]:
        """Variants on which the gold gives results that it gave nowhere before, as far as they can be had.

        None for each whose result depends on the order of rows.
        """
        if self.perturb == "none" or not self.num_made:
            return []
        kinds = [kind for kind in sql_variants.KINDS if self.perturb == "values" or kind not in ("values", "all")]
        seen = {_bag(one) for one in before}
        kept: list[Asked] = []
        spare: list[Asked] = []
        unstable: list[None] = []
        num_made = self.num_made
        against = literals(self.query, {column.casefold() for table in contents.tables for column in table.columns})
        if any(against.values()) or (before and _is_number(before[-1])):
            num_made += _MORE
            kinds += [kind for kind in sql_variants.MORE_KINDS if self.perturb == "values"]
        num_tries = _TRIES * self.num_made + _MORE
        for k in range(num_tries + _TRIES):
            kind = kinds[k % len(kinds)] if k < num_tries else sql_variants.LAST_RESORT
            if k >= num_tries and len(seen) > 1:
                break
            held = sql_variants.variant(contents, kind, seeds.rng_for("sql variants", self.key, base, k), against)
            try:
                found = self._ask(kind, self.engine.from_contents(held), held)
            except SourceError:
                if k == 0 and not before:
                    raise
                continue
            if found is None:
                unstable.append(None)
                continue
            (spare if _bag(found) in seen else kept).append(found)
            seen.add(_bag(found))
            if len(kept) == num_made:
                break
        return [*[*kept, *spare][:num_made], *unstable]

    def _ask(self, name: str, database: Database, contents: Contents) -> Asked | None:
        """None where the result depends on the order of rows. SourceError where there is none."""
        first = self._run(database)
        rows = sql_rows.comparable(first.rows)
        ends = (len(rows),)  # of a large file the rows alone: which of them are tied is seen on the copies
        if name != "given" or contents.is_whole:
            others = sql_variants.reordered(contents)
            orders = [rows, *(sql_rows.comparable(self._run(self.engine.from_contents(one)).rows) for one in others)]
            if not all(sql_rows.same_rows(rows, other, ends, 1e-9) for other in orders[1:]):
                return None
            if is_ordered(self.query):
                same = all(Counter(rows) == Counter(other) for other in orders[1:])
                ends = sql_rows.ties(orders) if same else tuple(range(1, len(rows) + 1))
        return Asked(name, database, first.columns, rows, ends, first.steps, first.tables)

    def _run(self, database: Database) -> Any:
        try:
            result = database.run(self.query, most_rows=MOST_ROWS + 1, steps=MOST_STEPS)
        except QueryError as error:
            raise SourceError(f"the gold query: {error.reason}") from None
        if len(result.rows) > MOST_ROWS:
            raise SourceError(f"the gold's result has more than {MOST_ROWS} rows")
        return result


def _is_number(asked: Asked) -> bool:
    return len(asked.rows) == 1 and len(asked.rows[0]) == 1 and isinstance(asked.rows[0][0], int | float)


def _bag(asked: Asked) -> frozenset[tuple[sql_rows.Row, int]]:
    return frozenset(Counter(asked.rows).items())


def _rows(tables: Mapping[str, Any]) -> list[RowsOf]:
    """{"t": [[1, "a"], ...]} or {"t": [{"id": 1, "k": "a"}, ...]}. SourceError for anything else."""
    if not isinstance(tables, Mapping):
        raise SourceError(f"rows must be a mapping of tables to rows, got {type(tables).__name__}")
    found: list[RowsOf] = []
    for name, rows in tables.items():
        if not isinstance(rows, list) or not rows:
            raise SourceError(f"the rows of {name} must be a list of rows, got {str(rows)[:40]!r}")
        columns = tuple(rows[0]) if isinstance(rows[0], dict) else ()
        values = []
        for row in rows:
            if columns and isinstance(row, dict) and set(row) == set(columns):
                values.append(tuple(row[column] for column in columns))
            elif not columns and isinstance(row, list) and len(row) == len(rows[0]):
                values.append(tuple(row))
            else:
                raise SourceError(f"the rows of {name} have different forms: {str(row)[:60]}")
        found.append((name, columns, values))
    return found
