"""The model that is trained: loading, log-probabilities, optimizer steps, saving.

B sequences, T tokens, N scored tokens, V vocabulary, D hidden.
"""

from __future__ import annotations

import difflib
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rlvr.errors import DataError, DiskError, NonFiniteError, SettingsError
from rlvr.losses import Sums
from rlvr.recipe import AdamW, BpeTokenizer, Model, Muon, NewModel
from rlvr.settings import load_recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TILE_LOGITS = 2**26
"""Logits that exist at the same time: 256 MiB in float32, times the few copies that a softmax takes."""


# --- loading ---------------------------------------------------------------------------------------------------------


def load_model(settings: Model) -> tuple[Any, Any]:
    """(causal language model, tokenizer) from a folder or by Hugging Face name; safetensors only, no remote code.

    DataError in one line where it is missing, pickled, torn, or no causal language model.
    """
    from transformers import AutoModelForCausalLM

    check_model_path(settings)
    config = _load_config(settings.path)
    _check_architecture(config, settings.path)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            settings.path, dtype=DTYPES[settings.dtype], use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # safetensors and transformers each raise their own kinds
        raise DataError(f"model.path {settings.path}: cannot be loaded: {_first_line(error)}") from error
    model, report = loaded
    missing = sorted(report["missing_keys"])
    if missing or report["mismatched_keys"]:
        what = f"lacks {len(missing)} weights ({missing[0]}, ...)" if missing else "has weights of other shapes"
        raise DataError(f"model.path {settings.path}: the file {what} than its config.json says; save the model again")
    # dropout would make the trainer disagree with the sampler
    return model.eval(), _load_tokenizer(settings.path)


def load_tokenizer(settings: Model) -> tuple[Any, int | None]:
    """(tokenizer, longest sequence in tokens that the model was made for), without weights. DataError as load_model."""
    check_model_path(settings)
    config = _load_config(settings.path)
    _check_architecture(config, settings.path)
    return _load_tokenizer(settings.path), getattr(config, "max_position_embeddings", None)


def _load_tokenizer(path: str) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except Exception as error:  # tokenizers raises its own kinds
        raise DataError(f"model.path {path}: its tokenizer cannot be loaded: {_first_line(error)}") from error
    if not tokenizer("a")["input_ids"]:  # transformers makes an empty one where the folder has none
        raise DataError(f"model.path {path}: no tokenizer in it (tokenizer.json); save it beside the model")
    if tokenizer.eos_token_id is None:
        raise DataError(f"model.path {path}: its tokenizer has no end token (eos_token), so no completion could end")
    return tokenizer


def check_model_path(settings: Model) -> None:
    """DataError where a local folder is absent or holds no safetensors; a Hugging Face name passes."""
    path = Path(settings.path)
    if not path.exists():
        if settings.made_by:
            try:
                command = load_recipe(settings.made_by).command
            except SettingsError as error:
                raise DataError(
                    f"model.path {settings.path} does not exist yet, nor can model.made_by be read: "
                    f"{_first_line(error)}"
                ) from error
            raise DataError(
                f"model.path {settings.path} does not exist yet; make it with: rlvr {command} {settings.made_by} "
                f"run.dir={path.parent}"
            )
        is_name = settings.path.count("/") <= 1 and not settings.path.startswith((".", "/", "~", "runs/"))
        if not is_name:
            raise DataError(f"model.path {settings.path}: no such folder (seen from {Path.cwd()})")
        return
    if not (path / "config.json").is_file():
        inner = path / "model"
        hint = f"; did you mean {inner}?" if (inner / "config.json").is_file() else ""
        raise DataError(f"model.path {settings.path}: no config.json in it{hint}")
    if not any(path.glob("*.safetensors")):
        pickled = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.pkl") for p in path.glob(pattern))
        if pickled:
            raise DataError(
                f"model.path {settings.path}: {pickled[0]} is a pickle, which can run code when it is loaded; convert "
                "it with save_pretrained (safetensors) where you trust it"
            )
        raise DataError(f"model.path {settings.path}: no *.safetensors in it")


def _load_config(path: str) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(path)
    except Exception as error:  # ValueError, OSError, KeyError, hub errors: one line for all
        raise DataError(f"model.path {path}: {_first_line(error)}") from error


def _check_architecture(config: Any, path: str) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    named = list(config.architectures or [])
    causal = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not config.is_encoder_decoder
    if not causal or (named and not any(n.endswith(("ForCausalLM", "LMHeadModel")) for n in named)):
        what = ", ".join(named) or config.model_type
        raise DataError(f"model.path {path}: {what} is no causal language model (..ForCausalLM)")


def new_model(settings: NewModel, texts: Iterator[str], seed: int) -> tuple[Any, Any]:
    """(model with random weights, tokenizer) for pretraining; the same seed gives the same bits."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from rlvr import chat

    if settings.tokenizer.kind == "bytes":
        tokenizer = chat.byte_tokenizer()
    elif isinstance(settings.tokenizer, BpeTokenizer):
        tokenizer = chat.bpe_tokenizer(texts, settings.tokenizer.vocab_size)
    else:
        tokenizer = AutoTokenizer.from_pretrained(settings.tokenizer.path)
    # kernels like rows of a multiple of 64; unused rows of the embedding cost little
    fixed = {
        "vocab_size": -(-len(tokenizer) // 64) * 64,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
    }
    try:
        config = AutoConfig.for_model(settings.architecture, **{**fixed, **settings.config})
        _check_names(settings, AutoConfig.for_model(settings.architecture).to_dict())
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except (TypeError, ValueError, KeyError, RuntimeError) as error:
        raise DataError(
            f"model.architecture {settings.architecture} with model.config: {_first_line(error)}"
        ) from error
    return model.eval(), tokenizer


def _check_names(settings: NewModel, known: Mapping[str, Any]) -> None:
    """transformers takes any name in a configuration and heeds none that it does not know."""
    for name in settings.config:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise SettingsError(
                f"model.config.{name}: {settings.architecture} has no such setting"
                + (f"; did you mean {near[0]}?" if near else "")
            )


def context_length(model: PreTrainedModel) -> int | None:
    """Longest sequence in tokens that the model was made for, where it says so."""
    return getattr(model.config, "max_position_embeddings", None)


# --- log-probabilities -----------------------------------------------------------------------------------------------


def logprobs(
    model: PreTrainedModel, ids_BT: Tensor, mask_BT: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """(logp_BT, entropy_BT) in nats, float32: of ids_BT where mask_BT is True, 0 elsewhere.

    Rows are right-padded; only masked positions pass the output head. The entropy carries no gradient.
    """

    def score(logits_NV: Tensor, target_N: Tensor) -> tuple[Tensor, Tensor]:
        all_logp_NV = torch.log_softmax(logits_NV / temperature, dim=-1)
        with torch.no_grad():
            entropy_N = -(all_logp_NV.exp() * all_logp_NV).sum(dim=-1)
        return all_logp_NV.gather(1, target_N[:, None])[:, 0], entropy_N

    logp_N, entropy_N = _by_tile(model, ids_BT, mask_BT, score)
    return _spread(logp_N, mask_BT), _spread(entropy_N, mask_BT)


def cross_entropy(model: PreTrainedModel, ids_BT: Tensor, mask_BT: Tensor) -> Sums:
    """Summed -log p of the masked ids, nats, to be divided by the optimizer step's tokens; and tokens guessed right."""

    def score(logits_NV: Tensor, target_N: Tensor) -> tuple[Tensor, Tensor]:
        loss_N = torch.nn.functional.cross_entropy(logits_NV, target_N, reduction="none")
        return loss_N, logits_NV.detach().argmax(dim=-1) == target_N

    loss_N, right_N = _by_tile(model, ids_BT, mask_BT, score)
    sequences = int(mask_BT.any(dim=1).sum())
    metrics = {"mean_token_accuracy": float(right_N.sum())}
    return Sums(loss=loss_N.sum(), tokens=len(loss_N), sequences=sequences, metrics=metrics)


def _by_tile(
    model: PreTrainedModel, ids_BT: Tensor, mask_BT: Tensor, score: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """score(float32 logits_NV, target_N) over the logits that predict each masked id, TILE_LOGITS of them at a time.

    Where one tile does not hold them, each tile's logits are made again in the backward pass instead of being kept.
    """
    # right padding under a causal mask: no real token sees a padded one, so no attention mask is needed
    hidden_BTD = model.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state
    target_BT = mask_BT[:, 1:]
    hidden_ND, target_N = hidden_BTD[:, :-1][target_BT], ids_BT[:, 1:][target_BT]

    def tile(hidden_ND: Tensor, target_N: Tensor) -> tuple[Tensor, Tensor]:
        return score(head_logits(model, hidden_ND).float(), target_N)

    rows = max(1, TILE_LOGITS // model.config.get_text_config().vocab_size)
    if len(target_N) <= rows:
        return tile(hidden_ND, target_N)
    tiles = [
        checkpoint(tile, *part, use_reentrant=False)
        for part in zip(hidden_ND.split(rows), target_N.split(rows), strict=True)
    ]
    first, second = zip(*tiles, strict=True)
    return torch.cat(first), torch.cat(second)


def _spread(value_N: Tensor, mask_BT: Tensor) -> Tensor:
    """value_N at the places where mask_BT is True, 0 elsewhere; carries the gradient."""
    return torch.zeros(mask_BT.shape, dtype=value_N.dtype, device=value_N.device).masked_scatter(mask_BT, value_N)


def head_logits(model: PreTrainedModel, hidden_ND: Tensor) -> Tensor:
    """Logits [N, V] with the scalings that some architectures put behind their head."""
    head: Any = model.get_output_embeddings()
    logits_NV = head(hidden_ND)
    config = model.config
    if scale := getattr(config, "logit_scale", None):  # Cohere
        logits_NV = logits_NV * scale
    if scaling := getattr(config, "logits_scaling", None):  # Granite
        logits_NV = logits_NV / scaling
    if cap := getattr(config, "final_logit_softcapping", None):  # Gemma 2
        logits_NV = torch.tanh(logits_NV / cap) * cap
    return logits_NV


# --- training --------------------------------------------------------------------------------------------------------


class Trained:
    """A model with its optimizer, schedule and divisor. One for the policy, one for a critic."""

    def __init__(self, model: PreTrainedModel, settings: AdamW | Muon, total_updates: int) -> None:
        self.model = model
        self.settings = settings
        self.total_updates = total_updates
        self.updates = 0
        """Optimizer updates done or skipped; with the settings it fixes the learning rate."""
        self.optimizers = _optimizers(model, settings)
        self._base_lr = [[group["lr"] for group in o.param_groups] for o in self.optimizers]

    def backward(self, sums: Sums, divisor: float) -> float:
        """Add one micro-batch's gradient of sums.loss / divisor; the divisor is that of the whole optimizer step.

        Returns the micro-batch's share of the loss. NonFiniteError before anything is added.
        """
        loss = sums.loss / divisor
        value = float(loss.detach())
        if not math.isfinite(value):
            raise NonFiniteError(f"loss is {value} in update {self.updates + 1}; the weights are as they were")
        loss.backward()
        return value

    def step(self) -> dict[str, float]:
        """Clip, update, clear the gradient; grad_norm (before clipping) and lr. NonFiniteError: no weight moved."""
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.settings.max_grad_norm))
        if not math.isfinite(norm):
            raise NonFiniteError(f"gradient norm is {norm} in update {self.updates + 1}; the weights are as they were")
        factor = lr_factor(self.settings, self.updates, self.total_updates)
        for optimizer, rates in zip(self.optimizers, self._base_lr, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.updates += 1
        return {"grad_norm": norm, "lr": self.settings.lr * factor}

    def skip(self) -> None:
        """Count an update without gradient: no weight moves, not even along the old momentum, but the schedule does."""
        self.updates += 1

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """(name, tensor) as in the model's file: a tied head is not named twice."""
        seen: set[int] = set()
        for name, tensor in self.model.state_dict().items():
            if tensor.data_ptr() not in seen:
                seen.add(tensor.data_ptr())
                yield name, tensor.detach()

    def state(self) -> dict[str, Tensor]:
        """Weights and optimizer state under flat names, for safetensors."""
        tensors = {f"model.{name}": tensor for name, tensor in self.weights()}
        names: dict[Tensor, str] = {parameter: name for name, parameter in self.model.named_parameters()}
        for optimizer in self.optimizers:
            for parameter, entry in optimizer.state.items():
                for key, value in entry.items():
                    tensors[f"optimizer.{names[parameter]}.{key}"] = torch.as_tensor(value)
        return tensors

    def load_state(self, tensors: dict[str, Tensor], updates: int) -> None:
        """Take what state() gave. ValueError, with nothing taken, where a weight is missing or has another shape."""
        for name, own in self.weights():
            given = tensors.get(f"model.{name}")
            if given is None or given.shape != own.shape:
                what = "is missing" if given is None else f"has shape {tuple(given.shape)}"
                raise ValueError(f"weight {name} must have shape {tuple(own.shape)}; it {what}")
        names = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, own in self.weights():
                own.copy_(tensors[f"model.{name}"])
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    name = next(n for n, p in names.items() if p is parameter)
                    prefix = f"optimizer.{name}."
                    # AdamW's step count stays on the CPU
                    entry = {
                        key.removeprefix(prefix): value.to(parameter.device if value.ndim else "cpu", copy=True)
                        for key, value in tensors.items()
                        if key.startswith(prefix)
                    }
                    if entry:
                        optimizer.state[parameter] = entry
        self.updates = updates


def lr_factor(settings: AdamW | Muon, update: int, total: int) -> float:
    """Share of the base rate in update 0..total-1: linear warm-up, after it the schedule down to min_lr_ratio.

    A pure function of the update's number, so that a resumed run needs no scheduler state.
    """
    warm = min(1.0, (update + 1) / settings.warmup_steps) if settings.warmup_steps else 1.0
    done = max(0, update - settings.warmup_steps) / max(1, total - settings.warmup_steps)
    fall = {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[settings.schedule]
    floor = 0.0 if settings.schedule == "constant" else settings.min_lr_ratio
    return warm * (fall * (1 - floor) + floor)


def _optimizers(model: PreTrainedModel, settings: AdamW | Muon) -> list[torch.optim.Optimizer]:
    parameters = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not isinstance(settings, Muon):
        rest = [p for _, p in parameters]
        return [torch.optim.AdamW(rest, lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay)]
    # Muon is for matrices between hidden spaces; embeddings and heads are not https://kellerjordan.github.io/posts/muon/
    outer = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    if (head := model.get_output_embeddings()) is not None:
        outer.add(id(head.weight))
    matrices = [p for _, p in parameters if p.ndim == 2 and id(p) not in outer]
    rest = [p for _, p in parameters if p.ndim != 2 or id(p) in outer]
    return [
        torch.optim.Muon(matrices, lr=settings.lr, weight_decay=settings.weight_decay, momentum=settings.momentum),
        torch.optim.AdamW(rest, lr=settings.adamw_lr, betas=settings.betas, weight_decay=0.0),
    ]


# --- saving ----------------------------------------------------------------------------------------------------------


def save_model(model: PreTrainedModel, tokenizer: Any, folder: Path) -> None:
    """A plain Hugging Face folder, never seen half written. DiskError where it cannot be written."""
    from safetensors import SafetensorError

    fresh = folder.with_name(f".{folder.name}.new")
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        model.save_pretrained(fresh)
        tokenizer.save_pretrained(fresh)
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)
    except (OSError, SafetensorError) as error:  # safetensors has its own kind for a full disk
        shutil.rmtree(fresh, ignore_errors=True)
        raise DiskError(f"cannot save the model to {folder}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
