"""Groups to tensors, with every number written out; and micro-batches that lose and double nothing."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlvr.batching import Batch, make_batch, pad, spread
from rlvr.types import Completion, Finish, Group, Part, Rollout, Task, Verdict

INT_MAX = 2**40


def rollout(
    ids: tuple[int, ...],
    reward: float | None,
    *,
    logprobs: Any = None,
    trained: tuple[bool, ...] | None = None,
    finish: Finish = "stop",
) -> Rollout:
    completion = Completion(
        text="",
        token_ids=ids,
        logprobs=logprobs or tuple(-float(i) for i in ids),
        trained=trained or (True,) * len(ids),
        finish=finish,
        versions=((0, 0),),
    )
    return Rollout(id="1/t/0", completion=completion, verdicts={}, reward=reward)


def group(prompt_ids: tuple[int, ...], *rollouts: Rollout) -> Group:
    return Group(task=Task(id="t", prompt="?"), prompt_ids=prompt_ids, rollouts=rollouts)


def example() -> list[Group]:
    return [
        group((7, 8), rollout((3, 4, 5), 1.0), rollout((6,), None), rollout((2,), 0.5)),
        group((9,), rollout((1, 2, 3), 0.0, trained=(True, False, True)), rollout((5,), None, trained=(False,))),
    ]


def test_rows_hold_prompt_and_completion_and_pad_to_the_right() -> None:
    batch = make_batch(example())
    assert batch.ids_BT.tolist() == [[7, 8, 3, 4, 5], [7, 8, 2, 0, 0], [9, 1, 2, 3, 0]]
    assert batch.length_B.tolist() == [5, 3, 4]
    assert batch.group_B.tolist() == [0, 0, 1]
    assert batch.reward_B.tolist() == [1.0, 0.5, 0.0]
    assert batch.reward_B.dtype == torch.float64


def test_only_tokens_that_the_policy_chose_are_trained() -> None:
    batch = make_batch(example())
    assert batch.mask_BT.int().tolist() == [[0, 0, 1, 1, 1], [0, 0, 1, 0, 0], [0, 1, 0, 1, 0]]
    assert batch.sampler_logp_BT.tolist() == [[0, 0, -3, -4, -5], [0, 0, -2, 0, 0], [0, -1, 0, -3, 0]]
    assert (batch.num_tokens, batch.num_sequences) == (6, 3)


def test_rollouts_that_could_not_be_judged_make_no_row() -> None:
    groups = [group((1,), rollout((2,), None), rollout((3,), 1.0)), group((1,), rollout((4,), None))]
    assert make_batch(groups).ids_BT.tolist() == [[1, 3]]


def test_a_judged_rollout_without_trained_tokens_makes_a_row_for_its_siblings_alone() -> None:
    groups = [group((1,), rollout((2,), 1.0), rollout((3, 4), 0.0, trained=(False, False)), rollout((), 0.25))]
    batch = make_batch(groups)
    assert batch.ids_BT.tolist() == [[1, 2, 0], [1, 3, 4], [1, 0, 0]]
    assert batch.mask_BT.int().tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]
    assert batch.reward_B.tolist() == [1.0, 0.0, 0.25]
    assert batch.length_B.tolist() == [2, 3, 1]
    assert (batch.num_tokens, batch.num_sequences) == (1, 1)


def test_truncated_completions_are_trained_unless_they_are_filtered() -> None:
    groups = [group((1,), rollout((2, 3), 1.0), rollout((4, 5), 0.0, finish="length"))]
    assert make_batch(groups).mask_BT.int().tolist() == [[0, 1, 1], [0, 1, 1]]
    filtered = make_batch(groups, filter_truncated=True)
    assert filtered.mask_BT.int().tolist() == [[0, 1, 1], [0, 0, 0]]
    assert filtered.sampler_logp_BT.tolist() == [[0, -2, -3], [0, 0, 0]]
    assert filtered.reward_B.tolist() == [1.0, 0.0]
    assert (filtered.num_tokens, filtered.num_sequences) == (2, 1)


@pytest.mark.parametrize("groups", [[], [group((1,), rollout((2,), None))]])
def test_nothing_to_train_on_is_an_error_that_says_so(groups: list[Group]) -> None:
    with pytest.raises(ValueError, match="needs at least one judged rollout, got none"):
        make_batch(groups)


def test_picked_rows_are_cut_to_the_longest_of_them_and_keep_what_is_set() -> None:
    batch = make_batch(example())
    picked = batch.rows(torch.tensor([2, 1]))
    assert picked.ids_BT.tolist() == [[9, 1, 2, 3], [7, 8, 2, 0]]
    assert picked.mask_BT.int().tolist() == [[0, 1, 0, 1], [0, 0, 1, 0]]
    assert picked.sampler_logp_BT.tolist() == [[0, -1, 0, -3], [0, 0, -2, 0]]
    assert picked.length_B.tolist() == [4, 3]
    assert picked.group_B.tolist() == [1, 0]
    assert picked.reward_B.tolist() == [0.0, 0.5]
    assert picked.adv_BT is None


def test_rows_can_be_picked_by_a_mask_even_when_none_is_left() -> None:
    batch = make_batch(example())
    assert batch.rows(torch.tensor([False, True, False])).ids_BT.tolist() == [[7, 8, 2]]
    nothing = batch.rows(torch.tensor([False, False, False]))
    assert nothing.ids_BT.shape == (0, 0)
    assert (nothing.num_tokens, nothing.num_sequences, list(nothing.micro(8))) == (0, 0, [])


# --- what some advantages compare with -------------------------------------------------------------------------------


def test_each_row_has_the_reward_of_its_groups_greedy_completion_which_is_no_row() -> None:
    first, second = example()
    groups = [replace(first, greedy=rollout((9, 9, 9, 9, 9, 9), 0.125)), replace(second, greedy=rollout((), -2.0))]
    batch = make_batch(groups)
    assert batch.greedy_B is not None and batch.greedy_B.dtype == torch.float64
    assert batch.greedy_B.tolist() == [0.125, 0.125, -2.0]
    assert batch.ids_BT.tolist() == make_batch(example()).ids_BT.tolist()
    assert batch.rows(torch.tensor([2, 0])).greedy_B.tolist() == [-2.0, 0.125]  # pyright: ignore[reportOptionalMemberAccess]
    assert make_batch(example()).greedy_B is None


@pytest.mark.parametrize(("greedy", "what"), [(None, "has none"), (rollout((5,), None), "has one without a reward")])
def test_a_group_without_the_greedy_reward_that_others_have_is_an_error(greedy: Rollout | None, what: str) -> None:
    first, second = example()
    groups = [replace(first, greedy=rollout((3,), 1.0)), replace(second, greedy=greedy)]
    with pytest.raises(ValueError, match=f"judged greedy completion, or none of them; group 1 {what}$"):
        make_batch(groups)


FORM, ANSWER, LENGTH = (
    Part(name="form", weight=0.5, is_optional=True),
    Part(name="answer", weight=2.0),
    Part(name="overlong", weight=-1.0),
)


def judged(reward: float | None, finish: Finish = "stop", **scores: float | str | None) -> Rollout:
    """scores by part; a text is the outcome of one that has no score."""
    verdicts = {
        part: Verdict(score=None, outcome=score)  # pyright: ignore[reportArgumentType]
        if isinstance(score, str)
        else Verdict(score=score, outcome="partial")
        for part, score in scores.items()
    }
    return replace(rollout((3,), reward, finish=finish), verdicts=verdicts)


def scores_of(parts: list[Part], *groups: Group) -> list[list[float | None]]:
    batch = make_batch(groups, parts=parts)
    assert batch.part_BK is not None and batch.part_BK.dtype == torch.float64
    return [[None if math.isnan(score) else score for score in row] for row in batch.part_BK.tolist()]


def test_each_row_has_its_score_by_each_part_in_the_parts_order() -> None:
    one = group((1,), judged(0.0, form=0.25, answer=1.0, overlong=0.1), judged(0.0, form=0.0, answer=0.5, overlong=1.0))
    two = group(
        (1,), judged(None, form=1.0, answer="error", overlong=0.0), judged(0.0, form=0.75, answer=0, overlong=0)
    )
    assert scores_of([FORM, ANSWER, LENGTH], one, two) == [[0.25, 1.0, 0.1], [0.0, 0.5, 1.0], [0.75, 0.0, 0.0]]
    assert scores_of([LENGTH, FORM], one, two) == [[0.1, 0.25], [1.0, 0.0], [0.0, 0.75]]
    batch = make_batch([one, two], parts=[ANSWER])
    assert batch.rows(torch.tensor([2, 1])).part_BK.tolist() == [[0.0], [0.5]]  # pyright: ignore[reportOptionalMemberAccess]
    assert make_batch([one, two]).part_BK is None


def test_a_part_that_does_not_speak_of_a_row_is_nan_there_alone() -> None:
    one = group((1,), judged(0.0, form="not_applicable", answer=1.0), judged(0.0, form=0.0, answer="not_applicable"))
    assert scores_of([FORM, ANSWER], one) == [[None, 1.0], [0.0, None]]


def test_an_optional_part_that_failed_for_one_of_a_group_is_nan_for_all_of_it() -> None:
    one = group((1,), judged(1.0, form=1.0, answer=0.5), judged(1.0, form="error", answer=0.5))
    # the one for which it failed makes no row itself, for another part failed too
    two = group((1,), judged(1.0, form=1.0, answer=0.5), judged(None, form="gold_invalid", answer="error"))
    three = group((1,), judged(1.0, form=1.0, answer=0.5), judged(None, form=0.5, answer="error"))
    four = replace(three, greedy=judged(1.0, form="error", answer=1.0))
    # what the engine took back says nothing of a part: it was not asked about it
    five = group((1,), judged(1.0, form=1.0, answer=0.5), judged(None, "abort", form="error", answer="error"))
    assert scores_of([FORM, ANSWER], one) == [[None, 0.5], [None, 0.5]]
    assert scores_of([FORM, ANSWER], two) == [[None, 0.5]]
    assert scores_of([FORM, ANSWER], three) == [[1.0, 0.5]]
    assert [row.verdicts["form"].score for row in four.rollouts] == [1.0, 0.5]
    assert scores_of([FORM, ANSWER], four) == [[None, 0.5]]
    assert scores_of([FORM, ANSWER], five) == [[1.0, 0.5]]


def of_lengths(lengths: list[int]) -> Batch:
    return make_batch([group((1,), *(rollout((2,) * (n - 1), 0.0) for n in lengths))])


@given(st.lists(st.integers(2, 30), min_size=1, max_size=40), st.integers(1, 200))
def test_micro_batches_hold_every_row_once_within_the_budget(lengths: list[int], budget: int) -> None:
    parts = [part.tolist() for part in of_lengths(lengths).micro(budget)]
    assert sorted(row for part in parts for row in part) == list(range(len(lengths)))
    for part in parts:
        assert len(part) == 1 or len(part) * max(lengths[row] for row in part) <= budget


def test_micro_batches_put_rows_of_like_length_together() -> None:
    assert [part.tolist() for part in of_lengths([9, 2, 3, 2, 8]).micro(16)] == [[1, 3, 2], [4], [0]]
    assert [part.tolist() for part in of_lengths([9, 2, 3, 2, 8]).micro(18)] == [[1, 3, 2], [4, 0]]
    assert [part.tolist() for part in of_lengths([9, 2, 3, 2, 8]).micro(INT_MAX)] == [[1, 3, 2, 4, 0]]


def test_ids_are_padded_on_the_right_with_0_whatever_holds_them() -> None:
    ids_BT, length_B = pad([np.array([7, 8, 9], dtype=np.int32), [5], (), (4, 0)])
    assert (ids_BT.dtype, ids_BT.tolist()) == (torch.int64, [[7, 8, 9], [5, 0, 0], [0, 0, 0], [4, 0, 0]])
    assert (length_B.dtype, length_B.tolist()) == (torch.int64, [3, 1, 0, 2])


def test_spread_numbers_stand_row_after_row_and_carry_their_gradient() -> None:
    value_N = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    mask_BT = torch.tensor([[False, True, True], [True, False, False]])
    value_BT = spread(value_N, mask_BT)
    assert (value_BT.dtype, value_BT.tolist()) == (torch.float64, [[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]])
    (value_BT * torch.arange(6).view(2, 3)).sum().backward()
    assert value_N.grad is not None
    assert value_N.grad.tolist() == [1.0, 2.0, 3.0]
