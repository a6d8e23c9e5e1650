"""The sections of a recipe that say what is learnt from scored groups: advantage, loss and kl.

The text under a field is its documentation, as in recipe.py.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rlvr.fields import Fused, NonNegative, PositiveFloat, PositiveInt, Settings, Share, Switched


class Advantage(Settings):
    kind: Literal[
        "group",
        "group_no_std",
        "batch_std",
        "leave_one_out",
        "length_weighted",
        "max_likelihood",
        "pass_at_k",
        "pass_at_k_no_std",
        "greedy",
        "gdpo",
        "gpg",
        "best",
        "online_dpo",
        "returns",
        "divergence",
        "gae",
    ] = "group"
    """group: (reward - mean) / (std + eps) over siblings; group_no_std: reward - mean; batch_std: reward - mean of
    the siblings, over the std of the whole step; leave_one_out: reward - mean of the other siblings; length_weighted:
    reward - mean weighted by length; max_likelihood: (reward - mean) / mean; pass_at_k: what the completion adds to
    the best of k, over the std (pass_at_k_no_std: not over it); greedy: reward - that of a greedy completion; gdpo:
    group for each part of the reward, then their weighted sum, whitened; gpg: group_no_std, scaled up for groups of
    equal rewards; best: only the best siblings count, to be imitated; online_dpo: the best against the worst sibling,
    with the gradient of DPO's loss; returns: each token's sum of what comes after it, without a baseline; divergence:
    nothing of the reward, each token what it diverged from the reference (kl.where: reward), to distill a teacher; gae:
    generalized advantage estimation, with a critic's values."""
    whiten: bool = False
    """Then shift and scale to mean 0 and variance 1 over the step's trained tokens."""
    eps: PositiveFloat = 1e-4
    """Keeps a group of equal rewards finite."""
    k: Annotated[int, Field(ge=2)] | None = None
    """Of pass_at_k; without it all siblings, and then of rewards 0 and 1 only a lone success teaches."""
    beta: PositiveFloat = 0.1
    """Of online_dpo: weight of the divergence from the reference that DPO's loss stands for (TRL: beta)."""
    gamma: Share = 1.0
    """Discount per token, of returns and gae."""
    lam: Share | Literal["length"] = 1.0
    """Of gae; length: 1 - 1 / (0.05 * the completion's tokens) (VAPO)."""
    critic_lam: Share | None = None
    """Of the returns that the critic learns; without it `lam`."""
    top_entropy: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Only this share of the step's tokens, those of highest entropy, keeps its advantage (TRL:
    top_entropy_quantile)."""

    @property
    def reads_reference(self) -> bool:
        """Whether it needs the reference's log-probabilities, whatever kl.coef is."""
        return self.kind == "online_dpo"

    @model_validator(mode="after")
    def _check(self) -> Advantage:
        if self.k is not None and not self.kind.startswith("pass_at_k"):
            raise ValueError(f"k goes with kind: pass_at_k only, got kind: {self.kind}")
        if self.beta != 0.1 and self.kind != "online_dpo":
            raise ValueError(f"beta goes with kind: online_dpo only (elsewhere kl.coef), got kind: {self.kind}")
        if self.gamma != 1 and self.kind not in ("returns", "gae"):
            raise ValueError(f"gamma goes with kinds returns and gae only, got kind: {self.kind}")
        if (self.lam != 1 or self.critic_lam is not None) and self.kind != "gae":
            raise ValueError(f"lam and critic_lam go with kind: gae only, got kind: {self.kind}")
        return self


class Clip(Settings):
    low: Annotated[float, Field(ge=0, le=1)] = 0.2
    """The ratio is held above 1 - low (TRL: epsilon); 1: no lower bound. Of gmpo: the log ratio above -low."""
    high: NonNegative = 0.2
    """The ratio is held below 1 + high (TRL: epsilon_high). Of gmpo: the log ratio below high."""
    dual: PositiveFloat | None = None
    """A further upper bound of the ratio where the advantage is negative; must be above 1 + high (TRL: delta, verl:
    clip_ratio_c)."""

    @model_validator(mode="after")
    def _check(self) -> Clip:
        if self.dual is not None and self.dual <= 1 + self.high:
            raise ValueError(f"dual must be above 1 + high ({1 + self.high:g}), got {self.dual:g}")
        return self


class Sapo(Settings):
    """https://arxiv.org/abs/2511.20347"""

    tau_pos: PositiveFloat = 1.0
    """Of the gate sigmoid(tau (r - 1)) 4 / tau where the advantage is positive."""
    tau_neg: PositiveFloat = 1.05
    """Where it is negative."""


class Vespo(Settings):
    """https://arxiv.org/abs/2602.10693"""

    k_pos: NonNegative = 2.0
    """Of the weight e^lambda w^k e^(-lambda w) where the advantage is positive."""
    lambda_pos: NonNegative = 3.0
    """As k_pos."""
    k_neg: NonNegative = 3.0
    """Where it is negative."""
    lambda_neg: NonNegative = 2.0
    """As k_neg."""


class Dppo(Settings):
    """https://arxiv.org/abs/2602.04879: a token leaves the loss where its probability has moved too far already. There
    it moves from the sampler's: anchor: sampler."""

    high: NonNegative = 0.2
    """Above the old one by this, where the advantage is positive;"""
    low: NonNegative = 0.2
    """below it by this, where the advantage is negative."""
    any_sign: bool = False
    """Either way whatever the advantage."""


Level = Literal["token", "sequence", "geometric"]


class CorrectionMask(Settings):
    level: Level = "token"
    """What is compared with the bounds: token, sequence or geometric, as with `weight`."""
    low: NonNegative = 0.5
    """A smaller ratio leaves the loss of the policy (its KL, entropy and NLL stay)."""
    high: PositiveFloat = 2.0
    """And a larger one."""

    @model_validator(mode="after")
    def _check(self) -> CorrectionMask:
        if self.low >= self.high:
            raise ValueError(f"low must be below high ({self.high:g}), got {self.low:g}")
        return self


class Correction(Settings):
    """Importance weights exp(old - sampler), where the sampler's log-probabilities are not the trainer's."""

    weight: Level | None = "token"
    """What the policy's loss is multiplied by, once loss.correction is true or has settings. token: each token's own
    ratio; sequence: the product over the completion; geometric: its geometric mean; null: nothing, `mask` alone."""
    cap: PositiveFloat | None = 2.0
    """Larger weights count as this (TRL: vllm_importance_sampling_cap); null: no cap."""
    mask: CorrectionMask | None = None

    @model_validator(mode="after")
    def _check(self) -> Correction:
        if self.weight is None and self.mask is None:
            raise ValueError("weight null without a mask corrects nothing; leave the correction out")
        return self


class Loss(Settings):
    surrogate: Literal["clip", "cispo", "gmpo", "sapo", "vespo", "dppo", "reinforce"] = "clip"
    """What is made of ratio r and advantage A. clip: min(r A, clip(r) A); cispo: clip(r), held constant, A log p;
    gmpo: geometric mean of clipped ratios; sapo: a soft gate; vespo: a soft weight of the whole completion;
    dppo: r A where the probability has not moved too far; reinforce: A log p."""
    ratio: Literal["token", "sequence", "sequence_token"] = "token"
    """Of new to old probability. token: each token's own; sequence: the geometric mean over the completion (GSPO);
    sequence_token: that in value, each token's own in gradient (GSPO-token)."""
    anchor: Literal["old", "sampler"] = "old"
    """The ratio's denominator. old: the policy before the step; sampler: what the sampler said (verl: bypass_mode)."""
    clip: Clip = Clip()
    """Of the surrogates clip, cispo and gmpo; the others do not read it."""
    sapo: Sapo = Sapo()
    vespo: Vespo = Vespo()
    dppo: Dppo = Dppo()
    correction: Switched[Correction] = None
    """For a sampler that disagrees with the trainer; without it none."""
    opsm: NonNegative | None = None
    """Completions of negative advantage whose mean of sampler - policy, nats per token, is above this leave the loss
    (off-policy sequence mask, https://arxiv.org/abs/2512.02556; TRL: off_policy_mask_threshold)."""
    entropy_coef: NonNegative = 0.0
    """Weight of the policy's entropy, which is raised by it."""
    positive_nll: NonNegative = 0.0
    """Weight of -log p of the completions that earned more than `positive_above`, a mean over their tokens (VAPO)."""
    positive_above: Annotated[float, Field(allow_inf_nan=False)] = 0.5
    """Reward above which a completion counts as positive."""
    aggregate: Literal["token", "sequence", "sequence_sum", "constant", "prompt"] = "sequence"
    """token: mean over all trained tokens of the step; sequence: mean over tokens, then over completions;
    sequence_sum: sum over tokens, mean over completions; constant: sum over tokens / (completions *
    sample.max_tokens); prompt: mean over the tokens of a prompt's completions, then over prompts."""
    fused: Fused = "auto"
    """auto: output head and loss in one operation, without the logits of all tokens; off: plainly, for comparison."""

    @model_validator(mode="after")
    def _check(self) -> Loss:
        for name, plain in (("sapo", Sapo()), ("vespo", Vespo()), ("dppo", Dppo())):
            if getattr(self, name) != plain and self.surrogate != name:
                raise ValueError(f"{name} goes with surrogate: {name} only, got surrogate: {self.surrogate}")
        if self.surrogate in ("gmpo", "vespo", "dppo", "reinforce") and self.ratio != "token":
            raise ValueError(f"surrogate {self.surrogate} has its own ratio; ratio must be token, got {self.ratio}")
        if self.clip.dual is not None and self.surrogate != "clip":
            raise ValueError(f"clip.dual goes with surrogate: clip only, got surrogate: {self.surrogate}")
        if self.positive_nll > 0 and self.aggregate == "constant":
            raise ValueError("positive_nll is a mean over tokens, which aggregate: constant cannot give; use token")
        if self.surrogate == "vespo" and self.correction is not None:
            raise ValueError("surrogate vespo weighs whole ratios itself; take anchor: sampler in place of correction")
        if self.anchor == "sampler" and self.correction is not None:
            raise ValueError("correction weighs the old policy against the sampler; with anchor: sampler leave it out")
        return self


class AdaptiveKl(Settings):
    """https://arxiv.org/abs/1909.08593 section 2.2: after each step coef grows or shrinks towards the target."""

    target: PositiveFloat
    """Mean over trained tokens of the estimate, nats. Without it the coefficient stays as it is."""
    horizon: PositiveInt = 10000
    """Completions over which the coefficient can change by a fifth of itself."""


class Kl(Settings):
    coef: NonNegative = 0.0
    """Weight of the divergence from the reference, the model as it was before step 1 (TRL: beta)."""
    kind: Literal["k1", "k2", "k3", "k3+", "abs"] | None = None
    """Estimator k1, k2 or k3, http://joschu.net/blog/kl-approx.html; k3+: the value of k3 with the gradient of k2; abs:
    |log ratio|. Without it k1 in the reward, whose optimum is the true one, and in the loss k2 (k1 where it is
    weighted), which comes near it where advantages are not divided by a standard deviation."""
    weighted: bool = False
    """Multiply it by the ratio of new to old probability, with the ratio's gradient (DeepSeek-V3.2; TRL:
    use_bias_correction_kl, on there by default since 1.16)."""
    where: Literal["loss", "reward"] = "loss"
    """loss: a term of the loss; reward: taken off each completion's reward. Presets of papers that have no divergence
    say reward; with a `kind` or `weighted` of the recipe's own it is then loss again."""
    adaptive: AdaptiveKl | None = None
    """coef is then the first one."""

    @property
    def estimator(self) -> str:
        """`kind`, or what stands for it."""
        return self.kind or ("k1" if self.weighted or self.where == "reward" else "k2")

    @property
    def in_loss(self) -> bool:
        return self.coef > 0 and self.where == "loss"

    @property
    def in_reward(self) -> bool:
        return self.coef > 0 and self.where == "reward"

    @model_validator(mode="after")
    def _check(self) -> Kl:
        if self.coef > 0 and self.where == "loss" and self.kind == "k1" and not self.weighted:
            raise ValueError(
                "kind k1 in the loss has a gradient of mean 0 and holds nothing; use k2, weighted, or where: reward"
            )
        if self.where == "reward" and self.weighted:
            raise ValueError("weighted is for where: loss (a reward has no gradient), got where: reward")
        if self.where == "reward" and self.kind == "k3+":
            raise ValueError("kind k3+ differs from k3 by its gradient, which a reward has not; use k3")
        if self.adaptive is not None and not self.coef:
            raise ValueError("adaptive multiplies coef, which must be positive to begin with, got 0")
        return self
