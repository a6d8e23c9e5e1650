"""What people say together when each counts by the reliability that the answers show.

Votes stand in long form, V of them: item_V, annotator_V and label_V, indices from 0 on. N items, A annotators,
C classes.

A class of a comparison is "which of the two stored completions is better": 0, 1, and 2 for a tie. Which of them is
stored first says nothing, so both are treated alike (`symmetric`). Of classes that mean something by themselves (good,
bad) that would be wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse, special
from scipy.sparse import csgraph

from rlvr.agreement import MIRROR, TIE, Floats, Ints

_PRIOR_ANSWERS = 2.0
_PRIOR_RIGHT = 0.7
_Z = float(special.ndtri(0.975))


@dataclass(frozen=True, slots=True, kw_only=True)
class Consensus:
    """What all say together when each counts by the reliability that the answers show."""

    posterior_NC: Floats
    """Probability of each class of each item."""
    confusion_ACC: Floats
    """Probability that a person says the last index where the truth is the one before."""
    share_C: Floats
    """Of the classes among items."""
    reliability_A: Floats
    """Probability of the right answer where the person and the truth name one (ties left out); 0.5 guesses, below 0.5
    says the reverse."""
    low_A: Floats
    """95 % interval of the reliability, the uncertainty about the truth included."""
    high_A: Floats
    num_A: Ints
    """Votes of each person."""
    log_posterior: tuple[float, ...]
    """Nats, after each round; never falls."""
    is_converged: bool


@dataclass(frozen=True, slots=True)
class _Crowd:
    """The votes, sorted by item, and the priors as counts."""

    item_V: Ints
    annotator_V: Ints
    label_V: Ints
    num_items: int
    num_annotators: int
    num_classes: int
    symmetric: bool
    gold_N: Ints
    prior_CC: Floats
    """Answers that everybody is taken to have given beforehand, by truth and label: right ones 7 in 10."""


def dawid_skene(
    item_V: Ints,
    annotator_V: Ints,
    label_V: Ints,
    *,
    num_items: int,
    num_annotators: int,
    num_classes: int = 2,
    symmetric: bool = True,
    gold_N: Ints | None = None,
    cluster_N: Ints | None = None,
    tolerance: float = 1e-9,
    max_rounds: int = 2000,
) -> Consensus:
    """The model of Dawid and Skene (1979, doi.org/10.2307/2346806), its mode by expectation and maximisation.

    symmetric: classes 0 and 1 are the stored completions of a comparison (2, where num_classes is 3, is a tie), so a
    person errs on both alike and both are as likely: one figure per person where the full table has two. It is what is
    true of comparisons, needs half the answers, and makes the result independent of which completion is stored first.
    gold_N: the known class by item, -1 where it is not known; these stay as they are.
    cluster_N: by item; intervals take votes on items of one cluster as dependent.

    Everybody is taken to have given two answers beforehand, 1.4 of them right, so nobody becomes 0 or 1 and, without
    gold, the majority is more often right than not. With gold the search starts from the majority, from its reverse and
    from the accuracy on gold, and the most probable end is taken: a crowd that is mostly wrong is then found out.
    People whose errors agree (who copy from each other) look reliable: the model takes errors as independent.
    ValueError: labels that are none of the classes, or symmetric with other than 2 or 3 of them.
    """
    if symmetric and num_classes not in (2, 3):
        raise ValueError(f"a comparison has 2 classes, or 3 with ties, got num_classes {num_classes}")
    if len(label_V) and not 0 <= label_V.min() <= label_V.max() < num_classes:
        raise ValueError(f"label_V must be within 0..{num_classes - 1}, got {label_V.min()} to {label_V.max()}")
    order = np.argsort(item_V, kind="stable")
    gold = np.full(num_items, -1) if gold_N is None else np.asarray(gold_N)
    prior = np.full((num_classes, num_classes), _PRIOR_ANSWERS * (1 - _PRIOR_RIGHT) / (num_classes - 1))
    np.fill_diagonal(prior, _PRIOR_ANSWERS * _PRIOR_RIGHT)
    votes = (item_V[order], annotator_V[order], label_V[order])
    crowd = _Crowd(*votes, num_items, num_annotators, num_classes, symmetric, gold, prior)
    starts = [_clamped(crowd, vote_shares(item_V, label_V, num_items, num_classes, smooth=0.5))]
    if (gold >= 0).any():
        starts.append(_clamped(crowd, starts[0][:, MIRROR[:num_classes]] if num_classes < 4 else starts[0][:, ::-1]))
        starts.append(_expect(crowd, *_maximise(crowd, _clamped(crowd, np.zeros_like(starts[0]))))[0])
    ends = [_climb(crowd, start, tolerance, max_rounds) for start in starts]
    posterior_NC, share_C, confusion, history, is_converged = max(ends, key=lambda end: end[3][-1])
    reliability, low, high = _reliability(crowd, posterior_NC, share_C, confusion, cluster_N)
    return Consensus(
        posterior_NC=posterior_NC,
        confusion_ACC=confusion,
        share_C=share_C,
        reliability_A=reliability,
        low_A=low,
        high_A=high,
        num_A=np.bincount(annotator_V, minlength=num_annotators),
        log_posterior=tuple(history),
        is_converged=is_converged,
    )


def vote_shares(item_V: Ints, label_V: Ints, num_items: int, num_classes: int, smooth: float = 0.0) -> Floats:
    """[N, C] share of an item's votes by class, `smooth` votes for each class added; all alike without any."""
    votes_NC = np.bincount(item_V * num_classes + label_V, minlength=num_items * num_classes).astype(np.float64)
    votes_NC = votes_NC.reshape(num_items, num_classes) + smooth
    total_N1 = votes_NC.sum(axis=1, keepdims=True)
    return np.where(total_N1 > 0, votes_NC / np.maximum(total_N1, 1e-300), 1 / num_classes)


def _clamped(crowd: _Crowd, posterior_NC: Floats) -> Floats:
    known = np.flatnonzero(crowd.gold_N >= 0)
    posterior_NC = posterior_NC.copy()
    posterior_NC[known] = 0.0
    posterior_NC[known, crowd.gold_N[known]] = 1.0
    return posterior_NC


def _climb(
    crowd: _Crowd, posterior_NC: Floats, tolerance: float, max_rounds: int
) -> tuple[Floats, Floats, Floats, list[float], bool]:
    """Two plain rounds and a leap in their direction, taken where it is uphill, until a round moves no posterior.

    Plain rounds alone creep where few people share few items. The leap is SQUAREM's third, in logs (Varadhan and Roland
    2008, doi.org/10.1111/j.1467-9469.2007.00585.x).
    """
    here = _maximise(crowd, posterior_NC)
    posterior_NC, value = _expect(crowd, *here)
    history = [value]
    while True:
        first = _maximise(crowd, posterior_NC)
        before, value = _expect(crowd, *first)
        history.append(value)
        second = _maximise(crowd, before)
        posterior_NC, value = _expect(crowd, *second)
        history.append(value)
        moved = float(np.abs(posterior_NC - before).max(initial=0.0))
        if moved < tolerance or len(history) >= max_rounds:
            return posterior_NC, *second, history, moved < tolerance
        here = _leap(here, first, second)
        leapt_NC, value = _expect(crowd, *here)
        if value >= history[-1]:
            posterior_NC = leapt_NC
            history.append(value)
        else:
            here = second


def _leap(*rounds: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
    """From three rounds' (share_C, confusion_ACC) in a row to where they lead."""
    logs = [np.concatenate([np.log(part).ravel() for part in parameters]) for parameters in rounds]
    step = logs[1] - logs[0]
    change = logs[2] - logs[1] - step
    size = -float(np.linalg.norm(step)) / max(float(np.linalg.norm(change)), 1e-300)
    size = min(-1.0, max(size, -1e4))
    far = np.maximum(logs[0] - 2 * size * step + size**2 * change, -100.0)
    share_C, confusion = rounds[0]
    far_C, far_ACC = far[: len(share_C)], far[len(share_C) :].reshape(confusion.shape)
    return np.asarray(special.softmax(far_C)), np.asarray(special.softmax(far_ACC, axis=2))


def _maximise(crowd: _Crowd, posterior_NC: Floats) -> tuple[Floats, Floats]:
    """(share_C, confusion_ACC) that are most probable given the classes."""
    num_A, num_C = crowd.num_annotators, crowd.num_classes
    key_V = crowd.annotator_V * num_C + crowd.label_V
    counts = np.stack(
        [
            np.bincount(key_V, posterior_NC[crowd.item_V, c], num_A * num_C).astype(np.float64).reshape(num_A, num_C)
            for c in range(num_C)
        ],
        axis=1,
    )
    share_C = posterior_NC.sum(axis=0) + 1.0
    if crowd.symmetric:
        mirror = MIRROR[:num_C]
        counts = counts + counts[:, mirror][:, :, mirror]
        counts[:, TIE:] = counts[:, TIE:] / 2  # the row of the tie is its own mirror
        share_C = share_C + share_C[mirror]
    counts = counts + crowd.prior_CC
    return share_C / share_C.sum(), counts / counts.sum(axis=2, keepdims=True)


def _expect(crowd: _Crowd, share_C: Floats, confusion: Floats) -> tuple[Floats, float]:
    """(posterior_NC, log posterior of the parameters up to a constant)."""
    log_share, log_confusion = np.log(share_C), np.log(confusion)
    said_VC = log_confusion[crowd.annotator_V, :, crowd.label_V]
    joint_NC = np.tile(log_share, (crowd.num_items, 1))
    if len(crowd.item_V):
        first = np.flatnonzero(np.diff(crowd.item_V, prepend=-1))
        joint_NC[crowd.item_V[first]] += np.add.reduceat(said_VC, first, axis=0)
    known = crowd.gold_N >= 0
    total_N = np.asarray(special.logsumexp(joint_NC, axis=1))
    # sums in another order differ in the last digits, and rounded they cannot grow where two ends are as likely
    posterior_NC = _clamped(crowd, np.exp(joint_NC - total_N[:, None]).round(12))
    likelihood = total_N[~known].sum() + joint_NC[known, crowd.gold_N[known]].sum()
    of_person = crowd.prior_CC * log_confusion
    if crowd.symmetric:
        of_person[:, 1] = 0.0  # the same parameters as those of class 0
    return posterior_NC, float(likelihood + of_person.sum() + log_share.sum())


def _reliability(
    crowd: _Crowd, posterior_NC: Floats, share_C: Floats, confusion: Floats, cluster_N: Ints | None
) -> tuple[Floats, Floats, Floats]:
    """Reliability by person with its interval, from the information that the votes hold about its log odds.

    Louis (1982, jstor.org/stable/2345828): what the votes would tell were the classes known, less the spread of their
    scores over the classes that are possible. Where votes of one cluster agree in their scores, the variance is larger
    by as much as their sums vary more than they would alone.
    """
    item_V, annotator_V, label_V = crowd.item_V, crowd.annotator_V, crowd.label_V
    shape = (crowd.num_items, crowd.num_annotators)
    if crowd.symmetric:
        reliability = confusion[:, 0, 0] / (confusion[:, 0, 0] + confusion[:, 0, 1])
        named_VC = (label_V[:, None] < TIE) & (np.arange(crowd.num_classes) < TIE)
    else:
        reliability = np.einsum("c,acc->a", share_C, confusion)
        named_VC = np.ones((len(item_V), crowd.num_classes), dtype=bool)
    # d log P(vote | class) / d log odds, by class
    score_VC = named_VC * ((label_V[:, None] == np.arange(crowd.num_classes)) - reliability[annotator_V][:, None])
    weight_VC = posterior_NC[item_V]
    spread_A = reliability * (1 - reliability)
    prior_A = _PRIOR_ANSWERS * spread_A
    named_A = np.bincount(annotator_V, (weight_VC * named_VC).sum(axis=1), crowd.num_annotators)
    mean_V = (weight_VC * score_VC).sum(axis=1)
    mean_NA = sparse.csr_array((mean_V, (item_V, annotator_V)), shape=shape)
    missing = -(mean_NA.T @ mean_NA)
    for c in range(crowd.num_classes):
        score_NA = sparse.csr_array((score_VC[:, c] * np.sqrt(weight_VC[:, c]), (item_V, annotator_V)), shape=shape)
        missing = missing + score_NA.T @ score_NA
    whole = sparse.csr_array(sparse.diags_array(named_A * spread_A + prior_A) - missing)
    variance_A = np.zeros(crowd.num_annotators)
    # people who share no item, not even by way of others, are blocks of their own: a deployed model's users are many
    num_blocks, block_A = csgraph.connected_components(missing, directed=False)
    by_block = np.argsort(block_A, kind="stable")
    for own in np.split(by_block, np.cumsum(np.bincount(block_A, minlength=num_blocks))[:-1]):
        values, vectors = np.linalg.eigh(whole[own][:, own].toarray())
        variance_A[own] = (vectors**2 / np.maximum(values, 1e-9)).sum(axis=1)
    if cluster_N is not None:
        alone_A = np.bincount(annotator_V, mean_V**2, crowd.num_annotators)
        sums_GA = sparse.csr_array(
            (mean_V, (cluster_N[item_V], annotator_V)), shape=(int(cluster_N.max(initial=-1)) + 1, shape[1])
        )
        together_A = np.asarray(sums_GA.power(2).sum(axis=0)).ravel()
        variance_A = variance_A * np.maximum(1.0, (together_A + prior_A) / (alone_A + prior_A))
    log_odds, half = special.logit(reliability), _Z * np.sqrt(variance_A)
    return reliability, special.expit(log_odds - half), special.expit(log_odds + half)
