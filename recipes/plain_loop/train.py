"""GRPO in a plain PyTorch loop: your model, your sampling, your optimizer; from rlvr the loss.

    python recipes/plain_loop/train.py

A model of 20 thousand random weights learns to count on, 3 -> 4 5 6 (modulo 10), in some seconds on a CPU.
docs/LOSS.md says what each line may be replaced by. P prompts, G completions of each, B = P * G rows, T tokens of a
row, N trained tokens, D hidden, V vocabulary.
"""

from dataclasses import replace

import torch
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from rlvr import Batch, Loss, count, divisor, fused_policy_loss
from rlvr.advantages import group_advantages
from rlvr.loss_settings import Advantage

V, P, G, LENGTH, STEPS, UPDATES = 10, 16, 8, 3, 30, 2


def make_model() -> Qwen3ForCausalLM:
    config = Qwen3Config(
        vocab_size=V,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
    )
    return Qwen3ForCausalLM(config)


@torch.no_grad()
def sample(model: Qwen3ForCausalLM, ids_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Rows with LENGTH more tokens; log-probabilities of these in nats, at temperature 1."""
    logp_BT = torch.zeros(ids_BT.shape)
    for _ in range(LENGTH):
        logp_BV = model(ids_BT).logits[:, -1].log_softmax(dim=1)
        id_B1 = logp_BV.exp().multinomial(1)
        ids_BT, logp_BT = torch.cat([ids_BT, id_B1], dim=1), torch.cat([logp_BT, logp_BV.gather(1, id_B1)], dim=1)
    return ids_BT, logp_BT


def rollouts(model: Qwen3ForCausalLM) -> tuple[Batch, float]:
    """(a step's batch, mean reward): the share of completion tokens that count on from the prompt."""
    prompt_B1 = torch.randint(V, (P, 1)).repeat_interleave(G, dim=0)
    ids_BT, logp_BT = sample(model, prompt_B1)
    mask_BT = torch.arange(ids_BT.shape[1]).expand_as(ids_BT) >= 1  # the prompt is not trained
    reward_B = (ids_BT == (prompt_B1 + torch.arange(1 + LENGTH)) % V)[:, 1:].double().mean(dim=1)
    adv_B = group_advantages(reward_B, torch.arange(P).repeat_interleave(G), Advantage(kind="group"))
    return Batch.of(ids_BT, mask_BT, adv=adv_B, old_logp_BT=logp_BT), reward_B.mean().item()


def backward(model: Qwen3ForCausalLM, batch: Batch, loss: Loss, max_tokens: int = 256) -> None:
    """Add the gradient of the batch's loss to the model's, whatever micro-batches it is made in."""
    counts = count(batch, loss)  # of the whole step, before it is split
    by = divisor(counts, loss)
    for rows in batch.micro(max_tokens):
        micro = replace(batch.rows(rows), counts=counts)
        hidden_BTD = model.model(micro.ids_BT, use_cache=False).last_hidden_state
        head_VD = model.lm_head.weight
        sums = fused_policy_loss(hidden_BTD[micro.predicts_BT], head_VD, micro, loss, expected_grad=1 / by)
        (sums.loss / by).backward()


def main() -> None:
    torch.manual_seed(0)
    model, loss = make_model(), Loss(aggregate="sequence")  # GRPO's; docs/LOSS.md has the others
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(STEPS):
        batch, reward = rollouts(model)
        print(f"step {step + 1} reward {reward:.3f}")
        for _ in range(UPDATES):
            backward(model, batch, loss)
            optimizer.step()
            optimizer.zero_grad()


if __name__ == "__main__":
    main()
