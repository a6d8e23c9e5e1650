"""Rewards without any gold: what most siblings answered, and how certain the policy was of what it wrote.

Both are proxies that the policy can satisfy by giving always the same answer: alarms.py watches for that.
B completions, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rlvr.rewards.verified import VerifiedReward
from rlvr.rewards.votes import canonical, winners
from rlvr.types import Group, Task, Verdict

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

_STAND_IN = "0"
"""Shown to a verifier as the gold of a task that has none: only what it finds in the response is used."""


class Majority:
    """1 / t for the answers that most siblings gave, t of them, and 0 for others and for none.

    TTRL (https://arxiv.org/abs/2504.16084 section 2.1), with answers that count as equal as in maj@k. What we could not
    read is no vote and has no score.
    """

    def __init__(self, reader: VerifiedReward) -> None:
        """reader: its verdicts say which answer a response gives; what they think of it is not used."""
        self._reader = reader

    def score(self, groups: Sequence[Group]) -> list[list[Verdict]]:
        """Verdicts [group][rollout]."""
        read = self._reader.score([replace(group, task=_with_gold(group.task)) for group in groups])
        return [
            _voted([v if r.completion.finish != "abort" else None for r, v in zip(group.rollouts, read_G, strict=True)])
            for group, read_G in zip(groups, read, strict=True)
        ]


def _with_gold(task: Task) -> Task:
    return task if task.gold is not None else replace(task, gold=_STAND_IN)


def _voted(read_G: Sequence[Verdict | None]) -> list[Verdict]:
    """The siblings' verdicts by their votes; None: the engine took the completion back."""
    answers_G = [verdict.answer if verdict is not None and not verdict.is_failure else None for verdict in read_G]
    best, most = winners(answers_G)
    num_read = sum(verdict is not None and not verdict.is_failure for verdict in read_G)
    return [_verdict(verdict, best, most, num_read) for verdict in read_G]


def _verdict(read: Verdict | None, best: frozenset[Any], most: int, num_read: int) -> Verdict:
    own: dict[str, Any] = {"verifier": "majority", "version": "1"}
    if read is None:
        return Verdict(score=None, outcome="error", reason="the engine took the completion back", **own)
    if read.score is None:
        return replace(read, reason=f"its answer was not found: {read.reason}", **own)
    own |= {"answer": read.answer, "how": read.how, "checks": {"votes_most": most, "voters": num_read}}
    if read.answer is None:
        return Verdict(score=0.0, outcome="no_answer", reason="no answer, so no vote", **own)
    if canonical(read.answer) not in best:
        return Verdict(score=0.0, outcome="wrong", reason=f"another answer has {most} of {num_read} votes", **own)
    tied = f", as have {len(best) - 1} others" if len(best) > 1 else ""
    reason = f"the answer has {most} of {num_read} votes{tied}"
    return Verdict(score=1 / len(best), outcome="correct" if len(best) == 1 else "partial", reason=reason, **own)


@dataclass(frozen=True, slots=True)
class PolicyView:
    """The policy as a reward reads it: the trainer's own model, whose weights change between steps."""

    model: PreTrainedModel
    temperature: float
    """Of the sampling."""
    micro_tokens: int
    """Most tokens, padding among them, of one forward."""


class SelfCertainty:
    """Mean over a completion's own tokens of KL(uniform || policy), nats (https://arxiv.org/abs/2505.19590 eq. 5).

    value: that; score: 1 - exp(-value). The policy is the one that sampled. A group passes it by itself, so that a
    number does not depend on which other groups are there. Not safe from several threads at once.
    """

    def __init__(self) -> None:
        self.policy: PolicyView | None = None

    def score(self, groups: Sequence[Group]) -> list[list[Verdict]]:
        """Verdicts [group][rollout]. ValueError before `policy` is set."""
        if self.policy is None:
            raise ValueError("self_certainty reads the policy that is trained: set policy before score()")
        return [self._of_group(group, self.policy) for group in groups]

    def _of_group(self, group: Group, view: PolicyView) -> list[Verdict]:
        rows = [(*group.prompt_ids, *rollout.completion.token_ids) for rollout in group.rollouts]
        trained = [(*(False for _ in group.prompt_ids), *rollout.completion.trained) for rollout in group.rollouts]
        per_forward = max(1, view.micro_tokens // max(map(len, rows)))
        verdicts: list[Verdict] = []
        for start in range(0, len(rows), per_forward):
            part = slice(start, start + per_forward)
            verdicts += [_certain(mean) for mean in _means(view, rows[part], trained[part])]
        return verdicts


def _means(view: PolicyView, rows: Sequence[Sequence[int]], trained: Sequence[Sequence[bool]]) -> list[float]:
    """Mean certainty of each row's own tokens; NaN where it has none."""
    import torch  # slow to import, and those who only judge need not wait for it

    from rlvr import policy

    device = view.model.device
    ids_BT, mask_BT = (
        torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in table], batch_first=True).to(device)
        for table in (rows, trained)
    )
    certainty_BT: Tensor = policy.certainty(view.model, ids_BT, mask_BT, view.temperature)
    return (certainty_BT.double().sum(dim=1) / mask_BT.sum(dim=1)).tolist()


def _certain(mean: float) -> Verdict:
    own: dict[str, Any] = {"verifier": "self_certainty", "version": "1"}
    if not math.isfinite(mean):
        return Verdict(score=None, outcome="error", reason=f"the policy's certainty is {mean}", **own)
    mean = max(mean, 0.0)  # a rounding below
    return Verdict(
        score=1 - math.exp(-mean),
        value=mean,
        outcome="partial",
        reason=f"{mean:.4g} nats from the uniform distribution, mean over the tokens",
        **own,
    )
