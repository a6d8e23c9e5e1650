"""The recipe of a reward model.

The text under a field is its documentation, as in recipe.py.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from rlvr.fields import Count, Name, NonNegative, PositiveInt, Settings, Strings, Weight
from rlvr.recipe import Model, TrainingRecipe, check_dtype
from rlvr.reward_settings import PreferenceData, Rows

FlipRate = Annotated[float, Field(ge=0, lt=0.5)]
_LABELLED = ("bradley_terry", "all_pairs", "binary")
"""Kinds whose labels are probabilities."""
_PAIRS = ("bradley_terry", "all_pairs")
_COMPARED = (*_PAIRS, "plackett_luce", "top_choice")
_NUMBERS = ("regression", "attributes")
OVERALL = "reward"
"""The output that rows of no group are learnt by: the only one of a model without groups."""
_DRESS = ("system", "as_chat", "prompt_template")


class HeldOutPreferences(Settings):
    """What is compared on rows that are not trained on."""

    takes: ClassVar[str] = "eval.tasks"
    """Where it is set what to measure on."""
    tasks: PreferenceData | None = None
    """Held-out rows, as under data; their prompts are kept out of training."""
    every: Count = 0
    """Steps between evaluations while training; 0: only after the last."""

    @model_validator(mode="after")
    def _check(self) -> HeldOutPreferences:
        if self.every and not self.measures:
            raise ValueError(f"every: {self.every} has nothing to measure on; set {self.takes}")
        return self

    @property
    def measures(self) -> bool:
        """Whether there is anything to measure on."""
        return self.tasks is not None


class RewardModelEval(HeldOutPreferences):
    """What a reward model is measured on."""

    takes: ClassVar[str] = "eval.tasks or eval.probes"
    probes: Rows | None = None
    """Counterfactual pairs {id, prompt, a, b, attribute, expected}: two texts that differ in one attribute (a word of
    politeness, a name, the length), and whether the reward of a should be higher than that of b, lower, or the same.
    Figures by attribute. A path alone names a file; system, as_chat and prompt_template are those of data (without it
    of eval.tasks) where they are not set."""

    @property
    def measures(self) -> bool:
        return self.tasks is not None or self.probes is not None


class PreferenceLoss(Settings):
    """What a reward model learns from, and how labels are read."""

    kind: Literal["bradley_terry", "plackett_luce", "all_pairs", "top_choice", "binary", "regression", "attributes"] = (
        "bradley_terry"
    )
    """Of comparisons bradley_terry (the difference of two rewards is the log odds of the choice) or binary (chosen is
    good with the row's probability p, rejected with 1 - p: a discriminator). Of rankings, and of rows with chosen and
    rejected lists, plackett_luce (the whole order), all_pairs (the mean over all pairs,
    https://arxiv.org/abs/2203.02155) or top_choice (the best among all; with a demonstration as the best: maximum
    entropy inverse reinforcement learning). Of ratings binary (a label; the reward is its log odds), regression (one
    number) or attributes (several)."""
    margin: Literal["none", "column"] = "none"
    """column, of bradley_terry: the better one has to be better by the row's margin (rows without one: 0)."""
    ties: Literal["soft", "davidson"] = "soft"
    """Rows of probability 0.5, and equal ranks. soft: half a label for either; davidson: a third outcome, whose weight
    is learned (config.json keeps it as tie_weight, from which a trained model goes on)."""
    label_smoothing: FlipRate = 0.0
    """Share of each label given to the other side: rewards become smaller, not righter."""
    robust: FlipRate = 0.0
    """Share of labels that are wrong by chance; the loss is then in the mean that of the right labels
    (https://arxiv.org/abs/2403.00409), so that rewards keep their scale."""
    center_coef: NonNegative = 0.0
    """Weight of the squared sum of a pair's rewards, which keeps their mean near 0 (TRL: center_rewards_coefficient).
    It shrinks differences: look at the calibration slope."""
    variance: bool = False
    """regression and attributes also predict how far off they are (a Gaussian's variance for each number)."""
    attributes: dict[Name, Weight] = {}
    """Numbers that a rating has, by name, each an output of the model, and what it counts in the reward, which is their
    weighted sum."""
    groups: Literal["auto"] | Strings = ()
    """Groups of people (the rows' column `group`) that want different things: the model has an output for each, on one
    trunk, and a row is learnt by its own group's. Rows without a group are learnt by a further output, `reward`; where
    there are none the reward is the mean of the groups. auto: those that the rows name. Without it all rows are learnt
    by one output, whatever their group."""

    @model_validator(mode="after")
    def _check(self) -> PreferenceLoss:
        needs = {
            "margin": (self.margin != "none", ("bradley_terry",)),
            "ties": (self.ties != "soft", _PAIRS),
            "label_smoothing": (self.label_smoothing > 0, _LABELLED),
            "robust": (self.robust > 0, _LABELLED),
            "center_coef": (self.center_coef > 0, _COMPARED),
            "variance": (self.variance, _NUMBERS),
            "attributes": (bool(self.attributes), ("attributes",)),
            "groups": (bool(self.groups), (*_COMPARED, "binary")),
        }
        for name, (is_set, kinds) in needs.items():
            if is_set and self.kind not in kinds:
                raise ValueError(f"{name} goes with kind {', '.join(kinds)}; kind is {self.kind}")
        if self.kind == "attributes" and not any(self.attributes.values()):
            raise ValueError("kind attributes needs attributes: {NAME: WEIGHT, ...} with a weight that is not 0")
        if isinstance(self.groups, tuple) and (
            len(set(self.groups)) < len(self.groups) or OVERALL in self.groups or len(self.groups) == 1
        ):
            raise ValueError(
                f"groups must be two or more different names, none of them {OVERALL!r}, got {', '.join(self.groups)}"
            )
        if self.label_smoothing and self.robust:
            raise ValueError("label_smoothing and robust say the opposite of each other; set one of them")
        if self.robust and self.margin != "none":
            # a flipped label turns delta round, and not the margin
            raise ValueError("robust with a margin is not in the mean the loss of the right labels; set one of them")
        return self


class RewardModelRecipe(TrainingRecipe):
    """A reward model: a language model or classifier whose head gives a number."""

    command: ClassVar[str] = "reward-model"
    stage: Literal["reward_model"] = "reward_model"  # pyright: ignore[reportIncompatibleVariableOverride]
    model: Model
    """A causal language model (cloned, with a new head), or a classifier to be trained on."""
    data: PreferenceData | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    """Without steps it is not read."""
    steps: Count  # pyright: ignore[reportIncompatibleVariableOverride]
    """Optimizer steps (TRL: max_steps); 0: only measure a reward model that is trained already on eval.tasks and
    eval.probes. No model is saved then."""
    eval: RewardModelEval = RewardModelEval()  # pyright: ignore[reportIncompatibleVariableOverride]
    loss: PreferenceLoss = PreferenceLoss()
    batch_size: PositiveInt = 64
    """Comparisons (rankings, ratings; with group_by: prompt prompts) per optimizer step."""
    group_by: Literal["row", "prompt"] = "row"
    """prompt: all rows of a prompt are one element of one batch, and their loss is averaged, so that completions which
    many pairs share are seen once an epoch (https://arxiv.org/abs/2203.02155 section 3.5)."""
    bucket: PositiveInt = 16
    """Batches whose rows are sorted by length together, to pad less; at most a quarter of an epoch's."""
    max_length: PositiveInt | None = None
    """Prompts with completions longer than this are bad rows; without it what the model allows."""

    @model_validator(mode="before")
    @classmethod
    def _dress_probes(cls, values: Any) -> Any:
        """Probes are asked as the rows are that are trained or measured on, but for what the recipe says of them."""
        held_out = values.get("eval") if isinstance(values, dict) else None
        if not isinstance(held_out, dict) or held_out.get("probes") is None:
            return values
        probes, like = held_out["probes"], values.get("data") or held_out.get("tasks")
        probes = {"path": probes} if isinstance(probes, str) else probes
        if isinstance(probes, dict) and isinstance(like, dict):
            probes = {name: like[name] for name in _DRESS if name in like} | probes
        return {**values, "eval": {**held_out, "probes": probes}}

    @model_validator(mode="after")
    def _check(self) -> RewardModelRecipe:
        check_dtype(self.model)
        if self.packing:
            raise ValueError("packing is not for reward models; leave it out")
        if self.steps and self.data is None:
            raise ValueError("data is needed to train on; only steps: 0, which measures, goes without")
        if self.steps == 0 and not self.eval.measures:
            raise ValueError(
                "steps: 0 only measures, and there is nothing to measure on; set eval.tasks or eval.probes"
            )
        return self
