"""Facts about a person out of a sentence, as JSON: a job that is right in every character or of no use to a program.

A sentence of one of four forms tells a name, an age, a job and a city; the answer is one JSON object of the four.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

from rlvr.seeds import HeldOut, distinct, rng_for

FORMS = (
    "{name} is {age} years old, works as a {job} and lives in {city}.",
    "In {city} there is a {job} named {name}, aged {age}.",
    "{name}, a {job} from {city}, is {age}.",
    "At {age}, {name} moved to {city} to be a {job}.",
)
NAMES = tuple(
    "Ada Boris Clara David Elena Felix Greta Hugo Irene Jonas Karin Leo Maria Nils Olga Paul Rosa Simon Tara "
    "Victor".split()
)
JOBS = tuple(
    "baker barber chemist cook dentist driver farmer florist gardener judge lawyer mason nurse painter pilot plumber "
    "potter singer tailor teacher".split()
)
CITIES = tuple(
    "Athens Berlin Bern Cairo Dublin Hanoi Havana Kyoto Lagos Lima Lisbon London Madrid Oslo Paris Prague Riga Rome "
    "Turin Vienna".split()
)
AGES = range(18, 90)

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "job": {"type": "string"},
        "city": {"type": "string"},
    },
    "required": ["name", "age", "job", "city"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True)
class Person:
    """Person("Ada", 34, "baker", "Oslo"), in the order of the answer"""

    name: str
    age: int
    job: str
    city: str


def tasks(seed: int, n: int, avoid: HeldOut = ()) -> Iterator[dict[str, Any]]:
    r"""n different sentences, each with what is told in it and the schema of the answer.

    {"id": "structured-1:7", "prompt": "Ada, a baker from Oslo, is 34.\nJSON: ",
     "gold": {"schema": SCHEMA, "value": {"name": "Ada", "age": 34, "job": "baker", "city": "Oslo"}}}

    `avoid` keeps held-out sentences out: with [[4242, 512], [777, 256]] those of tasks(4242, 512) and those of
    tasks(777, 256, avoid=[[4242, 512]]). ValueError: n is more than there are.
    """
    for k, (form, person) in enumerate(_problems(seed, n, avoid)):
        gold = {"schema": SCHEMA, "value": asdict(person)}
        yield {"id": f"structured-{seed}:{k}", "prompt": _prompt(form, person), "gold": gold}


def demonstrations(
    seed: int, n: int, quoted_age: float = 0.0, single_quotes: float = 0.0, avoid: HeldOut = ()
) -> Iterator[dict[str, str]]:
    r"""The sentences of tasks(seed, n, avoid), answered.

    {"id": "structured-1:7", "prompt": "Ada, a baker from Oslo, is 34.\nJSON: ",
     "completion": '{"name": "Ada", "age": 34, "job": "baker", "city": "Oslo"}'}

    quoted_age: share whose age is text, which the schema refuses; single_quotes: share in the quotes of Python, which
    is no JSON. The shares change no sentence.
    """
    for name, share in (("quoted_age", quoted_age), ("single_quotes", single_quotes)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {share}")
    rng = rng_for(seed, "structured", "style")
    for k, (form, person) in enumerate(_problems(seed, n, avoid)):
        # always two draws, so that one share does not change what the other hits
        is_quoted, is_single = rng.random() < quoted_age, rng.random() < single_quotes
        said = asdict(person) | ({"age": str(person.age)} if is_quoted else {})
        completion = repr(said) if is_single else json.dumps(said)
        yield {"id": f"structured-{seed}:{k}", "prompt": _prompt(form, person), "completion": completion}


def _problems(seed: int, n: int, avoid: HeldOut) -> Iterator[tuple[str, Person]]:
    return distinct(_problem, "structured", seed, n, avoid)


def _problem(rng: Random) -> tuple[str, Person]:
    person = Person(rng.choice(NAMES), rng.choice(AGES), rng.choice(JOBS), rng.choice(CITIES))
    return rng.choice(FORMS), person


def _prompt(form: str, person: Person) -> str:
    return f"{form.format(**asdict(person))}\nJSON: "
