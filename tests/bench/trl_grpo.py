"""TRL's GRPOTrainer with our fused loss and our math verifier, run beside TRL's own loss; tests/test_trl.py asserts.

    .venv-bench/bin/python tests/bench/trl_grpo.py [--loss dapo|grpo] [--beta 0.05] [--iterations 2] [--steps 4]

A tiny random byte-level model first learns how an answer looks from demonstrations of sums, so that some of what it
samples is right. Then two runs of GRPO from the same weights and seed: one with our loss, which compares value and
gradient of each micro-batch with TRL's, and one with TRL's. Prints one JSON object on the last line.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", HF_HUB_DISABLE_PROGRESS_BARS="1")

import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config, Qwen3ForCausalLM
from trl import GRPOConfig, GRPOTrainer  # pyright: ignore[reportMissingImports]

from rlvr import fused_policy_loss
from rlvr.batching import Batch
from rlvr.chat import byte_tokenizer
from rlvr.loss_settings import Clip, Kl, Loss
from rlvr.rewards.verified import VerifierPool
from rlvr.types import Task

# --- what somebody who uses TRL writes -------------------------------------------------------------------------------


class FusedTrainer(GRPOTrainer):
    """GRPOTrainer of loss_type dapo or grpo, whose output head and loss are rlvr's."""

    def _compute_loss(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        ids_BT = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        real_BT = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        mask_BT = torch.cat([torch.zeros_like(inputs["prompt_mask"]), inputs["completion_mask"]], dim=1)

        def behind_prompt(name: str) -> Tensor | None:
            if inputs.get(name) is None:
                return None
            return torch.cat([torch.zeros_like(inputs["prompt_mask"], dtype=torch.float32), inputs[name]], dim=1)

        batch = Batch.of(
            ids_BT,
            mask_BT,
            adv=inputs["advantages"],
            old_logp_BT=behind_prompt("old_per_token_logps"),
            ref_logp_BT=behind_prompt("ref_per_token_logps"),
        )
        aggregate = {"dapo": "token", "grpo": "sequence"}[self.loss_type]
        loss = Loss(aggregate=aggregate, clip=Clip(low=self.epsilon_low, high=self.epsilon_high))
        kl = Kl(coef=self.beta, kind="k3", weighted=self.args.use_bias_correction_kl)
        model = self.accelerator.unwrap_model(model)
        hidden_BTD = model.base_model(ids_BT, attention_mask=real_BT, use_cache=False).last_hidden_state
        divisor = self._divisor(inputs)
        head = (hidden_BTD[batch.predicts_BT], model.lm_head.weight)
        sums = fused_policy_loss(*head, batch, loss, kl, temperature=self.temperature, expected_grad=1 / divisor)
        return sums.loss / divisor

    def _divisor(self, inputs: dict[str, Tensor]) -> float:
        """Of the whole optimizer step, as TRL has it: rows without a trained token count too."""
        micro_batches = self.current_gradient_accumulation_steps
        if self.loss_type == "grpo":
            return float(len(inputs["completion_ids"]) * micro_batches)
        tokens = float(inputs["num_items_in_batch"].clamp(min=1)) / self.accelerator.num_processes
        return tokens * micro_batches / self.args.steps_per_generation


def math_reward(pool: VerifierPool) -> Any:
    def reward(completions: list[str], gold: list[str], **_: Any) -> list[float | None]:
        """None, which TRL leaves out, where a response could not be judged."""
        tasks = [Task(id=str(number), prompt="", gold=answer) for number, answer in enumerate(gold)]
        jobs = [("math", text, task) for text, task in zip(completions, tasks, strict=True)]
        return [verdict.score for verdict in pool.judge(jobs)]

    return reward


# --- the run ---------------------------------------------------------------------------------------------------------


class ComparedTrainer(FusedTrainer):
    """Trains with our loss, and writes down how far value and gradient are from TRL's."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.compared: list[dict[str, float]] = []

    def _compute_loss(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        weights = [weight for weight in model.parameters() if weight.requires_grad]

        def flat(loss: Tensor) -> Tensor:
            return torch.cat([grad.flatten() for grad in torch.autograd.grad(loss, weights)])

        ours, theirs = FusedTrainer._compute_loss(self, model, inputs), GRPOTrainer._compute_loss(self, model, inputs)
        our_grad, their_grad = flat(ours), flat(theirs)
        mask_BT = inputs["completion_mask"]
        self.compared.append(
            {
                "loss": theirs.item(),
                "loss_difference": abs(ours.item() - theirs.item()),
                "grad": float(their_grad.norm()),
                "grad_difference": float((our_grad - their_grad).norm()),
                "clipped": self._metrics["train"]["clip_ratio/region_mean"][-1],
                "is_off_policy": inputs.get("old_per_token_logps") is not None,
                "shortest": int(mask_BT.sum(dim=1).min()),
                "longest": int(mask_BT.sum(dim=1).max()),
            }
        )
        return FusedTrainer._compute_loss(self, model, inputs)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--loss", choices=("dapo", "grpo"), default="dapo")
    options.add_argument("--beta", type=float, default=0.0, help="weight of the KL term")
    options.add_argument(
        "--iterations", type=int, default=2, help="updates per sample; 1: the old policy is the policy"
    )
    options.add_argument("--steps", type=int, default=4)
    chosen = options.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, VerifierPool(["math"], workers=1, memory_mib=2048) as pool:
        make_model(Path(folder) / "model")

        def train(kind: type[GRPOTrainer]) -> Any:
            arguments = GRPOConfig(
                output_dir=f"{folder}/{kind.__name__}",
                loss_type=chosen.loss,
                beta=chosen.beta,
                epsilon=0.1,
                epsilon_high=0.15,
                temperature=0.9,
                max_steps=chosen.steps,
                num_iterations=chosen.iterations,
                num_generations=8,
                per_device_train_batch_size=16,
                gradient_accumulation_steps=2,
                max_completion_length=16,
                learning_rate=0.2,
                lr_scheduler_type="constant",
                optim="sgd",
                seed=0,
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            )
            trainer = kind(
                model=AutoModelForCausalLM.from_pretrained(f"{folder}/model"),
                reward_funcs=math_reward(pool),
                args=arguments,
                train_dataset=Dataset.from_list(sums(random.Random(1), 64)),
                processing_class=AutoTokenizer.from_pretrained(f"{folder}/model"),
            )
            trainer.train()
            return trainer

        before = weights(AutoModelForCausalLM.from_pretrained(f"{folder}/model"))
        ours, theirs = train(ComparedTrainer), train(GRPOTrainer)
    after, expected = weights(ours.model), weights(theirs.model)
    print(
        json.dumps(
            {
                "micro_batches": ours.compared,
                "rewards": [row["reward"] for row in ours.state.log_history if "reward" in row],
                "their_rewards": [row["reward"] for row in theirs.state.log_history if "reward" in row],
                "change": float((after - before).norm()),
                "change_difference": float((after - expected).norm()),
            }
        )
    )


def weights(model: Any) -> Tensor:
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


def sums(rng: random.Random, count: int) -> list[dict[str, str]]:
    r"""Rows {"prompt": "3+9=", "gold": "12"}"""
    pairs = [(rng.randrange(13), rng.randrange(4)) for _ in range(count)]
    return [{"prompt": f"{a}+{b}=", "gold": str(a + b)} for a, b in pairs]


def make_model(folder: Path, updates: int = 150) -> None:
    """Saves a byte-level Qwen3 of 0.1 million parameters that mostly answers in the right form."""
    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        dtype="float32",
    )
    model = Qwen3ForCausalLM(config)
    adam = torch.optim.AdamW(model.parameters(), lr=3e-3)
    rng = random.Random(0)
    for _ in range(updates):
        texts = [f"{row['prompt']}\\boxed{{{row['gold']}}}" for row in sums(rng, 32)]
        rows = [torch.tensor([*tokenizer(text)["input_ids"], tokenizer.eos_token_id]) for text in texts]
        labels_BT = pad_sequence(rows, batch_first=True, padding_value=-100)
        model(labels_BT.clamp(min=0), labels=labels_BT).loss.backward()
        adam.step()
        adam.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main()
