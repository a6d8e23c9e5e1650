"""How far people agree, with themselves, with each other, and group with group: plain arrays in, plain figures out.

Votes stand in long form, V of them: item_V, annotator_V and value_V, indices from 0 on; what is missing is not there.
N items, A annotators, C categories, K completions of one ranking, R resamples, G clusters (groups, in the last part).
What people say together is rlvr/consensus.py's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse, special

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Level = Literal["nominal", "ordinal", "interval"]

TIE = 2
"""The label of a comparison that neither completion wins; 0 and 1 are the stored completions."""
MIRROR = np.array([1, 0, TIE])
"""Labels of a comparison when its two completions are exchanged."""

_LEVEL = 0.95
_Z = float(special.ndtri(0.5 + _LEVEL / 2))


def long_form(values_NA: ArrayLike) -> tuple[Ints, Ints, Floats]:
    """(item_V, annotator_V, value_V) of a table whose missing values are NaN."""
    table = np.asarray(values_NA, dtype=np.float64)
    item_V, annotator_V = np.nonzero(~np.isnan(table))
    return item_V.astype(np.int64), annotator_V.astype(np.int64), table[item_V, annotator_V]


def mirrored(item_V: Ints, label_V: Ints) -> tuple[Ints, Ints, Ints]:
    """(item, label, cluster of each item): every comparison, and itself again with its two completions exchanged.

    Alpha of these does not depend on which completion is stored first. Of the votes as they stand it does: where the
    better one always is, as in files of chosen and rejected, chance alone would agree and alpha be near 0.
    """
    num_items = int(item_V.max(initial=-1)) + 1
    cluster_N = np.tile(np.arange(num_items), 2)
    return np.concatenate([item_V, item_V + num_items]), np.concatenate([label_V, MIRROR[label_V]]), cluster_N


# --- Krippendorff's alpha --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Alpha:
    """Alpha(alpha=0.69, low=0.41, high=0.93, num_items=11, num_votes=26)"""

    alpha: float
    """1: all agree, 0: as by chance, below 0: less than by chance; NaN: all votes are the same, or no item has two."""
    low: float
    """95 % interval: percentiles over resampled items."""
    high: float
    num_items: int
    """With two votes or more; only these count."""
    num_votes: int
    """Of those items."""


def krippendorff_alpha(item_V: Ints, value_V: ArrayLike, *, level: Level, weight_N: Floats | None = None) -> float:
    """1 - (observed disagreement) / (disagreement expected by chance); NaN where there is nothing to disagree about.

    Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), repository.upenn.edu/asc_papers/43. The squared
    difference of ordinal values is that of their mid-ranks among all votes that count. weight_N: an item counts as so
    many equal ones.
    """
    parts = _disagreement(item_V, np.asarray(value_V), level, weight_N)
    return math.nan if parts is None else float(parts.alpha(parts.feature_NF.sum(axis=0)[None])[0])


def alpha_interval(
    item_V: Ints,
    value_V: ArrayLike,
    *,
    level: Level,
    seed: int,
    cluster_N: Ints | None = None,
    weight_N: Floats | None = None,
    resamples: int = 1000,
) -> Alpha:
    """Alpha with its 95 % interval: a bootstrap that resamples items, or clusters of them (cluster_N by item).

    Pairs of one ranking are one cluster: they are not independent. Ranks of ordinal values stay those of the whole
    sample. Where all agree, the low end is what it were if as many clusters as Wilson's bound of 0 of G were answered
    by chance, for resampling sees no disagreement there.
    """
    parts = _disagreement(item_V, np.asarray(value_V), level, weight_N)
    if parts is None:
        return Alpha(alpha=math.nan, low=math.nan, high=math.nan, num_items=0, num_votes=0)
    point = float(parts.alpha(parts.feature_NF.sum(axis=0)[None])[0])
    num_items, num_votes = len(parts.row_N), parts.num_votes
    cluster = parts.row_N if cluster_N is None else cluster_N[parts.row_N]
    _, cluster = np.unique(cluster, return_inverse=True)
    num_clusters = int(cluster.max()) + 1
    if math.isnan(point) or num_clusters < 2:
        return Alpha(alpha=point, low=math.nan, high=math.nan, num_items=num_items, num_votes=num_votes)
    if point == 1.0:
        return Alpha(
            alpha=1.0, low=1 - _Z**2 / (num_clusters + _Z**2), high=1.0, num_items=num_items, num_votes=num_votes
        )
    feature_GF = sparse.csr_array(
        (np.ones(len(cluster)), (cluster, np.arange(len(cluster)))), shape=(num_clusters, len(cluster))
    )
    drawn = _resampled(feature_GF @ parts.feature_NF, parts.alpha, seed, resamples)
    low, high = np.quantile(drawn[~np.isnan(drawn)], [0.5 - _LEVEL / 2, 0.5 + _LEVEL / 2])
    return Alpha(alpha=point, low=float(low), high=float(high), num_items=num_items, num_votes=num_votes)


@dataclass(frozen=True, slots=True)
class _Disagreement:
    """Sums over items from which alpha follows: additive, so that resampling adds rows."""

    row_N: Ints
    """Which items have two votes or more."""
    feature_NF: Floats
    """Observed disagreement, then what chance is worked out from."""
    alpha: Callable[[Floats], Floats]
    """[R, F] sums -> [R]"""
    num_votes: int


def _disagreement(item_V: Ints, value_V: NDArray[Any], level: Level, weight_N: Floats | None) -> _Disagreement | None:
    """None where no item has two votes."""
    num_V = np.bincount(item_V)[item_V] if len(item_V) else np.zeros(0)
    item_V, value_V = item_V[num_V > 1], value_V[num_V > 1]
    if not len(item_V):
        return None
    row_N, item_V = np.unique(item_V, return_inverse=True)
    num_N = np.bincount(item_V).astype(np.float64)
    weight = np.ones(len(row_N)) if weight_N is None else weight_N[row_N].astype(np.float64)
    category_V = np.unique(value_V, return_inverse=True)[1]
    if level == "nominal":
        counts_NC = sparse.csr_array(
            (np.ones(len(item_V)), (item_V, category_V)), shape=(len(row_N), int(category_V.max()) + 1)
        )
        same_N = np.asarray(counts_NC.power(2).sum(axis=1)).ravel()
        features = np.column_stack([(num_N**2 - same_N) / (num_N - 1), counts_NC.toarray()])
        alpha = _nominal
    else:
        if level == "ordinal":
            of_category = np.bincount(category_V, weights=weight[item_V])
            value_V = (np.cumsum(of_category) - of_category / 2)[category_V]
        value_V = value_V.astype(np.float64)
        value_V = value_V - value_V.mean()  # squares of values far from 0 would lose digits
        mean_N = np.bincount(item_V, weights=value_V) / num_N
        spread_N = np.bincount(item_V, weights=(value_V - mean_N[item_V]) ** 2)
        sums = (num_N, num_N * mean_N, np.bincount(item_V, weights=value_V**2))
        features = np.column_stack([num_N * spread_N / (num_N - 1), *sums])
        alpha = _interval
    return _Disagreement(row_N, features * weight[:, None], alpha, len(item_V))


def _nominal(sums_RF: Floats) -> Floats:
    observed, of_category = sums_RF[:, 0], sums_RF[:, 1:]
    num = of_category.sum(axis=1)
    return _one_minus(observed, (num**2 - (of_category**2).sum(axis=1)) / (num - 1))


def _interval(sums_RF: Floats) -> Floats:
    observed, num, total, squares = sums_RF.T
    spread = squares - total**2 / num
    return _one_minus(observed, num * np.where(spread > 1e-12 * squares, spread, 0.0) / (num - 1))


def _one_minus(observed_R: Floats, expected_R: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(expected_R > 0, 1 - observed_R / expected_R, np.nan)


def _resampled(feature_GF: Floats, figure: Callable[[Floats], Floats], seed: int, resamples: int) -> Floats:
    """[R] the figure of sums over clusters drawn with replacement."""
    rng = np.random.default_rng(seed)
    num = len(feature_GF)
    found: list[Floats] = []
    for start in range(0, resamples, size := max(1, 2_000_000 // num)):
        rows = min(size, resamples - start)
        drawn = rng.integers(num, size=(rows, num)) + num * np.arange(rows)[:, None]
        times_RG = np.bincount(drawn.ravel(), minlength=rows * num).reshape(rows, num)
        found.append(figure(times_RG.astype(np.float64) @ feature_GF))
    return np.concatenate(found)


# --- two raters, many rankings ---------------------------------------------------------------------------------------


def cohen_kappa(first_M: ArrayLike, second_M: ArrayLike) -> float:
    """(observed - chance) / (1 - chance) agreement of two people on M items; NaN where chance agrees fully."""
    first, second = np.asarray(first_M), np.asarray(second_M)
    if first.shape != second.shape:
        raise ValueError(f"both must judge the same items, got {first.shape} and {second.shape}")
    if not first.size:
        return math.nan
    chance = sum(float((first == label).mean() * (second == label).mean()) for label in np.union1d(first, second))
    return math.nan if chance == 1.0 else (float((first == second).mean()) - chance) / (1 - chance)


def kendall_tau_b(first_XK: ArrayLike, second_XK: ArrayLike) -> Floats:
    """[X] (concordant - discordant pairs) / sqrt(pairs that the first does not tie * pairs that the second does not).

    Of ranks or scores, X rankings at once (any leading dimensions). NaN where one of them ties all.
    """
    first, second = np.asarray(first_XK, dtype=np.float64), np.asarray(second_XK, dtype=np.float64)
    upper = np.triu_indices(first.shape[-1], 1)
    one, other = (np.sign(ranks[..., upper[0]] - ranks[..., upper[1]]) for ranks in (first, second))
    untied = np.sqrt((one**2).sum(axis=-1) * (other**2).sum(axis=-1))
    with np.errstate(invalid="ignore"):
        return np.where(untied > 0, (one * other).sum(axis=-1) / untied, np.nan)


def kendall_w(ranks_AK: ArrayLike) -> float:
    """Concordance of A rankings of K, ties corrected for: 1 is one order, 0 none. Mean ranks for ties (`mean_ranks`).

    12 S / (A^2 (K^3 - K) - A sum(t^3 - t)), S the squared deviations of the sums of ranks, t the sizes of ties. NaN
    where all is tied or fewer than two rank.
    """
    ranks = np.asarray(ranks_AK, dtype=np.float64)
    num_A, num_K = ranks.shape
    totals = ranks.sum(axis=0)
    ties = sum(float((t**3 - t).sum()) for row in ranks for t in [np.unique(row, return_counts=True)[1]])
    most = num_A**2 * (num_K**3 - num_K) - num_A * ties
    return 12 * float(((totals - totals.mean()) ** 2).sum()) / most if num_A > 1 and most > 0 else math.nan


def mean_ranks(places: Sequence[Sequence[int]]) -> list[float]:
    """Rank of each completion, 1 is best, those of one place sharing the mean: ((2,), (0, 1)) gives [2.5, 2.5, 1.0]."""
    ranks: dict[int, float] = {}
    for place in places:
        ranks |= dict.fromkeys(place, len(ranks) + (len(place) + 1) / 2)
    return [ranks[k] for k in range(len(ranks))]


# --- strengths -------------------------------------------------------------------------------------------------------


def bradley_terry(num: int, pairs: Sequence[tuple[int, int]], logits: Sequence[float], prior: float = 0.1) -> Floats:
    """Strengths s_G of mean 0 for which P(i beats j) = sigmoid(s_i - s_j) comes nearest to sigmoid(logit) of each pair.

    The least cross-entropy over K pairs of G things, with prior / 2 * sum s^2, which keeps the strength of one that
    always wins finite; by Newton's method.
    """
    s_G = np.zeros(num)
    if not pairs:
        return s_G
    design_KG = np.zeros((len(pairs), num))
    for k, (i, j) in enumerate(pairs):
        design_KG[k, i], design_KG[k, j] = 1.0, -1.0
    wanted_K = special.expit(np.asarray(logits, dtype=np.float64))
    for _ in range(100):
        p_K = special.expit(design_KG @ s_G)
        slope_G = design_KG.T @ (wanted_K - p_K) - prior * s_G
        curve_GG = design_KG.T @ (design_KG * (p_K * (1 - p_K))[:, None]) + prior * np.eye(num)
        step_G = np.linalg.solve(curve_GG, slope_G)
        s_G = s_G + step_G * min(1.0, 4.0 / max(1e-12, float(np.abs(step_G).max())))
        if np.abs(step_G).max() < 1e-12:
            break
    return s_G - s_G.mean()


# --- habits ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionBias:
    """How a person leans to what is shown first. PositionBias(num=200, share=0.73, expected=0.5, logit=0.99, ...)"""

    num: int
    """Answers with one best completion."""
    share: float
    """In which it stood first."""
    expected: float
    """The same without a bias."""
    logit: float
    """By how much the log odds of the first are raised; 0 is none, above 0 the first is favoured."""
    low: float
    """95 % interval of the logit, from inverting the score test (of pairs: Wilson's)."""
    high: float
    p: float
    """Two-sided and exact, that nothing but chance is at work."""


def position_bias(is_first_M: ArrayLike, size_M: ArrayLike) -> PositionBias:
    """Of M answers: was the best shown first, and among how many. The shown order must have been drawn at random.

    Under the model the first of K is chosen with probability e^b / (e^b + K - 1), whatever the completions are worth:
    on average over random orders, b is less than the bias in a single choice, as strong preferences hide it.
    ValueError: no answers.
    """
    is_first = np.asarray(is_first_M, dtype=bool)
    sizes_S, times_S = np.unique(np.asarray(size_M), return_counts=True)
    if not len(is_first):
        raise ValueError("there must be at least one answer")
    num, chosen = len(is_first), int(is_first.sum())

    def excess(logit: float, z: float) -> float:
        first_S = special.expit(logit - np.log(sizes_S - 1))
        spread = math.sqrt(float((times_S * first_S * (1 - first_S)).sum()))
        return float((times_S * first_S).sum()) + z * spread - min(max(chosen, 0.5), num - 0.5)

    logit, low, high = (_root(excess, z) for z in (0.0, _Z, -_Z))
    chance_M1 = np.ones(1)  # of so many firsts
    for size, times in zip(sizes_S, times_S, strict=True):
        k = np.arange(times + 1)
        ways = special.gammaln(times + 1) - special.gammaln(k + 1) - special.gammaln(times - k + 1)
        chance_M1 = np.convolve(chance_M1, np.exp(ways - k * math.log(size) + (times - k) * math.log1p(-1 / size)))
    p = min(1.0, float(chance_M1[chance_M1 <= chance_M1[chosen] * (1 + 1e-9)].sum()))
    expected = float((times_S / sizes_S).sum()) / num
    return PositionBias(num=num, share=chosen / num, expected=expected, logit=logit, low=low, high=high, p=p)


def _root(rising: Callable[[float, float], float], z: float, most: float = 40.0) -> float:
    """Where it is 0, by halving; it rises, but for z < 0 at the very left, where it is below 0 all the same."""
    low, high = -most, most
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle, z) < 0 else (low, middle)
    return (low + high) / 2


# --- groups of people ------------------------------------------------------------------------------------------------


def products(item_V: Ints, annotator_V: Ints, value_V: Floats, num_annotators: int) -> tuple[Floats, Floats]:
    """([A, A] summed products of the values of two people on the same items, [A, A] number of such items)."""
    shape = (int(item_V.max(initial=-1)) + 1, num_annotators)
    value_NA = sparse.csr_array((value_V, (item_V, annotator_V)), shape=shape)
    there_NA = sparse.csr_array((np.ones(len(item_V)), (item_V, annotator_V)), shape=shape)
    return (value_NA.T @ value_NA).toarray(), (there_NA.T @ there_NA).toarray()


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupDifference:
    """Whether groups want different things, beyond that one is less sure than the other."""

    within_G: Floats
    """Mean product of the values of two people of one group: of answers +1 and -1, agreements minus disagreements."""
    between: float
    """The same across groups."""
    correlation: float
    """Between, as a share of what the groups' own agreement allows (Spearman's correction for attenuation): 1 is that
    they want the same, 0 nothing in common, -1 the reverse. NaN where a group does not agree with itself."""
    difference: float
    """What is missing between them, sqrt(within * within) - between."""
    p: float
    """Share of ways to deal the people to groups of these sizes in which people of one group agree by as much more
    than those of two do, each person's reliability allowed for."""
    smallest_p: float
    """Nothing below can come out with so few people."""


def group_difference(
    products_AA: Floats, num_AA: Floats, group_A: Ints, *, seed: int, permutations: int = 2000
) -> GroupDifference:
    """Of `products`. The test deals whole people to groups, for it is people who differ: single answers would tell
    groups apart wherever one person errs. What it compares is what remains of the mean products once a factor of each
    person is taken off (product of two people = factor * factor), so that a group that only errs more is no other one.
    ValueError: fewer than two groups.
    """
    num_groups = int(group_A.max(initial=-1)) + 1
    if num_groups < 2:
        raise ValueError(f"there must be at least two groups, got {num_groups}")
    sums, num = products_AA.copy(), num_AA.copy()
    for of in (sums, num):
        np.fill_diagonal(of, 0)
    within, between, most = _compared(sums, num, group_A, num_groups)
    factor_A = _factors(sums, num)
    unexplained = sums - num * np.outer(factor_A, factor_A)
    closer = _closer_within(unexplained, num, group_A)
    rng = np.random.default_rng(seed)
    drawn = (_closer_within(unexplained, num, rng.permutation(group_A)) for _ in range(permutations))
    as_large = sum(not other < closer - 1e-9 for other in drawn)
    sizes = np.bincount(group_A)
    times = np.unique(sizes, return_counts=True)[1]  # of groups of one size
    log_ways = special.gammaln(len(group_A) + 1) - special.gammaln(sizes + 1).sum() - special.gammaln(times + 1).sum()
    smallest_p = max(math.exp(-log_ways), 1 / (1 + permutations))
    return GroupDifference(
        within_G=within,
        between=between,
        correlation=min(1.0, max(-1.0, between / most)) if most > 0 else math.nan,
        difference=most - between,
        p=max(smallest_p, (1 + as_large) / (1 + permutations)),  # the ways to deal are drawn, and may come out as fewer
        smallest_p=smallest_p,
    )


def _factors(sums: Floats, num: Floats, rounds: int = 200) -> Floats:
    """[A] f >= 0 for which f f' is nearest to sums / num off the diagonal, each pair weighing as its number of items.

    Not below 0: a group that wants the reverse is no crowd of adversaries.
    """
    factor_A = np.full(len(sums), 0.5)
    for _ in range(rounds):
        fitted = np.maximum(sums @ factor_A, 0.0) / np.maximum(num @ factor_A**2, 1e-12)
        factor_A = (factor_A + fitted) / 2  # the mean, for the plain step may swing from side to side
    return factor_A


def _closer_within(unexplained: Floats, num: Floats, group_A: Ints) -> float:
    """By how much more people of one group agree than people of two; NaN where there are none of one of these."""
    same = group_A[:, None] == group_A
    with np.errstate(invalid="ignore"):
        return float(unexplained[same].sum() / num[same].sum() - unexplained[~same].sum() / num[~same].sum())


def _compared(sums: Floats, num: Floats, group_A: Ints, num_groups: int) -> tuple[Floats, float, float]:
    """(within_G, between, what it could be), pairs of groups weighed by the items that they share."""
    member_AG = (group_A[:, None] == np.arange(num_groups)).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_GG = (member_AG.T @ sums @ member_AG) / (num_GG := member_AG.T @ num @ member_AG)
    within = mean_GG.diagonal().copy()
    most_GG = np.sqrt(np.outer(*[np.maximum(within, 0.0)] * 2))
    upper = np.triu_indices(num_groups, 1)
    usable = num_GG[upper] * ~np.isnan(mean_GG[upper] + most_GG[upper])
    if not usable.sum():
        return within, math.nan, math.nan
    between = float((np.nan_to_num(mean_GG[upper]) * usable).sum() / usable.sum())
    most = float((np.nan_to_num(most_GG[upper]) * usable).sum() / usable.sum())
    return within, between, most
