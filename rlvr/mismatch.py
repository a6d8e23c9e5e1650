"""Why sampler and trainer disagree: every known cause is tried out, and the one under which they agree is named.

The cause is the trial whose mean gap to the sampler's log-probabilities is smallest, where it is smaller by a clear
factor than the gap without any trial.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from rlvr import policy, trials
from rlvr.batching import make_batch
from rlvr.errors import RlvrError
from rlvr.trials import ROUNDING, Cause, Row, Trainer, Trial
from rlvr.types import Group, Rollout

CLEAR = 5.0
"""A trial must make the mean gap smaller by this factor to explain it."""
_FAMILIES = (
    trials.temperatures,
    trials.truncations,
    trials.prompts,
    trials.adapters,
    trials.weights,
    trials.dtypes,
)
_NUM_ROWS = 16  # rollouts with the largest gaps: enough to tell causes apart, few enough for one forward each
_WINDOW = 64  # tokens of each, around its largest gap: their logits exist at once


def likely_cause(
    trainer: Trainer,
    groups: Sequence[Group],
    tolerance: float,
    resend: Callable[[], Sequence[Group]] | None = None,
) -> Cause:
    """The cause that explains the sampler's log-probabilities in `groups`; kind unknown where no single one does.

    resend: sends the weights once more and samples afresh; asked only where nothing else explains it. Changes nothing
    of the trainer, and holds at most one more copy of the model at a time. Meant for a mismatch: it takes dozens of
    forwards over a few rollouts, and loads model.path.
    """
    with trials.as_sampled(trainer.model):
        rollouts = _comparable(groups)
        gaps = _gaps(trainer, rollouts)
        if odd := _not_finite(rollouts, gaps):
            return odd
        rows = _worst(rollouts, gaps, tolerance)
        before = trials.mean_gap(trainer.model, rows, trainer.temperature)
        tried: list[Trial] = []
        untried: list[str] = []

        def attempt(what: str, trials_of: Callable[[], Iterable[Trial]]) -> None:
            try:
                tried.extend(trials_of())
            except (RlvrError, RuntimeError, MemoryError) as error:  # it must not hide the mismatch
                untried.append(f"{what} ({(str(error).splitlines() or [type(error).__name__])[0]})")

        for family in _FAMILIES:
            attempt(family.__name__, partial(family, trainer, rows))
        best = _best(tried, before)
        if resend is not None and (best is None or best.gap > tolerance):
            attempt("weights sent once more", partial(_resent, trainer, resend))
            best = _best(tried, before)
        if best is not None and best.gap <= tolerance:
            return Cause(best.kind, _explained(best, tried, before))
        if cut := _one_sided(trainer, rows, tolerance):
            return cut
        if best is not None:
            left = f"but a gap of {best.gap:.2g} is left, so there is a second cause, or it is another one"
            return Cause(best.kind, f"perhaps {_explained(best, tried, before)}; {left}")
        if marked := next((trial for trial in tried if trial.mark), None):
            return Cause(marked.kind, f"{marked.what} ({marked.mark}); {marked.change}")
        return Cause("unknown", _unexplained(rollouts, gaps, tolerance, untried))


def _best(tried: Sequence[Trial], before: float) -> Trial | None:
    """That of the smallest gap, where it is clearly smaller."""
    clear = [trial for trial in tried if trial.gap * CLEAR <= before]
    return min(clear, key=lambda trial: trial.gap, default=None)


def _explained(best: Trial, tried: Sequence[Trial], before: float) -> str:
    """What it is, and what else explains it as well."""
    near = sorted((t for t in tried if t.gap <= 3 * max(best.gap, ROUNDING)), key=lambda trial: -trial.gap)
    rivals = {trial.kind: trial for trial in near if trial.kind != best.kind}  # of each kind the nearest
    text = f"{best.what} (mean gap {before:.2g} -> {best.gap:.2g} nats); {best.change}"
    return text + "".join(f"; or else {t.what} (-> {t.gap:.2g}); {t.change}" for t in rivals.values())


def _comparable(groups: Sequence[Group]) -> list[tuple[Group, Rollout]]:
    """The judged rollouts that have a trained token."""
    return [
        (group, r) for group in groups for r in group.rollouts if r.reward is not None and any(r.completion.trained)
    ]


def _gaps(trainer: Trainer, rollouts: Sequence[tuple[Group, Rollout]]) -> list[Tensor]:
    """sampler - trainer [tokens] of every completion, 0 where a token is not trained."""
    batch = make_batch([replace(group, rollouts=(rollout,)) for group, rollout in rollouts]).to(trainer.model.device)
    found: list[Tensor] = [torch.empty(0)] * len(rollouts)
    for index_B in batch.micro(trainer.micro_tokens):
        micro = batch.rows(index_B)
        logp_BT, _ = policy.logprobs(trainer.model, micro.ids_BT, micro.mask_BT, trainer.temperature)
        gap_BT = torch.where(micro.mask_BT, micro.sampler_logp_BT - logp_BT, 0.0).cpu()
        for row, gap_T in zip(index_B.tolist(), gap_BT, strict=True):
            prompt, whole = len(rollouts[row][0].prompt_ids), int(batch.length_B[row])
            found[row] = gap_T[prompt:whole]
    return found


def _worst(rollouts: Sequence[tuple[Group, Rollout]], gaps: Sequence[Tensor], tolerance: float) -> list[Row]:
    """Windows of the rollouts with the largest mean gaps, the worst first; the others may have no fault."""
    mean_B = [float(gap_L.abs().mean()) for gap_L in gaps]
    order = sorted(range(len(gaps)), key=lambda k: -mean_B[k])
    order = [k for k in order if mean_B[k] > tolerance] or order[:1]
    rows: list[Row] = []
    for k in order[:_NUM_ROWS]:
        group, completion = rollouts[k][0], rollouts[k][1].completion
        length = len(completion.token_ids)
        start = max(0, min(int(gaps[k].abs().argmax()) - _WINDOW // 2, length - _WINDOW))
        window = slice(start, min(length, start + _WINDOW))
        row = Row(
            group.task,
            group.prompt_ids,
            completion.token_ids[: window.stop],
            torch.tensor(completion.logprobs[window]),
            torch.tensor(completion.trained[window]),
        )
        rows.append(row)
    return rows


# --- what is said ----------------------------------------------------------------------------------------------------


def _not_finite(rollouts: Sequence[tuple[Group, Rollout]], gaps: Sequence[Tensor]) -> Cause | None:
    for (_, rollout), gap_L in zip(rollouts, gaps, strict=True):
        odd = (~gap_L.isfinite()).nonzero()
        if len(odd):
            token = int(odd[0])
            own = rollout.completion.logprobs[token]
            whose = "the trainer's" if math.isfinite(own) else f"the sampler's ({own:g})"
            return Cause(
                "non-finite", f"{whose} log-probability of token {token} of rollout {rollout.id} is not a finite number"
            )
    return None


def _one_sided(trainer: Trainer, rows: Sequence[Row], tolerance: float) -> Cause | None:
    """Every difference >= 0: the mark of a distribution over fewer tokens, whoever chose them."""
    difference_N = trials.differences(trainer.model, rows, trainer.temperature)
    num_cut = int((difference_N > tolerance).sum())
    if float(difference_N.min()) < -10 * ROUNDING or num_cut < 16:
        return None
    forced = sum(int((row.sampler_L[row.trained_L] == 0).sum()) for row in rows)
    return Cause(
        "truncation",
        "it looks as if the sampler drew from fewer tokens than the trainer knows of: no difference is below 0, "
        f"{num_cut} of {len(difference_N)} are above {tolerance:.2g}, {forced} log-probabilities are exactly 0; "
        "look for top_p, top_k, min_p, guided decoding or a logit processor",
    )


def _resent(trainer: Trainer, resend: Callable[[], Sequence[Group]]) -> list[Trial]:
    fresh = torch.cat(_gaps(trainer, _comparable(resend())))
    what = "the sampler had older weights: sent once more, it agrees"
    change = "a weight update did not reach it, or it was started anew"
    return [Trial("weights", what, change, trials.mean(fresh))]


def _unexplained(
    rollouts: Sequence[tuple[Group, Rollout]], gaps: Sequence[Tensor], tolerance: float, untried: Sequence[str]
) -> str:
    num_bad = sum(float(gap_L.abs().mean()) > tolerance for gap_L in gaps)
    worst = max(range(len(gaps)), key=lambda k: float(gaps[k].abs().max()))
    token = int(gaps[worst].abs().argmax())
    completion = rollouts[worst][1].completion
    own = completion.logprobs[token]
    return (
        f"no single cause found; {num_bad} of {len(gaps)} rollouts are beyond the tolerance, the largest difference is "
        f"at token {token} of rollout {rollouts[worst][1].id}: id {completion.token_ids[token]} has {own:.4g} nats by "
        f"the sampler, {own - float(gaps[worst][token]):.4g} by the trainer"
        + "".join(f"; not tried: {why}" for why in untried)
    )
