"""NeMo-RL's, OpenRLHF's, SkyRL's, prime-rl's and open-instruct's arguments in our settings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from parity_case import Case, Inputs, Params, Term, Unknown, clipped, corrected, penalty

from rlvr.batching import Batch
from rlvr.loss_settings import Clip, Correction, CorrectionMask, Dppo, Kl, Loss, Sapo
from rlvr.losses import correction_weights

FAR = 1e12
"""A clip that never bites."""


def nemo(case: Case, p: Params, x: Inputs) -> list[Term]:
    """ClippedPGLossFn of nemo_rl/algorithms/loss/loss_functions.py"""
    low = p("lo", "ratio_clip_min", default=0.2)
    high = p("hi", "ratio_clip_max", default=0.2)
    is_token = p("token_level_loss", default=True)
    is_sequence = p("sequence_level_importance_ratios", default=False)
    aggregate, divisor = ("token", x.tokens) if is_token else ("sequence", x.sequences)
    divisor = p("global_valid_toks" if is_token else "global_valid_seqs", default=divisor)
    settings: dict[str, Any] = {"aggregate": aggregate, "ratio": "sequence" if is_sequence else "token"}
    batch, cap = x.batch(), p("ratio_clip_c")
    if p("force_on_policy_ratio", default=False):
        batch, low, high = x.batch(old_logp_BT=None), 1.0, FAR
    if p("disable_ppo_ratio", default=False):
        parts = [(batch, {"surrogate": "reinforce", "ratio": "token"})]
    elif p("use_cispo", default=False):
        parts = [(batch, {"surrogate": "cispo", "clip": Clip(low=low, high=high)})]
    else:
        parts = [(part, {"clip": clip}) for part, clip in clipped(batch, low, high, cap)]
    level = "sequence" if is_sequence else "token"
    if p("use_importance_sampling_correction", default=False):
        settings["correction"], parts = _truncated(
            x,
            parts,
            level,
            p("truncated_importance_sampling_type"),
            p("truncated_importance_sampling_ratio_min"),
            p("truncated_importance_sampling_ratio"),
        )
    nll = p("positive_example_nll_weight", default=0.0)
    terms = [Term(batch=part, loss=Loss(**settings | own), divisor=divisor) for part, own in parts]
    if nll:
        only = Loss(surrogate="reinforce", aggregate="token", positive_nll=nll, positive_above=0.0)
        terms.append(Term(batch=x.only(), loss=only, divisor=x.tokens))
    return terms + _nemo_penalty(p, x, aggregate, divisor)


def _nemo_penalty(p: Params, x: Inputs, aggregate: Any, divisor: float) -> list[Term]:
    """With the gradient through the probability of the sample: its ratio to itself, or to the sampler."""
    coef = p("reference_policy_kl_penalty", default=0.0)
    kind = p("reference_policy_kl_type", default="k3")
    is_off_policy = p("use_on_policy_kl_approximation", default=False)
    p("kl_input_clamp_value", "kl_output_clamp_value")
    if not coef or p("use_kl_in_reward", default=False):
        return []
    kl = Kl(coef=coef, kind=kind, weighted=True)
    loss = Loss(aggregate=aggregate)
    batch = x.only(old_logp_BT=x["samp"] if is_off_policy else None)
    return [Term(batch=batch, loss=loss, kl=kl, divisor=divisor)]


Parts = list[tuple[Batch, dict[str, Any]]]


def _truncated(
    x: Inputs, parts: Parts, level: Any, kind: str | None, low: float | None, high: float | None
) -> tuple[Correction | None, Parts]:
    """tis, icepop and seq-mask-tis of NeMo-RL and OpenRLHF."""
    if kind is None or high is None:
        return Correction(weight=level, cap=None), parts
    if kind == "tis" and not low:
        return Correction(weight=level, cap=high), parts
    if kind == "tis":
        return None, [(_floored(x, part, level, low or 0.0, high), own) for part, own in parts]
    if low is None:
        raise Unknown(f"{kind} needs a lower bound")
    if kind == "icepop":
        return Correction(weight=level, cap=None, mask=CorrectionMask(level=level, low=low, high=high)), parts
    if kind == "seq-mask-tis":
        mask = CorrectionMask(level="geometric", low=low, high=high)
        return Correction(weight="token", cap=None, mask=mask), parts
    raise Unknown(f"importance sampling correction of type {kind!r}, one of tis, icepop, seq-mask-tis")


def _floored(x: Inputs, batch: Batch, level: Any, low: float, high: float) -> Batch:
    """Our weights have no lower bound: such ones go into the advantages, in which the surrogates are linear."""
    if batch.old_logp_BT is None or batch.adv_BT is None:
        raise Unknown("truncated weights with a lower bound need the old policy")
    rho_BT = correction_weights(batch.old_logp_BT, x["samp"], x.mask_BT, Correction(weight=level, cap=None))
    return replace(batch, adv_BT=batch.adv_BT * rho_BT.clamp(low, high))


def openrlhf(case: Case, p: Params, x: Inputs) -> list[Term]:
    """PolicyLoss of openrlhf/models/loss.py"""
    low = p("lo", "clip_eps_low", default=0.2)
    high = p("hi", "clip_eps_high", default=0.2)
    kind = p("policy_loss_type", default="ppo")
    is_corrected = p("enable_vllm_is_correction", default=False)
    threshold = p("vllm_is_truncated_threshold", default=(0.5, 5.0))
    corrected_by = p("vllm_is_correction_type", default="tis")
    # GSPO is a mean over sequences there whatever was asked for
    is_token = p("token_level_loss", default=True) and kind != "gspo"
    aggregate, divisor = ("token", x.tokens) if is_token else ("sequence", x.sequences)
    settings: dict[str, Any] = {"aggregate": aggregate}
    if kind == "gspo":
        settings |= {"ratio": "sequence", "anchor": "sampler" if is_corrected else "old"}
    elif kind != "ppo":
        raise Unknown(f"policy_loss_type {kind!r}, one of ppo, gspo")
    parts = [(part, {"clip": clip}) for part, clip in clipped(x.batch(), low, high, p("dual_clip"))]
    if is_corrected and kind == "ppo":
        settings["correction"], parts = _truncated(x, parts, "token", corrected_by, *threshold)
    return [Term(batch=part, loss=Loss(**settings | own), divisor=divisor) for part, own in parts]


SKYRL = {
    f"{prefix}{name}{suffix}": name
    for name in "ppo gspo cispo sapo dppo rollout_is cross_entropy importance_sampling".split()
    for prefix, suffix in (("", "_policy_loss"), ("compute_policy_loss_", ""), ("", "_loss"), ("", ""))
}


def skyrl(case: Case, p: Params, x: Inputs) -> list[Term]:
    """The policy losses of ppo_utils.py on advantages that apply_loss_reduction_to_advantages_minibatch scaled."""
    name = SKYRL[case.function(SKYRL)]
    low, high = p("lo", "eps_clip_low", default=0.2), p("hi", "eps_clip_high", default=0.2)
    cispo = Clip(low=p("cispo_eps_clip_low", default=low), high=p("cispo_eps_clip_high", default=high))
    is_rollout = p("cispo_anchor", default="old") == "rollout"
    sapo = Sapo(tau_pos=p("tau_pos", default=1.0), tau_neg=p("tau_neg", default=1.05))
    dppo = Dppo(low=p("delta_low", default=0.2), high=p("delta_high", default=0.2))
    if p("dppo_type", default="binary_tv") != "binary_tv":
        raise Unknown("dppo_type must be binary_tv")
    is_dual = p("policy_loss_type", default="regular") == "dual_clip"
    cap = p("clip_ratio_c", default=3.0)
    aggregate, divisor, groups = _skyrl_aggregate(p, x)
    batch = x.batch(**groups)
    inside = CorrectionMask(level="token", low=1 - low, high=1 + high)
    chosen: dict[str, Parts] = {
        "ppo": [(part, {"clip": clip}) for part, clip in clipped(batch, low, high, cap if is_dual else None)],
        "gspo": [(batch, {"ratio": "sequence_token", "clip": Clip(low=low, high=high)})],
        "cispo": [(batch, {"surrogate": "cispo", "clip": cispo, "anchor": "sampler" if is_rollout else "old"})],
        "sapo": [(batch, {"surrogate": "sapo", "sapo": sapo})],
        "dppo": [(batch, {"surrogate": "dppo", "dppo": dppo, "anchor": "sampler"})],
        # the policy itself weighed against the sampler
        "rollout_is": [
            (
                replace(batch, old_logp_BT=None),
                {"surrogate": "reinforce", "correction": Correction(weight="token", cap=None, mask=inside)},
            )
        ],
        "cross_entropy": [(replace(batch, adv_BT=torch.ones_like(x.adv_BT)), {"surrogate": "reinforce"})],
        "importance_sampling": [(batch, {"clip": Clip(low=1.0, high=FAR)})],
    }
    return [Term(batch=b, loss=Loss(aggregate=aggregate, **own), divisor=divisor) for b, own in chosen[name]]


def _skyrl_aggregate(p: Params, x: Inputs) -> tuple[Any, float, dict[str, Any]]:
    mode = p("agg", "loss_reduction", default="token_mean")
    longest = p("max_seq_len", "Lmax")
    size = p("group_size", "n_samples_per_prompt", default=4)
    rows = p("micro_batch_size", "micro_train_batch_size_per_gpu", default=x.rows)
    if mode == "token_mean" or (mode == "token_mean_legacy" and rows == x.rows):
        return "token", x.tokens, {}
    if mode == "sequence_mean":
        return "sequence", x.rows, {}
    if mode == "seq_mean_token_sum_norm":
        return "sequence_sum", x.rows * longest, {}
    if mode == "prompt_mean":
        groups_B = x.groups(size)
        return "prompt", float(groups_B.max()) + 1, {"group_B": groups_B}
    if mode == "token_mean_legacy":
        # each micro-batch's own mean: as if each were one prompt
        groups_B = x.groups(rows)
        return "prompt", float(groups_B.max()) + 1, {"group_B": groups_B}
    raise Unknown(f"agg {mode!r}")


def prime(case: Case, p: Params, x: Inputs) -> list[Term]:
    """default_loss_fn and ipo_loss_fn of src/prime_rl/trainer/rl/loss.py, whose ratio is to the sampler.

    The square of the log ratio to the sampler is twice k2 against the sampler in the place of the reference.
    """
    name = case.function({"default_loss_fn": 0, "ipo_loss_fn": 0})
    mask = p("dppo_mask", default=0.2)
    low, high = p("dppo_mask_low", default=mask), p("dppo_mask_high", default=mask)
    moved = p("ipo_threshold", "eps", default=0.1)
    adv_tau, kl_tau = p("adv_tau", default=1.0), p("kl_tau", default=1e-3)
    divisor = p("loss_scale", "nitems", "global_tokens", default=x.tokens)
    p("agg")
    dppo = Dppo(low=low, high=high) if name == "default_loss_fn" else Dppo(low=moved, high=moved, any_sign=True)
    loss = Loss(surrogate="dppo", anchor="sampler", dppo=dppo, aggregate="token")
    batch = x.batch(adv_BT=x.adv_BT * adv_tau, ref_logp_BT=x["samp"])
    return [Term(batch=batch, loss=loss, kl=Kl(coef=2 * kl_tau, kind="k2"), divisor=divisor)]


def openinstruct(case: Case, p: Params, x: Inputs) -> list[Term]:
    """estimate_kl of open_instruct/model_utils.py, and the losses that it goes with in grpo_utils.py."""
    if p("agg", default="token-mean") != "token-mean":
        raise Unknown(f"agg {p('agg')!r}, which must be token-mean")
    asked = next((word for word in case.words if word in ("0", "1", "2", "3")), None)
    kind = p("kl", default=dict(zip("0123", ("k1", "k2", "k3", "iw_k1"), strict=True)).get(str(asked)))
    beta, estimator = p("beta", "kl_beta"), p("kl_estimator")
    fn = p("loss_fn", "loss_type")
    low, high = p("lo", "clip_lower", default=0.2), p("hi", "clip_higher", default=0.2)
    if fn is None:
        return [_instruct_penalty(x, kind, 1.0 if beta is None else beta)]
    if fn not in ("dapo", "cispo"):
        raise Unknown(f"loss_fn {fn!r}, one of dapo, cispo")
    own = {"clip": Clip(low=low if fn == "dapo" else 1.0, high=high)}
    settings: dict[str, Any] = {"surrogate": "clip" if fn == "dapo" else "cispo", "aggregate": "token", **own}
    settings["correction"], batch = corrected(x, p("is_ratio", "tis_weights"), x.batch())
    term = Term(batch=batch, loss=Loss(**settings), divisor=x.tokens)
    if not beta:
        return [term]
    names = ("k1", "k2", "k3", "iw_k1")
    return [term, _instruct_penalty(x, names[estimator] if isinstance(estimator, int) else kind or "k3", beta)]


def _instruct_penalty(x: Inputs, kind: str | None, coef: float) -> Term:
    if kind == "iw_k1":
        kl = Kl(coef=coef, kind="k1", weighted=True)
        return Term(batch=x.only(), loss=Loss(aggregate="token"), kl=kl, divisor=x.tokens)
    if kind not in ("k1", "k2", "k3"):
        raise Unknown(f"kl {kind!r}, one of k1, k2, k3, iw_k1")
    return penalty(x, kind, coef, "token", x.tokens)
