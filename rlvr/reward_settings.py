"""Settings of the data, and of what a completion is worth: reward parts, their processes, length, canaries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from rlvr.errors import near
from rlvr.fields import Name, NonNegative, PositiveFloat, PositiveInt, Settings, Share, Strings, Weight
from rlvr.judge_settings import Judging


class Rows(Settings):
    """Where rows come from, and how their prompts are dressed."""

    path: Name
    """File (.jsonl .json .parquet .csv), folder, Hugging Face name, or for a generator package.module:function or
    file.py:function. Relative paths start at the current directory."""
    source: Literal["file", "hub", "generator"] = "file"
    """What `path` names."""
    args: dict[str, Any] = {}
    """Arguments of the generator."""
    split: str = "train"
    """Of a Hugging Face data set."""
    subset: str | None = None
    """Configuration of a Hugging Face data set."""
    system: str | None = None
    """System message put before the prompt (makes it a conversation)."""
    as_chat: bool = False
    """Treat plain prompts as a user's message, rendered by the chat template."""
    prompt_template: str | None = None
    """Text around the prompt, with {prompt} in it, and {row.COLUMN} where another column of the row is to stand (text,
    or a list of texts, each on a line of its own)."""
    limit: PositiveInt | None = None
    """Take the first rows only."""
    on_bad_row: Literal["error", "skip"] = "error"
    """Bad rows end the run before it starts, or are left out and counted."""

    @model_validator(mode="after")
    def _check(self) -> Rows:
        if self.args and self.source != "generator":
            raise ValueError("args go with source: generator only")
        if self.prompt_template is not None and "{prompt}" not in self.prompt_template:
            raise ValueError("prompt_template must contain {prompt}")
        return self


class Data(Rows):
    """Rows: prompt and gold for RL and evaluation, prompt and completion (or text) for SFT and pretraining."""

    columns: dict[Literal["id", "prompt", "gold", "completion", "text", "verifier"], str] = {}
    """Our word: their column, where the names are not among those known."""
    verifier: str = "math"
    """Judges rows that name none."""


class PreferenceData(Rows):
    """Rows of comparisons (chosen and rejected), rankings (completions and their order) or ratings of one completion
    (a label, or scores)."""

    columns: dict[
        Literal[
            "id",
            "prompt",
            "chosen",
            "rejected",
            "margin",
            "probability",
            "true_probability",
            "votes",
            "completions",
            "order",
            "completion",
            "label",
            "scores",
            "source",
            "group",
        ],
        str,
    ] = {}
    """Our word: their column, where the names are not among those known (docs/PREFERENCES.md)."""


class VerifiedReward(Settings):
    kind: Literal["verified"] = "verified"
    """Score of a verifier."""
    verifier: str | None = None
    """Without it each task's own."""
    options: dict[str, Any] = {}
    """Of that verifier, by name (`score: pass_rate`); held-out tasks that it judges are judged with the same."""
    weight: Weight = 1.0
    """0 logs the part without training on it."""
    optional: bool = False
    """A part that fails is left out, where otherwise the rollout counts as unjudged."""
    gate: Name | None = None
    """Another part, whose order this one must not change: it adds weight / 2 * score * (smallest difference between
    siblings by that part, at most 1, times that part's weight), so that it only orders completions that are equal by
    that part. The weights of the parts behind one gate add up to 1 at most."""

    @model_validator(mode="after")
    def _check(self) -> VerifiedReward:
        if self.options and self.verifier is None:
            raise ValueError(f"options ({', '.join(self.options)}) are one verifier's own; name it with verifier")
        return self


class RandomReward(Settings):
    kind: Literal["random"]
    """1 with probability p whatever was written: a control run."""
    p: Share = 0.5
    weight: Weight = 1.0
    optional: bool = False
    gate: Name | None = None


class MajorityReward(Settings):
    kind: Literal["majority"]
    """1 for the answer that most siblings gave, 0 for another or none (TTRL, https://arxiv.org/abs/2504.16084 section
    2.1); t answers with equally many votes are worth 1 / t. No gold is read."""
    verifier: str | None = None
    """Finds the answer in a response, whatever it thinks of it; without it each task's own. A task without a gold is
    shown to it with the gold 0."""
    options: dict[str, Any] = {}
    """Of that verifier, by name."""
    weight: Weight = 1.0
    optional: bool = False
    gate: Name | None = None

    @model_validator(mode="after")
    def _check(self) -> MajorityReward:
        if self.options and self.verifier is None:
            raise ValueError(f"options ({', '.join(self.options)}) are one verifier's own; name it with verifier")
        return self


class SelfCertaintyReward(Settings):
    kind: Literal["self_certainty"]
    """Mean over a completion's tokens of KL(uniform || policy), nats: how far the policy is from knowing nothing
    (https://arxiv.org/abs/2505.19590 eq. 5). No gold is read; costs one forward of the policy more."""
    weight: Weight = 1.0
    optional: bool = False
    gate: Name | None = None


class Ensemble(Settings):
    """Several reward models as one, which are harder to please by a flaw of one, https://arxiv.org/abs/2310.02743."""

    how: Literal["mean", "min", "mean_minus_std"] = "mean"
    """Of the members' numbers; mean_minus_std: mean - k * std, over n as the members are all there are."""
    k: NonNegative = 1.0
    """Of mean_minus_std."""


class ModelReward(Settings):
    kind: Literal["model"]
    """Number that a reward model or another sequence classifier gives."""
    path: Name | None = None
    """Folder or Hugging Face name of a sequence classifier (..ForSequenceClassification, safetensors), such as the
    model/ of a finished `rlvr reward-model`."""
    paths: Strings = ()
    """Of an ensemble, in place of path."""
    made_by: str | None = None
    """Recipe that makes `path`; named where the folder is absent."""
    label: Name | None = None
    """Of several outputs the one that is good: its logit counts, log p / (1 - p) of a classifier that gives one label
    (with two labels: its output less the other's), else the bare output. Without it the model must have one output, or
    `attributes`."""
    attributes: dict[Name, Weight] = {}
    """Of several outputs: their weights by label; the number is the weighted sum of the bare outputs."""
    group: Name | None = None
    """Of a reward model with an output for each group of people (loss.groups): the one whose opinion counts. Without it
    the output for all, or where it has none the mean of the groups."""
    combine: Literal["mean", "min"] | None = None
    """Of such a model: the mean of the groups' outputs, or that of the group which likes it least."""
    ensemble: Ensemble = Ensemble()
    shift: Weight = 0.0
    """Taken off first: the mean over reference completions makes those worth 0."""
    scale: Annotated[float, Field(ge=1e-6, le=1e6, allow_inf_nan=False)] = 1.0
    """Then the number is divided by this: the standard deviation over reference completions makes theirs 1."""
    clip: PositiveFloat | None = None
    """Then held within -clip and clip."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the weights."""
    micro_tokens: PositiveInt = 8192
    """Tokens per forward, halved where memory runs out; a group's completions are always scored by themselves."""
    weight: Weight = 1.0
    optional: bool = False
    gate: Name | None = None

    @model_validator(mode="after")
    def _check(self) -> ModelReward:
        if (self.path is None) == (not self.paths):
            raise ValueError("needs path, or paths for an ensemble, and not both")
        if self.paths and (len(self.paths) < 2 or len(set(self.paths)) < len(self.paths)):
            raise ValueError(f"paths must be at least two different models, got {', '.join(self.paths)}")
        if self.path is not None and self.ensemble != Ensemble():
            raise ValueError("ensemble goes with paths only; path is one model")
        if self.ensemble.k != 1 and self.ensemble.how != "mean_minus_std":
            raise ValueError(f"ensemble.k goes with how: mean_minus_std only, got how: {self.ensemble.how}")
        if self.made_by is not None and self.path is None:
            raise ValueError("made_by goes with path only")
        if sum((self.label is not None, bool(self.attributes), self.group is not None, self.combine is not None)) > 1:
            raise ValueError("label, attributes, group and combine each say which outputs count; give one of them")
        if self.attributes and not any(self.attributes.values()):
            raise ValueError("attributes needs a weight that is not 0: the number would be 0 whatever was written")
        return self


class JudgeReward(Judging):
    kind: Literal["judge"]
    """Opinion of a language model: of pairs of siblings, or of each completion by itself (docs/JUDGES.md)."""
    unless: Name | None = None
    """A part of kind verified: where its verdict decides, the judge is not asked and does not speak of it."""
    decides: Literal["wrong", "right", "both"] = "wrong"
    """Which verdict of that part decides: a score of 0, of 1, or either."""
    weight: Weight = 1.0
    optional: bool = False
    gate: Name | None = None

    @model_validator(mode="after")
    def _check(self) -> JudgeReward:
        if self.decides != "wrong" and self.unless is None:
            raise ValueError("decides goes with unless, which names the part whose verdict it is")
        return self


Reward = Annotated[
    VerifiedReward | RandomReward | ModelReward | MajorityReward | SelfCertaintyReward | JudgeReward,
    Field(discriminator="kind"),
]
"""A part of the reward."""
HAVE_VALUES = ("model", "self_certainty")
"""Kinds whose verdicts have a value of any size beside their score."""
_HARDLY_EQUAL = (*HAVE_VALUES, "judge")


def check_gates(rewards: Mapping[str, Reward]) -> None:
    """ValueError where a gate names no part that could be one, or the parts behind it could change its order."""
    behind: dict[str, float] = {}
    for name, part in rewards.items():
        if part.gate is None:
            continue
        gate = rewards.get(part.gate)
        if gate is None or part.gate == name:
            others = [other for other in rewards if other != name]
            raise ValueError(
                f"rewards.{name}.gate: no other part {part.gate!r}; {near(part.gate, others)}there are: "
                f"{', '.join(others) or 'none'}"
            )
        if gate.kind in _HARDLY_EQUAL or gate.gate is not None or not gate.weight:
            why = (
                f"of kind {gate.kind}, by which hardly two completions are equal"
                if gate.kind in _HARDLY_EQUAL
                else "behind a gate itself"
                if gate.gate is not None
                else "of weight 0"
            )
            raise ValueError(f"rewards.{name}.gate: {part.gate} is {why}; take a part that a verifier judges")
        behind[part.gate] = behind.get(part.gate, 0.0) + abs(part.weight)
        if behind[part.gate] > 1:
            raise ValueError(
                f"rewards.{name}.weight: the weights of the parts behind gate {part.gate!r} must add up to 1 at most, "
                f"got {behind[part.gate]:g}"
            )


def check_judges(rewards: Mapping[str, Reward]) -> None:
    """ValueError where a judge is to leave to another part what that part cannot decide."""
    for name, part in rewards.items():
        if not isinstance(part, JudgeReward) or part.unless is None:
            continue
        other = rewards.get(part.unless)
        if not isinstance(other, VerifiedReward):
            fitting = [each for each, kind in rewards.items() if isinstance(kind, VerifiedReward)]
            raise ValueError(
                f"rewards.{name}.unless: {part.unless!r} is no part of kind verified; {near(part.unless, fitting)}"
                f"there are: {', '.join(fitting) or 'none'}"
            )


class Shaping(Settings):
    """What is done to the rewards of a step together before it is learnt from, in this order. The metric `reward` and
    the rewards of rollouts/ are those before; `shaped` beside them is what was trained on."""

    length_residual: Strings = ()
    """Parts whose number is cleared of the length of completions: what a straight line through this step's (length,
    number) explains is taken off. Only kinds that have a number of any size (model, self_certainty)."""
    within: Literal["group", "step"] = "group"
    """Whether that line's slope (the metric shaping/NAME/length_slope) is of differences between siblings, as that of
    rewards/NAME/length_slope always is (the same number, where no group was set aside), or of all completions of the
    step."""
    whiten: Literal["none", "batch", "running"] = "none"
    """Mean 0 and standard deviation 1 over the step's completions (batch), or over those of all steps so far
    (running)."""
    clip: PositiveFloat | None = None
    """Then each is held within -clip and clip."""

    @model_validator(mode="after")
    def _check(self) -> Shaping:
        if self.within != "group" and not self.length_residual:
            raise ValueError("within goes with length_residual only")
        return self


def check_shaping(shaping: Shaping, rewards: Mapping[str, Reward], advantage: str, positive_nll: float) -> None:
    """ValueError where a part cannot be cleared of length, or what compares rewards could not take what comes out.

    advantage: its kind; positive_nll: as in loss.
    """
    changes_level = shaping.whiten != "none" or shaping.clip is not None
    if advantage == "gdpo" and (changes_level or any(part.gate for part in rewards.values())):
        what = "shaping.whiten and shaping.clip" if changes_level else "rewards.NAME.gate"
        raise ValueError(f"advantage.kind gdpo normalises each part for itself; leave out {what}")
    if shaping.whiten != "none" and advantage == "max_likelihood":
        raise ValueError("advantage.kind max_likelihood needs rewards from 0 on; shaping.whiten must be none")
    if changes_level and positive_nll:
        raise ValueError(
            "loss.positive_nll reads rewards as they are (loss.positive_above); leave out shaping.whiten and clip"
        )
    fitting = [name for name, part in rewards.items() if part.kind in HAVE_VALUES]
    for name in shaping.length_residual:
        if name not in fitting:
            raise ValueError(
                f"shaping.length_residual: {name!r} is no part whose number can be cleared of length; "
                f"{near(name, fitting)}there are: {', '.join(fitting) or 'none (kinds model and self_certainty)'}"
            )


class Scoring(Settings):
    workers: PositiveInt = 1
    """Processes that run verifiers."""
    memory_mib: PositiveInt = 2048
    """Address space of each."""


class Overlong(Settings):
    """Completions near or beyond sample.max_tokens, https://arxiv.org/abs/2503.14476 section 3.4."""

    buffer: Share = 0.0
    """The last share of sample.max_tokens, over which `penalty` grows from 0 to its whole; 0: no penalty."""
    penalty: Annotated[float, Field(ge=0, le=1e6)] = 1.0
    """Taken off the reward of a completion that has no token left."""
    missing_eos: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    """Taken off the reward of a completion cut at max_tokens, beside the penalty of the buffer (TRL:
    missing_eos_penalty)."""
    filter: bool = False
    """Completions cut at max_tokens stay in their group's baseline and leave the loss (TRL:
    mask_truncated_completions)."""

    @property
    def is_on(self) -> bool:
        """Whether completions get a verdict on their length."""
        return self.buffer > 0 or self.missing_eos > 0

    @property
    def most(self) -> float:
        """The most that is taken off a reward."""
        return (self.penalty if self.buffer > 0 else 0.0) + self.missing_eos


class Canaries(Settings):
    """Tasks that cannot be solved honestly, sampled beside the others and never trained on: what a verifier gives for
    one is a hack."""

    share: Share = 0.0
    """Groups of canaries for each group that a step trains on; 0: none."""
    tasks: Data | None = None
    """Tasks of your own, of which none can be solved: a path, or a mapping as under data, as which they are asked and
    judged where they do not say. Without it those of data, with a gold that nothing leads to."""
    stop_rate: Share | None = None
    """The run stops where more than this share of the canaries' completions of the last `window` steps was rewarded."""
    window: PositiveInt = 20
    """Steps over which the hack rate is taken."""

    @model_validator(mode="after")
    def _check(self) -> Canaries:
        if not self.share and (self.tasks is not None or self.stop_rate is not None):
            raise ValueError("share must be above 0 for tasks or stop_rate to mean anything")
        return self


class Alarms(Settings):
    """Whether a reward model, a judge or the policy's own opinion is being gamed; told, and in metrics as alarm/*."""

    window: Annotated[int, Field(ge=8)] = 16
    """Shortest stretch of last steps that an alarm judges by; it looks at twice as many as well, and so on up to the
    whole run."""
    stop: bool = False
    """An alarm ends the run, with a checkpoint."""
