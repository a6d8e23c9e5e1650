"""How much better than its siblings, the rest of the step or a critic's forecast a completion was.

What is here looks at a whole step at once: the batch of all ranks, before it is split. B sequences, T tokens, N trained
tokens, P groups, G siblings, K parts of the reward.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rlvr.batching import Batch, spread
from rlvr.loss_settings import Advantage, Kl
from rlvr.losses import column
from rlvr.surrogates import kl_estimate

LENGTH_ALPHA = 0.05
"""lam "length" is 1 - 1 / (LENGTH_ALPHA * tokens), https://arxiv.org/abs/2504.05118 section 4.2."""


def compute(
    batch: Batch, advantage: Advantage, kl: Kl, weights: Sequence[float] | None = None
) -> tuple[Tensor, Tensor | None]:
    """(adv_BT float32, returns_BT float32 or None): advantages of the step's trained tokens, 0 for all others.

    All tokens of a row have the row's advantage; with kind `returns`, `divergence` and `gae` each has its own.
    returns_BT, with `gae` alone, is what the critic learns. weights: of the parts of the reward in the order of
    batch.part_BK, for `gdpo`. With kl.where == "reward" what each token diverged from the reference is taken off first:
    summed off the row's reward, or, with the kinds above, token by token (a row without trained tokens has none to take
    off).

    ValueError where a reward is not finite, or something that the settings read is missing; NonFiniteError where a
    value or entropy of the models is not finite. A divergence that is not makes its row's advantages so.
    """
    _check_finite(batch.reward_B, batch, "reward")
    kl_BT = kl.coef * _sampled_kl_BT(batch, kl) if kl.in_reward else None
    returns_BT = None
    if advantage.kind == "returns":
        adv_BT = returns_to_go(batch.reward_B, kl_BT, batch.mask_BT, advantage.gamma)
    elif advantage.kind == "divergence":
        if kl_BT is None:
            raise ValueError("kl.coef must be positive and kl.where reward for advantage.kind divergence")
        adv_BT = -kl_BT  # https://arxiv.org/abs/2306.13649: the gradient of KL(policy || teacher) of each token
    elif advantage.kind == "gae":
        adv_BT, returns_BT = _from_values(batch, advantage, kl_BT)
    else:
        adv_B = _row_advantages(batch, advantage, kl_BT, weights)
        adv_BT = torch.where(batch.mask_BT, adv_B[:, None], 0.0)
    if advantage.whiten:
        adv_BT = whitened(adv_BT, batch.mask_BT, advantage.eps)
    if advantage.top_entropy < 1:
        entropy_BT = _trained(batch, "entropy_BT", "advantage.top_entropy < 1")
        adv_BT = torch.where(high_entropy(entropy_BT, batch.mask_BT, advantage.top_entropy), adv_BT, 0.0)
    return adv_BT.float(), returns_BT


def mean_kl(batch: Batch, kl: Kl) -> float:
    """Mean over the trained tokens of what the reward was reduced by, before the coefficient; nats."""
    return float(_sampled_kl_BT(batch, kl).sum()) / max(1, batch.num_tokens)


# --- one advantage per row -------------------------------------------------------------------------------------------


def group_advantages(reward_B: Tensor, group_B: Tensor, advantage: Advantage, length_B: Tensor | None = None) -> Tensor:
    """Rewards compared within their groups, as GROUP_KINDS[advantage.kind] describes it; float64 [B].

    reward_B: any kind of number, NaN stays NaN; group_B: int64, any numbers from 0 on; length_B: trained tokens of each
    row, for `length_weighted`. A group of one, or of equal rewards, has advantage exactly 0. ValueError for a kind that
    needs more than that, for rewards that the kind cannot take, or shapes that do not fit.
    """
    if advantage.kind not in GROUP_KINDS:
        raise ValueError(f"advantage.kind must be one of {', '.join(GROUP_KINDS)}, got {advantage.kind}")
    if reward_B.ndim != 1 or group_B.shape != reward_B.shape or group_B.dtype != torch.int64:
        raise ValueError(
            f"reward_B and group_B must be [B], group_B int64, got {tuple(reward_B.shape)} and {tuple(group_B.shape)} "
            f"{group_B.dtype}"
        )
    return GROUP_KINDS[advantage.kind](_Groups(reward_B.double(), group_B, advantage, length_B))


@dataclass(frozen=True, slots=True)
class _Groups:
    """Rows with what their siblings have in common."""

    reward_B: Tensor
    group_B: Tensor
    advantage: Advantage
    length_B: Tensor | None = None

    def total(self, value_B: Tensor) -> Tensor:
        """Of each row the sum over its group."""
        num_groups = int(self.group_B.max()) + 1 if len(self.group_B) else 0
        return value_B.new_zeros(num_groups).index_add(0, self.group_B, value_B)[self.group_B]

    @property
    def num_B(self) -> Tensor:
        """Rows of the group."""
        return self.total(torch.ones_like(self.reward_B))

    @property
    def mean_B(self) -> Tensor:
        return self.total(self.reward_B) / self.num_B

    @property
    def high_B(self) -> Tensor:
        """Highest reward of the group; NaN where one is."""
        num_groups = int(self.group_B.max()) + 1 if len(self.group_B) else 0
        high_P = self.reward_B.new_full((num_groups,), -torch.inf)
        return high_P.scatter_reduce(0, self.group_B, self.reward_B, "amax")[self.group_B]

    @property
    def is_equal_B(self) -> Tensor:
        """bool, all rewards of the group are the same."""
        return -replace(self, reward_B=-self.reward_B).high_B == self.high_B

    def less(self, baseline_B: Tensor) -> Tensor:
        """R - baseline; exactly 0 for equal rewards, whatever the baseline was rounded to: 1e-17 / eps would still be
        trained on."""
        return torch.where(self.is_equal_B, 0.0, self.reward_B - baseline_B)

    @property
    def std_B(self) -> Tensor:
        """Of the group, over n - 1 as with TRL and verl; 0 for a single row."""
        square_B = self.total(self.less(self.mean_B).square())
        return (square_B / (self.num_B - 1).clamp(min=1)).sqrt()


def _group(groups: _Groups) -> Tensor:
    """A = (R - mean_g) / (std_g + eps), https://arxiv.org/abs/2402.03300 section 4.1.2"""
    return groups.less(groups.mean_B) / (groups.std_B + groups.advantage.eps)


def _group_no_std(groups: _Groups) -> Tensor:
    """A = R - mean_g, https://arxiv.org/abs/2503.20783 section 3.2"""
    return groups.less(groups.mean_B)


def _batch_std(groups: _Groups) -> Tensor:
    """A = (R - mean_g) / (std + eps), std of all rewards (not of R - mean_g) over n - 1, as TRL's
    scale_rewards="batch", https://arxiv.org/abs/2508.08221"""
    return groups.less(groups.mean_B) / (_std(groups.reward_B) + groups.advantage.eps)


def _leave_one_out(groups: _Groups) -> Tensor:
    """A = R - mean of the other siblings = n / (n - 1) (R - mean_g), https://arxiv.org/abs/2402.14740"""
    return groups.less(groups.mean_B) * (groups.num_B / (groups.num_B - 1).clamp(min=1))


def _length_weighted(groups: _Groups) -> Tensor:
    """A = R - sum_g L R / sum_g L, L trained tokens, https://arxiv.org/abs/2505.23585"""
    if groups.length_B is None:
        raise ValueError("length_B must be given for advantage.kind length_weighted, got None")
    length_B = groups.length_B.to(groups.reward_B.dtype)
    return groups.less(groups.total(length_B * groups.reward_B) / groups.total(length_B).clamp(min=1))


def _max_likelihood(groups: _Groups) -> Tensor:
    """A = (R - mean_g) / mean_g, https://arxiv.org/abs/2602.02710; rewards of 0 and 1 as there, or between.

    No eps: A is at most n - 1. A negative reward would turn the sign of the whole group.
    """
    negative = (groups.reward_B < 0).nonzero()[:, 0].tolist()
    if negative:
        raise ValueError(
            "advantage.kind max_likelihood divides by the group's mean reward, so rewards must not be negative, got "
            f"{float(groups.reward_B[negative[0]]):g} in row {negative[0]} (group {int(groups.group_B[negative[0]])})"
        )
    return torch.where(groups.is_equal_B, 0.0, groups.less(groups.mean_B) / groups.mean_B)


def _pass_at_k(groups: _Groups) -> Tensor:
    """A = what the row adds to the best of k (added_to_best) / (std_g + eps), as verl's grpo_passk"""
    return _pass_at_k_no_std(groups) / (groups.std_B + groups.advantage.eps)


def _pass_at_k_no_std(groups: _Groups) -> Tensor:
    """A = what the row adds to the best of k, see added_to_best()"""
    return added_to_best(groups.reward_B, groups.group_B, groups.advantage.k)


def _gpg(groups: _Groups) -> Tensor:
    """A = B / (B - M) (R - mean_g), M rows of the step's B in groups of equal rewards, https://arxiv.org/abs/2504.02546
    eq. 6 (F_norm 1) and 7. verl counts the rows whose reward is 0 as M."""
    is_equal_B = groups.is_equal_B
    num_useful = max(1, int((~is_equal_B).sum()))
    return groups.less(groups.mean_B) * (len(is_equal_B) / num_useful)


def _best(groups: _Groups) -> Tensor:
    """A = n / m for the m best of n siblings, 0 for the others: with aggregate `sequence_sum` and surrogate `reinforce`
    the loss is the mean over groups of the best ones' -log p, https://arxiv.org/abs/2304.06767. Where all are equal
    there is no best: 0."""
    is_best_B = groups.reward_B == groups.high_B
    num_best_B = groups.total(is_best_B.to(groups.reward_B.dtype))
    return torch.where(is_best_B & ~groups.is_equal_B, groups.num_B / num_best_B, 0.0)


GROUP_KINDS: dict[str, Callable[[_Groups], Tensor]] = {
    "group": _group,
    "group_no_std": _group_no_std,
    "batch_std": _batch_std,
    "leave_one_out": _leave_one_out,
    "length_weighted": _length_weighted,
    "max_likelihood": _max_likelihood,
    "pass_at_k": _pass_at_k,
    "pass_at_k_no_std": _pass_at_k_no_std,
    "gpg": _gpg,
    "best": _best,
}


def added_to_best(reward_B: Tensor, group_B: Tensor, k: int | None = None) -> Tensor:
    """Mean over the subsets S of k siblings that contain the row of max(S) - max(S without it); never negative.

    With the siblings in order of their rewards, the m-th from below (m from 0) is the best of the other k - 1 in
    C(m, k - 2) of the C(n - 1, k - 1) subsets, and the row adds what it is above it. Without k, or where a group has
    fewer, k is the group's size: then the best alone has an advantage, over the second best.
    https://arxiv.org/abs/2503.19595. 0 for a group of one.
    """
    adv_B = torch.zeros_like(reward_B)
    for group in group_B.unique().tolist():
        rows_G = (group_B == group).nonzero()[:, 0]
        num = len(rows_G)
        if num < 2:
            continue
        size = min(k or num, num)
        share = [math.comb(m, size - 2) / math.comb(num - 1, size - 1) for m in range(num)]
        reward_G, order_G = reward_B[rows_G].sort()
        above_GG = (reward_G[:, None] - reward_G).tril(-1)
        adv_B[rows_G[order_G]] = above_GG @ reward_G.new_tensor(share)
    return adv_B


def online_dpo(reward_B: Tensor, group_B: Tensor, h_B: Tensor, is_trained_B: Tensor, beta: float) -> Tensor:
    """A = +n beta sigmoid(-beta (h_best - h_worst)) of the group's best sibling, minus that of its worst, 0 of the
    others; float64 [B].

    With surrogate `reinforce` and aggregate `sequence_sum` its gradient is that of the mean over groups of DPO's
    -log sigmoid(beta (h_best - h_worst)), https://arxiv.org/abs/2402.04792, as long as the policy is the one that h_B
    is of (updates and epochs 1). h_B: log p - log p_ref summed over the row's trained tokens, nats. n: the group's rows
    with is_trained_B (bool [B]): those alone are compared. The first of equals is the best, or the worst; a group of
    equal rewards has no advantage, and counts in the mean.
    """
    num, num_groups = len(reward_B), int(group_B.max()) + 1 if len(group_B) else 0

    def first_P(of_B: Tensor) -> tuple[Tensor, Tensor]:
        """Of each group the row where of_B is highest, the first of equals, and what it is there."""
        of_B = of_B.masked_fill(~is_trained_B, -torch.inf)
        high_P = of_B.new_full((num_groups,), -torch.inf).scatter_reduce(0, group_B, of_B, "amax")
        row_B = torch.arange(num, device=group_B.device).masked_fill(of_B != high_P[group_B], num)
        return group_B.new_full((num_groups,), num).scatter_reduce(0, group_B, row_B, "amin"), high_P

    (best_P, high_P), (worst_P, low_P) = first_P(reward_B.double()), first_P(-reward_B.double())
    differs_P = high_P > -low_P
    best_P, worst_P = best_P[differs_P], worst_P[differs_P]
    size_P = group_B.new_zeros(num_groups).index_add(0, group_B, is_trained_B.to(group_B.dtype))[differs_P]
    force_P = size_P * beta * torch.sigmoid(-beta * (h_B[best_P] - h_B[worst_P]).double())
    adv_B = torch.zeros_like(h_B, dtype=torch.float64)
    adv_B[best_P], adv_B[worst_P] = force_P, -force_P
    return adv_B


def part_advantages(part_BK: Tensor, weights: Sequence[float], group_B: Tensor, eps: float) -> Tensor:
    """GDPO: S = sum_k w_k (R_k - mean_g) / (std_g + eps), A = (S - mean) / (std + eps) over the step's rows; float64.

    part_BK: NaN where a part has no score: it is left out of its group's mean and of the row's sum; a row that has none
    has A = 0. https://arxiv.org/abs/2601.05242, as TRL's multi_objective_aggregation="normalize_then_sum".
    """
    if len(weights) != part_BK.shape[1]:
        raise ValueError(f"weights must be as many as the parts of part_BK ({part_BK.shape[1]}), got {len(weights)}")
    kind = Advantage(kind="group", eps=eps)
    sum_B = part_BK.new_zeros(len(part_BK))
    for score_B, weight in zip(part_BK.unbind(dim=1), weights, strict=True):
        has_B = ~score_B.isnan()
        sum_B[has_B] += weight * group_advantages(score_B[has_B], group_B[has_B], kind)
    is_scored_B = ~part_BK.isnan().all(dim=1)
    adv_B = torch.zeros_like(sum_B)
    adv_B[is_scored_B] = standardised(sum_B[is_scored_B], eps)
    return adv_B


def _row_advantages(
    batch: Batch, advantage: Advantage, kl_BT: Tensor | None, weights: Sequence[float] | None
) -> Tensor:
    if kl_BT is not None and advantage.kind in ("gdpo", "max_likelihood"):
        raise ValueError(f"kl.where must be loss for advantage.kind {advantage.kind}, which reads bare rewards")
    if advantage.kind == "gdpo":
        if batch.part_BK is None:
            raise ValueError("batch.part_BK must be set for advantage.kind gdpo, got None")
        if weights is None:
            raise ValueError("weights must be given for advantage.kind gdpo, got None")
        for number, score_B in enumerate(batch.part_BK.unbind(dim=1)):
            _check_finite(score_B.nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf), batch, f"part {number}")
        return part_advantages(batch.part_BK, weights, batch.group_B, advantage.eps)
    reward_B = batch.reward_B if kl_BT is None else batch.reward_B - kl_BT.sum(dim=1)
    if advantage.kind == "greedy":
        if batch.greedy_B is None:
            raise ValueError("batch.greedy_B must be set for advantage.kind greedy, got None")
        _check_finite(batch.greedy_B, batch, "greedy_B")
        return reward_B - batch.greedy_B  # https://arxiv.org/abs/2310.10505 eq. 3, 4
    if advantage.kind == "online_dpo":
        h_B = _sampled_kl_BT(batch, Kl(kind="k1"), "advantage.kind online_dpo").sum(dim=1)
        return online_dpo(reward_B, batch.group_B, h_B, batch.mask_BT.any(dim=1), advantage.beta)
    return group_advantages(reward_B, batch.group_B, advantage, batch.mask_BT.sum(dim=1))


# --- each token its own ----------------------------------------------------------------------------------------------


def returns_to_go(
    reward_B: Tensor, kl_BT: Tensor | None, mask_BT: Tensor, gamma: float = 1.0, carry: bool = True
) -> Tensor:
    """A_t = r_t + gamma A_(next trained token of the row), 0 where mask is False; float64.

    The last trained token earns the whole reward, and each pays its own divergence: without a baseline, the sum of what
    is still to come. https://arxiv.org/abs/2501.03262 eq. 8. carry: across untrained tokens inside of a row, without a
    discount for them; else a token before such a hole has nothing of what comes after it, as with verl.
    """
    reward_BT = _token_rewards(reward_B, kl_BT, mask_BT)
    factor_BT = _factors(mask_BT, gamma, 1.0 if carry else 0.0, reward_BT)
    return torch.where(mask_BT, _from_the_end(reward_BT, factor_BT), 0.0)


def gae(
    reward_B: Tensor,
    kl_BT: Tensor | None,
    values_BT: Tensor,
    mask_BT: Tensor,
    gamma: float = 1.0,
    lam: float | Tensor = 1.0,
) -> Tensor:
    """A_t = delta_t + gamma lam A_next, delta_t = r_t + gamma V_next - V_t, 0 where mask is False; float64.

    https://arxiv.org/abs/1506.02438 eq. 16. next: the next trained token of the row, after the last one V and A are 0;
    rewards as in returns_to_go(). lam: one, or [B] one per row. values_BT: V before each token was written; whatever
    stands in untrained columns.
    """
    reward_BT = _token_rewards(reward_B, kl_BT, mask_BT)
    value_BT = torch.where(mask_BT, values_BT.to(reward_BT.dtype), 0.0)
    from_here_BT = _from_the_end(value_BT, (~mask_BT).to(reward_BT.dtype))  # V of the token, or of the next trained one
    next_BT = torch.cat([from_here_BT[:, 1:], torch.zeros_like(from_here_BT[:, :1])], dim=1)
    delta_BT = torch.where(mask_BT, reward_BT + gamma * next_BT - value_BT, 0.0)
    factor_BT = _factors(mask_BT, gamma * (lam[:, None] if isinstance(lam, Tensor) else lam), 1.0, reward_BT)
    return torch.where(mask_BT, _from_the_end(delta_BT, factor_BT), 0.0)


def _from_values(batch: Batch, advantage: Advantage, kl_BT: Tensor | None) -> tuple[Tensor, Tensor]:
    """(adv_BT float64, returns_BT float32): returns = A + V, with critic_lam in A where it is set."""
    values_BT, mask_BT = _trained(batch, "values_BT", "advantage.kind gae"), batch.mask_BT
    lam = advantage.lam
    if lam == "length":
        lam = (1 - 1 / (LENGTH_ALPHA * mask_BT.sum(dim=1).clamp(min=1).double())).clamp(min=0)
    adv_BT = gae(batch.reward_B, kl_BT, values_BT, mask_BT, advantage.gamma, lam)
    critic_BT = adv_BT
    if advantage.critic_lam is not None:
        critic_BT = gae(batch.reward_B, kl_BT, values_BT, mask_BT, advantage.gamma, advantage.critic_lam)
    return adv_BT, torch.where(mask_BT, critic_BT + values_BT, 0.0).float()


def _token_rewards(reward_B: Tensor, kl_BT: Tensor | None, mask_BT: Tensor) -> Tensor:
    """[B, T]: the row's reward at its last trained token, less each trained token's divergence."""
    is_last_BT = mask_BT & (mask_BT.flip(1).cumsum(dim=1).flip(1) == 1)
    paid_BT = 0.0 if kl_BT is None else torch.where(mask_BT, kl_BT, 0.0)
    return torch.where(is_last_BT, reward_B[:, None], 0.0) - paid_BT


def _factors(mask_BT: Tensor, trained: float | Tensor, other: float, like_BT: Tensor) -> Tensor:
    """[B, T] in the dtype of like_BT; torch.where() of two numbers would round them to float32."""
    return torch.where(mask_BT, trained * torch.ones_like(like_BT), other)


def _from_the_end(add_BT: Tensor, factor_BT: Tensor) -> Tensor:
    """x_t = add_t + factor_t x_(t+1), nothing after the end."""
    x_B = torch.zeros_like(add_BT[:, 0])
    columns = []
    for add_B, factor_B in zip(reversed(add_BT.T.contiguous()), reversed(factor_BT.T.contiguous()), strict=True):
        x_B = torch.addcmul(add_B, factor_B, x_B)
        columns.append(x_B)
    return torch.stack(columns[::-1], dim=1)


# --- over the step ---------------------------------------------------------------------------------------------------


def whitened(adv_BT: Tensor, mask_BT: Tensor, eps: float) -> Tensor:
    """(A - mean) / sqrt(variance + eps^2) over the trained tokens, so that a long row counts more than a short one.

    The variance is the unbiased one (over n - 1), as in verl's masked_whiten. 0 where all are equal, or mask is False.
    """
    adv_N = adv_BT[mask_BT]
    if not len(adv_N) or bool(adv_N.min() == adv_N.max()):
        return torch.zeros_like(adv_BT)
    scale = (_std(adv_N).square() + eps**2).sqrt()
    return torch.where(mask_BT, (adv_BT - adv_N.mean()) / scale, 0.0)


def standardised(value_N: Tensor, eps: float) -> Tensor:
    """(x - mean) / (std + eps), std over n - 1; exactly 0 where all are equal."""
    if not len(value_N) or bool(value_N.min() == value_N.max()):
        return torch.zeros_like(value_N)
    return (value_N - value_N.mean()) / (_std(value_N) + eps)


def high_entropy(entropy_BT: Tensor, mask_BT: Tensor, share: float) -> Tensor:
    """bool [B, T]: trained tokens whose entropy is at least the (1 - share) quantile of all trained tokens.

    Tokens of equal entropy stay or leave together. https://arxiv.org/abs/2506.01939, as TRL's
    top_entropy_quantile.
    """
    entropy_N = entropy_BT[mask_BT]
    if not len(entropy_N):
        return torch.zeros_like(mask_BT)
    # between two neighbours the quantile is above the lower one, so the higher is the first that stays
    place = math.ceil((1 - share) * (len(entropy_N) - 1) - 1e-9)
    return mask_BT & (entropy_BT >= entropy_N.sort().values[place])


def _check_finite(value_B: Tensor, batch: Batch, what: str) -> None:
    """ValueError that names the first row whose value is NaN or infinite."""
    bad = (~value_B.isfinite()).nonzero()[:, 0].tolist()
    if bad:
        row, group = bad[0], int(batch.group_B[bad[0]])
        raise ValueError(f"{what} must be finite, got {float(value_B[row])} in row {row} of the batch (group {group})")


def _trained(batch: Batch, name: str, needed_by: str) -> Tensor:
    """A tensor of the batch that is needed, checked at the trained tokens and 0 elsewhere; float64."""
    return spread(column(batch, name, needed_by).double(), batch.mask_BT)


def _sampled_kl_BT(batch: Batch, kl: Kl, needed_by: str = "kl.coef > 0") -> Tensor:
    """Of the trained tokens, that is those the policy sampled, float64; 0 elsewhere, no gradient."""
    if batch.ref_logp_BT is None:
        raise ValueError(f"batch.ref_logp_BT must be set for {needed_by}, got None")
    old_BT = (batch.sampler_logp_BT if batch.old_logp_BT is None else batch.old_logp_BT).double()
    kl_BT = kl_estimate(old_BT, batch.ref_logp_BT.double(), kl.estimator)
    return torch.where(batch.mask_BT, kl_BT, 0.0)


def _std(value_N: Tensor) -> Tensor:
    """Over n - 1; 0 for a single value."""
    return value_N.std() if len(value_N) > 1 else value_N.new_zeros(())
