"""The schema of a recipe: one frozen model per section, one recipe class per stage.

The text under a field is its documentation (`rlvr config --settings STAGE` prints it). Loading, overrides and error
messages are in settings.py. Names follow TRL's where one exists.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

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


class Model(Settings):
    path: Name
    """Folder or Hugging Face name of a causal language model (safetensors)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the weights. Training takes float32 alone: a step of the optimizer is lost in bfloat16's rounding."""
    made_by: str | None = None
    """Recipe that makes `path`; named where the folder is absent."""


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


class Advantage(Settings):
    kind: Literal["group", "group_no_std"] = "group"
    """group: (reward - mean) / (std + eps) over siblings; group_no_std: reward - mean."""
    eps: PositiveFloat = 1e-4
    """Keeps a group of equal rewards finite."""


class Clip(Settings):
    low: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """The ratio is held above 1 - low (TRL: epsilon)."""
    high: NonNegative = 0.2
    """and below 1 + high (TRL: epsilon_high)."""


class Loss(Settings):
    clip: Clip = Clip()
    aggregate: Literal["token", "sequence", "constant"] = "sequence"
    """token: mean over all trained tokens of the step; sequence: mean over tokens, then over completions;
    constant: sum over tokens / (completions * sample.max_tokens)."""


class Kl(Settings):
    coef: NonNegative = 0.0
    """Weight of the divergence from the reference, the model as it was before step 1 (TRL: beta)."""
    kind: Literal["k1", "k2", "k3"] | None = None
    """Estimator, http://joschu.net/blog/kl-approx.html; without it k2 in the loss and k1 in the reward, whose
    optimum is the true one."""
    where: Literal["loss", "reward"] = "loss"
    """A term of the loss, or taken off each completion's reward."""

    @model_validator(mode="after")
    def _check(self) -> Kl:
        if self.coef > 0 and self.where == "loss" and self.kind == "k1":
            raise ValueError("kind k1 in the loss has a gradient of mean 0 and holds nothing; use k2, or where: reward")
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
    """Padded tokens per forward; the result does not depend on it."""


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
    eval: HeldOut = HeldOut()
    checkpoint: Checkpoint = Checkpoint()


def _check_dtype(model: Model) -> None:
    if model.dtype != "float32":
        raise ValueError(
            f"model.dtype must be float32 for training (an optimizer's step is lost in the rounding of {model.dtype})"
        )


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
    advantage: Advantage = Advantage()
    loss: Loss = Loss()
    kl: Kl = Kl()
    updates: PositiveInt = 1
    """Optimizer updates per step, each on an equal share of the groups."""
    epochs: PositiveInt = 1
    """Passes over a step's groups (TRL: num_iterations)."""
    parity_tolerance: PositiveFloat = 1e-3
    """Largest mean difference of the sampler's and the trainer's log-probabilities, nats; beyond it the run stops."""

    @model_validator(mode="after")
    def _check(self) -> RlRecipe:
        _check_dtype(self.model)
        if not self.rewards:
            raise ValueError("rewards must have at least one part")
        if not any(part.weight for part in self.rewards.values()):
            raise ValueError("rewards must have a part whose weight is not 0")
        if self.updates > self.sample.groups_per_step:
            raise ValueError(
                f"updates must be at most sample.groups_per_step ({self.sample.groups_per_step}), got {self.updates}"
            )
        return self


class SupervisedRecipe(TrainingRecipe):
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
