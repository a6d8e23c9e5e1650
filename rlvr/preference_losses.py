"""Losses that teach a model a number from comparisons, rankings and ratings.

P pairs, L lists, K completions of a list, B completions, A attributes. All losses are negative log-likelihoods in nats
(squared_error aside), one per row: the caller weighs and sums them. delta = score of the first - score of the second.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def target(probability: Tensor, *, label_smoothing: float = 0.0, flip_rate: float = 0.0) -> Tensor:
    """What stands for the label in a loss that is linear in it: (p - e) / (1 - 2e), or p (1 - s) + (1 - p) s.

    flip_rate e: of labels that are wrong by chance. The loss is then, in the mean over such labels, that of the right
    ones, https://arxiv.org/abs/2403.00409 equation 12; it is not bounded below, and targets lie outside [0, 1].
    label_smoothing s: fewer extremes, at the price of smaller scores.
    """
    if not (0 <= label_smoothing < 0.5 and 0 <= flip_rate < 0.5):
        raise ValueError(
            f"label_smoothing and flip_rate must be in [0, 0.5), got label_smoothing={label_smoothing}, "
            f"flip_rate={flip_rate}"
        )
    if label_smoothing and flip_rate:
        raise ValueError("label_smoothing and flip_rate say the opposite of each other; set one of them")
    if flip_rate:
        return (probability - flip_rate) / (1 - 2 * flip_rate)
    return probability * (1 - label_smoothing) + (1 - probability) * label_smoothing


def bradley_terry(delta_P: Tensor, target_P: Tensor, margin_P: Tensor | None = None) -> Tensor:
    """loss_P = -t log s(delta - m) - (1 - t) log s(m - delta) with s the logistic function.

    t: that the first is preferred, see target(); margin m: by how much the first has to be better, in the unit of the
    score, https://arxiv.org/abs/2307.09288 section 3.2.2.
    """
    x_P = delta_P if margin_P is None else delta_P - margin_P
    return -target_P * logsigmoid(x_P) - (1 - target_P) * logsigmoid(-x_P)


def davidson_logp(delta_P: Tensor, log_nu: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(first, tie, second): log-probabilities [P], where a tie weighs nu against the geometric mean of both.

    P(tie) = nu / (exp(delta / 2) + exp(-delta / 2) + nu), Davidson 1970, https://doi.org/10.1080/01621459.1970.10481082.
    """
    weights_P3 = torch.stack([delta_P / 2, log_nu.to(delta_P).expand_as(delta_P), -delta_P / 2], dim=-1)
    first_P, tie_P, second_P = torch.log_softmax(weights_P3, dim=-1).unbind(-1)
    return first_P, tie_P, second_P


def davidson(
    delta_P: Tensor, target_P: Tensor, is_tie_P: Tensor, log_nu: Tensor, margin_P: Tensor | None = None
) -> Tensor:
    """loss_P where ties have a probability of their own: -log P(tie), of others as bradley_terry()."""
    first_P, tie_P, second_P = davidson_logp(delta_P if margin_P is None else delta_P - margin_P, log_nu)
    return torch.where(is_tie_P, -tie_P, -target_P * first_P - (1 - target_P) * second_P)


def plackett_luce(score_LK: Tensor, level_LK: Tensor) -> Tensor:
    """loss_L = -sum_k [r_k - log sum over j = k and all that are worse of exp r_j], over all but the last level.

    level_LK: int64, 0 is best, equal levels are a tie, -1 is padding. Tied completions are not compared with each
    other; without ties this is -log of the order's probability under https://doi.org/10.2307/2346567.
    """
    return _stages_LK(score_LK, level_LK).sum(dim=1)


def top_choice(score_LK: Tensor, level_LK: Tensor) -> Tensor:
    """loss_L = -log softmax of the best completion among all of the list; of several best ones their mean.

    With demonstrations as the best among a policy's own samples: maximum entropy inverse reinforcement learning,
    https://arxiv.org/abs/1507.04888 with the sum over trajectories taken over these.
    """
    best_LK = level_LK == 0
    return (_stages_LK(score_LK, level_LK) * best_LK).sum(dim=1) / best_LK.sum(dim=1)


def centring(score_LK: Tensor, level_LK: Tensor) -> Tensor:
    """penalty_L = (twice the mean score of the list)^2; of a pair (r_1 + r_2)^2 as in TRL's center_rewards_coefficient.

    It takes away the freedom to add a number to all scores, and shrinks their differences a little.
    """
    real_LK = level_LK >= 0
    mean_L = score_LK.masked_fill(~real_LK, 0.0).sum(dim=1) / real_LK.sum(dim=1)
    return (2 * mean_L) ** 2


def binary(score_B: Tensor, target_B: Tensor) -> Tensor:
    """loss_B = -t log s(r) - (1 - t) log s(-r): the score is the log odds of the good class; t as in target()."""
    return bradley_terry(score_B, target_B)


def squared_error(score_BA: Tensor, target_BA: Tensor) -> Tensor:
    """loss_B = mean over the attributes that have a target (others are NaN) of (r - y)^2; 0 where none has."""
    has_BA, wanted_BA = _targets(target_BA)
    return ((score_BA - wanted_BA) ** 2 * has_BA).sum(dim=1) / has_BA.sum(dim=1).clamp(min=1)


def gaussian_nll(score_BA: Tensor, log_variance_BA: Tensor, target_BA: Tensor) -> Tensor:
    """loss_B = mean over the attributes that have a target of -log N(y; r, exp(log_variance))."""
    has_BA, wanted_BA = _targets(target_BA)
    square_BA = (score_BA - wanted_BA) ** 2 * torch.exp(-log_variance_BA)
    nll_BA = 0.5 * (square_BA + log_variance_BA + math.log(2 * math.pi))
    return (nll_BA * has_BA).sum(dim=1) / has_BA.sum(dim=1).clamp(min=1)


def _targets(target_BA: Tensor) -> tuple[Tensor, Tensor]:
    """(whether there is one, its value without NaN: NaN times 0 would spoil the gradient)"""
    return ~target_BA.isnan(), target_BA.nan_to_num(0.0)


def _stages_LK(score_LK: Tensor, level_LK: Tensor) -> Tensor:
    """-log of the probability that k is chosen among itself and all that are worse; 0 on the last level and padding."""
    real_LK = level_LK >= 0
    worse_LKK = (level_LK[:, None, :] > level_LK[:, :, None]) & real_LK[:, :, None]
    rivals_LKK = worse_LKK | torch.eye(level_LK.shape[1], dtype=torch.bool, device=level_LK.device)
    score_LK = score_LK.masked_fill(~real_LK, 0.0)
    among_LKK = score_LK[:, None, :].expand(rivals_LKK.shape).masked_fill(~rivals_LKK, -torch.inf)
    return torch.logsumexp(among_LKK, dim=2) - score_LK
