"""The schema of a recipe: one frozen model per section, one recipe class per stage.

The text under a field is its documentation (`rlvr config --settings STAGE` prints it). Loading, overrides and error
messages are in settings.py. Names follow TRL's where one exists.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, Strict, field_validator, model_validator

PositiveInt = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1)]
Strings = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Strict(False)]
Ints = Annotated[tuple[PositiveInt, ...], Strict(False)]


class Settings(BaseModel):
    """Root of all sections: frozen, no unknown names, no silent conversions (true is not 1)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


class Run(Settings):
    dir: str | None = None
    """Folder of the run; without it runs/RECIPE-N, N counting up."""


class Lora(Settings):
    """Low-rank adapters, https://arxiv.org/abs/2106.09685: the model's own weights stay as they are."""

    rank: PositiveInt = 16
    """Of the two factors of each adapter. Adapters are off unless model.lora is true or has settings."""
    alpha: PositiveFloat = 32.0
    """The adapter's product is scaled by alpha / rank."""
    targets: Strings | Literal["all-linear"] = "all-linear"
    """Last parts of the names of the modules that get one (q_proj, ...); all-linear: all but the output head."""


class Model(Settings):
    path: Name
    """Folder or Hugging Face name of a causal language model (safetensors)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the weights. Training takes float32 alone: a step of the optimizer is lost in bfloat16's rounding."""
    lora: Lora | None = None
    """Train adapters alone: true, or their settings. model/ is then the merged model, adapter/ the PEFT folder."""
    made_by: str | None = None
    """Recipe that makes `path`; named where the folder is absent."""

    @field_validator("lora", mode="before")
    @classmethod
    def _from_bool(cls, value: Any) -> Any:
        return {True: {}, False: None}[value] if isinstance(value, bool) else value


class BytesTokenizer(Settings):
    kind: Literal["bytes"] = "bytes"
    """One token per byte, with <pad> <eos> <bos>."""


class BpeTokenizer(Settings):
    kind: Literal["bpe"]
    """Byte-level BPE, trained on the data."""
    vocab_size: Annotated[int, Field(ge=259)] = 4096


class PathTokenizer(Settings):
    kind: Literal["path"]
    """An existing tokenizer."""
    path: str
    """Folder or Hugging Face name of a tokenizer."""


class NewModel(Settings):
    architecture: str = "qwen3"
    """A model type that transformers knows."""
    config: dict[str, Any] = {}
    """Its configuration (hidden_size, num_hidden_layers, ...); vocab_size, special tokens come from the tokenizer."""
    tokenizer: BytesTokenizer | BpeTokenizer | PathTokenizer = Field(default=BytesTokenizer(), discriminator="kind")


class Data(Settings):
    """Rows: prompt and gold for RL and evaluation, prompt and completion (or text) for SFT and pretraining."""

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
    columns: dict[Literal["id", "prompt", "gold", "completion", "text", "verifier"], str] = {}
    """Our word: their column, where the names are not among those known."""
    verifier: str = "math"
    """Judges rows that name none."""
    system: str | None = None
    """System message put before the prompt (makes it a conversation)."""
    as_chat: bool = False
    """Treat plain prompts as a user's message, rendered by the chat template."""
    prompt_template: str | None = None
    """Text around the prompt, with {prompt} in it."""
    limit: PositiveInt | None = None
    """Take the first rows only."""
    on_bad_row: Literal["error", "skip"] = "error"
    """Bad rows end the run before it starts, or are left out and counted."""

    @model_validator(mode="after")
    def _check(self) -> Data:
        if self.args and self.source != "generator":
            raise ValueError("args go with source: generator only")
        if self.prompt_template is not None and "{prompt}" not in self.prompt_template:
            raise ValueError("prompt_template must contain {prompt}")
        return self


class VllmEngine(Settings):
    kind: Literal["vllm"] = "vllm"
    mode: Literal["inline", "process", "server"] | None = None
    """inline: in the trainer's process; process: in one of its own, restarted where it dies; server: over HTTP, at
    `url`, one that somebody started (on a CPU the last bits of a completion that is sampled alone may then differ for
    layers wider than 1024). Without it inline, and process where the trainer has several ranks."""
    url: str | None = None
    """Of the server, such as http://127.0.0.1:8000."""
    weights_dir: str | None = None
    """Folder that trainer and sampler both see, through which weights go (process, server); without it in memory."""
    timeout_seconds: PositiveFloat = 600.0
    """A sampler that gives nothing for so long counts as dead (process, server)."""
    prefix_cache: bool | None = None
    """Share the work on equal beginnings of prompts; without it on (on a CPU no bit depends on it)."""
    max_model_len: PositiveInt | None = None
    """Longest prompt plus completion in tokens; without it what the model allows."""
    max_num_seqs: PositiveInt = 256
    """Completions sampled at the same time."""
    cpu_kvcache_gib: PositiveInt = 1
    """Cache on a CPU, in GiB."""
    gpu_memory_utilization: Share = 0.45
    """Share of the GPU for the sampler; the trainer has the rest."""
    enforce_eager: bool | None = None
    """No CUDA graphs, no compilation; without it true on a CPU, false on a GPU."""

    @model_validator(mode="after")
    def _check(self) -> VllmEngine:
        if (self.mode == "server") != (self.url is not None):
            raise ValueError("mode: server needs url, and url goes with mode: server only")
        if self.url is not None:
            parts = urlsplit(self.url)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:  # .port checks its range
                raise ValueError(f"url must be such as http://127.0.0.1:8000, got {self.url!r}")
        return self


class HfEngine(Settings):
    kind: Literal["hf"]
    max_num_seqs: PositiveInt = 512
    """Completions sampled at the same time."""


Engine = Annotated[VllmEngine | HfEngine, Field(discriminator="kind")]


class Sample(Settings):
    group_size: Annotated[int, Field(ge=2)] = 8
    """Completions per task; an advantage compares siblings, so at least 2 (TRL: num_generations)."""
    groups_per_step: PositiveInt = 16
    """Tasks per optimizer step."""
    temperature: PositiveFloat = 1.0
    max_tokens: PositiveInt = 256
    """Longest completion (TRL: max_completion_length)."""
    stop: Strings = ()
    """Strings that end a completion."""
    dynamic: bool = False
    """Groups whose rewards are all equal teach nothing: set them aside and draw others (verl: filter_groups)."""
    max_refills: Count = 4
    """Rounds of further tasks that a step draws for groups that were set aside; then it goes on with what it has."""


class VerifiedReward(Settings):
    kind: Literal["verified"] = "verified"
    """Score of a verifier."""
    verifier: str | None = None
    """Without it each task's own."""
    weight: Weight = 1.0
    """0 logs the part without training on it."""
    optional: bool = False
    """A part that fails is left out, where otherwise the rollout counts as unjudged."""


class RandomReward(Settings):
    kind: Literal["random"]
    """1 with probability p whatever was written: a control run."""
    p: Share = 0.5
    weight: Weight = 1.0
    optional: bool = False


Reward = Annotated[VerifiedReward | RandomReward, Field(discriminator="kind")]


class Scoring(Settings):
    workers: PositiveInt = 1
    """Processes that run verifiers."""
    memory_mib: PositiveInt = 2048
    """Address space of each."""


class Overlong(Settings):
    """Completions near or beyond sample.max_tokens, https://arxiv.org/abs/2503.14476 section 3.4."""

    buffer: Share = 0.0
    """The last share of sample.max_tokens, over which the penalty grows from 0 to its whole; 0: no penalty."""
    penalty: Annotated[float, Field(ge=0, le=1e6)] = 1.0
    """Taken off the reward of a completion that has no token left."""
    filter: bool = False
    """Completions cut at max_tokens stay in their group's baseline and leave the loss (TRL:
    mask_truncated_completions)."""


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
        "returns",
        "gae",
    ] = "group"
    """group: (reward - mean) / (std + eps) over siblings; group_no_std: reward - mean; batch_std: reward - mean of
    the siblings, over the std of the whole step; leave_one_out: reward - mean of the other siblings; length_weighted:
    reward - mean weighted by length; max_likelihood: (reward - mean) / mean; pass_at_k: what the completion adds to
    the best of k, over the std (pass_at_k_no_std: not over it); greedy: reward - that of a greedy completion; gdpo:
    group for each part of the reward, then their weighted sum, whitened; gpg: group_no_std, scaled up for groups of
    equal rewards; returns: each token's sum of what comes after it, without a baseline; gae: generalized advantage
    estimation, with a critic's values."""
    whiten: bool = False
    """Then shift and scale to mean 0 and variance 1 over the step's trained tokens."""
    eps: PositiveFloat = 1e-4
    """Keeps a group of equal rewards finite."""
    k: Annotated[int, Field(ge=2)] | None = None
    """Of pass_at_k; without it all siblings."""
    gamma: Share = 1.0
    """Discount per token, of returns and gae."""
    lam: Share | Literal["length"] = 1.0
    """Of gae; length: 1 - 1 / (0.05 * the completion's tokens) (VAPO)."""
    critic_lam: Share | None = None
    """Of the returns that the critic learns; without it `lam`."""
    top_entropy: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Only this share of the step's tokens, those of highest entropy, keeps its advantage (TRL:
    top_entropy_quantile)."""

    @model_validator(mode="after")
    def _check(self) -> Advantage:
        if self.k is not None and not self.kind.startswith("pass_at_k"):
            raise ValueError(f"k goes with kind: pass_at_k only, got kind: {self.kind}")
        if self.gamma != 1 and self.kind not in ("returns", "gae"):
            raise ValueError(f"gamma goes with kinds returns and gae only, got kind: {self.kind}")
        if (self.lam != 1 or self.critic_lam is not None) and self.kind != "gae":
            raise ValueError(f"lam and critic_lam go with kind: gae only, got kind: {self.kind}")
        return self


class Clip(Settings):
    low: Annotated[float, Field(ge=0, le=1)] = 0.2
    """The ratio is held above 1 - low (TRL: epsilon); 1: no lower bound. Of gmpo: the log ratio above -low."""
    high: NonNegative = 0.2
    """and below 1 + high (TRL: epsilon_high). Of gmpo: the log ratio below high."""
    dual: PositiveFloat | None = None
    """And below this where the advantage is negative; above 1 + high (TRL: delta, verl: clip_ratio_c)."""

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
    """What is compared with the bounds: as of the weight."""
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
    """What the policy's loss is multiplied by: each token's own ratio, the product over the completion, or its
    geometric mean; null: nothing, `mask` works alone."""
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
    """Of new to old probability: each token's own, the geometric mean over the completion (GSPO), or that in value
    and each token's own in gradient (GSPO-token)."""
    anchor: Literal["old", "sampler"] = "old"
    """The ratio's denominator: the policy before the step, or the sampler itself (verl: bypass_mode)."""
    clip: Clip = Clip()
    """Of the surrogates clip, cispo and gmpo; the others do not read it."""
    sapo: Sapo = Sapo()
    vespo: Vespo = Vespo()
    dppo: Dppo = Dppo()
    correction: Correction | None = None
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
    fused: Literal["auto", "off"] = "auto"
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
    """Mean over trained tokens of the estimate, nats."""
    horizon: PositiveInt = 10000
    """Completions over which the coefficient can change by a fifth of itself."""


class Kl(Settings):
    coef: NonNegative = 0.0
    """Weight of the divergence from the reference, the model as it was before step 1 (TRL: beta)."""
    kind: Literal["k1", "k2", "k3", "k3+", "abs"] | None = None
    """Estimator, http://joschu.net/blog/kl-approx.html; k3+: the value of k3 with the gradient of k2; abs: |log ratio|.
    Without it k2 in the loss (k1 where it is weighted) and k1 in the reward, whose optimum is the true one."""
    weighted: bool = False
    """Multiply it by the ratio of new to old probability, with the ratio's gradient (DeepSeek-V3.2; TRL:
    use_bias_correction_kl)."""
    where: Literal["loss", "reward"] = "loss"
    """A term of the loss, or taken off each completion's reward."""
    adaptive: AdaptiveKl | None = None
    """coef is then the first one."""

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


class AdamW(Settings):
    kind: Literal["adamw"] = "adamw"
    lr: Rate = 1e-6
    """Learning rate after the warm-up (TRL: learning_rate)."""
    betas: Annotated[tuple[Decay, Decay], Strict(False)] = (0.9, 0.95)
    weight_decay: NonNegative = 0.0
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """After the warm-up; linear and cosine fall towards min_lr_ratio, reached after the last step."""
    warmup_steps: Count = 0
    """Updates over which the rate rises from 0."""
    min_lr_ratio: Share = 0.0
    """Share of lr that linear and cosine end at."""
    max_grad_norm: PositiveFloat = 1.0
    """A longer gradient is shortened to this."""
    micro_tokens: PositiveInt = 8192
    """Tokens per forward, halved where memory runs out; the result does not depend on it."""
    max_nonfinite: Count = 3
    """Updates in a row that are skipped for a NaN or infinity in loss or gradient; one more ends the run."""


class Muon(AdamW):
    kind: Literal["muon"]  # pyright: ignore[reportIncompatibleVariableOverride, reportGeneralTypeIssues]
    """torch.optim.Muon for the 2-D weights of the layers, AdamW for embeddings, heads and vectors."""
    lr: Rate = 1e-2
    """Of Muon's weights."""
    momentum: Decay = 0.95
    adamw_lr: Rate = 2e-3
    """Of the rest."""


Optim = Annotated[AdamW | Muon, Field(discriminator="kind")]


class HeldOut(Settings):
    tasks: Data | None = None
    """Held-out tasks: a path, or a mapping as under data. Their prompts are kept out of training. What is not set of
    columns, verifier, system, as_chat and prompt_template is as in data."""

    @field_validator("tasks", mode="before")
    @classmethod
    def _from_path(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value


class Eval(HeldOut):
    every: Count = 0
    """Steps between evaluations while training; 0: never."""
    before: bool = True
    """Evaluate before the first step."""
    after: bool = True
    """Evaluate after the last step."""
    samples: PositiveInt = 1
    """Completions per task."""
    k: Ints = (1,)
    """pass@k and maj@k for these k, each at most `samples`."""
    greedy: bool = True
    """Also one completion at temperature 0."""
    temperature: PositiveFloat = 1.0
    max_tokens: PositiveInt = 256
    """Longest completion; in a recipe for training as sample.max_tokens."""
    seed: Count = 0
    """Of the sampling; apart from the run's, so that runs are compared on the same draws."""
    stop: Strings = ()
    """Strings that end a completion; in a recipe for training as sample.stop."""

    @model_validator(mode="after")
    def _check(self) -> Eval:
        if not self.k or max(self.k) > self.samples:
            raise ValueError(f"k {list(self.k)} needs samples >= {max(self.k, default=1)}, got {self.samples}")
        return self


class Checkpoint(Settings):
    every: Count = 50
    """Steps between checkpoints; 0: only where the run is stopped."""
    keep: PositiveInt = 2
    """Newest checkpoints that stay."""


class Parity(Settings):
    """Whether the sampler's log-probabilities are those of the trainer: checked before step 1 and in every step."""

    tolerance: PositiveFloat = 1e-3
    """Largest mean difference, nats."""
    on_mismatch: Literal["stop", "warn"] = "stop"
    """Beyond it the run stops, or says so and goes on; either way with the likely cause."""
    probe: Count = 4
    """Prompts that are sampled and compared before the first step; 0: none."""


class System(Settings):
    threads: PositiveInt | None = None
    """Of torch (and of vLLM, where it shares the process); without it OMP_NUM_THREADS, else all cores."""


class Recipe(Settings):
    """What every stage has."""

    command: ClassVar[str]
    stage: str
    """What the recipe is for: rl, sft, pretrain or eval."""
    schema_version: Literal[1] = Field(default=1, alias="schema")
    """Of the recipe's format."""
    seed: Count = 0
    """Of all that is random in a run."""
    run: Run = Run()
    system: System = System()


class TrainingRecipe(Recipe):
    steps: PositiveInt
    """Optimizer steps (TRL: max_steps)."""
    data: Data
    optim: Optim = AdamW()
    packing: bool | None = None
    """Several rows behind each other instead of padding, without attention across them; without it where the model's
    architecture keeps them apart. The result does not depend on it."""
    gradient_checkpointing: bool = False
    """Make activations again in the backward pass instead of keeping them: less memory, a third more time."""
    eval: HeldOut = HeldOut()
    checkpoint: Checkpoint = Checkpoint()


def _check_dtype(model: Model) -> None:
    if model.dtype != "float32":
        raise ValueError(
            f"model.dtype must be float32 for training (an optimizer's step is lost in the rounding of {model.dtype})"
        )


def _check_advantage(recipe: RlRecipe) -> None:
    """What advantage, rewards, sample and kl ask of each other."""
    kind, kl, size = recipe.advantage.kind, recipe.kl, recipe.sample.group_size
    if kind == "gae":
        raise ValueError(
            "advantage.kind gae needs the values of a critic, which this command does not train; take another kind "
            "(in your own loop: advantages.compute with batch.values_BT)"
        )
    if kind in ("gdpo", "max_likelihood") and kl.coef > 0 and kl.where == "reward":
        raise ValueError(f"advantage.kind {kind} cannot take a divergence off the reward; kl.where must be loss")
    if kind == "max_likelihood" and (
        recipe.overlong.buffer > 0 or any(part.weight < 0 for part in recipe.rewards.values())
    ):
        raise ValueError(
            "advantage.kind max_likelihood divides by the mean reward, which must not be negative; leave out "
            "overlong.buffer and negative weights"
        )
    num_completions = size * recipe.sample.groups_per_step
    if kl.adaptive is not None and kl.adaptive.horizon < num_completions:
        raise ValueError(
            "kl.adaptive.horizon must be at least the completions of a step, sample.group_size * "
            f"sample.groups_per_step ({num_completions}), got {kl.adaptive.horizon}"
        )
    if recipe.advantage.k is not None and recipe.advantage.k > size:
        raise ValueError(f"advantage.k must be at most sample.group_size ({size}), got {recipe.advantage.k}")


class RlRecipe(TrainingRecipe):
    command: ClassVar[str] = "train"
    stage: Literal["rl"] = "rl"  # pyright: ignore[reportIncompatibleVariableOverride]
    model: Model
    algorithm: str = "grpo"
    """A preset (presets.py): settings of advantage, loss and kl that the recipe may override."""
    engine: Engine = VllmEngine()
    sample: Sample = Sample()
    eval: Eval = Eval()  # pyright: ignore[reportIncompatibleVariableOverride]
    rewards: dict[str, Reward] = {"answer": VerifiedReward()}
    """Parts by name; the reward is their weighted sum."""
    scoring: Scoring = Scoring()
    overlong: Overlong = Overlong()
    advantage: Advantage = Advantage()
    loss: Loss = Loss()
    kl: Kl = Kl()
    updates: PositiveInt = 1
    """Optimizer updates per step, each on an equal share of the groups."""
    epochs: PositiveInt = 1
    """Passes over a step's groups (TRL: num_iterations)."""
    parity: Parity = Parity()

    @model_validator(mode="after")
    def _check(self) -> RlRecipe:
        _check_dtype(self.model)
        if not self.rewards:
            raise ValueError("rewards must have at least one part")
        if not any(part.weight for part in self.rewards.values()):
            raise ValueError("rewards must have a part whose weight is not 0")
        if "overlong" in self.rewards:
            raise ValueError("rewards.overlong: this name is kept for the penalty of overlong.buffer; choose another")
        _check_advantage(self)
        if self.updates > self.sample.groups_per_step:
            raise ValueError(
                f"updates must be at most sample.groups_per_step ({self.sample.groups_per_step}), got {self.updates}"
            )
        return self


class SupervisedLoss(Settings):
    fused: Literal["auto", "off"] = "auto"
    """auto: output head and loss in one operation, without the logits of all tokens; off: plainly, for comparison."""


class SupervisedRecipe(TrainingRecipe):
    loss: SupervisedLoss = SupervisedLoss()
    batch_size: PositiveInt = 32
    """Demonstrations per optimizer step."""
    bucket: PositiveInt = 16
    """Batches whose rows are sorted by length together, to pad less."""
    max_length: PositiveInt | None = None
    """Rows longer than this are bad rows; without it what the model allows."""


class SftRecipe(SupervisedRecipe):
    command: ClassVar[str] = "sft"
    stage: Literal["sft"] = "sft"  # pyright: ignore[reportIncompatibleVariableOverride]
    model: Model
    completion_only_loss: bool = True
    """No loss on prompt tokens."""

    @model_validator(mode="after")
    def _check(self) -> SftRecipe:
        _check_dtype(self.model)
        return self


class PretrainRecipe(SupervisedRecipe):
    command: ClassVar[str] = "pretrain"
    stage: Literal["pretrain"] = "pretrain"  # pyright: ignore[reportIncompatibleVariableOverride]
    model: NewModel = NewModel()
    completion_only_loss: bool = False
    """No loss on prompt tokens."""


class EvalRecipe(Recipe):
    command: ClassVar[str] = "eval"
    stage: Literal["eval"] = "eval"  # pyright: ignore[reportIncompatibleVariableOverride]
    model: Model
    engine: Engine = VllmEngine()
    scoring: Scoring = Scoring()
    eval: Eval

    @model_validator(mode="after")
    def _check(self) -> EvalRecipe:
        if self.eval.tasks is None:
            raise ValueError("eval.tasks is needed: a file of tasks with gold answers")
        return self


STAGES: dict[str, type[Recipe]] = {
    "rl": RlRecipe,
    "sft": SftRecipe,
    "pretrain": PretrainRecipe,
    "eval": EvalRecipe,
}
