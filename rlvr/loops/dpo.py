"""Direct preference learning: a policy learns from comparisons (or ratings) of completions, beside a frozen reference.

Each step makes its own rows' log-probabilities under the reference, in the same micro-batches as the policy's: there is
nothing that a resumed run would have to make again, before the first step both are equal to the bit, and adapters need
no second model.

B completions, T tokens, U units of the loss (pairs, or completions for themselves), W completions of a unit.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rlvr import calibration, chat, lora, parallel, policy, preferences
from rlvr.batching import micro_batches
from rlvr.direct_losses import direct_loss, kto_loss, mismatched_kl
from rlvr.direct_settings import DirectLoss, DpoRecipe
from rlvr.errors import DataError, NonFiniteError, SettingsError
from rlvr.failpoints import failpoint
from rlvr.inputs import fingerprint_model
from rlvr.loops import setup
from rlvr.loops.direct_rows import Pairs, Singles, Unit, to_pairs, to_singles
from rlvr.loops.stopping import StopRequest
from rlvr.loops.supervised import Job, learn, tell
from rlvr.losses import Sums
from rlvr.progress import Progress
from rlvr.reward_settings import PreferenceData
from rlvr.runs import Run
from rlvr.trained import Trained
from rlvr.types import Rating

_PAIRS: dict[preferences.Kind, preferences.Kind] = {"comparison": "comparison", "ranking": "comparison"}
_LEARNS_FROM: dict[str, dict[preferences.Kind, preferences.Kind]] = {
    # loss.kind: {what the data holds: what it is read as}
    **dict.fromkeys(("sigmoid", "robust", "ipo", "hinge", "orpo", "simpo"), _PAIRS),
    "kto": {**_PAIRS, "rating": "rating"},
}
_SHOWN = ("loss", "rewards/accuracies", "rewards/margins", "grad_norm", "perf/tokens_per_second")


def train(recipe: DpoRecipe, run: Run, progress: Progress, stop: StopRequest) -> dict[str, Any]:
    """Run the recipe to its end; returns what summary.json holds. RlvrError where it cannot, Stopped when asked to."""
    prepared = prepare(recipe)
    tell(prepared, progress)
    rows, held_out = prepared.rows, prepared.held_out.rows if prepared.held_out is not None else []
    inputs = setup.inputs(recipe.model, data=rows, held_out=held_out)
    if recipe.reference.path is not None:
        inputs["reference"] = fingerprint_model(recipe.reference.path, setting="reference.path")
    run.check_inputs(inputs)
    learner, tokenizer = _learner(recipe)
    setup.warn_of_head(recipe.loss.fused, learner.trained.model, progress)
    max_length = _max_length(recipe, learner)
    left_out = setup.same_prompt(prepared.loaded.rows, rows)
    units = _encode(tokenizer, rows, recipe.data, max_length, progress, left_out)
    run.note_left_out(left_out)
    held_units = _encode(tokenizer, held_out, recipe.eval.tasks, max_length, progress) if recipe.eval.tasks else []
    stop.check("before the first step")
    job = Job(recipe, run, progress, learner.trained, tokenizer, stop)
    to_rows = partial(to_singles, max_length=max_length) if recipe.loss.kind == "kto" else to_pairs
    return learn(
        job,
        [max(len(example.ids) for example in unit.examples) for unit in units],
        lambda chosen: to_rows([units[k] for k in chosen]),
        partial(update, learner),
        shown=_SHOWN,
        evaluate=partial(_evaluate, job, learner, held_units, to_rows(held_units)) if held_units else None,
        eval_every=recipe.eval.every,
    )


def begin(recipe: DpoRecipe) -> Callable[[Pairs | Singles], dict[str, float]]:
    """What every other rank does in each step, once it has the main rank's state."""
    learner, _ = _learner(recipe)
    learner.trained.share_state()
    return partial(update, learner)


# --- data ------------------------------------------------------------------------------------------------------------


def prepare(recipe: DpoRecipe) -> preferences.Prepared:
    """Comparisons (of rankings too), or ratings where the rows are such. DataError where the loss learns from none."""
    kind, held_out = recipe.loss.kind, recipe.eval.tasks
    prepared = preferences.prepare(
        recipe.data,
        held_out,
        as_kind=preferences.read_as(recipe.data, kind, _LEARNS_FROM),
        held_out_as=held_out and preferences.read_as(held_out, kind, _LEARNS_FROM, setting="eval.tasks"),
    )
    _check_labels(prepared.loaded.rows, f"data.path: {recipe.data.path}")
    if held_out is not None and prepared.held_out is not None:
        _check_labels(prepared.held_out.rows, f"eval.tasks.path: {held_out.path}")
    return prepared


def _check_labels(rows: Sequence[Any], where: str) -> None:
    unlabelled = [row.id for row in rows if isinstance(row, Rating) and row.label is None]
    if unlabelled:
        raise DataError(
            f"{where}: {len(unlabelled)} ratings have no label (the first: {unlabelled[0]}), and loss.kind: kto learns "
            "from one, true or false"
        )


def _max_length(recipe: DpoRecipe, learner: Learner) -> int | None:
    """Of a row in tokens: what the policy and the reference both take. SettingsError where max_length is more."""
    context = policy.context_length(learner.trained.model, learner.reference)
    if recipe.max_length is not None and context is not None and recipe.max_length > context:
        raise SettingsError(
            f"max_length must be at most {context}, the context of the policy and its reference, "
            f"got {recipe.max_length}"
        )
    return recipe.max_length or context


def _encode(
    tokenizer: Any,
    rows: Sequence[Any],
    data: PreferenceData,
    max_length: int | None,
    progress: Progress,
    left_out: dict[str, str] | None = None,
) -> list[Unit]:
    """The rows with their ids; too long ones are bad rows, as data.on_bad_row has it, noted in left_out."""
    how: Any = {"max_length": max_length, "on_bad_row": data.on_bad_row, "left_out": left_out}
    encoded = chat.encode_rows(tokenizer, rows, **how)
    if isinstance(rows[0], Rating):
        units = [Unit(row.id, alone, row.probability if row.label else 1 - row.probability) for row, alone in encoded]
    else:
        units = [Unit(row.id, sides, row.probability, row.true_probability) for row, sides in encoded]
    if len(units) < len(rows):
        progress.warn(f"{len(rows) - len(units)} rows left out: too long, or two completions with the same tokens")
    return units


# --- models ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Learner:
    """What an update needs besides its rows."""

    trained: Trained
    loss: DirectLoss
    reference: Any = None
    """A model of its own; None: the trained one without its adapters, or nobody reads it."""
    reference_packs: bool = False


def _learner(recipe: DpoRecipe) -> tuple[Learner, Any]:
    """(learner, tokenizer) as the run begins."""
    model, tokenizer = setup.load_policy(recipe)
    reference = setup.load_reference(recipe, model, tokenizer)
    packs = setup.decide_packing(recipe.packing, model)
    reference_packs = packs and (recipe.reference.path is None or policy.can_pack(reference))
    trained = Trained(model, recipe.optim, recipe.steps, packs=packs)
    return Learner(trained, recipe.loss, reference, reference_packs), tokenizer


# --- one step --------------------------------------------------------------------------------------------------------


class Scored(NamedTuple):
    """Log-probabilities of a batch's completions: sums over tokens, nats, float64, on the CPU, without gradient."""

    logp_B: Tensor
    ref_logp_B: Tensor
    """0 where the loss reads none."""

    def by_unit(self, rows_UW: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """[W] tensors [U], of the policy and of the reference"""
        return self.logp_B[rows_UW].unbind(1), self.ref_logp_B[rows_UW].unbind(1)


def update(learner: Learner, rows: Pairs | Singles) -> dict[str, float]:
    """One optimizer step on the mean loss over the batch's units, whatever the split into micro-batches.

    Every rank runs this alike, each on its share of the units. An update that was skipped has no figures.
    """
    kl = _reference_point(learner, rows)
    scored = _together(learner, partial(_gradient, learner, rows, kl), _longest(rows))
    step = learner.trained.step()
    if "skipped_updates" in step:
        return step
    return {**_figures(learner.loss, rows, scored, kl), **step}


def _together(learner: Learner, work: Callable[[], Scored], longest: int) -> Scored:
    """What the ranks have found, each of its share; the other rows are 0 there."""
    scored = learner.trained.in_memory(work, longest)
    return Scored(*(parallel.add_rows(x.to(setup.device())).cpu() for x in scored))


def _gradient(learner: Learner, rows: Pairs | Singles, kl: Tensor) -> Scored:
    """Add the gradient of this rank's share of the units."""
    trained, rows_UW = learner.trained, rows.rows_UW
    num_units, W = rows_UW.shape
    scored = _nothing(len(rows.ids_BT))
    longest_U = rows.length_B[rows_UW].amax(dim=1)
    share_U = parallel.share_B(longest_U)
    for part in micro_batches(longest_U[share_U], max(1, trained.micro_tokens // W)):
        failpoint("micro")
        index_U = share_U[part]
        index_B = rows_UW[index_U].t().flatten()
        texts = _texts(rows.ids_BT, rows.mask_BT, rows.length_B, index_B)
        try:
            ref_logp_B = _ref_logp(learner, *texts)
            logp_B = _logp(trained.model, *texts, trained.packs, learner.loss)
        except NonFiniteError:
            trained.spoil()
            continue
        loss_U, _ = _loss(learner.loss, rows, index_U, logp_B.chunk(W), ref_logp_B.chunk(W), kl)
        tokens = int(texts[1].sum())
        trained.backward(Sums(loss=loss_U.sum(), tokens=tokens, sequences=len(index_B), scored=tokens), num_units)
        scored.logp_B[index_B], scored.ref_logp_B[index_B] = logp_B.detach().cpu(), ref_logp_B.cpu()
    return scored


@torch.no_grad()
def _score(learner: Learner, texts_BT: tuple[Tensor, Tensor, Tensor], share_B: Tensor) -> Scored:
    """Of some rows (ids_BT, mask_BT, length_B), without gradient; NaN where a number on the way is none."""
    scored = _nothing(len(texts_BT[0]))
    for part in micro_batches(texts_BT[2][share_B], learner.trained.micro_tokens):
        index_B = share_B[part]
        texts = _texts(*texts_BT, index_B)
        try:
            logp_B = _logp(learner.trained.model, *texts, learner.trained.packs, learner.loss).cpu()
            scored.logp_B[index_B], scored.ref_logp_B[index_B] = logp_B, _ref_logp(learner, *texts).cpu()
        except NonFiniteError:
            scored.logp_B[index_B] = math.nan
    return scored


def _reference_point(learner: Learner, rows: Pairs | Singles, *, is_alone: bool = False) -> Tensor:
    """KTO's, over the whole batch on all ranks (is_alone: on this one); 0 of other losses."""
    if not isinstance(rows, Singles) or not len(rows.mismatched_length_M):
        return torch.zeros((), dtype=torch.float64)
    length_M = rows.mismatched_length_M
    share_M = torch.arange(len(length_M)) if is_alone else parallel.share_B(length_M)
    texts = (rows.mismatched_ids_MT, rows.mismatched_mask_MT, length_M)
    work, longest = partial(_score, learner, texts, share_M), int(length_M.max())
    return mismatched_kl(*(learner.trained.in_memory(work, longest) if is_alone else _together(learner, work, longest)))


def _longest(rows: Pairs | Singles) -> int:
    """Tokens of the longest unit, padded, which is never split."""
    return int(rows.length_B.max()) * rows.rows_UW.shape[1]


def _nothing(num_rows: int) -> Scored:
    return Scored(torch.zeros(num_rows, dtype=torch.float64), torch.zeros(num_rows, dtype=torch.float64))


def _texts(ids_BT: Tensor, mask_BT: Tensor, length_B: Tensor, index_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Some rows, cut to the longest of them, on the model's device."""
    length_B, device = length_B[index_B], setup.device()
    longest = int(length_B.max())
    return ids_BT[index_B, :longest].to(device), mask_BT[index_B, :longest].to(device), length_B.to(device)


def _logp(model: Any, ids_BT: Tensor, mask_BT: Tensor, length_B: Tensor, packs: bool, loss: DirectLoss) -> Tensor:
    """float64 [B], with gradient"""
    is_fused = loss.fused == "auto"
    logp_BT, _ = policy.logprobs(model, ids_BT, mask_BT, length_B=length_B if packs else None, fused=is_fused)
    return logp_BT.sum(dim=1, dtype=torch.float64)


@torch.no_grad()
def _ref_logp(learner: Learner, ids_BT: Tensor, mask_BT: Tensor, length_B: Tensor) -> Tensor:
    """float64 [B]"""
    if not learner.loss.needs_reference:
        return torch.zeros(len(ids_BT), dtype=torch.float64, device=ids_BT.device)
    with _reference(learner) as model:
        return _logp(model, ids_BT, mask_BT, length_B, learner.reference_packs, learner.loss)


@contextlib.contextmanager
def _reference(learner: Learner) -> Iterator[Any]:
    if learner.reference is not None:
        yield learner.reference
    else:
        with lora.off(learner.trained.model) as model:
            yield model


def _loss(
    loss: DirectLoss,
    rows: Pairs | Singles,
    index_U: Tensor,
    logp_WU: Sequence[Tensor],
    ref_logp_WU: Sequence[Tensor],
    kl: Tensor,
) -> tuple[Tensor, dict[str, Tensor]]:
    """(loss_U, figures of each) of some units, on the device of their log-probabilities."""
    device = logp_WU[0].device
    if isinstance(rows, Singles):
        return kto_loss(loss, logp_WU[0], ref_logp_WU[0], rows.label_B[index_U].to(device), kl.to(device))
    (chosen_U, rejected_U), (ref_chosen_U, ref_rejected_U) = logp_WU, ref_logp_WU
    lengths = rows.mask_BT.sum(dim=1)[rows.rows_UW[index_U]].to(device).unbind(1)
    probability_U = rows.probability_U[index_U].to(device)
    return direct_loss(loss, chosen_U, rejected_U, ref_chosen_U, ref_rejected_U, lengths[0], lengths[1], probability_U)


# --- figures ---------------------------------------------------------------------------------------------------------


def _figures(loss: DirectLoss, rows: Pairs | Singles, scored: Scored, kl: Tensor) -> dict[str, float]:
    """Loss and TRL's metrics of the whole batch: means over pairs, or over good and bad completions apart."""
    rows_UW = rows.rows_UW
    loss_U, by_unit = _loss(loss, rows, torch.arange(len(rows_UW)), *scored.by_unit(rows_UW), kl)
    if not isinstance(rows, Singles):
        return {"loss": float(loss_U.mean()), **{name: float(value_U.mean()) for name, value_U in by_unit.items()}}
    figures = {"loss": float(loss_U.mean()), "kl": float(kl)}
    for name, share_B in (("chosen", rows.label_B), ("rejected", 1 - rows.label_B)):
        if share_B.any():
            figures[f"rewards/{name}"] = float((share_B * by_unit["rewards"]).sum() / share_B.sum())
            figures[f"logps/{name}"] = float((share_B * scored.logp_B).sum() / share_B.sum())
    if "rewards/chosen" in figures and "rewards/rejected" in figures:
        figures["rewards/margins"] = figures["rewards/chosen"] - figures["rewards/rejected"]
    return figures


def measure(learner: Learner, units: Sequence[Unit], rows: Pairs | Singles) -> tuple[dict[str, float], Tensor | None]:
    """(figures of the units as one batch that is not learned from, margin_U of the implicit rewards of comparisons).

    Of comparisons also calibration.of_pairs() of the margins. NonFiniteError where the model gives no number.
    """
    kl = _reference_point(learner, rows, is_alone=True)
    texts = (rows.ids_BT, rows.mask_BT, rows.length_B)
    every_B = torch.arange(len(rows.ids_BT))
    scored = learner.trained.in_memory(partial(_score, learner, texts, every_B), int(rows.length_B.max()))
    figures = _figures(learner.loss, rows, scored, kl)
    if not math.isfinite(figures["loss"]):
        raise NonFiniteError("the model gives NaN or infinity on held-out rows")
    if len(units[0].examples) == 1:
        return figures, None
    if isinstance(rows, Singles):
        chosen_U, rejected_U = (learner.loss.beta * (scored.logp_B - scored.ref_logp_B)).chunk(2)
        margin_U = chosen_U - rejected_U
    else:
        all_U = torch.arange(len(units))
        _, by_unit = _loss(learner.loss, rows, all_U, *scored.by_unit(rows.rows_UW), kl)
        margin_U = by_unit["rewards/margins"]
    true = [unit.true_probability for unit in units]
    known = None if None in true else np.array(true, dtype=np.float64)
    probability = np.array([unit.probability for unit in units])
    judged = np.full(len(units), fill_value=True) if known is not None else probability != 0.5  # else nobody knows
    if not judged.any():
        return figures, margin_U
    found = calibration.of_pairs(margin_U.numpy()[judged], probability[judged], known)
    accuracy = float((margin_U.numpy()[judged] > 0).mean())
    figures |= {"rewards/accuracies": accuracy, "rewards/margins": found.pop("margin")}
    # a slope is infinite where no label speaks against the margins
    return figures | {name: value for name, value in found.items() if math.isfinite(value)}, margin_U


def _evaluate(job: Job, learner: Learner, units: Sequence[Unit], rows: Pairs | Singles, step: int) -> dict[str, Any]:
    """Measure on held-out rows, write evals/NAME and a row of metrics, say the figures."""
    started = time.perf_counter()
    figures, margin_U = measure(learner, units, rows)
    samples = [{"id": unit.id, "probability": unit.probability} for unit in units]
    if margin_U is not None:
        samples = [{**sample, "margin": m} for sample, m in zip(samples, margin_U.tolist(), strict=True)]
    result = {**figures, "num": len(units)}
    row = {"time/eval_seconds": time.perf_counter() - started}
    row |= {f"eval/{name}": value for name, value in figures.items()}
    shown = ("loss", "accuracy", "expected_accuracy", "ceiling_share", "rewards/margins", "kl")
    told = " ".join(f"{name} {figures[name]:.4f}" for name in shown if name in figures)
    setup.record_evaluation(job.run, job.progress, step, result, samples, row, f"{told} ({len(units)} held-out rows)")
    return result
