"""What bench_loss.py compares: our fused loss and its peers on one problem, all with the same loss.

That is PPO's clipped loss per token, mean over tokens (TRL and Liger: dapo). Hidden states and head are random, the
tokens drawn from that policy, as a sampler would.
N tokens in B rows of T, V vocabulary, D hidden.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from rlvr import fused_logprobs, fused_policy_loss
from rlvr.batching import Batch
from rlvr.loss_settings import Loss

LOSS = Loss.model_validate({"aggregate": "token"})
SPREAD = 2.0
"""Standard deviation of a token's logits over the vocabulary."""
NEAR, FAR, SHARE_FAR = 0.1, 0.4, 0.05
"""New and old log-probabilities differ by up to NEAR, those of a share of the tokens by FAR: bounds of clipping lie
between, so that rounding clips no token more or less."""
ROW = 128
"""Tokens of a row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Shape(dtype=torch.bfloat16, N=1024, D=512, V=32000)"""

    dtype: torch.dtype
    N: int
    D: int
    V: int
    frozen: bool = False
    """The head is not trained."""

    def __str__(self) -> str:
        kind = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float64: "fp64"}[self.dtype]
        words = [kind, f"N={self.N}", f"H={self.D}", f"V={self.V}"]
        return " ".join(words + ["frozen"] * self.frozen)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    hidden_ND: Tensor
    weight_VD: Tensor
    ids_N: Tensor
    old_N: Tensor
    adv_B: Tensor

    @property
    def B(self) -> int:
        return len(self.adv_B)

    @property
    def adv_N(self) -> Tensor:
        return self.adv_B.repeat_interleave(len(self.ids_N) // self.B)

    @property
    def batch(self) -> Batch:
        """Each row behind one token of prompt."""
        ids_BT = F.pad(self.ids_N.view(self.B, -1), (1, 0))
        mask_BT = torch.ones_like(ids_BT, dtype=torch.bool)
        mask_BT[:, 0] = False
        old_BT = F.pad(self.old_N.view(self.B, -1), (1, 0))
        return Batch.of(ids_BT, mask_BT, adv=self.adv_B, old_logp_BT=old_BT)

    def forget_gradients(self) -> None:
        self.hidden_ND.grad = self.weight_VD.grad = None

    def halved(self) -> Problem:
        """Every other row has an advantage of 0."""
        return replace(self, adv_B=torch.where(torch.arange(self.B) % 2 == 0, 0.0, self.adv_B))

    def doubled(self) -> Problem:
        """The same numbers in float64."""
        hidden_ND, weight_VD = self.hidden_ND.detach().double(), self.weight_VD.detach().double()
        weight_VD.requires_grad_(self.weight_VD.requires_grad)
        return replace(
            self,
            hidden_ND=hidden_ND.requires_grad_(),
            weight_VD=weight_VD,
            old_N=self.old_N.double(),
            adv_B=self.adv_B.double(),
        )


def make(shape: Shape, seed: int = 0) -> Problem:
    rng = torch.Generator().manual_seed(seed)
    hidden_ND = torch.randn(shape.N, shape.D, generator=rng).to(shape.dtype)
    weight_VD = (torch.randn(shape.V, shape.D, generator=rng) * (SPREAD / shape.D**0.5)).to(shape.dtype)
    ids, logp = [], []
    for start in range(0, shape.N, 64):
        all_CV = (hidden_ND[start : start + 64].float() @ weight_VD.T.float()).log_softmax(dim=1)
        # the largest of log p + Gumbel noise is a draw from p
        gumbel_CV = -torch.empty_like(all_CV).exponential_(generator=rng).log()
        ids.append((all_CV + gumbel_CV).argmax(dim=1))
        logp.append(all_CV.gather(1, ids[-1][:, None])[:, 0])
    B = max(2, shape.N // ROW)
    gap_N = NEAR * (2 * torch.rand(shape.N, generator=rng) - 1)
    gap_N = torch.where(torch.rand(shape.N, generator=rng) < SHARE_FAR, FAR * gap_N.sign(), gap_N)
    return Problem(
        hidden_ND=hidden_ND.requires_grad_(),
        weight_VD=weight_VD.requires_grad_(not shape.frozen),
        ids_N=torch.cat(ids),
        old_N=torch.cat(logp) + gap_N,
        adv_B=torch.randn(B, generator=rng),
    )


def clipped_mean(logp_N: Tensor, problem: Problem) -> Tensor:
    """The loss, for operations that give log-probabilities."""
    adv_N = problem.adv_N
    ratio_N = (logp_N - problem.old_N).exp()
    clipped_N = ratio_N.clamp(1 - LOSS.clip.low, 1 + LOSS.clip.high)
    return -torch.minimum(ratio_N * adv_N, clipped_N * adv_N).mean()


# --- log-probabilities -----------------------------------------------------------------------------------------------


def naive_logp(problem: Problem) -> Tensor:
    logits_NV = problem.hidden_ND @ problem.weight_VD.T
    wide = torch.promote_types(logits_NV.dtype, torch.float32)
    return logits_NV.to(wide).log_softmax(dim=1).gather(1, problem.ids_N[:, None])[:, 0]


def trl_logp(problem: Problem) -> Tensor:
    """As GRPOTrainer's fused head calls it, without the entropy, which it always asks for and we need not."""
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction  # pyright: ignore[reportMissingImports]
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE  # pyright: ignore[reportMissingImports]

    arguments = (problem.hidden_ND, problem.weight_VD, None, problem.ids_N, 1.0, _CHUNKED_LOGPROB_CHUNK_SIZE)
    return ChunkedLogProbFunction.apply(*arguments, None, 1.0, ())[0]


def liger_logp(problem: Problem) -> Tensor:
    from liger_kernel.chunked_loss.fused_linear_ppo import _ChunkedSelectiveLogProbFunction  # pyright: ignore[reportMissingImports]

    arguments = (problem.hidden_ND, problem.weight_VD, problem.ids_N, None, 1.0, 4096)
    return _ChunkedSelectiveLogProbFunction.apply(*arguments)


def torch_logp(problem: Problem) -> Tensor:
    options = torch.nn.LinearCrossEntropyOptions()
    head = (problem.hidden_ND, problem.weight_VD, problem.ids_N)
    return -F.linear_cross_entropy(*head, reduction="none", options=options)


def our_logp(problem: Problem) -> Tensor:
    return fused_logprobs(problem.hidden_ND, problem.weight_VD, problem.ids_N)[0]


# --- losses ----------------------------------------------------------------------------------------------------------


def liger_loss(problem: Problem) -> Tensor:
    from liger_kernel.chunked_loss.grpo_loss import LigerFusedLinearGRPOLoss  # pyright: ignore[reportMissingImports]

    op = LigerFusedLinearGRPOLoss(
        beta=0.0,
        compiled=False,
        use_ref_model=False,
        epsilon_low=LOSS.clip.low,
        epsilon_high=LOSS.clip.high,
        loss_type="dapo",
    )
    B = problem.B
    ids_BT = problem.ids_N.view(B, -1)
    loss, _ = op(
        problem.hidden_ND.view(B, len(ids_BT[0]), -1),
        problem.weight_VD,
        ids_BT,
        torch.ones_like(ids_BT, dtype=torch.float32),
        problem.adv_B,
        old_per_token_logps=problem.old_N.view(B, -1),
    )
    return loss


def our_loss(problem: Problem) -> Tensor:
    N = len(problem.ids_N)
    return fused_policy_loss(problem.hidden_ND, problem.weight_VD, problem.batch, LOSS, expected_grad=1 / N).loss / N


OURS = "ours"
LOGPS: dict[str, Callable[[Problem], Tensor]] = {
    OURS: our_logp,
    "naive": naive_logp,
    "TRL": trl_logp,
    "Liger": liger_logp,
    "torch LCE": torch_logp,
}
LOSSES: dict[str, Callable[[Problem], Tensor]] = {
    OURS: our_loss,
    "naive": lambda problem: clipped_mean(naive_logp(problem), problem),
    "TRL": lambda problem: clipped_mean(trl_logp(problem), problem),
    "Liger": liger_loss,
    "torch LCE": lambda problem: clipped_mean(torch_logp(problem), problem),
}
FUSED_PEERS = ("TRL", "Liger", "torch LCE")


def run(method: str, problem: Problem) -> Tensor:
    """Forward and backward; the gradients are then at the problem's tensors."""
    problem.forget_gradients()
    loss = LOSSES[method](problem)
    loss.backward()
    return loss.detach()


def products(problem: Problem, *, anew: bool) -> Callable[[], None]:
    """What no method can do without: the logits, the gradient of the hidden states, that of a trained head.

    Their results go where earlier ones lie, or `anew` into memory that is first asked for, as gradients must.
    """
    hidden_ND, weight_VD = problem.hidden_ND.detach(), problem.weight_VD.detach()
    is_trained = problem.weight_VD.requires_grad
    logits_NV = hidden_ND @ weight_VD.T
    grad_ND = None if anew else torch.empty_like(hidden_ND)
    grad_VD = None if anew or not is_trained else torch.empty_like(weight_VD)

    def work() -> None:
        torch.mm(hidden_ND, weight_VD.T, out=None if anew else logits_NV)
        torch.mm(logits_NV, weight_VD, out=grad_ND)
        if is_trained:
            torch.mm(logits_NV.T, hidden_ND, out=grad_VD)

    return work
