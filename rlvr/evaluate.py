"""Evaluation on held-out tasks: pass@k, majority vote, and intervals that say how far to trust them.

The unit of chance is the task: intervals resample tasks, never samples, because the samples of one task are alike
(resampling samples covers 70 % where it claims 95 %). A sample that we could not judge leaves every mean and is
counted.

P tasks, n samples of one task, c of them right.
"""

from __future__ import annotations

import math
import operator
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from statistics import fmean
from typing import Any

import numpy as np

from rlvr import seeds
from rlvr.errors import DataError, EngineError
from rlvr.odds import wilson
from rlvr.recipe import Eval
from rlvr.rewards.votes import canonical
from rlvr.types import SCHEMA, Completion, Engine, Request, Sampling, Task, Verdict, plain_prompt

Judge = Callable[[Sequence[tuple[str, str, Task]]], list[Verdict]]
"""Verdicts for (verifier, response, task), in the same order."""


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """1 - C(n - c, k) / C(n, k): the chance that k of the n samples, drawn without replacement, hold a right one.

    Unbiased for drawing k fresh samples (https://arxiv.org/abs/2107.03374), where 1 - (1 - c/n)^k is too low.
    ValueError unless 1 <= k <= num_samples and 0 <= num_correct <= num_samples.
    """
    n, c = _integer("num_samples", num_samples), _integer("num_correct", num_correct)
    k = _integer("k", k)
    if n < 1:
        raise ValueError(f"num_samples must be at least 1, got {n}")
    if not 0 <= c <= n:
        raise ValueError(f"num_correct must be between 0 and num_samples ({n}), got {c}")
    if not 1 <= k <= n:
        raise ValueError(f"k must be between 1 and num_samples ({n}), got {k}")
    ways = math.comb(n, k)
    return (ways - math.comb(n - c, k)) / ways  # whole numbers until here: no cancellation


def _integer(name: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be a whole number, got {value!r}") from None


def maj_at_k(answers: Sequence[str | None], correct: Sequence[bool], k: int) -> float:
    """Expected correctness of a majority vote over k of the n answers, drawn without replacement.

    Equal answers (`canonical`) vote together, None does not vote, t tied winners get 1/t each, no vote at all is wrong.
    A class is right where more than half of its members were judged right. Exact: subsets are counted, not visited.
    ValueError unless 1 <= k <= len(answers) == len(correct).
    """
    n, k = len(answers), _integer("k", k)
    if len(correct) != n:
        raise ValueError(f"correct must be as long as answers ({n}), got {len(correct)}")
    if not 1 <= k <= n:
        raise ValueError(f"k must be between 1 and the number of answers ({n}), got {k}")
    members: dict[Fraction | str, list[bool]] = defaultdict(list)
    for answer, is_correct in zip(answers, correct, strict=True):
        if answer is not None:
            members[canonical(answer)].append(bool(is_correct))
    classes = [(len(verdicts), 2 * sum(verdicts) > len(verdicts)) for verdicts in members.values()]
    if not any(is_right for _, is_right in classes):
        return 0.0
    most = min(k, max(size for size, _ in classes))
    won = sum((_won_with(votes, classes, n, k) for votes in range(1, most + 1)), start=Fraction(0))
    return float(won / math.comb(n, k))


def _won_with(votes: int, classes: Sequence[tuple[int, bool]], n: int, k: int) -> Fraction:
    """Sum of (right winners / winners) over the k-subsets whose winners have exactly `votes` votes.

    Classes smaller than `votes` and answers of None can be drawn freely; the others give at most `votes`.
    """
    large = [(size, is_right) for size, is_right in classes if size >= votes]
    free = n - sum(size for size, _ in large)
    ways: dict[tuple[int, int, int], int] = {(0, 0, 0): 1}  # (drawn, winners, right winners): subsets
    for size, is_right in large:
        grown: dict[tuple[int, int, int], int] = defaultdict(int)
        chosen = [math.comb(size, drawn) for drawn in range(votes + 1)]
        for (drawn, winners, right), count in ways.items():
            for more in range(min(votes, k - drawn) + 1):
                wins = more == votes
                grown[drawn + more, winners + wins, right + (wins and is_right)] += count * chosen[more]
        ways = grown
    right_by_winners: dict[int, int] = defaultdict(int)
    for (drawn, winners, right), count in ways.items():
        if right:
            right_by_winners[winners] += right * count * math.comb(free, k - drawn)
    return sum((Fraction(total, winners) for winners, total in right_by_winners.items()), start=Fraction(0))


def bootstrap_ci(
    values_P: Sequence[float] | np.ndarray,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> tuple[float, float]:
    """Interval of the mean over tasks: a BCa bootstrap that resamples tasks; the same seed gives the same interval.

    values_P has one number per task (its share of right samples) within bounds. Where a bootstrap claims too much:
    with fewer than five tasks' worth of right or of wrong, Wilson's interval over P tasks;
    with all values equal, as many tasks as Wilson's bound of 0 of P may lie elsewhere within bounds, so that 0 of 512
    is [0, 0.0074], not [0, 0].
    ValueError where values_P is empty or out of bounds, or level is not within (0, 1).
    """
    values = np.asarray(values_P, dtype=np.float64)
    low, high = bounds
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"values_P must have one value per task, got shape {values.shape}")
    if not bool(((values >= low) & (values <= high)).all()):  # NaN fails this too
        raise ValueError(f"values_P must be within [{low}, {high}], got {values.min()} to {values.max()}")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    num, mean = values.size, float(values.mean())
    if values.min() == values.max():
        elsewhere = wilson(0.0, num, level)[1]
        return mean - elsewhere * (mean - low), mean + elsewhere * (high - mean)
    share = (mean - low) / (high - low)
    if min(share, 1 - share) * num < 5:
        ends = wilson(share, num, level)
        return low + ends[0] * (high - low), low + ends[1] * (high - low)
    from scipy import stats  # imported here: slow, and `import rlvr.evaluate` should not be

    result = stats.bootstrap(
        (values,),
        np.mean,
        confidence_level=level,
        n_resamples=resamples,
        batch=max(1, 2_000_000 // num),  # bounds the memory of the resampled tables
        method="BCa" if num <= 2000 else "percentile",  # the correction costs P^2 and vanishes as 1/sqrt(P)
        rng=np.random.default_rng(seed),
    )
    interval = result.confidence_interval
    return float(interval.low), float(interval.high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What a model can do on some tasks. Shares are in [0, 1]; None where nothing was judged."""

    n_tasks: int
    n_samples: int
    """Sampled completions per task."""
    pass_at_1: float | None
    """Mean over tasks of right samples / judged samples. Right means score 1."""
    ci95: tuple[float, float] | None
    """Of pass_at_1, over tasks."""
    pass_at: Mapping[int, float | None]
    """pass@k by k, over tasks with at least k judged samples."""
    maj_at: Mapping[int, float | None]
    """maj@k by k; None where the verifier reports no answers to vote with."""
    left_out: Mapping[int, int]
    """Tasks with fewer than k judged samples, by k."""
    mean_score: float | None
    """Mean over tasks of the mean score, which counts partial credit."""
    greedy: Mapping[str, Any] | None
    """pass@1, ci95 and unjudged of one completion per task at temperature 0; None where it was not asked for."""
    truncated: float
    """Share of completions cut at max_tokens."""
    unextracted: float | None
    """Share of judged completions in which no answer was found."""
    unjudged: int
    """Completions that we could not judge: our failure, left out of every mean."""
    mean_tokens: float
    outcomes: Mapping[str, int]
    by_source: Mapping[str, Mapping[str, Any]]
    verifier: str
    """Comma-joined where there are several."""
    version: str
    seconds: float
    """Sampling and judging."""
    tokens_per_second: float
    """Of sampling."""
    values: Mapping[str, float] = field(repr=False)
    """Right share of the judged samples by task id, what `compare` pairs; tasks without a judged sample are missing."""
    rows: Sequence[Mapping[str, Any]] = field(repr=False)
    """One row per completion, for writing to disk; not part of to_dict()."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, with the metrics under their usual names: "pass@1", "pass@8", "maj@8"."""
        result: dict[str, Any] = {
            "schema": SCHEMA,
            "n_tasks": self.n_tasks,
            "n_samples": self.n_samples,
            "pass@1": self.pass_at_1,
            "ci95": None if self.ci95 is None else list(self.ci95),
        }
        result |= {f"pass@{k}": value for k, value in self.pass_at.items()}
        result |= {f"maj@{k}": value for k, value in self.maj_at.items()}
        result["left_out"] = {f"pass@{k}": count for k, count in self.left_out.items() if count}
        if self.greedy is not None:
            result["greedy"] = dict(self.greedy)
        for name in ("mean_score", "truncated", "unextracted", "unjudged", "mean_tokens"):
            result[name] = getattr(self, name)
        result["outcomes"] = dict(self.outcomes)
        if len(self.by_source) > 1:
            result["by_source"] = {source: dict(row) for source, row in self.by_source.items()}
        for name in ("verifier", "version", "seconds", "tokens_per_second"):
            result[name] = getattr(self, name)
        return result


@dataclass(frozen=True, slots=True)
class _Sample:
    task: Task
    index: int
    greedy: bool
    completion: Completion
    verdict: Verdict

    @property
    def judged(self) -> bool:
        return self.verdict.score is not None

    @property
    def right(self) -> bool:
        return self.verdict.score == 1.0


def evaluate(
    prompts: Sequence[tuple[Task, tuple[int, ...]]],
    engine: Engine,
    judge: Judge,
    settings: Eval,
    *,
    name: str = "eval",
    on_progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Sample every task `settings.samples` times (and once greedily, where on), judge, and sum up.

    The result depends on tasks, model and settings alone: seeds are keyed by task and sample, and neither the order of
    completion nor the order of tasks changes a number.
    on_progress(sampled, total) is called after each completion.
    DataError where there are no tasks, an id comes twice or a task names no verifier; EngineError where completions
    are missing.
    """
    _check_tasks([task for task, _ in prompts])
    start = time.perf_counter()
    wanted, requests = _requests(prompts, settings, name)
    completions: dict[str, Completion] = {}
    for sample_id, completion in engine.generate(requests):
        if sample_id not in wanted or sample_id in completions:
            raise EngineError(f"the engine gave a completion for {sample_id!r}, which was not asked for (again)")
        completions[sample_id] = completion
        if on_progress is not None:
            on_progress(len(completions), len(wanted))
    missing = [sample_id for sample_id in wanted if sample_id not in completions]
    if missing:
        raise EngineError(f"{len(missing)} of {len(wanted)} completions are missing, among them {missing[0]!r}")
    sampling_seconds = time.perf_counter() - start
    samples = _judged(wanted, completions, judge)
    return _summarise(
        samples, [task for task, _ in prompts], settings, sampling_seconds, seconds=time.perf_counter() - start
    )


def _check_tasks(tasks: Sequence[Task]) -> None:
    if not tasks:
        raise DataError("there are no tasks to evaluate")
    task_id, count = Counter(task.id for task in tasks).most_common(1)[0]
    if count > 1:
        raise DataError(f"task ids must be unique, {task_id!r} comes {count} times")
    for task in tasks:
        if task.verifier is None:
            raise DataError(f"task {task.id!r} names no verifier")


def _requests(
    prompts: Sequence[tuple[Task, tuple[int, ...]]], settings: Eval, name: str
) -> tuple[dict[str, tuple[Task, int, bool]], list[Request]]:
    """{sample id: (task, sample index, greedy)} in the order of the result, and the requests for them."""
    kinds = [(name, settings.samples, settings.temperature, False)]
    if settings.greedy:
        kinds.append((f"{name}:greedy", 1, 0.0, True))
    wanted: dict[str, tuple[Task, int, bool]] = {}
    requests: list[Request] = []
    for prefix, num, temperature, greedy in kinds:
        sampling = Sampling(temperature=temperature, max_tokens=settings.max_tokens, stop=settings.stop)
        for task, prompt_ids in prompts:
            keys = tuple(seeds.seed_for(settings.seed, "eval", task.id, index) for index in range(num))
            request = Request(id=f"{prefix}/{task.id}", prompt_ids=prompt_ids, seeds=keys, sampling=sampling)
            requests.append(request)
            wanted |= {sample_id: (task, index, greedy) for index, sample_id in enumerate(request.sample_ids)}
    return wanted, requests


def _judged(
    wanted: Mapping[str, tuple[Task, int, bool]], completions: Mapping[str, Completion], judge: Judge
) -> list[_Sample]:
    finished = [sample_id for sample_id in wanted if completions[sample_id].finish != "abort"]
    asked = [(wanted[i][0].verifier or "", completions[i].text, wanted[i][0]) for i in finished]
    verdicts = dict(zip(finished, judge(asked), strict=True))
    aborted = Verdict(score=None, outcome="error", reason="the engine took the completion back")
    return [
        _Sample(task, index, greedy, completions[sample_id], verdicts.get(sample_id, aborted))
        for sample_id, (task, index, greedy) in wanted.items()
    ]


def _summarise(
    everything: Sequence[_Sample], tasks: Sequence[Task], settings: Eval, sampling_seconds: float, *, seconds: float
) -> Evaluation:
    samples = [sample for sample in everything if not sample.greedy]
    judged: dict[str, list[_Sample]] = {task.id: [] for task in tasks}
    for sample in samples:
        if sample.judged:
            judged[sample.task.id].append(sample)
    values = {task_id: fmean(s.right for s in rows) for task_id, rows in judged.items() if rows}
    scores = [fmean(s.verdict.score or 0.0 for s in rows) for rows in judged.values() if rows]
    large = {k: [rows for rows in judged.values() if len(rows) >= k] for k in settings.k}
    silent = {s.task.verifier for s in samples if s.right and s.verdict.answer is None}
    votable = {k: [rows for rows in large[k] if rows[0].task.verifier not in silent] for k in settings.k}
    return Evaluation(
        n_tasks=len(tasks),
        n_samples=settings.samples,
        pass_at_1=_mean(values.values()),
        ci95=_ci(values.values(), settings, "sampled"),
        pass_at={k: _mean(pass_at_k(len(rows), sum(s.right for s in rows), k) for rows in large[k]) for k in large},
        maj_at={
            k: _mean(maj_at_k([s.verdict.answer for s in rows], [s.right for s in rows], k) for rows in votable[k])
            for k in votable
        },
        left_out={k: len(tasks) - len(large[k]) for k in settings.k},
        mean_score=_mean(scores),
        greedy=_greedy([sample for sample in everything if sample.greedy], settings) if settings.greedy else None,
        truncated=fmean(s.completion.finish == "length" for s in samples),
        unextracted=_unextracted(samples),
        unjudged=sum(not s.judged for s in samples),
        mean_tokens=fmean(len(s.completion.token_ids) for s in samples),
        outcomes=dict(sorted(Counter(s.verdict.outcome for s in samples).items())),
        by_source=_by_source(tasks, values),
        verifier=_joined(s.verdict.verifier or s.task.verifier or "" for s in samples),
        version=_joined(s.verdict.version for s in samples),
        seconds=seconds,
        tokens_per_second=sum(len(s.completion.token_ids) for s in everything) / max(sampling_seconds, 1e-9),
        values=values,
        rows=[_row(sample) for sample in everything],
    )


def _mean(values: Iterable[float]) -> float | None:
    known = sorted(values)  # so that the order of tasks does not change the last bit
    return fmean(known) if known else None


def _ci(values: Iterable[float], settings: Eval, purpose: str) -> tuple[float, float] | None:
    known = sorted(values)
    return bootstrap_ci(known, seed=seeds.seed_for(settings.seed, "eval-ci", purpose)) if known else None


def _joined(names: Iterable[str]) -> str:
    return ",".join(sorted({name for name in names if name}))


def _greedy(samples: Sequence[_Sample], settings: Eval) -> dict[str, Any]:
    right = [float(s.right) for s in samples if s.judged]
    interval = _ci(right, settings, "greedy")
    return {
        "pass@1": _mean(right),
        "ci95": None if interval is None else list(interval),
        "unjudged": len(samples) - len(right),
    }


def _unextracted(samples: Sequence[_Sample]) -> float | None:
    """Some verifiers (of code, say) never report an answer; there only the outcome tells."""
    reporting = {s.task.verifier for s in samples if s.verdict.answer is not None}
    judged = [s for s in samples if s.judged]
    return _mean(
        s.verdict.outcome == "no_answer" or (s.verdict.answer is None and not s.right and s.task.verifier in reporting)
        for s in judged
    )


def _by_source(tasks: Sequence[Task], values: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    ids: dict[str, list[str]] = defaultdict(list)
    for task in tasks:
        ids[task.source].append(task.id)
    return {
        source: {"n_tasks": len(ids[source]), "pass@1": _mean(values[i] for i in ids[source] if i in values)}
        for source in sorted(ids)
    }


def _row(sample: _Sample) -> dict[str, Any]:
    verdict = sample.verdict
    return {
        "task": sample.task.id,
        "source": sample.task.source,
        "sample": sample.index,
        "greedy": sample.greedy,
        "prompt": plain_prompt(sample.task.prompt),
        "gold": sample.task.gold,
        "response": sample.completion.text,
        "finish": sample.completion.finish,
        "tokens": len(sample.completion.token_ids),
        "score": verdict.score,
        "outcome": verdict.outcome,
        "reason": verdict.reason,
        "answer": verdict.answer,
        "how": verdict.how,
        "verifier": verdict.verifier or sample.task.verifier,
        "version": verdict.version,
    }


def compare(
    before: Evaluation | Mapping[str, float], after: Evaluation | Mapping[str, float], *, seed: int = 0
) -> dict[str, Any]:
    """after - before, paired by task: {"delta", "ci95", "n_tasks", "better", "worse", "equal", "p", "unpaired"}.

    Takes evaluations or {task id: right share}. Pairing needs about a third of the tasks that two separate intervals
    would need. p is the two-sided sign test's over the tasks that changed. ValueError where they share no task.
    """
    old = before.values if isinstance(before, Evaluation) else before
    new = after.values if isinstance(after, Evaluation) else after
    shared = sorted(old.keys() & new.keys())
    if not shared:
        raise ValueError("before and after share no task")
    deltas = np.array([new[task_id] - old[task_id] for task_id in shared])
    better, worse = int((deltas > 0).sum()), int((deltas < 0).sum())
    p = 1.0
    if better + worse:
        from scipy import stats  # slow to import

        p = float(stats.binomtest(better, better + worse).pvalue)
    return {
        "delta": float(deltas.mean()),
        "ci95": list(bootstrap_ci(deltas, seed=seeds.seed_for(seed, "compare"), bounds=(-1.0, 1.0))),
        "n_tasks": len(shared),
        "better": better,
        "worse": worse,
        "equal": len(shared) - better - worse,
        "p": p,
        "unpaired": len(old.keys() ^ new.keys()),
    }


def compare_values(before: Mapping[str, float], after: Mapping[str, float], *, seed: int = 0) -> dict[str, Any]:
    """compare() of values of any size by task: also {"before", "after"}, the means over the shared tasks.

    ValueError where they share no task.
    """
    shared = sorted(before.keys() & after.keys())
    if not shared:
        raise ValueError("before and after share no task")
    # compare() takes shares, of which only the difference counts; what it says is turned back
    deltas = {task: after[task] - before[task] for task in shared}
    unit = max(map(abs, deltas.values())) or 1.0
    told = compare(dict.fromkeys(shared, 0.0), {task: delta / unit for task, delta in deltas.items()}, seed=seed)
    return {
        **told,
        "before": float(np.mean([before[task] for task in shared])),
        "after": float(np.mean([after[task] for task in shared])),
        "delta": told["delta"] * unit,
        "ci95": [end * unit for end in told["ci95"]] if any(deltas.values()) else [0.0, 0.0],
        "unpaired": len(before.keys() ^ after.keys()),
    }
