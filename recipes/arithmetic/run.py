"""The whole road in one script: pretrain a tiny model, teach it bad habits by SFT, mend them by GRPO, show the curve.

    python recipes/arithmetic/run.py [key=value ...]
    python recipes/code/run.py [key=value ...]

The second is a link to the first: the script takes the recipes of the folder that it is called in. Each stage is a
process of its own with a recipe of its own, and always starts afresh, arithmetic under runs/quickstart, code under
runs/code. Overrides go to the last stage: `engine.kind=hf` trains without vLLM, `seed=1` with other random numbers.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

from rlvr.scripts import arguments, rlvr

HERE = Path(__file__).parent
RUNS = Path("runs") / {"arithmetic": "quickstart"}.get(HERE.name, HERE.name)
STAGES = (("pretrain", "pretrain.yaml", "pretrain"), ("sft", "sft.yaml", "sft"), ("train", "grpo.yaml", "grpo"))


def main() -> None:
    started, given = time.monotonic(), arguments(__doc__).overrides
    shutil.rmtree(RUNS, ignore_errors=True)
    for command, recipe, name in STAGES:
        overrides = given if command == "train" else []
        print(f"\n== rlvr {command} {HERE.name}/{recipe}", flush=True)
        rlvr(command, str(HERE / recipe), f"run.dir={RUNS / name}", *overrides)
    rlvr("plot", str(RUNS / "grpo"))
    summary = json.loads((RUNS / "grpo" / "summary.json").read_text())
    before, after = summary["before"], summary["after"]
    print(f"\nheld-out pass@1 {before['pass@1']:.2f} -> {after['pass@1']:.2f}", end="")
    print(f", greedy {before['greedy']['pass@1']:.2f} -> {after['greedy']['pass@1']:.2f}", end="")
    print(f", in {time.monotonic() - started:.0f} s; curve: {RUNS / 'grpo' / 'plot.png'}")


if __name__ == "__main__":
    main()
