"""Alarms: a proxy of what is wanted (a reward model, a judge, the policy's own opinion) that is being gamed.

Each looks at stretches of the run's last steps: alarms.window of them, twice as many, and so on up to the whole run.
A series of step means rises or falls beyond noise where Spearman's rank correlation with the step has a one-sided p
below LEVEL (Student's t with n - 2 degrees): by ranks, so that the unit of a proxy does not matter; so low because it
is asked after every step. Noise alone falls at some time in 1.3 % of runs of 300 steps, in 3 % of those of 1,000.

over_optimisation   over one stretch a proxy rises and a verified part falls, one of weight 0 too: past some divergence
                    the proxy goes on rising and what it stands for falls (https://arxiv.org/abs/2210.10760)
length_bias         over one stretch a proxy and the mean length rise, while within groups the proxy pays for length
                    beyond what verified parts explain: the mean over the steps of that partial correlation, less
                    three standard errors, is above BIAS. Or the length falls, and the correlation is as far below 0.
                    As all three have to come together, and early, EARLY is enough for p
collapse            where a part asks the siblings or the policy itself: in the last window the share of distinct
                    completions or the entropy is below COLLAPSED times that of the first steps, or the majority has
                    more than SETTLED of the votes; and no verified part is above that of the first steps by three
                    standard errors

They are a function of the rows of metrics.jsonl, so a resumed run has the same. T steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from statistics import fmean, stdev
from typing import Any

import numpy as np

from rlvr import recipe
from rlvr.errors import DataError
from rlvr.rewards.shaping import part_length_slope
from rlvr.types import Group

LEVEL = 1e-5
EARLY = 1e-3
BIAS = 0.2
COLLAPSED = 0.4
SETTLED = 0.95
KINDS = ("over_optimisation", "length_bias", "collapse")
_FIRST = 4
"""Steps that say where a run began."""
_ERRORS = 3.0
"""Standard errors beyond which a mean is another."""
_LENGTH, _DISTINCT, _ENTROPY = "completions/mean_length", "completions/distinct_ratio", "entropy"
_OWN_OPINION = ("majority", "self_certainty")


class Alarmed(DataError):
    """An alarm came, and alarms.stop is set."""


# --- what a step tells -----------------------------------------------------------------------------------------------


def measured(groups: Sequence[Group], rewards: Mapping[str, recipe.Reward]) -> dict[str, float]:
    """Metrics of one step's groups that the alarms read, each left out where it has no value.

    rewards/PART/length_slope: of a part's worth by the completion's length within groups, per token;
    rewards/PART/length_corr: of a proxy, the same as a correlation, without what the verified parts explain of both;
    rewards/PART/majority_share: of `majority`, the winner's votes over all siblings;
    completions/distinct_ratio: different texts over siblings. The last two are means over groups.
    """
    metrics = {_DISTINCT: fmean(len({r.completion.text for r in g.rollouts}) / len(g.rollouts) for g in groups)}
    truths, proxies = _truths(rewards), _proxies(rewards)
    for name, part in rewards.items():
        metrics[f"rewards/{name}/length_slope"] = part_length_slope(groups, name)
        if name in proxies and (correlation := _partial_correlation(*_within_groups(groups, name, truths))) is not None:
            metrics[f"rewards/{name}/length_corr"] = correlation
        shares = [_majority_share(group, name) for group in groups] if part.kind == "majority" else []
        if known := [share for share in shares if share is not None]:
            metrics[f"rewards/{name}/majority_share"] = fmean(known)
    return metrics


def _proxies(rewards: Mapping[str, recipe.Reward]) -> list[str]:
    """Parts that are trained on and only stand for what is wanted."""
    return [name for name, part in rewards.items() if part.weight > 0 and part.kind not in ("verified", "random")]


def _truths(rewards: Mapping[str, recipe.Reward]) -> list[str]:
    return [name for name, part in rewards.items() if part.weight >= 0 and part.kind == "verified"]


def _within_groups(groups: Sequence[Group], name: str, truths: Sequence[str]) -> tuple[np.ndarray, ...]:
    """(length_N in tokens, worth_N of the part, truth_NK of the truths), each less its group's mean."""
    tables: list[np.ndarray] = []
    for group in groups:
        rows = [
            [len(r.completion.token_ids), r.verdicts[name].worth, *(r.verdicts[truth].score for truth in truths)]
            for r in group.rollouts
            if r.verdicts[name].worth is not None
        ]
        table_GK = np.array(rows, dtype=np.float64).reshape(-1, 2 + len(truths))
        if len(table_GK):
            # a truth that is silent of any sibling explains nothing in this group
            tables.append(np.nan_to_num(table_GK - table_GK.mean(axis=0)))
    table_NK = np.concatenate(tables) if tables else np.zeros((0, 2 + len(truths)))
    return table_NK[:, 0], table_NK[:, 1], table_NK[:, 2:]


def _partial_correlation(one_N: np.ndarray, other_N: np.ndarray, given_NK: np.ndarray) -> float | None:
    """Of what is left of both when the columns of given_NK are regressed out; None where nothing is left of one."""
    before = float(one_N @ one_N), float(other_N @ other_N)
    basis: list[np.ndarray] = []
    for column_N in given_NK.T:
        left_N = _without(column_N, basis)
        if left_N @ left_N > 1e-12 * (column_N @ column_N):
            basis.append(left_N / math.sqrt(left_N @ left_N))
    one_N, other_N = _without(one_N, basis), _without(other_N, basis)
    after = float(one_N @ one_N), float(other_N @ other_N)
    if any(left <= 1e-12 * whole for left, whole in zip(after, before, strict=True)):
        return None
    return float(one_N @ other_N) / math.sqrt(after[0] * after[1])


def _without(vector_N: np.ndarray, basis: Sequence[np.ndarray]) -> np.ndarray:
    for unit_N in basis:
        vector_N = vector_N - (vector_N @ unit_N) * unit_N
    return vector_N


def _majority_share(group: Group, name: str) -> float | None:
    votes = [r.verdicts[name].checks.get("votes_most") for r in group.rollouts if not r.verdicts[name].is_failure]
    return votes[0] / len(votes) if votes and votes[0] is not None else None


# --- what the steps so far tell --------------------------------------------------------------------------------------


class Alarms:
    """add() after each step; goes on after a resume from the rows of metrics.jsonl."""

    def __init__(self, settings: recipe.Alarms, rewards: Mapping[str, recipe.Reward]) -> None:
        self.settings = settings
        self._proxies, self._truths = _proxies(rewards), _truths(rewards)
        self._own_opinions = [name for name in self._proxies if rewards[name].kind in _OWN_OPINION]
        self._rows: list[dict[str, float]] = []
        self._raised: dict[str, str] = {}
        """Kinds of alarm that came, each with its first words."""

    @classmethod
    def after(
        cls, settings: recipe.Alarms, rewards: Mapping[str, recipe.Reward], rows: Iterable[Mapping[str, Any]]
    ) -> Alarms:
        """rows: of metrics.jsonl, in the order of steps. What the run was told of before is not told again."""
        alarms = cls(settings, rewards)
        for row in rows:
            if "reward" in row:  # not an evaluation's
                alarms._rows.append(alarms._kept(row))
                alarms._raised |= {kind: f"alarm/{kind} came before" for kind in KINDS if row.get(f"alarm/{kind}")}
        return alarms

    def add(self, metrics: Mapping[str, float]) -> tuple[dict[str, float], list[str]]:
        """(alarm/KIND, 1 or 0, of those that the parts allow; words of the kinds that come for the first time) with one
        step more."""
        self._rows.append(self._kept(metrics))
        words = {}
        if self._proxies and self._truths:
            words["over_optimisation"] = next(self._over_optimisation(), "")
        if self._proxies:
            words["length_bias"] = next(self._length_bias(), "")
        if self._own_opinions:
            words["collapse"] = self._collapse()
        fresh = {kind: text for kind, text in words.items() if text and kind not in self._raised}
        self._raised |= fresh
        return {f"alarm/{kind}": float(bool(text)) for kind, text in words.items()}, list(fresh.values())

    def check(self, step: int) -> None:
        """Alarmed where one came and alarms.stop is set."""
        if self.settings.stop and self._raised:
            raise Alarmed(
                f"after step {step}: {next(iter(self._raised.values()))}; alarms.stop ended the run, alarms.stop=false "
                "goes on"
            )

    def _kept(self, row: Mapping[str, Any]) -> dict[str, float]:
        """What the alarms read of a row."""
        wanted = [_LENGTH, _DISTINCT, _ENTROPY]
        for name in dict.fromkeys((*self._proxies, *self._truths)):
            wanted += [f"rewards/{name}/{of}" for of in ("mean", "length_corr", "length_slope", "majority_share")]
        return {name: float(row[name]) for name in wanted if row.get(name) is not None and math.isfinite(row[name])}

    def _stretches(self) -> Iterator[Sequence[Mapping[str, float]]]:
        """The last window of steps, twice as many, ... and all of them."""
        num = self.settings.window
        while num < len(self._rows):
            yield self._rows[-num:]
            num *= 2
        if len(self._rows) >= self.settings.window:
            yield self._rows

    def _over_optimisation(self) -> Iterator[str]:
        for rows in self._stretches():
            for proxy, truth in product(self._proxies, self._truths):
                rising, falling = _values(rows, _mean_of(proxy)), _values(rows, _mean_of(truth))
                if min(len(rising), len(falling)) >= self.settings.window and _rises(rising) and _falls(falling):
                    yield (
                        f"over the last {len(rows)} steps {proxy} rose ({_ends(rising)}) while {truth}, which is "
                        f"verified, fell ({_ends(falling)}): the reward is being gamed; raise kl.coef, give a verified "
                        "part weight, or stop earlier (alarm/over_optimisation)"
                    )

    def _length_bias(self) -> Iterator[str]:
        for rows in self._stretches():
            length_T = _values(rows, _LENGTH)
            for proxy in self._proxies:
                pay_T, worth_T = _values(rows, f"rewards/{proxy}/length_corr"), _values(rows, _mean_of(proxy))
                if min(len(pay_T), len(worth_T)) < self.settings.window or not _rises(worth_T, EARLY):
                    continue
                low, high = _interval(pay_T)
                grows, shrinks = low > BIAS and _rises(length_T, EARLY), high < -BIAS and _falls(length_T, EARLY)
                if grows or shrinks:
                    slope = fmean(_values(rows, f"rewards/{proxy}/length_slope"))
                    yield (
                        f"over the last {len(rows)} steps {proxy} rose ({_ends(worth_T)}) and completions grew "
                        f"{'longer' if grows else 'shorter'} ({_ends(length_T)} tokens): within groups it pays "
                        f"{slope:.3g} per token, a correlation of {fmean(pay_T):.2f} that no verified part explains; "
                        "shaping.length_residual takes the length out of it (alarm/length_bias)"
                    )

    def _collapse(self) -> str:
        num = self.settings.window
        if len(self._rows) < num + _FIRST:
            return ""
        first, last = self._rows[:_FIRST], self._rows[-num:]
        found = [
            f"{name} is {fmean(after):.3g}, after {fmean(before):.3g} at first"
            for name in (_DISTINCT, _ENTROPY)
            if (before := _values(first, name))
            and (after := _values(last, name))
            and fmean(after) < COLLAPSED * fmean(before)
        ]
        for name in self._own_opinions:
            shares = _values(last, f"rewards/{name}/majority_share")
            if shares and fmean(shares) > SETTLED:
                found.append(f"the majority of {name} has {100 * fmean(shares):.1f} % of the votes")
        if not found or any(_is_above(_values(last, _mean_of(t)), _values(first, _mean_of(t))) for t in self._truths):
            return ""
        verified = "no verified part rose with it" if self._truths else "no verified part says whether they are right"
        return (
            f"completions have become alike: {'; '.join(found)}, and {verified}; look at held-out tasks, raise kl.coef "
            "or stop earlier (alarm/collapse)"
        )


def _mean_of(part: str) -> str:
    return f"rewards/{part}/mean"


def _values(rows: Iterable[Mapping[str, float]], name: str) -> list[float]:
    return [row[name] for row in rows if name in row]


def trend_p(values_T: Sequence[float]) -> float:
    """One-sided p of Spearman's rank correlation with the step being above 0, by Student's t with T - 2 degrees.

    1 - p is that of being below 0, but for values that are all equal, or fewer than three: 0.5 for both.
    """
    from scipy.special import stdtr  # slow to import

    _, place_T, counts = np.unique(np.asarray(values_T, dtype=np.float64), return_inverse=True, return_counts=True)
    rank_T = (np.cumsum(counts) - (counts - 1) / 2)[place_T]
    num = len(rank_T)
    if num < 3 or len(counts) == 1:
        return 0.5
    step_T = np.arange(num) - (num - 1) / 2
    rank_T = rank_T - rank_T.mean()
    r = float(step_T @ rank_T) / math.sqrt(float(step_T @ step_T) * float(rank_T @ rank_T))
    t = math.copysign(math.inf, r) if abs(r) >= 1 - 1e-12 else r * math.sqrt((num - 2) / (1 - r * r))
    return float(stdtr(num - 2, -t))


def _rises(values_T: Sequence[float], level: float = LEVEL) -> bool:
    return trend_p(values_T) < level


def _falls(values_T: Sequence[float], level: float = LEVEL) -> bool:
    return trend_p([-value for value in values_T]) < level


def _interval(values_T: Sequence[float]) -> tuple[float, float]:
    """The mean less and plus three standard errors."""
    error = stdev(values_T) / math.sqrt(len(values_T))
    return fmean(values_T) - _ERRORS * error, fmean(values_T) + _ERRORS * error


def _is_above(last: Sequence[float], first: Sequence[float]) -> bool:
    """The mean of the last steps is above that of the first ones, beyond three standard errors of the difference."""
    if len(first) < 2 or len(last) < 2:
        return False
    error = max(stdev(first), stdev(last)) * math.sqrt(1 / len(first) + 1 / len(last))
    return fmean(last) - fmean(first) > _ERRORS * error


def _ends(values_T: Sequence[float]) -> str:
    """Means of the first and the last quarter: "0.41 to 0.78"."""
    num = max(1, len(values_T) // 4)
    return f"{fmean(values_T[:num]):.3g} to {fmean(values_T[-num:]):.3g}"
