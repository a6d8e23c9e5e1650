"""What `rlvr why` tells: the story of a rollout, a training row, a sampled or evaluated row, a run or a model.

Each is walked back to the models, data and votes that it comes from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlvr import ancestry, ancestry_rows, disk, lineage, runs
from rlvr.ancestry import Node, Search
from rlvr.errors import DataError, short
from rlvr.rewards.base import MODEL
from rlvr.why import render as render_story
from rlvr.why import why

_ROLLOUT = re.compile(r"\d+/.+/\d+|\d+/.+/greedy")
_EVALUATION = re.compile(r"step_(\d+)")


def trace(target: Path, what: str | None, search: Search) -> dict[str, Any]:
    """Plain data with "kind" and what belongs to it. DataError where the target or the row in it is not there.

    target: a run folder (what: a rollout's id, the id of a training row, or None), a model folder, or a file of rows
    (what: an id or a line's number).
    """
    if target.is_file():
        return _of_file_row(target, what, search)
    if (target / "recipe.yaml").is_file():
        if what is None:
            return {"kind": "run", "ancestry": ancestry.of_run(target, search)}
        if _ROLLOUT.fullmatch(what) and (target / "rollouts").is_dir():
            return _of_rollout(target, what, search)
        if "/" in what and (target / "rollouts").is_dir() and not _row_files(target, search):
            return _of_rollout(target, what, search)  # for its message
        return _of_training_row(target, what, search)
    if what is not None and not target.exists():
        raise DataError(f"{target}: no such run, model folder or file")
    if what is not None:
        runs.read_recipe(target)  # for its message
    return {"kind": "model", "ancestry": ancestry.of_model(target, search)}


# --- a rollout -------------------------------------------------------------------------------------------------------


def _of_rollout(run: Path, rollout_id: str, search: Search) -> dict[str, Any]:
    story = why(run, rollout_id)
    node = ancestry.of_run(run, search)
    for verdict in story["verdicts"]:
        if verdict["verifier"] == MODEL:
            _show_nearest(node, f"rewards.{verdict['part']}.", f"{story['prompt']} {story['response']}")
    return {
        "kind": "rollout",
        **story,
        "policy": [policy_version(run, version, node) for version in dict.fromkeys(story["policy_versions"])],
        "ancestry": node,
    }


def policy_version(run: Path, version: int, node: Node) -> dict[str, Any]:
    """{version, kept, sha256} of the weights after so many steps: of which file, where any is kept."""
    found: dict[str, Any] = {"version": version, "kept": None, "sha256": None}
    if version == 0:
        base = next((one for one in node["from"] if one["what"] == "model.path"), None)
        weights = list(((base or {}).get("weights") or {}).values())
        return found | {"kept": (base or {}).get("path"), "sha256": weights[0] if len(weights) == 1 else None}
    checkpoint = run / "checkpoints" / f"{version:06d}"
    try:
        manifest = json.loads((checkpoint / "manifest.json").read_text(encoding="utf-8"))
        return found | {"kept": str(checkpoint), "sha256": manifest["files"]["state.safetensors"]["sha256"]}
    except (OSError, ValueError, KeyError, TypeError):
        pass
    record = lineage.read(run)
    files = ((record or {}).get("outputs", {}).get("model") or {}).get("files", {})
    if version == node.get("steps") and "model.safetensors" in files:
        return found | {"kept": str(run / "model"), "sha256": files["model.safetensors"]["sha256"]}
    return found


def _show_nearest(node: Node, setting: str, text: str) -> None:
    """Into the data of each reward model of a part: the rows most like the text that it scored."""
    for model in node["from"]:
        if not model["what"].startswith(setting):
            continue
        for made in model["from"]:
            for data in made["from"]:
                if data["kind"] == "data" and data["what"] == "data.path" and data["source"] == "file":
                    recipe = {} if made["path"] is None else runs.read_recipe(Path(made["path"]))
                    known = ancestry_rows.ids_read(data["files"], recipe.get("data") or {}, made["stage"])
                    known = None if known is None else known - data.get("left_out", {}).keys()
                    data["nearest"] = ancestry_rows.nearest(data["files"], text, known_ids=known)


# --- a training row --------------------------------------------------------------------------------------------------


def _row_files(run: Path, search: Search) -> list[tuple[str, list[str]]]:
    """(setting, files) of the data of a run that are files."""
    if (run / "rounds").is_dir():  # of `rlvr loop`: what people said, the last round first
        names = ("labels.jsonl", "held_out_labels.jsonl")
        places = [path for folder in sorted(run.glob("rounds/*"), reverse=True) for path in map(folder.joinpath, names)]
        return [(f"{path.parent.name} {path.stem}", [str(path)]) for path in places if path.is_file()]
    nodes = ancestry.of_run(run, search)["from"]
    return [(n["what"], n["files"]) for n in nodes if n["kind"] == "data" and n["source"] == "file" and n.get("files")]


def _of_training_row(run: Path, row_id: str, search: Search) -> dict[str, Any]:
    files = _row_files(run, search)
    for setting, places in files:
        found = ancestry_rows.find(places, row_id)
        if found is not None:
            return {
                "kind": "row",
                "run": str(run),
                "setting": setting,
                **_row(row_id, found, search),
                "left_out": _left_out(run, setting, places, row_id, found),
                "rollouts": _rollouts_of(run, row_id),
                "ancestry": ancestry.of_run(run, search),
            }
    rollouts = _rollouts_of(run, row_id)
    if rollouts:
        raise DataError(f"{run}: {short(row_id)} is a task without a file; its rollouts: {', '.join(rollouts[:5])}")
    if not files:
        raise DataError(f"{run}: its data are in no file that is there, so {short(row_id)} cannot be looked up")
    raise DataError(f"{run}: {ancestry_rows.missing(files[0][1], row_id)}")


def _left_out(run: Path, setting: str, files: list[str], row_id: str, found: tuple[str, int, Mapping[str, Any]]) -> str:
    """Why a run did not train on a row that is in its data; "" where it did, or that is not known."""
    file, number, fields = found
    numbered = f"{Path(file).stem}:{number}"
    names = {row_id, str(fields.get("id", "") or numbered), numbered}
    noted: dict[str, Any] = {}
    fitted = run.glob(f"rounds/{setting.partition(' ')[0]}/reward/*/recipe.yaml")  # of `rlvr loop`: by the ensemble
    for folder in (run, *(recipe.parent for recipe in fitted)):
        noted |= runs.read_left_out(folder)
    told = {name: why for name, why in noted.items() if name in names or name.rpartition("/")[0] in names}
    if told and setting.partition(" ")[2] != "held_out_labels":
        parts = [name for name in told if name not in names]
        which = f" ({len(parts)} of what it was made into: {', '.join(parts[:3])})" if parts else ""
        return f"{next(iter(told.values()))}{which}"
    if setting != "data.path":
        return ""
    recipe = runs.read_recipe(run)
    known = ancestry_rows.ids_read(files, recipe.get("data") or {}, recipe.get("stage"))
    return "" if known is None or names & known else "a bad row, which data.on_bad_row=skip passes over"


def _row(row_id: str, found: tuple[str, int, Mapping[str, Any]], search: Search) -> dict[str, Any]:
    """A row with its votes, and the events behind them."""
    file, number, fields = found
    own = str(fields.get("id", "") or row_id)
    databases = ancestry_rows.databases_of([file], search.databases)
    events = [
        {**event, "database": str(database)}
        for database in databases
        if database.is_file()
        for event in ancestry_rows.answers_behind(own, database)
    ]
    return {
        "id": row_id,
        "file": file,
        "number": number,
        "row": json.loads(json.dumps(fields, default=str)),
        "annotators": ancestry_rows.annotators_of(fields),
        "events": events,
    }


def _rollouts_of(run: Path, task: str) -> list[str]:
    """Ids of the rollouts of a task, in the order of the steps."""
    import pyarrow.parquet as pq

    found: list[str] = []
    for step in runs.rollout_steps(run):
        table = pq.read_table(run / "rollouts" / f"{step:06d}.parquet", columns=["id", "task"]).to_pylist()
        found += [row["id"] for row in table if row["task"] == task]
    return found


# --- a row of a file -------------------------------------------------------------------------------------------------


def _of_file_row(file: Path, what: str | None, search: Search) -> dict[str, Any]:
    number, row = _line(file, what) if what is not None else (None, None)
    run = file.parent.parent
    step = _EVALUATION.fullmatch(file.stem)
    told: dict[str, Any] = {"kind": "file row", "file": str(file), "number": number, "row": row}
    if file.parent.name == "evals" and (run / "recipe.yaml").is_file():
        node = ancestry.of_run(run, search)
        policy = [] if step is None else [policy_version(run, int(step[1]), node)]
        return told | {"made_by": "an evaluation", "policy": policy, "ancestry": node}
    origin = _origin(file)
    if row is not None:
        told |= {"events": _row(str(what), (str(file), number or 0, row), search)["events"]}
    is_changed = origin.get("sha256") and origin["sha256"] != disk.sha256(file)
    state = "changed since it was written" if is_changed else origin.get("problem", ancestry.AS_IT_WAS)
    made_from = ancestry.inputs(origin.get("inputs", []), search)
    top: Node = {"what": "file", "kind": "file", "path": str(file), "state": state, "from": made_from}
    return told | {"made_by": origin.get("made_by"), "ancestry": top}


def _origin(file: Path) -> Mapping[str, Any]:
    """What a file says it was made from: its own record, that of `rlvr sample`, or that of `rlvr eval --out`."""
    record = lineage.origin_of(file)
    if record is not None:
        return record
    made = _json(file.with_name(f".{file.name}.made"))
    if made:
        inputs = made.get("inputs") or [_model_now((made.get("figures") or {}).get("model"))]
        return {"made_by": "rlvr sample", "inputs": [one for one in inputs if one], "sha256": made.get("sha256")}
    evaluated = _json(file.with_suffix(".json")) if file.suffix == ".jsonl" else {}
    if "model" in evaluated and "n_tasks" in evaluated:
        return {"made_by": "rlvr eval", "inputs": [one for one in [_model_now(evaluated["model"])] if one]}
    return {}


def _model_now(path: Any) -> dict[str, Any] | None:
    """A model by its path alone, of a file that kept no checksum of it."""
    if not isinstance(path, str):
        return None
    known = lineage.of_model(Path(path)) if Path(path).is_dir() else {"fingerprint": path}
    where = str(Path(path).absolute()) if Path(path).is_dir() else None
    return {"setting": "model.path", "kind": "model", "given": path, "path": where, **known}


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _line(file: Path, what: str) -> tuple[int, dict[str, Any]]:
    """(number, row) by id, by TASK/SAMPLE of an evaluation, or by the number of the line."""
    ids: list[str] = []
    by_number: tuple[int, dict[str, Any]] | None = None
    found = ancestry_rows.rows.read_rows(ancestry_rows.Rows(path=str(file)), "FILE")
    for row in found:
        if not isinstance(row.fields, Mapping):
            continue
        fields = dict(row.fields)
        names = [str(fields["id"])] if "id" in fields else []
        if "task" in fields and "sample" in fields:
            names = [f"{fields['task']}/{'greedy' if fields.get('greedy') else fields['sample']}"]
        names.append(f"{row.name}:{row.number}")
        if what in names:
            return row.number, fields
        if what == str(row.number):
            by_number = (row.number, fields)
        ids.append(names[0])
    if by_number is not None:
        return by_number
    raise DataError(f"{file}: none of its {len(ids)} rows is {short(what)}; {ancestry_rows.hint(what, ids)}")


# --- for people ------------------------------------------------------------------------------------------------------


def render(told: Mapping[str, Any]) -> str:
    """What `rlvr why` prints."""
    lines: list[str] = []
    if told["kind"] == "rollout":
        lines += [render_story(told)]
    elif told["kind"] == "row":
        lines += [f"row {told['id']} of {told['run']} ({told['setting']}): {told['file']} row {told['number']}"]
        lines += [f"    left out, not trained on: {told['left_out']}"] if told["left_out"] else []
        lines += [f"    {ancestry_rows.told(told['row'])}", *_event_lines(told)]
        if told["rollouts"]:
            lines.append(f"    rollouts: {', '.join(told['rollouts'][:8])}{' ...' * (len(told['rollouts']) > 8)}")
    elif told["kind"] == "file row":
        row = f" row {told['number']}" if told["number"] is not None else ""
        lines += [f"{told['file']}{row}" + (f", made by {told['made_by']}" if told["made_by"] else "")]
        lines += [f"    {ancestry_rows.told(told['row'])}"] if told["row"] else []
        lines += _event_lines(told)
    for version in told.get("policy", ()):
        where = version["kept"] or "its weights are not kept (checkpoint.keep)"
        sha = f", sha256 {version['sha256']}" if version["sha256"] else ""
        lines.append(f"policy    version {version['version']}: {where}{sha}")
    return "\n".join([*lines, *([""] if lines else []), *ancestry.render(told["ancestry"])])


def _event_lines(told: Mapping[str, Any]) -> list[str]:
    """Who voted, by hash, and what."""
    judged = ancestry_rows.judged(told["row"]) if told.get("row") else ""
    lines = [f"    {judged}"] if judged else []
    if told.get("annotators"):
        judges = {event["hashed"]: event["annotator"] for event in told.get("events", ()) if "hashed" in event}
        lines.append(f"    voted: {', '.join(judges.get(name, name) for name in told['annotators'])}")
    for event in told.get("events", ()):
        what = {k: v for k, v in (event["judgement"] or {}).items() if v not in (None, {}, [], ())}
        group = f" of {event['group']}" if event["group"] else ""
        source = f" ({event['source']})" if event["source"] in ("simulated", "import") else ""
        by = f"{event['annotator'] or 'nobody'}{group}{source} at {event['at']}"
        comment = f"; {event['comment']}" if event["comment"] else ""
        told_event = f"{event['kind']} by {by}: {json.dumps(what)}{comment}"
        lines.append(f"    event {event['event']} {event['hash'][:16]}: {told_event}")
    return lines
