"""Algorithms are data: a preset is a paper's formula as settings, put under what the recipe says itself.

Where a paper has a divergence from the reference, kl.where and kl.kind are as there. Where it has none, kl.where is
reward: that reaches the optimum of reward - kl.coef * KL whatever the advantages are divided by and however long the
completions are, which k2 in the loss does not (docs/ALGORITHMS.md, tests/optimum). kl.coef is 0 until asked for.
"""

from __future__ import annotations

from typing import Any

_OURS = {"where": "reward"}
"""Of a paper without a divergence."""

PRESETS: dict[str, dict[str, Any]] = {
    # Shao et al. 2024, DeepSeekMath, https://arxiv.org/abs/2402.03300, eq. 3 and 4.1.2: advantages over the group's
    # standard deviation, mean over tokens then over sequences, k3 against the reference in the loss (kl.coef 0.04).
    "grpo": {
        "advantage": {"kind": "group"},
        "loss": {"ratio": "token", "clip": {"low": 0.2, "high": 0.2}, "aggregate": "sequence"},
        "kl": {"where": "loss", "kind": "k3"},
    },
    # Liu et al. 2025, Understanding R1-Zero-Like Training, https://arxiv.org/abs/2503.20783, section 3.2: no standard
    # deviation, every token divided by the same constant (sample.max_tokens), no reference.
    "dr_grpo": {
        "advantage": {"kind": "group_no_std"},
        "loss": {"ratio": "token", "clip": {"low": 0.2, "high": 0.2}, "aggregate": "constant"},
        "kl": _OURS,
    },
    # Ahmadian et al. 2024, Back to Basics, https://arxiv.org/abs/2402.14740, section 3.2: the mean of the siblings is
    # the baseline, the whole completion is one action (log-probabilities are summed, not averaged: "constant" does
    # that, divided by sample.max_tokens), k1 in the reward. The paper has no clip; with one update per step, as there,
    # the ratio is 1 and nothing is clipped; with more, it is that of TRL's RLOOTrainer.
    "rloo": {
        "advantage": {"kind": "leave_one_out"},
        "loss": {"ratio": "token", "clip": {"low": 0.2, "high": 0.2}, "aggregate": "constant"},
        "kl": {"where": "reward", "kind": "k1"},
    },
    # Hu et al. 2025, REINFORCE++, https://arxiv.org/abs/2501.03262, eq. 8 to 10: each token's return, k1 in its reward,
    # no siblings, normalised over all tokens of the step; PPO's clipped loss over tokens.
    "reinforce_pp": {
        "advantage": {"kind": "returns", "whiten": True},
        "loss": {"ratio": "token", "clip": {"low": 0.2, "high": 0.2}, "aggregate": "token"},
        "kl": {"where": "reward", "kind": "k1"},
    },
    # Yu et al. 2025, DAPO, https://arxiv.org/abs/2503.14476: eq. 8 with clip-higher 0.28, mean over all tokens, no
    # reference; eq. 11: groups of equal rewards are drawn anew; eq. 13: the last 4096 of 20480 tokens cost up to 1.
    # (Rewards are -1 and 1 there: with rewards of 0 and 1 that penalty weighs twice as much.)
    "dapo": {
        "advantage": {"kind": "group"},
        "loss": {"ratio": "token", "clip": {"low": 0.2, "high": 0.28}, "aggregate": "token"},
        "sample": {"dynamic": True},
        "overlong": {"buffer": 0.2, "penalty": 1.0},
        "kl": _OURS,
    },
    # Zheng et al. 2025, GSPO, https://arxiv.org/abs/2507.18071, eq. 5 to 7: one ratio per completion, clipped as in its
    # section 5.1 (far tighter than a token's), mean over completions, no reference.
    "gspo": {
        "advantage": {"kind": "group"},
        "loss": {"ratio": "sequence", "clip": {"low": 3e-4, "high": 4e-4}, "aggregate": "sequence"},
        "kl": _OURS,
    },
    # Liu et al. 2026, LUSPO, https://arxiv.org/abs/2602.05261: GSPO whose completions each count by their length, which
    # takes GSPO's 1/|o| back; clipped as in its section 5.1.
    "luspo": {
        "advantage": {"kind": "group"},
        "loss": {"ratio": "sequence", "clip": {"low": 2e-3, "high": 2.5e-3}, "aggregate": "sequence_sum"},
        "kl": _OURS,
    },
    # MiniMax 2025, MiniMax-M1, https://arxiv.org/abs/2506.13585, eq. 4 and 5 (CISPO): the ratio weighs log p and is cut
    # itself, so that no token loses its gradient; no lower bound, mean over all tokens, no reference. The paper has no
    # number for the upper one; 5 is that of ScaleRL, https://arxiv.org/abs/2510.13786, as in TRL's documentation.
    "cispo": {
        "advantage": {"kind": "group"},
        "loss": {"surrogate": "cispo", "clip": {"low": 1.0, "high": 4.0}, "aggregate": "token"},
        "kl": _OURS,
    },
    # Zhao et al. 2025, GMPO, https://arxiv.org/abs/2507.20673, eq. 4: the geometric mean of a completion's ratios, each
    # held within (e^-0.4, e^0.4) before (section 4), mean over completions.
    "gmpo": {
        "advantage": {"kind": "group"},
        "loss": {"surrogate": "gmpo", "clip": {"low": 0.4, "high": 0.4}, "aggregate": "sequence"},
        "kl": _OURS,
    },
    # Gao et al. 2025, SAPO, https://arxiv.org/abs/2511.20347, eq. 5 and 6: a sigmoid of temperature 1 (A > 0) or 1.05
    # instead of a clip, mean over tokens then over completions.
    "sapo": {
        "advantage": {"kind": "group"},
        "loss": {"surrogate": "sapo", "sapo": {"tau_pos": 1.0, "tau_neg": 1.05}, "aggregate": "sequence"},
        "kl": _OURS,
    },
    # Shen et al. 2026, VESPO, https://arxiv.org/abs/2602.10693: a gamma-shaped weight of the product of a completion's
    # ratios, without a clip; mean over all tokens and the numbers of its authors' code (github.com/FloyedShen/VESPO).
    "vespo": {
        "advantage": {"kind": "group"},
        "loss": {
            "surrogate": "vespo",
            "vespo": {"k_pos": 2.0, "lambda_pos": 3.0, "k_neg": 3.0, "lambda_neg": 2.0},
            "aggregate": "token",
        },
        "kl": _OURS,
    },
    # Hu et al. 2025, REINFORCE++, https://arxiv.org/abs/2501.03262, its variant with a baseline: rewards less their
    # siblings' mean, without its standard deviation, then normalised over all tokens of the step; k2 in the loss.
    "reinforce_pp_baseline": {
        "advantage": {"kind": "group_no_std", "whiten": True},
        "loss": {"ratio": "token", "clip": {"low": 0.2, "high": 0.2}, "aggregate": "token"},
        "kl": {"where": "loss", "kind": "k2"},
    },
    # Li et al. 2023, ReMax, https://arxiv.org/abs/2310.10505, eq. 3 and 4: what a greedy completion earned is the
    # baseline, A log p summed over the completion (as with rloo, "constant" does that), no ratio and no clip; k1 in the
    # reward (appendix B).
    "remax": {
        "advantage": {"kind": "greedy"},
        "loss": {"surrogate": "reinforce", "aggregate": "constant"},
        "kl": {"where": "reward", "kind": "k1"},
    },
    # Hao et al. 2025, OPO, https://arxiv.org/abs/2505.23585: the baseline of least variance, rewards weighted by their
    # lengths; exactly on policy (updates and epochs 1), so A log p without ratio and clip; mean over all tokens, as in
    # verl, where its authors put it; no reference, no entropy bonus.
    "opo": {
        "advantage": {"kind": "length_weighted"},
        "loss": {"surrogate": "reinforce", "aggregate": "token"},
        "kl": _OURS,
    },
    # Tajwar et al. 2026, MaxRL, https://arxiv.org/abs/2602.02710: the gradient of log(pass rate) instead of that of the
    # pass rate, by dividing by the siblings' mean. Loss and clip of its authors' code (github.com/tajwarfahim/maxrl),
    # which updates once per step: the ratio is then 1. It reads bare rewards: a divergence can only be in the loss.
    "maxrl": {
        "advantage": {"kind": "max_likelihood"},
        "loss": {"ratio": "token", "clip": {"low": 0.2, "high": 0.2}, "aggregate": "token"},
    },
    # Tang et al. 2025, https://arxiv.org/abs/2503.19595: the best of k siblings counts, each has what it adds to it
    # (advantage.k; without it k is the whole group). Not over the standard deviation, which would bias the gradient of
    # pass@k (verl's grpo_passk divides: advantage.kind=pass_at_k). The paper has no clip; it is that of verl.
    "pass_at_k": {
        "advantage": {"kind": "pass_at_k_no_std"},
        "loss": {"ratio": "token", "clip": {"low": 0.2, "high": 0.2}, "aggregate": "token"},
        "kl": _OURS,
    },
    # Schulman et al. 2017, PPO, https://arxiv.org/abs/1707.06347, eq. 7 and 11, as for language models since Ziegler et
    # al. 2019, https://arxiv.org/abs/1909.08593, section 2.2: gamma 1 and lambda 0.95, advantages normalised over the
    # step's tokens, each token pays its own k1; the critic is a model of its own.
    "ppo": {
        "advantage": {"kind": "gae", "gamma": 1.0, "lam": 0.95, "whiten": True},
        "loss": {"ratio": "token", "clip": {"low": 0.2, "high": 0.2}, "aggregate": "token"},
        "kl": {"where": "reward", "kind": "k1"},
        "critic": {"kind": "own"},
    },
    # Yue et al. 2025, VAPO, https://arxiv.org/abs/2504.05118, section 4: lambda by length (alpha 0.05) for the policy
    # and 1 for the critic, clip-higher, mean over all tokens, 0.1 of the NLL of what was right.
    "vapo": {
        "advantage": {"kind": "gae", "gamma": 1.0, "lam": "length", "critic_lam": 1.0},
        "loss": {"ratio": "token", "clip": {"low": 0.2, "high": 0.28}, "aggregate": "token", "positive_nll": 0.1},
        "kl": _OURS,
        "critic": {"kind": "own"},
    },
    # Guo et al. 2024, online DPO (OAIF), https://arxiv.org/abs/2402.04792, section 3: two siblings that the reward
    # compares, and DPO's loss of them; of more than two the best and the worst. Its gradient is that of A log p summed
    # over each completion (advantages.online_dpo), with one update per step, as there; beta is in the advantage.
    "online_dpo": {
        "advantage": {"kind": "online_dpo", "beta": 0.1},
        "loss": {"surrogate": "reinforce", "aggregate": "sequence_sum"},
        "sample": {"group_size": 2},
    },
    # Dong et al. 2023, RAFT, https://arxiv.org/abs/2304.06767, algorithm 1: the best of each group's completions is
    # imitated, the others are left out; no reference. Equals share the weight, and a group of equals teaches nothing.
    "raft": {
        "advantage": {"kind": "best"},
        "loss": {"surrogate": "reinforce", "aggregate": "sequence_sum"},
    },
    # Agarwal et al. 2023, GKD, https://arxiv.org/abs/2306.13649, section 3 with lambda 1 and reverse KL: the policy's
    # own completions, each token's divergence from the teacher, whose weights `reference.path` names; the reward is
    # logged and not trained on. k1 of the sampled token has the gradient of the whole vocabulary's in the mean.
    "distillation": {
        "advantage": {"kind": "divergence"},
        "loss": {"surrogate": "reinforce", "aggregate": "token"},
        "kl": {"where": "reward", "kind": "k1", "coef": 1.0},
    },
}
