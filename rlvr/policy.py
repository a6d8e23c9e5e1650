"""The model that is trained: loading, log-probabilities, optimizer steps, saving.

B sequences, T tokens, N scored tokens, V vocabulary, D hidden.
"""

from __future__ import annotations

import difflib
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rlvr import lora, losses
from rlvr.batching import Batch, before, spread
from rlvr.errors import DataError, DiskError, SettingsError
from rlvr.failpoints import failpoint
from rlvr.fused import fused_cross_entropy, fused_logprobs, fused_policy_loss
from rlvr.loss_settings import Kl, Loss
from rlvr.losses import Sums
from rlvr.packing import pack
from rlvr.recipe import BpeTokenizer, Model, NewModel
from rlvr.settings import load_recipe
from rlvr.tiles import Head

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_COUNTS_BEHIND_PADDING = (
    "camembert data2vec-text esm ibert lilt longformer luke mpnet roberta roberta-prelayernorm xlm-roberta "
    "xlm-roberta-xl xmod"
).split()
"""Kinds of models whose first position is the pad id + 1."""
TILE_LOGITS = 2**26
"""Logits that exist at the same time: 256 MiB in float32, times the few copies that a softmax takes."""


# --- loading ---------------------------------------------------------------------------------------------------------


def load_model(settings: Model, *, setting: str = "model.path") -> tuple[Any, Any]:
    """(causal language model, tokenizer) from a folder or by Hugging Face name; safetensors only, no remote code.

    DataError in one line where it is missing, pickled, torn, or no causal language model; `setting` is what it calls
    the path.
    """
    from transformers import AutoModelForCausalLM

    check_model_path(settings, setting=setting)
    where = f"{setting} {settings.path}"
    _check_architecture(_load_config(settings.path, where), where)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            settings.path, dtype=DTYPES[settings.dtype], use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # safetensors and transformers each raise their own kinds
        raise DataError(f"{where}: cannot be loaded: {_first_line(error)}") from error
    model, report = loaded
    missing = sorted(report["missing_keys"])
    if missing or report["mismatched_keys"]:
        what = f"lacks {len(missing)} weights ({missing[0]}, ...)" if missing else "has weights of other shapes"
        raise DataError(f"{where}: the file {what} than its config.json says; save the model again")
    # dropout would make the trainer disagree with the sampler
    return model.eval(), _load_tokenizer(settings.path, where)


def load_tokenizer(settings: Model, *, setting: str = "model.path") -> tuple[Any, int | None]:
    """(tokenizer, longest sequence in tokens that the model was made for), without weights. DataError as load_model."""
    check_model_path(settings, setting=setting)
    where = f"{setting} {settings.path}"
    config = _load_config(settings.path, where)
    _check_architecture(config, where)
    return _load_tokenizer(settings.path, where), context_length(config)


def _load_tokenizer(path: str, where: str) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except Exception as error:  # tokenizers raises its own kinds
        raise DataError(f"{where}: its tokenizer cannot be loaded: {_first_line(error)}") from error
    if not tokenizer("a")["input_ids"]:  # transformers makes an empty one where the folder has none
        raise DataError(f"{where}: no tokenizer in it (tokenizer.json); save it beside the model")
    if tokenizer.eos_token_id is None:
        raise DataError(f"{where}: its tokenizer has no end token (eos_token), so no completion could end")
    return tokenizer


def check_model_path(settings: Model, *, setting: str = "model.path") -> None:
    """DataError where a local folder is absent or holds no safetensors; a Hugging Face name passes. setting: as in
    load_model()."""
    path, where = Path(settings.path), f"{setting} {settings.path}"
    if not path.exists():
        if settings.made_by and path.name == "model":
            try:
                command = load_recipe(settings.made_by).command
            except SettingsError as error:
                raise DataError(
                    f"{where} does not exist yet, nor can {setting.removesuffix('path')}made_by be read: "
                    f"{_first_line(error)}"
                ) from error
            raise DataError(
                f"{where} does not exist yet; make it with: rlvr {command} {settings.made_by} run.dir={path.parent}"
            )
        is_name = settings.path.count("/") <= 1 and not settings.path.startswith((".", "/", "~", "runs/"))
        if not is_name:
            raise DataError(f"{where}: no such folder (seen from {Path.cwd()})")
        return
    if not (path / "config.json").is_file():
        inner = path / "model"
        hint = f"; did you mean {inner}?" if (inner / "config.json").is_file() else ""
        raise DataError(f"{where}: no config.json in it{hint}")
    if not any(path.glob("*.safetensors")):
        pickled = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.pkl") for p in path.glob(pattern))
        if pickled:
            raise DataError(
                f"{where}: {pickled[0]} is a pickle, which can run code when it is loaded; convert it with "
                "save_pretrained (safetensors) where you trust it"
            )
        raise DataError(f"{where}: no *.safetensors in it")


def _load_config(path: str, where: str) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(path)
    except Exception as error:  # ValueError, OSError, KeyError, hub errors: one line for all
        raise DataError(f"{where}: {_first_line(error)}") from error


def _check_architecture(config: Any, where: str) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    named = list(config.architectures or [])
    causal = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not config.is_encoder_decoder
    if not causal or (named and not any(n.endswith(("ForCausalLM", "LMHeadModel")) for n in named)):
        what = ", ".join(named) or config.model_type
        raise DataError(f"{where}: {what} is no causal language model (..ForCausalLM)")


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


def check_same_tokens(tokenizer: Any, other: Any, where: str) -> None:
    """DataError where another model's tokenizer, named by `where`, does not mean the same tokens by the same ids."""
    ours, theirs = tokenizer.get_vocab(), other.get_vocab()
    if ours == theirs:
        return
    token = min((token for token in {*ours, *theirs} if ours.get(token) != theirs.get(token)), key=str)
    raise DataError(
        f"{where}: its tokenizer is not the policy's (token {token!r} is {theirs.get(token, 'none')} there and "
        f"{ours.get(token, 'none')} here), and it has to read the policy's tokens as they are; take a model of the "
        "same tokenizer"
    )


def context_length(*models: Any) -> int | None:
    """Longest sequence in tokens that each of the models (or configurations, or None) was made for, where they say so.

    RoBERTa and its kin count positions from the number behind the pad id, and have as many less.
    """
    lengths: list[int] = []
    for config in (getattr(model, "config", model) for model in models if model is not None):
        length: int | None = getattr(config, "max_position_embeddings", None)
        if length is not None:
            first = (config.pad_token_id or 0) + 1 if config.model_type in _COUNTS_BEHIND_PADDING else 0
            lengths.append(length - first)
    return min(lengths, default=None)


def weights(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) as in the model's file: a tied head is not named twice."""
    seen: set[int] = set()
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            yield name, tensor.detach()


# --- log-probabilities -----------------------------------------------------------------------------------------------


def logprobs(
    model: PreTrainedModel,
    ids_BT: Tensor,
    mask_BT: Tensor,
    temperature: float = 1.0,
    *,
    length_B: Tensor | None = None,
    fused: bool = True,
) -> tuple[Tensor, Tensor]:
    """(logp_BT, entropy_BT) in nats, float32 (float64 of such a model): of ids_BT where mask_BT is True, 0 elsewhere.

    Rows are right-padded; only masked positions pass the output head. With length_B (tokens of each row) the padding
    does not pass the model either: rows are packed, see can_pack(). fused: by rlvr.fused where the head is plain.
    """
    hidden_ND = hidden_states(model, ids_BT, before(mask_BT), length_B)
    return _logprobs(model, hidden_ND, ids_BT, mask_BT, temperature, plain_head(model) if fused else None)


def _logprobs(
    model: PreTrainedModel, hidden_ND: Tensor, ids_BT: Tensor, mask_BT: Tensor, temperature: float, head: Head | None
) -> tuple[Tensor, Tensor]:
    ids_N = ids_BT[mask_BT]
    if head is not None and len(ids_N):
        logp_N, entropy_N = fused_logprobs(hidden_ND, head.weight_VD, ids_N, temperature, **_settings(head))
    else:
        logp_N, entropy_N = _by_tile(model, hidden_ND, ids_N, partial(_logp_and_entropy, temperature))
    return spread(logp_N, mask_BT), spread(entropy_N, mask_BT)


@torch.no_grad()
def certainty(model: PreTrainedModel, ids_BT: Tensor, mask_BT: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(uniform || p) = logsumexp(z) - mean(z) - log V, nats, of what predicted ids_BT where mask_BT is True, 0
    elsewhere; z: logits / temperature. https://arxiv.org/abs/2505.19590 eq. 5. Rows are right-padded, as in logprobs().
    """
    hidden_ND, ids_N = hidden_states(model, ids_BT, before(mask_BT), None), ids_BT[mask_BT]
    certainty_N, _ = _by_tile(model, hidden_ND, ids_N, partial(_certainty_and_ids, temperature))
    return spread(certainty_N, mask_BT)


def policy_loss(
    model: PreTrainedModel,
    batch: Batch,
    loss: Loss,
    kl: Kl,
    temperature: float,
    *,
    packs: bool = False,
    expected_grad: float = 1.0,
    also: Callable[[Tensor], Tensor] | None = None,
) -> Sums:
    """losses.policy_loss() of the model's log-probabilities at the sampling temperature, with the entropy among its
    metrics; packs: see can_pack(); expected_grad: see fused_policy_loss(); also: a term that is added to the loss, of
    the hidden states [N, D] that predict the trained tokens."""
    hidden_ND = hidden_states(model, batch.ids_BT, batch.predicts_BT, batch.length_B if packs else None)
    head = plain_head(model) if loss.fused == "auto" else None
    if head is None:
        logp_BT, entropy_BT = _logprobs(model, hidden_ND, batch.ids_BT, batch.mask_BT, temperature, None)
        sums = losses.policy_loss(logp_BT, batch, loss, kl, entropy_BT=entropy_BT)
    else:
        sums = fused_policy_loss(
            hidden_ND,
            head.weight_VD,
            batch,
            loss,
            kl,
            temperature=temperature,
            entropy=True,
            expected_grad=expected_grad,
            **_settings(head),
        )
    return sums if also is None else replace(sums, loss=sums.loss + also(hidden_ND))


def cross_entropy(
    model: PreTrainedModel,
    ids_BT: Tensor,
    mask_BT: Tensor,
    *,
    length_B: Tensor | None = None,
    fused: bool = True,
    expected_grad: float = 1.0,
) -> Sums:
    """Summed -log p of the masked ids, nats, to be divided by the optimizer step's tokens; and tokens guessed right.

    The rest is as in policy_loss().
    """
    hidden_ND, ids_N = hidden_states(model, ids_BT, before(mask_BT), length_B), ids_BT[mask_BT]
    head = plain_head(model) if fused else None
    if head is not None:
        loss, right_N = fused_cross_entropy(
            hidden_ND, head.weight_VD, ids_N, expected_grad=expected_grad, **_settings(head)
        )
    else:
        loss_N, right_N = _by_tile(model, hidden_ND, ids_N, _loss_and_guess)
        loss = loss_N.sum()
    sequences = int(mask_BT.any(dim=1).sum())
    metrics = {"mean_token_accuracy": float(right_N.sum())}
    return Sums(loss=loss, tokens=len(ids_N), sequences=sequences, metrics=metrics, scored=len(ids_N))


def plain_head(model: PreTrainedModel) -> Head | None:
    """The output head as rlvr.fused takes it; None where it is more than a matrix (an adapter on it)."""
    head: Any = model.get_output_embeddings()
    if type(head) is not torch.nn.Linear:
        return None
    scale, softcap = _bent(model)
    return Head(weight_VD=head.weight, bias_V=head.bias, scale=scale, softcap=softcap)


def _settings(head: Head) -> dict[str, Any]:
    return {"bias": head.bias_V, "scale": head.scale, "softcap": head.softcap}


def can_pack(model: PreTrainedModel) -> bool:
    """Whether the architecture keeps packed rows apart by their positions: tried with two rows, against them alone."""
    half = min(8, (context_length(model) or 16) // 2)
    length_B = torch.tensor([2 * half, half, half])  # the last two share a row
    ids_BT = torch.randint(
        model.config.get_text_config().vocab_size, (3, 2 * half), generator=torch.Generator().manual_seed(0)
    )
    mask_BT = (torch.arange(2 * half) < length_B[:, None]) & (torch.arange(2 * half) > 0)
    ids_BT, mask_BT, length_B = (x.to(model.device) for x in (ids_BT, mask_BT, length_B))
    try:
        with torch.no_grad():
            apart_BT, _ = logprobs(model, ids_BT, mask_BT)
            packed_BT, _ = logprobs(model, ids_BT, mask_BT, length_B=length_B)
    except TypeError:  # a forward without position_ids
        return False
    return bool((apart_BT - packed_BT).abs().max() < (1e-3 if model.dtype == torch.float32 else 0.1))


def keep_few_activations(model: PreTrainedModel) -> None:
    """Gradient checkpointing in every layer that has it. SettingsError where none has."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise SettingsError(f"gradient_checkpointing: {type(lora.plain(model)).__name__} has no layers that support it")
    lora.plain(model).gradient_checkpointing_enable({"use_reentrant": False})
    for layer in layers:
        layer.training = True  # it heeds this flag alone; what is inside stays without dropout


def hidden_states(model: PreTrainedModel, ids_BT: Tensor, wanted_BT: Tensor, length_B: Tensor | None) -> Tensor:
    """[N, D]: the last hidden states at wanted_BT, row by row; length_B as in logprobs()."""
    backbone: Any = lora.plain(model).base_model
    if length_B is not None and len(length_B) > 1:
        packed = pack(ids_BT, length_B)
        if len(packed.ids_RL) < len(ids_BT):
            hidden_RLD = backbone(input_ids=packed.ids_RL, position_ids=packed.position_RL, use_cache=False)[0]
            return hidden_RLD.flatten(0, 1)[packed.place_BT[wanted_BT]]
    # right padding under a causal mask: no real token sees a padded one, so no attention mask is needed
    return backbone(input_ids=ids_BT, use_cache=False).last_hidden_state[wanted_BT]


def _by_tile(
    model: PreTrainedModel,
    hidden_ND: Tensor,
    ids_N: Tensor,
    score: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
) -> tuple[Tensor, Tensor]:
    """score(logits_NV, ids_N), TILE_LOGITS of them at a time.

    They are float32, of a float64 model float64. Where one tile does not hold them, each tile's logits are made again
    in the backward pass instead of being kept.
    """

    def tile(hidden_ND: Tensor, ids_N: Tensor) -> tuple[Tensor, Tensor]:
        logits_NV = head_logits(model, hidden_ND)
        return score(logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32)), ids_N)

    rows = max(1, TILE_LOGITS // model.config.get_text_config().vocab_size)
    if len(ids_N) <= rows:
        return tile(hidden_ND, ids_N)
    tiles = [
        checkpoint(tile, *part, use_reentrant=False)
        for part in zip(hidden_ND.split(rows), ids_N.split(rows), strict=True)
    ]
    first, second = zip(*tiles, strict=True)
    return torch.cat(first), torch.cat(second)


def _logp_and_entropy(temperature: float, logits_NV: Tensor, ids_N: Tensor) -> tuple[Tensor, Tensor]:
    all_logp_NV = torch.log_softmax(logits_NV / temperature, dim=-1)
    return all_logp_NV.gather(1, ids_N[:, None])[:, 0], -(all_logp_NV.exp() * all_logp_NV).sum(dim=-1)


def _certainty_and_ids(temperature: float, logits_NV: Tensor, ids_N: Tensor) -> tuple[Tensor, Tensor]:
    scaled_NV = logits_NV / temperature
    return scaled_NV.logsumexp(dim=-1) - scaled_NV.mean(dim=-1) - math.log(scaled_NV.shape[-1]), ids_N


def _loss_and_guess(logits_NV: Tensor, ids_N: Tensor) -> tuple[Tensor, Tensor]:
    loss_N = torch.nn.functional.cross_entropy(logits_NV, ids_N, reduction="none")
    return loss_N, logits_NV.detach().argmax(dim=-1) == ids_N


def head_logits(model: PreTrainedModel, hidden_ND: Tensor) -> Tensor:
    """Logits [N, V] with the scalings that some architectures put behind their head."""
    head: Any = model.get_output_embeddings()
    scale, softcap = _bent(model)
    logits_NV = head(hidden_ND) * scale
    return logits_NV if softcap is None else torch.tanh(logits_NV / softcap) * softcap


def _bent(model: PreTrainedModel) -> tuple[float, float | None]:
    """(scale, soft cap) of the logits"""
    config = model.config
    scale = getattr(config, "logit_scale", None) or 1.0  # Cohere
    scale *= getattr(config, "lm_head_multiplier", None) or 1.0  # Falcon-H1
    granite = getattr(config, "logits_scaling", None) or 1.0
    multiplies = getattr(config, "model_type", None) == "hyperclovax"  # which took Granite's name
    scale *= granite if multiplies else 1 / granite
    softcap = getattr(config, "final_logit_softcapping", None)  # Gemma 2
    return scale, softcap or getattr(config, "logits_soft_cap", None)  # RecurrentGemma


# --- saving ----------------------------------------------------------------------------------------------------------


def save_model(model: PreTrainedModel, tokenizer: Any, folder: Path) -> None:
    """A plain Hugging Face folder, or a PEFT one, never seen half written. DiskError where it cannot be written."""
    from safetensors import SafetensorError

    fresh = folder.with_name(f".{folder.name}.new")
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        if lora.is_attached(model):
            lora.save(model, fresh)
        else:
            model.save_pretrained(fresh)
        tokenizer.save_pretrained(fresh)
        failpoint("model")
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)
    except (OSError, SafetensorError) as error:  # safetensors has its own kind for a full disk
        shutil.rmtree(fresh, ignore_errors=True)
        raise DiskError(f"cannot save the model to {folder}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
