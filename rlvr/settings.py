"""Recipes from YAML: `base:` files, presets and `a.b=c` overrides become one checked, frozen recipe.

Layers, later ones win: defaults of the schema, the algorithm's preset, base files, the file, the command line.
A mapping whose tag (`kind`, `source`) changes replaces what it overlays, so that no sibling of another kind survives;
`name: null` under rewards takes a part away. All errors are collected and told with file, full path and nearest name.
"""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from rlvr.errors import SettingsError
from rlvr.presets import PRESETS
from rlvr.recipe import Recipe
from rlvr.stages import STAGES

COMMAND_LINE = "command line"
_TAGS = ("kind", "source")
_DEFAULT_TAGS: dict[tuple[str, ...], tuple[str, str]] = {
    # section (* is any name): its tag and the kind it has where a recipe says none
    ("data",): ("source", "file"),
    ("eval", "tasks"): ("source", "file"),
    ("canaries", "tasks"): ("source", "file"),
    ("engine",): ("kind", "vllm"),
    ("optim",): ("kind", "adamw"),
    ("model", "tokenizer"): ("kind", "bytes"),
    ("rewards", "*"): ("kind", "verified"),
    ("rewards", "*", "by"): ("kind", "endpoint"),
    ("rewards", "*", "method"): ("kind", "pairwise"),
    ("labels", "judge", "by"): ("kind", "endpoint"),
    ("labels", "judge", "method"): ("kind", "pairwise"),
}
_AS_IN_DATA = ("columns", "verifier", "system", "as_chat", "prompt_template")
"""Of eval.tasks: what the rows of training and evaluation have in common."""
_AS_IN_SAMPLE = ("max_tokens", "stop")
"""Of eval: what the completions of training and evaluation have in common."""
_KEEPS_NULL = ("rewards",)  # sections by name, where null means: take this one away
_ELSEWHERE = {
    # what the setting is called in TRL (and verl, where the name is its own): ours
    "beta": "kl.coef",
    "kl_coef": "kl.coef",
    "center_rewards_coefficient": "loss.center_coef",
    "epsilon": "loss.clip.low",
    "epsilon_high": "loss.clip.high",
    "learning_rate": "optim.lr",
    "lr": "optim.lr",
    "loss_type": "loss.aggregate",
    "max_completion_length": "sample.max_tokens",
    "missing_eos_penalty": "overlong.missing_eos",
    "max_steps": "steps",
    "num_generations": "sample.group_size",
    "num_iterations": "epochs",
    "output_dir": "run.dir",
    "per_device_train_batch_size": "batch_size",
    "scale_rewards": "advantage.kind",
    "temperature": "sample.temperature",
    "use_vllm": "engine.kind",
}
_Path = tuple[str, ...]


class _Loader(yaml.SafeLoader):
    """YAML 1.2 floats (PyYAML reads 1e-6 as text), no dates (run.dir=2026-01-31), no doubled keys (last one wins)."""


class _Dumper(yaml.SafeDumper):
    """Puts quotes around texts that a reader would take for numbers, or whose line breaks it would fold away."""


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = '"' if any(sign in text for sign in "\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
_FLOAT = re.compile(r"^[-+]?(\d+\.\d*|\.\d+|\d+)([eE][-+]?\d+)?$|^[-+]?\.inf$|^\.nan$")
for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def _mapping_without_doubles(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[Any, int] = {}
    for key_node, _ in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise SettingsError(f"{node.start_mark.name}:{line}: the name of a setting must be text")
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key = loader.construct_object(key_node)
        if key in seen:
            raise SettingsError(f"{node.start_mark.name}:{line}: {key!r} is set twice (first in line {seen[key]})")
        seen[key] = line
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_doubles)
# the float pattern above also matches whole numbers: whatever has neither point nor exponent stays an int
_Loader.yaml_implicit_resolvers = {
    first: sorted(
        (pair for pair in resolvers if pair[0] != "tag:yaml.org,2002:timestamp"),
        key=lambda pair: pair[0] != "tag:yaml.org,2002:int",
    )
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}


def load_recipe(path: str | Path, overrides: Sequence[str] = (), *, stage: str | None = None) -> Recipe:
    """The checked recipe. SettingsError lists every problem; `stage` is what the command needs, if it needs one."""
    values, origins = _read_with_bases(Path(path), ())
    values = _merge(values, _overlay(overrides), origins, COMMAND_LINE, ())
    return build(_with_tags(values), origins, stage=stage, file=str(path))


def from_overrides(stage: str, overrides: Sequence[str]) -> Recipe:
    """A checked recipe of that stage from `a.b=c` alone."""
    origins: dict[_Path, str] = {}
    values = _merge({}, {"stage": stage, **_overlay(overrides)}, origins, COMMAND_LINE, ())
    return build(_with_tags(values), origins, stage=stage, file=COMMAND_LINE)


def build(values: dict[str, Any], origins: dict[_Path, str], *, stage: str | None, file: str) -> Recipe:
    """Put the preset under `values` and check everything. `origins` tells where each setting was made."""
    name = values.get("stage", stage or "rl")
    if not isinstance(name, str) or name not in STAGES:
        raise SettingsError(f"{_origin(('stage',), origins, file)}: stage: {_one_of(name, STAGES)}")
    if stage is not None and name != stage:
        raise SettingsError(f"{file} is a recipe for `rlvr {STAGES[name].command}` (stage: {name})")
    if name == "rl":
        algorithm = values.get("algorithm", "grpo")
        if not isinstance(algorithm, str) or algorithm not in PRESETS:
            raise SettingsError(f"{_origin(('algorithm',), origins, file)}: algorithm: {_one_of(algorithm, PRESETS)}")
        values = _merge(_preset(algorithm, values), values, origins, None, ())
    written, values = values, _with_data_for_evaluation(values)
    values = {section: _without_nulls(section, value) for section, value in values.items()}
    try:
        return STAGES[name].model_validate(values)
    except ValidationError as error:
        told = [problem for problem in error.errors() if not _is_of_a_copy(problem["loc"], written)]
        problems = dict.fromkeys(_explain(problem, values, origins, STAGES[name], file) for problem in told)
        raise SettingsError("\n".join(problems)) from None


def _preset(algorithm: str, values: dict[str, Any]) -> dict[str, Any]:
    """The preset's settings; its estimator of kl is meant for the place that it names, and for no other, and a place
    that it names without one is for a recipe that names neither."""
    preset = PRESETS[algorithm]
    asked, kl = values.get("kl"), preset.get("kl", {})
    if not isinstance(asked, dict):
        return preset
    is_elsewhere = asked.get("where", kl.get("where")) != kl.get("where")
    if is_elsewhere or ("kind" not in kl and ("kind" in asked or "weighted" in asked)):
        return {section: settings for section, settings in preset.items() if section != "kl"}
    return preset


def _with_data_for_evaluation(values: dict[str, Any]) -> dict[str, Any]:
    """Held-out tasks are asked, judged and cut like those trained on, but for what the recipe says of them."""
    held_out, data, sample = values.get("eval", {}), values.get("data"), values.get("sample")
    if not isinstance(held_out, dict):
        return values
    if isinstance(sample, dict):
        held_out = {name: sample[name] for name in _AS_IN_SAMPLE if name in sample} | held_out
    tasks = _as_data(held_out.get("tasks"), data)
    if isinstance(canaries := values.get("canaries"), dict) and canaries.get("tasks"):
        values = {**values, "canaries": {**canaries, "tasks": _as_data(canaries["tasks"], data)}}
    return {**values, "eval": {**held_out, "tasks": tasks}} if tasks or held_out else values


def _as_data(tasks: Any, data: Any) -> Any:
    """A path, or a section like data, with what it does not set itself as in data."""
    tasks = {"path": tasks} if isinstance(tasks, str) else tasks
    if isinstance(tasks, dict) and isinstance(data, dict):
        return {name: data[name] for name in _AS_IN_DATA if name in data} | tasks
    return tasks


def _is_of_a_copy(at: tuple[int | str, ...], written: dict[str, Any]) -> bool:
    """Whether a problem is of a setting that evaluation has from data or sample: there it is told too."""
    if at[:1] != ("eval",) or len(at) < 2:
        return False
    section, name, copied = written.get("eval"), at[1], _AS_IN_SAMPLE
    if at[1] == "tasks" and len(at) > 2:
        section, name, copied = section.get("tasks") if isinstance(section, dict) else None, at[2], _AS_IN_DATA
    return name in copied and not (isinstance(section, dict) and name in section)


def to_yaml(recipe: Recipe) -> str:
    """The resolved recipe; itself a valid recipe that resolves to the same."""
    values = recipe.model_dump(mode="json", by_alias=True)
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def describe(stage: str) -> list[tuple[str, str, str]]:
    """(name, default, documentation) of every setting of a stage."""
    stage = stage if stage in STAGES else stage.replace("-", "_")  # as the command is called
    if stage not in STAGES:
        raise SettingsError(f"stage: {_one_of(stage, STAGES)}")
    rows = list(_describe(STAGES[stage], ""))
    if "data" not in STAGES[stage].model_fields:
        return rows
    return [(name, _copied_default(name) or default, text) for name, default, text in rows]


def _copied_default(name: str) -> str:
    """What stands for the default of a setting that held-out tasks and canaries have from data."""
    section, tasks, setting = (*name.split("."), "", "")[:3]
    return f"data.{setting}" if section in ("eval", "canaries") and tasks == "tasks" and setting in _AS_IN_DATA else ""


# --- reading -----------------------------------------------------------------------------------------------------


def _read_with_bases(path: Path, chain: tuple[Path, ...]) -> tuple[dict[str, Any], dict[_Path, str]]:
    if path.resolve() in chain:
        raise SettingsError(f"{path}: base files go round in a circle: {' -> '.join(map(str, (*chain, path)))}")
    own = _read(path)
    base = own.pop("base", None)
    if base is None:
        values: dict[str, Any] = {}
        origins: dict[_Path, str] = {}
    elif isinstance(base, str):
        values, origins = _read_with_bases(path.parent / base, (*chain, path.resolve()))
    else:
        raise SettingsError(f"{path}: base: must be the path of a recipe, got {base!r}")
    return _with_tags(_merge(values, own, origins, str(path), ())), origins


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.y*ml")], n=1)
        hint = f"; did you mean {path.parent / near[0]}?" if near else f" (seen from {Path.cwd()})"
        raise SettingsError(f"no recipe {path}{hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    try:
        loader = _Loader(text)
        loader.name = str(path)
        values = loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        where = f"{path}:{error.problem_mark.line + 1}" if error.problem_mark else str(path)
        raise SettingsError(f"{where}: not valid YAML: {error.problem}") from None
    except SettingsError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SettingsError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise SettingsError(f"{path}: a recipe is a mapping of settings, got {type(values).__name__}")
    return values


def _overlay(overrides: Sequence[str]) -> dict[str, Any]:
    overlay: dict[str, Any] = {}
    for text in overrides:
        _put(overlay, *_parse_override(text))
    return overlay


def _parse_override(text: str) -> tuple[_Path, Any]:
    name, equals, raw = text.partition("=")
    keys = tuple(name.split("."))
    if not equals or not all(re.fullmatch(r"[\w-]+", key) for key in keys):
        raise SettingsError(f"{COMMAND_LINE}: {text!r} must look like section.setting=value")
    try:
        return keys, yaml.load(raw, Loader=_Loader) if raw else ""
    except SettingsError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError):
        raise SettingsError(f"{COMMAND_LINE}: {name}: value {raw!r} is not valid YAML; put quotes around it") from None


def _put(tree: dict[str, Any], keys: _Path, value: Any) -> None:
    for depth, key in enumerate(keys[:-1]):
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise SettingsError(f"{COMMAND_LINE}: {'.'.join(keys[: depth + 1])} is set both whole and in part")
    tree[keys[-1]] = value


# --- merging -----------------------------------------------------------------------------------------------------


def _merge(below: Any, above: Any, origins: dict[_Path, str], origin: str | None, at: _Path) -> Any:
    """Lay `above` over `below`; note `origin` for each path it sets (None: leave the notes alone)."""
    if not isinstance(above, dict):
        if origin is not None:
            origins[at] = origin
        return above
    tag = _tag_at(at)
    if not isinstance(below, dict) or (tag in above and tag in below and above[tag] != below[tag]):
        below = {}
    if origin is not None:
        origins[at] = origin
    merged = dict(below)
    for key, value in above.items():
        merged[key] = _merge(below.get(key), value, origins, origin, (*at, key))
    return merged


def _tag_at(at: _Path) -> str | None:
    """The setting that says which kind the section at this path is; None where all kinds have the same settings."""
    for path, (tag, _) in _DEFAULT_TAGS.items():
        if len(path) == len(at) and all(p in ("*", key) for p, key in zip(path, at, strict=True)):
            return tag
    return None


def _with_tags(values: dict[str, Any]) -> dict[str, Any]:
    """Write short forms and default kinds out, so that the next layer meets them as they are meant."""
    for name in ("eval", "canaries"):
        section = values.get(name)
        if isinstance(section, dict) and isinstance(section.get("tasks"), str):
            values = {**values, name: {**section, "tasks": {"path": section["tasks"]}}}
    for path, (tag, kind) in _DEFAULT_TAGS.items():
        sections = [values]
        for key in path:
            found = [s.values() if key == "*" else [s.get(key)] for s in sections]
            sections = [s for group in found for s in group if isinstance(s, dict)]
        for section in sections:
            section.setdefault(tag, kind)
    return values


def _without_nulls(section: str, value: Any) -> Any:
    if section in _KEEPS_NULL and isinstance(value, dict):
        return {name: part for name, part in value.items() if part is not None}
    return value


# --- errors ------------------------------------------------------------------------------------------------------


def _explain(problem: Any, values: Any, origins: dict[_Path, str], model: type[BaseModel], file: str) -> str:
    path = _data_path(problem["loc"], values)
    where = _origin(path, origins, file)
    name = ".".join(path) or "recipe"
    kind = problem["type"]
    if kind == "extra_forbidden":
        return f"{where}: {name}: no such setting{_hint(model, path, values)}"
    if kind == "missing":
        return f"{file}: {name}: is needed but not set"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        tag = problem["ctx"]["discriminator"].strip("'")
        given = problem["ctx"].get("tag", "nothing")
        expected = problem["ctx"].get("expected_tags", "")
        return f"{where}: {name}.{tag}: must be one of {expected or 'the known kinds'}, got {given}"
    message = problem["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if kind == "value_error":
        return f"{where}: {name}: {message}"
    meant = "; DPO is sigmoid (with label_smoothing cDPO, with rpo_alpha RPO)" if _is_dpo(problem) else ""
    return f"{where}: {name}: {message}, got {problem['input']!r}{meant}"


def _is_dpo(problem: Any) -> bool:
    """Whether a loss is called as its paper does, where TRL's names are the known ones."""
    return problem["input"] in ("dpo", "cdpo", "rpo") and "'sigmoid'" in problem["msg"]


def _hint(model: type[BaseModel], path: _Path, values: Any) -> str:
    *section, last = path
    here = _names_at(model, tuple(section), values)
    everywhere = [name for name, _, _ in _describe(model, "")]
    if _ELSEWHERE.get(last) in everywhere:
        return f"; did you mean {_ELSEWHERE[last]}?"
    if near := difflib.get_close_matches(last, here, n=1):
        return f"; did you mean {'.'.join((*section, near[0]))}?"
    if same := [name for name in everywhere if name.split(".")[-1] == last]:
        return f"; did you mean {same[0]}?"
    return f"; known here: {', '.join(sorted(here))}" if here else ""


def _data_path(loc: Sequence[Any], values: Any) -> _Path:
    """pydantic's location without the tags of unions, which are no keys of the data."""
    path: list[str] = []
    here = values
    for i, part in enumerate(loc):
        if isinstance(here, dict):
            if part in here:
                here = here[part]
            elif i < len(loc) - 1 or any(here.get(tag) == part for tag in _TAGS):
                continue  # a tag
            path.append(str(part))
        elif isinstance(here, list | tuple) and isinstance(part, int) and part < len(here):
            here = here[part]
            path.append(str(part))
    return tuple(path)


def _origin(path: _Path, origins: dict[_Path, str], file: str) -> str:
    for length in range(len(path), 0, -1):
        if path[:length] in origins:
            return origins[path[:length]]
    return file


def _one_of(given: Any, known: Any) -> str:
    near = difflib.get_close_matches(str(given), list(known), n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"no {given!r}; {hint}known: {', '.join(known)}"


def _names_at(model: type[BaseModel], path: _Path, values: Any) -> list[str]:
    """Names of the settings that are possible at `path`, for the kind that the data chose."""
    here: Any = model
    for key in path:
        values = values.get(key) if isinstance(values, dict) else None
        field = here.model_fields.get(key) if isinstance(here, type) and issubclass(here, BaseModel) else None
        here = field.annotation if field else typing.get_args(here)[-1] if typing.get_args(here) else None
        here = _choose(here, values)
    if not (isinstance(here, type) and issubclass(here, BaseModel)):
        return []
    return [field.alias or name for name, field in here.model_fields.items()]


def _choose(annotation: Any, values: Any) -> Any:
    """The model of a union that the data's tag names; a dict's annotation is left as it is."""
    if typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) not in (types.UnionType, typing.Union):
        return annotation
    models = [a for a in typing.get_args(annotation) if isinstance(a, type) and issubclass(a, BaseModel)]
    for candidate in models:
        for tag in _TAGS:
            field = candidate.model_fields.get(tag)
            if (
                field
                and isinstance(values, dict)
                and values.get(tag, field.default) in typing.get_args(field.annotation)
            ):
                return candidate
    return models[0] if models else annotation


def _describe(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str]]:
    for name, field in model.model_fields.items():
        yield from _describe_field(field, f"{prefix}{field.alias or name}")


def _describe_field(field: FieldInfo, name: str) -> Iterator[tuple[str, str, str]]:
    annotation = field.annotation
    if typing.get_origin(annotation) is dict:
        name, annotation = f"{name}.NAME", typing.get_args(annotation)[1]
    if typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    union = typing.get_origin(annotation) in (types.UnionType, typing.Union)
    models = [
        a
        for a in (typing.get_args(annotation) if union else [annotation])
        if isinstance(a, type) and issubclass(a, BaseModel)
    ]
    if not models:
        default = "needed" if field.is_required() else str(field.get_default(call_default_factory=True))
        yield name, default, " ".join((field.description or "").split())
        return
    by_name: dict[str, dict[str, tuple[str, str]]] = {}
    for option in models:
        for row, default, text in _describe(option, f"{name}."):
            by_name.setdefault(row, {})[_kind_of(option)] = (default, text)
    for row, by_kind in by_name.items():
        yield row, *_told_by_kind(row, by_kind, len(models))


def _kind_of(model: type[BaseModel]) -> str:
    tags = [model.model_fields[tag].annotation for tag in _TAGS if tag in model.model_fields]
    return str(typing.get_args(tags[0])[0]) if tags else ""


def _told_by_kind(row: str, by_kind: dict[str, tuple[str, str]], num_kinds: int) -> tuple[str, str]:
    """One default and one text for a setting that several kinds of its section have."""
    defaults = {kind: default for kind, (default, _) in by_kind.items()}
    texts = {kind: text for kind, (_, text) in by_kind.items() if text}
    if num_kinds == 1:
        return next(iter(by_kind.values()))
    if row.rpartition(".")[2] in _TAGS:
        default = next((d for d in defaults.values() if d != "needed"), "needed")
        told = (f"{kind}: {texts[kind].removesuffix('.')}" if kind in texts else kind for kind in by_kind)
        return default, "; ".join(told)
    if len(set(defaults.values())) == 1:
        default, text = next(iter(defaults.values())), next(iter(texts.values()), "")
    else:
        default = "; ".join(f"{kind}: {d}" for kind, d in defaults.items())
        same = len(texts) == len(by_kind) and len(set(texts.values())) == 1
        text = next(iter(texts.values())) if same else "; ".join(f"{kind}: {t}" for kind, t in texts.items())
    return default, text if len(by_kind) == num_kinds else f"({', '.join(by_kind)} only) {text}".strip()
