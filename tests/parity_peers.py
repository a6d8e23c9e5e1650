"""TRL's, Liger's and verl's arguments in our settings. Names: parity_case.py; sources: the functions' docstrings."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import torch
from parity_case import (
    Case,
    Disagreement,
    Inputs,
    Params,
    Term,
    Unknown,
    clipped,
    corrected,
    entropy,
    logprobs,
    penalty,
)
from torch import Tensor

from rlvr.advantages import high_entropy
from rlvr.batching import Batch
from rlvr.loss_settings import Clip, Kl, Loss, Sapo, Vespo

# --- TRL and Liger ---------------------------------------------------------------------------------------------------

CLIPPING = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo")
PER_TOKEN = ("dapo", "cispo", "vespo")
"""Divided by the number of tokens that the caller counted."""


def trl(case: Case, p: Params, x: Inputs) -> list[Term]:
    """GRPOTrainer._compute_loss; an old one before 1.10.0."""
    found = re.search(r"(?:==|\()(\d+)\.(\d+)\.\w*(\.dev)?", case.source)
    is_old = found is not None and (int(found[1]), int(found[2]), not found[3]) < (1, 10, True)
    terms = _grpo(p, x, is_old=is_old)
    coef = p("ent_coef", "entropy_coef", default=0.0)
    if coef:
        ga = p("ga", "gradient_accumulation_steps", default=1)
        mask_BT = terms[0].batch.mask_BT & _kept(p, x)
        tokens = max(1, int(mask_BT.sum())) * ga
        if is_old and p("loss_type", default="dapo") in PER_TOKEN:
            tokens = p("nitems", "num_items_in_batch", default=x.tokens)
        terms = _with_entropy(terms, coef, x.only(mask_BT=mask_BT), tokens)
    return terms


def liger(case: Case, p: Params, x: Inputs) -> list[Term]:
    """ppo_loss_fn of LigerFusedLinearGRPOFunction and the module around it; what accumulates divides, not the loss."""
    inner = Params({name: value for name, value in p.given.items() if name != "ga"})
    terms = _grpo(inner, x, is_old=True, has_masks=False)
    p.known |= inner.known
    return terms


def _with_entropy(terms: list[Term], coef: float, batch: Batch, divisor: float) -> list[Term]:
    first = terms[0]
    if (
        first.loss.aggregate == "token"
        and first.divisor == divisor
        and bool((first.batch.mask_BT == batch.mask_BT).all())
    ):
        return [replace(first, loss=first.loss.model_copy(update={"entropy_coef": coef})), *terms[1:]]
    bonus = Loss(surrogate="reinforce", aggregate="token", entropy_coef=coef)
    return [*terms, Term(batch=batch, loss=bonus, divisor=divisor)]


def _kept(p: Params, x: Inputs) -> Tensor:
    """bool [B, T], the tokens of high entropy."""
    share = p("teq", "top_entropy_quantile", default=1.0)
    if share >= 1:
        return x.mask_BT
    entropy_BT = entropy(x)
    # the quantile there is a float32: it decides about the token that it falls upon
    threshold = torch.quantile(entropy_BT[x.mask_BT].float(), 1 - share)
    is_tie_BT = (entropy_BT - threshold).abs() < 1e-6
    theirs_BT = x.mask_BT & (entropy_BT >= threshold)
    return torch.where(is_tie_BT, theirs_BT, high_entropy(entropy_BT, x.mask_BT, share))


def _grpo(p: Params, x: Inputs, *, is_old: bool, has_masks: bool = True) -> list[Term]:
    """has_masks: of tokens by entropy and of completions by divergence, which Liger has not."""
    kind = p("loss_type", default="dapo")
    level = p("level", "importance_sampling_level", default="token")
    beta = p("beta", default=0.0)
    is_weighted = p("bias_kl", "use_bias_correction_kl", default=False)
    ratio_name = p("is_ratio")
    changes: dict[str, Any] = {}
    settings: dict[str, Any] = {"surrogate": "clip" if kind in CLIPPING else kind, "ratio": level}
    if p("onpolicy", default=False):
        changes["old_logp_BT"] = None
    if has_masks:
        settings["opsm"] = p("opsm", "off_policy_mask_threshold")
        changes["adv_BT"] = x.adv_BT * _kept(p, x)
    masks_some = has_masks and p("teq", "top_entropy_quantile", default=1.0) < 1
    is_per_token = level == "token" or beta or str(ratio_name).startswith("token") or masks_some
    if kind == "luspo" and is_old and is_per_token:
        raise Disagreement(
            "luspo before TRL 1.10 (and in Liger) multiplies by the length and averages over padding too; "
            "TRL 1.10 and ours sum the trained tokens"
        )
    settings["aggregate"], divisor = _trl_aggregate(p, x, kind, is_old)
    settings |= _trl_surrogate(p, kind)
    kl = Kl(coef=beta, kind="k3", weighted=is_weighted)
    if kind == "vespo":
        # its weight is that of the whole row and has no other ratio: a KL term that wants one stands alone
        settings["ratio"] = "token"
        apart = _kl_alone(replace(x.batch(**changes), adv_BT=torch.zeros_like(x.adv_BT)), settings, level, kl, divisor)
        if ratio_name is not None:
            changes["old_logp_BT"] = _sampler_folded(x, ratio_name, changes.get("old_logp_BT", x["old"]))
        return [Term(batch=x.batch(**changes), loss=Loss(**settings), divisor=divisor), *apart]
    settings["correction"], batch = corrected(x, ratio_name, x.batch(**changes))
    return [Term(batch=batch, loss=Loss(**settings), divisor=divisor, kl=kl)]


def _kl_alone(batch: Batch, settings: dict[str, Any], level: str, kl: Kl, divisor: float) -> list[Term]:
    loss = Loss(surrogate="clip", ratio=level, aggregate=settings["aggregate"])  # pyright: ignore[reportArgumentType]
    return [Term(batch=batch, loss=loss, kl=kl, divisor=divisor)] if kl.coef else []


def _sampler_folded(x: Inputs, name: str, old_BT: Tensor | None) -> Tensor:
    """VESPO's w is exp(sum of logp - old) times all the weights of the row: as if the old policy were less sure."""
    if old_BT is None:
        old_BT = logprobs(x)
    log_B = x[f"is_ratio_{name}"].log().clamp(math.log(1e-8), 20).sum(dim=1)
    return old_BT - (log_B / x.mask_BT.sum(dim=1).clamp(min=1))[:, None]


def _trl_surrogate(p: Params, kind: str) -> dict[str, Any]:
    low = p("lo", "epsilon", "epsilon_low", default=0.2)
    high = p("hi", "epsilon_high", default=low)
    delta = p("delta")
    # known in all, read by their own
    sapo = Sapo(
        tau_pos=p("sapo_temperature_pos", "tau_pos", default=1.0),
        tau_neg=p("sapo_temperature_neg", "tau_neg", default=1.05),
    )
    vespo = Vespo(
        k_pos=p("vespo_k_pos", "k_pos", default=2.0),
        lambda_pos=p("vespo_lambda_pos", "lambda_pos", default=3.0),
        k_neg=p("vespo_k_neg", "k_neg", default=3.0),
        lambda_neg=p("vespo_lambda_neg", "lambda_neg", default=2.0),
    )
    if kind == "sapo":
        return {"sapo": sapo}
    if kind == "vespo":
        return {"vespo": vespo}
    if kind == "cispo":
        return {"clip": Clip(low=1.0, high=high - 1)}
    if kind not in CLIPPING:
        raise Unknown(f"loss_type {kind!r}")
    if delta is None or delta > 1 + high:
        return {"clip": Clip(low=low, high=high, dual=delta)}
    # a lower delta caps r where A > 0; where A < 0 the clip does, from above
    return {"clip": Clip(low=low, high=min(delta, math.nextafter(1 + high, 0)) - 1, dual=1 + high)}


def _trl_aggregate(p: Params, x: Inputs, kind: str, is_old: bool) -> tuple[str, float]:
    ga = p("ga", "gradient_accumulation_steps", "current_gradient_accumulation_steps", default=1)
    counted = p("nitems", "num_items_in_batch", default=x.tokens) / p("num_processes", default=1)
    per_generation = p("steps_per_generation", default=ga)
    longest = p("Lmax", "max_completion_length", default=256)
    if kind in ("grpo", "sapo"):
        return "sequence", x.rows * ga
    if kind == "bnpo":
        return "token", x.tokens * ga
    if kind == "dr_grpo":
        return "constant", x.rows * longest * ga
    if kind == "luspo":
        return "sequence_sum", x.rows * ga
    if kind in PER_TOKEN:
        return "token", counted if is_old else counted * ga / per_generation
    raise Unknown(f"loss_type {kind!r}")


# --- verl ------------------------------------------------------------------------------------------------------------


def verl(case: Case, p: Params, x: Inputs) -> list[Term]:
    """compute_policy_loss_* of core_algos.py with agg_loss, and kl_penalty."""
    name = VERL[case.function(VERL)]
    if name == "kl_penalty":
        return [_verl_penalty(p, x)]
    forced = {"gspo": "seq-mean-token-mean", "sapo": "seq-mean-token-mean"}.get(name)
    asked = p("agg", "loss_agg_mode", default="token-mean")
    aggregate, divisor = _verl_aggregate(p, x, forced or asked)
    low = p("lo", "clip_ratio_low", "cliprange_low", "clip_ratio", "cliprange", default=0.2)
    high = p("hi", "clip_ratio_high", "cliprange_high", "clip_ratio", "cliprange", default=0.2)
    cap = p("clip_ratio_c", default=3.0)
    sapo = Sapo(tau_pos=p("tau_pos", default=1.0), tau_neg=p("tau_neg", default=1.05))
    weights = p("is_ratio", "rollout_is_weights")
    coef = p("entropy_coeff", "ent_coef", default=0.0)
    batch = x.batch(old_logp_BT=None) if p("onpolicy", default=False) else x.batch()
    if name == "geo_mean":
        # the whole batch's mean, and of each row's weights the geometric one
        aggregate, divisor = "sequence", x.rows
        if weights is not None:
            log_BT = (x[f"is_ratio_{weights}"].expand(x.mask_BT.shape) + 1e-10).log().where(x.mask_BT, 0.0)
            mean_B = (log_BT.sum(dim=1) / x.mask_BT.sum(dim=1).clamp(min=1)).exp()
            batch = replace(batch, adv_BT=x.adv_BT * mean_B[:, None])
        correction = None
    else:
        correction, batch = corrected(x, weights, batch)
    common = {"aggregate": aggregate, "correction": correction, "entropy_coef": coef}
    plain = Clip(low=low, high=high)
    chosen: dict[str, list[tuple[Batch, dict[str, Any]]]] = {
        "vanilla": [(part, {"clip": clip}) for part, clip in clipped(batch, low, high, cap)],
        "gspo": [(batch, {"ratio": "sequence_token", "clip": plain})],
        "sapo": [(batch, {"surrogate": "sapo", "sapo": sapo})],
        "gpg": [(batch, {"surrogate": "reinforce"})],
        "cispo": [(batch, {"surrogate": "cispo", "clip": plain})],
        "geo_mean": [(batch, {"surrogate": "gmpo", "clip": plain})],
    }
    terms = [Term(batch=part, loss=Loss(**common | own), divisor=divisor) for part, own in chosen[name]]
    # the bonus once
    return [terms[0], *(replace(t, loss=t.loss.model_copy(update={"entropy_coef": 0.0})) for t in terms[1:])]


VERL = {
    f"{prefix}{name}": name
    for name in "vanilla gspo sapo gpg cispo geo_mean".split()
    for prefix in ("compute_policy_loss_", "")
} | {"kl_penalty": "kl_penalty", "kl": "kl_penalty"}


def _verl_penalty(p: Params, x: Inputs) -> Term:
    kind = p("kl", "kl_penalty", "kl_loss_type")
    names = {"kl": "k1", "k1": "k1", "abs": "abs", "mse": "k2", "k2": "k2", "low_var_kl": "k3", "k3": "k3"}
    base = names.get(str(kind).removesuffix("+"))
    if base is None or (str(kind).endswith("+") and base not in ("k2", "k3")):
        raise Unknown(f"kl {kind!r}")
    aggregate, divisor = _verl_aggregate(p, x, p("agg", "loss_agg_mode", default="token-mean"))
    coef = p("kl_loss_coef", "kl_coef", default=1.0)
    return penalty(x, "k3+" if base == "k3" and str(kind).endswith("+") else base, coef, aggregate, divisor)


def _verl_aggregate(p: Params, x: Inputs, mode: str) -> tuple[str, float]:
    """agg_loss; seq-mean-token-sum-norm has no batch size and no ranks there."""
    ranks = p("dp_size", default=1)
    tokens = p("batch_num_tokens", "nitems", default=x.tokens)
    sequences = p("global_batch_size", default=x.sequences)
    longest = p("loss_scale_factor", default=x.mask_BT.shape[1])
    table = {
        "token-mean": ("token", tokens / ranks),
        "token-sum": ("token", 1 / ranks),
        "seq-mean-token-sum": ("sequence_sum", sequences / ranks),
        "seq-mean-token-sum-norm": ("sequence_sum", longest),
        "seq-mean-token-mean": ("sequence", sequences / ranks),
    }
    if mode not in table:
        raise Unknown(f"agg {mode!r}, one of {', '.join(table)}")
    return table[mode]
