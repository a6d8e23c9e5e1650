"""Arithmetic chains: a job small enough to be learned from nothing on a CPU, and hard enough to need its steps.

A problem starts with a two-digit number and adds or subtracts two-digit numbers; it never falls below 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

from rlvr.seeds import HeldOut, distinct, rng_for

ERRORS = (1, 2, 9, 10, 11, 20)
"""By how much a wrong guess is off, either way: a slip of a digit or of a carry."""

CHATTER = ("Bus {} is late.", "Who sits in room {}?", "Page {} is missing.", "I saw {} birds.", "He ran {} miles.")
SHRUGS = ("No idea.", "Ask somebody else.", "Too long for me.")


def tasks(seed: int, n: int, operands: Sequence[int] = (3, 4), avoid: HeldOut = ()) -> Iterator[dict[str, str]]:
    r"""n problems with different prompts, each with as many numbers as a draw from `operands` says.

    {"id": "arithmetic-1:7", "prompt": "Q: 82+83-78=?\nA: ", "gold": "87"}

    `avoid` keeps held-out problems out: with [[4242, 512], [777, 256]] those of tasks(4242, 512) and those of
    tasks(777, 256, avoid=[[4242, 512]]), with the same operands. ValueError: n is more than there are.
    """
    for k, (numbers, answer) in enumerate(_problems(seed, n, operands, avoid)):
        yield {"id": f"arithmetic-{seed}:{k}", "prompt": _prompt(numbers), "gold": str(answer)}


def demonstrations(
    seed: int,
    n: int,
    operands: Sequence[int] = (3, 4),
    guesses: float = 0.0,
    guess_wrong: float = 0.85,
    bare: float = 0.0,
    avoid: HeldOut = (),
) -> Iterator[dict[str, str]]:
    r"""The problems of tasks(seed, n, operands, avoid), answered.

    {"id": "arithmetic-1:7", "prompt": "Q: 82+83-78=?\nA: ", "completion": "82+83=165; 165-78=87. \\boxed{87}"}

    guesses: share that skips the work and only says \boxed{...}; guess_wrong: share of those that is wrong.
    bare: share that leaves \boxed out and only says the number. The shares change no problem.
    """
    for name, share in (("guesses", guesses), ("guess_wrong", guess_wrong), ("bare", bare)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {share}")
    rng = rng_for(seed, "arithmetic", "style")
    for k, (numbers, answer) in enumerate(_problems(seed, n, operands, avoid)):
        # always four draws, so that one share does not change what the others hit
        is_guess, is_wrong = rng.random() < guesses, rng.random() < guess_wrong
        off, is_bare = rng.random(), rng.random() < bare
        said = _wrong(answer, off) if is_guess and is_wrong else answer
        final = str(said) if is_bare else f"\\boxed{{{said}}}"
        completion = final if is_guess else f"{_work(numbers)}. {final}"
        yield {"id": f"arithmetic-{seed}:{k}", "prompt": _prompt(numbers), "completion": completion}


def text(
    seed: int,
    n: int,
    operands: Sequence[int] = (3, 4),
    textbook: float = 0.45,
    worked: float = 0.07,
    guesses: float = 0.28,
    shrugs: float = 0.05,
    facts: float = 0.1,
    guess_wrong: float = 0.85,
    avoid: HeldOut = (),
) -> Iterator[dict[str, str]]:
    r"""n pages of what a base model may have read; few of those that ask as tasks() does are answered with care.

    {"id": "arithmetic-1:7", "prompt": "82+83-78: ", "completion": "82+83=165; 165-78=87. \\boxed{87}"}
    {"id": "arithmetic-1:8", "prompt": "Q: 56+19-48=?\nA: ", "completion": "\\boxed{28}"}
    {"id": "arithmetic-1:9", "text": "17+80=97; 203-41=162; 55+13=68"}

    textbook: share of problems that nobody asks, worked out; worked, guesses, shrugs: of those asked, that are worked
    out, guessed (`guess_wrong` of them wrong) or shrugged off; facts: of sums of two numbers. The rest is chatter.
    """
    shares = {"textbook": textbook, "worked": worked, "guesses": guesses, "shrugs": shrugs, "facts": facts}
    if min(shares.values()) < 0 or sum(shares.values()) > 1:
        raise ValueError(f"{', '.join(shares)} must be shares of 1 together, got {list(shares.values())}")
    kinds, weights = [*shares, "chatter"], [*shares.values(), 1 - sum(shares.values())]
    rng = rng_for(seed, "arithmetic", "text")
    for k, (numbers, answer) in enumerate(_problems(seed, n, operands, avoid)):
        (kind,) = rng.choices(kinds, weights)
        said = _wrong(answer, rng.random()) if rng.random() < guess_wrong else answer
        page = {
            "textbook": f"{_work(numbers)}. \\boxed{{{answer}}}",
            "worked": f"{_work(numbers)}. \\boxed{{{answer}}}",
            "guesses": f"\\boxed{{{said}}}",
            "shrugs": rng.choice(SHRUGS),
            "facts": "; ".join(_fact(rng) for _ in range(rng.randint(2, 4))),
            "chatter": rng.choice(CHATTER).format(rng.randint(2, 300)),
        }[kind]
        if kind in ("facts", "chatter"):
            yield {"id": f"arithmetic-{seed}:{k}", "text": page}
        else:
            prompt = f"{_chain(numbers)}: " if kind == "textbook" else _prompt(numbers)
            yield {"id": f"arithmetic-{seed}:{k}", "prompt": prompt, "completion": page}


def _problems(seed: int, n: int, operands: Sequence[int], avoid: HeldOut) -> Iterator[tuple[tuple[int, ...], int]]:
    """(numbers, answer): (82, 83, -78), 87"""
    if not operands or min(operands) < 2:
        raise ValueError(f"operands must be counts of at least 2, got {list(operands)}")
    among = f"with {list(operands)} numbers"
    return distinct(lambda rng: _problem(rng, operands), "arithmetic", seed, n, avoid, among)


def _problem(rng: Random, operands: Sequence[int]) -> tuple[tuple[int, ...], int]:
    total = rng.randint(10, 99)
    numbers = [total]
    for _ in range(rng.choice(operands) - 1):
        number = rng.randint(10, 99)
        if total >= number and rng.random() < 0.5:
            number = -number
        numbers.append(number)
        total += number
    return tuple(numbers), total


def _prompt(numbers: tuple[int, ...]) -> str:
    return f"Q: {_chain(numbers)}=?\nA: "


def _chain(numbers: tuple[int, ...]) -> str:
    return f"{numbers[0]}{''.join(f'{number:+d}' for number in numbers[1:])}"


def _work(numbers: tuple[int, ...]) -> str:
    """82+83=165; 165-78=87"""
    total, steps = numbers[0], []
    for number in numbers[1:]:
        steps.append(f"{total}{number:+d}={total + number}")
        total += number
    return "; ".join(steps)


def _fact(rng: Random) -> str:
    """203-41=162, of the size that a step of a worked answer has"""
    left, right = rng.randint(10, 300), rng.randint(10, 99)
    right = -right if left >= right and rng.random() < 0.5 else right
    return f"{left}{right:+d}={left + right}"


def _wrong(answer: int, draw: float) -> int:
    """A near miss that is not below 0; draw in [0, 1) picks it."""
    misses = [answer + sign * error for sign in (-1, 1) for error in ERRORS if answer + sign * error >= 0]
    return misses[int(draw * len(misses))]
