"""Exports of `rlvr feedback export` in TRL's own trainers: one step each, as their data preparation reads the rows.

    .venv-bench/bin/python tests/bench/trl_rows.py FOLDER MODEL SCORER

FOLDER holds preference, unpaired, sft and plain (preference without messages) as folders of `save_to_disk`. Prints one
JSON object: by trainer the columns after its preparation, the rows, and the loss of the step.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import datasets
import torch
import trl  # pyright: ignore[reportMissingImports]
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer


def trained(trainer: type, config: type, model: Any, rows: Any, tokenizer: Any) -> dict[str, Any]:
    """One step of a trainer on the CPU."""
    with tempfile.TemporaryDirectory() as folder:
        settings = config(
            output_dir=folder,
            max_steps=1,
            per_device_train_batch_size=4,
            report_to=[],
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            disable_tqdm=True,
        )
        runs = trainer(model=model, args=settings, train_dataset=rows, processing_class=tokenizer)
        columns = sorted(runs.train_dataset.column_names)
        result = runs.train()
    return {"rows": len(runs.train_dataset), "columns": columns, "loss": result.training_loss}


def main(folder: Path, model: str, scorer: str) -> None:
    """Prints the figures of all trainers."""
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(model)

    def policy() -> Any:
        return AutoModelForCausalLM.from_pretrained(model)

    found = {}
    for name in ("preference", "plain"):
        rows = datasets.load_from_disk(str(folder / name))
        ranker = AutoModelForSequenceClassification.from_pretrained(scorer)
        found[f"reward {name}"] = trained(trl.RewardTrainer, trl.RewardConfig, ranker, rows, tokenizer)
        found[f"dpo {name}"] = trained(trl.DPOTrainer, trl.DPOConfig, policy(), rows, tokenizer)
    rows = datasets.load_from_disk(str(folder / "unpaired"))
    found["kto"] = trained(trl.KTOTrainer, trl.KTOConfig, policy(), rows, tokenizer)
    rows = datasets.load_from_disk(str(folder / "sft"))
    found["sft"] = trained(trl.SFTTrainer, trl.SFTConfig, policy(), rows, tokenizer)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
