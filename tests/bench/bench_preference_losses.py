"""Losses, gradients and steps of SFT, reward model and direct methods, ours beside TRL's on the same batch.

    .venv-bench/bin/python tests/bench/bench_preference_losses.py [--quick] [--rounds 9]

TRL's own trainers are made around one small Qwen3, tokenise and collate one batch, and their compute_loss() is compared
with our step on the same ids, in float64 and float32: loss relative to TRL's, gradient by the norm of the difference
relative to TRL's norm. TRL's fused head reckons in float32 whatever the model is; in float64 its losses get the plain
log-probabilities of the logits instead. In float32 both losses are also compared with that of float64, which tells
whose rounding a difference is. SimPO and ORPO, which TRL keeps in experimental trainers, are compared on
log-probabilities.
Time is CPU time of the process on one thread for a whole step (reference, forward, backward, clipping, AdamW), the
least of the rounds, both in turn in each. Prints Markdown tables, and one JSON object on the last line; exit code 1
where a loss or gradient is further off than TOLERANCE, or a step slower than SLOWER times TRL's.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", HF_HUB_OFFLINE="1", HF_HUB_DISABLE_PROGRESS_BARS="1")
os.environ.update(TQDM_DISABLE="1", TRANSFORMERS_VERBOSITY="error", TRL_EXPERIMENTAL_SILENCE="1")

import datasets
import torch
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3ForSequenceClassification
from trl import (  # pyright: ignore[reportMissingImports]
    DPOConfig,
    DPOTrainer,
    KTOConfig,
    KTOTrainer,
    RewardConfig,
    RewardTrainer,
    SFTConfig,
    SFTTrainer,
)
from trl.experimental.cpo import CPOTrainer  # pyright: ignore[reportMissingImports]
from trl.experimental.orpo import ORPOTrainer  # pyright: ignore[reportMissingImports]

from rlvr import policy
from rlvr.batching import Rows
from rlvr.chat import Example, byte_tokenizer
from rlvr.direct_losses import direct_loss
from rlvr.direct_settings import DirectLoss
from rlvr.loops import dpo, reward_model, sft
from rlvr.loops.direct_rows import Pairs, Singles
from rlvr.loops.reward_rows import Element, Listed
from rlvr.preference_settings import PreferenceLoss
from rlvr.recipe import AdamW
from rlvr.trained import Trained

BETA = 0.1
"""TRL's default."""
TOLERANCE = {
    "loss/float64": 1e-6,
    "gradient/float64": 1e-6,
    "loss/float32": 1e-5,
    "gradient/float32": 1e-5,
    "ours/float32": 2e-6,
}
"""Relative. In float32 the log-probability of a completion has hundreds of nats, of which a few in 10^7 are lost."""
SLOWER = 1.05
LR = 1e-4
DIRECT: dict[str, tuple[dict[str, Any], DirectLoss]] = {
    "dpo": ({"loss_type": ["sigmoid"]}, DirectLoss(beta=BETA)),
    "robust dpo": (
        {"loss_type": ["robust"], "label_smoothing": 0.1},
        DirectLoss(kind="robust", beta=BETA, label_smoothing=0.1),
    ),
    "ipo (mean)": ({"loss_type": ["ipo"]}, DirectLoss(kind="ipo", ipo_logps="mean", beta=BETA)),
    "hinge": ({"loss_type": ["hinge"]}, DirectLoss(kind="hinge", beta=BETA)),
}


@dataclass(frozen=True)
class Compared:
    """One method on one batch: TRL's loss with its trainer's model, and our step on the same rows and weights."""

    name: str
    their_model: Any
    their_reference: Any
    theirs: Callable[[], Tensor]
    """TRL's loss, with gradient."""
    our_model: Any
    gradient: Callable[[Trained], float]
    """Add our gradient; our loss."""
    step: Callable[[Trained], Any]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="a smaller model and batch, three rounds")
    options.add_argument("--rounds", type=int, help="9 without it")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    datasets.disable_progress_bars()
    small = (
        {"hidden_size": 64, "num_hidden_layers": 2} if chosen.quick else {"hidden_size": 128, "num_hidden_layers": 4}
    )
    num_pairs, rounds = 4 if chosen.quick else 8, chosen.rounds or (3 if chosen.quick else 9)
    figures: dict[str, dict[str, float]] = {}
    truth: dict[str, float] = {}
    print(f"Qwen3 of {small}, {num_pairs} pairs, one thread, {rounds} rounds; seconds are CPU time of a step\n")
    with tempfile.TemporaryDirectory() as folder:
        for dtype in (torch.float64, torch.float32):
            for case in cases(folder, dtype, small, num_pairs):
                figures.setdefault(case.name, {}).update(compare(case, dtype, truth))
                if dtype == torch.float32:
                    figures[case.name] |= race(case, rounds)
    for name, difference in formulas().items():
        figures.setdefault(name, {})["loss/float64"] = difference
    show(figures)
    print(json.dumps(figures))
    sys.exit(1 if failures(figures) else 0)


# --- the same batch for both -----------------------------------------------------------------------------------------


def cases(folder: str, dtype: torch.dtype, small: dict[str, int], num_pairs: int) -> list[Compared]:
    tokenizer = byte_tokenizer()
    texts = random.Random(0)

    def text(low: int, high: int) -> str:
        return "".join(texts.choice("abcdefgh ") for _ in range(texts.randint(low, high)))

    pairs = [{"prompt": text(8, 40), "chosen": text(8, 90), "rejected": text(8, 90)} for _ in range(num_pairs)]
    models = language_model(0, small, dtype), language_model(1, small, dtype)
    common: dict[str, Any] = {
        "output_dir": folder, "use_cpu": True, "bf16": False, "report_to": "none", "max_length": None,
        "gradient_checkpointing": False, "per_device_train_batch_size": 2 * num_pairs, "learning_rate": LR,
    }  # fmt: skip
    found = [of_sft(models[0], tokenizer, pairs, common), of_rewards(tokenizer, pairs, common, small, dtype)]
    found += [
        of_direct(name, settings, loss, models, tokenizer, pairs, common) for name, (settings, loss) in DIRECT.items()
    ]
    return [*found, of_kto(models, tokenizer, pairs, common)]


def language_model(seed: int, small: dict[str, int], dtype: torch.dtype) -> Any:
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(config(small)).to(dtype)


def config(small: dict[str, int]) -> Any:
    return Qwen3Config(
        vocab_size=4096, intermediate_size=4 * small["hidden_size"], num_attention_heads=4, num_key_value_heads=2,
        head_dim=32, max_position_embeddings=512, initializer_range=0.1, pad_token_id=0, eos_token_id=1,
        bos_token_id=2, tie_word_embeddings=True, use_cache=False, **small,
    )  # fmt: skip


def of_sft(model: Any, tokenizer: Any, pairs: list[dict[str, str]], common: dict[str, Any]) -> Compared:
    rows = datasets.Dataset.from_list([{"prompt": row["prompt"], "completion": row["chosen"]} for row in pairs])
    trainer = SFTTrainer(copy.deepcopy(model), args=SFTConfig(**common), train_dataset=rows, processing_class=tokenizer)
    inputs = collated(trainer)
    own = Rows(inputs["input_ids"], inputs["labels"] >= 0, inputs["attention_mask"].sum(dim=1))
    return Compared(
        name="sft",
        their_model=trainer.model,
        their_reference=getattr(trainer, "ref_model", None),
        theirs=lambda: trainer.compute_loss(trainer.model, dict(inputs)),
        our_model=model,
        gradient=lambda trained: sft.gradient(trained, own, own.num_tokens, "auto")["loss"],
        step=lambda trained: sft.update(trained, own),
    )


def of_rewards(
    tokenizer: Any, pairs: list[dict[str, str]], common: dict[str, Any], small: dict[str, int], dtype: torch.dtype
) -> Compared:
    torch.manual_seed(2)
    settings = config(small)
    settings.num_labels = 1
    scorer = Qwen3ForSequenceClassification(settings)
    torch.nn.init.normal_(scorer.score.weight, std=0.2)
    scorer = scorer.to(dtype)
    trainer = RewardTrainer(
        copy.deepcopy(scorer),
        args=RewardConfig(**common, center_rewards_coefficient=0.01),
        train_dataset=datasets.Dataset.from_list(pairs),
        processing_class=tokenizer,
    )
    inputs = collated(trainer)
    num_tokens_B = inputs["attention_mask"].sum(dim=1).tolist()
    examples = [Example(ids[:n].int().numpy(), 0) for ids, n in zip(inputs["input_ids"], num_tokens_B, strict=True)]
    halves = zip(examples[: len(pairs)], examples[len(pairs) :], strict=True)  # chosen before rejected
    own = reward_model.pad([Element(examples=pair, listed=(Listed((0, 1), (0, 1)),)) for pair in halves])
    loss = PreferenceLoss(center_coef=0.01)
    return Compared(
        name="reward model",
        their_model=trainer.model,
        their_reference=getattr(trainer, "ref_model", None),
        theirs=lambda: trainer.compute_loss(trainer.model, dict(inputs)),
        our_model=scorer,
        gradient=lambda trained: reward_model._gradient(trained, loss, own, len(pairs))["loss"],
        step=lambda trained: reward_model.update(trained, loss, own),
    )


def of_direct(
    name: str,
    settings: dict[str, Any],
    loss: DirectLoss,
    models: tuple[Any, Any],
    tokenizer: Any,
    pairs: list[dict[str, str]],
    common: dict[str, Any],
) -> Compared:
    model, reference = models
    trainer = DPOTrainer(
        copy.deepcopy(model),
        ref_model=copy.deepcopy(reference),
        args=DPOConfig(**common, **settings, beta=BETA),
        train_dataset=datasets.Dataset.from_list(pairs),
        processing_class=tokenizer,
    )
    inputs = collated(trainer)
    probability_U = torch.ones(len(pairs), dtype=torch.float64)
    length_B = inputs["attention_mask"].sum(dim=1)
    own = Pairs(inputs["input_ids"], inputs["completion_mask"].bool(), length_B, probability_U)
    return direct(name, trainer, inputs, model, reference, loss, own)


def of_kto(models: tuple[Any, Any], tokenizer: Any, pairs: list[dict[str, str]], common: dict[str, Any]) -> Compared:
    rows = [
        {"prompt": row["prompt"], "completion": row[word], "label": word == "chosen"}
        for word in ("chosen", "rejected")
        for row in pairs
    ]
    model, reference = models
    trainer = KTOTrainer(
        copy.deepcopy(model),
        ref_model=copy.deepcopy(reference),
        args=KTOConfig(**common, beta=BETA, undesirable_weight=0.5),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    inputs = collated(trainer)
    label_B = torch.as_tensor(inputs["label"]).double()
    own = Singles(*of(inputs, ""), label_B, *of(inputs, "KL_"))
    return direct(
        "kto", trainer, inputs, model, reference, DirectLoss(kind="kto", beta=BETA, undesirable_weight=0.5), own
    )


def of(inputs: dict[str, Any], prefix: str) -> tuple[Tensor, Tensor, Tensor]:
    """(ids_BT, mask_BT, length_B) of TRL's inputs"""
    length_B = inputs[f"{prefix}attention_mask"].sum(dim=1)
    return inputs[f"{prefix}input_ids"], inputs[f"{prefix}completion_mask"].bool(), length_B


def direct(
    name: str, trainer: Any, inputs: dict[str, Any], model: Any, reference: Any, loss: DirectLoss, rows: Pairs | Singles
) -> Compared:
    frozen = copy.deepcopy(reference).requires_grad_(False)

    def learner(trained: Trained) -> dpo.Learner:
        return dpo.Learner(trained, loss, frozen, trained.packs)

    def gradient(trained: Trained) -> float:
        own = learner(trained)
        kl = dpo._reference_point(own, rows)
        return dpo._figures(loss, rows, dpo._gradient(own, rows, kl), kl)["loss"]

    return Compared(
        name=name,
        their_model=trainer.model,
        their_reference=getattr(trainer, "ref_model", None),
        theirs=lambda: trainer.compute_loss(trainer.model, dict(inputs)),
        our_model=model,
        gradient=gradient,
        step=lambda trained: dpo.update(learner(trained), rows),
    )


def with_plain_head(model: Any) -> None:
    """Take TRL's fused head off again: what it gives is made from all logits, in the model's own type."""

    def forward(*, fused_lm_head: bool, labels: Tensor, **given: Any) -> Any:
        assert fused_lm_head
        logits_BTV = type(model).forward(model, **given).logits[:, :-1]
        all_logp_BTV, is_scored_BT = logits_BTV.log_softmax(dim=-1), labels[:, 1:] != -100
        logp_BT = all_logp_BTV.gather(2, labels[:, 1:].clamp(min=0)[..., None])[..., 0].masked_fill(~is_scored_BT, 0)
        zeros_BT = torch.zeros_like(logp_BT)
        return SimpleNamespace(
            log_probs=logp_BT, label_mask=is_scored_BT, entropy=zeros_BT, mean_logits=zeros_BT, is_top1=is_scored_BT
        )

    model.forward = forward


def collated(trainer: Any) -> dict[str, Any]:
    """All rows as TRL's own tokens, in one batch."""
    return trainer.data_collator([trainer.train_dataset[k] for k in range(len(trainer.train_dataset))])


# --- exactness and time ----------------------------------------------------------------------------------------------


def compare(case: Compared, dtype: torch.dtype, truth: dict[str, float]) -> dict[str, float]:
    """Differences of loss and gradient, relative; truth: the losses in float64 by method, which that pass fills."""
    if dtype == torch.float64 and case.name != "reward model":
        for model in filter(None, (case.their_model, case.their_reference)):
            with_plain_head(model)
    theirs = case.theirs()
    theirs.backward()
    trained = our_trained(case)
    ours, loss = case.gradient(trained), float(theirs.detach())
    difference = square = 0.0
    wanted = dict(case.their_model.named_parameters())
    for name, parameter in trained.model.named_parameters():
        grad, other = (torch.zeros_like(p) if p.grad is None else p.grad for p in (parameter, wanted[name]))
        difference += float((grad - other).double().square().sum())
        square += float(other.double().square().sum())
    case.their_model.zero_grad()
    word = str(dtype).removeprefix("torch.")
    found = {f"loss/{word}": abs(ours - loss) / abs(loss), f"gradient/{word}": (difference / square) ** 0.5}
    if dtype == torch.float64:
        truth[case.name] = loss
        return found
    exact = truth[case.name]
    return {**found, "ours/float32": abs(ours - exact) / abs(exact), "trl/float32": abs(loss - exact) / abs(exact)}


def race(case: Compared, rounds: int) -> dict[str, float]:
    """CPU seconds of a step, and ours as a share of TRL's."""
    trained = our_trained(case)
    optimizer = torch.optim.AdamW(case.their_model.parameters(), lr=LR, betas=(0.9, 0.95), weight_decay=0.0)

    def theirs() -> None:
        case.theirs().backward()
        torch.nn.utils.clip_grad_norm_(case.their_model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    seconds: dict[str, list[float]] = {"ours_s": [], "trl_s": []}
    for turn in range(rounds + 1):
        for name, work in (("ours_s", lambda: case.step(trained)), ("trl_s", theirs)):
            started = time.process_time()
            work()
            if turn:  # the first one makes memory and kernels
                seconds[name].append(time.process_time() - started)
    least = {name: min(values) for name, values in seconds.items()}
    return {**least, "ratio": least["ours_s"] / least["trl_s"]}


def our_trained(case: Compared) -> Trained:
    return Trained(copy.deepcopy(case.our_model), AdamW(lr=LR), 1000, packs=policy.can_pack(case.our_model))


def formulas() -> dict[str, float]:
    """SimPO and ORPO on log-probabilities: largest difference of a loss, relative."""
    generator = torch.Generator().manual_seed(0)
    c, r = (-3 * torch.rand(64, generator=generator) - 0.1 for _ in range(2))  # per token, as TRL passes them
    n, m = (torch.randint(1, 50, (64,), generator=generator) for _ in range(2))
    there = SimpleNamespace(
        beta=2.0,
        alpha=0.0,
        simpo_gamma=0.7,
        label_smoothing=0.1,
        loss_type="simpo",
        accelerator=SimpleNamespace(device="cpu"),
    )
    theirs, *_ = CPOTrainer.cpo_loss(there, c, r)
    loss = DirectLoss(kind="simpo", beta=2.0, simpo_gamma=0.7, label_smoothing=0.1)
    ours, _ = direct_loss(loss, c.double() * n, r.double() * m, None, None, n, m)
    there.beta = 0.25
    odds, *_ = ORPOTrainer.odds_ratio_loss(there, c, r)
    own, _ = direct_loss(DirectLoss(kind="orpo", beta=0.25), c.double() * n, r.double() * m, None, None, n, m)
    return {
        "simpo": float(((ours - theirs) / theirs).abs().max()),
        "orpo": float(((own - (-c - odds)) / own).abs().max()),  # TRL's own NLL is over prompts too
    }


# --- figures ---------------------------------------------------------------------------------------------------------


def show(figures: dict[str, dict[str, float]]) -> None:
    columns = (*TOLERANCE, "trl/float32", "ours_s", "trl_s", "ratio")
    print(f"| | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    for name, found in figures.items():
        print(f"| {name} | {' | '.join(f'{found[key]:.3g}' if key in found else '' for key in columns)} |")


def failures(figures: dict[str, dict[str, float]]) -> list[str]:
    """What is further off than it may be, said on stderr."""
    found = []
    for name, values in figures.items():
        for key, value in values.items():
            most = SLOWER if key == "ratio" else TOLERANCE.get(key, float("inf"))
            if not value <= most:
                found.append(f"{name}: {key} {value:.3g} is above {most:g}")
    print("\n".join(found), file=sys.stderr)
    return found


if __name__ == "__main__":
    main()
