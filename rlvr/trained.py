"""A model with its optimizer, schedule and divisor; a run has one (the policy) or two (with a critic)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from rlvr import lora, parallel, policy
from rlvr.errors import SettingsError
from rlvr.losses import Sums
from rlvr.recipe import AdamW, Muon

Result = TypeVar("Result")


class Trained:
    """What one kind of parameters needs to be trained, saved and resumed, on any number of ranks."""

    def __init__(
        self, model: Any, settings: AdamW | Muon, total_updates: int, *, packs: bool = False, prefix: str = ""
    ) -> None:
        """model: a Hugging Face model, with adapters or without, or a head alone; prefix: of what is saved."""
        self.model = model
        self.prefix = prefix
        """Tells a run's second one from its policy, whose names in the checkpoint have none."""
        self.packs = packs
        """Whether its forwards pack rows, see policy.can_pack()."""
        self.micro_tokens = settings.micro_tokens
        """Tokens per forward; halved where memory ran out."""
        self.settings = settings
        self.total_updates = total_updates
        self.updates = 0
        """Optimizer updates done or skipped; with the settings it fixes the learning rate."""
        self.skipped_in_a_row = 0
        """Updates skipped for a NaN or infinity since the last one that was done."""
        self.optimizers = _optimizers(model, settings)
        self._base_lr = [[group["lr"] for group in o.param_groups] for o in self.optimizers]

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """Those that are trained."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def backward(self, sums: Sums, divisor: float) -> float:
        """Add one micro-batch's gradient of sums.loss / divisor; the divisor is that of the whole optimizer step.

        Returns the micro-batch's share of the loss. One that is not finite makes the whole gradient so: see step().
        """
        loss = sums.loss / divisor
        value = float(loss.detach())
        if math.isfinite(value):
            loss.backward()
        else:
            self.spoil()
        return value

    def spoil(self) -> None:
        """Make the whole gradient NaN, so that step() moves nothing, on any rank."""
        first = self.parameters[0]
        first.grad = torch.full_like(first, math.nan)

    def clear(self) -> None:
        """Forget the gradient."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def step(self) -> dict[str, float]:
        """Sum the gradient over the ranks, clip, update, clear it; grad_norm (before clipping) and lr.

        Where the gradient is not finite no weight and no momentum moves: {"skipped_updates": 1}.
        """
        parallel.add_gradients(self.parameters)
        parameters = [p for p in self.parameters if p.grad is not None]
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.settings.max_grad_norm))
        factor = lr_factor(self.settings, self.updates, self.total_updates)
        self.updates += 1
        if not math.isfinite(norm):
            self.clear()
            self.skipped_in_a_row += 1
            return {"skipped_updates": 1.0}
        for optimizer, rates in zip(self.optimizers, self._base_lr, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            optimizer.step()
        self.clear()
        self.skipped_in_a_row = 0
        return {"grad_norm": norm, "lr": self.settings.lr * factor}

    def pass_over(self) -> dict[str, float]:
        """Count an update without gradient: no weight moves, not even along the old momentum, but the schedule does."""
        self.updates += 1
        return {}

    def in_memory(self, work: Callable[[], Result], longest: int) -> Result:
        """work(), and wherever memory runs out again, without gradient and with half the micro_tokens.

        `work` must start from no gradient; longest: tokens of its longest row. SettingsError where one row per forward
        is too much.
        """
        while True:
            try:
                return work()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            # outside of the handler: the traceback holds the tensors that there was no room for
            self.clear()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if self.micro_tokens <= longest:
                raise SettingsError(
                    f"out of memory with one row per forward ({reason}); shorten the rows, set "
                    "gradient_checkpointing=true or model.lora=true, or take a smaller model"
                )
            self.micro_tokens //= 2

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """(name, tensor) as in the model's file; of the adapters alone where there are."""
        return lora.weights(self.model) if lora.is_attached(self.model) else policy.weights(self.model)

    def state(self) -> dict[str, Tensor]:
        """Weights and optimizer state under flat names, for safetensors."""
        tensors = {f"{self.prefix}model.{name}": tensor for name, tensor in self.weights()}
        names: dict[Tensor, str] = {parameter: name for name, parameter in self.model.named_parameters()}
        for optimizer in self.optimizers:
            for parameter, entry in optimizer.state.items():
                for key, value in entry.items():
                    tensors[f"{self.prefix}optimizer.{names[parameter]}.{key}"] = torch.as_tensor(value)
        return tensors

    def numbers(self) -> dict[str, int]:
        """What state() holds no tensor for, for JSON."""
        return {
            "updates": self.updates,
            "skipped_in_a_row": self.skipped_in_a_row,
            "micro_tokens": self.micro_tokens,  # another split would change the last bits
        }

    def load_state(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, int]) -> None:
        """Take what state() and numbers() gave, whatever else is beside it. ValueError, with nothing taken, where a
        weight is missing or other."""
        start = len(self.prefix)
        tensors = {key[start:]: tensor for key, tensor in tensors.items() if key.startswith(self.prefix)}
        self._check_shapes(tensors)
        names: dict[Tensor, str] = {parameter: name for name, parameter in self.model.named_parameters()}
        with torch.no_grad():
            for name, own in self.weights():
                own.copy_(tensors[f"model.{name}"])
        entries: dict[str, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                name, _, entry = key.removeprefix("optimizer.").rpartition(".")
                entries.setdefault(name, {})[entry] = value
        for optimizer in self.optimizers:
            for parameter in (p for group in optimizer.param_groups for p in group["params"]):
                # AdamW's step count stays on the CPU
                optimizer.state[parameter] = {
                    entry: value.to(parameter.device if value.ndim else "cpu", copy=True)
                    for entry, value in entries.get(names[parameter], {}).items()
                }
                if not optimizer.state[parameter]:
                    del optimizer.state[parameter]
        self.updates, self.skipped_in_a_row = numbers["updates"], numbers["skipped_in_a_row"]
        self.micro_tokens = min(self.micro_tokens, numbers["micro_tokens"])

    def share_state(self) -> None:
        """Give every rank the main rank's state, as after resuming."""
        if parallel.size() > 1:
            tensors = {name: t.cpu() for name, t in self.state().items()} if parallel.is_main() else None
            tensors, numbers = parallel.from_main((tensors, self.numbers()))
            if not parallel.is_main():
                self.load_state(tensors, numbers)

    def _check_shapes(self, tensors: Mapping[str, Tensor]) -> None:
        own = dict(self.weights())
        for name, tensor in own.items():
            given = tensors.get(f"model.{name}")
            if given is None or given.shape != tensor.shape:
                what = "is missing" if given is None else f"has shape {tuple(given.shape)}"
                raise ValueError(f"weight {self.prefix}{name} must have shape {tuple(tensor.shape)}; it {what}")
        for key in tensors:
            if key.startswith("model.") and key.removeprefix("model.") not in own:
                raise ValueError(f"it also has a weight {self.prefix}{key.removeprefix('model.')}")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether less work at a time may help."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def lr_factor(settings: AdamW | Muon, update: int, total: int) -> float:
    """Share of the base rate in update 0..total-1: linear warm-up, after it the schedule down to min_lr_ratio.

    A pure function of the update's number, so that a resumed run needs no scheduler state.
    """
    warm = min(1.0, (update + 1) / settings.warmup_steps) if settings.warmup_steps else 1.0
    done = max(0, update - settings.warmup_steps) / max(1, total - settings.warmup_steps)
    fall = {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[settings.schedule]
    floor = 0.0 if settings.schedule == "constant" else settings.min_lr_ratio
    return warm * (fall * (1 - floor) + floor)


def _optimizers(model: Any, settings: AdamW | Muon) -> list[torch.optim.Optimizer]:
    parameters = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not isinstance(settings, Muon):
        rest = [p for _, p in parameters]
        return [torch.optim.AdamW(rest, lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay)]
    # Muon is for matrices between hidden spaces; embeddings and heads are not https://kellerjordan.github.io/posts/muon/
    outer = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    if (head := model.get_output_embeddings()) is not None:
        outer.add(id(head.weight))
    outer |= {id(p) for name, p in parameters if {"score", "classifier"} & set(name.split("."))}  # of a scorer
    matrices = [p for _, p in parameters if p.ndim == 2 and id(p) not in outer]
    rest = [p for _, p in parameters if p.ndim != 2 or id(p) in outer]
    return [
        torch.optim.Muon(matrices, lr=settings.lr, weight_decay=settings.weight_decay, momentum=settings.momentum),
        torch.optim.AdamW(rest, lr=settings.adamw_lr, betas=settings.betas, weight_decay=0.0),
    ]
