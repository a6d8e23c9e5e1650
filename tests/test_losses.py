"""The loss by hand: each surrogate, ratio, divergence, correction and aggregate in figures that a reader can check.

Every setting against an oracle: test_losses_settings.py; what must change nothing: test_losses_invariance.py.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from loss_cases import MAX_TOKENS
from torch import Tensor

from rlvr.batching import Batch, Counts
from rlvr.loss_settings import Clip, Correction, CorrectionMask, Dppo, Kl, Loss, Sapo, Vespo
from rlvr.losses import correction_weights, count, divisor, policy_loss
from rlvr.surrogates import MAX_LOG_RATIO, kl_estimate

Rows = list[list[float]]


def make(mask: list[list[int]], **columns: Any) -> Batch:
    mask_BT = torch.tensor(mask, dtype=torch.bool)
    B, T = mask_BT.shape
    given: dict[str, Any] = {name: torch.tensor(value, dtype=torch.float64) for name, value in columns.items()}
    given.setdefault("sampler_logp_BT", torch.zeros(B, T, dtype=torch.float64))
    given.setdefault("reward_B", torch.zeros(B, dtype=torch.float64))
    given["group_B"] = given["group_B"].long() if "group_B" in given else torch.zeros(B, dtype=torch.int64)
    return Batch(ids_BT=torch.zeros(B, T, dtype=torch.int64), mask_BT=mask_BT, length_B=torch.full((B,), T), **given)


def by(batch: Batch, loss: Loss) -> float:
    return divisor(count(batch, loss), loss, MAX_TOKENS)


def run(logp: Rows, batch: Batch, loss: Loss, kl: Kl | None = None, entropy: Rows | None = None) -> tuple[float, Rows]:
    """The sum and its gradient to the log-probabilities."""
    logp_BT = torch.tensor(logp, dtype=torch.float64, requires_grad=True)
    entropy_BT = None if entropy is None else torch.tensor(entropy, dtype=torch.float64)
    value = policy_loss(logp_BT, batch, loss, kl or Kl(), entropy_BT=entropy_BT).loss
    (gradient_BT,) = torch.autograd.grad(value, logp_BT)
    return float(value.detach()), gradient_BT.tolist()


def metrics_of(logp: Rows, batch: Batch, loss: Loss, kl: Kl | None = None) -> dict[str, float]:
    return policy_loss(torch.tensor(logp, dtype=torch.float64), batch, loss, kl or Kl()).metrics


def close(expected: Any) -> Any:
    return pytest.approx(expected, rel=1e-12, abs=1e-14)


LN2, LN3 = math.log(2), math.log(3)


@pytest.mark.parametrize(
    ("settings", "log_ratio", "adv", "value", "gradient"),
    [
        # ratios 1.5 and 0.5: min(3, 2.6), min(-3, -2.6), min(1, 1.6), min(-1, -1.6)
        (
            {"clip": Clip(low=0.2, high=0.3)},
            [math.log(1.5), math.log(1.5), -LN2, -LN2],
            [2.0, -2.0, 2.0, -2.0],
            -(2.6 - 3 + 1 - 1.6),
            [0, 3, -1, 0],
        ),
        # ratio 4 with A = -2 costs no more than 3 * 2; ratio 2 is below the bound; a good token is clipped as ever
        ({"clip": Clip(dual=3.0)}, [2 * LN2, LN2, 2 * LN2], [-2.0, -2.0, 1.0], 6 + 4 - 1.2, [0, 4, 0]),
        # no lower bound
        ({"clip": Clip(low=1.0)}, [-3 * LN2], [-1.0], 0.125, [0.125]),
        # weights 1.3, 0.8 and 1, each times -A log p with log p = -1: 1.3 - 1.6 + 3
        (
            {"surrogate": "cispo", "clip": Clip(low=0.2, high=0.3)},
            [LN2, -LN2, 0.0],
            [1.0, -2.0, 3.0],
            2.7,
            [-1.3, 1.6, -3],
        ),
        # log ratios 0.6 -> 0.4 and -0.2: two tokens of exp(0.1), of which only the second moves
        (
            {"surrogate": "gmpo", "clip": Clip(low=0.4, high=0.4)},
            [0.6, -0.2],
            [1.0, 1.0],
            -2.2103418361512952,
            [0, -1.1051709180756476],
        ),
        # and where A < 0 the upper bound does not hold: two tokens of exp(0.2)
        (
            {"surrogate": "gmpo", "clip": Clip(low=0.4, high=0.4)},
            [0.6, -0.2],
            [-1.0, -1.0],
            2.4428055163203397,
            [1.2214027581601699, 1.2214027581601699],
        ),
        # sigmoid(1) = 0.7310585786300049, its slope 0.19661193324148185; then 4 / 2 sigmoid(2 * -0.5) = 2 * 0.2689414
        (
            {"surrogate": "sapo", "sapo": Sapo(tau_pos=1.0, tau_neg=2.0)},
            [LN2, 0.0, -LN2],
            [1.0, 1.0, -1.0],
            -4 * 0.7310585786300049 - 2 + 2 * 0.2689414213699951,
            [-4 * 0.19661193324148185 * 2, -1, 4 * 0.19661193324148185 * 0.5],
        ),
        # w = 4 * 0.5 = 2, log p = -1: phi = e^3 2^2 e^-6 = 4 e^-3, both tokens
        (
            {"surrogate": "vespo"},
            [2 * LN2, -LN2],
            [1.0, 1.0],
            2 * 0.19914827347145577,
            [-0.19914827347145577, -0.19914827347145577],
        ),
        # k = 1, lambda = 1.05 where A < 0: phi = e^1.05 2 e^-2.1 = 2 e^-1.05
        (
            {"surrogate": "vespo", "vespo": Vespo(k_neg=1.0, lambda_neg=1.05)},
            [2 * LN2, -LN2],
            [-1.0, -1.0],
            -2 * 0.6998754982223105,
            [0.6998754982223105, 0.6998754982223105],
        ),
        # log w is held within log 1e-8 (phi = w^0.5 = 1e-4) and 20 (phi = e^10)
        ({"surrogate": "vespo", "vespo": Vespo(k_pos=0.5, lambda_pos=0.0)}, [-30.0], [1.0], 1e-4, [-1e-4]),
        (
            {"surrogate": "vespo", "vespo": Vespo(k_pos=0.5, lambda_pos=0.0)},
            [15.0, 15.0],
            [1.0, 1.0],
            2 * 22026.465794806718,
            [-22026.465794806718, -22026.465794806718],
        ),
        ({"surrogate": "reinforce"}, [LN2, -LN3], [1.5, -0.5], 1.5 - 0.5, [-1.5, 0.5]),
    ],
)
def test_surrogates_by_hand(
    settings: dict[str, Any], log_ratio: list[float], adv: list[float], value: float, gradient: list[float]
) -> None:
    size = len(adv)
    batch = make([[1] * size], adv_BT=[adv], old_logp_BT=[[-1 - x for x in log_ratio]])
    found, gradient_BT = run([[-1.0] * size], batch, Loss(**settings, aggregate="token"))
    assert found == close(value)
    assert gradient_BT == [close(gradient)]


@pytest.mark.parametrize(
    ("any_sign", "value", "gradient"), [(False, 2 - 0.6, [0, 2, 0, -0.6]), (True, 0, [0, 0, 0, 0])]
)
def test_dppo_drops_tokens_whose_probability_has_moved_too_far(any_sign: bool, value: float, gradient: Any) -> None:
    # p from 0.25 to 0.5 (ratio 2) and from 0.5 to 0.3 (ratio 0.6), each with either sign
    new, old = [0.5, 0.5, 0.3, 0.3], [0.25, 0.25, 0.5, 0.5]
    batch = make([[1] * 4], adv_BT=[[1.0, -1.0, -1.0, 1.0]], old_logp_BT=[[math.log(p) for p in old]])
    loss = Loss(surrogate="dppo", aggregate="token", dppo=Dppo(high=0.2, low=0.1, any_sign=any_sign))
    logp = [[math.log(p) for p in new]]
    found, gradient_BT = run(logp, batch, loss)
    assert found == close(value)
    assert gradient_BT == [close(gradient)]
    metrics = metrics_of(logp, batch, loss)
    assert (metrics["clip_ratio/high_mean"], metrics["clip_ratio/low_mean"]) == ((2, 2) if any_sign else (1, 1))


def test_a_sequences_ratio_is_the_geometric_mean_of_its_tokens_and_clips_all_of_them_together() -> None:
    # token ratios 2 and 0.5 | 3 and 3, so s = 1 and 3, clip 0.2; the third token of row 0 is a tool's
    log_ratio = [[LN2, -LN2, math.log(9.0)], [LN3, LN3, 0.0]]
    batch = make([[1, 1, 0], [1, 1, 0]], adv_BT=[[1.5, 1.5, 0], [1.0, 1.0, 0]], old_logp_BT=[[0.0] * 3] * 2)
    loss = Loss(ratio="sequence", aggregate="sequence", clip=Clip(low=0.2, high=0.2))
    value, gradient_BT = run(log_ratio, batch, loss)
    assert value == pytest.approx(-(1.5 + 1.2), rel=1e-14)
    # d(-s A)/dlogp_t = -s A / |o|, https://arxiv.org/abs/2507.18071 eq. 10
    assert gradient_BT == [[pytest.approx(-0.75), pytest.approx(-0.75), 0], [0, 0, 0]]
    assert metrics_of(log_ratio, batch, loss)["clip_ratio/high_mean"] == 2  # tokens: by token 3 would be


def test_gspo_token_gives_each_token_its_own_advantage_where_gspo_spreads_their_sum() -> None:
    batch = make([[1, 1]], adv_BT=[[1.0, 3.0]], old_logp_BT=[[-LN2 - 1, LN2 - 1]])  # s = 1
    logp: Rows = [[-1.0, -1.0]]
    assert run(logp, batch, Loss(ratio="sequence_token", aggregate="token")) == (close(-4), [close([-1, -3])])
    assert run(logp, batch, Loss(ratio="sequence", aggregate="token")) == (close(-4), [close([-2, -2])])


def test_clipping_is_counted_by_its_side() -> None:
    log_ratio = [[math.log(1.5), math.log(1.5), -LN2, -LN2]]
    batch = make([[1, 1, 1, 1]], adv_BT=[[2.0, -2.0, 2.0, -2.0]], old_logp_BT=[[0.0] * 4])
    assert metrics_of(log_ratio, batch, Loss(clip=Clip(low=0.2, high=0.3))) == {
        "clip_ratio/low_mean": 1,
        "clip_ratio/high_mean": 1,
        "clip_ratio/region_mean": 2,
        "ratio/overflow": 0,
    }


def test_clip_metrics_count_only_trained_tokens() -> None:
    batch = make([[0, 1, 0]], adv_BT=[[1.0, 1.0, 1.0]], old_logp_BT=[[-5.0, -5.0, -5.0]])
    assert metrics_of([[0.0, 0.0, 0.0]], batch, Loss())["clip_ratio/high_mean"] == 1


def test_without_an_old_policy_the_gradient_is_that_of_reinforce() -> None:
    batch = make([[0, 1, 1]], adv_BT=[[0.0, 1.5, -0.5]])
    value, gradient_BT = run([[0.0, -2.0, -3.0]], batch, Loss(aggregate="token"))
    assert value == -1.0
    assert gradient_BT == [[0, -1.5, 0.5]]


def test_with_the_sampler_as_anchor_the_old_policy_is_not_read() -> None:
    batch = make([[1]], adv_BT=[[1.0]], old_logp_BT=[[-9.0]], sampler_logp_BT=[[-1.1]])
    assert run([[-1.0]], batch, Loss(anchor="sampler")) == (close(-math.exp(0.1)), [[close(-math.exp(0.1))]])


@pytest.mark.parametrize(
    ("aggregate", "mean"),
    [
        ("token", -(1 - 3 + 2 * 2) / 6),
        ("sequence", -(1 - 1 + 2) / 3),
        ("sequence_sum", -(1 - 3 + 4) / 3),
        ("constant", -(1 - 3 + 4) / (3 * MAX_TOKENS)),
        ("prompt", -((1 - 3) / 4 + 2) / 2),
    ],
)
def test_aggregates_by_hand(aggregate: Any, mean: float) -> None:
    # one prompt with answers of 1 and 3 tokens, another with one of 2, and a row that is masked; on policy
    mask = [[0, 1, 0, 0], [0, 1, 1, 1], [0, 1, 1, 0], [0, 0, 0, 0]]
    adv = [[x * m for m in row] for x, row in zip([1.0, -1.0, 2.0, 5.0], mask, strict=True)]
    batch = make(mask, adv_BT=adv, group_B=[0, 0, 1, 2])
    loss = Loss(aggregate=aggregate)
    assert run([[-1.0] * 4] * 4, batch, loss)[0] / by(batch, loss) == close(mean)


def test_the_divisor_counts_what_the_aggregate_averages_over() -> None:
    counts = Counts(tokens=12, sequences=5, prompts=2, tokens_P=torch.tensor([8, 4]))
    found = {
        x: divisor(counts, Loss(aggregate=x), 64) for x in ("token", "sequence", "sequence_sum", "constant", "prompt")
    }
    assert found == {"token": 12, "sequence": 5, "sequence_sum": 5, "constant": 320, "prompt": 2}


def test_counts_are_of_trained_tokens_and_of_rows_and_prompts_that_have_some() -> None:
    batch = make([[0, 1, 1], [0, 0, 0], [0, 1, 0], [0, 0, 0]], group_B=[0, 0, 2, 3], reward_B=[1.0, 1.0, 0.5, 1.0])
    found = count(batch, Loss(positive_nll=0.1, positive_above=0.5, aggregate="token"))
    assert (found.tokens, found.sequences, found.prompts, found.positive_tokens) == (3, 2, 2, 2)
    assert found.tokens_P.tolist() == [2, 0, 1, 0]
    assert count(batch, Loss()).positive_tokens == 0


def test_sums_say_how_many_tokens_and_sequences_they_are_of() -> None:
    batch = make([[0, 1, 1], [0, 0, 0], [0, 1, 0]], adv_BT=[[0, 1, 1], [0] * 3, [0, 1, 0]])
    logp_BT = torch.tensor([[7.0, -1.0, -2.0], [7.0] * 3, [7.0, -3.0, 7.0]], dtype=torch.float64)
    sums = policy_loss(logp_BT, batch, Loss())
    assert (sums.tokens, sums.sequences, sums.scored) == (3, 2, 3)
    assert sums.logp_BT is not None and sums.scored_BT is not None
    assert sums.logp_BT.tolist() == [[0, -1, -2], [0, 0, 0], [0, -3, 0]]
    assert sums.scored_BT.equal(batch.mask_BT)


# --- what multiplies and what is added -------------------------------------------------------------------------------


def test_kl_estimates_by_hand() -> None:
    logp, ref = torch.tensor([-1.0], dtype=torch.float64), torch.tensor([-1.5], dtype=torch.float64)
    assert kl_estimate(logp, ref, "k1").item() == 0.5
    assert kl_estimate(logp, ref, "k2").item() == 0.125
    assert kl_estimate(logp, ref, "abs").item() == 0.5
    assert kl_estimate(ref, logp, "abs").item() == 0.5
    for kind in ("k3", "k3+"):
        assert kl_estimate(logp, ref, kind).item() == pytest.approx(0.1065306597126334, rel=1e-14)  # e^-0.5 - 0.5
    assert [kl_estimate(logp, logp, kind).item() for kind in ("k1", "k2", "k3", "k3+", "abs")] == [0] * 5


@pytest.mark.parametrize(
    ("kl", "value", "gradient"),
    [
        # x = ref - logp = ln 2, r = 2
        ({"kind": "k2"}, LN2**2 / 2, -LN2),
        ({"kind": None}, LN2**2 / 2, -LN2),
        ({"kind": "k3"}, 1 - LN2, -1),
        ({"kind": "k3+"}, 1 - LN2, -LN2),
        ({"kind": "abs"}, LN2, -1),
        # the ratio's own gradient: d(r k)/dl = r (k + k')
        ({"kind": "k1", "weighted": True}, -2 * LN2, 2 * (-LN2 + 1)),
        ({"kind": None, "weighted": True}, -2 * LN2, 2 * (-LN2 + 1)),
        ({"kind": "k3", "weighted": True}, 2 * (1 - LN2), 2 * -LN2),
    ],
)
def test_kl_terms_of_the_loss_by_hand(kl: dict[str, Any], value: float, gradient: float) -> None:
    batch = make([[1]], adv_BT=[[0.0]], old_logp_BT=[[-1 - LN2]], ref_logp_BT=[[-1 + LN2]])
    settings = Kl(coef=0.5, **kl)
    assert run([[-1.0]], batch, Loss(), settings) == (close(0.5 * value), [[close(0.5 * gradient)]])
    assert metrics_of([[-1.0]], batch, Loss(), settings)["kl"] == close(value / 2 if settings.weighted else value)


def test_a_divergence_in_the_reward_is_no_term_of_the_loss() -> None:
    batch = make([[1]], adv_BT=[[1.0]])
    assert run([[-1.0]], batch, Loss(), Kl(coef=0.5, where="reward")) == (-1.0, [[-1.0]])


def test_k1_and_k3_have_the_true_divergence_as_their_mean_and_only_k2_and_k3_plus_its_gradient() -> None:
    # over a small vocabulary the expectation is a sum
    torch.manual_seed(0)
    logits = torch.randn(5, dtype=torch.float64).requires_grad_(True)
    ref = torch.log_softmax(torch.randn(5, dtype=torch.float64), dim=0)
    logp = torch.log_softmax(logits, dim=0)
    p = logp.exp().detach()
    exact = (logp.exp() * (logp - ref)).sum()
    (true_gradient,) = torch.autograd.grad(exact, logits, retain_graph=True)
    means = {kind: (p * kl_estimate(logp, ref, kind)).sum() for kind in ("k1", "k2", "k3", "k3+")}
    for kind in ("k1", "k3", "k3+"):
        assert means[kind].item() == pytest.approx(exact.item(), rel=1e-12)
    gradients = {kind: torch.autograd.grad(mean, logits, retain_graph=True)[0] for kind, mean in means.items()}
    torch.testing.assert_close(gradients["k2"], true_gradient, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(gradients["k3+"], true_gradient, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(gradients["k1"], torch.zeros(5, dtype=torch.float64), rtol=0, atol=1e-14)
    reverse = (ref.exp() * (ref - logp)).sum()
    torch.testing.assert_close(gradients["k3"], torch.autograd.grad(reverse, logits)[0], rtol=1e-12, atol=1e-14)


def test_the_weighted_estimates_have_the_gradient_of_the_divergence_on_samples_of_an_old_policy() -> None:
    torch.manual_seed(1)
    logits = torch.randn(5, dtype=torch.float64).requires_grad_(True)
    old, ref = (torch.log_softmax(torch.randn(5, dtype=torch.float64), dim=0) for _ in range(2))
    logp = torch.log_softmax(logits, dim=0)
    exact = (logp.exp() * (logp - ref)).sum()
    (true_gradient,) = torch.autograd.grad(exact, logits, retain_graph=True)
    # one row per token of the vocabulary; the sum over them weighted by the old policy is the expectation
    batch = make(
        [[1]] * 5,
        adv_BT=[[0.0]] * 5,
        old_logp_BT=old[:, None].tolist(),
        ref_logp_BT=ref[:, None].tolist(),
    )
    for kind in ("k1", "k3"):
        terms = [
            old[v].exp()
            * policy_loss(
                logp[v, None, None], batch.rows(torch.tensor([v])), Loss(), Kl(coef=1.0, kind=kind, weighted=True)
            ).loss
            for v in range(5)
        ]
        (gradient,) = torch.autograd.grad(sum(terms, torch.zeros(())), logits, retain_graph=True)
        torch.testing.assert_close(gradient, true_gradient, rtol=1e-11, atol=1e-13)


def test_entropy_is_raised_by_its_weight_and_logged_where_it_has_none() -> None:
    batch = make([[0, 1, 1]], adv_BT=[[0.0] * 3])
    logp, entropy = [[0.0, -1.0, -1.0]], [[9.0, 2.0, 0.5]]
    assert run(logp, batch, Loss(aggregate="token", entropy_coef=0.1), entropy=entropy)[0] == close(-0.25)
    entropy_BT = torch.tensor(entropy, dtype=torch.float64, requires_grad=True)
    sums = policy_loss(torch.tensor(logp), batch, Loss(aggregate="sequence", entropy_coef=0.1), entropy_BT=entropy_BT)
    (gradient_BT,) = torch.autograd.grad(sums.loss, entropy_BT)
    assert gradient_BT.tolist() == [close([0, -0.05, -0.05])]
    plain = policy_loss(torch.tensor(logp), batch, Loss(), entropy_BT=entropy_BT)
    assert not plain.loss.requires_grad and float(plain.loss) == 0
    assert plain.metrics["entropy"] == 2.5


@pytest.mark.parametrize("aggregate", ["token", "sequence", "sequence_sum", "prompt"])
def test_positive_nll_is_a_mean_over_the_tokens_of_positive_rows_whatever_the_aggregate(aggregate: Any) -> None:
    batch = make([[0, 1, 1], [0, 1, 1], [0, 1, 0]], adv_BT=[[0.0] * 3] * 3, reward_B=[1.0, 0.5, 0.7], group_B=[0, 0, 1])
    loss = Loss(aggregate=aggregate, positive_nll=0.3)
    logp: Rows = [[0, -1, -2], [0, -5, -5], [0, -6, 0]]
    value, gradient_BT = run(logp, batch, loss)
    assert value / by(batch, loss) == close(0.3 * (1 + 2 + 6) / 3)
    each = -0.3 / 3 * by(batch, loss)
    assert gradient_BT == [close([0, each, each]), [0, 0, 0], close([0, each, 0])]
    assert metrics_of(logp, batch, loss)["positive_nll"] == 9


def test_opsm_drops_bad_completions_that_the_policy_has_left_and_keeps_good_ones_and_the_divergence() -> None:
    # mean of sampler - policy: 0.3 | 0.3 | 0.1
    sampler = [[-0.8, -0.6], [-0.8, -0.6], [-0.9, -0.9]]
    batch = make(
        [[1, 1]] * 3, adv_BT=[[-1.0] * 2, [1.0] * 2, [-1.0] * 2], sampler_logp_BT=sampler, ref_logp_BT=[[-2.0] * 2] * 3
    )
    loss, logp = Loss(aggregate="token", opsm=0.2), [[-1.0, -1.0]] * 3
    assert run(logp, batch, loss) == (close(-2 + 2), [[0, 0], [-1, -1], [1, 1]])
    assert metrics_of(logp, batch, loss)["opsm/dropped"] == 2
    assert run(logp, batch, loss, Kl(coef=1.0, kind="k2"))[1][0] == [1, 1]


@pytest.mark.parametrize(
    ("correction", "weights"),
    [
        # rho of the tokens: 4, 0.5 | 0.25, 0.5; of the rows 2 and 0.125, geometric sqrt(2) and sqrt(1/8)
        (Correction(weight="token", cap=None), [[0, 4, 0.5], [0, 0.25, 0.5]]),
        (Correction(weight="token", cap=2.0), [[0, 2, 0.5], [0, 0.25, 0.5]]),
        (Correction(weight="sequence", cap=None), [[0, 2, 2], [0, 0.125, 0.125]]),
        (Correction(weight="sequence", cap=1.5), [[0, 1.5, 1.5], [0, 0.125, 0.125]]),
        (Correction(weight="geometric", cap=None), [[0, 2**0.5, 2**0.5], [0, 0.125**0.5, 0.125**0.5]]),
        (Correction(weight=None, mask=CorrectionMask(level="token", low=0.4, high=4.5)), [[0, 1, 1], [0, 0, 1]]),
        (
            Correction(weight=None, cap=0.5, mask=CorrectionMask(level="token", low=0.4, high=4.5)),
            [[0, 1, 1], [0, 0, 1]],
        ),
        (Correction(weight="token", mask=CorrectionMask(level="token", low=0.4, high=3.9)), [[0, 0, 0.5], [0, 0, 0.5]]),
        (Correction(weight="token", mask=CorrectionMask(level="sequence", low=0.2, high=3)), [[0, 2, 0.5], [0, 0, 0]]),
        (
            Correction(weight="sequence", cap=None, mask=CorrectionMask(level="geometric", low=0.3, high=1.4)),
            [[0, 0, 0], [0, 0.125, 0.125]],
        ),
    ],
)
def test_correction_weights_by_hand(correction: Correction, weights: Rows) -> None:
    mask_BT = torch.tensor([[False, True, True]] * 2)
    gap_BT = torch.tensor([[99.0, 2 * LN2, -LN2], [-99.0, -2 * LN2, -LN2]], dtype=torch.float64)
    old_BT = torch.full((2, 3), -3.0, dtype=torch.float64)
    assert correction_weights(old_BT, old_BT - gap_BT, mask_BT, correction).tolist() == [close(row) for row in weights]


def test_the_correction_multiplies_the_policys_term_alone_and_is_counted() -> None:
    batch = make(
        [[1, 1]],
        adv_BT=[[1.0, 1.0]],
        old_logp_BT=[[-1.0, -1.0]],
        sampler_logp_BT=[[-1 - 3 * LN2, -1 + LN2]],
        ref_logp_BT=[[0.0, 0.0]],
    )
    loss = Loss(
        aggregate="token", correction=Correction(weight="token", cap=3.0, mask=CorrectionMask(low=0.6, high=9.0))
    )
    value, gradient_BT = run([[-1.0, -1.0]], batch, loss, Kl(coef=0.5, kind="k2"))
    assert value == close(-3 + 0.5 * (0.5 + 0.5))
    assert gradient_BT == [close([-3 - 0.5, -0.5])]
    metrics = metrics_of([[-1.0, -1.0]], batch, loss)
    assert (metrics["correction/weight"], metrics["correction/dropped"]) == (3, 1)


def test_without_an_old_policy_the_correction_is_that_of_the_policy_and_has_no_gradient() -> None:
    batch = make([[1]], adv_BT=[[1.0]], sampler_logp_BT=[[-1 - LN2]])
    loss = Loss(correction=Correction(cap=None))
    assert run([[-1.0]], batch, loss) == (close(-2), [[close(-2)]])


# --- bounds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gap", [-800.0, 800.0])
@pytest.mark.parametrize("kind", ["k2", "k3", "k3+"])
@pytest.mark.parametrize("surrogate", ["clip", "cispo", "gmpo", "sapo", "vespo", "dppo", "reinforce"])
def test_a_sampler_that_disagrees_badly_keeps_the_loss_and_its_gradient_finite(
    gap: float, kind: Any, surrogate: Any
) -> None:
    for adv in (-1.0, 1.0):
        batch = make([[1]], adv_BT=[[adv]], old_logp_BT=[[gap]], ref_logp_BT=[[gap]])
        value, gradient_BT = run([[0.0]], batch, Loss(surrogate=surrogate), Kl(coef=0.1, kind=kind))
        assert abs(value) <= 2 * math.exp(MAX_LOG_RATIO)
        assert math.isfinite(gradient_BT[0][0])


@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_tokens_whose_log_ratio_is_out_of_bounds_are_counted(ratio: Literal["token", "sequence"]) -> None:
    old = [[0.0, -50.0, -5.0, -1000.0], [0.0, 19.0, 21.0, 0.0]]
    batch = make([[1, 1, 1, 0], [1, 1, 1, 1]], adv_BT=[[1.0] * 4] * 2, old_logp_BT=old)
    zeros = [[0.0] * 4] * 2
    found = metrics_of(zeros, batch, Loss(ratio=ratio))["ratio/overflow"]
    assert found == (2 if ratio == "token" else 0)  # means 55 / 3 and -10
    far = replace(batch, old_logp_BT=torch.tensor([[0.0, -70.0, -5.0, 0.0], [0.0] * 4], dtype=torch.float64))
    found = metrics_of(zeros, far, Loss(ratio=ratio))["ratio/overflow"]
    assert found == (1 if ratio == "token" else 3)  # a mean of 25 bounds the whole row


def test_a_loss_of_float32_numbers_is_summed_in_float64_and_has_a_float32_gradient() -> None:
    B, T = 4, 50
    batch = make([[1] * T] * B, adv_BT=[[1.0] * T] * B)
    logp_BT = torch.full((B, T), -1.0, dtype=torch.float32, requires_grad=True)
    narrow = replace(batch, adv_BT=torch.full((B, T), 0.1, dtype=torch.float32))
    value = policy_loss(logp_BT, narrow, Loss(aggregate="token")).loss
    (gradient_BT,) = torch.autograd.grad(value, logp_BT)
    assert value.dtype == torch.float64 and gradient_BT.dtype == torch.float32
    assert float(value.detach()) == pytest.approx(-B * T * float(torch.tensor(0.1)), rel=1e-13)


def test_batch_of_another_loops_tensors_gives_the_same_loss() -> None:
    ids_BT, mask_BT = torch.zeros(2, 3, dtype=torch.int64), torch.tensor([[0, 1, 1], [0, 1, 0]])
    old_BT: Tensor = torch.tensor([[0, -1.0, -2.0], [0, -1.5, 0]], dtype=torch.float64)
    theirs = Batch.of(ids_BT, mask_BT, adv=torch.tensor([1.5, -0.5], dtype=torch.float64), old_logp_BT=old_BT)
    ours = make(mask_BT.tolist(), adv_BT=[[0, 1.5, 1.5], [0, -0.5, 0]], old_logp_BT=old_BT.tolist())
    logp: Rows = [[0, -1.1, -1.8], [0, -1.6, 0]]
    for aggregate in ("token", "sequence", "sequence_sum"):
        loss = Loss(aggregate=aggregate)
        assert run(logp, theirs, loss) == run(logp, ours, loss)
        assert by(theirs, loss) == by(ours, loss)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_long_row_of_low_precision_is_summed_as_one_of_float64(dtype: torch.dtype) -> None:
    rng = torch.Generator().manual_seed(0)
    mask_BT = torch.ones(2, 4096, dtype=torch.bool)
    old_BT = (-2 * torch.rand(2, 4096, generator=rng)).to(dtype)
    new_BT, sampler_BT = (old_BT.float() + 0.05).to(dtype), (old_BT.float() + 0.001).to(dtype)
    sequence, product = Loss(ratio="sequence"), Correction(weight="sequence", cap=None)
    sums, weights = [], []
    for cast in (dtype, torch.float64):
        old, new, sampler = (value_BT.to(cast) for value_BT in (old_BT, new_BT, sampler_BT))
        batch = Batch.of(mask_BT.long(), mask_BT, adv=torch.tensor([1.0, -2.0]), old_logp_BT=old)
        sums.append(float(policy_loss(new, batch, sequence).loss))
        weights.append(correction_weights(old, sampler, mask_BT, product).double())
    assert sums[0] == pytest.approx(sums[1], rel=1e-5)
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-5, atol=0)


def test_what_the_batch_holds_gets_no_gradient() -> None:
    batch = make([[0, 1, 1]], adv_BT=[[0.0, 1.5, -0.5]])
    logp_BT = torch.tensor([[0.0, -2.0, -3.0]], dtype=torch.float64, requires_grad=True)
    sums = policy_loss(logp_BT, replace(batch, old_logp_BT=logp_BT * 1), Loss(aggregate="token"))
    assert torch.autograd.grad(sums.loss, logp_BT)[0].tolist() == [[0, -1.5, 0.5]]
