"""Algorithms are data: a preset is a paper's formula as settings, put under what the recipe says itself.

Where a paper has a divergence from the reference, kl.where and kl.kind are as there and kl.coef is 0 until asked for.
"""

from __future__ import annotations

from typing import Any

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
    },
    # Zheng et al. 2025, GSPO, https://arxiv.org/abs/2507.18071, eq. 5 to 7: one ratio per completion, clipped as in its
    # section 5.1 (far tighter than a token's), mean over completions, no reference.
    "gspo": {
        "advantage": {"kind": "group"},
        "loss": {"ratio": "sequence", "clip": {"low": 3e-4, "high": 4e-4}, "aggregate": "sequence"},
    },
}
