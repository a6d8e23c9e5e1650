"""Advantages, importance weights and value losses of peers, by our functions."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace

import torch
from parity_case import Case, Disagreement, Inputs, Params, Unknown
from torch import Tensor

from rlvr.advantages import gae, group_advantages, part_advantages, returns_to_go, standardised, whitened
from rlvr.loss_settings import Advantage, Correction, CorrectionMask
from rlvr.losses import correction_weights, value_loss

VERL_EPS, TRL_EPS = 1e-6, 1e-4
WHITEN_EPS = 1e-4
"""verl's masked_whiten adds 1e-8 to the variance; ours adds the square of eps."""


def value(case: Case, p: Params, x: Inputs, theirs: Tensor) -> tuple[Tensor, Tensor | None]:
    """(ours; bool of where it is compared, None: everywhere)"""
    if "is_weights" in case.words or "rollout_corr_helper" in case.words:
        return is_weights(p, x), None
    family = case.source.lower()
    if family.startswith("trl"):
        return (trl_rloo if "RLOOTrainer" in case.words else trl_group)(p, x), None
    if not (family.startswith("verl") or family.startswith("skyrl")):
        raise Unknown(f"no advantages of {case.source!r} are known")
    name = case.function(ESTIMATORS)
    if ESTIMATORS[name] is _reinforce_pp and p("gamma") is None:
        p.given["gamma"] = discount(theirs, x.mask_BT)
    return ESTIMATORS[name](case, p, x)


def is_weights(p: Params, x: Inputs) -> Tensor:
    """compute_rollout_correction_weights of verl's rollout_corr_helper.py: "low_high" zeroes, one number caps."""
    level = p("level", "rollout_is", default="token")
    low, _, high = str(p("threshold", "rollout_is_threshold", default=2.0)).rpartition("_")
    if level not in ("token", "sequence"):
        raise Unknown(f"level {level!r}, one of token, sequence")
    if p("batch_normalize", "rollout_is_batch_normalize", default=False):
        raise Unknown("weights are not normalised to a mean of 1 here")
    if low:
        mask = CorrectionMask(level=level, low=float(low), high=float(high))
        correction = Correction(weight=level, cap=None, mask=mask)
    else:
        correction = Correction(weight=level, cap=float(high))
    return correction_weights(x["old"], x["samp"], x.mask_BT, correction)


# --- TRL -------------------------------------------------------------------------------------------------------------


def trl_group(p: Params, x: Inputs) -> Tensor:
    """The advantages of GRPOTrainer._generate_and_score_completions."""
    names = re.findall(r"\w+", str(p("rewards", default="rewards2")))
    scale, together = (
        p("scale_rewards", default="group"),
        p("multi_objective_aggregation", default="sum_then_normalize"),
    )
    weights = p("reward_weights", default=[1.0] * len(names))
    groups_B = _groups(p, x)
    part_BK = torch.stack([x[name] for name in names], dim=1)
    if scale == "gdpo" or together == "normalize_then_sum":
        size, rows = bessel(x.rows // (int(groups_B.max()) + 1)), bessel(x.rows)
        return part_advantages(part_BK, [w / size for w in weights], groups_B, TRL_EPS / rows) / rows
    kinds = {"group": "group", "True": "group", "none": "group_no_std", "False": "group_no_std", "batch": "batch_std"}
    if str(scale) not in kinds:
        raise Unknown(f"scale_rewards {scale!r}, one of group, none, batch, gdpo")
    reward_B = part_BK @ torch.tensor(weights, dtype=part_BK.dtype)
    kind = kinds[str(scale)]
    factor = {"group": bessel(x.rows // (int(groups_B.max()) + 1)), "batch_std": bessel(x.rows)}.get(kind, 1.0)
    return group_advantages(reward_B, groups_B, Advantage(kind=kind, eps=TRL_EPS / factor)) / factor


def trl_rloo(p: Params, x: Inputs) -> Tensor:
    """RLOOTrainer's."""
    reward_B = x[p("rewards", default="rewards2")]
    adv_B = group_advantages(reward_B, _groups(p, x), Advantage(kind="leave_one_out"))
    if not p("normalize", "normalize_advantages", default=False):
        return adv_B
    return standardised(adv_B, TRL_EPS / bessel(x.rows)) / bessel(x.rows)


def bessel(n: int) -> float:
    """What TRL's standard deviations (nanstd) are of ours: n / (n - 1) is a float32 there."""
    return math.sqrt(float(torch.tensor(n / (n - 1), dtype=torch.float32)) * (n - 1) / n) if n > 1 else 1.0


def _groups(p: Params, x: Inputs) -> Tensor:
    said = re.search(r"groups of (\d+)", str(p.given.get("index", "")))
    return x.groups(int(said[1]) if said else p("num_generations", "group_size", default=4))


# --- verl, and SkyRL's, which are ported from it ---------------------------------------------------------------------

Value = tuple[Tensor, Tensor | None]


def _outcome(kind: str, plain: str | None = None, is_whitened: bool = False) -> Callable[[Case, Params, Inputs], Value]:
    """plain: the kind where norm_adv_by_std_in_grpo is false."""

    def make(case: Case, p: Params, x: Inputs) -> Value:
        by_std = p("norm_adv_by_std_in_grpo", "grpo_norm_by_std", default="nostd" not in re.split(r"[._]", case.name))
        advantage = Advantage(kind=kind if by_std or plain is None else plain, eps=p("epsilon", default=VERL_EPS))
        reward_B, length_B = x["tok_rewards"].sum(dim=1), x.mask_BT.sum(dim=1)
        adv_B = group_advantages(reward_B, _groups(p, x), advantage, length_B)
        adv_BT = torch.where(x.mask_BT, adv_B[:, None], 0.0)
        return (masked_whiten(adv_BT, x.mask_BT) if is_whitened else adv_BT), None

    return make


def masked_whiten(adv_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """whitened() with 1e-8 added to the number of tokens in both means, as verl's masked_mean has it."""
    n = int(mask_BT.sum())
    fewer = n / (n + 1e-8)
    ours_BT, adv_N = whitened(adv_BT, mask_BT, WHITEN_EPS), adv_BT[mask_BT]
    shift = adv_N.mean() / (adv_N.var() + WHITEN_EPS**2).sqrt() * (1 - fewer)
    return torch.where(mask_BT, (ours_BT + shift) / math.sqrt(fewer), 0.0)


def discount(whitened_BT: Tensor, mask_BT: Tensor) -> float:
    """gamma of discounted returns that were shifted and scaled, where only a row's last token earns something."""
    last_three = []
    for row, mask_T in enumerate(mask_BT):
        places = mask_T.nonzero()[-3:, 0].tolist()
        if len(places) == 3 and places[2] - places[0] == 2:
            last_three.append(whitened_BT[row, places])
    if not last_three:
        raise Unknown("gamma is not given, and no row ends with three trained tokens to tell it")
    first, second, third = max(last_three, key=lambda three: float((three[1] - three[2]).abs()))
    return round(float((first - second) / (second - third)), 6)


def _gpg(case: Case, p: Params, x: Inputs) -> Value:
    """There the factor is over the rewards that are not 0, with us over the rows of groups that differ."""
    groups_B, reward_B = _groups(p, x), x["tok_rewards"].sum(dim=1)
    differs_B = torch.stack([(reward_B[groups_B == g] != reward_B[row]).any() for row, g in enumerate(groups_B)])
    factor = int(differs_B.sum()) / max(1, int((reward_B != 0).sum())) / p("f_norm", default=1.0)
    adv_B = group_advantages(reward_B, groups_B, Advantage(kind="gpg")) * factor
    p("alpha", "epsilon")
    return torch.where(x.mask_BT, adv_B[:, None], 0.0), None


def _maxrl(case: Case, p: Params, x: Inputs) -> Value:
    """There 1e-6 is added to the group's mean."""
    groups_B, reward_B = _groups(p, x), x["tok_rewards"].sum(dim=1)
    if bool((reward_B < 0).any()):
        raise Disagreement("a negative mean reward turns the sign of a group's advantages; ours takes none below 0")
    mean_B = torch.stack([reward_B[groups_B == g].mean() for g in groups_B])
    adv_B = group_advantages(reward_B, groups_B, Advantage(kind="max_likelihood"))
    adv_B = adv_B * mean_B / (mean_B + p("epsilon", default=VERL_EPS))
    return torch.where(x.mask_BT, adv_B[:, None], 0.0), None


def _reinforce_pp(case: Case, p: Params, x: Inputs) -> Value:
    """There a token before a hole has nothing of what comes after it."""
    reward_B, paid_BT = _split(x)
    adv_BT = returns_to_go(reward_B, paid_BT, x.mask_BT, p("gamma"), carry=False)
    return masked_whiten(adv_BT, x.mask_BT), None


def _gae(case: Case, p: Params, x: Inputs) -> Value:
    """Advantages there are whitened, and not 0 where the mask is."""
    reward_B, paid_BT = _split(x)
    adv_BT = gae(reward_B, paid_BT, x["values"], x.mask_BT, p("gamma", default=1.0), p("lam", "lambd", default=1.0))
    if "returns" in re.split(r"[._]", case.name):
        return adv_BT + x["values"], x.mask_BT
    return (masked_whiten(adv_BT, x.mask_BT) if p("whiten", default=True) else adv_BT), x.mask_BT


def _split(x: Inputs) -> tuple[Tensor, Tensor]:
    """(the reward of each row's last trained token, what the tokens pay besides) of rewards per token."""
    token_BT = torch.where(x.mask_BT, x["tok_rewards"], 0.0)
    is_last_BT = x.mask_BT & (x.mask_BT.flip(1).cumsum(dim=1).flip(1) == 1)
    return (token_BT * is_last_BT).sum(dim=1), -token_BT * ~is_last_BT


def _remax(case: Case, p: Params, x: Inputs) -> Value:
    reward_B, paid_BT = _split(x)
    baseline_B = x[p("reward_baselines", default="reward_baselines")]
    return torch.where(x.mask_BT, returns_to_go(reward_B, paid_BT, x.mask_BT) - baseline_B[:, None], 0.0), None


ESTIMATORS: dict[str, Callable[[Case, Params, Inputs], Value]] = {
    "compute_gae_advantage_return": _gae,
    "compute_grpo_passk_outcome_advantage": _outcome("pass_at_k", "pass_at_k_no_std"),
    "compute_grpo_outcome_advantage": _outcome("group", "group_no_std"),
    "compute_grpo_vectorized_outcome_advantage": _outcome("group", "group_no_std"),
    "compute_rloo_outcome_advantage": _outcome("leave_one_out"),
    "compute_rloo_vectorized_outcome_advantage": _outcome("leave_one_out"),
    "compute_opo_outcome_advantage": _outcome("length_weighted"),
    "compute_gpg_outcome_advantage": _gpg,
    "compute_maxrl_advantage": _maxrl,
    "compute_reinforce_plus_plus_baseline_outcome_advantage": _outcome("group_no_std", is_whitened=True),
    "compute_reinforce_plus_plus_outcome_advantage": _reinforce_pp,
    "compute_remax_outcome_advantage": _remax,
    "gae": _gae,
    "gae_returns": _gae,
    "grpo": _outcome("group", "group_no_std"),
    "grpo_nostd": _outcome("group", "group_no_std"),
    "passk": _outcome("pass_at_k", "pass_at_k_no_std"),
    "passk_nostd": _outcome("pass_at_k", "pass_at_k_no_std"),
    "rloo": _outcome("leave_one_out"),
    "opo": _outcome("length_weighted"),
    "gpg": _gpg,
    "maxrl": _maxrl,
    "rpp_baseline": _outcome("group_no_std", is_whitened=True),
    "rpp": _reinforce_pp,
    "remax": _remax,
}


# --- the critic ------------------------------------------------------------------------------------------------------


def critic_loss(case: Case, p: Params, x: Inputs) -> tuple[Tensor, Tensor]:
    """(loss, gradient of vpred) as compute_value_loss of verl and ValueLoss of OpenRLHF."""
    clip = p("cliprange_value", "clip_eps", "value_clip")
    mode = p(
        "agg", "loss_agg_mode", default="token-mean" if p("token_level_loss", default=True) else "seq-mean-token-mean"
    )
    kinds = {
        "token-mean": ("token", x.tokens),
        "seq-mean-token-mean": ("sequence", x.sequences),
        "seq-mean-token-sum": ("sequence_sum", x.sequences),
        "seq-mean-token-sum-norm": ("sequence_sum", p("loss_scale_factor", default=x.mask_BT.shape[1])),
    }
    if mode not in kinds:
        raise Unknown(f"agg {mode!r}, one of {', '.join(kinds)}")
    aggregate, divisor = kinds[mode]
    vpred_BT = x["vpred"].clone().requires_grad_()
    batch = replace(x.batch(), values_BT=x["values"], returns_BT=x["returns"])
    loss = value_loss(vpred_BT, batch, clip, aggregate).loss / divisor
    (grad_BT,) = torch.autograd.grad(loss, vpred_BT)
    return loss.detach(), grad_BT
