"""The JSON job and its controls: recipes/structured from nothing, GRPO on 3 seeds, a random and a format-only reward.

    python tests/bench/bench_structured.py [--engine vllm|hf] [--seeds 0,1,2] [--keep]

Every verdict is of the verifier json: valid by the schema, and the very values. Settings were chosen on the held-out
seed 777; what is printed is of the recipe's own held-out seed. Prints a Markdown table, and one JSON object on the
last line. --keep uses the stages that are there.
"""

from __future__ import annotations

from pathlib import Path

from bench_arithmetic import main

if __name__ == "__main__":
    main(__doc__, Path("recipes/structured"), Path("runs/bench/structured"))
