"""The known causes of a mismatch, each tried out: the trainer's log-probabilities are computed as under that cause.

L tokens that are looked at in one rollout, N those of all, V vocabulary.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlvr import lora, policy
from rlvr.recipe import Model
from rlvr.types import Message, Task

ROUNDING = 1e-5
"""Nats by which two programs differ in float32."""
_MAX_GAP = 50.0  # nats; more says no more, and infinity would spoil every mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainer:
    """The trainer's side of the comparison. Trainer(model=model, settings=recipe.model, tokenizer=tokenizer)"""

    model: Any
    """The policy, with its adapters where it has any."""
    settings: Model
    """What it was loaded from."""
    tokenizer: Any
    temperature: float = 1.0
    """sample.temperature"""
    micro_tokens: int = 8192
    """Tokens per forward (optim.micro_tokens)."""


@dataclass(frozen=True, slots=True)
class Cause:
    """Cause(kind="temperature", text="the sampler's log-probabilities are those at temperature 1, ...")"""

    kind: str
    """temperature, truncation, weights, head, adapter, prompt, dtype, non-finite, or unknown."""
    text: str
    """One line: what is wrong, the evidence, what to change."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A cause that was tried out."""

    kind: str
    what: str
    change: str
    gap: float
    """Mean |difference| under it, nats."""
    mark: str = ""
    """Evidence that does not need a smaller gap, where there is any."""


@dataclass(frozen=True, slots=True)
class Row:
    """A window of one rollout."""

    task: Task
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    """Of the completion, up to the window's end."""
    sampler_L: Tensor
    """The sampler's log-probabilities of the last L of them."""
    trained_L: Tensor


@contextlib.contextmanager
def as_sampled(model: Any) -> Iterator[None]:
    """No gradient, no dropout; afterwards every part of the model is in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def _read(
    model: Any,
    rows: Sequence[Row],
    score: Callable[[Tensor, Tensor, Tensor], Tensor],
    prompts: Iterable[Sequence[int]] | None = None,
) -> Tensor:
    """score(logits_LV, ids_L, sampler_L) -> [L, ...] of every row, behind each other, of trained tokens alone."""
    prompts = [row.prompt_ids for row in rows] if prompts is None else prompts
    parts: list[Tensor] = []
    for row, prompt_ids in zip(rows, prompts, strict=True):
        ids_T = torch.tensor([*prompt_ids, *row.token_ids], device=model.device)
        L = len(row.sampler_L)
        # a row at a time: in the caller's order, without padding, and its logits are gone before the next one's
        logits_LV = model(input_ids=ids_T[None], use_cache=False, logits_to_keep=L + 1).logits[0, :-1].float()
        parts.append(score(logits_LV, ids_T[-L:], row.sampler_L.to(model.device)).cpu()[row.trained_L])
    return torch.cat(parts)


def differences(
    model: Any, rows: Sequence[Row], temperature: float, prompts: Iterable[Sequence[int]] | None = None
) -> Tensor:
    """sampler - trainer [N] of all windows."""

    def score(logits_LV: Tensor, ids_L: Tensor, sampler_L: Tensor) -> Tensor:
        return sampler_L - _logp(logits_LV / temperature, ids_L)

    return _read(model, rows, score, prompts)


def mean_gap(
    model: Any, rows: Sequence[Row], temperature: float, prompts: Iterable[Sequence[int]] | None = None
) -> float:
    """Mean |sampler - trainer| of all windows, nats."""
    return mean(differences(model, rows, temperature, prompts))


def mean(difference_N: Tensor) -> float:
    """Mean size, nats; what is not finite counts as the largest that counts."""
    return float(difference_N.abs().nan_to_num(nan=_MAX_GAP).clamp(max=_MAX_GAP).double().mean())


def _logp(logits_LV: Tensor, ids_L: Tensor) -> Tensor:
    return logits_LV.gather(1, ids_L[:, None])[:, 0] - logits_LV.logsumexp(dim=-1)


# --- temperature, top-p, top-k ---------------------------------------------------------------------------------------


def temperatures(trainer: Trainer, rows: Sequence[Row]) -> list[Trial]:
    """The temperature that fits best, or one of a known mistake that fits as well."""
    asked = trainer.temperature
    low, high, best = 0.05, 20.0, asked
    for _ in range(4):  # each round narrows the interval by a factor of 20
        grid = torch.logspace(math.log10(low), math.log10(high), 41, dtype=torch.float64).tolist()
        gaps = _gaps_at(grid, trainer, rows)
        at = gaps.index(min(gaps))
        best, low, high = grid[at], grid[max(0, at - 1)], grid[min(len(grid) - 1, at + 1)]
    known = {
        1.0: "it does not heed the temperature, or reports raw log-probabilities, from before it "
        "(vLLM: logprobs_mode=processed_logprobs)",
        1 / asked: "it multiplies by the temperature where it should divide",
        asked * asked: "it divides by the temperature twice",
    }
    changes = {best: "make the sampler's temperature that of sample.temperature"}
    changes |= {t: change for t, change in known.items() if math.isclose(t, best, rel_tol=5e-3) and t != asked}
    gap_by_t = dict(zip(changes, _gaps_at(list(changes), trainer, rows), strict=True))
    fits = [t for t, gap in gap_by_t.items() if gap <= 2 * max(min(gap_by_t.values()), ROUNDING)]
    t = fits[-1]  # the known ones come last
    what = f"the sampler's log-probabilities are those at temperature {t:.4g}, and sample.temperature is {asked:g}"
    return [Trial("temperature", what, changes[t], gap_by_t[t])]


def _gaps_at(temperatures: Sequence[float], trainer: Trainer, rows: Sequence[Row]) -> list[float]:
    """Mean gap at each."""

    def score(logits_LV: Tensor, ids_L: Tensor, sampler_L: Tensor) -> Tensor:
        return torch.stack([sampler_L - _logp(logits_LV / t, ids_L) for t in temperatures], dim=1)

    return [mean(difference_N) for difference_N in _read(trainer.model, rows, score).unbind(dim=1)]


def truncations(trainer: Trainer, rows: Sequence[Row]) -> list[Trial]:
    """top_p and top_k as they follow from the probability that the sampler seems to have kept: exp(trainer - sampler).

    The kept tokens are the first n by probability; at every place top_p lies between the sum of n - 1 and that of n.
    """

    def kept(logits_LV: Tensor, ids_L: Tensor, sampler_L: Tensor) -> Tensor:
        cumulated_LV = _cumulated(logits_LV / trainer.temperature)
        difference_L = sampler_L - _logp(logits_LV / trainer.temperature, ids_L)
        mass_L = (-difference_L).exp().clamp(max=1.0).double() * (1 - ROUNDING)
        n_L = torch.searchsorted(cumulated_LV, mass_L[:, None])[:, 0].clamp(max=cumulated_LV.shape[1] - 1)
        upper_L = cumulated_LV.gather(1, n_L[:, None])[:, 0]
        lower_L = torch.where(n_L > 0, cumulated_LV.gather(1, (n_L - 1).clamp(min=0)[:, None])[:, 0], 0.0)
        return torch.stack([difference_L.double(), (n_L + 1).double(), lower_L, upper_L], dim=1)

    difference_N, n_N, lower_N, upper_N = _read(trainer.model, rows, kept).unbind(dim=1)
    is_cut_N = difference_N > 10 * ROUNDING
    if not bool(is_cut_N.any()):
        return []
    # between the bounds that hold at every place; where they contradict each other the gap will tell
    top_p = float(lower_N.max() + upper_N.min()) / 2
    top_k = int(n_N[is_cut_N].mode().values)

    def gaps(logits_LV: Tensor, ids_L: Tensor, sampler_L: Tensor) -> Tensor:
        cumulated_LV = _cumulated(logits_LV / trainer.temperature)
        difference_L = sampler_L - _logp(logits_LV / trainer.temperature, ids_L)
        place_L1 = torch.searchsorted(cumulated_LV, torch.full_like(cumulated_LV[:, :1], top_p))
        kept_p_L = cumulated_LV.gather(1, place_L1.clamp(max=cumulated_LV.shape[1] - 1))[:, 0]
        kept_k_L = cumulated_LV[:, min(top_k, cumulated_LV.shape[1]) - 1]
        return torch.stack([difference_L + kept_p_L.log(), difference_L + kept_k_L.log()], dim=1)

    gap_p, gap_k = (mean(each_N) for each_N in _read(trainer.model, rows, gaps).unbind(dim=1))
    what = "the sampler draws from fewer tokens, and shares their probability out anew: {}, and the trainer has none"
    change = "sample without it (a generation_config.json beside the model may set it)"
    return [
        Trial("truncation", what.format(f"top_p of about {top_p:.2g}"), change, gap_p),
        Trial("truncation", what.format(f"top_k of {top_k}"), change, gap_k),
    ]


def _cumulated(logits_LV: Tensor) -> Tensor:
    """Sums [L, V] of the largest probabilities, float64."""
    return torch.softmax(logits_LV.double(), dim=-1).sort(dim=-1, descending=True).values.cumsum(dim=-1)


# --- other prompts ---------------------------------------------------------------------------------------------------


def prompts(trainer: Trainer, rows: Sequence[Row]) -> list[Trial]:
    """Prompts as another template, or another tokeniser's habit, would have made them."""
    context = policy.context_length(lora.plain(trainer.model))
    variants = [_other_prompts(trainer.tokenizer, row.task, row.prompt_ids) for row in rows]
    trials: list[Trial] = []
    for what in sorted(set.intersection(*(set(variant) for variant in variants))):
        prompts = [variant[what] for variant in variants]
        longest = max(len(prompt) + len(row.token_ids) for prompt, row in zip(prompts, rows, strict=True))
        if all(prompts) and (context is None or longest <= context):
            gap = mean_gap(trainer.model, rows, trainer.temperature, prompts)
            change = "both must use the same chat template: send the sampler token ids, never text"
            trials.append(Trial("prompt", f"the sampler saw other prompts: {what}", change, gap))
    return trials


def _other_prompts(tokenizer: Any, task: Task, prompt_ids: tuple[int, ...]) -> Mapping[str, tuple[int, ...]]:
    """Prompt ids by what was done otherwise."""
    import jinja2

    def ids(text: Any) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])

    found: dict[str, tuple[int, ...]] = {}
    if (bos := tokenizer.bos_token_id) is not None:
        if prompt_ids[:1] == (bos,):
            found["without the beginning-of-text token in front"] = prompt_ids[1:]
        found["with a (further) beginning-of-text token in front"] = (bos, *prompt_ids)
    found["with an end token behind"] = (*prompt_ids, tokenizer.eos_token_id)
    if not isinstance(task.prompt, str):
        contents = [turn["content"] for turn in task.prompt]
        found["their plain text, without chat template"] = ids("\n".join(contents))
        found["the last turn's plain text, without chat template"] = ids(contents[-1])
    if tokenizer.chat_template:
        turns = task.prompt
        if isinstance(turns, str):
            turns = (Message(role="user", content=turns),)
        rendered = (Message(role="user", content=tokenizer.decode(list(prompt_ids), skip_special_tokens=True)),)
        for what, messages, to_be_answered in (
            ("rendered by the chat template", turns, True),
            ("rendered by the chat template without the head of the assistant's turn", turns, False),
            ("without the system message", tuple(turn for turn in turns if turn["role"] != "system"), True),
            ("rendered by the chat template a second time", rendered, True),
        ):
            with contextlib.suppress(jinja2.TemplateError):  # it refuses such turns: nobody can have seen them
                found[what] = ids(
                    tokenizer.apply_chat_template(
                        [dict(turn) for turn in messages], tokenize=False, add_generation_prompt=to_be_answered
                    )
                )
    return {what: prompt for what, prompt in found.items() if prompt != prompt_ids}


# --- other weights ---------------------------------------------------------------------------------------------------


def adapters(trainer: Trainer, rows: Sequence[Row]) -> list[Trial]:
    """Without the adapter, and with other scales than alpha / rank."""
    if not lora.is_attached(trainer.model):
        return []
    with lora.off(trainer.model):
        gap = mean_gap(trainer.model, rows, trainer.temperature)
    name = trainer.model.active_adapter
    trials = [
        Trial(
            "adapter",
            "the sampler has no adapter: it is the model of model.path alone",
            "send the adapter, and ask for it by its newest name with every request",
            gap,
        )
    ]
    settings = trainer.model.peft_config[name]
    scale = settings.lora_alpha / settings.r
    wrong: dict[float, list[str]] = {}
    for other, why in (
        (1.0, "alpha and rank are not heeded"),
        (float(settings.lora_alpha), "alpha is not divided by the rank"),
        (1.0 / settings.r, "alpha is not heeded"),
        (settings.lora_alpha / math.sqrt(settings.r), "alpha is divided by the root of the rank"),
        (scale * scale, "the scale is applied twice"),
        (2 * scale, "the adapter is applied twice"),
    ):
        if not math.isclose(other, scale):
            wrong.setdefault(other, []).append(why)
    for other, reasons in wrong.items():
        with _scaled(trainer.model, name, other / scale):
            gap = mean_gap(trainer.model, rows, trainer.temperature)
        why = " or ".join(reasons)
        what = f"the sampler's adapter is scaled by {other:.3g}, and alpha / rank is {scale:.3g} ({why})"
        trials.append(Trial("adapter", what, "its adapter_config.json must be the trainer's", gap))
    return trials


@contextlib.contextmanager
def _scaled(model: Any, name: str, factor: float) -> Iterator[None]:
    """The adapter's contribution times `factor`."""
    from peft.tuners.lora import LoraLayer

    layers = [(m, m.scaling[name]) for m in model.modules() if isinstance(m, LoraLayer) and name in m.scaling]
    try:
        for layer, scale in layers:
            layer.scaling[name] = scale * factor
        yield
    finally:
        for layer, scale in layers:
            layer.scaling[name] = scale


def weights(trainer: Trainer, rows: Sequence[Row]) -> list[Trial]:
    """The model as it is in model.path, and today's body under the output head from there."""
    if lora.is_attached(trainer.model):  # its own weights do not change; the adapter is another family
        return []
    path = trainer.settings.path
    old, _ = policy.load_model(trainer.settings)
    old.to(trainer.model.device)
    whole = mean_gap(old, rows, trainer.temperature)
    is_tied = old.get_output_embeddings().weight is old.get_input_embeddings().weight
    _take_body(old, trainer.model)
    head = mean_gap(old, rows, trainer.temperature)
    why = "the head is tied to the embeddings and was not refreshed with them" if is_tied else "it was not sent"
    return [
        Trial(
            "weights",
            f"the sampler has older weights: those of {path}",
            "a weight update did not reach it, or it was started anew; send the weights after every step",
            whole,
        ),
        Trial(
            "head",
            f"the sampler's output head is still that of {path}: {why}",
            "refresh the head after every weight update",
            head,
        ),
    ]


def _take_body(old: Any, model: Any) -> None:
    """All of the model's weights but the output head's, which is parted from the embeddings first."""
    head = old.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    kept = set(map(id, head.parameters()))
    present = dict(model.named_parameters())
    for name, own in old.named_parameters():
        if id(own) not in kept:
            own.copy_(present[name])


# --- another precision -----------------------------------------------------------------------------------------------


def dtypes(trainer: Trainer, rows: Sequence[Row]) -> list[Trial]:
    """Other precisions. Two programs round at other places, so that the gap need not shrink under the right one.

    But what rounding adds is of one size, and goes along with ours as far as it comes from weights and inputs.
    """
    own = str(trainer.model.dtype).removeprefix("torch.")
    trials: list[Trial] = []
    present_N = differences(trainer.model, rows, trainer.temperature)
    before = mean(present_N)
    if before <= ROUNDING:
        return []
    for dtype in ("bfloat16", "float16", "float32"):
        if dtype == own:
            continue
        other = copy.deepcopy(trainer.model).to(getattr(torch, dtype))
        under_N = differences(other, rows, trainer.temperature)
        del other
        rounding_N = present_N - under_N
        size, along = mean(rounding_N), _correlation(present_N, rounding_N)
        is_alike = 0.6 * size <= before <= 1.7 * size and along > max(0.2, 2.5 / math.sqrt(len(present_N)))
        trial = Trial(
            "dtype",
            f"the sampler computes in {dtype}, and the trainer in {own}",
            f"start the sampler in {own} (vLLM: --dtype {own}), or raise parity.tolerance above the gap",
            mean(under_N),
            f"mean gap {before:.2g}, its rounding makes {size:.2g}, correlation {along:.2f}" if is_alike else "",
        )
        trials.append(trial)
    return trials


def _correlation(x_N: Tensor, y_N: Tensor) -> float:
    found = float(torch.corrcoef(torch.stack([x_N, y_N]))[0, 1]) if len(x_N) > 1 else 0.0
    return found if math.isfinite(found) else 0.0
