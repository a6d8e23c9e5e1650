"""Models with a head of numbers on the last token: reward models, classifiers, critics.

A scorer is a Hugging Face ..ForSequenceClassification: AutoModelForSequenceClassification opens its saved folder.
B sequences, T tokens, D hidden, K outputs of the head.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rlvr import lora, policy
from rlvr.batching import spread
from rlvr.errors import DataError, SettingsError, near, one_line
from rlvr.recipe import Model

_ENDS = ("ForSequenceClassification", "ForCausalLM", "LMHeadModel", "ForMaskedLM", "Model")


def load_scorer(
    settings: Model, *, num_outputs: int = 1, seed: int, new_head: bool = True, setting: str = "model.path"
) -> tuple[Any, Any]:
    """(..ForSequenceClassification in evaluation mode, tokenizer) from a folder or by Hugging Face name.

    A classifier keeps its head, whatever num_outputs says. A language model without one is cloned and gets a new head
    of `num_outputs`, small numbers drawn from `seed`: see notes(). With new_head=False it is refused. Safetensors
    only, no remote code; `setting` is what messages call the path. DataError in one line where it cannot be used.
    """
    policy.check_model_path(settings, setting=setting)
    where = f"{setting} {settings.path}"
    config = _config(settings.path, where)
    is_scorer = _is_scorer(config)
    if not is_scorer and not new_head:
        raise _no_classifier(config, where)
    model = _loaded(settings, None if is_scorer else num_outputs, seed, where)
    tokenizer = _tokenizer(settings.path, where)
    if len(tokenizer) > config.get_text_config().vocab_size:
        raise DataError(
            f"{where}: its tokenizer has {len(tokenizer)} tokens and the model {config.get_text_config().vocab_size}; "
            "save the model's own tokenizer beside it"
        )
    model.notes = []
    if not is_scorer:
        _init_head(model, seed)
        model.notes = [f"{_name(config)} gets a new head", *_set_pad_token(model, tokenizer, where)]
    elif not is_decoder(model) and model.config.get_text_config().pad_token_id is None:
        raise DataError(f"{where}: its config.json has no pad_token_id, which {_name(config)} needs")
    return model.eval(), tokenizer


def load_tokenizer(settings: Model, *, setting: str = "model.path") -> tuple[Any, int | None]:
    """(tokenizer, longest sequence in tokens that the model was made for), without weights. setting and DataError as in
    load_scorer()."""
    policy.check_model_path(settings, setting=setting)
    where = f"{setting} {settings.path}"
    config = _config(settings.path, where)
    return _tokenizer(settings.path, where), policy.context_length(config)


def check_files(settings: Model, names: Sequence[str] = (), *, setting: str) -> None:
    """DataError where config.json says that a model is no classifier, or has no output of one of the names."""
    policy.check_model_path(settings, setting=setting)
    where = f"{setting} {settings.path}"
    config = _config(settings.path, where)
    if not _is_scorer(config):
        raise _no_classifier(config, where)
    known = [str(config.id2label[k]) for k in sorted(config.id2label)]
    for name in names:
        try:
            _index(known, name)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error


def notes(model: Any) -> list[str]:
    """What load_scorer() had to make for the model, for people: empty of a classifier that came with all it needs."""
    return list(lora.plain(model).notes)


def is_decoder(model: Any) -> bool:
    """Whether every position of the model sees those before it alone, and the head is a matrix on one of them."""
    plain = lora.plain(model)
    if getattr(plain.config.get_text_config(), "use_bidirectional_attention", False) or plain.config.is_encoder_decoder:
        return False
    return isinstance(getattr(plain, "score", None), torch.nn.Linear) or hasattr(
        getattr(plain, "score", None), "modules_to_save"
    )


def head(model: Any) -> Any:
    """The head of a decoder: a linear module [D] -> [K]. DataError for another model."""
    if not is_decoder(model):
        raise DataError(
            f"{type(lora.plain(model)).__name__} has no head that can be put on every token: take a causal language "
            "model or a reward model made from one"
        )
    wrapped = lora.plain(model).score
    return wrapped.modules_to_save[wrapped.active_adapters[0]] if hasattr(wrapped, "modules_to_save") else wrapped


def scores(model: Any, ids_BT: Tensor, length_B: Tensor) -> Tensor:
    """score_BK: what the head says of each row of right-padded ids, float32 (float64 of such a model), any real number.

    Of a decoder at the row's last token, which length_B tells (never the pad id); other models pool as they were made.
    What the padding holds does not matter.
    """
    plain = lora.plain(model)
    if is_decoder(model):
        is_last_BT = torch.arange(ids_BT.shape[1], device=ids_BT.device) == length_B[:, None] - 1
        score_BK = head(model)(policy.hidden_states(model, ids_BT, is_last_BT, None))
    else:
        real_BT = torch.arange(ids_BT.shape[1], device=ids_BT.device) < length_B[:, None]
        # RoBERTa and its kin count positions by the pad id
        ids_BT = ids_BT.masked_fill(~real_BT, plain.config.get_text_config().pad_token_id)
        score_BK = model(input_ids=ids_BT, attention_mask=real_BT.long()).logits
    return score_BK.to(torch.promote_types(score_BK.dtype, torch.float32))


def values(model: Any, ids_BT: Tensor, length_B: Tensor) -> Tensor:
    """value_BT: the reward that the head sees at every position of right-padded ids; 0 in the padding.

    Several outputs are weighed as in reward_weights(). DataError where the model is no decoder.
    """
    on_top, weight_K = head(model), reward_weights(model)
    real_BT = torch.arange(ids_BT.shape[1], device=ids_BT.device) < length_B[:, None]
    value_NK = on_top(policy.hidden_states(model, ids_BT, real_BT, None))
    value_NK = value_NK.to(torch.promote_types(value_NK.dtype, torch.float32))
    return spread(value_NK @ weight_K.to(value_NK), real_BT)


# --- outputs by name -------------------------------------------------------------------------------------------------


def labels(model: Any) -> list[str]:
    """Names of the K outputs."""
    by_index = lora.plain(model).config.id2label
    return [str(by_index[k]) for k in range(len(by_index))]


def label_index(model: Any, name: str) -> int:
    """The number of the output with this name. DataError tells the names that there are."""
    return _index(labels(model), name)


def _index(known: Sequence[str], name: str) -> int:
    if name not in known:
        raise DataError(f"the model has no label {name!r}; {near(name, known)}it has {', '.join(map(repr, known))}")
    return known.index(name)


def reward_weights(model: Any, label: str | None = None) -> Tensor:
    """weight_K, float64: the reward is their product with score_BK, summed.

    With `label` that output's logit alone; else as the reward model was trained (config.json's reward_weights), or the
    only output there is. DataError where several outputs leave it open.
    """
    known = labels(model)
    if label is not None:
        return torch.eye(len(known), dtype=torch.float64)[label_index(model, label)]
    stored: Mapping[str, float] | None = getattr(lora.plain(model).config, "reward_weights", None)
    if stored is not None:
        if not isinstance(stored, Mapping):
            raise DataError(f"config.json's reward_weights must be {{LABEL: WEIGHT}}, got {stored!r}")
        if unknown := sorted(set(stored) - set(known)):
            raise DataError(f"config.json's reward_weights name {unknown[0]!r}; it has {', '.join(map(repr, known))}")
        for name, weight in stored.items():
            if not isinstance(weight, int | float) or not math.isfinite(weight):
                raise DataError(f"config.json's reward_weights must be numbers, got {weight!r} for {name!r}")
        return torch.tensor([float(stored.get(name, 0.0)) for name in known], dtype=torch.float64)
    if len(known) > 1:
        raise DataError(
            f"the model has {len(known)} outputs and does not say which is the reward; set label to one of "
            f"{', '.join(map(repr, known))}"
        )
    return torch.ones(1, dtype=torch.float64)


def log_tie_weight(model: Any) -> float | None:
    """Of a tie beside the geometric mean of both sides (preference_losses.davidson): the one that is being learned,
    else config.json's. None where the model knows none."""
    learned = getattr(head(model), "log_tie_weight", None) if is_decoder(model) else None
    stored = getattr(lora.plain(model).config, "tie_weight", None)
    return float(learned.detach()) if learned is not None else None if stored is None else math.log(stored)


def name_outputs(model: Any, names: Sequence[str], weights: Mapping[str, float] | None = None) -> None:
    """Write the names of the outputs, and what each counts in the reward, into the configuration that is saved."""
    config = lora.plain(model).config
    assert len(names) == config.num_labels
    config.id2label = dict(enumerate(names))
    config.label2id = {name: k for k, name in enumerate(names)}
    if weights is not None:
        config.reward_weights = dict(weights)


def name_groups(model: Any, names: Sequence[str]) -> None:
    """Write into the configuration which outputs are the opinions of groups of people."""
    lora.plain(model).config.reward_groups = list(names)


def groups(model: Any) -> list[str]:
    """The outputs that are the opinions of groups of people; none of most models. DataError where they are no
    outputs."""
    found = getattr(lora.plain(model).config, "reward_groups", None) or []
    known = labels(model)
    if not isinstance(found, list) or any(name not in known for name in found):
        raise DataError(f"config.json's reward_groups must name outputs ({', '.join(map(repr, known))}), got {found!r}")
    return found


# --- loading ---------------------------------------------------------------------------------------------------------


def _config(path: str, where: str) -> Any:
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as KNOWN

    try:
        config = AutoConfig.from_pretrained(path)
    except Exception as error:  # ValueError, OSError, KeyError, hub errors: one line for all
        raise DataError(f"{where}: {one_line(error)}") from error
    named = list(config.architectures or ())
    if config.model_type not in KNOWN or (named and not any(name.endswith(_ENDS) for name in named)):
        raise DataError(
            f"{where}: {_name(config)} can have no head: transformers knows no {config.model_type} "
            "..ForSequenceClassification; take a model such as Qwen3, Llama, Gemma 2, GPT-2 or BERT"
        )
    return config


def _is_scorer(config: Any) -> bool:
    return any(name.endswith(_ENDS[0]) for name in config.architectures or ())


def _no_classifier(config: Any, where: str) -> DataError:
    return DataError(
        f"{where}: {_name(config)} is no classifier (..ForSequenceClassification); train one from it with `rlvr "
        "reward-model`"
    )


def _name(config: Any) -> str:
    return ", ".join(config.architectures or ()) or config.model_type


def _loaded(settings: Model, num_outputs: int | None, seed: int, where: str) -> Any:
    """With a head of num_outputs that is new; None: with its own."""
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(seed)  # what is new beside a decoder's head is drawn by the library: BERT's pooler and head
    try:
        model, report = AutoModelForSequenceClassification.from_pretrained(
            settings.path,
            dtype=policy.DTYPES[settings.dtype],
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # to be told of below, by name
            **({} if num_outputs is None else {"num_labels": num_outputs}),
        )
    except Exception as error:  # safetensors and transformers each raise their own kinds
        raise DataError(f"{where}: cannot be loaded: {one_line(error)}") from error
    inner = f"{model.base_model_prefix}."
    missing = sorted(
        name
        for name in report["missing_keys"]
        if num_outputs is None or (name.startswith(inner) and not name.startswith(f"{inner}pooler."))
    )
    if missing or report["mismatched_keys"]:
        what = f"lacks {len(missing)} weights ({missing[0]}, ...)" if missing else "has weights of other shapes"
        raise DataError(f"{where}: the file {what} than its config.json says; save the model again")
    return model


def _tokenizer(path: str, where: str) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except Exception as error:  # tokenizers raises its own kinds
        raise DataError(f"{where}: its tokenizer cannot be loaded: {one_line(error)}") from error
    if not tokenizer("a")["input_ids"]:  # transformers makes an empty one where the folder has none
        raise DataError(f"{where}: no tokenizer in it (tokenizer.json); save it beside the model")
    if tokenizer.eos_token_id is None:
        if tokenizer.sep_token_id is None:
            raise DataError(f"{where}: its tokenizer has no end token (eos_token), so no completion could end")
        tokenizer.eos_token = tokenizer.sep_token  # BERT ends a text with it
    return tokenizer


def _init_head(model: Any, seed: int) -> None:
    """Rewards of a size near 0.1 (hidden states have a size near 1 behind the last norm): no choice is sure yet."""
    if is_decoder(model):
        weight_KD = head(model).weight
        generator = torch.Generator().manual_seed(seed)
        drawn_KD = torch.randn(weight_KD.shape, generator=generator) * (0.1 / math.sqrt(weight_KD.shape[1]))
        with torch.no_grad():
            weight_KD.copy_(drawn_KD)
            if head(model).bias is not None:
                head(model).bias.zero_()


def _set_pad_token(model: Any, tokenizer: Any, where: str) -> list[str]:
    """Give the saved model a pad token that is not its end token; what to say of it where it had none.

    transformers finds the last token of a row as the last one that is no padding: with one token for both it would take
    the one before the end, which was not trained.
    """
    said: list[str] = []
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        special = [text for text in tokenizer.all_special_tokens if text != tokenizer.eos_token]
        special += [str(t) for t in tokenizer.added_tokens_decoder.values() if t.special and str(t) not in special]
        special = [text for text in special if text != tokenizer.eos_token]
        if not special:
            raise DataError(
                f"{where}: its tokenizer has no pad token, and no special token but {tokenizer.eos_token!r} that could "
                'be one; add it once: tokenizer.add_special_tokens({"pad_token": "<pad>"}), '
                "model.resize_token_embeddings(len(tokenizer)), and save both"
            )
        tokenizer.pad_token = next((text for text in special if "pad" in text.lower()), special[0])
        said = [f"pad token of the reward model: {tokenizer.pad_token!r} (the base has none but its end token)"]
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    model.config.pad_token_id = tokenizer.pad_token_id
    return said


def check_outputs(model: Any, num_outputs: int, why: str) -> None:
    """SettingsError where the head has another number of outputs than `why` needs."""
    has = lora.plain(model).config.num_labels
    if has != num_outputs:
        raise SettingsError(
            f"{why} needs a model with {num_outputs} output(s), and model.path has a classifier with {has} "
            f"({', '.join(labels(model))}); take another loss.kind, or start from the language model below it"
        )
