"""Each preset on one small batch, from rewards to gradient, against the paper's formula in plain Python.

Two groups of completions; ratios of new to old probability, per token:

    group 0   reward 1  1.1 1.5   |   reward 0  0.7         |   reward 0  1.0 1.3 0.9
    group 1   reward 1  0.95      |   reward 0.5  1.25 1.0

The old log-probability is -1 everywhere; the reference's is higher by REF, per token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rlvr.advantages import compute
from rlvr.batching import Batch, make_batch
from rlvr.errors import SettingsError
from rlvr.loss_settings import Advantage, Kl, Loss
from rlvr.losses import count, divisor, policy_loss
from rlvr.presets import PRESETS
from rlvr.recipe import Overlong, RlRecipe
from rlvr.rewards.base import OverlongPenalty
from rlvr.settings import from_overrides, load_recipe, to_yaml
from rlvr.types import Completion, Group, Rollout, Task

REWARDS = [[1.0, 0.0, 0.0], [1.0, 0.5]]
RATIOS = [[1.1, 1.5], [0.7], [1.0, 1.3, 0.9], [0.95], [1.25, 1.0]]
REF = [[0.1, -0.2], [0.3], [0.0, 0.2, -0.1], [0.5], [-0.4, 0.1]]
NUM_TOKENS, NUM_ROWS, MAX_TOKENS, EPS = 9, 5, 4, 1e-4
NEEDS = {"distillation": ("reference.path=teacher",)}
"""What a preset asks of the recipe."""

Rows = Sequence[Sequence[float]]


@dataclass(frozen=True)
class Formula:
    """What a preset says of a step's advantages and loss."""

    advantage: Advantage
    loss: Loss
    kl: Kl
    overlong: Overlong
    max_tokens: int


def settings(name: str, *overrides: str) -> RlRecipe:
    recipe = from_overrides(
        "rl",
        [
            *(f"algorithm={name}", "steps=1", "model.path=x", "data.path=x", f"sample.max_tokens={MAX_TOKENS}"),
            *NEEDS.get(name, ()),
            *overrides,
        ],
    )
    assert isinstance(recipe, RlRecipe)
    return recipe


def formula(name: str, *overrides: str) -> Formula:
    recipe = settings(name, *overrides)
    return Formula(recipe.advantage, recipe.loss, recipe.kl, recipe.overlong, recipe.sample.max_tokens)


def batch_of(by: Formula, ratios: Rows) -> Batch:
    """One row per completion; the old log-probability is -1 everywhere."""
    penalty = OverlongPenalty(by.overlong, by.max_tokens) if by.overlong.buffer else None
    lengths = iter(len(row) for row in ratios)

    def rollout(reward: float) -> Rollout:
        num = next(lengths)
        completion = Completion(
            text="",
            token_ids=(5,) * num,
            logprobs=(-1.0,) * num,
            trained=(True,) * num,
            finish="stop",
            versions=((0, 0),),
        )
        made = Rollout(id="1/t/0", completion=completion, verdicts={}, reward=reward)
        return made if penalty is None else penalty.apply(made)

    task = Task(id="t", prompt="?")
    batch = make_batch(
        [Group(task=task, prompt_ids=(1,), rollouts=tuple(rollout(r) for r in rewards)) for rewards in REWARDS]
    )
    batch = replace(batch, old_logp_BT=-batch.mask_BT.double())
    if by.kl.coef:
        batch = replace(batch, ref_logp_BT=-batch.mask_BT.double() + filled(batch, REF))
    return batch


def filled(batch: Batch, rows: Rows) -> torch.Tensor:
    values_N = torch.tensor([x for row in rows for x in row], dtype=torch.float64)
    return torch.zeros(batch.mask_BT.shape, dtype=torch.float64).masked_scatter(batch.mask_BT, values_N)


def step(by: Formula, ratios: Rows = RATIOS, **columns: Any) -> tuple[list[list[float]], float, list[list[float]]]:
    """(advantages, loss, gradient by log-probability) of the trained tokens, as the loop comes to them.

    columns: further ones of the batch, rows of numbers for each token, or a tensor.
    """
    batch = batch_of(by, ratios)
    made = {name: x if isinstance(x, torch.Tensor) else filled(batch, x) for name, x in columns.items()}
    batch = replace(batch, **made)
    logp_BT = -batch.mask_BT.double() + filled(batch, [[math.log(r) for r in row] for row in ratios])
    logp_BT.requires_grad_(True)
    adv_BT, _ = compute(batch, by.advantage, by.kl)
    sums = policy_loss(logp_BT, replace(batch, adv_BT=adv_BT.double()), by.loss, by.kl)
    value = sums.loss / divisor(count(batch, by.loss), by.loss, by.max_tokens)
    (gradient_BT,) = torch.autograd.grad(value, logp_BT)
    return by_row(adv_BT, batch), float(value.detach()), by_row(gradient_BT, batch)


def by_row(value_BT: torch.Tensor, batch: Batch) -> list[list[float]]:
    return [value_BT[b][batch.mask_BT[b]].tolist() for b in range(len(value_BT))]


def clipped(ratio: float, adv: float, low: float, high: float) -> tuple[float, float]:
    """(-min(r A, clip(r) A), its derivative by log r)"""
    plain, held = ratio * adv, min(max(ratio, 1 - low), 1 + high) * adv
    return (-plain, -plain) if plain <= held else (-held, 0.0)


def expected(
    adv: Rows, weight: Callable[[int], float], low: float, high: float, ratios: Rows = RATIOS
) -> tuple[float, list[list[float]]]:
    """Sum of the tokens' clipped terms, each with its row's weight, and the gradient."""
    pairs = [list(zip(*rows, strict=True)) for rows in zip(ratios, adv, strict=True)]
    terms = [[clipped(ratio, a, low, high) for ratio, a in row] for row in pairs]
    value = sum(weight(b) * term for b, row in enumerate(terms) for term, _ in row)
    return value, [[weight(b) * slope for _, slope in row] for b, row in enumerate(terms)]


def spread(adv_B: Sequence[float]) -> list[list[float]]:
    return [[a] * len(row) for a, row in zip(adv_B, RATIOS, strict=True)]


def assert_is(found: tuple[Any, float, Any], adv: Rows, wanted: tuple[float, list[list[float]]]) -> None:
    value, gradient = wanted
    assert [x for row in found[0] for x in row] == pytest.approx([x for row in adv for x in row], rel=1e-6)
    assert found[1] == pytest.approx(value, rel=1e-6)
    assert [x for row in found[2] for x in row] == pytest.approx([x for row in gradient for x in row], rel=1e-6)


GROUP = [  # mean 1/3, std sqrt(1/3); mean 3/4, std sqrt(1/8)
    *[a / (math.sqrt(1 / 3) + EPS) for a in (2 / 3, -1 / 3, -1 / 3)],
    *[a / (math.sqrt(1 / 8) + EPS) for a in (1 / 4, -1 / 4)],
]


def test_grpo_is_equation_3_of_its_paper() -> None:
    # 1/G sum_i 1/|o_i| sum_t (min(r A, clip(r) A) - 0.04 k3), k3 = exp(d) - 1 - d, d = ref - new
    found = step(formula("grpo", "kl.coef=0.04"))
    value, gradient = expected(spread(GROUP), lambda b: 1 / len(RATIOS[b]) / NUM_ROWS, 0.2, 0.2)
    for b, (ratios, refs) in enumerate(zip(RATIOS, REF, strict=True)):
        for t, (ratio, ref) in enumerate(zip(ratios, refs, strict=True)):
            d = ref - math.log(ratio)
            value += 0.04 * (math.exp(d) - 1 - d) / len(ratios) / NUM_ROWS
            gradient[b][t] += 0.04 * (1 - math.exp(d)) / len(ratios) / NUM_ROWS
    assert_is(found, spread(GROUP), (value, gradient))
    assert settings("grpo").kl.coef == 0


def test_dr_grpo_divides_nothing_but_by_a_constant() -> None:
    adv = spread([2 / 3, -1 / 3, -1 / 3, 1 / 4, -1 / 4])
    assert_is(step(formula("dr_grpo")), adv, expected(adv, lambda b: 1 / (NUM_ROWS * MAX_TOKENS), 0.2, 0.2))


def test_rloo_compares_with_the_mean_of_the_others_after_taking_the_divergence_off() -> None:
    # R_i - 0.1 sum_t (old - ref); the gradient is that of the completion's whole log-probability times A, over the
    # number of completions and the constant 1 / max_tokens
    on_policy = [[1.0] * len(row) for row in RATIOS]
    reward = [r + 0.1 * sum(ref) for r, ref in zip([1, 0, 0, 1, 0.5], REF, strict=True)]
    adv_B = [
        reward[0] - (reward[1] + reward[2]) / 2,
        reward[1] - (reward[0] + reward[2]) / 2,
        reward[2] - (reward[0] + reward[1]) / 2,
        reward[3] - reward[4],
        reward[4] - reward[3],
    ]
    value, gradient = step(formula("rloo", "kl.coef=0.1"), on_policy)[1:]
    assert gradient == [
        pytest.approx([-a / NUM_ROWS / MAX_TOKENS] * len(row)) for a, row in zip(adv_B, RATIOS, strict=True)
    ]
    assert_is(
        step(formula("rloo", "kl.coef=0.1")),
        spread(adv_B),
        expected(spread(adv_B), lambda b: 1 / (NUM_ROWS * MAX_TOKENS), 0.2, 0.2),
    )
    assert value == pytest.approx(-sum(a * len(row) for a, row in zip(adv_B, RATIOS, strict=True)) / 20)


def test_reinforce_pp_normalises_each_tokens_return_over_the_step() -> None:
    # A_t = R - 0.1 sum_{i >= t} (old - ref)_i, less its mean over the 9 tokens, over their standard deviation
    returns = [
        [reward + 0.1 * sum(ref[t:]) for t in range(len(ref))]
        for reward, ref in zip([1, 0, 0, 1, 0.5], REF, strict=True)
    ]
    tokens = [a for row in returns for a in row]
    mean = sum(tokens) / NUM_TOKENS
    variance = sum((a - mean) ** 2 for a in tokens) / (NUM_TOKENS - 1)
    adv = [[(a - mean) / math.sqrt(variance + EPS**2) for a in row] for row in returns]
    assert_is(step(formula("reinforce_pp", "kl.coef=0.1")), adv, expected(adv, lambda b: 1 / NUM_TOKENS, 0.2, 0.2))


def test_dapo_clips_higher_counts_tokens_and_charges_for_length() -> None:
    # at most 3 tokens, of which a fifth is the buffer: the completion of 3 tokens pays 1; rewards 1 0 -1 | 1 0.5
    adv_B = [1 / (1 + EPS), 0.0, -1 / (1 + EPS), *GROUP[3:]]
    recipe = settings("dapo", "sample.max_tokens=3")
    assert_is(
        step(formula("dapo", "sample.max_tokens=3")),
        spread(adv_B),
        expected(spread(adv_B), lambda b: 1 / NUM_TOKENS, 0.2, 0.28),
    )
    assert recipe.sample.dynamic
    assert recipe.kl.coef == 0


def test_gspo_clips_whole_completions_by_their_geometric_mean() -> None:
    # close to 1, as its clip of 3e-4 and 4e-4 wants it: s = 1.0003 (in), 0.9995 (out of low, A < 0), 1.0001, 1.0005
    # (out of high, A > 0), 1.0 | per completion -min(s A, clip(s) A), each of its tokens with 1/|o| of the gradient
    ratios = [[1.0002, 1.0004], [0.9995], [1.0001, 1.0001, 1.0001], [1.0005], [1.001, 1 / 1.001]]
    means = [[math.exp(sum(map(math.log, row)) / len(row))] for row in ratios]
    value, slopes = expected([[a] for a in GROUP], lambda b: 1 / NUM_ROWS, 3e-4, 4e-4, means)
    gradient = [[slope / len(row)] * len(row) for (slope,), row in zip(slopes, ratios, strict=True)]
    assert [bool(row[0]) for row in gradient] == [True, False, True, False, True]
    assert_is(step(formula("gspo"), ratios), spread(GROUP), (value, gradient))


def test_luspo_is_gspo_with_each_completion_counted_by_its_length() -> None:
    # s = sqrt(1.001 * 1.003) = 1.002 (in), 0.997 (out of low, A < 0), 1.001, 1.003 (out of high, A > 0), 1.0 | the
    # completion's term |o| times, over 5 completions; |o| * 1/|o| of the slope for each of its tokens
    ratios = [[1.001, 1.003], [0.997], [1.001, 1.001, 1.001], [1.003], [1.01, 1 / 1.01]]
    means = [[math.exp(sum(map(math.log, row)) / len(row))] for row in ratios]
    value, slopes = expected([[a] for a in GROUP], lambda b: len(ratios[b]) / NUM_ROWS, 2e-3, 2.5e-3, means)
    gradient = [[slope / len(row)] * len(row) for (slope,), row in zip(slopes, ratios, strict=True)]
    assert [bool(row[0]) for row in gradient] == [True, False, True, False, True]
    assert_is(step(formula("luspo"), ratios), spread(GROUP), (value, gradient))


def test_cispo_weighs_log_p_by_a_ratio_of_at_most_5() -> None:
    # -min(r, 5) A log p / 9 and no lower bound: 0.01 weighs 0.01; log p = log r - 1
    ratios = [[1.1, 6.0], [0.01], [1.0, 1.3, 0.9], [0.95], [7.0, 1.0]]
    weights = [[min(r, 5) * a / NUM_TOKENS for r in row] for row, a in zip(ratios, GROUP, strict=True)]
    value = -sum(w * (math.log(r) - 1) for b, row in enumerate(weights) for w, r in zip(row, ratios[b], strict=True))
    assert_is(step(formula("cispo"), ratios), spread(GROUP), (value, [[-w for w in row] for row in weights]))


def test_gmpo_takes_the_geometric_mean_of_ratios_that_were_clipped_one_by_one() -> None:
    # log r is held at 0.4 where A > 0 (1.5 and 1.6, but not 0.5) and at -0.4 where A < 0 (0.6, but not 2.0)
    ratios = [[0.5, 1.5], [0.6], [1.0, 2.0, 0.9], [1.6], [1.25, 1.0]]
    held = [[math.log(0.5), 0.4], [-0.4], [0.0, math.log(2.0), math.log(0.9)], [0.4], [math.log(1.25), 0.0]]
    moves = [[1, 0], [0], [1, 1, 1], [0], [1, 1]]  # a clipped token has no gradient, its siblings keep theirs
    terms = [-a * math.exp(sum(row) / len(row)) / NUM_ROWS for a, row in zip(GROUP, held, strict=True)]
    gradient = [[term * m / len(row) for m in row] for term, row in zip(terms, moves, strict=True)]
    assert_is(step(formula("gmpo"), ratios), spread(GROUP), (sum(terms), gradient))


def test_sapo_gates_by_a_sigmoid_that_is_steeper_where_the_advantage_is_negative() -> None:
    # -A sigmoid(tau (r - 1)) 4 / tau, derivative by log r: -4 A sigmoid (1 - sigmoid) r; 1 / |o| / 5 each
    value, gradient = 0.0, []
    for a, row in zip(GROUP, RATIOS, strict=True):
        tau, share = (1.0 if a > 0 else 1.05), 1 / len(row) / NUM_ROWS
        gates = [1 / (1 + math.exp(-tau * (r - 1))) for r in row]
        value -= sum(share * a * gate * 4 / tau for gate in gates)
        gradient.append([-share * 4 * a * gate * (1 - gate) * r for gate, r in zip(gates, row, strict=True)])
    assert_is(step(formula("sapo")), spread(GROUP), (value, gradient))


def test_vespo_weighs_log_p_by_the_shaped_product_of_the_completions_ratios() -> None:
    # w = 1.65 0.7 1.17 0.95 1.25; phi = w^2 e^(3 (1 - w)) where A > 0, w^3 e^(2 (1 - w)) where A < 0; phi A log p / 9
    products = [math.prod(row) for row in RATIOS]
    assert products == pytest.approx([1.65, 0.7, 1.17, 0.95, 1.25])
    shapes = [(2.0, 3.0) if a > 0 else (3.0, 2.0) for a in GROUP]
    phis = [w**k * math.exp(lam * (1 - w)) for w, (k, lam) in zip(products, shapes, strict=True)]
    weights = [[phi * a / NUM_TOKENS] * len(row) for phi, a, row in zip(phis, GROUP, RATIOS, strict=True)]
    value = -sum(w * (math.log(r) - 1) for b, row in enumerate(weights) for w, r in zip(row, RATIOS[b], strict=True))
    assert_is(step(formula("vespo")), spread(GROUP), (value, [[-w for w in row] for row in weights]))


def test_reinforce_pp_baseline_normalises_over_tokens_what_is_left_of_the_groups_mean() -> None:
    # 2/3 twice, -1/3 four times, 1/4 once, -1/4 twice: mean -1/36; k2 of 0.1 in the loss, d^2 / 2 with d = ref - new
    plain = [2 / 3, -1 / 3, -1 / 3, 1 / 4, -1 / 4]
    variance = sum(len(row) * (a + 1 / 36) ** 2 for a, row in zip(plain, RATIOS, strict=True)) / (NUM_TOKENS - 1)
    adv = spread([(a + 1 / 36) / math.sqrt(variance + EPS**2) for a in plain])
    value, gradient = expected(adv, lambda b: 1 / NUM_TOKENS, 0.2, 0.2)
    for b, (ratios, refs) in enumerate(zip(RATIOS, REF, strict=True)):
        for t, (ratio, ref) in enumerate(zip(ratios, refs, strict=True)):
            d = ref - math.log(ratio)
            value += 0.1 * d * d / 2 / NUM_TOKENS
            gradient[b][t] -= 0.1 * d / NUM_TOKENS
    assert_is(step(formula("reinforce_pp_baseline", "kl.coef=0.1")), adv, (value, gradient))


def test_remax_compares_with_what_a_greedy_completion_earned() -> None:
    # greedy: 0.25 for the first task, 0.75 for the other; 0.1 sum (old - ref) off each reward; -A log p / (5 * 4)
    greedy = [0.25, 0.25, 0.25, 0.75, 0.75]
    rewards = [r + 0.1 * sum(ref) for r, ref in zip([1, 0, 0, 1, 0.5], REF, strict=True)]
    adv_B = [r - b for r, b in zip(rewards, greedy, strict=True)]
    value = -sum(a * (math.log(r) - 1) for a, row in zip(adv_B, RATIOS, strict=True) for r in row) / 20
    found = step(formula("remax", "kl.coef=0.1"), greedy_B=torch.tensor(greedy, dtype=torch.float64))
    assert_is(found, spread(adv_B), (value, [[-a / 20] * len(row) for a, row in zip(adv_B, RATIOS, strict=True)]))


def test_opo_weighs_the_baseline_by_length() -> None:
    # (2 * 1 + 1 * 0 + 3 * 0) / 6 = 1/3 and (1 * 1 + 2 * 0.5) / 3 = 2/3; -A log p / 9
    adv_B = [2 / 3, -1 / 3, -1 / 3, 1 / 3, -1 / 6]
    value = -sum(a * (math.log(r) - 1) for a, row in zip(adv_B, RATIOS, strict=True) for r in row) / NUM_TOKENS
    gradient = [[-a / NUM_TOKENS] * len(row) for a, row in zip(adv_B, RATIOS, strict=True)]
    assert_is(step(formula("opo")), spread(adv_B), (value, gradient))


def test_maxrl_divides_by_the_groups_mean_reward() -> None:
    # means 1/3 and 3/4: (1 - 1/3) / (1/3) = 2, -1, -1 | (1/4) / (3/4) = 1/3, -1/3
    adv = spread([2.0, -1.0, -1.0, 1 / 3, -1 / 3])
    assert_is(step(formula("maxrl")), adv, expected(adv, lambda b: 1 / NUM_TOKENS, 0.2, 0.2))


def test_pass_at_k_gives_the_best_what_it_has_over_the_second() -> None:
    # 1 over 0, and 1 over 0.5; of two out of three: both pairs that the best is in have a second of 0
    adv = spread([1.0, 0.0, 0.0, 0.5, 0.0])
    for overrides in ((), ("advantage.k=2",)):
        assert_is(step(formula("pass_at_k", *overrides)), adv, expected(adv, lambda b: 1 / NUM_TOKENS, 0.2, 0.2))


VALUES = [[0.5, 0.25], [0.75], [0.5, 0.0, -0.25], [0.25], [0.5, 1.0]]


def test_ppo_estimates_advantages_with_a_critic_and_normalises_them() -> None:
    # delta_t = r_t + V_(t+1) - V_t, r_t = -0.1 (old - ref) and at the last token + R; A_t = delta_t + 0.95 A_(t+1)
    plain: list[list[float]] = []
    for reward, values, refs in zip([1, 0, 0, 1, 0.5], VALUES, REF, strict=True):
        row, later, following = [], 0.0, 0.0
        for t in reversed(range(len(values))):
            earned = 0.1 * refs[t] + (reward if t == len(values) - 1 else 0)
            later = earned + following - values[t] + 0.95 * later
            following = values[t]
            row.insert(0, later)
        plain.append(row)
    # of row 0: 1 - 0.02 - 0.25 = 0.73 at its end, 0.01 + 0.25 - 0.5 + 0.95 * 0.73 before
    assert plain[0] == pytest.approx([0.4535, 0.73])
    tokens = [a for row in plain for a in row]
    mean = sum(tokens) / NUM_TOKENS
    scale = math.sqrt(sum((a - mean) ** 2 for a in tokens) / (NUM_TOKENS - 1) + EPS**2)
    adv = [[(a - mean) / scale for a in row] for row in plain]
    found = step(formula("ppo", "kl.coef=0.1"), values_BT=VALUES)
    assert_is(found, adv, expected(adv, lambda b: 1 / NUM_TOKENS, 0.2, 0.2))


def test_vapo_imitates_what_was_right_and_teaches_its_critic_the_whole_return() -> None:
    # with fewer than 20 tokens 1 - 1 / (0.05 L) is below 0 and counts as 0: A_t = r_t + V_(t+1) - V_t
    adv = [[-0.25, 0.75], [-0.75], [-0.5, -0.25, 0.25], [0.75], [0.5, -0.5]]
    value, gradient = expected(adv, lambda b: 1 / NUM_TOKENS, 0.2, 0.28)
    for b in (0, 3):  # of reward 1: 0.1 of the mean of -log p = 1 - log r over their 3 tokens
        value += 0.1 * sum(1 - math.log(r) for r in RATIOS[b]) / 3
        gradient[b] = [slope - 0.1 / 3 for slope in gradient[b]]
    vapo = formula("vapo")
    assert_is(step(vapo, values_BT=VALUES), adv, (value, gradient))
    batch = batch_of(vapo, RATIOS)
    _, returns_BT = compute(replace(batch, values_BT=filled(batch, VALUES)), vapo.advantage, vapo.kl)
    assert returns_BT is not None
    assert by_row(returns_BT, batch) == [[1, 1], [0], [0, 0, 0], [1], [0.5, 0.5]]


def test_online_dpo_pushes_the_best_and_the_worst_apart_by_what_dpo_has_left_to_learn() -> None:
    # h = log p_old - log p_ref = -sum of REF: 0.1, -0.3, -0.1 | -0.5, 0.3; the first of the equal ones is the worst
    by = formula("online_dpo", "advantage.beta=0.5")
    first = 3 * 0.5 / (1 + math.exp(0.5 * (0.1 + 0.3)))
    second = 2 * 0.5 / (1 + math.exp(0.5 * (-0.5 - 0.3)))
    adv_B = [first, -first, 0.0, second, -second]
    batch = batch_of(by, RATIOS)
    found = step(by, ref_logp_BT=-batch.mask_BT.double() + filled(batch, REF))
    value = -sum(a * (math.log(r) - 1) for a, row in zip(adv_B, RATIOS, strict=True) for r in row) / NUM_ROWS
    assert_is(found, spread(adv_B), (value, [[-a / NUM_ROWS] * len(row) for a, row in zip(adv_B, RATIOS, strict=True)]))


def test_raft_imitates_the_best_of_each_group() -> None:
    # 3 and 2 siblings: the mean over groups would be their sum over 2 groups, here 3 and 2 over 5 rows
    adv_B = [3.0, 0.0, 0.0, 2.0, 0.0]
    value = -sum(a * (math.log(r) - 1) for a, row in zip(adv_B, RATIOS, strict=True) for r in row) / NUM_ROWS
    gradient = [[-a / NUM_ROWS] * len(row) for a, row in zip(adv_B, RATIOS, strict=True)]
    assert_is(step(formula("raft")), spread(adv_B), (value, gradient))


def test_distillation_learns_each_tokens_divergence_and_nothing_of_the_reward() -> None:
    # A = -(log p_old - log p_teacher) = REF; - A log p / 9
    value = -sum(a * (math.log(r) - 1) for b, row in enumerate(REF) for a, r in zip(row, RATIOS[b], strict=True))
    found = step(formula("distillation"))
    assert_is(found, REF, (value / NUM_TOKENS, [[-a / NUM_TOKENS for a in row] for row in REF]))


# --- presets among the settings --------------------------------------------------------------------------------------


def test_the_papers_names_are_there() -> None:
    names = (
        "grpo dr_grpo dapo gspo cispo rloo reinforce_pp reinforce_pp_baseline gmpo sapo luspo vespo vapo ppo opo maxrl"
    )
    assert set(PRESETS) == {*names.split(), "remax", "pass_at_k", "online_dpo", "raft", "distillation"}


@pytest.mark.parametrize("name", ["ppo", "vapo"])
def test_a_preset_that_needs_a_critic_brings_one(name: str) -> None:
    assert settings(name).critic.kind == "own"
    with pytest.raises(SettingsError, match="critic"):
        settings(name, "critic.kind=none")


@pytest.mark.parametrize(
    ("override", "complaint"),
    [("reference.path=null", "needs reference.path, the teacher"), ("kl.coef=0", "kl.coef must be positive")],
)
def test_distillation_needs_a_teacher_to_diverge_from(override: str, complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint):
        settings("distillation", override)


def test_online_dpo_has_a_reference_whatever_kl_says() -> None:
    recipe = settings("online_dpo", "reference.path=sft")
    assert recipe.kl.coef == 0
    assert recipe.advantage.reads_reference
    with pytest.raises(SettingsError, match="reference is what kl measures from"):
        settings("raft", "reference.path=sft")


PAPERS_KL = ("grpo", "rloo", "reinforce_pp", "reinforce_pp_baseline", "remax", "ppo", "distillation")
BARE_REWARDS = ("maxrl", "online_dpo", "raft")


@pytest.mark.parametrize("name", sorted({*PRESETS} - {*PAPERS_KL, *BARE_REWARDS}))
def test_where_the_paper_has_no_divergence_it_is_k1_off_the_reward(name: str) -> None:
    kl = settings(name, "kl.coef=0.1").kl
    assert (kl.where, kl.kind, kl.estimator) == ("reward", None, "k1")
    held = settings(name, "kl.coef=0.1", "kl.where=loss").kl
    assert (held.where, held.estimator) == ("loss", "k2")


@pytest.mark.parametrize("name", PRESETS)
def test_every_setting_of_a_preset_arrives_and_gives_way_to_the_recipe(name: str) -> None:
    def leaves(tree: Any, at: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
        if not isinstance(tree, dict):
            return [(at, tree)]
        return [leaf for key, value in tree.items() for leaf in leaves(value, (*at, key))]

    def get(recipe: Any, at: tuple[str, ...]) -> Any:
        for key in at:
            recipe = getattr(recipe, key)
        return recipe

    others = {"dynamic": False, "buffer": 0.5, "penalty": 3.0, "low": 0.1, "high": 0.6, "kind": None, "whiten": False}
    for at, value in leaves(PRESETS[name]):
        assert get(settings(name), at) == value, at
        other = others.get(at[-1])
        if other is not None:
            assert get(settings(name, f"{'.'.join(at)}={other}"), at) == other, at


def test_a_preset_leaves_the_rest_of_its_sections_alone() -> None:
    recipe = settings("dapo", "sample.group_size=4", "overlong.filter=true")
    assert (recipe.sample.group_size, recipe.sample.dynamic, recipe.sample.max_tokens) == (4, True, MAX_TOKENS)
    assert (recipe.overlong.buffer, recipe.overlong.penalty, recipe.overlong.filter) == (0.2, 1.0, True)
    assert recipe.eval.max_tokens == MAX_TOKENS
    assert not settings("grpo").sample.dynamic
    assert settings("grpo").overlong.buffer == 0


@pytest.mark.parametrize("name", PRESETS)
def test_the_resolved_recipe_of_a_preset_resolves_to_itself(name: str, tmp_path: Path) -> None:
    recipe = settings(name, "overlong.filter=true")
    (tmp_path / "recipe.yaml").write_text(to_yaml(recipe))
    assert load_recipe(tmp_path / "recipe.yaml") == recipe
