"""A verifier as it is called: which of its parameters are injected, which are options, and what it may return."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import time
import traceback
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rlvr import plugins
from rlvr.awaiting import awaited
from rlvr.errors import PluginError, SettingsError, near, one_line
from rlvr.rewards.code_hash import code_hash
from rlvr.rewards.frames import to_bytes, to_json
from rlvr.seeds import seed_for
from rlvr.types import Task, Verdict
from rlvr.verifiers.extract import extract

INJECTED = ("response", "gold", "task", "answer", "how", "seed")
_GRACE_SECONDS = 0.1
"""After its wall limit a coroutine is cancelled, when whoever waited has been told."""
STDERR_CHARACTERS = 2000
"""Of what a verifier printed, the end that its verdict keeps."""


Job = tuple[str, str, Task, Mapping[str, Any]]
"""(verifier, response, task, options)"""
Compose = Callable[
    [str, Task, Mapping[str, Any]], tuple[Sequence[Job | Verdict], Callable[[Sequence[Verdict]], Verdict]]
]
"""(response, task, options) -> what is to be judged, or known already, and the verdict that follows from theirs.

SettingsError where the options are no use.
"""


@dataclass(frozen=True, slots=True)
class Bound:
    """A verifier as it is called."""

    name: str
    function: Callable[..., Any]
    parameters: tuple[str, ...]
    """Out of INJECTED."""
    options: tuple[str, ...]
    """Keyword-only parameters with a default: what a recipe sets under rewards.NAME.options."""
    version: str
    """As declared, with a hash of the code."""
    timeout: float
    """CPU seconds."""
    wall_limit: float
    """Seconds; for verifiers that sleep or wait. Far off, so that a busy machine changes no verdict."""
    isolation: plugins.Isolation
    compose: Compose | None
    """For one that is made of others."""


def lookup(name: str) -> Bound:
    """The verifier of that name. PluginError where there is none, or its parameters are not ours to give."""
    function = plugins.find("verifier", name)
    if not callable(function):
        raise PluginError(f"verifier {name!r} is {type(function).__name__}, which cannot be called")
    given, options = [], []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is not parameter.empty:
            options.append(parameter.name)  # also one that bears the name of what is given to others
        elif parameter.name in INJECTED:
            given.append(parameter.name)
        else:
            raise PluginError(
                f"verifier {name!r} has a parameter {parameter.name!r}; parameters are given by name, out of "
                f"{', '.join(INJECTED)} (an option stands behind * and has a default)"
            )
    timeout = float(getattr(function, "verifier_timeout", 1.0))
    return Bound(
        name=getattr(function, "verifier_name", name),
        function=function,
        parameters=tuple(given),
        options=tuple(options),
        version=f"{getattr(function, 'verifier_version', '1')}+{code_hash(function)}",
        timeout=timeout,
        wall_limit=float(getattr(function, "verifier_wall_seconds", None) or max(10.0, 10 * timeout)),
        isolation=getattr(function, "verifier_isolation", "worker"),
        compose=getattr(function, "verifier_compose", None),
    )


def try_lookup(name: str) -> tuple[Bound | None, str]:
    """As lookup(), but what goes wrong is told in the second, one line."""
    try:
        return lookup(name), ""
    except PluginError as error:
        return None, str(error)
    except Exception as error:  # the plugin's own code fails while it is imported
        return None, cannot_be_loaded(name, error)


def cannot_be_loaded(name: str, error: Exception) -> str:
    """One line."""
    return f"verifier {name!r} cannot be loaded: {one_line(error)}"


def option_problems(verifier: str, options: Mapping[str, Any], where: str) -> list[str]:
    """A line for each option that the verifier does not have, or whose value is not of its type.

    And what `option_problems(options, where)` of the verifier's module adds to that. `where` is where they stand, such
    as "rewards.answer.options". PluginError where there is no such verifier.
    """
    bound = lookup(verifier)
    problems = declared_problems(bound, options, where)
    hook = _hook(bound, "option_problems")
    return problems if problems or hook is None else hook(options, where)


def declared_problems(bound: Bound, options: Mapping[str, Any], where: str) -> list[str]:
    """option_problems() as far as names and annotations of the function's parameters tell."""
    problems = []
    for name, value in options.items():
        if name not in bound.options:
            hint = near(name, bound.options)
            known = f"known: {', '.join(bound.options)}" if bound.options else "it has none"
            problems.append(f"{where}.{name}: verifier {bound.name!r} has no such option; {hint}{known}")
        elif problem := _type_problem(bound, name, value):
            problems.append(f"{where}.{name}: {problem}, got {value!r} (verifier {bound.name!r})")
    return problems


def start_problems(verifier: str, options: Mapping[str, Any], where: str) -> list[str]:
    """Why nothing should begin with this verifier: what option_problems() says, or else start_problem()."""
    if problems := option_problems(verifier, options, where):
        return problems
    told = start_problem(verifier, options)
    return [told] if told else []


def start_problem(verifier: str, options: Mapping[str, Any]) -> str:
    """What would be wrong with every verdict, by `start_problem(options)` of the verifier's module; one line, or "".

    Such as a machine that lacks what it needs. It runs here, in the process that begins; the options have been checked.
    """
    bound = lookup(verifier)
    hook = _hook(bound, "start_problem")
    told = hook(options) if hook is not None else ""
    return f"verifier {bound.name!r}: {told}" if told else ""


def gold_problem(bound: Bound, task: Task, options: Mapping[str, Any] | None = None) -> str:
    """Why the task's gold is no use, by `gold_problem(verifier, task)` of the verifier's module; one line, or "".

    The options are passed on where that function has a parameter `options`.
    """
    hook = _hook(bound, "gold_problem")
    if hook is None:
        return ""
    more = {"options": options or {}} if "options" in inspect.signature(hook).parameters else {}
    try:
        return hook(bound.name, task, **more)
    except Exception as error:  # somebody else's module, and data that nobody has seen
        return f"its gold cannot be read: {one_line(error)}"


def read_options(texts: Sequence[str], flag: str) -> dict[str, Any]:
    """Options as a command line has them, "NAME=VALUE": a value that is JSON is read as such, any other is text.

    SettingsError, which names the `flag`, where one has another form.
    """
    options: dict[str, Any] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not name or not sign:
            raise SettingsError(f"{flag} {text}: must be NAME=VALUE, such as score=pass_rate")
        options[name] = option_value(value)
    return options


def option_value(text: str) -> Any:
    """What the text says in JSON, where it does, else the text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def trusted_options(bound: Bound) -> tuple[str, ...]:
    """TRUSTED_OPTIONS of the verifier's module: those that say what is run, read or asked on this machine.

    Whoever sets one of them may do what this process may, so a service takes none from a request.
    """
    return tuple(getattr(inspect.getmodule(bound.function), "TRUSTED_OPTIONS", ()))


def trusted_gold(bound: Bound) -> str:
    """TRUSTED_GOLD of the verifier's module: why its golds are not a stranger's to give; "" where they may be."""
    return str(getattr(inspect.getmodule(bound.function), "TRUSTED_GOLD", ""))


def _hook(bound: Bound, name: str) -> Callable[..., Any] | None:
    """A function of that name in the verifier's module."""
    found = getattr(inspect.getmodule(bound.function), name, None)
    return found if callable(found) else None


def _type_problem(bound: Bound, option: str, value: Any) -> str:
    """Why the value is not what the option's annotation asks for; an option without one takes any."""
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    try:
        wanted = typing.get_type_hints(bound.function, include_extras=True).get(option, Any)
    except Exception as error:  # whatever stands in somebody else's annotations
        raise PluginError(f"verifier {bound.name!r}: its annotations cannot be read: {one_line(error)}") from error
    try:
        TypeAdapter(wanted, config=ConfigDict(strict=True)).validate_python(value)
    except ValidationError as error:
        message = error.errors()[0]["msg"]
        return message[0].lower() + message[1:]
    return ""


def warm_up(bound: Bound) -> None:
    """Call `warm_up()` of the verifier's module, where it has one: imports that no verdict should pay for."""
    if (hook := _hook(bound, "warm_up")) is not None:
        hook()


def start_up(bound: Bound) -> None:
    """Call `start_up()` of the verifier's module, where it has one: what each process needs for itself.

    It runs before the first response is judged there, on no response's time. Where it fails, the verifier meets the
    same, and says so in a verdict.
    """
    if (hook := _hook(bound, "start_up")) is not None:
        with contextlib.suppress(Exception):
            hook()


def apply(bound: Bound, response: str, task: Task, options: Mapping[str, Any] | None = None, seed: int = 0) -> Verdict:
    """Run the verifier here and now, without any deadline; whatever it does becomes a Verdict.

    `seed` is the run's; the verifier gets verifier_seed() of it.
    """
    start = time.perf_counter()
    options = options or {}
    verdict = run(bound, response, task, options, seed)
    try:
        hashed = input_hash(bound, *texts(response, task, options), task.id, seed)
    except (TypeError, ValueError, RecursionError):  # judged here, though it could not be sent to a process
        hashed = ""
    seconds = time.perf_counter() - start
    return replace(verdict, seconds=seconds, verifier=bound.name, version=bound.version, input_hash=hashed)


def run(bound: Bound, response: str, task: Task, options: Mapping[str, Any], seed: int) -> Verdict:
    """As apply(), without the fields that say who judged what."""
    try:
        return _call(bound, response, task, options, seed)
    except MemoryError as error:
        if bound.isolation == "thread":  # there is no limit but that of the whole process
            return raised(bound, error)
        return Verdict(score=0.0, outcome="too_complex", reason="checking it needs more memory than allowed")
    except BaseException as error:  # also SystemExit: a plugin may do anything, and the worker goes on
        return raised(bound, error)


def raised(bound: Bound, error: BaseException) -> Verdict:
    """The verdict of a verifier that raised: no score."""
    return Verdict(
        score=None,
        outcome="error",
        reason=f"verifier {bound.name!r} raised {one_line(error)}",
        stderr="".join(traceback.format_exception(error))[-STDERR_CHARACTERS:],
    )


def verifier_seed(bound: Bound, task_id: str, seed: int) -> int:
    """What a verifier's parameter `seed` gets: the same at every attempt of a run, unknown to who writes responses."""
    return seed_for(seed, "verifier", bound.name, task_id)


def texts(response: str, task: Task, options: Mapping[str, Any]) -> tuple[bytes, bytes, bytes]:
    """The response, and JSON of what else of the task bears on a verdict (gold, prompt, info) and of the options.

    TypeError, ValueError or RecursionError where something cannot be written so.
    """
    return to_bytes(response), to_json([task.gold, task.prompt, task.info]), to_json(options) if options else b"{}"


def input_hash(bound: Bound, response: bytes, asked: bytes, options: bytes, task_id: str, seed: int) -> str:
    """16 hex digits of texts() and, for a verifier that uses one, of its seed."""
    digest = hashlib.blake2b(b"%d %d " % (len(response), len(asked)), digest_size=8)
    digest.update(response)
    digest.update(asked)
    digest.update(options)
    if "seed" in bound.parameters:
        digest.update(verifier_seed(bound, task_id, seed).to_bytes(8, "little"))
    return digest.hexdigest()


def _call(bound: Bound, response: str, task: Task, options: Mapping[str, Any], seed: int) -> Verdict:
    if bound.compose is not None:
        jobs, combine = bound.compose(response, task, options)
        return combine([job if isinstance(job, Verdict) else _part(*job, seed) for job in jobs])
    given: dict[str, Any] = {"response": response, "gold": task.gold, "task": task}
    if "seed" in bound.parameters:
        given["seed"] = verifier_seed(bound, task.id, seed)
    extracts = "answer" in bound.parameters or "how" in bound.parameters
    if extracts:
        found = extract(response)
        if found is None:
            return Verdict(score=0.0, outcome="no_answer", reason="the response commits to no answer")
        given.update(answer=found.answer, how=found.how)
    result = bound.function(**{name: given[name] for name in bound.parameters}, **options)
    if inspect.isawaitable(result):
        result = awaited(result, bound.wall_limit + _GRACE_SECONDS)
    verdict = _as_verdict(bound, result)
    if extracts and verdict.answer is None:
        verdict = replace(verdict, answer=given["answer"], how=given["how"])
    return verdict


def _part(verifier: str, response: str, task: Task, options: Mapping[str, Any], seed: int) -> Verdict:
    bound, problem = try_lookup(verifier)
    if bound is None:
        return Verdict(score=None, outcome="error", reason=problem, verifier=verifier)
    return apply(bound, response, task, options, seed)


def _as_verdict(bound: Bound, result: Any) -> Verdict:
    if isinstance(result, Verdict):
        return result
    if result is None:
        return Verdict(score=None, outcome="not_applicable", reason=f"{bound.name} does not speak of this task")
    if hasattr(result, "item") and getattr(result, "ndim", None) == 0:  # a number of numpy's or torch's
        result = result.item()
    if isinstance(result, bool | int | float) and 0 <= result <= 1:  # NaN is not
        outcome = "correct" if result == 1 else "wrong" if result == 0 else "partial"
        return Verdict(score=float(result), outcome=outcome)
    what = repr(result) if isinstance(result, int | float) else f"a {type(result).__name__}"
    return Verdict(
        score=None,
        outcome="error",
        reason=f"verifier {bound.name!r} returned {what[:60]}, not a Verdict, a bool, a number in [0, 1] or None",
    )
