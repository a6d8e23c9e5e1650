"""Our verifiers as verl's compute_score.

    custom_reward_function.path=pkg://rlvr.adaptors.verl custom_reward_function.name=compute_score
    +custom_reward_function.reward_kwargs.verifier=math

Nothing here imports verl.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rlvr.adaptors import shared
from rlvr.errors import RlvrError
from rlvr.types import Task

VERIFIERS = {
    **dict.fromkeys(("openai/gsm8k", "lighteval/MATH", "DigitalLearningGmbH/MATH-lighteval"), "math"),
    **dict.fromkeys(("HuggingFaceH4/MATH-500", "math_dapo", "math", "math_dapo_reasoning", "aime*"), "math"),
    **dict.fromkeys(("numina_aops_forum", "numina_synthetic_math", "numina_amc_aime"), "math"),
    **dict.fromkeys(("numina_synthetic_amc", "numina_cn_k12", "numina_olympiads"), "math"),
    **dict.fromkeys(("codecontests", "apps", "codeforces", "taco"), "stdin_stdout"),
    "reasoning_gym": "reasoning_gym",
}
"""By verl's data_source; a * at the end stands for anything."""


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    *,
    verifier: str | None = None,
    verifiers: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
    unjudged: float | None = None,
    workers: int = 1,
    **_: Any,
) -> dict[str, Any]:
    """{"score", "acc", "judged", "verifier", "outcome", "reason"} of one response, from any thread.

    The verifier is extra_info["verifier"], else `verifier`, else that of the data_source in `verifiers`, else in
    VERIFIERS; `options` are its own. verl has no word for "could not be judged": RlvrError then ends the run and says
    why, unless `unjudged` is the number that such a response is given, whose `judged` is 0.
    """
    extra = dict(extra_info or {})
    name = extra.pop("verifier", None) or verifier or _by_source(data_source, verifiers or {})
    if name is None:
        raise RlvrError(
            f"no verifier for data_source {data_source!r}; name one in extra_info.verifier, or in reward_kwargs as "
            "verifier or verifiers"
        )
    index = extra.get("index")
    task_id = f"{data_source}:{index}" if isinstance(index, str | int) else shared.task_id(_key(ground_truth))
    task = Task(id=task_id, prompt="", gold=ground_truth, source=data_source, info=extra)
    verdict = shared.judge([(name, solution_str, task, options or {})], workers)[0]
    score = verdict.score
    if score is None:
        if unjudged is None:
            raise RlvrError(f"{data_source}: verifier {name!r} could not judge {task.id}: {verdict.reason}")
        score = unjudged
    return {
        "score": float(score),
        "acc": float(score),
        "judged": float(verdict.score is not None),
        "verifier": name,
        "outcome": verdict.outcome,
        "reason": verdict.reason,
    }


def _by_source(data_source: str, verifiers: Mapping[str, str]) -> str | None:
    for table in (verifiers, VERIFIERS):
        if data_source in table:
            return table[data_source]
        for name, chosen in table.items():
            if name.endswith("*") and data_source.startswith(name[:-1]):
                return chosen
    return None


def _key(gold: Any) -> str:
    return json.dumps(gold, sort_keys=True, default=str)
