"""The words of the project as frozen data: what is asked, what was written, what was thought of it.

These types go into files that must stay readable for years, so fields are added, never renamed. Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict, get_args

if TYPE_CHECKING:
    import torch

SCHEMA = 1
"""Version of everything that is written into a run folder."""


class Message(TypedDict):
    """One turn of a conversation: Message(role="user", content="What is 2+2?")"""

    role: str
    content: str


Prompt = str | tuple[Message, ...]


def plain_prompt(prompt: Prompt) -> Any:
    """For JSON: text, or a list of messages."""
    return prompt if isinstance(prompt, str) else [dict(message) for message in prompt]


def is_nested_deeper(value: Any, levels: int) -> bool:
    """Whether more than so many lists and objects stand within each other; however deep, without recursion."""
    level = [value]
    for _ in range(levels + 1):
        level = [one for one in level if isinstance(one, (Mapping, list, tuple))]
        if not level:
            return False
        level = [part for one in level for part in (one.values() if isinstance(one, Mapping) else one)]
    return True


def prompt_of(plain: Any) -> Prompt:
    """The prompt that plain_prompt() made plain."""
    return plain if isinstance(plain, str) else tuple(plain)


def prompt_text(prompt: Prompt) -> str:
    """What all turns say, one below the other."""
    return prompt if isinstance(prompt, str) else "\n".join(message["content"] for message in prompt)


Finish = Literal["stop", "length", "abort"]

Outcome = Literal[
    # what the response earned (score is a number)
    "correct",
    "wrong",
    "partial",
    "no_answer",
    "hedged",
    "unevaluated",
    "too_complex",
    "timeout",
    "malformed",
    # our own failure (score is None): never the model's zero
    "gold_invalid",
    "error",
    # this part does not speak of this task (score is None)
    "not_applicable",
]
_OUTCOMES = get_args(Outcome)
_UNSCORED = ("gold_invalid", "error", "not_applicable")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is asked of the model, and what a verifier needs to judge the answer.

    Task(id="train:17", prompt="Q: 12+30=?", gold="42", verifier="math", source="arithmetic")
    """

    id: str
    """Unique within its data set; part of every seed and of every rollout's id."""
    prompt: Prompt
    """Plain text, or messages to be rendered by the chat template."""
    gold: Any = None
    """The right answer in the verifier's own form; None where a verifier needs none."""
    verifier: str | None = None
    """The verifier that judges it where a recipe names none."""
    source: str = ""
    """Name of the data set, for metrics by source."""
    info: Mapping[str, Any] = field(default_factory=dict)
    """All further columns of the row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstration:
    """A prompt with the completion that a person (or a program) wrote, for SFT and pretraining.

    Demonstration(id="demo:3", prompt="Q: 1+1=?", completion=" 2")
    """

    id: str
    prompt: Prompt
    completion: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What the sampler wrote, as it wrote it: these ids are trained on, never a re-tokenised text.

    Completion(text="4", token_ids=(55, 1), logprobs=(-0.1, -0.02), trained=(True, True), finish="stop",
               versions=((0, 17),))
    """

    text: str
    """The response: decoded without special tokens and without the stop string."""
    token_ids: tuple[int, ...]
    """[L], with the end token where one was sampled."""
    logprobs: tuple[float, ...]
    """[L] nats, the sampler's own, after temperature and truncation (processed)."""
    trained: tuple[bool, ...]
    """[L], False for tokens that the policy did not choose (tool output)."""
    finish: Finish
    """stop: end token or stop string; length: cut at max_tokens; abort: taken back by the engine."""
    versions: tuple[tuple[int, int], ...]
    """(first token, policy version) spans; more than one after a weight update in flight."""
    support: tuple[tuple[int, ...], ...] | None = None
    """[L] token ids that top-p or top-k left, where the engine reports them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One verifier's opinion of one completion.

    Verdict(score=1.0, outcome="correct", reason="7/2 equals 3.5", answer="3.5", how="boxed", seconds=0.004)
    """

    score: float | None
    """In [0, 1], 1 is fully right; None: could not be judged, or is not this verifier's to judge."""
    outcome: Outcome
    reason: str = ""
    """One sentence for people."""
    answer: str | None = None
    """What was extracted from the response."""
    how: str = ""
    """The extraction rule that found the answer."""
    stage: str = ""
    """The stage of the verifier that decided."""
    checks: Mapping[str, Any] = field(default_factory=dict)
    """Verifier's own detail, plain data."""
    seconds: float = 0.0
    """Wall-clock time of the check."""
    verifier: str = ""
    version: str = ""
    """As its author declared it, with a hash of the code that judged: "2+9f3c01ab"."""
    input_hash: str = ""
    """Of all that was judged: response, gold, the task's other columns, options."""
    stderr: str = ""
    """The end of what the verifier printed while it judged."""
    value: float | None = None
    """The number that is trained on where it is not the score: of any size, such as what a reward model gives."""

    def __post_init__(self) -> None:
        if self.score is not None and not 0.0 <= self.score <= 1.0:  # NaN fails this too
            raise ValueError(f"Verdict.score must be in [0, 1] or None, got {self.score!r}")
        if self.value is not None and (self.score is None or not math.isfinite(self.value)):
            raise ValueError(f"Verdict.value must be a finite number beside a score, or None, got {self.value!r}")
        if self.outcome not in _OUTCOMES:
            raise ValueError(f"Verdict.outcome must be one of {', '.join(_OUTCOMES)}, got {self.outcome!r}")
        for name in ("reason", "how", "stage", "verifier", "version", "input_hash", "stderr"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"Verdict.{name} must be text, got {getattr(self, name)!r}")
        if not (self.answer is None or isinstance(self.answer, str)):
            raise ValueError(f"Verdict.answer must be text or None, got {self.answer!r}")
        if not isinstance(self.checks, Mapping):
            raise ValueError(f"Verdict.checks must be a mapping, got {self.checks!r}")
        if (self.outcome in _UNSCORED) != (self.score is None):
            raise ValueError(f"Verdict: outcome {self.outcome!r} does not go with score {self.score!r}")

    @property
    def is_failure(self) -> bool:
        """Ours: no score, though this part speaks of the task."""
        return self.score is None and self.outcome != "not_applicable"

    @property
    def worth(self) -> float | None:
        """The number that is trained on: the value where there is one, else the score."""
        return self.score if self.value is None else self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """A completion with what was thought of it.

    Rollout(id="12/train:17/3", completion=..., verdicts={"answer": Verdict(...)}, reward=1.0)
    """

    id: str
    """STEP/TASK/SAMPLE"""
    completion: Completion
    verdicts: Mapping[str, Verdict]
    """By the name of the reward part."""
    reward: float | None
    """The number trained on; None: could not be judged, so it leaves the baseline and the loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A term of the reward, which is the sum of weight * worth. Part(name="answer", weight=1.0)"""

    name: str
    """Of its verdicts."""
    weight: float
    """Not 0."""
    is_optional: bool = False
    """Where it fails for any rollout of a group, the whole group does without it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The rollouts of one task in one step; an advantage compares them with each other."""

    task: Task
    prompt_ids: tuple[int, ...]
    """[T] as the sampler saw them."""
    rollouts: tuple[Rollout, ...]
    """G siblings."""
    greedy: Rollout | None = None
    """One at temperature 0 whose reward the siblings' are compared with, where advantage.kind is greedy. Never trained
    on, and its log-probabilities are of no use: at temperature 0 every choice is certain."""

    @property
    def num_judged(self) -> int:
        return sum(rollout.reward is not None for rollout in self.rollouts)

    @property
    def all_rollouts(self) -> tuple[Rollout, ...]:
        """The siblings, and behind them the greedy one where there is one."""
        return self.rollouts if self.greedy is None else (*self.rollouts, self.greedy)

    def with_all(self, rollouts: Sequence[Rollout]) -> Group:
        """The same group with these in place of all_rollouts."""
        if self.greedy is None:
            return replace(self, rollouts=tuple(rollouts))
        return replace(self, rollouts=tuple(rollouts[:-1]), greedy=rollouts[-1])

    def scores_by_part(self, parts: Sequence[Part]) -> list[list[float | None]]:
        """[G][K] each sibling's worth by each of the parts, None where the part counts as nothing in the reward.

        That is where it does not speak of the task, failed, or is optional and failed for any of the group.
        """
        answered = [rollout for rollout in self.all_rollouts if rollout.completion.finish != "abort"]
        left_out = {
            part.name
            for part in parts
            if part.is_optional and any(rollout.verdicts[part.name].is_failure for rollout in answered)
        }
        return [
            [None if part.name in left_out else rollout.verdicts[part.name].worth for part in parts]
            for rollout in self.rollouts
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """Which of two completions somebody preferred.

    Preference(id="pairs:3", prompt="Q: 1+1=?", chosen="2", rejected="3", probability=1.0)
    """

    prompt: Prompt
    chosen: str
    rejected: str
    votes: Mapping[str, int] = field(default_factory=dict)
    annotators: tuple[str, ...] = ()
    margin: float | None = None
    """By how much, in the unit of the reward."""
    id: str = ""
    probability: float = 1.0
    """That `chosen` is preferred, as far as the labels tell: 1 for one choice, 0.5 for a tie, a share of votes."""
    true_probability: float | None = None
    """The same where the world is known that made the labels: what a reward model can at best tell."""
    source: str = ""
    """Name of the data set or of a subset of it, for figures by source."""
    group: str = ""
    """Of the people whose opinion it is: an audience, a team; "" where nobody says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Completions of one prompt in somebody's order, best first.

    Ranking(id="ranks:3", prompt="Q: 1+1=?", completions=("3", "2", "two"), order=((1, 2), (0,)))
    """

    prompt: Prompt
    completions: tuple[str, ...]
    order: tuple[tuple[int, ...], ...]
    """Indices into completions; a tie is one tuple of several."""
    id: str = ""
    source: str = ""
    group: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rating:
    """What somebody thought of one completion, without comparing it: thumbs, a class, or numbers by attribute.

    Rating(id="thumbs:3", prompt="Q: 1+1=?", completion="2", label=True)
    """

    prompt: Prompt
    completion: str
    label: bool | None = None
    """Good or not."""
    probability: float = 1.0
    """That the label is right: of a comparison's sides, its own."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """By attribute (helpful, correct, polite, safe, ...); a single number is named "score"."""
    id: str = ""
    source: str = ""
    group: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BestOf:
    """Completions of one prompt, some of them right: does a reward model put those first?

    BestOf(id="bench:3", prompt="Q: 1+1=?", chosen=("2",), rejected=("3", "4", "5"))
    """

    prompt: Prompt
    chosen: tuple[str, ...]
    rejected: tuple[str, ...]
    id: str = ""
    source: str = ""
    group: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to sample. Sampling(temperature=1.0, max_tokens=64)"""

    temperature: float = 1.0
    """0 is greedy."""
    max_tokens: int = 256
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps all."""
    stop: tuple[str, ...] = ()
    """Strings that end a completion; they stay in token_ids and leave the text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """n completions of one prompt, each with its own seed.

    Request(id="12/train:17", prompt_ids=(3, 4), seeds=(81, 82), sampling=Sampling())
    yields completions with the ids "12/train:17/0" and "12/train:17/1".
    """

    id: str
    prompt_ids: tuple[int, ...]
    seeds: tuple[int, ...]
    """[n], each in [0, 2^63)"""
    sampling: Sampling
    first: int = 0
    """Index of the first sample."""

    @property
    def sample_ids(self) -> tuple[str, ...]:
        return tuple(f"{self.id}/{self.first + k}" for k in range(len(self.seeds)))


class Engine(Protocol):
    """Something that samples from the policy."""

    restarts: int
    """How often it died and was started again."""

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[str, Completion]]:
        """Yield (sample id, completion) in the order of completion. EngineError where the engine failed."""
        ...

    def load(self, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Take new weights (names as in a Hugging Face state dict); what comes next is sampled with them."""
        ...

    def sleep(self) -> None:
        """Give memory back until wake()."""
        ...

    def wake(self) -> None: ...

    def close(self) -> None: ...


class RewardSource(Protocol):
    """Sees whole groups, so that a pairwise judge fits too."""

    def score(self, groups: Sequence[Group]) -> list[list[Verdict]]:
        """Verdicts [group][rollout]."""
        ...


class Verifier(Protocol):
    """Judges one response; pure. In practice a function whose parameters are injected by name."""

    def __call__(self, response: str, task: Task) -> Verdict: ...


class Tracker(Protocol):
    """A mirror of metrics.jsonl (tensorboard, wandb, ...)."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...
