"""The recipe of a policy that learns from preferences directly, without a reward model.

The text under a field is its documentation, as in recipe.py.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from rlvr.fields import Fused, NonNegative, PositiveFloat, PositiveInt, Settings
from rlvr.preference_settings import HeldOutPreferences
from rlvr.recipe import Model, Reference, TrainingRecipe, check_dtype
from rlvr.reward_settings import PreferenceData

_COMPARED_WITH_REFERENCE = ("sigmoid", "robust", "ipo", "hinge")
_GOES_WITH = {
    "label_smoothing": ("sigmoid", "robust", "simpo"),
    "ipo_logps": ("ipo",),
    "rpo_alpha": (*_COMPARED_WITH_REFERENCE, "simpo"),
    "simpo_gamma": ("simpo",),
    "desirable_weight": ("kto",),
    "undesirable_weight": ("kto",),
    "reference_free": _COMPARED_WITH_REFERENCE,
}
"""The kinds that read a setting; with others it must be at its default."""


class DirectLoss(Settings):
    """What is learnt from a preference; the formulas are in direct_losses.py."""

    kind: Literal["sigmoid", "robust", "ipo", "hinge", "kto", "orpo", "simpo"] = "sigmoid"
    """sigmoid: DPO, with label_smoothing cDPO, with rpo_alpha RPO; robust: DPO without the bias of a known share of
    flipped labels; ipo; hinge: SLiC; kto: each completion for itself, so that ratings will do; orpo, simpo: without a
    reference (TRL: loss_type)."""
    beta: PositiveFloat = 0.1
    """How dear it is to leave the reference; of ipo the paper's tau, of orpo its lambda, of simpo the scale of the mean
    log-probability (2 to 10 in its paper)."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Share of labels taken to be flipped: with sigmoid and simpo the target is 1 minus this (cDPO, which makes the
    policy more careful), with robust its effect is taken out."""
    ipo_logps: Literal["sum", "mean"] = "sum"
    """Of ipo: log-probabilities of whole completions, as in the paper; or per token, as TRL has it."""
    rpo_alpha: NonNegative = 0.0
    """Weight of the chosen completion's negative log-likelihood per token beside the loss; RPO takes 1."""
    simpo_gamma: NonNegative = 0.5
    """Of simpo: by how much the chosen completion's reward shall be the greater."""
    desirable_weight: NonNegative = 1.0
    """Of kto: weight of completions that are good."""
    undesirable_weight: NonNegative = 1.0
    """Of kto: weight of completions that are not. Where there are k times as many of one kind, its weight should be
    the k-th part of the other's."""
    reference_free: bool = False
    """Compare with a reference that holds every completion for equally likely."""
    fused: Fused = "auto"
    """auto: output head and log-probabilities in one operation, without the logits of all tokens; off: plainly, for
    comparison."""

    @model_validator(mode="after")
    def _check(self) -> DirectLoss:
        for name, kinds in _GOES_WITH.items():
            if self.kind not in kinds and getattr(self, name) != type(self).model_fields[name].default:
                which = f"kind: {kinds[0]}" if len(kinds) == 1 else f"kinds {', '.join(kinds)}"
                raise ValueError(f"{name} goes with {which} only, got kind: {self.kind}")
        if self.kind == "robust" and not self.label_smoothing:
            raise ValueError("kind: robust needs label_smoothing above 0, the share of labels that are flipped")
        if not self.desirable_weight and not self.undesirable_weight:
            raise ValueError("desirable_weight or undesirable_weight must be above 0, got 0 for both")
        return self

    @property
    def needs_reference(self) -> bool:
        return not self.reference_free and self.kind not in ("orpo", "simpo")


class DpoRecipe(TrainingRecipe):
    """Direct preference learning: DPO and its kin."""

    command: ClassVar[str] = "dpo"
    stage: Literal["dpo"] = "dpo"  # pyright: ignore[reportIncompatibleVariableOverride]
    model: Model
    reference: Reference = Reference()
    """What the policy is compared with (TRL: ref_model)."""
    loss: DirectLoss = DirectLoss()
    data: PreferenceData  # pyright: ignore[reportIncompatibleVariableOverride]
    eval: HeldOutPreferences = HeldOutPreferences()  # pyright: ignore[reportIncompatibleVariableOverride]
    batch_size: PositiveInt = 32
    """Comparisons (or ratings) per optimizer step."""
    bucket: PositiveInt = 16
    """Batches whose rows are sorted by length together, to pad less; at most a quarter of an epoch's."""
    max_length: PositiveInt | None = None
    """Prompts with completions longer than this are bad rows; without it what the model allows."""

    @model_validator(mode="after")
    def _check(self) -> DpoRecipe:
        check_dtype(self.model)
        if self.reference != Reference() and not self.loss.needs_reference:
            why = "loss.reference_free" if self.loss.reference_free else f"loss.kind: {self.loss.kind}"
            raise ValueError(f"reference does not go with {why}, which compares with none; leave one of them out")
        if self.loss.kind == "kto" and self.batch_size < 2:
            raise ValueError(
                "batch_size must be at least 2 for loss.kind: kto (its divergence is measured on the completions of "
                f"other prompts of the batch), got {self.batch_size}"
            )
        return self

    @property
    def reads_reference(self) -> bool:
        """Whether the policy is compared with a frozen model."""
        return self.loss.needs_reference
