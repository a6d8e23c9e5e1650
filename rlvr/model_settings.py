"""The sections of a recipe that say which models there are, and how each is trained: policy, critic, reference.

The text under a field is its documentation, as in recipe.py.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, Strict, model_validator

from rlvr.fields import (
    Count,
    Decay,
    Name,
    NonNegative,
    PositiveFloat,
    PositiveInt,
    Rate,
    Settings,
    Share,
    Strings,
    Switched,
)


class Lora(Settings):
    """Low-rank adapters, https://arxiv.org/abs/2106.09685: the model's own weights stay as they are."""

    rank: PositiveInt = 16
    """Of the two factors of each adapter. Adapters are off unless `lora` is true or has settings."""
    alpha: PositiveFloat = 32.0
    """The adapter's product is scaled by alpha / rank."""
    targets: Strings | Literal["all-linear"] = "all-linear"
    """Last parts of the names of the modules that get one (q_proj, ...); all-linear: all but the output head."""


class Model(Settings):
    path: Name
    """Folder or Hugging Face name of a causal language model (safetensors); for a reward model also of a classifier
    (..ForSequenceClassification), which keeps its head."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the weights. Training takes float32 alone: a step of the optimizer is lost in bfloat16's rounding."""
    lora: Switched[Lora] = None
    """Train adapters alone: true, or their settings. model/ is then the merged model, adapter/ the PEFT folder."""
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


class CriticOptim(AdamW):
    kind: Literal["adamw"] = "adamw"
    """AdamW trains every critic, whatever optim.kind trains the policy."""
    lr: Rate = 1e-5
    """Learning rate after the warm-up."""


class Critic(Settings):
    """What foretells the reward still to come, for advantage.kind: gae, https://arxiv.org/abs/1707.06347."""

    kind: Literal["none", "shared", "own"] = "none"
    """shared: one more output on the policy's hidden states, whose loss trains the policy's layers too; own: a model of
    its own, saved at the end as critic/, where the next run can take it from."""
    path: Name | None = None
    """Of own: a reward model (a classifier of one output) or a causal language model, which gets a new head; without it
    model.path with a new head. Its tokenizer must be the policy's."""
    made_by: str | None = None
    """Recipe that makes `path`; named where the folder is absent."""
    optim: CriticOptim = CriticOptim()
    """AdamW of the critic; of shared that of the output alone."""
    coef: PositiveFloat = 0.1
    """Of shared: weight of the value loss beside the policy's (TRL: vf_coef); own needs none."""
    value_clip: PositiveFloat | None = None
    """A value that moves further than this in a step gains nothing by it (TRL: cliprange_value); null: no bound."""
    lora: Switched[Lora] = None
    """Of own: train adapters and the head alone: true, or their settings. critic/ is then the merged model."""
    warmup_steps: Count = 0
    """First steps in which the critic alone learns (verl: critic_warmup)."""
    truncated: Literal["bootstrap", "terminal"] = "bootstrap"
    """Completions cut at max_tokens. bootstrap: what would have come counts as the critic's value of the last token, in
    place of what the unfinished text was judged (the penalties of `overlong` stay); terminal: the judged reward, as if
    they had ended there. overlong.filter leaves them out of the loss instead."""

    @model_validator(mode="after")
    def _check(self) -> Critic:
        changed = [name for name, field in type(self).model_fields.items() if getattr(self, name) != field.default]
        own_only = [name for name in changed if name in ("path", "made_by", "lora")]
        if self.kind == "none" and changed:
            raise ValueError(f"{', '.join(changed)} want a critic: kind must be own or shared, got none")
        if self.kind == "shared" and own_only:
            raise ValueError(f"{', '.join(own_only)} want kind: own, got shared (it stands on the policy's layers)")
        if self.kind == "own" and "coef" in changed:
            raise ValueError("coef wants kind: shared, got own (optim.lr says how fast that learns)")
        return self


class Reference(Settings):
    path: Name | None = None
    """What the policy is compared with (kl, direct losses; TRL: ref_model), such as a teacher: a folder or Hugging Face
    name, of the policy's tokenizer; without it the policy as it was before step 1."""
    made_by: str | None = None
    """Recipe that makes `path`; named where the folder is absent."""
