"""The losses of the direct methods: log-probabilities of completions in, one loss per pair or completion out.

Which loss it is are settings (DirectLoss of direct_settings.py). B pairs or completions, M mismatched completions.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from rlvr.direct_settings import DirectLoss

_CERTAIN = -1e-7
"""A completion whose tokens all have probability 1 is taken to have this mean log-probability: its odds are finite."""


def direct_loss(
    loss: DirectLoss,
    chosen_logp_B: Tensor,
    rejected_logp_B: Tensor,
    ref_chosen_logp_B: Tensor | None,
    ref_rejected_logp_B: Tensor | None,
    chosen_length_B: Tensor,
    rejected_length_B: Tensor,
    probability_B: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """(loss_B with gradient, figures per pair by TRL's names without): of every kind but kto, see kto_loss().

    *_logp_B: nats, sums over the completion's tokens, under the policy (with gradient) and the reference (None where
    loss.needs_reference is False); *_length_B: tokens of the completion. With l = logp - ref_logp, m = logp / length,
    d = l_chosen - l_rejected, b = beta, e = label_smoothing:

        sigmoid  -(1 - e) log sigmoid(b d) - e log sigmoid(-b d)                https://arxiv.org/abs/2305.18290
        robust   [-(1 - e) log sigmoid(b d) + e log sigmoid(-b d)] / (1 - 2e)   https://arxiv.org/abs/2403.00409
        ipo      (d - 1 / (2b))^2, of l as it is or over its length             https://arxiv.org/abs/2310.12036 eq. 17
        hinge    max(0, 1 - b d)                                                https://arxiv.org/abs/2309.06657
        simpo    as sigmoid, of b (m_chosen - m_rejected) - simpo_gamma         https://arxiv.org/abs/2405.14734 eq. 6
        orpo     -m_chosen - b log sigmoid(log odds_chosen - log odds_rejected), odds of exp(m)
                                                                                https://arxiv.org/abs/2403.07691 eq. 6

    and - rpo_alpha * m_chosen, https://arxiv.org/abs/2404.19733 eq. 1. probability_B: that `chosen` is the preferred
    one; the loss is its expectation over which of both is. ValueError: kind kto, or no reference where one is needed.
    """
    if loss.kind == "kto":
        raise ValueError("kind kto judges each completion for itself: use kto_loss()")
    chosen_B, rejected_B = (
        _Side(loss, logp_B, ref_B, length_B)
        for logp_B, ref_B, length_B in (
            (chosen_logp_B, ref_chosen_logp_B, chosen_length_B),
            (rejected_logp_B, ref_rejected_logp_B, rejected_length_B),
        )
    )
    loss_B = _of_pair(loss, chosen_B, rejected_B)
    if probability_B is not None and bool((probability_B != 1).any()):
        loss_B = probability_B * loss_B + (1 - probability_B) * _of_pair(loss, rejected_B, chosen_B)
    with torch.no_grad():
        better_B, worse_B = chosen_B.reward_B.detach(), rejected_B.reward_B.detach()
        figures = {
            "rewards/chosen": better_B,
            "rewards/rejected": worse_B,
            "rewards/accuracies": (better_B > worse_B).to(better_B.dtype),
            "rewards/margins": better_B - worse_B,
            "logps/chosen": chosen_logp_B.detach(),
            "logps/rejected": rejected_logp_B.detach(),
        }
        if loss.kind == "orpo" or loss.rpo_alpha:
            figures["nll_loss"] = -chosen_B.mean_B.detach()
        if loss.kind == "orpo":
            figures["log_odds_chosen"] = _log_odds(chosen_B.mean_B.detach()) - _log_odds(rejected_B.mean_B.detach())
    return loss_B, figures


def kto_loss(
    loss: DirectLoss, logp_B: Tensor, ref_logp_B: Tensor, label_B: Tensor, kl: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """(loss_B with gradient, figures without: "rewards"): w (1 - v), https://arxiv.org/abs/2402.01306 eq. 7.

    v = sigmoid(beta (l - kl)) of a good completion, sigmoid(beta (kl - l)) of one that is not, l = logp - ref_logp,
    w = desirable_weight or undesirable_weight. label_B: probability that it is good, 0 or 1 where that is known; the
    loss is its expectation. kl: scalar without gradient, see mismatched_kl().
    """
    ratio_B = logp_B - ref_logp_B
    desirable_B = loss.desirable_weight * torch.sigmoid(loss.beta * (kl - ratio_B))
    undesirable_B = loss.undesirable_weight * torch.sigmoid(loss.beta * (ratio_B - kl))
    loss_B = label_B * desirable_B + (1 - label_B) * undesirable_B
    return loss_B, {"rewards": loss.beta * ratio_B.detach()}


def mismatched_kl(logp_M: Tensor, ref_logp_M: Tensor) -> Tensor:
    """max(0, mean of logp - ref_logp) of completions behind prompts that they do not answer: KTO's reference point.

    Over the whole batch, whatever its split. Nats, scalar without gradient; 0 where there is none.
    """
    if not len(logp_M):
        return logp_M.new_zeros(())
    return (logp_M - ref_logp_M).detach().mean().clamp(min=0)


class _Side:
    """One of the two completions of each pair, as the losses see it."""

    def __init__(self, loss: DirectLoss, logp_B: Tensor, ref_logp_B: Tensor | None, length_B: Tensor) -> None:
        if loss.needs_reference and ref_logp_B is None:
            raise ValueError(f"the reference's log-probabilities must be given for kind {loss.kind}, got None")
        self.length_B = length_B
        self.mean_B = logp_B / length_B
        self.ratio_B = logp_B if ref_logp_B is None or not loss.needs_reference else logp_B - ref_logp_B
        self.reward_B = loss.beta * (self.mean_B if loss.kind in ("simpo", "orpo") else self.ratio_B)


def _of_pair(loss: DirectLoss, chosen: _Side, rejected: _Side) -> Tensor:
    """The loss where the first is the preferred one."""
    logit_B, e = chosen.reward_B - rejected.reward_B, loss.label_smoothing
    if loss.kind == "ipo":
        sides = (chosen, rejected)
        own_B, other_B = ((s.ratio_B / s.length_B if loss.ipo_logps == "mean" else s.ratio_B) for s in sides)
        loss_B = (own_B - other_B - 1 / (2 * loss.beta)).square()
    elif loss.kind == "hinge":
        loss_B = relu(1 - logit_B)
    elif loss.kind == "robust":
        loss_B = ((e - 1) * logsigmoid(logit_B) + e * logsigmoid(-logit_B)) / (1 - 2 * e)
    elif loss.kind == "orpo":
        log_odds_B = _log_odds(chosen.mean_B) - _log_odds(rejected.mean_B)
        loss_B = -chosen.mean_B - loss.beta * logsigmoid(log_odds_B)
    else:
        if loss.kind == "simpo":
            logit_B = logit_B - loss.simpo_gamma
        loss_B = -logsigmoid(logit_B)
        if e:
            loss_B = (1 - e) * loss_B - e * logsigmoid(-logit_B)
    return loss_B - loss.rpo_alpha * chosen.mean_B if loss.rpo_alpha else loss_B


def _log_odds(mean_B: Tensor) -> Tensor:
    """log(p / (1 - p)), p = exp(mean_B)"""
    mean_B = mean_B.clamp(max=_CERTAIN)
    return mean_B - torch.log(-torch.expm1(mean_B))
