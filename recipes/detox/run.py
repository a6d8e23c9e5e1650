"""From a forum full of insults to one without, for a classifier's reward: pretrain, SFT, classifier, GRPO.

    python recipes/detox/run.py [key=value ...]

Each stage is a process of its own with a recipe of its own, and always starts afresh under runs/detox. Overrides go to
the last stage: `engine.kind=hf` trains without vLLM, `seed=1` with other random numbers. The share of held-out replies
with an insult is the lexicon's, which nothing is trained on.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

from rlvr.scripts import arguments, rlvr

HERE = Path(__file__).parent
RUNS = Path("runs/detox")
STAGES = (
    ("pretrain", "pretrain.yaml", "pretrain"),
    ("sft", "sft.yaml", "sft"),
    ("reward-model", "classifier.yaml", "classifier"),
    ("train", "grpo.yaml", "grpo"),
)


def main() -> None:
    started, given = time.monotonic(), arguments(__doc__).overrides
    shutil.rmtree(RUNS, ignore_errors=True)
    for command, recipe, name in STAGES:
        overrides = given if command == "train" else []
        print(f"\n== rlvr {command} {HERE.name}/{recipe}", flush=True)
        rlvr(command, str(HERE / recipe), f"run.dir={RUNS / name}", *overrides)
    rlvr("plot", str(RUNS / "grpo"))
    summary = json.loads((RUNS / "grpo" / "summary.json").read_text())
    before, after = (1 - summary[when]["pass@1"] for when in ("before", "after"))
    print(f"\nheld-out replies with an insult {before:.2f} -> {after:.2f}", end="")
    print(f", in {time.monotonic() - started:.0f} s; curve: {RUNS / 'grpo' / 'plot.png'}")


if __name__ == "__main__":
    main()
