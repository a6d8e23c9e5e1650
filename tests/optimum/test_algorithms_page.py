"""docs/ALGORITHMS.md speaks of every preset and direct method, as they are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from known_bandit import settings

from rlvr.direct_settings import DirectLoss
from rlvr.presets import PRESETS

PAGE = (Path(__file__).parents[2] / "docs" / "ALGORITHMS.md").read_text(encoding="utf-8")
NEEDS = {"distillation": ["reference.path=x"]}
WITHOUT_KL = ("online_dpo", "raft")


def test_each_preset_has_a_row_with_its_own_place_of_kl() -> None:
    rows = dict(
        re.findall(r"^\| `(\w+)` \| \[[\d.]+\]\(https://arxiv\.org/abs/[\d.]+\) \| ([^|]*) \|", PAGE, re.MULTILINE)
    )
    assert list(rows) == list(PRESETS)
    for name in set(PRESETS) - set(WITHOUT_KL):
        kl = settings(name, "kl.coef=0.1", *NEEDS.get(name, [])).kl
        assert rows[name].startswith(f"{kl.estimator} in the {kl.where}"), name
        assert ("(ours)" in rows[name]) == (PRESETS[name].get("kl") == {"where": "reward"}), name


def test_each_direct_method_has_a_row() -> None:
    kinds = get_args(DirectLoss.model_fields["kind"].annotation)
    cells = set(re.findall(r"^\| [^|]* \| `(\w+)`", PAGE.partition("## Direct methods")[2], re.MULTILINE))
    assert set(kinds) <= cells
