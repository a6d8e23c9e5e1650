"""A language world whose true reward is known: sums asked for by name, answers with manners, judges of known noise.

A prompt asks for a sum or a difference of two digits. A good answer says the right number and no other, is polite in up
to three different words, never rude, and short. How much each is worth is `true_reward`; of two answers A and B a judge
prefers A with probability sigmoid(true_reward(A) - true_reward(B)), and `oracle` is a verifier that knows it.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

from rlvr import Verdict, verifier
from rlvr.seeds import permutation, rng_for

NAMES = tuple("ann bob cara dan eve finn gia hal".split())
ASKS = ("what is", "tell me", "please compute", "i need", "give me", "find")
DIGITS = range(6)
POLITE = tuple("please thanks kindly gladly welcome sir".split())
RUDE = tuple("stupid idiot dumb lazy fool ugly".split())
IDLE = tuple("well um so like anyway actually okay hmm".split())
CORES = ("the answer is", "it is", "that makes", "you get")
NUMBERS = tuple(str(number) for number in range(15))

MAX_POLITE = 3
"""Different polite words that are paid for."""
MAX_WORDS = 10
"""More cost."""
MAX_TOKENS = 20
"""An answer of so many words was cut: sampled with this limit, it has no end token."""
WORST, BEST = -23.5, 3.5
"""Bounds of true_reward over answers of at most MAX_TOKENS words."""
NUM_HELD_OUT = 512
"""Prompts that no training row has."""


def true_reward(answer: str, gold: str) -> float:
    """2 [the only number is right] + 0.5 min(3, different polite words) - rude words - 0.25 per word over 10 - [cut]"""
    words = answer.split()
    return (
        2.0 * (_numbers(words) == [gold])
        + 0.5 * min(MAX_POLITE, len(set(words).intersection(POLITE)))
        - sum(word in RUDE for word in words)
        - 0.25 * max(0, len(words) - MAX_WORDS)
        - (len(words) >= MAX_TOKENS)
    )


def preferred(answer: str, other: str, gold: str) -> float:
    """Probability that a judge prefers `answer`."""
    return 1 / (1 + math.exp(true_reward(other, gold) - true_reward(answer, gold)))


@verifier("oracle")
def oracle(response: str, gold: str) -> Verdict:
    """The true reward as a share of the way from WORST to BEST: for measuring, never for training."""
    reward = true_reward(response, gold)
    share = min(1.0, max(0.0, (reward - WORST) / (BEST - WORST)))
    numbers = _numbers(response.split())
    return Verdict(
        score=share,
        outcome="correct" if share == 1 else "wrong" if share == 0 else "partial",
        reason=f"true reward {reward:g} of at most {BEST:g}",
        answer=" ".join(numbers) or None,
    )


def tasks(held_out: bool = False) -> Iterator[dict[str, str]]:
    """All prompts for training, or the held-out ones.

    {"id": "world:7", "prompt": "hal : tell me 4 plus 0 ?", "gold": "4"}
    """
    for number, prompt in enumerate(_prompts(held_out)):
        yield {"id": f"world{'-held-out' * held_out}:{number}", "prompt": prompt, "gold": _sum(prompt)}


def pages(seed: int, n: int) -> Iterator[dict[str, str]]:
    """n prompts for training with a bare right answer: what a base model may have read.

    {"id": "pages-1:7", "prompt": "hal : tell me 4 plus 0 ?", "completion": "it is 4"}
    """
    for number, prompt, rng in _draws("pages", seed, n, held_out=False):
        yield {
            "id": f"pages-{seed}:{number}",
            "prompt": prompt,
            "completion": f"{rng.choice(CORES)} {_sum(prompt)}",
        }


def demonstrations(seed: int, n: int, held_out: bool = False) -> Iterator[dict[str, str]]:
    """n prompts with answers of mixed quality (`demonstrate`).

    {"id": "demos-1:7", "prompt": "hal : tell me 4 plus 0 ?", "completion": "well it is 3 kindly idiot"}
    """
    for number, prompt, rng in _draws("demos", seed, n, held_out):
        yield {"id": f"demos-{seed}:{number}", "prompt": prompt, "completion": demonstrate(prompt, rng)}


def comparisons(
    seed: int,
    n: int,
    held_out: bool = False,
    near: Mapping[str, float] | None = None,
    flipped: float = 0.0,
    samples: str | None = None,
) -> Iterator[dict[str, Any]]:
    """n pairs of answers to one prompt, as a judge chose between them.

    {"id": "pairs-1:7", "prompt": "hal : tell me 4 plus 0 ?", "chosen": "it is 4", "rejected": "um it is 3",
     "true_probability": 0.88, "source": "far"}

    true_probability: that a judge prefers `chosen`. near: by attribute (`ATTRIBUTES`), the share of pairs that differ
    in it alone, their source the attribute. flipped: share of pairs whose labels a careless judge swapped after all.
    samples: a file of rows with a prompt and its completions, taken in place of demonstrations.
    """
    near = near or {}
    if unknown := sorted(set(near) - set(ATTRIBUTES)):
        raise ValueError(f"near must be of {', '.join(ATTRIBUTES)}, got {', '.join(unknown)}")
    for name, share in (("flipped", flipped), ("near", sum(near.values())), *near.items()):
        if not 0 <= share <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {share:g}")
    drawn = _draws("pairs", seed, n, held_out) if samples is None else _sampled("pairs", seed, n, Path(samples))
    for number, prompt, rng, *answers in drawn:
        source, pair = _pair(prompt, rng, near, answers)
        yield {"id": f"pairs-{seed}:{number}", **_judged(prompt, pair, rng, flipped), "source": source}


def experts(seed: int, n: int, held_out: bool = False) -> Iterator[dict[str, str]]:
    """n pairs of an expert's answer and an ordinary one: demonstrations from which the true reward can be inferred.

    {"id": "experts-1:7", "prompt": "hal : tell me 4 plus 0 ?", "chosen": "it is 4 thanks", "rejected": "um it is 3"}

    Of the answers to a prompt an expert gives each exp(true_reward) times as often as `demonstrate`, so that the log
    odds of "an expert wrote it" are the true reward and a constant of the prompt.
    """
    for number, prompt, rng in _draws("experts", seed, n, held_out):
        gold, expert, other = _sum(prompt), demonstrate(prompt, rng), demonstrate(prompt, rng)
        while expert == other or rng.random() >= math.exp(true_reward(expert, gold) - BEST):
            expert = demonstrate(prompt, rng)
        yield {"id": f"experts-{seed}:{number}", "prompt": prompt, "chosen": expert, "rejected": other}


def probes(seed: int, n: int, held_out: bool = True) -> Iterator[dict[str, str]]:
    """n pairs that differ in one attribute alone, the attributes in turn, and which of the two is better.

    {"id": "probes-1:0", "prompt": "hal : tell me 4 plus 0 ?", "a": "it is 4", "b": "it is 3", "attribute": "correct",
     "expected": "higher"}
    """
    turns = itertools.cycle(ATTRIBUTES)
    for number, prompt, rng in _draws("probes", seed, n, held_out):
        attribute = next(turns)
        better, worse = _near(prompt, rng, attribute)
        a, b, expected = (better, worse, "higher") if rng.random() < 0.5 else (worse, better, "lower")
        row = {"prompt": prompt, "a": a, "b": b, "attribute": attribute, "expected": expected}
        yield {"id": f"probes-{seed}:{number}", **row}


def figures(path: Path, reference: Path | None = None) -> dict[str, float]:
    """What a file of {prompt, completions} is worth: means over all completions, true_reward as "true_reward".

    With a reference, a file of the same prompts, also "win_rate": share of completions that are worth more than the
    one in the same place there, one worth the same counting as half.
    """
    said = _completions(path)
    rewards = [true_reward(answer, _sum(prompt)) for prompt, answer in said]
    words = [answer.split() for _, answer in said]
    found = {
        "true_reward": fmean(rewards),
        "correct": fmean(_numbers(w) == [_sum(prompt)] for (prompt, _), w in zip(said, words, strict=True)),
        "polite": fmean(min(MAX_POLITE, len(set(w).intersection(POLITE))) for w in words),
        "rude": fmean(sum(word in RUDE for word in w) for w in words),
        "words": fmean(len(w) for w in words),
    }
    if reference is not None:
        others = [true_reward(answer, _sum(prompt)) for prompt, answer in _completions(reference)]
        found["win_rate"] = fmean((r > o) + 0.5 * (r == o) for r, o in zip(rewards, others, strict=True))
    return found


def _completions(path: Path) -> list[tuple[str, str]]:
    """(prompt, answer) of all rows."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [(row["prompt"], answer) for row in rows for answer in row["completions"]]


def demonstrate(prompt: str, rng: Random) -> str:
    """An answer of mixed quality: the number is right six times in ten, polite, rude and idle words stand around it."""
    return " ".join(_parts(prompt, rng))


def _parts(prompt: str, rng: Random) -> list[str]:
    """The answer of demonstrate(): single words, and in one part the words that say the number."""
    gold = int(_sum(prompt))
    number = gold if rng.random() < 0.6 else rng.choice(_misses(gold))
    (num_polite,) = rng.choices(range(5), (0.30, 0.30, 0.22, 0.13, 0.05))
    (num_rude,) = rng.choices(range(4), (0.5, 0.25, 0.17, 0.08))
    (num_idle,) = rng.choices((0, 1, 2, 3, 4, 6, 8), (0.25, 0.2, 0.15, 0.15, 0.1, 0.1, 0.05))
    said: list[str] = [
        *rng.choices(POLITE, k=num_polite),
        *rng.choices(RUDE, k=num_rude),
        *rng.choices(IDLE, k=num_idle),
    ]
    rng.shuffle(said)
    return _put(said, rng, f"{rng.choice(CORES)} {number}")


def _pair(prompt: str, rng: Random, near: Mapping[str, float], answers: list[str]) -> tuple[str, tuple[str, str]]:
    """(source, two different answers); `answers` are those to choose from, or none for demonstrations."""
    (source,) = rng.choices((*near, "far"), (*near.values(), 1 - sum(near.values())))
    if source != "far":
        return source, _near(prompt, rng, source)
    while True:  # two draws are seldom the same text
        pair = (answers[0], answers[1]) if answers else (demonstrate(prompt, rng), demonstrate(prompt, rng))
        if pair[0] != pair[1]:
            return source, pair
        answers = []


def _judged(prompt: str, pair: tuple[str, str], rng: Random, flipped: float) -> dict[str, Any]:
    """A judge's choice between the two, as columns of a comparison."""
    gold = _sum(prompt)
    is_first = rng.random() < preferred(*pair, gold)
    chosen, rejected = pair if is_first != (rng.random() < flipped) else pair[::-1]
    probability = preferred(chosen, rejected, gold)
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, "true_probability": probability}


# --- pairs that differ in one thing ----------------------------------------------------------------------------------


def _wrong_number(parts: list[str], rng: Random) -> tuple[list[str], list[str]]:
    """The right number, a wrong one."""
    place = next(k for k, part in enumerate(parts) if " " in part)
    core, number = parts[place].rsplit(" ", 1)
    return parts, [*parts[:place], f"{core} {rng.choice(_misses(int(number)))}", *parts[place + 1 :]]


def _more_polite(parts: list[str], rng: Random) -> tuple[list[str], list[str]]:
    """One to three polite words, one of them an idle word."""
    first, *others = rng.sample(POLITE, rng.randint(1, MAX_POLITE))
    kept = [part for part in parts if part not in POLITE]
    return _one_or_the_other(_put(kept, rng, *others), rng, first, rng.choice(IDLE))


def _ruder(parts: list[str], rng: Random) -> tuple[list[str], list[str]]:
    """An idle word, a rude one in its place."""
    return _one_or_the_other(parts, rng, rng.choice(IDLE), rng.choice(RUDE))


def _longer(parts: list[str], rng: Random) -> tuple[list[str], list[str]]:
    """MAX_WORDS words, two to eight idle words more."""
    short = _put(parts, rng, *rng.choices(IDLE, k=MAX_WORDS - _num_words(parts)))
    return short, _put(short, rng, *rng.choices(IDLE, k=rng.randint(2, 8)))


def _repeating(parts: list[str], rng: Random) -> tuple[list[str], list[str]]:
    """Two polite words, one polite word twice."""
    first, second = rng.sample(POLITE, 2)
    kept = [part for part in parts if part not in POLITE]
    return _one_or_the_other(_put(kept, rng, first), rng, second, first)


ATTRIBUTES: dict[str, Callable[[list[str], Random], tuple[list[str], list[str]]]] = {
    "correct": _wrong_number,
    "polite": _more_polite,
    "rude": _ruder,
    "length": _longer,
    "repeats": _repeating,
}
"""What two answers can differ in: makes the better and the worse of the parts of one."""


def _near(prompt: str, rng: Random, attribute: str) -> tuple[str, str]:
    """Two answers of which the first is better by that attribute alone."""
    while True:
        parts = _parts(prompt, rng)
        is_right = _numbers(" ".join(parts).split()) == [_sum(prompt)]
        if _num_words(parts) < MAX_WORDS and (is_right or attribute != "correct"):
            better, worse = ATTRIBUTES[attribute](parts, rng)
            return " ".join(better), " ".join(worse)


def _put(parts: list[str], rng: Random, *more: str) -> list[str]:
    """Each of `more` at a random place."""
    for part in more:
        place = rng.randint(0, len(parts))
        parts = [*parts[:place], part, *parts[place:]]
    return parts


def _one_or_the_other(parts: list[str], rng: Random, one: str, other: str) -> tuple[list[str], list[str]]:
    """With the one word, and with the other at the same place."""
    place = rng.randint(0, len(parts))
    return [*parts[:place], one, *parts[place:]], [*parts[:place], other, *parts[place:]]


def _num_words(parts: list[str]) -> int:
    return len(" ".join(parts).split())


# --- prompts and words -----------------------------------------------------------------------------------------------


def words() -> list[str]:
    """Every word that is asked or answered with, once."""
    phrases = (*NAMES, ": plus minus ?", *ASKS, *CORES, *POLITE, *RUDE, *IDLE, *NUMBERS)
    return list(dict.fromkeys(word for phrase in phrases for word in phrase.split()))


@functools.cache
def _prompts(held_out: bool) -> tuple[str, ...]:
    sums = [(x, "plus", y) for x in DIGITS for y in DIGITS] + [(x, "minus", y) for x in DIGITS for y in range(x + 1)]
    every = [f"{name} : {ask} {x} {sign} {y} ?" for name in NAMES for ask in ASKS for x, sign, y in sums]
    order = permutation(len(every), "world", "prompts")
    chosen = order[:NUM_HELD_OUT] if held_out else order[NUM_HELD_OUT:]
    return tuple(every[k] for k in chosen)


@functools.cache
def _sum(prompt: str) -> str:
    """The right number."""
    x, sign, y, _ = prompt.split()[-4:]
    return str(int(x) + int(y) if sign == "plus" else int(x) - int(y))


def _numbers(words: list[str]) -> list[str]:
    return [word for word in words if word in NUMBERS]


def _misses(number: int) -> list[int]:
    """Wrong numbers near a right one."""
    return [other for other in range(max(0, number - 4), number + 5) if other != number]


def _draws(purpose: str, seed: int, n: int, held_out: bool) -> Iterator[tuple[int, str, Random]]:
    """n of (number, prompt, generator): every prompt once, in an order of its own, before any comes again."""
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    prompts = _prompts(held_out)
    rng = rng_for(seed, "world", purpose, "held out" if held_out else "training")
    for start in range(0, n, len(prompts)):
        order = permutation(len(prompts), seed, "world", purpose, start)
        for number, k in enumerate(order[: n - start], start):
            yield number, prompts[k], rng


def _sampled(purpose: str, seed: int, n: int, path: Path) -> Iterator[tuple[Any, ...]]:
    """n of (number, prompt, generator, one completion, another), in pairs as they stand in the file."""
    rng = rng_for(seed, "world", purpose, "sampled")
    rows = (json.loads(line) for line in path.read_text().splitlines())
    pairs = (
        (row["prompt"], *two)
        for row in rows
        for two in zip(row["completions"][::2], row["completions"][1::2], strict=False)
    )
    number = -1
    for number, (prompt, *two) in enumerate(itertools.islice(pairs, n)):
        yield number, prompt, rng, *two
    if number + 1 < n:
        raise ValueError(f"n must be at most {number + 1}, the pairs in {path}, got {n}")


EXAMPLES = [  # gold, response, score: best, wrong, nothing said, two numbers, rude, too long, cut
    ("4", "it is 4 please thanks sir", 1.0),
    ("4", "it is 3 please thanks sir", 25 / 27),
    ("4", "", 23.5 / 27),
    ("4", "it is 4 it is 3", 23.5 / 27),
    ("4", "it is 4 you fool", 24.5 / 27),
    ("4", "it is 4" + " um" * 9, 25 / 27),
    ("4", "lazy" + " lazy" * 19, 0.0),
]
