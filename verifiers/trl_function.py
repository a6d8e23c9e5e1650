"""trl: a reward function as TRL calls it, `f(prompts, completions, **columns) -> list[float | None]`, judges.

The gold is whatever the function reads it as. It is given as the columns gold, answer, solution, ground_truth and
target, but for those that the row has itself; all further columns of the row are given under their own names, each as a
list of one. None, with which such a function leaves a completion out, is "not applicable". checks["code"] has a hash of
the function's file: the verdict's version is that of this adaptor.
"""

from __future__ import annotations

from typing import Any

from rlvr.plugins import verifier
from rlvr.tasks import GOLD_COLUMNS
from rlvr.types import Task, Verdict
from rlvr.verifiers import peer_function
from rlvr.verifiers.peer_function import start_problem as start_problem

TRUSTED_OPTIONS = ("function",)
"""What is imported and run."""


@verifier("trl", timeout=10.0, wall_seconds=120.0)
def trl_function(
    response: str,
    gold: Any,
    task: Task,
    *,
    function: str = "",
    conversational: bool | None = None,
    low: float = 0.0,
    high: float = 1.0,
) -> Verdict:
    """function: package.module:name or file.py:name. conversational: completions as messages (without it where the
    prompt is one). low, high: what its numbers lie between; they become [0, 1]."""
    is_chat = not isinstance(task.prompt, str) if conversational is None else conversational
    messages = [{"role": "user", "content": task.prompt}] if isinstance(task.prompt, str) else list(task.prompt)
    prompt = messages if is_chat else task.prompt
    columns = {**dict.fromkeys(GOLD_COLUMNS, gold), **task.info}
    given: dict[str, Any] = {name: [value] for name, value in columns.items()}
    given["prompts"] = [prompt]
    given["completions"] = [[{"role": "assistant", "content": response}] if is_chat else response]
    try:
        given = peer_function.accepted(peer_function.load(function), given)
    except ValueError as error:
        return peer_function.unjudged(str(error))
    return peer_function.with_code(_judged(function, given, low, high), peer_function.code_of(function))


def _judged(function: str, given: dict[str, Any], low: float, high: float) -> Verdict:
    result = peer_function.call(function, given)
    if isinstance(result, Verdict):
        return result
    if hasattr(result, "tolist"):  # an array of numpy, a tensor of torch
        result = result.tolist()
    if not isinstance(result, list | tuple):
        return peer_function.unjudged(f"{function} returned a {type(result).__name__}, not a list")
    if len(result) != 1:
        return peer_function.unjudged(f"{function} returned a list of {len(result)} for 1 completion")
    if result[0] is None:
        return Verdict(score=None, outcome="not_applicable", reason=f"{function} leaves this completion out")
    return peer_function.scored(function, result[0], low, high)


def says_gold(completions: list[Any], solution: list[Any], **_: Any) -> list[float | None]:
    """The reward function of the examples: 1 where the last word is the gold; None where there is no gold."""
    texts = [text if isinstance(text, str) else text[0]["content"] for text in completions]
    return [
        None if gold is None else float(text.split()[-1:] == [gold]) for text, gold in zip(texts, solution, strict=True)
    ]


_SAYS_GOLD = {"function": "rlvr.verifiers.trl_function:says_gold"}
WAIVED = {
    "echo": "the author's function reads the response, thinking and all",
    "bad_golds": "the author's function reads the gold",
}
EXAMPLES = [  # gold, response, score, options: right, wrong, malformed, trying to cheat
    ("42", "it is 42", 1.0, _SAYS_GOLD),
    ("42", "it is 41", 0.0, _SAYS_GOLD),
    ("42", "", 0.0, _SAYS_GOLD),
    ("42", "42 or 41", 0.0, _SAYS_GOLD),
    (None, "it is 42", None, _SAYS_GOLD),
]
