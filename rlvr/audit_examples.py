"""What stands beside a verifier: its EXAMPLES, what it is excused from, and its description for people."""

from __future__ import annotations

import inspect
import json
import re
import sys
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlvr import plugins
from rlvr.errors import DataError, RlvrError, one_line
from rlvr.rewards.bound import Bound, lookup, start_problem
from rlvr.types import Task

_WITH = ("options", "prompt", "info")


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    r"""One line of EXAMPLES. Example(gold="42", response="\\boxed{42}", score=1.0)"""

    gold: Any
    response: str
    score: float | None
    """What it should be judged at; None: no score, for what is wrong with the gold."""
    options: Mapping[str, Any] = field(default_factory=dict)
    prompt: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)
    """Further columns of the task."""

    def task(self) -> Task:
        """The task that it is a response to."""
        return Task(id="example", prompt=self.prompt, gold=self.gold, info=self.info)


class Description(typing.TypedDict):
    """A verifier as `rlvr verifiers list --json` tells it."""

    name: str
    version: str
    summary: str
    gold: str
    """What the gold looks like; "none" where it takes none."""
    options: dict[str, dict[str, str]]
    """{name: {"type": "list[str]", "default": "()"}}"""
    timeout: float | None
    """CPU seconds."""
    needs: str
    """What is missing here before it can judge; "" where nothing is."""


def examples_of(bound: Bound) -> list[Example]:
    """EXAMPLES of the module that holds the verifier: (gold, response, score), or with a mapping behind.

    That mapping holds `options`, `prompt` or `info`; without any of these words it is the options. A module of several
    verifiers has {name: [...]}. DataError names the one that is none of that.
    """
    found = getattr(home(bound), "EXAMPLES", ())
    if isinstance(found, Mapping):
        found = found.get(bound.name, ())
    return [_example(bound, k, line) for k, line in enumerate(found)]


def waivers_of(bound: Bound) -> dict[str, str]:
    """WAIVED of that module: the checks of an audit that the verifier does not pass by its nature, and why."""
    found = getattr(home(bound), "WAIVED", {})
    if not isinstance(found, Mapping) or not all(
        isinstance(k, str) and isinstance(v, str) and v for k, v in found.items()
    ):
        raise DataError(f"verifier {bound.name!r}: WAIVED must be {{name of a check: why}}, got {str(found)[:80]}")
    return dict(found)


def home(bound: Bound) -> types.ModuleType:
    """The module that holds the verifier, with its examples where there are any."""
    own = inspect.getmodule(bound.function)
    if own is not None and hasattr(own, "EXAMPLES"):
        return own
    # a function may be made by a helper in another module, and given its name in the one that has the examples
    for module in list(sys.modules.values()):
        names = getattr(module, "__dict__", {})
        if "EXAMPLES" in names and any(thing is bound.function for thing in names.values()):
            return module
    return own if own is not None else types.ModuleType(bound.name)


def written(gold: Any) -> str | None:
    """A gold as a model would write it: text as it is, other data as JSON; None of null, true and false."""
    if gold is None or isinstance(gold, bool):
        return None
    if isinstance(gold, str):
        return gold
    try:
        return json.dumps(gold, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return None


def describe(name: str) -> Description:
    """What people want to know of a verifier before they use it; never raises."""
    try:
        bound = lookup(name)
        return Description(
            name=name,
            version=bound.version,
            summary=_summary(bound),
            gold=_gold(bound),
            options=_options(bound),
            timeout=bound.timeout,
            needs=_needs(bound),
        )
    except Exception as error:  # whatever stands in somebody else's module
        told = " ".join(str(error).split()) if isinstance(error, RlvrError) else one_line(error)
        return Description(name=name, version="", summary="", gold="", options={}, timeout=None, needs=told)


def markdown(found: Sequence[Description]) -> Iterator[str]:
    """A table of verifiers for a page: what does not depend on the machine."""
    yield "| verifier | judges | gold | options |"
    yield "|---|---|---|---|"
    for one in found:
        options = ", ".join(f"`{name}: {it['type']} = {it['default']}`" for name, it in one["options"].items())
        cells = (f"`{one['name']}`", one["summary"].rstrip("."), one["gold"], options)
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def describe_all() -> list[Description]:
    """Every verifier that is built in or registered by an installed package, by name."""
    return [describe(name) for name in plugins.known("verifier")]


def _example(bound: Bound, k: int, line: Any) -> Example:
    where = f"verifier {bound.name!r}: EXAMPLES[{k}]"
    if not isinstance(line, Sequence) or isinstance(line, str) or len(line) not in (3, 4):
        raise DataError(f"{where} must be (gold, response, score), or with a mapping of options behind")
    gold, response, score = line[:3]
    more = line[3] if len(line) == 4 else {}
    if not isinstance(response, str):
        raise DataError(f"{where}: the response must be text, got {type(response).__name__}")
    if not (score is None or (isinstance(score, bool | int | float) and 0 <= score <= 1)):
        raise DataError(f"{where}: the score must be in [0, 1] or None, got {score!r}")
    if not isinstance(more, Mapping):
        raise DataError(f"{where}: what stands behind the score must be a mapping, got {type(more).__name__}")
    if not set(more) & set(_WITH):
        more = {"options": more}
    elif unknown := set(more) - set(_WITH):
        raise DataError(f"{where}: {sorted(map(str, unknown))[0]!r} is none of {', '.join(_WITH)}")
    extra: dict[str, Any] = dict(more)
    return Example(gold=gold, response=response, score=None if score is None else float(score), **extra)


def _summary(bound: Bound) -> str:
    """The first sentence of the module's docstring where it speaks of this verifier ("NAME: ..."), else of its own."""
    module = inspect.getdoc(home(bound)) or ""
    label = bound.name.rpartition(":")[2]
    if module.startswith(f"{label}: "):
        return _first(module[len(label) + 2 :])
    return _first(inspect.getdoc(bound.function) or module)


def _gold(bound: Bound) -> str:
    """The paragraph "Gold: ..." of one of the docstrings, else the kinds of gold that the examples have."""
    for text in (inspect.getdoc(bound.function) or "", inspect.getdoc(home(bound)) or ""):
        if found := re.search(r"^(?:Gold: |The gold is )(.+)", text, re.MULTILINE | re.DOTALL):
            return _sentence(found[1])
    if "gold" not in bound.parameters and "task" not in bound.parameters:
        return "none"
    words = {str: "text", int: "number", float: "number", bool: "true or false", list: "list", dict: "object"}
    kinds = dict.fromkeys(
        words.get(type(example.gold), type(example.gold).__name__)
        for example in examples_of(bound)
        if example.gold is not None and example.score is not None
    )
    return " or ".join(kinds) or ("none" if "gold" not in bound.parameters else "any")


def _sentence(text: str) -> str:
    """The first of its first paragraph, without the full stop."""
    return re.split(r"\.(?: (?=[A-Z])|\Z)", _first(text), maxsplit=1)[0]


def _first(text: str) -> str:
    """Its first paragraph in one line."""
    return " ".join(text.partition("\n\n")[0].split())


def _options(bound: Bound) -> dict[str, dict[str, str]]:
    parameters = inspect.signature(bound.function).parameters
    try:
        hints = typing.get_type_hints(bound.function)
    except Exception:  # names that only its author's type checker knows
        hints = {}
    return {
        name: {"type": _type(hints.get(name, Any)), "default": repr(parameters[name].default)} for name in bound.options
    }


def _type(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return " | ".join(map(repr, typing.get_args(hint)))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " | ".join(map(_type, typing.get_args(hint)))
    if isinstance(hint, type) and not typing.get_args(hint):
        return "None" if hint is type(None) else hint.__name__
    return re.sub(r"\b(?:typing|collections\.abc)\.", "", str(hint))


def _needs(bound: Bound) -> str:
    try:
        told = start_problem(bound.name, {})
    except RlvrError as error:
        told = str(error)
    return " ".join(told.split()).removeprefix(f"verifier {bound.name!r}: ")
