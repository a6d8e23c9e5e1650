"""The schema of a recipe: one frozen model per section, one recipe class per stage.

The text under a field is its documentation (`rlvr config --settings STAGE` prints it). Loading, overrides and error
messages are in settings.py. Names follow TRL's where one exists.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from rlvr.fields import (
    Count,
    Fused,
    Ints,
    PositiveFloat,
    PositiveInt,
    Settings,
    Share,
    Strings,
)
from rlvr.loss_settings import Advantage, Kl, Loss
from rlvr.model_settings import AdamW, Critic, Model, NewModel, Optim, Reference
from rlvr.model_settings import BpeTokenizer as BpeTokenizer
from rlvr.model_settings import Lora as Lora
from rlvr.model_settings import Muon as Muon
from rlvr.reward_settings import (
    HAVE_VALUES,
    Alarms,
    Canaries,
    Data,
    Overlong,
    Reward,
    Scoring,
    Shaping,
    VerifiedReward,
    check_gates,
    check_judges,
    check_shaping,
)
from rlvr.reward_settings import JudgeReward as JudgeReward
from rlvr.reward_settings import MajorityReward as MajorityReward
from rlvr.reward_settings import ModelReward as ModelReward
from rlvr.reward_settings import RandomReward as RandomReward
from rlvr.reward_settings import SelfCertaintyReward as SelfCertaintyReward


class Run(Settings):
    dir: str | None = None
    """Folder of the run; without it runs/RECIPE-N, N counting up."""


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
    group_size: PositiveInt = 8
    """Completions per task (TRL: num_generations); at least 2, but for the advantage kinds gae and returns, which do
    not compare siblings."""
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


class Ptx(Settings):
    """PPO-ptx, https://arxiv.org/abs/2203.02155 eq. 2: every update also learns from demonstrations."""

    data: Data
    """Demonstrations or plain texts, as in a recipe for SFT: a path, or a mapping as under data."""
    coef: PositiveFloat = 1.0
    """Weight of their mean negative log-likelihood, nats per token, beside the policy's loss."""
    batch_size: PositiveInt = 32
    """Demonstrations per update."""

    @field_validator("data", mode="before")
    @classmethod
    def _from_path(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value


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
    options: dict[str, Any] = {}
    """Of the tasks' verifier, by name, for `rlvr eval`; in a recipe for training they are those of the reward."""

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
    """What the recipe is for: rl, sft, pretrain, reward_model, dpo or eval."""
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


def check_dtype(model: Model) -> None:
    """ValueError where training cannot hold the weights in that type."""
    if model.dtype != "float32":
        raise ValueError(
            f"model.dtype must be float32 for training (an optimizer's step is lost in the rounding of {model.dtype})"
        )


_FORMULAS: dict[str, tuple[str, dict[str, tuple[Any, ...]]]] = {
    "online_dpo": (
        "has the gradient of DPO's loss",
        {
            "updates": (1,),
            "epochs": (1,),
            "loss.surrogate": ("reinforce",),
            "loss.aggregate": ("sequence_sum",),
            "advantage.whiten": (False,),
            "advantage.top_entropy": (1.0,),
        },
    ),
    # imitation is right after any number of updates; another divisor of the whole step is another learning rate
    "best": (
        "imitates the best",
        {
            "loss.surrogate": ("reinforce",),
            "loss.aggregate": ("sequence_sum", "constant", "token"),
            "advantage.whiten": (False,),
        },
    ),
    # of divergences k1 alone has the right gradient as an advantage, docs/ALGORITHMS.md
    "divergence": ("has the gradient of the divergence from the teacher", {"kl.estimator": ("k1",)}),
}
"""Kinds of advantage that are another method's gradient: what they are, and the settings under which they are it."""


def _check_formula(recipe: RlRecipe) -> None:
    """ValueError where the rest of the recipe would make something else of such an advantage."""
    kind = recipe.advantage.kind
    what, asked = _FORMULAS.get(kind, ("", {}))
    for setting, right in asked.items():
        got: Any = recipe
        for name in setting.split("."):
            got = getattr(got, name)
        if got not in right:
            named, wanted = setting.replace("estimator", "kind"), " or ".join(map(str, right))
            raise ValueError(f"advantage.kind {kind} {what} with {named}: {wanted} only, got {got}")
    if kind == "online_dpo" and recipe.kl.coef > 0:
        raise ValueError(
            "advantage.kind online_dpo has its divergence from the reference in advantage.beta; kl.coef must be 0, got "
            f"{recipe.kl.coef:g}"
        )
    if kind == "divergence" and recipe.loss.surrogate == "reinforce" and recipe.updates * recipe.epochs > 1:
        raise ValueError(
            "advantage.kind divergence is of the policy before the step, and loss.surrogate reinforce does not see how "
            f"far that has moved since: updates and epochs must be 1, got {recipe.updates} and {recipe.epochs}, or "
            "loss.surrogate clip"
        )


def _check_advantage(recipe: RlRecipe) -> None:
    """What advantage, rewards, sample and kl ask of each other."""
    kind, kl, size = recipe.advantage.kind, recipe.kl, recipe.sample.group_size
    if kind == "gae" and recipe.critic.kind == "none":
        raise ValueError("advantage.kind gae needs the values of a critic: critic.kind must be own or shared, got none")
    if kind != "gae" and recipe.critic.kind != "none":
        raise ValueError(
            f"critic.kind {recipe.critic.kind} goes with advantage.kind: gae only, which alone reads its values, got "
            f"{kind}; set critic.kind=none"
        )
    if kind in ("gdpo", "max_likelihood") and kl.in_reward:
        raise ValueError(f"advantage.kind {kind} cannot take a divergence off the reward; kl.where must be loss")
    if kind == "divergence" and not kl.in_reward:
        raise ValueError("advantage.kind divergence reads nothing else: kl.coef must be positive and kl.where reward")
    if kind == "divergence" and recipe.reference.path is None:
        raise ValueError("advantage.kind divergence needs reference.path, the teacher (from itself nothing is learnt)")
    can_be_negative = [
        name
        for name, part in recipe.rewards.items()
        if part.weight < 0 or (part.weight and part.kind in HAVE_VALUES and part.gate is None)
    ]
    if kind == "max_likelihood" and (recipe.overlong.most > 0 or can_be_negative or recipe.shaping.length_residual):
        raise ValueError(
            "advantage.kind max_likelihood divides by the mean reward, which must not be negative; leave out "
            "overlong.buffer, overlong.missing_eos, shaping.length_residual, negative weights and models' rewards "
            f"without a gate{' (' + ', '.join(can_be_negative) + ')' if can_be_negative else ''}"
        )
    if size < 2 and (kind not in ("gae", "returns") or recipe.sample.dynamic):
        what = "sample.dynamic" if kind in ("gae", "returns") else f"advantage.kind {kind}"
        raise ValueError(f"sample.group_size must be at least 2 for {what}, which compares siblings, got {size}")
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
    shaping: Shaping = Shaping()
    overlong: Overlong = Overlong()
    canaries: Canaries = Canaries()
    alarms: Alarms = Alarms()
    advantage: Advantage = Advantage()
    loss: Loss = Loss()
    kl: Kl = Kl()
    critic: Critic = Critic()
    reference: Reference = Reference()
    ptx: Ptx | None = None
    updates: PositiveInt = 1
    """Optimizer updates per step, each on an equal share of the groups."""
    epochs: PositiveInt = 1
    """Passes over a step's groups (TRL: num_iterations)."""
    parity: Parity = Parity()

    @property
    def reads_reference(self) -> bool:
        """Whether anything is compared with the reference's log-probabilities."""
        return self.kl.coef > 0 or self.advantage.reads_reference

    @model_validator(mode="after")
    def _check(self) -> RlRecipe:
        check_dtype(self.model)
        if not self.rewards:
            raise ValueError("rewards must have at least one part")
        if not any(part.weight for part in self.rewards.values()):
            raise ValueError("rewards must have a part whose weight is not 0")
        if "overlong" in self.rewards:
            raise ValueError("rewards.overlong: this name is kept for the penalties of overlong; choose another")
        check_gates(self.rewards)
        check_judges(self.rewards)
        check_shaping(self.shaping, self.rewards, self.advantage.kind, self.loss.positive_nll)
        _check_advantage(self)
        _check_formula(self)
        if self.reference != Reference() and not self.reads_reference:
            raise ValueError("reference is what kl measures from; set kl.coef above 0, or leave reference out")
        if self.eval.options:
            raise ValueError("eval.options is for `rlvr eval`; here they are those of the reward: rewards.NAME.options")
        if self.critic.warmup_steps >= self.steps:
            raise ValueError(
                f"critic.warmup_steps must be below steps ({self.steps}), or the policy never learns, got "
                f"{self.critic.warmup_steps}"
            )
        if self.updates > self.sample.groups_per_step:
            raise ValueError(
                f"updates must be at most sample.groups_per_step ({self.sample.groups_per_step}), got {self.updates}"
            )
        return self


class SupervisedLoss(Settings):
    fused: Fused = "auto"
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
        check_dtype(self.model)
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
