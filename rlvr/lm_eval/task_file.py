"""lm-evaluation-harness task files (YAML): read, rendered, and turned into rows for `rlvr eval`.

What is read of them: include, dataset_path, dataset_name, dataset_kwargs, test_split (or validation_split),
process_docs, doc_to_text, doc_to_target, description, num_fewshot with fewshot_split and a sampler that is first_n,
generation_kwargs, and metadata.rlvr {verifier, gold, options}. `!function module.name` is imported from the module
beside the file, else from the Python path, as the harness does.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rlvr.errors import DataError, SettingsError, one_line
from rlvr.types import Task

FOLDER = Path(__file__).parent / "tasks"
"""Of the task files that come with us."""
ROWS = "rlvr.lm_eval.task_file:rows"
"""The generator of a task file's rows."""
MAX_TOKENS = 256
"""What the harness generates at most where a file does not say."""
_BARE = re.compile(r"\s*\{\{\s*(\w+)\s*\}\}\s*")
_DEEPEST = 8
"""Files that include one another."""


@dataclass(frozen=True, slots=True)
class _Function:
    """`!function name`, imported when it is called."""

    name: str
    folder: Path

    def load(self) -> Callable[..., Any]:
        module, _, name = self.name.rpartition(".")
        beside = self.folder / f"{module.replace('.', '/')}.py"
        try:
            loaded = _module_from(beside) if beside.is_file() else importlib.import_module(module)
            return getattr(loaded, name)
        except Exception as error:  # whatever stands in somebody else's module
            raise DataError(f"{self.folder}: !function {self.name} cannot be loaded: {one_line(error)}") from error


@functools.cache
def _module_from(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"rlvr_task_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFile:
    """What a task file says, with what it includes."""

    path: Path
    config: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.config.get("task") or self.path.stem)

    @property
    def verifier(self) -> str:
        """SettingsError where metadata.rlvr names none."""
        judge = self._judge()
        if not isinstance(judge.get("verifier"), str):
            raise SettingsError(
                f"{self.path}: metadata.rlvr.verifier is missing, which says who judges; such as "
                "metadata: {rlvr: {verifier: math, gold: '{{answer}}'}}"
            )
        return judge["verifier"]

    @property
    def options(self) -> dict[str, Any]:
        """Of that verifier."""
        return dict(self._judge().get("options") or {})

    def task(self, doc: Mapping[str, Any], number: int) -> Task:
        """The task that a row of the data set is."""
        return Task(
            id=f"{self.name}:{number}",
            prompt=self.prompt(doc),
            gold=self.gold(doc),
            verifier=self.verifier,
            source=self.name,
            info=dict(doc),
        )

    def prompt(self, doc: Mapping[str, Any]) -> str:
        """doc_to_text, without examples."""
        return str(self._of(doc, "doc_to_text"))

    def gold(self, doc: Mapping[str, Any]) -> Any:
        """metadata.rlvr.gold: a column, several in a list, or a template; else doc_to_target."""
        gold = self._judge().get("gold")
        if gold is None:
            return self._of(doc, "doc_to_target")
        if isinstance(gold, list):
            return {column: self._value(column, doc, "metadata.rlvr.gold") for column in gold}
        return self._value(gold, doc, "metadata.rlvr.gold")

    def docs(self, split: str | None = None) -> list[dict[str, Any]]:
        """The data set's rows. DataError where it cannot be loaded."""
        config = self.config
        wanted = split or config.get("test_split") or config.get("validation_split")
        if not config.get("dataset_path") or not wanted:
            raise DataError(f"{self.path}: dataset_path and test_split (or validation_split) are needed")
        import datasets

        datasets.disable_progress_bars()
        kwargs = dict(config.get("dataset_kwargs") or {})
        try:
            loaded = datasets.load_dataset(config["dataset_path"], config.get("dataset_name"), split=wanted, **kwargs)
        except Exception as error:  # no network, no such name, a broken file
            raise DataError(f"{self.path}: data set {config['dataset_path']!r}: {one_line(error)}") from None
        if isinstance(process := config.get("process_docs"), _Function):
            loaded = process.load()(loaded)
        return [dict(row) for row in loaded]

    def examples(self) -> str:
        """Solved rows that stand before each prompt; "" for num_fewshot 0."""
        number = int(self.config.get("num_fewshot") or 0)
        if number == 0:
            return ""
        shots = self.config.get("fewshot_config") or {}
        if shots.get("sampler") != "first_n":
            raise DataError(
                f"{self.path}: num_fewshot {number} and the sampler {shots.get('sampler', 'default')!r}, which draws "
                "at random in the harness; set fewshot_config: {sampler: first_n}"
            )
        samples = shots.get("samples")
        samples = samples.load()() if isinstance(samples, _Function) else samples
        docs = samples or self.docs(self.config.get("fewshot_split") or self.config.get("training_split"))
        delimiter, between = self.config.get("target_delimiter", " "), self.config.get("fewshot_delimiter", "\n\n")
        return "".join(
            f"{self.prompt(doc)}{delimiter}{self._of(doc, 'doc_to_target')}{between}" for doc in docs[:number]
        )

    def generation(self) -> dict[str, Any]:
        """{max_tokens, stop, and where it samples temperature} of generation_kwargs."""
        given = self.config.get("generation_kwargs") or {}
        until = given.get("until") or []
        until = [until] if isinstance(until, str) else until
        most, temperature = given.get("max_gen_toks", MAX_TOKENS), given.get("temperature") or 0.0
        if not isinstance(until, list) or not all(isinstance(text, str) for text in until):
            raise SettingsError(f"{self.path}: generation_kwargs.until must be text, or a list of it, got {until!r}")
        if isinstance(most, bool) or not isinstance(most, int) or most < 1:
            raise SettingsError(f"{self.path}: generation_kwargs.max_gen_toks must be a count, got {most!r}")
        if isinstance(temperature, bool) or not isinstance(temperature, int | float):
            raise SettingsError(f"{self.path}: generation_kwargs.temperature must be a number, got {temperature!r}")
        found: dict[str, Any] = {"max_tokens": most, "stop": until}
        if given.get("do_sample") and temperature:
            found["temperature"] = float(temperature)
        return found

    def _judge(self) -> Mapping[str, Any]:
        judge = (self.config.get("metadata") or {}).get("rlvr") or {}
        if not isinstance(judge, Mapping):
            raise SettingsError(f"{self.path}: metadata.rlvr must be a mapping of verifier, gold, options")
        return judge

    def _of(self, doc: Mapping[str, Any], setting: str) -> Any:
        value = self.config.get(setting)
        if value is None:
            raise DataError(f"{self.path}: {setting} is needed")
        return self._value(value, doc, setting)

    def _value(self, value: Any, doc: Mapping[str, Any], setting: str) -> Any:
        """A function's result, a column as it is, or a rendered template."""
        if isinstance(value, _Function):
            return value.load()(doc)
        if not isinstance(value, str):
            return value
        column = _BARE.fullmatch(value)  # rendered it would be text, and nothing would be "None"
        name = column.group(1) if column else value
        if name in doc:
            return doc[name]
        try:
            return _template(value).render(**doc)
        except Exception as error:  # templates fail in as many ways as there are filters
            raise DataError(f"{self.path}: {setting}: {one_line(error)} (columns: {', '.join(doc)})") from None


@functools.cache
def _template(text: str) -> Any:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    return SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True).from_string(text)


def read(path: str | Path) -> TaskFile:
    """DataError where the file cannot be read."""
    path = Path(path)
    return TaskFile(path=path, config=_read(path, 0))


def _read(path: Path, depth: int) -> dict[str, Any]:
    folder = path.resolve().parent

    class Loader(yaml.SafeLoader):
        """With !function; data alone otherwise."""

    Loader.add_constructor("!function", lambda loader, node: _Function(loader.construct_scalar(node), folder))  # type: ignore[arg-type]
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), Loader)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path}: {' '.join(str(error).split())}") from None
    if not isinstance(config, dict):
        raise DataError(f"{path}: a task file is a mapping of task, dataset_path, doc_to_text, ...")
    included = config.pop("include", [])
    if depth > _DEEPEST and included:
        raise DataError(f"{path}: files that include one another {_DEEPEST} deep")
    below: dict[str, Any] = {}
    for name in [included] if isinstance(included, str) else included:
        below |= _read(folder / name, depth + 1)
    return {**below, **config}


def rows(path: str) -> Iterator[dict[str, Any]]:
    """A generator for eval.tasks: the rows of a task file, each with prompt, gold and verifier."""
    file = read(path)
    before = str(file.config.get("description") or "") + file.examples()
    for number, doc in enumerate(file.docs(), 1):
        task = file.task(doc, number)
        yield {**doc, "id": task.id, "prompt": before + file.prompt(doc), "gold": task.gold, "verifier": task.verifier,
               "source": file.name}  # fmt: skip


def overrides(path: str | Path) -> dict[str, Any]:
    """Settings of `rlvr eval` that stand for the file."""
    file = read(path)
    return {
        "eval.tasks.source": "generator",
        "eval.tasks.path": ROWS,
        "eval.tasks.args": {"path": str(path)},
        "eval.tasks.verifier": file.verifier,
        "eval.tasks.columns": {"prompt": "prompt", "gold": "gold"},
        "eval.options": file.options,
        **{f"eval.{name}": value for name, value in file.generation().items()},
    }
