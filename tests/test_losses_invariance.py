"""What must not change the loss, under every setting: splits, padding, order, packing, and tokens without gradient."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_cases import (
    MAX_TOKENS,
    Case,
    assert_equal,
    cases,
    every_pair,
    gradients,
    make_case,
    settings_of_loss,
    step_loss,
)
from torch import Tensor

from rlvr.batching import Batch
from rlvr.loss_settings import Correction, CorrectionMask, Kl, Loss
from rlvr.losses import Tokens, carries_gradient, count, divisor, flatten, is_token_local, total_loss
from rlvr.packing import pack

Setting = tuple[Loss, Kl]


def with_counts(case: Case, loss: Loss) -> Case:
    return replace(case, batch=replace(case.batch, counts=count(case.batch, loss)))


def map_batch(batch: Batch, change: object) -> Batch:
    """With every [B, T] tensor changed."""
    assert callable(change)
    return replace(batch, **{n: change(x) for n, x in batch.tensors().items() if n.endswith("_BT")})


@settings(deadline=None, max_examples=150)
@given(cases(most_rows=5), settings_of_loss(), st.data())
def test_no_split_into_micro_batches_changes_value_or_gradient(
    case: Case, setting: Setting, data: st.DataObject
) -> None:
    case = with_counts(case, setting[0])
    B = len(case.logp_BT)
    owner_B = torch.tensor(data.draw(st.lists(st.integers(0, 2), min_size=B, max_size=B)))

    def in_parts(at: Case) -> Tensor:
        parts = [at.rows((owner_B == k).nonzero()[:, 0]) for k in set(owner_B.tolist())]
        return sum((step_loss(part, *setting) for part in parts if part.batch.num_tokens), torch.zeros(()))

    assert_equal(gradients(case, in_parts), gradients(case, lambda at: step_loss(at, *setting)), 1e-12, setting)


@settings(deadline=None, max_examples=100)
@given(cases(most_rows=5), settings_of_loss(), st.data())
def test_no_split_over_ranks_and_micro_batches_changes_the_gradient_of_shared_weights(
    case: Case, setting: Setting, data: st.DataObject
) -> None:
    case = with_counts(case, setting[0])
    B, ranks = len(case.logp_BT), data.draw(st.integers(1, 3))
    feature_BTD = torch.randn(*case.logp_BT.shape, 4, generator=torch.Generator().manual_seed(B), dtype=torch.float64)
    owner_B = data.draw(st.lists(st.tuples(st.integers(0, ranks - 1), st.integers(0, 1)), min_size=B, max_size=B))

    def gradient(index: Tensor, scale: float) -> Tensor:
        weight_D = torch.full((4,), 0.1, dtype=torch.float64, requires_grad=True)
        moved_BT = feature_BTD[index] @ weight_D
        part = case.rows(index)
        moved_BT = moved_BT[:, : part.logp_BT.shape[1]]
        part = replace(part, logp_BT=part.logp_BT + moved_BT, entropy_BT=part.entropy_BT + 0.3 * moved_BT)
        if not part.batch.num_tokens:
            return torch.zeros_like(weight_D)
        (found_D,) = torch.autograd.grad(step_loss(part, *setting) * scale + 0 * weight_D.sum(), weight_D)
        return found_D

    whole_D = gradient(torch.arange(B), 1.0)
    by_rank_D = []
    for rank in range(ranks):  # each adds up its micro-batches, and then the gradients are averaged, as DDP does
        parts = [torch.tensor([b for b in range(B) if owner_B[b] == (rank, k)], dtype=torch.int64) for k in range(2)]
        by_rank_D.append(sum((gradient(part, float(ranks)) for part in parts if len(part)), torch.zeros(4)))
    scale = max(
        1.0, float(whole_D.abs().max()), float(gradients(case, lambda at: step_loss(at, *setting))[1].abs().max())
    )
    torch.testing.assert_close(sum(by_rank_D) / ranks, whole_D, rtol=1e-12, atol=1e-12 * scale, check_dtype=False)


@settings(deadline=None, max_examples=100)
@given(cases(), settings_of_loss(), st.integers(0, 4), st.sampled_from([0.0, 9.0, -700.0, torch.nan, torch.inf]))
def test_columns_and_rows_that_are_not_trained_change_nothing_whatever_stands_in_them(
    case: Case, setting: Setting, before: int, junk: float
) -> None:
    B, T = case.logp_BT.shape

    def wider(value_BT: Tensor) -> Tensor:
        """Junk columns on both sides, where the mask is False, and in a further row."""
        if value_BT.dtype == torch.bool:
            return torch.nn.functional.pad(value_BT, (before, 2, 0, 1), value=False)
        if value_BT.dtype == torch.int64:
            return torch.nn.functional.pad(value_BT, (before, 2, 0, 1))
        inside_BT = torch.where(case.batch.mask_BT, value_BT, junk)
        return torch.nn.functional.pad(inside_BT, (before, 2, 0, 1), value=junk)

    batch = map_batch(case.batch, wider)
    group_B = torch.cat([batch.group_B, batch.group_B.max() + 1 + torch.tensor([0])])
    reward_B = torch.cat([batch.reward_B, torch.tensor([0.0], dtype=torch.float64)])
    batch = replace(batch, group_B=group_B, reward_B=reward_B, length_B=torch.full((B + 1,), before + T + 2))
    padded = Case(wider(case.logp_BT), wider(case.entropy_BT), batch)
    value, to_logp, to_entropy = gradients(padded, lambda at: step_loss(at, *setting))
    inside = (slice(0, B), slice(before, before + T))
    found = (value, to_logp[inside], to_entropy[inside])
    assert_equal(found, gradients(case, lambda at: step_loss(at, *setting)), 1e-13, setting)
    for gradient_BT in (to_logp, to_entropy):
        assert not gradient_BT[~batch.mask_BT].any()


@settings(deadline=None, max_examples=100)
@given(cases(most_rows=5), settings_of_loss(), st.randoms(use_true_random=False))
def test_the_order_of_rows_and_the_numbers_of_groups_change_nothing(case: Case, setting: Setting, rng: object) -> None:
    order, numbers = list(range(len(case.logp_BT))), list(range(6))
    rng.shuffle(order)  # type: ignore[attr-defined]
    rng.shuffle(numbers)  # type: ignore[attr-defined]
    moved = Case(
        case.logp_BT[order],
        case.entropy_BT[order],
        replace(case.batch, **{name: value[order] for name, value in case.batch.tensors().items()}),
    )
    moved = replace(moved, batch=replace(moved.batch, group_B=torch.tensor(numbers)[moved.batch.group_B]))
    value, to_logp, to_entropy = gradients(case, lambda at: step_loss(at, *setting))
    found = gradients(moved, lambda at: step_loss(at, *setting))
    assert_equal(found, (value, to_logp[order], to_entropy[order]), 1e-12, setting)


@settings(deadline=None, max_examples=50)
@given(cases(most_rows=5), settings_of_loss())
def test_packed_rows_have_the_loss_of_padded_ones(case: Case, setting: Setting) -> None:
    place_BT = pack(case.batch.ids_BT, case.batch.length_B).place_BT
    real_BT = torch.arange(place_BT.shape[1]) < case.batch.length_B[:, None]
    packed = torch.full((int(place_BT.max()) + 1,), -3.0, dtype=torch.float64)
    packed_logp, packed_entropy = packed.clone(), packed.clone()
    packed_logp[place_BT[real_BT]] = case.logp_BT[real_BT]
    packed_entropy[place_BT[real_BT]] = case.entropy_BT[real_BT]

    def unpacked(at: Case) -> Tensor:
        return step_loss(Case(at.logp_BT[place_BT], at.entropy_BT[place_BT], case.batch), *setting)

    value, to_logp, to_entropy = gradients(Case(packed_logp, packed_entropy, case.batch), unpacked)
    found = value, *(torch.where(real_BT, gradient[place_BT], 0.0) for gradient in (to_logp, to_entropy))
    assert_equal(found, gradients(case, lambda at: step_loss(at, *setting)), 1e-13, setting)


# --- tokens one after the other --------------------------------------------------------------------------------------


def flat(case: Case, loss: Loss, kl: Kl) -> tuple[Tensor, Tensor, Tokens]:
    mask_BT = case.batch.mask_BT
    return case.logp_BT[mask_BT], case.entropy_BT[mask_BT], flatten(case.batch, loss, kl)


def gradient_N(logp_N: Tensor, entropy_N: Tensor, tokens: Tokens, setting: Setting) -> tuple[float, Tensor, Tensor]:
    logp_N, entropy_N = logp_N.clone().requires_grad_(True), entropy_N.clone().requires_grad_(True)
    value, _ = total_loss(logp_N, entropy_N, tokens, *setting)
    if not value.requires_grad:
        return float(value), torch.zeros_like(logp_N), torch.zeros_like(entropy_N)
    to_logp, to_entropy = torch.autograd.grad(value, (logp_N, entropy_N), allow_unused=True, materialize_grads=True)
    return float(value.detach()), to_logp, to_entropy


@settings(deadline=None, max_examples=300)
@given(cases(), settings_of_loss(), st.sampled_from([0.1, 3.0, 40.0]))
def test_tokens_that_carry_no_gradient_have_no_loss_whatever_their_log_probability_is(
    case: Case, setting: Setting, by: float
) -> None:
    case = with_counts(case, setting[0])
    logp_N, entropy_N, tokens = flat(case, *setting)
    carries_N = carries_gradient(tokens, *setting)
    moved_N = torch.where(carries_N, logp_N, logp_N - by)
    whole, after = (gradient_N(x, entropy_N, tokens, setting) for x in (logp_N, moved_N))
    assert after[0] == whole[0]
    for now_N, before_N in zip(after[1:], whole[1:], strict=True):
        assert not now_N[~carries_N].any() and not before_N[~carries_N].any()
        assert now_N.equal(before_N)
    alone = gradient_N(moved_N[~carries_N], entropy_N[~carries_N], tokens.pick(~carries_N), setting)
    assert alone[0] == 0 and not alone[1].any() and not alone[2].any()
    # and so leaving them out changes nothing
    kept = gradient_N(logp_N[carries_N], entropy_N[carries_N], tokens.pick(carries_N), setting)
    if carries_N.any():
        assert_equal(kept, (whole[0], whole[1][carries_N], whole[2][carries_N]), 1e-13, setting)


def test_tokens_without_advantage_carry_no_gradient_unless_a_term_needs_them() -> None:
    # three rows: a token without advantage; none at all with a positive reward; sampler far off in one token
    batch = Batch.of(
        torch.zeros(3, 2, dtype=torch.int64),
        torch.ones(3, 2),
        adv=torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]], dtype=torch.float64),
        old_logp_BT=torch.full((3, 2), -1.0, dtype=torch.float64),
        ref_logp_BT=torch.full((3, 2), -1.0, dtype=torch.float64),
        sampler_logp_BT=torch.tensor([[-1.0, -1.0], [-1.0, -1.0], [-3.0, -1.0]], dtype=torch.float64),
        reward_B=torch.tensor([0.0, 1.0, 0.0]),
    )

    def carried(loss: Loss, kl: Kl | None = None, given: Batch = batch) -> list[int]:
        return carries_gradient(flatten(given, loss, kl or Kl()), loss, kl or Kl()).int().tolist()

    masked = Correction(mask=CorrectionMask(level="token"))
    assert carried(Loss()) == [1, 0, 0, 0, 1, 1]
    assert carried(Loss(ratio="sequence")) == [1, 1, 0, 0, 1, 1]
    assert carried(Loss(surrogate="gmpo")) == [1, 1, 0, 0, 1, 1]
    assert carried(Loss(opsm=0.1)) == [1, 1, 0, 0, 1, 1]
    assert carried(Loss(correction=masked)) == [1, 0, 0, 0, 0, 1]
    assert carried(Loss(correction=masked, ratio="sequence")) == [1, 1, 0, 0, 1, 1]
    assert carried(Loss(correction=masked), given=replace(batch, old_logp_BT=None)) == [1, 0, 0, 0, 1, 1]
    assert carried(Loss(positive_nll=0.1)) == [1, 0, 1, 1, 1, 1]
    assert carried(Loss(entropy_coef=0.1)) == [1] * 6
    assert carried(Loss(), Kl(coef=0.1)) == [1] * 6
    assert carried(Loss(), Kl(coef=0.1, where="reward")) == [1, 0, 0, 0, 1, 1]


@pytest.mark.parametrize("seed", [10, 11])
def test_a_token_local_loss_has_gradients_that_no_other_token_of_the_row_changes(seed: int) -> None:
    local = coupled = 0
    for number, setting in enumerate(every_pair(seed)):
        case = with_counts(make_case(500 * seed + number, 3, 5, 0.3, has_old=number % 2 > 0), setting[0])
        logp_N, entropy_N, tokens = flat(case, *setting)
        before_N = gradient_N(logp_N, entropy_N, tokens, setting)[1]
        changed = False
        for n in range(len(logp_N)):
            moved_N = logp_N.clone()
            moved_N[n] -= 0.7
            after_N = gradient_N(moved_N, entropy_N, tokens, setting)[1]
            others_N = torch.arange(len(logp_N)) != n
            changed |= not after_N[others_N].equal(before_N[others_N])
        if is_token_local(setting[0], tokens):
            assert not changed, setting
            local += 1
        else:
            coupled += changed
    assert local > 20 and coupled > 50


@pytest.mark.parametrize(
    ("loss", "with_old", "without_old"),
    [
        (Loss(), True, True),
        (Loss(surrogate="cispo"), True, True),
        (Loss(surrogate="dppo"), True, True),
        (Loss(ratio="sequence"), False, False),
        (Loss(ratio="sequence_token"), False, False),
        (Loss(surrogate="gmpo"), False, False),
        (Loss(surrogate="vespo"), False, False),
        (Loss(opsm=0.1), False, False),
        (Loss(correction=Correction(weight="token")), True, True),
        (Loss(correction=Correction(weight="sequence")), True, False),
        (Loss(correction=Correction(mask=CorrectionMask(level="geometric"))), True, False),
        (Loss(correction=Correction(weight=None, mask=CorrectionMask(level="token"))), True, True),
    ],
)
def test_which_losses_are_token_local(loss: Loss, with_old: bool, without_old: bool) -> None:
    for has_old, expected in ((True, with_old), (False, without_old)):
        tokens = flat(make_case(3, 2, 4, 0.3, has_old), loss, Kl())[2]
        assert is_token_local(loss, tokens) is expected


@settings(deadline=None, max_examples=100)
@given(cases(), settings_of_loss(), st.randoms(use_true_random=False))
def test_tokens_may_come_in_any_order(case: Case, setting: Setting, rng: object) -> None:
    case = with_counts(case, setting[0])
    logp_N, entropy_N, tokens = flat(case, *setting)
    order = list(range(len(logp_N)))
    rng.shuffle(order)  # type: ignore[attr-defined]
    index = torch.tensor(order)
    whole = gradient_N(logp_N, entropy_N, tokens, setting)
    found = gradient_N(logp_N[index], entropy_N[index], tokens.pick(index), setting)
    assert_equal(found, (whole[0], whole[1][index], whole[2][index]), 1e-12, setting)


def test_a_row_without_trained_tokens_is_not_counted() -> None:
    case = make_case(3, 3, 5, 0.5)
    empty_BT = case.batch.mask_BT.clone()
    empty_BT[1] = False
    both = replace(case.batch, mask_BT=empty_BT)
    alone = both.rows(torch.tensor([0, 2]))
    for aggregate in ("token", "sequence", "sequence_sum", "constant", "prompt"):
        loss = Loss(aggregate=aggregate)
        assert divisor(count(both, loss), loss, MAX_TOKENS) == divisor(count(alone, loss), loss, MAX_TOKENS)
