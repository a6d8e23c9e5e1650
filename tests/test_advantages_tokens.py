"""Advantages that each token has for itself: returns, a critic's estimates, whitening, the tokens of high entropy."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr.advantages import GROUP_KINDS, compute, gae, high_entropy, returns_to_go, whitened
from rlvr.batching import Batch
from rlvr.errors import NonFiniteError
from rlvr.loss_settings import Advantage, Kl

EPS = 1e-4
RETURNS = Advantage(kind="returns")


def batch_of(mask: list[list[int]], rewards: list[float], **columns: torch.Tensor) -> Batch:
    """Rows of one group; the sampler's log-probability is -1 everywhere."""
    mask_BT = torch.tensor(mask, dtype=torch.bool)
    batch = Batch.of(
        torch.zeros_like(mask_BT, dtype=torch.int64),
        mask_BT,
        adv=torch.zeros(len(mask)),
        sampler_logp_BT=-torch.ones(mask_BT.shape),
        reward_B=torch.tensor(rewards, dtype=torch.float64),
        group_B=torch.zeros(len(mask), dtype=torch.int64),
    )
    return replace(batch, **columns)


# --- returns ---------------------------------------------------------------------------------------------------------


def test_a_tokens_return_is_the_reward_less_the_divergence_still_to_come() -> None:
    # the last token earns 2 or -1; the hole at column 2 of row 0 pays nothing and has no return
    mask_BT = torch.tensor([[0, 1, 0, 1], [0, 1, 1, 0]], dtype=torch.bool)
    kl_BT = torch.tensor([[9.0, 0.25, 9.0, 0.5], [9.0, -0.5, 0.125, 9.0]], dtype=torch.float64)
    reward_B = torch.tensor([2.0, -1.0], dtype=torch.float64)
    assert returns_to_go(reward_B, kl_BT, mask_BT).tolist() == [[0, 1.25, 0, 1.5], [0, -0.625, -1.125, 0]]
    assert returns_to_go(reward_B, None, mask_BT).tolist() == [[0, 2, 0, 2], [0, -1, -1, 0]]


def test_a_discount_is_paid_for_trained_tokens_alone() -> None:
    # 1 at the last token; half of it one trained token before, a quarter two before, whatever lies between
    mask_BT = torch.tensor([[1, 0, 0, 1, 1]], dtype=torch.bool)
    one_B = torch.ones(1, dtype=torch.float64)
    assert returns_to_go(one_B, None, mask_BT, 0.5).tolist() == [[0.25, 0, 0, 0.5, 1]]
    assert returns_to_go(one_B, None, mask_BT, 0.5, carry=False).tolist() == [[0, 0, 0, 0.5, 1]]
    assert returns_to_go(one_B, None, mask_BT, 0.0).tolist() == [[0, 0, 0, 0, 1]]


@settings(deadline=None)
@given(
    st.integers(0, 2**31), st.integers(1, 5), st.integers(1, 11), st.sampled_from([1.0, 0.97, 0.5, 0.0]), st.booleans()
)
def test_returns_are_those_of_a_plain_loop_from_the_end(seed: int, B: int, T: int, gamma: float, carry: bool) -> None:
    rng = torch.Generator().manual_seed(seed)
    mask_BT = torch.rand(B, T, generator=rng) < 0.6
    kl_BT = torch.randn(B, T, generator=rng, dtype=torch.float64)
    reward_B = torch.randn(B, generator=rng, dtype=torch.float64)
    wanted_BT = torch.zeros(B, T, dtype=torch.float64)
    for b in range(B):
        earns, total = float(reward_B[b]), 0.0
        for t in reversed(range(T)):
            if mask_BT[b, t]:
                total, earns = gamma * total + earns - float(kl_BT[b, t]), 0.0  # the last token has the reward
                wanted_BT[b, t] = total
            elif not carry:
                total = 0.0
    got_BT = returns_to_go(reward_B, kl_BT, mask_BT, gamma, carry)
    torch.testing.assert_close(got_BT, wanted_BT, rtol=1e-12, atol=1e-12)


def test_returns_take_the_divergence_token_by_token_and_know_no_siblings() -> None:
    # the sampler's log-probability is -1 everywhere, k1 is 0.2 and 0.4 for row 0, 0 for row 1; coefficient 0.5
    ref_BT = torch.tensor([[0, -1.2, -1.4], [0, -1.0, -1.0]])
    batch = batch_of([[0, 1, 1], [0, 1, 1]], [1.0, 0.0], ref_logp_BT=ref_BT)
    kl = Kl(coef=0.5, where="reward")
    assert compute(batch, RETURNS, kl)[0].tolist() == [
        [0, pytest.approx(0.7), pytest.approx(0.8)],
        [0, pytest.approx(0.0, abs=1e-7), pytest.approx(0.0, abs=1e-7)],
    ]
    assert compute(batch, RETURNS, Kl(coef=0.5, where="loss"))[0].tolist() == [[0, 1, 1], [0, 0, 0]]
    # of row 0: 1 - 0.2 at its end, 0.5 * 0.8 - 0.1 before
    half_BT, _ = compute(batch, Advantage(kind="returns", gamma=0.5), kl)
    assert half_BT[0].tolist() == pytest.approx([0, 0.3, 0.8])


# --- a critic's estimates --------------------------------------------------------------------------------------------


def test_gae_by_hand() -> None:
    # V 0.5 0.25 1, the token between is a tool's; deltas 0.25 * 0.5 - 0.5, 1 * 0.5 - 0.25, 2 - 1 by gamma 0.5;
    # with gamma lam = 0.25: 1, 0.25 + 0.25 * 1, -0.375 + 0.25 * 0.5
    mask_BT = torch.tensor([[0, 1, 0, 1, 1, 0]], dtype=torch.bool)
    values_BT = torch.tensor([[9, 0.5, math.nan, 0.25, 1, 9]], dtype=torch.float64)
    two_B = torch.full((1,), 2.0, dtype=torch.float64)
    assert gae(two_B, None, values_BT, mask_BT, 0.5, 0.5).tolist() == [[0, -0.25, 0, 0.5, 1, 0]]


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 5), st.integers(1, 11), st.floats(0, 1), st.booleans())
def test_gae_is_that_of_a_plain_loop_from_the_end(seed: int, B: int, T: int, gamma: float, by_row: bool) -> None:
    rng = torch.Generator().manual_seed(seed)
    mask_BT = torch.rand(B, T, generator=rng) < 0.6
    kl_BT, values_BT = torch.randn(2, B, T, generator=rng, dtype=torch.float64)
    reward_B, lam_B = torch.randn(B, generator=rng, dtype=torch.float64), torch.rand(B, generator=rng).double()
    if not by_row:
        lam_B = lam_B[:1].expand(B)
    wanted_BT = torch.zeros(B, T, dtype=torch.float64)
    for b in range(B):
        places = [t for t in range(T) if mask_BT[b, t]]
        later, following = 0.0, 0.0
        for t in reversed(places):
            earned = (float(reward_B[b]) if t == places[-1] else 0.0) - float(kl_BT[b, t])
            delta = earned + gamma * following - float(values_BT[b, t])
            later = delta + gamma * float(lam_B[b]) * later
            following, wanted_BT[b, t] = float(values_BT[b, t]), later
    got_BT = gae(reward_B, kl_BT, values_BT, mask_BT, gamma, lam_B if by_row else float(lam_B[0]))
    torch.testing.assert_close(got_BT, wanted_BT, rtol=1e-12, atol=1e-12)


def test_returns_of_the_critic_are_those_of_verl() -> None:
    # gamma 0.97, lam 0.9; rows of 3, 5 (the second is untrained) and 5 tokens; verl b178a3cd, core_algos.py
    mask_BT = torch.tensor([[1, 1, 1, 0, 0], [1, 0, 1, 1, 1], [1, 1, 1, 1, 1]], dtype=torch.bool)
    values = [
        [-0.8861753292, 0.2712199686, -0.6612650319, -0.1428081732, -0.3557547933],
        [0.1838569756, 0.7960392573, 0.5928768192, -1.5594563509, 1.1690881043],
        [-1.7841400824, 0.1750162248, -0.1347092795, -0.2428965283, 0.0911969833],
    ]
    wanted = [
        [-0.3706165406, -0.4546676718, -0.4473367282],
        [0.3478491003, 0.3325773756, 0.5542321210, 0.5049605668],
        [0.4044571979, 0.4438495121, 0.5233863828, 0.6265147149, 0.7075241781],
    ]
    batch = batch_of(mask_BT.int().tolist(), [-0.4473367282, 0.5049605668, 0.7075241781])
    batch = replace(batch, values_BT=torch.tensor(values, dtype=torch.float64))
    _, returns_BT = compute(batch, Advantage(kind="gae", gamma=0.97, lam=0.9, whiten=True), Kl())
    assert returns_BT is not None
    assert returns_BT[mask_BT].tolist() == pytest.approx([r for row in wanted for r in row], abs=1e-6)
    assert returns_BT[~mask_BT].tolist() == [0.0] * 3


def test_without_values_and_with_lam_1_gae_is_the_return() -> None:
    rng = torch.Generator().manual_seed(1)
    mask_BT = torch.rand(4, 9, generator=rng) < 0.7
    kl_BT = torch.randn(4, 9, generator=rng, dtype=torch.float64)
    reward_B = torch.randn(4, generator=rng, dtype=torch.float64)
    plain_BT = gae(reward_B, kl_BT, torch.zeros(4, 9), mask_BT, 0.9, 1.0)
    torch.testing.assert_close(plain_BT, returns_to_go(reward_B, kl_BT, mask_BT, 0.9), rtol=1e-12, atol=1e-12)


def test_lam_by_length_and_a_critics_own_lam() -> None:
    # 40 tokens: 1 - 1 / (0.05 * 40) = 0.5; 20 tokens and fewer: 0. With V = 0.25 everywhere and reward 1 delta is 0.75
    # at the end and 0 before, so that A is 0.75 * lam^(tokens to come); with the critic's lam of 1 the returns are 1
    mask = [[1] * 40, [1] * 10 + [0] * 30]
    batch = batch_of(mask, [1.0, 1.0], values_BT=torch.full((2, 40), 0.25))
    adv_BT, returns_BT = compute(batch, Advantage(kind="gae", lam="length", critic_lam=1.0), Kl())
    assert adv_BT[0].tolist() == pytest.approx([0.75 * 0.5**n for n in reversed(range(40))])
    assert adv_BT[1, :10].tolist() == pytest.approx([0.0] * 9 + [0.75])
    assert returns_BT is not None
    assert returns_BT.dtype == torch.float32
    assert returns_BT.tolist() == [[1.0] * 40, [1.0] * 10 + [0.0] * 30]
    _, own_BT = compute(batch, Advantage(kind="gae", lam="length"), Kl())
    assert own_BT is not None
    assert own_BT[0, 37:].tolist() == pytest.approx([0.4375, 0.625, 1.0])  # A + V


def test_whitening_comes_after_the_critics_returns() -> None:
    rng = torch.Generator().manual_seed(2)
    batch = batch_of([[0, 1, 1, 1], [0, 1, 0, 1]], [1.0, 0.0], values_BT=torch.randn(2, 4, generator=rng))
    plain_BT, returns_BT = compute(batch, Advantage(kind="gae", lam=0.9), Kl())
    adv_BT, same_BT = compute(batch, Advantage(kind="gae", lam=0.9, whiten=True), Kl())
    torch.testing.assert_close(same_BT, returns_BT, rtol=0, atol=0)
    torch.testing.assert_close(adv_BT, whitened(plain_BT.double(), batch.mask_BT, EPS).float())


def test_a_critics_values_must_be_there_finite_and_of_the_batchs_shape() -> None:
    batch = batch_of([[0, 1, 1], [0, 1, 0]], [1.0, 0.0])
    kind = Advantage(kind="gae")
    with pytest.raises(ValueError, match=r"^batch\.values_BT must be set for advantage\.kind gae, got None$"):
        compute(batch, kind, Kl())
    with pytest.raises(ValueError, match=r"^batch\.values_BT must have the shape of mask_BT \(2, 3\), got \(2, 2\)$"):
        compute(replace(batch, values_BT=torch.zeros(2, 2)), kind, Kl())
    values_BT = torch.tensor([[math.nan, 0.5, 0.5], [0.5, math.inf, math.nan]])
    with pytest.raises(NonFiniteError, match=r"^batch\.values_BT must be finite .* got inf in row 1, column 1$"):
        compute(replace(batch, values_BT=values_BT), kind, Kl())


# --- whitening -------------------------------------------------------------------------------------------------------


def test_whitening_counts_tokens_not_rows() -> None:
    # one token of 1 and three of -1: mean -1/2, squares 9/4 + 3/4 = 3, over n - 1 = 3 a variance of 1
    mask_BT = torch.tensor([[0, 1, 0, 0], [0, 1, 1, 1]], dtype=torch.bool)
    adv_BT = torch.tensor([[7.0, 1, 7, 7], [7, -1, -1, -1]], dtype=torch.float64)
    scale = math.sqrt(1 + EPS**2)
    assert whitened(adv_BT, mask_BT, EPS).tolist() == [
        [0, pytest.approx(1.5 / scale), 0, 0],
        [0, *[pytest.approx(-0.5 / scale)] * 3],
    ]


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 6), st.integers(2, 6))
def test_whitened_advantages_have_mean_0_and_variance_1(seed: int, B: int, T: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    mask_BT = torch.rand(B, T, generator=rng) < 0.7
    mask_BT[0, :2] = True
    adv_N = whitened(torch.randn(B, T, generator=rng, dtype=torch.float64) * 3 + 5, mask_BT, 1e-9)[mask_BT]
    assert float(adv_N.mean()) == pytest.approx(0, abs=1e-12)
    assert float(adv_N.var()) == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize("value", [0.1, 1.0])
def test_whitening_what_is_equal_gives_exactly_zero(value: float) -> None:
    mask_BT = torch.ones(1, 7, dtype=torch.bool)
    equal_BT = torch.full((1, 7), value, dtype=torch.float64)
    assert whitened(equal_BT, mask_BT, EPS).tolist() == [[0.0] * 7]
    assert whitened(equal_BT[:, :1], mask_BT[:, :1], EPS).tolist() == [[0.0]]
    assert whitened(equal_BT, ~mask_BT, EPS).tolist() == [[0.0] * 7]


# --- tokens of high entropy ------------------------------------------------------------------------------------------


def test_only_the_tokens_of_highest_entropy_keep_their_advantage() -> None:
    # entropies 0.1 0.2 0.3 0.4 0.5: the 0.6 quantile is 0.34, the 0.5 quantile 0.3, which stays
    mask_BT = torch.tensor([[0, 1, 1, 1], [0, 1, 0, 1]], dtype=torch.bool)
    entropy_BT = torch.tensor([[9, 0.4, 0.1, 0.3], [9, 0.2, 9, 0.5]])
    assert high_entropy(entropy_BT, mask_BT, 0.4).tolist() == [[False, True, False, False], [False, False, False, True]]
    assert high_entropy(entropy_BT, mask_BT, 0.5).tolist() == [[False, True, False, True], [False, False, False, True]]
    batch = batch_of(mask_BT.int().tolist(), [1.0, 0.0], entropy_BT=entropy_BT)
    adv_BT, _ = compute(batch, Advantage(kind="group_no_std", top_entropy=0.4), Kl())
    assert adv_BT.tolist() == [[0, 0.5, 0, 0], [0, 0, 0, -0.5]]


def test_tokens_of_equal_entropy_stay_together() -> None:
    mask_BT = torch.ones(1, 5, dtype=torch.bool)
    # the 0.8 quantile lies between the last two, the 0.6 quantile among the equal ones
    entropy_BT = torch.tensor([[0.0, 0.0, 1.0, 0.0, 0.0]])
    assert high_entropy(entropy_BT, mask_BT, 0.2).tolist() == [[False, False, True, False, False]]
    assert high_entropy(entropy_BT, mask_BT, 0.4).tolist() == [[True] * 5]
    assert high_entropy(entropy_BT, ~mask_BT, 0.5).tolist() == [[False] * 5]


def test_a_share_that_is_a_whole_number_of_tokens_is_not_rounded_away() -> None:
    # the 0.3 quantile of 0 .. 10 is 3, though 1 - 0.7 is a little more than 0.3
    assert (1 - 0.7) * 10 > 3
    entropy_BT = torch.arange(11.0)[None]
    assert high_entropy(entropy_BT, torch.ones(1, 11, dtype=torch.bool), 0.7)[0].tolist() == [False] * 3 + [True] * 8


@settings(deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=40), st.integers(1, 20))
def test_the_threshold_is_the_quantile_over_all_trained_tokens(entropies: list[int], twentieths: int) -> None:
    entropy_BT = torch.tensor([entropies], dtype=torch.float64) / 8
    share = twentieths / 20
    got_BT = high_entropy(entropy_BT, torch.ones_like(entropy_BT, dtype=torch.bool), share)
    threshold = torch.quantile(entropy_BT[0], 1 - share)
    assert got_BT.tolist() == (entropy_BT >= threshold - 1e-9).tolist()


def test_entropies_must_be_there_and_finite() -> None:
    batch = batch_of([[0, 1, 1]], [1.0])
    kind = Advantage(kind="returns", top_entropy=0.5)
    with pytest.raises(ValueError, match=r"^batch\.entropy_BT must be set for advantage\.top_entropy < 1, got None$"):
        compute(batch, kind, Kl())
    with pytest.raises(NonFiniteError, match=r"^batch\.entropy_BT must be finite .* got nan in row 0, column 2$"):
        compute(replace(batch, entropy_BT=torch.tensor([[0.0, 1.0, math.nan]])), kind, Kl())


# --- what may not change anything ------------------------------------------------------------------------------------


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("kind", [*GROUP_KINDS, "greedy", "gdpo", "returns", "gae"])
def test_neither_padding_nor_the_order_of_rows_and_groups_changes_an_advantage(kind: Any, whiten: bool) -> None:
    rng = torch.Generator().manual_seed(3)
    B, T, group_B = 9, 7, torch.tensor([2, 0, 0, 2, 3, 0, 3, 2, 2])
    mask_BT = torch.rand(B, T, generator=rng) < 0.7
    reward_B = torch.randint(0, 5, (B,), generator=rng).double() / 4
    noise_BT = torch.randn(3, B, T, generator=rng, dtype=torch.float64)
    batch = replace(
        batch_of(mask_BT.int().tolist(), reward_B.tolist()),
        group_B=group_B,
        sampler_logp_BT=noise_BT[0],
        ref_logp_BT=noise_BT[1],
        values_BT=noise_BT[2],
        entropy_BT=noise_BT[0].abs(),
        greedy_B=torch.linspace(0, 1, 4, dtype=torch.float64)[group_B],
        part_BK=torch.stack([reward_B, torch.rand(B, generator=rng).double().where(reward_B > 0, torch.nan)], dim=1),
    )
    of_tokens = {"returns": {"gamma": 0.9}, "gae": {"gamma": 0.9, "lam": 0.8}}.get(kind, {})
    advantage = Advantage(kind=kind, whiten=whiten, top_entropy=0.6, **of_tokens)
    kl = Kl() if kind in ("gdpo", "max_likelihood") else Kl(coef=0.1, where="reward")
    wanted_BT, wanted_returns_BT = compute(batch, advantage, kl, weights=[1.0, 0.5])
    order_B = torch.randperm(B, generator=rng)
    columns = {name: value for name, value in batch.tensors().items() if name != "adv_BT"}
    for name, value in columns.items():
        if name.endswith("_BT"):
            columns[name] = torch.nn.functional.pad(value, (3, 2), value=0 if name == "mask_BT" else 7)
    columns["group_B"] = torch.tensor([1, 9, 4, 0])[group_B]  # other numbers for the same groups
    moved = replace(batch, **{name: value[order_B] for name, value in columns.items()})
    got_BT, returns_BT = compute(moved, advantage, kl, weights=[1.0, 0.5])
    torch.testing.assert_close(got_BT[:, 3:-2], wanted_BT[order_B], rtol=1e-6, atol=1e-6)
    assert not bool(got_BT[:, :3].any() | got_BT[:, -2:].any())
    if kind == "gae":
        assert returns_BT is not None and wanted_returns_BT is not None
        torch.testing.assert_close(returns_BT[:, 3:-2], wanted_returns_BT[order_B], rtol=1e-6, atol=1e-6)
