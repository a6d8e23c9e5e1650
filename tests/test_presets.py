"""Each preset on one small batch, from rewards to gradient, against the paper's formula in plain Python.

Two groups of completions; ratios of new to old probability, per token:

    group 0   reward 1  1.1 1.5   |   reward 0  0.7         |   reward 0  1.0 1.3 0.9
    group 1   reward 1  0.95      |   reward 0.5  1.25 1.0

The old log-probability is -1 everywhere; the reference's is higher by REF, per token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rlvr.advantages import compute
from rlvr.batching import Batch, make_batch
from rlvr.losses import divisor, policy_loss
from rlvr.presets import PRESETS
from rlvr.recipe import RlRecipe
from rlvr.rewards.base import OverlongPenalty
from rlvr.settings import from_overrides, load_recipe, to_yaml
from rlvr.types import Completion, Group, Rollout, Task

REWARDS = [[1.0, 0.0, 0.0], [1.0, 0.5]]
RATIOS = [[1.1, 1.5], [0.7], [1.0, 1.3, 0.9], [0.95], [1.25, 1.0]]
REF = [[0.1, -0.2], [0.3], [0.0, 0.2, -0.1], [0.5], [-0.4, 0.1]]
NUM_TOKENS, NUM_ROWS, MAX_TOKENS, EPS = 9, 5, 4, 1e-4

Rows = Sequence[Sequence[float]]


def settings(name: str, *overrides: str) -> RlRecipe:
    recipe = from_overrides(
        "rl",
        [f"algorithm={name}", "steps=1", "model.path=x", "data.path=x", f"sample.max_tokens={MAX_TOKENS}", *overrides],
    )
    assert isinstance(recipe, RlRecipe)
    return recipe


def step(recipe: RlRecipe, ratios: Rows = RATIOS) -> tuple[list[list[float]], float, list[list[float]]]:
    """(advantages, loss, gradient by log-probability) of the trained tokens, as the loop comes to them."""
    penalty = OverlongPenalty(recipe.overlong, recipe.sample.max_tokens) if recipe.overlong.buffer else None
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

    def filled(rows: Rows) -> torch.Tensor:
        return torch.zeros(batch.mask_BT.shape, dtype=torch.float64).masked_scatter(
            batch.mask_BT, torch.tensor([x for row in rows for x in row], dtype=torch.float64)
        )

    old_BT = -batch.mask_BT.double()
    logp_BT = (old_BT + filled([[math.log(r) for r in row] for row in ratios])).requires_grad_(True)
    if recipe.kl.coef:
        batch = replace(batch, ref_logp_BT=old_BT + filled(REF))
    batch = replace(batch, old_logp_BT=old_BT)
    adv_BT, _ = compute(batch, recipe.advantage, recipe.kl)
    sums = policy_loss(logp_BT, replace(batch, adv_BT=adv_BT.double()), recipe.loss, recipe.kl)
    value = sums.loss / divisor(sums.tokens, sums.sequences, recipe.loss, recipe.sample.max_tokens)
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
    found = step(settings("grpo", "kl.coef=0.04"))
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
    assert_is(step(settings("dr_grpo")), adv, expected(adv, lambda b: 1 / (NUM_ROWS * MAX_TOKENS), 0.2, 0.2))


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
    value, gradient = step(settings("rloo", "kl.coef=0.1"), on_policy)[1:]
    assert gradient == [
        pytest.approx([-a / NUM_ROWS / MAX_TOKENS] * len(row)) for a, row in zip(adv_B, RATIOS, strict=True)
    ]
    assert_is(
        step(settings("rloo", "kl.coef=0.1")),
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
    assert_is(step(settings("reinforce_pp", "kl.coef=0.1")), adv, expected(adv, lambda b: 1 / NUM_TOKENS, 0.2, 0.2))


def test_dapo_clips_higher_counts_tokens_and_charges_for_length() -> None:
    # at most 3 tokens, of which a fifth is the buffer: the completion of 3 tokens pays 1; rewards 1 0 -1 | 1 0.5
    adv_B = [1 / (1 + EPS), 0.0, -1 / (1 + EPS), *GROUP[3:]]
    recipe = settings("dapo", "sample.max_tokens=3")
    assert_is(step(recipe), spread(adv_B), expected(spread(adv_B), lambda b: 1 / NUM_TOKENS, 0.2, 0.28))
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
    assert_is(step(settings("gspo"), ratios), spread(GROUP), (value, gradient))


# --- presets among the settings --------------------------------------------------------------------------------------


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
    recipe = settings(name, "overlong.buffer=0.3")
    (tmp_path / "recipe.yaml").write_text(to_yaml(recipe))
    assert load_recipe(tmp_path / "recipe.yaml") == recipe
