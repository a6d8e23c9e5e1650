"""reasoning_gym: the scorer of the task's own data set in reasoning-gym judges the answer.

The gold is the entry that the data set made, {"question", "answer", "metadata"}, whose metadata.source_dataset names
the data set; or the entry's answer, where the row's other columns are the entry's. What was set for the data set, other
than its defaults, stands in "config" beside them. `rlvr.adaptors.reasoning_gym:tasks` makes such rows.

The answer is what `<answer>` holds, else what stands in a box or behind "the answer is". Their scorers give parts of a
point for many wrong answers (one that only contains the right one, any list of numbers); here 1 alone is right, unless
`partial` asks for their numbers. Some evaluate the answer as Python, or look for the right one anywhere in it: such
answers must have the form that a right one has. Data sets whose scorer cannot be trusted are refused: BROKEN. So is an
entry whose own answer its scorer does not accept. checks["code"] names the package's version: the verdict's own is that
of this adaptor.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata
from typing import Any

from rlvr.errors import near
from rlvr.plugins import verifier
from rlvr.types import Task, Verdict
from rlvr.verifiers.answer_text import after_thinking, short
from rlvr.verifiers.extract import Found, extract, last_tag
from rlvr.verifiers.peer_function import with_code

_MISSING = "reasoning-gym is not installed: pip install rlvr[reasoning-gym]"
_LONGEST = 20_000
"""Characters of an answer."""
BROKEN = {
    "boxnet": "no answer is known that it accepts, and it fails on answers that it cannot read",
    "coin_flip": 'it gives 1 to "0", as to every beginning of the right number',
    "composite": "it is no data set of its own; metadata.source_dataset names the one that the entry is from",
    "game_of_life_halting": "it gives 1 to any words whatever",
    "number_sorting": "it lets each number be 1 off",
    "propositional_logic": "it gives 1 to a premise that is said again, and its entries have no answer",
    "puzzle24": "it does not look at which numbers were given: one formula solves every task",
    "rush_hour": "no answer is known that it accepts: its entries have none",
}
"""Data sets of reasoning-gym 0.1.25 whose scorer cannot be trusted, and why."""

_NUMBERS = re.compile(r"[-\d\s]*")
_FUNCTIONS = "sin|cos|tan|sec|csc|cot|sinh|cosh|tanh|asin|acos|atan|exp|log|ln|sqrt|Abs|pi"
# One character or name for each turn of the loop, in one way only, so that the time grows with the length.
_POLYNOMIAL = re.compile(r"(?:\d|(?<=\d)\.(?=\d)|(?<![A-Za-z])[A-Za-z](?![A-Za-z])|[\s+\-*/()])*")
_FORMULA = re.compile(rf"(?:\d|(?<=\d)\.(?=\d)|(?<![A-Za-z])(?:[A-Za-z]|{_FUNCTIONS})(?![A-Za-z])|[\s+\-*/()])*")
FORMS: dict[str, re.Pattern[str]] = {
    # what is given to eval() or to sympy's parse_expr(), which is eval()
    "binary_matrix": _NUMBERS,
    "countdown": re.compile(r"(?:[\d\s+\-()]|\*(?!\*)|/(?!/))*"),
    "intermediate_integration": _FORMULA,
    "n_queens": re.compile(r"[Q_\s]*"),
    "polynomial_multiplication": _POLYNOMIAL,
    "simple_integration": _FORMULA,
    "spiral_matrix": _NUMBERS,
    "string_insertion": re.compile(r"[A-Z]*"),
    # what is read past anything that is not understood
    "fraction_simplification": re.compile(r"\$?(?:\\d?frac\{-?\d+\}\{-?\d+\}|-?\d+\s?/\s?-?\d+)\$?"),
    "game_of_life": re.compile(r"[\[\]\d,\s]*"),
    "gsm_symbolic": re.compile(r"\d+(?:\.\d+)?"),  # its sign would not be read
    "kakurasu": re.compile(r"[01\s]*"),
    "polynomial_equations": re.compile(r"[-+]?\d+(?:\.\d+)?(?:\s?,\s?[-+]?\d+(?:\.\d+)?)*"),
    "prime_factorization": re.compile(r"\d+(?:\s?×\s?\d+)*"),
    "sokoban": re.compile(r"[UDLRudlr]*"),
    "spell_backward": re.compile(r"\S*"),
    "survo": _NUMBERS,
}
"""The form of every right answer, for data sets whose scorer must not see anything else. No scorer is asked about an
answer of another form: it is malformed."""
_SAME_WORDS = frozenset({"knights_knaves", "letter_jumble", "time_intervals"})
"""Data sets whose scorer lets further words pass: there the answer must have as many as the right one."""
_EXAMPLES_IN = ("possible_answer", "example_correct_answer")
"""Where the metadata has a right answer, for entries that admit many and have no answer."""


@verifier("reasoning_gym", timeout=10.0)
def reasoning_gym_task(response: str, gold: Any, task: Task, *, partial: bool = False) -> Verdict:
    """partial: the data set's own number, parts of a point included, in place of 1 or 0."""
    entry = _entry(gold, task.info)
    if isinstance(entry, str):
        return Verdict(score=None, outcome="gold_invalid", reason=entry, stage="gold")
    found = _answer(response)
    if found is None:
        return Verdict(score=0.0, outcome="no_answer", reason="the response commits to no answer")
    name = entry["metadata"]["source_dataset"]
    verdict = _judged(found.answer, entry, name, partial)
    if verdict.score != 1 and (problem := _oracle_problem(name, json.dumps(entry))):
        outcome = "error" if problem == _MISSING else "gold_invalid"
        return Verdict(score=None, outcome=outcome, reason=problem, stage="gold")
    return with_code(replace(verdict, answer=found.answer, how=found.how, stage=name), _code())


@functools.cache
def _code() -> str:
    try:
        return f"reasoning-gym {metadata.version('reasoning-gym')}"
    except metadata.PackageNotFoundError:  # from a checkout
        return "reasoning-gym"


def start_problem(options: Mapping[str, Any]) -> str:
    """That the package is missing; else ""."""
    try:
        import reasoning_gym  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        return _MISSING
    return ""


def warm_up() -> None:
    """Import it once. Where it is missing every verdict says so."""
    start_problem({})


def gold_problem(verifier_name: str, task: Task) -> str:
    """Why no answer can be judged by this entry; "" where one can be."""
    entry = _entry(task.gold, task.info)
    if isinstance(entry, str):
        return entry
    problem = _oracle_problem(entry["metadata"]["source_dataset"], json.dumps(entry))
    return "" if problem == _MISSING else problem


def _entry(gold: Any, info: Mapping[str, Any]) -> dict[str, Any] | str:
    """The entry as its scorer wants it; else one line that says why there is none."""
    whole = _from_json(gold)
    if not (isinstance(whole, Mapping) and "metadata" in whole):
        whole = {**info, "answer": gold}
    metadata = _from_json(whole.get("metadata"))
    if not isinstance(metadata, Mapping) or not isinstance(metadata.get("source_dataset"), str):
        return "the gold must be an entry of reasoning-gym, with metadata.source_dataset"
    name = metadata["source_dataset"]
    if name in BROKEN:
        return f"reasoning-gym's scorer of {name!r} cannot be trusted: {BROKEN[name]}"
    config = whole.get("config")
    if not (config is None or isinstance(config, Mapping)):
        return f"the entry's config must be an object, got a {type(config).__name__}"
    entry = {"question": whole.get("question", ""), "answer": whole.get("answer"), "config": config}
    entry["metadata"] = {
        **metadata,
        **({"output": _tuples(metadata["output"])} if name in ("arc_agi", "rearc") else {}),
    }
    if _oracle(entry) is None:
        return f"the entry of {name!r} has no answer"
    return entry


def _from_json(value: Any) -> Any:
    """What a text says in JSON, where it does and is an object; anything else as it is."""
    if isinstance(value, str) and value.lstrip()[:1] == "{":
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(value)
    return value


def _tuples(value: Any) -> Any:
    """Boards are compared as tuples, which JSON has no word for."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value


def _oracle(entry: Mapping[str, Any]) -> str | None:
    answer = entry["answer"]
    if answer is None:
        answer = next((entry["metadata"][key] for key in _EXAMPLES_IN if key in entry["metadata"]), None)
    return answer if answer is None or isinstance(answer, str) else json.dumps(answer)


@functools.lru_cache(maxsize=256)
def _data_set(name: str, config: str) -> Any:
    """The data set, for its score_answer. ImportError, or whatever it raises."""
    import reasoning_gym  # pyright: ignore[reportMissingImports]
    from reasoning_gym.factory import DATASETS  # pyright: ignore[reportMissingImports]

    if name not in DATASETS:
        raise ValueError(f"{near(name, DATASETS)}it has none of that name")
    return reasoning_gym.create_dataset(name, **json.loads(config))


def _score(answer: str, entry: dict[str, Any], name: str) -> Any:
    """What the data set's own scorer says; raises what it raises, or ImportError."""
    data_set = _data_set(name, json.dumps(entry["config"] or {}, sort_keys=True))
    return data_set.score_answer(answer, copy.deepcopy(entry))  # some write into it


@functools.lru_cache(maxsize=4096)
def _oracle_problem(name: str, entry_text: str) -> str:
    """Why the entry can judge no answer, as its own one shows; "" where it can."""
    entry = _entry(entry_text, {})
    assert not isinstance(entry, str), "it was read before"
    oracle = _oracle(entry)
    assert oracle is not None, "an entry without one is no entry"
    try:
        score = None if _form_problem(oracle, oracle, name) else _score(oracle, entry, name)
    except ImportError:
        return _MISSING
    except MemoryError:  # of this process, at this moment
        raise
    except Exception as error:  # any of a hundred scorers, or what was set for the data set
        return f"reasoning-gym's scorer of {name!r} raises {_told(error)} for the entry's own answer"
    return "" if score == 1 else f"reasoning-gym's scorer of {name!r} does not accept the entry's own answer"


def _answer(response: str) -> Found | None:
    """The last `<answer>`, with all its lines (boards have many); else what extract() finds."""
    text = after_thinking(response)
    if text is None:
        return None
    tagged = last_tag(text)
    if tagged is None:
        return extract(response)
    return Found(tagged.strip(), "answer_tag") if tagged.strip() else None


def _form_problem(answer: str, oracle: str, name: str) -> str:
    if name in FORMS and not FORMS[name].fullmatch(answer):
        return f"{short(answer)} has not the form of an answer to {name}"
    if name in _SAME_WORDS and len(answer.split()) != len(oracle.split()):
        return f"{short(answer)} has {len(answer.split())} words, an answer to this has {len(oracle.split())}"
    return ""


def _judged(answer: str, entry: dict[str, Any], name: str, partial: bool) -> Verdict:
    """Where the entry is well: what is wrong with it is for _oracle_problem() to say."""
    if len(answer) > _LONGEST:
        return Verdict(score=0.0, outcome="too_complex", reason=f"the answer has more than {_LONGEST} characters")
    if problem := _form_problem(answer, _oracle(entry) or "", name):
        return Verdict(score=0.0, outcome="malformed", reason=problem)
    try:
        score = _score(answer, entry, name)
    except MemoryError:  # told by who runs verifiers
        raise
    except Exception as error:  # any of a hundred scorers
        return Verdict(score=0.0, outcome="malformed", reason=f"the scorer of {name} cannot read it: {_told(error)}")
    if not isinstance(score, bool | int | float) or not -1e-9 <= score <= 1 + 1e-9:  # NaN is not
        return Verdict(score=None, outcome="error", reason=f"the scorer of {name} returned {str(score)[:60]}")
    # 1.0000000000000002 is a sum over letters, of an answer that goes on behind the right one
    number = min(max(float(score), 0.0), 1.0) if partial else float(score == 1)
    return Verdict(
        score=number,
        outcome="correct" if number == 1 else "wrong" if number == 0 else "partial",
        reason=f"the scorer of {name} gives {short(answer)} {score:g}",
        checks={"scored": float(score)},
    )


def _told(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _spelled(answer: str, name: str = "chain_sum", **metadata: Any) -> dict[str, Any]:
    return {"question": "?", "answer": answer, "metadata": {"source_dataset": name, **metadata}}


EXAMPLES = [  # gold, response, score: right, wrong, malformed, trying to cheat
    (_spelled("426"), "<answer>426</answer>", 1.0),
    (_spelled("426"), r"so \boxed{426}", 1.0),
    (_spelled("426"), "<answer>427</answer>", 0.0),
    (_spelled("426"), "426", 0.0),
    (_spelled("426"), "<answer>426 or maybe something else</answer>", 0.0),
    (_spelled("426"), "<answer>" + " ".join(map(str, range(500))) + "</answer>", 0.0),
    (_spelled("25 + 3", "countdown", numbers=[25, 3], target=28), "<answer>3 + 25</answer>", 1.0),
    (_spelled("25 + 3", "countdown", numbers=[25, 3], target=28), "<answer>__import__('os').getpid()</answer>", 0.0),
    (_spelled("True", "game_of_life_halting"), "<answer>True</answer>", None),
    ("426", "<answer>426</answer>", None),
]
