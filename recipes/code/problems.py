"""Small functions of one whole number, asked for by their docstring: a job that a tiny model learns in minutes.

A problem is 2 to 3 operations out of nine, one after the other; six calls tell whether the function does them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from rlvr.seeds import HeldOut, distinct, rng_for


@dataclass(frozen=True, slots=True)
class Operation:
    """Operation("add {}", "x = x + {}", "x = x - {}", lambda x, c: x + c), {} being the constant"""

    words: str
    right: str
    """The line that does it."""
    wrong: str
    """A line that somebody hasty takes for it."""
    apply: Callable[[int, int], int]
    """What it makes of x and the constant."""


OPERATIONS = (
    Operation("add {}", "x = x + {}", "x = x - {}", lambda x, c: x + c),
    Operation("subtract {}", "x = x - {}", "x = {} - x", lambda x, c: x - c),
    Operation("subtract from {}", "x = {} - x", "x = x - {}", lambda x, c: c - x),
    Operation("multiply by {}", "x = x * {}", "x = x + {}", lambda x, c: x * c),
    Operation("take modulo {}", "x = x % {}", "x = x // {}", lambda x, c: x % c),
    Operation("floor-divide by {}", "x = x // {}", "x = x / {}", lambda x, c: x // c),
    Operation("square", "x = x ** 2", "x = x * 2", lambda x, _: x**2),
    Operation("negate", "x = -x", "x = abs(x)", lambda x, _: -x),
    Operation("take the absolute value", "x = abs(x)", "x = -x", lambda x, _: abs(x)),
)
CONSTANTS = range(2, 21)
INPUTS = (-7, -2, 0, 3, 8, 15)
"""What the function is called with."""

Step = tuple[Operation, int]
"""Operation and constant; 0 where it has none."""


def tasks(seed: int, n: int, operations: Sequence[int] = (2, 3), avoid: HeldOut = ()) -> Iterator[dict[str, Any]]:
    r'''n problems with different prompts, each with as many operations as a draw from `operations` says.

    {"id": "code-1:7", "prompt": 'def f(x):\n    """add 3, then square"""\n',
     "gold": {"function": "f", "cases": [[[-7], 16], [[-2], 1], [[0], 9], [[3], 36], [[8], 121], [[15], 324]]}}

    `avoid` keeps held-out problems out: with [[4242, 512], [777, 256]] those of tasks(4242, 512) and those of
    tasks(777, 256, avoid=[[4242, 512]]), with the same operations. ValueError: n is more than there are.
    '''
    for k, steps in enumerate(_problems(seed, n, operations, avoid)):
        gold = {"function": "f", "cases": [[[x], _value(steps, x)] for x in INPUTS]}
        yield {"id": f"code-{seed}:{k}", "prompt": _prompt(steps), "gold": gold}


def demonstrations(
    seed: int,
    n: int,
    operations: Sequence[int] = (2, 3),
    wrong: float = 0.0,
    unreturned: float = 0.0,
    avoid: HeldOut = (),
) -> Iterator[dict[str, str]]:
    r'''The problems of tasks(seed, n, operations, avoid), answered.

    {"id": "code-1:7", "prompt": 'def f(x):\n    """add 3, then square"""\n',
     "completion": "```python\ndef f(x):\n    x = x + 3\n    x = x ** 2\n    return x\n```"}

    wrong: share of operations whose line is a wrong one; unreturned: share of functions that return nothing.
    The shares change no problem.
    '''
    for name, share in (("wrong", wrong), ("unreturned", unreturned)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {share}")
    rng = rng_for(seed, "code", "style")
    for k, steps in enumerate(_problems(seed, n, operations, avoid)):
        # always as many draws, so that one share does not change what the other hits
        is_wrong = [rng.random() < wrong for _ in steps]
        is_unreturned = rng.random() < unreturned
        lines = [(op.wrong if bad else op.right).format(c) for (op, c), bad in zip(steps, is_wrong, strict=True)]
        yield {"id": f"code-{seed}:{k}", "prompt": _prompt(steps), "completion": _block(lines, not is_unreturned)}


def _problems(seed: int, n: int, operations: Sequence[int], avoid: HeldOut) -> Iterator[tuple[Step, ...]]:
    if not operations or min(operations) < 1:
        raise ValueError(f"operations must be counts of at least 1, got {list(operations)}")
    among = f"with {list(operations)} operations"
    return distinct(lambda rng: _problem(rng, operations), "code", seed, n, avoid, among)


def _problem(rng: Random, operations: Sequence[int]) -> tuple[Step, ...]:
    chosen = [rng.choice(OPERATIONS) for _ in range(rng.choice(operations))]
    return tuple((op, rng.choice(CONSTANTS) if "{}" in op.words else 0) for op in chosen)


def _value(steps: Sequence[Step], x: int) -> int:
    for operation, constant in steps:
        x = operation.apply(x, constant)
    return x


def _prompt(steps: Sequence[Step]) -> str:
    words = ", then ".join(operation.words.format(constant) for operation, constant in steps)
    return f'def f(x):\n    """{words}"""\n'


def _block(lines: Sequence[str], returns: bool) -> str:
    body = [*lines, "return x"] if returns else lines
    return "```python\ndef f(x):\n" + "".join(f"    {line}\n" for line in body) + "```"
