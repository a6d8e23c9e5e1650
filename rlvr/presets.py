"""Algorithms are data: a preset is a paper's formula as settings, put under what the recipe says itself."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    # Shao et al. 2024, DeepSeekMath, https://arxiv.org/abs/2402.03300, eq. 3 and 4.1.2: advantages over the group's
    # standard deviation, mean over tokens then over sequences, k3 against the reference in the loss. kl.coef is 0.04
    # there; here 0 until asked for, as with TRL.
    "grpo": {
        "advantage": {"kind": "group"},
        "loss": {"clip": {"low": 0.2, "high": 0.2}, "aggregate": "sequence"},
        "kl": {"where": "loss", "kind": "k3"},
    },
    # Liu et al. 2025, Understanding R1-Zero-Like Training, https://arxiv.org/abs/2503.20783, section 3.2: no standard
    # deviation, every token divided by the same constant (sample.max_tokens), no reference.
    "dr_grpo": {
        "advantage": {"kind": "group_no_std"},
        "loss": {"clip": {"low": 0.2, "high": 0.2}, "aggregate": "constant"},
    },
}
