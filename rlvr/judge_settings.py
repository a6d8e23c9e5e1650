"""Settings of a judge: a language model that is asked which of two completions is better, or how good one is.

The text under a field is its documentation, as in recipe.py.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from rlvr.fields import Count, Name, NonNegative, PositiveFloat, PositiveInt, Settings, Strings


class EndpointJudge(Settings):
    kind: Literal["endpoint"]
    """Any server that answers POST URL/chat/completions as OpenAI's does."""
    url: Name
    """Of the API, such as http://127.0.0.1:8000/v1."""
    model: Name
    """By the server's name for it."""
    api_key_from: Name | None = None
    """Name of the environment variable that holds the key; the key itself stands in no file."""
    timeout_seconds: PositiveFloat = 60.0
    """For one attempt."""
    deadline_seconds: PositiveFloat = 300.0
    """For one question with all its attempts and the pauses between; then it is an error."""
    retries: Annotated[int, Field(ge=0, le=20)] = 5
    """Further attempts after status 408, 429 or 5xx, a timeout, or no connection; after 0.5, 1, 2, ... s, or what
    Retry-After says where that is longer."""
    concurrency: PositiveInt = 16
    """Questions under way at the same time."""
    logprobs: bool = True
    """Ask for log-probabilities, where the answer is one letter; a server that refuses them is asked without."""
    structured: Literal["auto", "on", "off"] = "auto"
    """Ask for JSON by its schema, where the answer is JSON; auto: where the server does not refuse it."""
    extra: dict[str, Any] = {}
    """Further fields of each request; null takes one of ours out (temperature: null)."""

    @model_validator(mode="after")
    def _check(self) -> EndpointJudge:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:  # .port checks its range
            raise ValueError(f"url must be such as http://127.0.0.1:8000/v1, got {self.url!r}")
        if parts.username is not None or parts.password is not None:
            raise ValueError("url must hold no password; api_key_from names an environment variable that does")
        try:
            json.dumps(self.extra, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            why = "nested too deep" if isinstance(error, RecursionError) else str(error)
            raise ValueError(f"extra must be what JSON can hold: {why}") from None
        return self


class OwnJudge(Settings):
    kind: Literal["hf", "vllm"]
    """Our own engine: hf in this process, vllm in one beside it."""
    path: Name
    """Folder or Hugging Face name of a causal language model."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the weights."""
    made_by: str | None = None
    """Recipe that makes `path`; named where the folder is absent."""
    as_chat: bool | None = None
    """Whether questions go through the model's chat template; without it where there is one."""


By = Annotated[EndpointJudge | OwnJudge, Field(discriminator="kind")]


class Prices(Settings):
    """Per million tokens, in whatever currency."""

    prompt: NonNegative = 0.0
    """Of what the judge reads."""
    completion: NonNegative = 0.0
    """Of what it writes."""


def _check_letters(letters: tuple[str, str]) -> None:
    if letters[0].strip() == letters[1].strip():
        raise ValueError(f"letters must be two different ones, got {letters[0]!r} twice")


def _check_places(template: str | None, *places: str) -> None:
    for place in places if template is not None else ():
        if f"{{{place}}}" not in (template or ""):
            raise ValueError(f"template must have {{{place}}} in it")


class _Compares(Settings):
    orders: Literal["both", "one"] = "both"
    """both: each pair is asked as (a, b) and as (b, a), and the two log odds are averaged, so that a preference for a
    place cancels; one: in an order by lot, at half the price."""
    keep: Literal["soft", "consistent"] = "soft"
    """consistent: pairs whose two orders name different winners are left out."""
    comparisons: PositiveInt = 28
    """Most pairs of one group; with more than that (nine siblings have 36) a round-robin by lot."""
    letters: Annotated[tuple[Name, Name], Field(strict=False)] = ("A", "B")
    """What the judge answers with, for the first answer and for the second; each one token of the judge's."""
    system: str | None = None
    """In place of ours; may have the same places as template."""
    template: str | None = None
    """The user's message in place of ours, with {question}, {first} and {second}, which come fenced, and perhaps
    {criterion}, {a}, {b} (the letters) and {nonce}."""

    @model_validator(mode="after")
    def _check_comparing(self) -> _Compares:
        _check_letters(self.letters)
        _check_places(self.template, "question", "first", "second")
        if self.keep == "consistent" and self.orders == "one":
            raise ValueError("keep: consistent compares the two orders; it goes with orders: both")
        return self


class Pairwise(_Compares):
    kind: Literal["pairwise"] = "pairwise"
    """Which of two answers is better, by one criterion."""
    criterion: Name = "more helpful, correct and honest"
    """What the better answer is."""


class Constitution(_Compares):
    kind: Literal["constitution"]
    """Which of two answers keeps a principle better, https://arxiv.org/abs/2212.08073 section 4.1."""
    principles: Strings = ()
    file: Name | None = None
    """A principle on each line, in place of principles; lines that begin with # are left out."""
    draw: Literal["one", "all"] = "one"
    """one: each pair by one principle, drawn by lot; all: by each of them, and the log odds are averaged."""

    @model_validator(mode="after")
    def _check(self) -> Constitution:
        if (not self.principles) == (self.file is None):
            raise ValueError("needs principles, or a file of them, and not both")
        return self


class Criterion(Settings):
    text: Name
    """What is asked for."""
    weight: PositiveFloat = 1.0


class Rubric(Settings):
    kind: Literal["rubric"]
    """A rating of one answer by each of several criteria; the score is their weighted mean, from 0 to 1."""
    criteria: dict[Name, Criterion] = {}
    """By name."""
    file: Name | None = None
    """YAML or JSON of the same form, in place of criteria; a criterion may be its text alone."""
    low: int = 1
    high: int = 10
    system: str | None = None
    """In place of ours; may have the same places as template."""
    template: str | None = None
    """The user's message in place of ours, with {question} and {answer}, which come fenced, and perhaps {criteria},
    {low}, {high} and {nonce}."""

    @model_validator(mode="after")
    def _check(self) -> Rubric:
        if (not self.criteria) == (self.file is None):
            raise ValueError("needs criteria, or a file of them, and not both")
        if self.low >= self.high:
            raise ValueError(f"high must be above low ({self.low}), got {self.high}")
        _check_places(self.template, "question", "answer")
        return self


class Reference(Settings):
    kind: Literal["reference"]
    """Whether one answer says the same as the task's gold; the score is the probability of yes."""
    orders: Literal["both", "one"] = "both"
    """both: asked once with each letter for yes, so that a preference for a letter cancels."""
    letters: Annotated[tuple[Name, Name], Field(strict=False)] = ("A", "B")
    system: str | None = None
    """In place of ours; may have the same places as template."""
    template: str | None = None
    """The user's message in place of ours, with {question}, {reference} and {answer}, which come fenced, and {yes} and
    {no}, the letters."""

    @model_validator(mode="after")
    def _check(self) -> Reference:
        _check_letters(self.letters)
        _check_places(self.template, "question", "reference", "answer")
        if self.template is not None:
            # letters change places: a template that does not say which is yes has no answer
            _check_places(self.template + (self.system or ""), "yes", "no")
        return self


Method = Annotated[Pairwise | Constitution | Rubric | Reference, Field(discriminator="kind")]


class Judging(Settings):
    """Who judges, and how."""

    by: By
    """The model."""
    method: Method = Pairwise()
    """The question."""
    samples: PositiveInt = 1
    """Times that each question is asked; more than one is self-consistency: the share of votes is the probability."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """Without it 0 where samples is 1, else 1."""
    reason: bool = False
    """The judge may think before it answers, with JSON at the end; costs tokens."""
    max_tokens: PositiveInt | None = None
    """Of a reply; without it 8 for a letter, 256 for JSON, 1024 with reason."""
    prices: Prices = Prices()
    secret_from: Name | None = None
    """Name of an environment variable whose value goes into the fences' codes, beside the run's seed and the texts."""
    seed: Count = 0
    """Of lots and fences, beside the run's."""

    @property
    def compares(self) -> bool:
        """Whether it is asked about pairs."""
        return isinstance(self.method, Pairwise | Constitution)
