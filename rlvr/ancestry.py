"""From a run or a model back to all that it was made from: models, their runs, data files, labels.

Everything is plain data: a node is {"what", "kind", "path", "state", ..., "from": [nodes]}, kind one of run, model,
data, file. What is not where it was is looked for by its checksum below some folders.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlvr import chain, disk, lineage, runs
from rlvr.ancestry_rows import describe_data
from rlvr.errors import DataError
from rlvr.inputs import fingerprint_model
from rlvr.loop.manifest import NAME, digest_of, read_all

Node = dict[str, Any]
_MOST_FOLDERS = 5_000
_DEPTH = 6
"""Folders below a root that are looked through."""
_PASSED_OVER = ("checkpoints", "rollouts", "groups", "evals", "node_modules", "__pycache__")
AS_IT_WAS = "as it was"
_LABELS = "labels in "


@dataclass(slots=True)
class Search:
    """Looks for models and files by checksum below `roots`, where they are not where they were last seen."""

    roots: Sequence[Path] = ()
    databases: Sequence[Path] = ()
    """Of labels, asked for the votes behind rows that do not say which they are from."""
    _models: dict[str, Path] | None = None
    _files: dict[int, list[Path]] = field(default_factory=dict)

    def model(self, fingerprint: str) -> Path | None:
        """A model folder of this fingerprint."""
        self._look()
        assert self._models is not None
        return self._models.get(fingerprint)

    def file(self, bytes: int, sha256: str) -> Path | None:
        """A data file of this content."""
        self._look()
        return next((path for path in self._files.get(bytes, ()) if disk.sha256(path) == sha256), None)

    def _look(self) -> None:
        if self._models is not None:
            return
        self._models = {}
        for folder, names in _walk(self.roots):
            if "config.json" in names or "adapter_config.json" in names:
                try:
                    self._models.setdefault(fingerprint_model(str(folder)), folder)
                except DataError:
                    continue
            for name in names:
                if name.endswith((".jsonl", ".json", ".parquet", ".csv", ".py", ".db", ".sqlite")):
                    path = folder / name
                    self._files.setdefault(path.stat().st_size, []).append(path)


def _walk(roots: Sequence[Path]) -> Iterator[tuple[Path, list[str]]]:
    seen: set[Path] = set()
    for root in roots:
        top = root.resolve()
        for folder, below, names in os.walk(top):
            here = Path(folder)
            deep = len(here.parts) - len(top.parts)
            below[:] = sorted(n for n in below if not n.startswith(".") and n not in _PASSED_OVER and deep < _DEPTH)
            if here in seen:
                continue
            seen.add(here)
            if len(seen) > _MOST_FOLDERS:
                return
            yield here, sorted(names)


def of_run(run: Path, search: Search, _seen: frozenset[str] = frozenset()) -> Node:
    """A run with all it came from. DataError where the folder is none."""
    recipe = runs.read_recipe(run)
    record = lineage.read(run)
    node: Node = {
        "what": "run",
        "kind": "run",
        "path": str(run),
        "stage": recipe.get("stage"),
        "steps": recipe.get("steps"),
        "state": _state_of(record, run),
        "rlvr": None if record is None else record["packages"].get("rlvr"),
        "git": None if record is None else record.get("git"),
    }
    inputs = lineage.inputs_of(recipe) if record is None else record["inputs"]
    node["from"] = _inputs(inputs, recipe, search, _seen, lineage.read_rows(run), runs.read_left_out(run))
    key = f"rounds of {run.absolute()}"
    if recipe.get("stage") == "loop" and key not in _seen:
        # model/ is a copy of what one of them made: that model is walked there
        loops = frozenset(name for name in _seen if name.startswith("rounds of "))
        node["from"] += _rounds(run, search, loops | {key})
    return node


def _rounds(run: Path, search: Search, seen: frozenset[str]) -> list[Node]:
    """The policy of each round of `rlvr loop`, with what it was trained on."""
    found: list[Node] = []
    for record in read_all(run):
        what = f"round {record['round']} ({record['state']})"
        model = run / "rounds" / f"{record['round']:03d}" / "policy" / "model"
        if (model / "config.json").is_file():
            given = {"path": str(model), "fingerprint": fingerprint_model(str(model))}
            node = _model(what, given, search, seen)
            if digest_of(model) != record["stages"].get("policy", {}).get("made", {}).get("policy/model"):
                node["state"] = f"changed since {NAME} was written"
            found.append(node)
            seen = seen | {given["fingerprint"]}  # the next round's began with it
        else:
            found.append({"what": what, "kind": "file", "path": str(model), "state": "no policy there", "from": []})
    return found


def _state_of(record: Mapping[str, Any] | None, run: Path) -> str:
    if record is None:
        return "no record (lineage.json): what its recipe names is told as it is now"
    if not lineage.is_sound(record):
        return "its lineage.json was changed"
    if record.get("is_late"):
        return "its record was made when it was resumed, not when it began"
    if record["folder"] != str(run.absolute()):
        return f"moved: was {record['folder']}"
    return AS_IT_WAS


def of_model(folder: Path, search: Search, what: str = "model") -> Node:
    """A model folder with all it came from. DataError where it cannot be read."""
    if not (folder / "config.json").is_file() and not (folder / "adapter_config.json").is_file():
        raise DataError(f"{folder} holds no model (no config.json) and no run (no recipe.yaml)")
    return _model(what, {"path": str(folder), "fingerprint": fingerprint_model(str(folder))}, search, frozenset())


def inputs(made_from: Sequence[Mapping[str, Any]], search: Search) -> list[Node]:
    """The nodes of a record's inputs; those of a kind that is not walked (a database) are told as they stand."""
    known = [one for one in made_from if one.get("kind") in ("model", "data", "file")]
    others = [
        {"what": str(one.get("kind")), "kind": "file", "path": one.get("path"), "state": AS_IT_WAS, "from": []}
        for one in made_from
        if one.get("kind") not in ("model", "data", "file")
    ]
    return [*_inputs(known, {}, search, frozenset(), {}), *others]


def _inputs(
    inputs: Sequence[Mapping[str, Any]],
    recipe: Mapping[str, Any],
    search: Search,
    seen: frozenset[str],
    digests: Mapping[str, Sequence[str]],
    left_out: Mapping[str, str] | None = None,
) -> list[Node]:
    found: list[Node] = []
    for one in inputs:
        if one["kind"] == "model":
            found.append(_model(one["setting"], one, search, seen))
        elif one["kind"] == "data":
            found.append(_data(one, recipe, search, digests, left_out if one["setting"] == "data.path" else None))
        else:
            file = one["files"][0]
            path, state = _file(file, search)
            found.append({"what": one["setting"], "kind": "file", "path": path, "state": state, "from": []})
    return found


def _model(what: str, one: Mapping[str, Any], search: Search, seen: frozenset[str]) -> Node:
    fingerprint, last = one.get("fingerprint"), one.get("path")
    node: Node = {"what": what, "kind": "model", "path": last, "fingerprint": fingerprint, "from": []}
    if last is None:
        return node | {"path": one.get("given"), "state": "a Hugging Face name: nothing is known of it"}
    place, node["state"] = _model_place(Path(last), str(fingerprint), search)
    if place is None:
        return node | {"path": None, "last_seen": last, "weights": one.get("weights")}
    node["path"] = str(place)
    record = _sound_record(place, node)
    node["weights"] = _weights(record)
    if str(fingerprint) in seen:  # told before, or a folder that names itself
        return node
    seen = seen | {str(fingerprint)}
    run = place.parent
    if place.name in lineage.MODELS and (run / "recipe.yaml").is_file():
        return node | {"from": [of_run(run, search, seen)]}
    if record is not None:
        inputs = [_placed(one) for one in record["inputs"]]
        made = {"what": "run", "kind": "run", "path": None, "stage": record.get("stage"), "rlvr": record.get("rlvr")}
        made |= {"state": "its folder is not beside the model; told by the model's own record"}
        return node | {"from": [made | {"from": _inputs(inputs, {}, search, seen, {})}]}
    return node


def _placed(one: Mapping[str, Any]) -> dict[str, Any]:
    """An input of a model's own record, which has the path as the recipe had it, and files by their names."""
    given = one.get("given")
    files = [
        {**file, "path": given if Path(str(given)).name == file["path"] else None} for file in one.get("files", ())
    ]
    is_name = one["kind"] == "model" and one.get("fingerprint") == given
    return {**one, "path": None if is_name else given, "files": files}


def _model_place(last: Path, fingerprint: str, search: Search) -> tuple[Path | None, str]:
    """(where the model is, what became of it)"""
    is_there = last.is_dir()
    if is_there and fingerprint_model(str(last)) == fingerprint:
        return last, AS_IT_WAS
    moved = search.model(fingerprint)
    if moved is not None:
        return moved, f"moved: was {last}"
    if is_there:
        return None, f"not found: fingerprint {fingerprint}; another model is now at {last}"
    return None, f"not found: fingerprint {fingerprint}, last seen at {last}"


def _sound_record(place: Path, node: Node) -> Mapping[str, Any] | None:
    try:
        record = lineage.read(place)
    except DataError as error:
        node["state"] += f"; {error}"
        return None
    if record is not None and not lineage.is_sound(record):
        node["state"] += "; its lineage.json was changed"
    elif record is not None and record.get("fingerprint") != node["fingerprint"]:
        node["state"] += "; its lineage.json is another model's"
        return None
    return record


def _weights(record: Mapping[str, Any] | None) -> dict[str, str]:
    """{file: sha256} of the model's safetensors, as its record has them."""
    files = {} if record is None else record.get("files", {})
    return {name: file["sha256"] for name, file in files.items() if name.endswith(".safetensors")}


def _data(
    one: Mapping[str, Any],
    recipe: Mapping[str, Any],
    search: Search,
    digests: Mapping[str, Sequence[str]],
    left_out: Mapping[str, str] | None,
) -> Node:
    node: Node = {"what": one["setting"], "kind": "data", "path": one.get("path") or one.get("given"), "from": []}
    node["source"] = one.get("source", "file")
    if not one.get("files"):
        return node | {"state": f"a {node['source']}: no file to compare"}
    states: list[str] = []
    places: list[str] = []
    for file in one["files"]:
        path, state = _file(file, search, digests.get(file.get("path") or "", ()))
        states.append(state)
        places += [] if path is None else [path]
    node["state"] = next((state for state in states if state != AS_IT_WAS), AS_IT_WAS)
    node["files"] = places
    for place in places:  # a file that was made of others says so beside it
        record = lineage.origin_of(Path(place)) or {}
        node["state"] += f"; {record['problem']}" if "problem" in record else ""
        node |= {name: record[name] for name in ("made_by", "judge", "version") if name in record}
        node["from"] += inputs([i for i in record.get("inputs", ()) if i.get("kind") != "database"], search)
    if node["source"] != "file":
        return node | {"function": one.get("function"), "args": one.get("args")}
    section = recipe
    for name in str(one["setting"]).removesuffix(".path").split("."):
        section = section.get(name) or {}
    if len(places) == 1:
        node["path"] = places[0]
    return node | describe_data(places, section, recipe.get("stage"), search.databases, left_out)


def _file(file: Mapping[str, Any], search: Search, digests: Sequence[str] = ()) -> tuple[str | None, str]:
    """(where a file is, what became of it), with the rows that were changed where they are known."""
    last = file.get("path")
    is_there = last is not None and Path(last).is_file()
    if last is not None and is_there and disk.sha256(Path(last)) == file["sha256"]:
        return last, AS_IT_WAS
    moved = search.file(file["bytes"], file["sha256"])
    if moved is not None:
        return str(moved), f"moved: was {last}" if last else AS_IT_WAS
    if last is None or not is_there:
        where = f", last seen at {last}" if last else ""
        return None, f"not found: sha256 {file['sha256'][:16]}...{where}"
    return last, "changed since" + told_rows(Path(last), digests)


def told_rows(path: Path, digests: Sequence[str]) -> str:
    """ ": row 17" and so on, of rows that are not as they were; "" where that is not known."""
    if not digests:
        return ""
    try:
        differ, more = lineage.changed_rows(path, digests)
    except (DataError, OSError):
        return ""
    told: list[str] = []
    if differ:
        numbers = ", ".join(map(str, differ[:5])) + (f" and {len(differ) - 5} more" if len(differ) > 5 else "")
        told.append(f"row{'s' if len(differ) > 1 else ''} {numbers}")
    if more:
        told.append(f"{abs(more)} rows {'added' if more > 0 else 'fewer'}")
    return f": {'; '.join(told)}" if told else ""


# --- checking --------------------------------------------------------------------------------------------------------


def check(run: Path, search: Search, head: str | None = None) -> dict[str, Any]:
    """{problems, notes, head, lines}: every place where a record of the run, its data or labels was changed.

    head: a hash that somebody kept of the run's chain. DataError where the folder is no run.
    """
    runs.read_recipe(run)
    is_finished = runs.read_summary(run) is not None
    record = lineage.read(run)
    anchor = None if record is None else record.get("chain")
    report = chain.check(run, runs.read_metrics(run), is_finished=is_finished, anchor=anchor)
    problems = list(report.problems)
    if head is not None:
        problems += chain.anchored(run, {"hash": head})
    if record is not None and not lineage.is_sound(record):
        problems.append("lineage.json was changed")
    for name in report.changed:
        problems += _unequal(run, name)
    node = of_run(run, search)
    problems += [text for one in node["from"] for text in _input_problems(one)]
    return {
        "run": str(run),
        "problems": problems,
        "notes": [*report.notes, *(_told_state(one) for one in node["from"] if one["state"].startswith("not found"))],
        "head": report.head,
        "lines": report.lines,
        "finished": is_finished,
    }


def _unequal(run: Path, name: str) -> list[str]:
    """Rollouts of a changed file whose reward is not what their verdicts add up to."""
    stem = Path(name).stem
    if not name.startswith("rollouts/") or not stem.isdecimal():
        return []
    from rlvr.why import unequal_rewards

    try:
        return [f"{name}: {text}" for text in unequal_rewards(run, int(stem))]
    except (DataError, KeyError, TypeError, ValueError) as error:
        return [f"{name}: {error}"] if isinstance(error, DataError) else []


def _input_problems(node: Mapping[str, Any]) -> list[str]:
    """Of what a run was made from directly: what was changed."""
    found: list[str] = []
    if any(word in str(node["state"]) for word in ("changed", "another model")):
        found.append(_told_state(node))
    for database in node.get("databases", ()):
        found += [f"{database['path']}: {problem}" for problem in database.get("problems", ())]
    return found


def _told_state(node: Mapping[str, Any]) -> str:
    return f"{node['what']} {node['path'] or ''}".rstrip() + f": {node['state']}"


# --- for people ------------------------------------------------------------------------------------------------------


def render(node: Mapping[str, Any], depth: int = 0, _shown: set[str] | None = None) -> list[str]:
    """A node and all below it, a line for each and more for what is known of it; what was told before is told as
    above."""
    pad, shown = "  " * depth, set[str]() if _shown is None else _shown
    state = "" if node["state"] == AS_IT_WAS else f"  [{node['state']}]"
    if node["kind"] == "run":
        head = f"{pad}{node.get('stage') or '?'} run {node['path'] or '(folder unknown)'}{state}"
        made = ", ".join(f"{name} {node[name][:12]}" for name in ("rlvr", "git") if node.get(name))
        steps = f"{node['steps']} steps" if node.get("steps") is not None else ""
        more = ["; ".join(part for part in (steps, made) if part)] if steps or made else []
    else:
        head = f"{pad}{node['what']}: {node['path'] or '?'}{state}"
        more = list(_data_lines(node)) if node["kind"] == "data" else []
    if node["kind"] == "model" and node.get("fingerprint") and node["path"] != node["fingerprint"]:
        more.append(f"fingerprint {node['fingerprint']}")
        more += [f"{name} sha256 {sha}" for name, sha in (node.get("weights") or {}).items()]
    # a run is known by its folder; of models and data what is told of them must be the same too
    same = [] if node["kind"] == "run" else [node["state"], more]
    if node["path"] is not None and (more or node["from"]):
        key = str((node["kind"], os.path.abspath(node["path"]), *same))
        if key in shown:
            return [f"{head}  (as above)"]
        shown.add(key)
    told = [head, *(f"{pad}  {line}" for line in more if line not in shown)]
    shown |= {line for line in more if line.startswith(_LABELS)}  # of a database once
    for below in node["from"]:
        told += render(below, depth + 1, shown)
    return told


def _data_lines(node: Mapping[str, Any]) -> Iterator[str]:
    if node.get("judge"):
        yield f"made by {node.get('made_by')} with the judge {node['judge']} {node.get('version', '')}".rstrip()
    if node.get("function"):
        yield f"function {node['function']} with {json.dumps(node.get('args') or {})}"
    if node.get("num_rows") is not None:
        bad = f", {node['num_bad']} bad ones left out (the first: {node['first_bad']})" if node.get("num_bad") else ""
        yield f"{node['num_rows']} rows{bad}"
    if left_out := node.get("left_out"):
        first = next(iter(left_out))
        yield f"{len(left_out)} of them left out, not trained on (the first: {first}: {left_out[first]})"
    votes = node.get("votes")
    if votes:
        by = f" by {votes['annotators']} people" if votes["annotators"] else ""
        yield f"{votes['votes']} votes{by} in {votes['rows']} of the rows"
    for database in node.get("databases", ()):
        problems = database.get("problems", [])
        yield f"{_LABELS}{database['path']}: " + (
            "; ".join(problems) if problems else f"{database['events']} events, none changed"
        )
    for row in node.get("nearest", ()):
        yield f"nearest row {row['id']} (similarity {row['similarity']:.2f}): {row['told']}"


def walk(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A node and all below it."""
    yield node
    for below in node["from"]:
        yield from walk(below)
