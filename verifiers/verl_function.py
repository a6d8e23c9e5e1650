"""verl: a function as verl calls it, `compute_score(data_source, solution_str, ground_truth, extra_info)`, judges.

The gold is whatever the function reads as ground_truth. data_source is the row's column of that name, else the name of
the data set; extra_info is the row's column of that name, else all further columns. The function returns a number, or a
mapping whose "score" is one; what else stands in the mapping goes into the verdict's checks, and as "code" a hash of
the function's file: the verdict's version is that of this adaptor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlvr.plugins import verifier
from rlvr.types import Task, Verdict
from rlvr.verifiers import peer_function
from rlvr.verifiers.peer_function import start_problem as start_problem

TRUSTED_OPTIONS = ("function",)
"""What is imported and run."""


@verifier("verl", timeout=10.0, wall_seconds=120.0)
def verl_function(
    response: str,
    gold: Any,
    task: Task,
    *,
    function: str = "",
    reward_kwargs: dict[str, Any] | None = None,
    low: float = 0.0,
    high: float = 1.0,
) -> Verdict:
    """function: package.module:name or file.py:name. reward_kwargs: further arguments, as in verl's recipe. low, high:
    what its numbers lie between; they become [0, 1]."""
    extra = task.info.get("extra_info", task.info)
    given = {
        "data_source": task.info.get("data_source", task.source),
        "solution_str": response,
        "ground_truth": gold,
        "extra_info": dict(extra) if isinstance(extra, Mapping) else extra,
        **(reward_kwargs or {}),
    }
    return peer_function.with_code(_judged(function, given, low, high), peer_function.code_of(function))


def _judged(function: str, given: dict[str, Any], low: float, high: float) -> Verdict:
    result = peer_function.call(function, given)
    if isinstance(result, Verdict):
        return result
    if not isinstance(result, Mapping):
        return peer_function.scored(function, result, low, high)
    if "score" not in result:
        return peer_function.unjudged(f"{function} returned a mapping without score: {', '.join(map(str, result))}")
    checks = {str(name): peer_function.plain(value) for name, value in result.items()}
    return peer_function.scored(function, result["score"], low, high, checks)


def says_gold(data_source: str, solution_str: str, ground_truth: Any, extra_info: Any = None) -> dict[str, Any]:
    """The reward function of the examples: 1 where the last word is the gold, else -1."""
    right = solution_str.split()[-1:] == [ground_truth]
    return {"score": 1.0 if right else -1.0, "acc": right}


_SAYS_GOLD = {"function": "rlvr.verifiers.verl_function:says_gold", "low": -1.0}
WAIVED = {
    "echo": "the author's function reads the response, thinking and all",
    "bad_golds": "the author's function reads the gold",
}
EXAMPLES = [  # gold, response, score, options: right, wrong, malformed, trying to cheat
    ("42", "it is 42", 1.0, _SAYS_GOLD),
    ("42", "it is 41", 0.0, _SAYS_GOLD),
    ("42", "", 0.0, _SAYS_GOLD),
    ("42", "42 or 41", 0.0, _SAYS_GOLD),
]
