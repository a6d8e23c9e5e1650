"""The recipe of `rlvr loop`: in rounds the policy samples, comparisons are picked and labelled, the reward model is
fitted again, the policy learns from it, and a gate accepts the new policy or refuses it.

The text under a field is its documentation, as in recipe.py.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, Strict, field_validator, model_validator

from rlvr.fields import Count, Name, NonNegative, PositiveFloat, PositiveInt, Settings, Share, Strings
from rlvr.judge_settings import Judging
from rlvr.model_settings import Model
from rlvr.recipe import Engine, HeldOut, Recipe, VllmEngine
from rlvr.reward_settings import Data

Groups = Annotated[int, Field(ge=2)]
Members = Annotated[int, Field(ge=1, le=32)]
Round = Annotated[int, Field(ge=1)]
People = Annotated[tuple[dict[str, Any], ...], Strict(False)]


class LoopSample(Settings):
    """What the policy writes in each round, to be compared."""

    tasks: PositiveInt = 256
    """Prompts of a round, of `data`: others in each round as long as there are any."""
    group_size: Groups = 4
    """Completions per task."""
    temperature: PositiveFloat = 1.0
    max_tokens: PositiveInt = 256
    """Longest completion."""
    stop: Strings = ()
    """Strings that end a completion."""


class Pick(Settings):
    """Which comparisons are asked for."""

    kind: Literal["bald", "disagreement", "random"] = "bald"
    """bald: where the choice would tell most about which member of the reward-model ensemble is right (mutual
    information, nats, https://arxiv.org/abs/1112.5745); disagreement: where the members differ most about the
    difference of the two rewards (its standard deviation); random. The first round, which has no reward model yet,
    picks at random."""
    num: PositiveInt = 128
    """Comparisons of a round to train on."""
    per_prompt: PositiveInt = 2
    """Comparisons of one prompt at most, so that a round asks about many."""
    explore: Share = 0.0
    """Share of them that is picked at random all the same."""
    held_out: Count = 16
    """Further comparisons of a round, of prompts of their own and picked at random, that the reward model is measured
    on and never trained on."""


class Labels(Settings):
    """Who answers, and what becomes of the answers."""

    kind: Literal["people", "judge", "simulated"] = "people"
    """people: the loop stops with exit code 75 until `rlvr label` has collected enough answers; judge: an AI judge, as
    `rlvr judge` asks it; simulated: a crowd whose reliabilities are known."""
    db: str | None = None
    """Database of items and answers; without it RUN/labels.db."""
    votes: PositiveInt = 1
    """Answers per comparison."""
    enough: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of a round's comparisons that must have all their votes before the loop goes on; a skip counts as one."""
    aggregate: Literal["votes", "dawid_skene"] = "votes"
    """How several answers become one soft label: the share of the votes; or Dawid and Skene's probability, for which
    people count by how often they agree with the others."""
    keep: Literal["all", "last", "decay"] = "all"
    """Rounds whose labels the reward model learns from. last: the last `window`; decay: a label counts `decay` times as
    much for each round that it is old. For preferences that drift."""
    window: PositiveInt = 1
    """Of last."""
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Of decay."""
    of_refused: Literal["keep", "drop"] = "keep"
    """What becomes of the labels of a round that was refused."""
    judge: Judging | None = None
    """Of judge: its settings, those of rewards.NAME of kind: judge."""
    truth: Name | None = None
    """Of simulated: what a completion is worth, package.module:function or file.py:function whose parameters are out of
    prompt, answer, gold and round; two of log odds d are told apart with probability s(d)."""
    truth_from: dict[str, Name] = {}
    """Of simulated: what people think from a round on, {"2": FUNCTION}: preferences that drift, or are turned round."""
    crowd: People = ({"name": "ann"},)
    """Of simulated: the annotators, each by what a Person of rlvr.feedback.crowd has (name, reliability, ...)."""

    @field_validator("crowd", mode="before")
    @classmethod
    def _undone(cls, crowd: Any) -> Any:
        """null takes away what a base recipe says."""
        return cls.model_fields["crowd"].default if crowd is None else crowd

    @model_validator(mode="after")
    def _check(self) -> Labels:
        if self.kind == "simulated" and self.truth is None:
            raise ValueError("truth goes with kind: simulated, which needs it; kind is simulated")
        if self.kind != "simulated" and self.truth is not None:
            raise ValueError(
                f"truth goes with kind: simulated; kind is {self.kind}: labels.truth=null takes it away (and with "
                "gate.judge truth choose gate.judge=verifier, labels or reward_model)"
            )
        names = [str(person.get("name")) for person in self.crowd]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"each person of crowd needs a name of their own; there are several of {twice!r}")
        if self.truth_from and self.truth is None:
            raise ValueError("truth_from goes with kind: simulated only")
        if bad := [key for key in self.truth_from if not key.isdecimal() or int(key) < 2]:
            raise ValueError(f"truth_from must be by rounds from 2 on, got {bad[0]!r}; the first round's is truth")
        if self.kind == "simulated" and len(self.crowd) < self.votes:
            raise ValueError(f"crowd must have at least as many people as votes ({self.votes}), got {len(self.crowd)}")
        if self.judge is None and self.kind == "judge":
            raise ValueError(
                "judge goes with kind: judge, which needs it: labels.judge.by.url and labels.judge.by.model"
            )
        if self.judge is not None and self.kind != "judge":
            raise ValueError(f"judge goes with kind: judge; kind is {self.kind}: labels.judge=null takes it away")
        if self.kind == "judge" and self.votes > 1:
            raise ValueError(f"votes must be 1 for kind: judge (judge.samples asks it several times), got {self.votes}")
        return self

    def truth_of(self, number: int) -> str | None:
        """The function that says what people think in a round."""
        due = [int(key) for key in self.truth_from if int(key) <= number]
        return self.truth_from[str(max(due))] if due else self.truth


class LoopRewardModel(Settings):
    """An ensemble that is fitted in each round, on the labels of all rounds."""

    recipe: Name
    """Recipe for `rlvr reward-model`; its data, eval.tasks, seed and run.dir are the loop's."""
    settings: dict[str, Any] = {}
    """Settings over the recipe's, {optim: {lr: 1e-3}}."""
    members: Members = 3
    """Reward models of the ensemble; their number for the policy is that of the policy's rewards.NAME.ensemble."""
    bootstrap: bool = True
    """Each member has a draw of the labels of its own, with replacement; else they differ in seeds alone."""
    start: Literal["base", "last"] = "base"
    """Fit from the recipe's model.path, or go on from the last round's."""
    epochs: PositiveFloat | None = None
    """Passes over the labels, which set the recipe's steps; without it the recipe's own steps."""
    refit: bool = True
    """False: the first round's reward model stays, and later rounds ask for no labels: what a frozen one is worth."""


class LoopPolicy(Settings):
    """The policy update of each round."""

    recipe: Name
    """Recipe for `rlvr train`; its model.path, engine, data, seed and run.dir are the loop's."""
    settings: dict[str, Any] = {}
    """Settings over the recipe's, {kl: {coef: 0.05}}."""
    part: Name = "preference"
    """Part of its rewards that is the ensemble."""
    start: Literal["last", "first"] = "last"
    """Train on from the last accepted policy, or from `model` again."""
    reference: Literal["last", "first"] = "last"
    """What kl measures from: the policy that the round begins with, or `model`."""


class LoopEval(HeldOut):
    """Held-out tasks, of which each round has some of its own. What is not set of columns, verifier, system, as_chat
    and prompt_template is as in data."""

    num: PositiveInt = 128
    """Tasks of a round's own held-out set; those of earlier rounds are evaluated too."""
    samples: PositiveInt = 4
    """Completions per task."""
    temperature: PositiveFloat = 1.0
    max_tokens: PositiveInt = 256
    """Longest completion; as sample.max_tokens where it is not set."""
    seed: Count = 0
    """Of the sampling: the current and the new policy are compared on the same draws."""
    stop: Strings = ()
    """Strings that end a completion; as sample.stop where it is not set."""


class Gate(Settings):
    """When a new policy is accepted: it is compared with the current one on held-out tasks, paired by task."""

    judge: Literal["truth", "verifier", "reward_model", "labels"] = "reward_model"
    """What says how good a completion is. truth: gate.truth, else what people think in that round (labels.truth);
    verifier: the score of the held-out tasks' verifier; reward_model: `path`, else one that is trained in each round on
    its held-out comparisons alone; labels: `num` comparisons of both policies' completions, answered as all others."""
    truth: Name | None = None
    """Of truth: a function as labels.truth."""
    path: Name | None = None
    """Of reward_model: folder of one that never saw the loop's labels."""
    num: PositiveInt = 64
    """Of labels: comparisons with the current policy, and as many with earlier ones."""
    rule: Literal["mean", "not_worse", "better"] = "mean"
    """mean: accepted where the mean difference is at least -tolerance; not_worse: where the lower end of its 95 %
    interval is; better: where that lower end is above tolerance."""
    tolerance: NonNegative = 0.0
    """In the judge's unit."""
    forget: NonNegative | None = 0.0
    """Refused where the 95 % interval lies below -forget on an earlier round's held-out tasks, by that round's judge,
    beside the policy that was accepted then; null: only told."""

    @model_validator(mode="after")
    def _check(self) -> Gate:
        for name, judge in (("truth", "truth"), ("path", "reward_model")):
            if getattr(self, name) is not None and self.judge != judge:
                raise ValueError(f"{name} goes with judge: {judge}, got {self.judge}")
        return self


class LoopRecipe(Recipe):
    """The whole circle."""

    command: ClassVar[str] = "loop"
    stage: Literal["loop"] = "loop"  # pyright: ignore[reportIncompatibleVariableOverride]
    rounds: PositiveInt = 3
    """Times that it goes round."""
    model: Model
    """The policy that the first round begins with, such as that of SFT."""
    data: Data
    """Tasks whose prompts are sampled, labelled and trained on; those of eval.tasks are left out."""
    engine: Engine = VllmEngine()
    processes: bool | None = None
    """Each stage in a process of its own; without it where engine.kind is not hf."""
    sample: LoopSample = LoopSample()
    pick: Pick = Pick()
    labels: Labels = Labels()
    reward_model: LoopRewardModel
    policy: LoopPolicy
    eval: LoopEval = LoopEval()
    gate: Gate = Gate()

    @field_validator("model")
    @classmethod
    def _plain(cls, model: Model) -> Model:
        if model.lora is not None:
            raise ValueError("lora is set under policy.settings.model and reward_model.settings.model")
        return model

    @model_validator(mode="after")
    def _check(self) -> LoopRecipe:
        if self.eval.tasks is None:
            raise ValueError("eval.tasks is needed: held-out tasks, on which a new policy is compared with the current")
        if self.gate.judge == "truth" and self.gate.truth is None and self.labels.truth is None:
            raise ValueError(
                "gate.judge truth needs gate.truth, a function that says what a completion is worth; without one "
                "choose gate.judge=verifier, labels or reward_model"
            )
        if self.gate.judge == "reward_model" and self.gate.path is None and not self.pick.held_out:
            raise ValueError("gate.judge reward_model needs gate.path, or pick.held_out above 0 to train one")
        if self.pick.kind != "random" and self.reward_model.members < 2:
            raise ValueError(
                f"pick.kind {self.pick.kind} measures by how much reward models differ: reward_model.members must be "
                "at least 2, or pick.kind random"
            )
        return self
