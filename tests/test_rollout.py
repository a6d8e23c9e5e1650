"""Drawing, sampling and scoring with an engine and rewards that do as they are told."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr.errors import DataError, EngineError, Stopped
from rlvr.grouplog import GroupLog
from rlvr.recipe import Overlong, Sample
from rlvr.rewards.base import OverlongPenalty
from rlvr.rollout import Rollouts, Taken, group_metrics, quality, sampling
from rlvr.seeds import seed_for
from rlvr.types import Completion, Finish, Group, Part, Request, Rollout, Sampling, Task, Verdict

SAMPLE = Sample(group_size=3, groups_per_step=4, max_tokens=5, temperature=0.5, stop=(";",))


def completion(id: str, *, finish: Finish = "stop", num_tokens: int = 2) -> Completion:
    return Completion(
        text=id,
        token_ids=(5,) * num_tokens,
        logprobs=(-1.0,) * num_tokens,
        trained=(True,) * num_tokens,
        finish=finish,
        versions=((0, 0),),
    )


class Script:
    """An engine that gives every sample id back as its text, in an order of the test's choosing."""

    def __init__(
        self,
        order: Callable[[list[str]], Iterable[str]] = lambda ids: ids,
        make: Callable[[str], Completion] = completion,
    ) -> None:
        self.order, self.make = order, make
        self.asked: list[list[Request]] = []

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[str, Completion]]:
        self.asked.append(list(requests))
        for id in self.order([id for request in requests for id in request.sample_ids]):
            yield id, self.make(id)


class Judge:
    """Rewards by sample id."""

    def __init__(self, reward: Callable[[str], float | None] = lambda id: 1.0) -> None:
        self.reward = reward
        self.submitted: list[str] = []

    def submit(self, group: Group) -> Future[Group]:
        self.submitted.append(group.task.id)
        future: Future[Group] = Future()
        scored = [
            replace(r, verdicts={"answer": verdict(self.reward(r.id))}, reward=self.reward(r.id))
            for r in group.all_rollouts
        ]
        future.set_result(group.with_all(scored))
        return future


def verdict(score: float | None) -> Verdict:
    return Verdict(score=score, outcome="error" if score is None else "correct" if score == 1 else "wrong")


def rollouts(engine: Any, judge: Any, *, num_tasks: int = 50, sample: Sample = SAMPLE, **more: Any) -> Rollouts:
    encoded = [(Task(id=f"t{k}", prompt="?"), (k, k + 1)) for k in range(num_tasks)]
    return Rollouts(encoded, engine, judge, sample, seed=3, **more)


def names(groups: Iterable[Group]) -> list[str]:
    return [group.task.id for group in groups]


def task_of(id: str) -> str:
    return id.split("/")[1]


# --- taking a step's groups ------------------------------------------------------------------------------------------


def shuffled(ids: list[str]) -> list[str]:
    return random.Random(1).sample(ids, len(ids))


@pytest.mark.parametrize("order", [list, lambda ids: ids[::-1], shuffled], ids=["straight", "reversed", "shuffled"])
def test_groups_come_in_the_order_of_their_tasks_whatever_was_done_first(order: Any) -> None:
    drawn = rollouts(Script(order), Judge())
    tasks = [task.id for task in drawn.stream.take(0, 4)]
    taken = drawn.take(step=6)
    assert names(taken.groups) == tasks
    for group in taken.groups:
        number = int(group.task.id[1:])
        assert group.prompt_ids == (number, number + 1)
        assert [r.id for r in group.rollouts] == [f"6/{group.task.id}/{k}" for k in range(3)]
        assert all(r.completion.text == r.id and r.reward == 1.0 for r in group.rollouts)
    assert taken.set_aside == []


def test_a_group_is_judged_as_soon_as_it_is_whole() -> None:
    judge = Judge()
    seen: list[int] = []

    def spy(id: str) -> Completion:
        seen.append(len(judge.submitted))
        return completion(id)

    rollouts(Script(make=spy), judge).take(step=1)
    assert seen == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]


# --- going on with a step that was broken off ------------------------------------------------------------------------


def ignore(text: str) -> None:
    raise AssertionError(text)


def test_a_step_that_was_stopped_goes_on_with_the_groups_it_had(tmp_path: Path) -> None:
    whole = rollouts(Script(), Judge()).take(step=2)
    seen: list[str] = []
    engine, judge = Script(make=lambda id: (seen.append(id), completion(id))[1]), Judge(lambda id: 0.25)
    log = GroupLog(tmp_path / "groups", ignore)
    first = rollouts(engine, judge, log=log, is_stopping=lambda: len(seen) == 7)  # two groups and a third's beginning
    with pytest.raises(Stopped, match="stopped while sampling step 2, of which 2 of 4 groups are kept"):
        first.take(step=2)
    engine, judge = Script(), Judge()
    again = rollouts(engine, judge, log=GroupLog(tmp_path / "groups", ignore))
    taken = again.take(step=2)
    assert names(taken.groups) == names(whole.groups)
    assert [request.id for request in engine.asked[0]] == [f"2/{name}" for name in names(whole.groups)[2:]]
    assert judge.submitted == names(whole.groups)[2:]
    # those of the first attempt are as they were judged then
    assert [[r.reward for r in group.rollouts] for group in taken.groups] == [[0.25] * 3] * 2 + [[1.0] * 3] * 2
    assert again.cursor == 4


def test_a_step_whose_groups_are_all_there_asks_for_nothing(tmp_path: Path) -> None:
    whole = rollouts(Script(), Judge(), log=GroupLog(tmp_path / "groups", ignore)).take(step=2)
    engine, judge = Script(), Judge()
    again = rollouts(engine, judge, log=GroupLog(tmp_path / "groups", ignore))
    assert again.take(step=2).groups == whole.groups
    assert (engine.asked, judge.submitted) == ([[]], [])
    assert again.take(step=3).groups != whole.groups  # the next step is sampled
    assert len(engine.asked[1]) == 4


def test_groups_that_were_set_aside_are_found_again_with_those_that_took_their_place(tmp_path: Path) -> None:
    drawn = [task.id for task in rollouts(Script(), Judge()).stream.take(0, 6)]
    bad = {drawn[1], drawn[4]}
    judge = Judge(lambda id: None if task_of(id) in bad else 1.0)
    whole = rollouts(Script(), judge, log=GroupLog(tmp_path / "groups", ignore)).take(step=1)
    engine = Script()
    again = rollouts(engine, Judge(ignore), log=GroupLog(tmp_path / "groups", ignore))
    taken = again.take(step=1)
    assert (taken.groups, taken.set_aside) == (whole.groups, whole.set_aside)
    assert names(taken.set_aside) == [drawn[1], drawn[4]]
    assert engine.asked == [[], [], []]
    assert again.cursor == 6


def test_a_step_of_which_nothing_could_be_judged_is_made_anew(tmp_path: Path) -> None:
    def log() -> GroupLog:
        return GroupLog(tmp_path / "groups", ignore)

    with pytest.raises(DataError, match="none of 20 groups could be judged"):
        rollouts(Script(), Judge(lambda id: None), log=log()).take(step=1)
    judge = Judge()
    rollouts(Script(), judge, log=log()).take(step=1)
    assert len(judge.submitted) == 4


# --- requests --------------------------------------------------------------------------------------------------------


def test_requests_carry_the_settings_and_a_seed_per_sample() -> None:
    engine = Script()
    drawn = rollouts(engine, Judge())
    drawn.take(step=6)
    first = engine.asked[0][0]
    task = drawn.stream.at(0)
    assert first == Request(
        id=f"6/{task.id}",
        prompt_ids=drawn.prompt_ids[task.id],
        seeds=tuple(seed_for(3, "sample", 6, task.id, k) for k in range(3)),
        sampling=Sampling(temperature=0.5, max_tokens=5, stop=(";",)),
    )
    assert sampling(SAMPLE) == first.sampling


def test_the_cursor_goes_on_and_a_resumed_run_draws_what_the_whole_run_would_have() -> None:
    whole = rollouts(Script(), Judge())
    steps = [names(whole.take(step).groups) for step in (1, 2, 3)]
    assert whole.cursor == 12
    resumed = rollouts(Script(), Judge(), cursor=8)
    assert names(resumed.take(3).groups) == steps[2]
    assert len({name for step in steps for name in step}) == 12


def test_a_task_drawn_twice_in_a_step_gets_further_samples() -> None:
    engine = Script()
    sample = Sample(group_size=8, groups_per_step=3)
    taken = rollouts(engine, Judge(), num_tasks=1, sample=sample).take(step=2)
    assert [request.first for request in engine.asked[0]] == [0, 8, 16]
    assert [r.id for r in taken.groups[1].rollouts] == [f"2/t0/{k}" for k in range(8, 16)]
    seeds = [seed for request in engine.asked[0] for seed in request.seeds]
    assert seeds == [seed_for(3, "sample", 2, "t0", k) for k in range(24)]


def test_progress_tells_how_many_completions_are_there() -> None:
    said: list[str] = []
    rollouts(Script(), Judge(), on_progress=said.append).take(step=1)
    assert said[0] == "sampling 1/12"
    assert said[-2:] == ["sampling 12/12", "scoring"]


# --- what cannot be judged -------------------------------------------------------------------------------------------


def test_a_group_with_fewer_than_two_judged_rollouts_is_set_aside_and_refilled() -> None:
    order = [task.id for task in rollouts(Script(), Judge()).stream.take(0, 6)]
    unjudged = {f"1/{order[1]}/{k}" for k in (0, 1)} | {f"1/{order[2]}/0"} | {f"1/{order[4]}/{k}" for k in range(3)}
    engine = Script()
    drawn = rollouts(engine, Judge(lambda id: None if id in unjudged else 0.5))
    taken = drawn.take(step=1)
    # the second has one judged rollout left, the third two; the fifth refills the second and fails too
    assert names(taken.groups) == [order[0], order[2], order[3], order[5]]
    assert names(taken.set_aside) == [order[1], order[4]]
    assert [len(requests) for requests in engine.asked] == [4, 1, 1]
    assert drawn.cursor == 6


def test_refills_are_bounded() -> None:
    engine = Script()
    first = rollouts(Script(), Judge()).stream.at(0).id
    drawn = rollouts(engine, Judge(lambda id: 1.0 if task_of(id) == first else None))
    taken = drawn.take(step=1)
    assert names(taken.groups) == [first]
    assert len(taken.set_aside) == 3 * (1 + Sample().max_refills) == drawn.cursor - 1
    assert [len(requests) for requests in engine.asked] == [4] + [3] * Sample().max_refills
    assert group_metrics(taken)["num_groups"] == 1.0


def test_a_step_in_which_nothing_could_be_judged_ends_the_run_with_the_most_frequent_reason() -> None:
    engine = Script()
    drawn = rollouts(engine, Judge(lambda id: None))
    with pytest.raises(
        DataError, match=r"^step 1: none of 20 groups could be judged, so there is nothing to learn from$"
    ):
        drawn.take(step=1)
    assert drawn.cursor == 4 * (1 + Sample().max_refills)
    assert len(engine.asked) == 1 + Sample().max_refills

    class Failing(Judge):
        def submit(self, group: Group) -> Future[Group]:
            parts = {
                "style": Verdict(score=None, outcome="not_applicable", verifier="style"),
                "form": Verdict(score=0.5, outcome="partial", verifier="form", reason="a score is no failure"),
            }
            rollouts = tuple(
                Rollout(
                    id=r.id,
                    completion=r.completion,
                    verdicts=parts
                    | {
                        "answer": Verdict(
                            score=None, outcome="error", verifier="v", reason=["out", "down"][r.id[-1] > "0"]
                        )
                    },
                    reward=None,
                )
                for r in group.rollouts
            )
            future: Future[Group] = Future()
            future.set_result(Group(task=group.task, prompt_ids=group.prompt_ids, rollouts=rollouts))
            return future

    with pytest.raises(DataError, match=r"nothing to learn from; most often rewards\.[a-z]+: v: down$"):
        rollouts(Script(), Failing()).take(step=1)


def test_what_the_engine_took_back_is_unjudged_whatever_was_thought_of_it() -> None:
    def make(id: str) -> Completion:
        return completion(id, finish="abort", num_tokens=0) if id.endswith("/1") else completion(id)

    taken = rollouts(Script(make=make), Judge(lambda id: 0.0)).take(step=1)
    for group in taken.groups:
        assert [r.reward for r in group.rollouts] == [0.0, None, 0.0]
        assert [r.verdicts["answer"].outcome for r in group.rollouts] == ["wrong", "error", "wrong"]
    assert group_metrics(taken)["reward/unjudged_ratio"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("order", "says"),
    [
        (lambda ids: ids[:-2], "lost 2 of 12 completions"),
        (lambda ids: [*ids, ids[0]], "not asked for"),
        (lambda ids: [*ids[:5], "another/id/0"], "'another/id/0', which was not asked for"),
    ],
    ids=["lost", "twice", "unknown"],
)
def test_an_engine_that_loses_or_invents_completions_ends_the_step(order: Any, says: str) -> None:
    with pytest.raises(EngineError, match=says):
        rollouts(Script(order), Judge()).take(step=1)


def test_a_reward_that_fails_ends_the_step_with_its_own_error() -> None:
    class Broken:
        def submit(self, group: Group) -> Future[Group]:
            future: Future[Group] = Future()
            future.set_exception(EngineError("out of order"))
            return future

    with pytest.raises(EngineError, match="out of order"):
        rollouts(Script(), Broken()).take(step=1)


# --- dynamic sampling ------------------------------------------------------------------------------------------------

DYNAMIC = Sample(group_size=3, groups_per_step=4, max_tokens=5, dynamic=True)


def first_tasks(num: int) -> list[str]:
    return [task.id for task in rollouts(Script(), Judge()).stream.take(0, num)]


def differing(tasks: Iterable[str]) -> Judge:
    """Rewards 1 0 0 for these tasks, 0 0 0 for all others."""
    useful = set(tasks)
    return Judge(lambda id: float(task_of(id) in useful and id.endswith("/0")))


@pytest.mark.parametrize("order", [list, lambda ids: ids[::-1], shuffled], ids=["straight", "reversed", "shuffled"])
def test_groups_of_equal_rewards_are_set_aside_and_refilled_in_whatever_order_they_come(order: Any) -> None:
    tasks = first_tasks(8)
    engine = Script(order)
    drawn = rollouts(engine, differing([tasks[0], tasks[2], *tasks[5:]]), sample=DYNAMIC)
    taken = drawn.take(step=1)
    # two of four were useful, so four are drawn for the two that are missing; the last of them is one too many
    assert [[r.id for r in requests] for requests in engine.asked] == [
        [f"1/{task}" for task in tasks[:4]],
        [f"1/{task}" for task in tasks[4:]],
    ]
    assert names(taken.groups) == [tasks[0], tasks[2], tasks[5], tasks[6]]
    assert names(taken.set_aside) == [tasks[1], tasks[3], tasks[4], tasks[7]]
    assert [quality(g) for g in taken.set_aside] == ["equal", "equal", "equal", "useful"]
    assert drawn.cursor == 8
    seeds = [seed for requests in engine.asked for request in requests for seed in request.seeds]
    assert seeds == [seed_for(3, "sample", 1, task, k) for task in tasks for k in range(3)]


def test_without_dynamic_sampling_groups_of_equal_rewards_are_trained_on() -> None:
    taken = rollouts(Script(), differing([])).take(step=1)
    assert len(taken.groups) == 4
    assert taken.set_aside == []


def test_where_refills_do_not_help_the_step_goes_on_with_its_useful_groups() -> None:
    tasks = first_tasks(20)
    engine = Script()
    drawn = rollouts(engine, differing([tasks[1], tasks[9]]), sample=DYNAMIC)
    taken = drawn.take(step=1)
    assert names(taken.groups) == [tasks[1], tasks[9]]
    assert [len(requests) for requests in engine.asked] == [4] * 5
    assert drawn.cursor == len(taken.sampled) == 20


def test_a_step_without_one_useful_group_has_its_equal_ones_and_no_error() -> None:
    tasks = first_tasks(20)
    judge = Judge(lambda id: None if task_of(id) == tasks[0] else 1.0)
    taken = rollouts(Script(), judge, sample=DYNAMIC).take(step=1)
    assert names(taken.groups) == tasks[1:5]
    assert names(taken.set_aside) == [tasks[0], *tasks[5:]]
    with pytest.raises(DataError, match="none of 20 groups could be judged"):
        rollouts(Script(), Judge(lambda id: None), sample=DYNAMIC).take(step=1)


def test_what_length_took_off_makes_no_group_useful() -> None:
    penalty = OverlongPenalty(Overlong(buffer=1.0), 8)
    group = scored((0.1, "partial", 4, "stop"), (0.1, "partial", 5, "stop"), (None, "error", 8, "stop"))
    shaped = replace(group, rollouts=tuple(penalty.apply(r) for r in group.rollouts))
    assert len({r.reward for r in shaped.rollouts}) == 3
    assert quality(shaped) == quality(group) == "equal"
    other = scored((0.1, "partial", 4, "stop"), (0.6, "partial", 8, "stop"))
    shaped = replace(other, rollouts=tuple(penalty.apply(r) for r in other.rollouts))
    assert [r.reward for r in shaped.rollouts] == [pytest.approx(-0.4), pytest.approx(-0.4)]
    assert quality(shaped) == "useful"


@settings(deadline=None)
@given(st.integers(0, 2**31), st.booleans(), st.integers(0, 4), st.integers(1, 60), st.floats(0, 1))
def test_whatever_the_rewards_groups_stay_whole_and_the_order_of_completion_changes_nothing(
    seed: int, dynamic: bool, max_refills: int, num_tasks: int, equal: float
) -> None:
    def reward(id: str) -> float | None:
        task, sample = id.rsplit("/", 1)
        is_equal = random.Random(f"{seed} {task}").random() < equal
        return random.Random(f"{seed} {task} {'all' if is_equal else sample}").choice([0.0, 1.0, None])

    sample = DYNAMIC.model_copy(update={"dynamic": dynamic, "max_refills": max_refills})
    outcomes = []
    for order in (list, lambda ids: random.Random(seed).sample(ids, len(ids))):
        engine = Script(order)
        drawn = rollouts(engine, Judge(reward), num_tasks=num_tasks, sample=sample)
        try:
            taken = drawn.take(step=1)
        except DataError:
            outcomes.append((None, drawn.cursor))
            continue
        ids = [r.id for group in taken.sampled for r in group.rollouts]
        assert len(ids) == len(set(ids)) == 3 * drawn.cursor
        assert all(len({task_of(r.id) for r in group.rollouts}) == 1 for group in taken.sampled)
        assert 1 <= len(taken.groups) <= 4
        assert len(taken.groups) == 4 or len(engine.asked) == 1 + max_refills
        kinds = {quality(group) for group in taken.groups}
        left = {quality(group) for group in taken.set_aside}
        assert kinds <= {"useful", "equal"}
        if dynamic and "equal" in kinds:  # then there was nothing better
            assert "useful" not in kinds | left
        if not dynamic:
            assert left <= {"unjudged"}
        outcomes.append(((taken.groups, taken.set_aside), drawn.cursor))
    assert outcomes[0] == outcomes[1]


def test_a_resumed_run_refills_with_the_same_tasks_and_seeds() -> None:
    tasks = first_tasks(30)
    whole = rollouts(Script(), differing(tasks[::3]), sample=DYNAMIC)
    whole.take(1)
    resumed = rollouts(Script(), differing(tasks[::3]), sample=DYNAMIC, cursor=whole.cursor)
    ours, theirs = resumed.take(2), whole.take(2)
    assert (ours.groups, ours.set_aside) == (theirs.groups, theirs.set_aside)
    assert resumed.cursor == whole.cursor


# --- greedy completions ----------------------------------------------------------------------------------------------


def sample_of(id: str) -> int:
    return int(id.rsplit("/", 1)[1])


@pytest.mark.parametrize("order", [list, lambda ids: ids[::-1], shuffled], ids=["straight", "reversed", "shuffled"])
def test_a_greedy_completion_is_sampled_with_its_siblings_as_one_sample_more(order: Any) -> None:
    engine = Script(order)
    taken = rollouts(engine, Judge(lambda id: sample_of(id) / 8), with_greedy=True).take(step=6)
    siblings, greedy = engine.asked[0][:2]
    task = taken.groups[0].task
    assert len(engine.asked) == 1 and len(engine.asked[0]) == 8
    assert siblings == rollouts(Script(), Judge())._requests(6, task, Counter())[0]
    assert greedy == Request(
        id=siblings.id,
        prompt_ids=siblings.prompt_ids,
        seeds=(seed_for(3, "sample", 6, task.id, 3),),
        sampling=Sampling(temperature=0.0, max_tokens=5, stop=(";",)),
        first=3,
    )
    for group in taken.groups:
        assert [r.id for r in group.rollouts] == [f"6/{group.task.id}/{k}" for k in range(3)]
        assert [r.reward for r in group.rollouts] == [0, 1 / 8, 2 / 8]
        assert group.greedy is not None
        assert (group.greedy.id, group.greedy.reward) == (f"6/{group.task.id}/3", 3 / 8)
        assert group.greedy.completion.text == group.greedy.id


def test_without_it_no_group_has_a_greedy_completion() -> None:
    assert [group.greedy for group in rollouts(Script(), Judge()).take(step=1).groups] == [None] * 4


def test_a_task_drawn_twice_gets_its_greedy_completions_under_numbers_of_their_own() -> None:
    sample = Sample(group_size=8, groups_per_step=2)
    engine = Script()
    taken = rollouts(engine, Judge(), num_tasks=1, sample=sample, with_greedy=True).take(step=2)
    assert [(request.first, len(request.seeds)) for request in engine.asked[0]] == [(0, 8), (8, 1), (9, 8), (17, 1)]
    ids = [r.id for group in taken.groups for r in group.all_rollouts]
    assert ids == [f"2/t0/{k}" for k in range(18)]


def test_a_group_whose_greedy_completion_could_not_be_judged_is_set_aside_and_refilled() -> None:
    tasks = first_tasks(5)
    judge = Judge(lambda id: None if id == f"1/{tasks[1]}/3" else float(sample_of(id) == 0))
    taken = rollouts(Script(), judge, with_greedy=True).take(step=1)
    assert names(taken.groups) == [tasks[0], *tasks[2:5]]
    assert names(taken.set_aside) == [tasks[1]]
    assert quality(taken.set_aside[0]) == "unjudged"
    assert quality(replace(taken.set_aside[0], greedy=None)) == "useful"
    assert group_metrics(taken)["sampling/unjudged_ratio"] == 1 / 5
    with pytest.raises(DataError, match=r"none of 20 groups could be judged.*; most often rewards\.[a-z]+: v: away$"):
        rollouts(Script(), Away(), with_greedy=True).take(step=1)


class Away(Judge):
    """Has no verdict for the greedy completion alone."""

    def submit(self, group: Group) -> Future[Group]:
        scored = super().submit(group).result()
        assert scored.greedy is not None
        lost = Verdict(score=None, outcome="error", verifier="v", reason="away")
        future: Future[Group] = Future()
        future.set_result(replace(scored, greedy=replace(scored.greedy, reward=None, verdicts={"answer": lost})))
        return future


def test_a_greedy_completion_that_the_engine_took_back_counts_as_unjudged() -> None:
    first = first_tasks(1)[0]

    def make(id: str) -> Completion:
        return completion(id, finish="abort", num_tokens=0) if id == f"1/{first}/3" else completion(id)

    taken = rollouts(Script(make=make), Judge(lambda id: 0.5), with_greedy=True).take(step=1)
    assert names(taken.set_aside) == [first]
    greedy = taken.set_aside[0].greedy
    assert greedy is not None
    assert (greedy.reward, greedy.verdicts["answer"].outcome) == (None, "error")
    assert [r.reward for r in taken.set_aside[0].rollouts] == [0.5] * 3


def test_equal_rewards_teach_something_where_the_greedy_completion_earned_another() -> None:
    tasks = first_tasks(5)
    judge = Judge(lambda id: 1.0 if id == f"1/{tasks[0]}/3" else float(task_of(id) == tasks[4] and sample_of(id) == 0))
    taken = rollouts(Script(), judge, sample=DYNAMIC, with_greedy=True).take(step=1)
    assert names(taken.groups) == [tasks[0], tasks[4]]
    assert {quality(group) for group in taken.set_aside} == {"equal"}
    metrics = group_metrics(taken)
    assert metrics["sampling/equal_ratio"] == 18 / 20
    assert metrics["frac_reward_zero_std"] == 19 / 20  # that of the siblings alone


def test_a_step_that_was_stopped_goes_on_with_the_greedy_completions_it_had(tmp_path: Path) -> None:
    whole = rollouts(Script(), Judge(lambda id: 1 / (3 + sample_of(id))), with_greedy=True).take(step=2)
    seen: list[str] = []
    engine = Script(make=lambda id: (seen.append(id), completion(id))[1])
    judge = Judge(lambda id: 1 / (3 + sample_of(id)))
    log = GroupLog(tmp_path / "groups", ignore)
    first = rollouts(engine, judge, log=log, with_greedy=True, is_stopping=lambda: len(seen) == 11)
    with pytest.raises(Stopped, match="of which 2 of 4 groups are kept"):  # the third lacks its greedy one
        first.take(step=2)
    engine = Script()
    again = rollouts(engine, judge, log=GroupLog(tmp_path / "groups", ignore), with_greedy=True)
    assert again.take(step=2).groups == whole.groups
    assert len(engine.asked[0]) == 4


def test_metrics_count_greedy_completions_nowhere_but_under_their_own_name() -> None:
    groups = [
        scored((1.0, "correct", 4, "stop"), (0.0, "wrong", 6, "stop")),
        scored((0.5, "partial", 10, "length"), (0.5, "partial", 8, "stop")),
    ]
    greedy = scored((0.25, "timeout", 99, "length"), (None, "error", 98, "length")).rollouts
    plain = group_metrics(Taken(groups))
    with_greedy = [replace(group, greedy=rollout) for group, rollout in zip(groups, greedy, strict=True)]
    metrics = group_metrics(Taken(with_greedy[:1], with_greedy[1:]))
    expected = {**plain, "num_groups": 1.0, "sampling/groups_set_aside": 1.0, "reward/greedy": 0.25}
    expected |= {"sampling/unjudged_ratio": 0.5, "sampling/equal_ratio": 0.0}
    assert metrics == expected
    assert "reward/greedy" not in group_metrics(Taken(with_greedy[1:]))  # a mean of nothing is no number


def test_the_parts_of_a_composite_have_a_mean_each() -> None:
    group = scored((0.75, "partial", 4, "stop"), (0.5, "partial", 6, "stop"))
    part = next(iter(group.rollouts[0].verdicts))
    both = [
        Verdict(
            score=0.5,
            outcome="partial",
            verifier="composite",
            checks={"form": {"score": form}, "answer": {"score": answer}},
        )
        for form, answer in ((1.0, None), (0.5, None))
    ]
    rollouts = [replace(r, verdicts={**r.verdicts, part: v}) for r, v in zip(group.rollouts, both, strict=True)]
    metrics = group_metrics(Taken([group.with_all(rollouts)]))
    assert metrics[f"rewards/{part}/form/mean"] == 0.75
    assert f"rewards/{part}/answer/mean" not in metrics  # a mean of nothing is no number


# --- parts that are compared one by one ------------------------------------------------------------------------------


def test_equal_sums_of_unequal_parts_teach_something_where_parts_are_compared() -> None:
    parts = (Part(name="a", weight=1.0), Part(name="b", weight=1.0), Part(name="overlong", weight=-1.0))
    penalty = OverlongPenalty(Overlong(buffer=1.0), 8)  # of lengths 1, 2, ...: what they cost makes no difference

    def of(*scores: tuple[float | None, float]) -> Group:
        made = scored(*[(1.0, "correct", 1 + k, "stop") for k in range(len(scores))])
        rewards = [None if None in pair else 1.0 for pair in scores]
        verdicts = [{"a": verdict(a), "b": verdict(b)} for a, b in scores]
        rows = zip(made.rollouts, verdicts, rewards, strict=True)
        return made.with_all([penalty.apply(replace(r, verdicts=v, reward=reward)) for r, v, reward in rows])

    swapped = of((1.0, 0.0), (0.0, 1.0))
    assert (quality(swapped), quality(swapped, parts)) == ("equal", "useful")
    same = of((0.5, 0.5), (0.5, 0.5), (None, 1.0))
    assert (quality(same), quality(same, parts)) == ("equal", "equal")
    metrics = group_metrics(Taken([swapped, same]), parts)
    assert (metrics["sampling/useful_ratio"], metrics["sampling/equal_ratio"]) == (0.5, 0.5)
    assert group_metrics(Taken([swapped, same]))["sampling/equal_ratio"] == 1.0


# --- metrics ---------------------------------------------------------------------------------------------------------


def scored(*rows: tuple[float | None, str, int, Finish]) -> Group:
    """rows: reward (also its verdict's score), outcome, tokens, finish."""
    return Group(
        task=Task(id="t", prompt="?"),
        prompt_ids=(1,),
        rollouts=tuple(
            Rollout(
                id=f"1/t/{k}",
                completion=completion("", finish=finish, num_tokens=num_tokens),
                verdicts={
                    "answer": Verdict(score=reward, outcome=outcome),
                    "style": Verdict(score=None, outcome="not_applicable"),
                },
                reward=reward,
            )
            for k, (reward, outcome, num_tokens, finish) in enumerate(rows)
        ),
    )


def test_metrics_by_hand_under_the_usual_names() -> None:
    groups = [
        scored((1.0, "correct", 4, "stop"), (0.0, "wrong", 6, "stop"), (None, "error", 2, "length")),
        scored((0.5, "partial", 10, "length"), (0.5, "partial", 8, "stop")),
    ]
    aside = [scored((0.0, "wrong", 12, "stop"), (None, "error", 7, "stop"))]
    assert group_metrics(Taken(groups, aside)) == {
        "num_groups": 2.0,
        # of everything that was sampled
        "reward": pytest.approx(2 / 5),
        "reward_std": pytest.approx((0.5**0.5 + 0) / 2),
        "frac_reward_zero_std": 0.5,
        "reward/unjudged_ratio": pytest.approx(2 / 7),
        "reward/unextracted": 0.0,
        "sampling/groups": 3.0,
        "sampling/groups_set_aside": 1.0,
        "sampling/useful_ratio": pytest.approx(1 / 3),
        "sampling/equal_ratio": pytest.approx(1 / 3),
        "sampling/unjudged_ratio": pytest.approx(1 / 3),
        "rewards/answer/mean": pytest.approx(2 / 5),
        "rewards/answer/std": pytest.approx((0.7 / 4) ** 0.5),  # 1, 0, 0.5, 0.5, 0 about 0.4
        "verdicts/answer/correct": pytest.approx(1 / 7),
        "verdicts/answer/error": pytest.approx(2 / 7),
        "verdicts/answer/partial": pytest.approx(2 / 7),
        "verdicts/answer/wrong": pytest.approx(2 / 7),
        "verdicts/style/not_applicable": 1.0,
        "completions/mean_length": 7.0,
        "completions/min_length": 2.0,
        "completions/max_length": 12.0,
        "completions/clipped_ratio": pytest.approx(2 / 7),
        "completions/mean_terminated_length": pytest.approx(37 / 5),
    }


def test_the_reward_is_that_of_the_policy_not_of_the_groups_that_were_chosen() -> None:
    tasks = first_tasks(8)
    taken = rollouts(Script(), differing([tasks[0], tasks[2], *tasks[5:]]), sample=DYNAMIC).take(step=1)
    metrics = group_metrics(taken)
    assert metrics["reward"] == pytest.approx(5 / 24)  # of the chosen ones 1/3
    assert metrics["frac_reward_zero_std"] == metrics["sampling/equal_ratio"] == pytest.approx(3 / 8)
    assert metrics["sampling/useful_ratio"] == pytest.approx(5 / 8)
    assert (metrics["num_groups"], metrics["sampling/groups"], metrics["sampling/groups_set_aside"]) == (4, 8, 4)


def test_metrics_of_a_step_without_a_judged_group_are_numbers_too() -> None:
    metrics = group_metrics(Taken([], [scored((None, "error", 3, "stop"))]))
    assert metrics["reward"] == 0.0
    assert metrics["reward/unjudged_ratio"] == 1.0
    assert group_metrics(Taken([]))["completions/max_length"] == 0.0


def test_a_response_without_an_answer_counts_as_unextracted_only_where_no_part_found_one() -> None:
    def of(*outcomes: tuple[str, str]) -> Group:
        made = scored(*[(0.0, "wrong", 1, "stop")] * len(outcomes))
        # "wrong 7": wrong, with 7 as its answer
        parts = [
            {name: Verdict(score=0.0, outcome=o, answer=found or None) for name, (o, _, found) in pair}
            for pair in ((("a", a.partition(" ")), ("b", b.partition(" "))) for a, b in outcomes)
        ]
        rollouts = tuple(
            Rollout(id=r.id, completion=r.completion, verdicts=p, reward=0.0)
            for r, p in zip(made.rollouts, parts, strict=True)
        )
        return Group(task=made.task, prompt_ids=made.prompt_ids, rollouts=rollouts)

    unextracted = [("no_answer", "no_answer"), ("no_answer", "wrong"), ("partial", "no_answer")]
    extracted = [("no_answer", "wrong 7"), ("wrong", "wrong"), ("correct 7", "no_answer")]
    for pair in unextracted:
        assert group_metrics(Taken([of(pair, pair)]))["reward/unextracted"] == 1.0, pair
    for pair in extracted:
        assert group_metrics(Taken([of(pair, pair)]))["reward/unextracted"] == 0.0, pair
    assert group_metrics(Taken([of(*unextracted, *extracted[:1])]))["reward/unextracted"] == 0.75
