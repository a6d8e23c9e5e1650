"""Probes of reward models that `rlvr reward-model` trained on a world where the truth is known.

    python tests/bench/bench_probing.py [--json]

Three models of whole-word tokens learn ratings: one whose raters pay for a planted word (occlusion has to name it), one
whose raters pay women less, and one whose raters do not (swapped terms have to tell the two apart). Prints a Markdown
table; about two minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from probing_cases import PEOPLE, WORDS, word_tokenizer  # noqa: E402

from rlvr.probing import attribution, counterfactual, scorer, terms  # noqa: E402
from rlvr.probing.texts import Written  # noqa: E402
from rlvr.seeds import rng_for  # noqa: E402

PLANTED = "zebra"
WORTH = {"good": 0.5, "great": 0.8, "bad": -0.5, "poor": -0.8}
BIAS = 0.6
NOISE = 0.3
NUM_ROWS, NUM_CASES = 4000, 200


def text(rng: Any, planted: bool = False, who: str | None = None) -> str:
    """Five to twelve words; `who` or the planted word anywhere among them."""
    words = [rng.choice(WORDS) for _ in range(rng.randrange(5, 13))]
    for word in (PLANTED if planted else None, who):
        if word is not None:
            words.insert(rng.randrange(len(words) + 1), word)
    return " ".join(words)


def ratings(kind: str, seed: int) -> list[dict[str, Any]]:
    """Rows that a rater scored: the sum of the words' worth, the planted word's or the bias, and noise."""
    rng, rows = rng_for(seed, "bench_probing", kind), []
    for k in range(NUM_ROWS):
        who = rng.choice(("she", "he")) if kind != "planted" else None
        written = text(rng, planted=kind == "planted" and rng.random() < 0.5, who=who)
        score = sum(WORTH.get(word, 0.0) for word in written.split()) + rng.gauss(0, NOISE)
        score += 2.0 * (PLANTED in written.split()) - BIAS * (kind == "biased" and who == "she")
        rows.append({"id": f"{kind}{k}", "prompt": "said:", "completion": f" {written}", "score": round(score, 4)})
    return rows


def save_base(folder: Path) -> Path:
    """A random Qwen3 of 20 thousand parameters whose tokens are words."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = word_tokenizer([*WORDS, *PEOPLE, PLANTED])
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def trained(folder: Path, base: Path, kind: str) -> Path:
    """The model that `rlvr reward-model` makes of the ratings."""
    from rlvr.loops import reward_model
    from rlvr.loops.stopping import StopRequest
    from rlvr.progress import Progress
    from rlvr.runs import Run
    from rlvr.settings import from_overrides

    data = folder / f"{kind}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ratings(kind, 0)))
    settings = ["loss.kind=regression", "steps=300", "batch_size=64", "optim.lr=3e-3", "optim.schedule=cosine"]
    recipe: Any = from_overrides(
        "reward_model", [f"run.dir={folder / kind}", f"model.path={base}", f"data.path={data}", *settings]
    )
    with Run.open(recipe, "bench.yaml") as run, Progress(f"reward model {kind}", recipe.steps) as progress:
        reward_model.train(recipe, run, progress, StopRequest())
    return folder / kind / "model"


def hits(model: Path, unit: Any) -> float:
    """Share of the cases whose largest share is the planted word's."""
    loaded, rng, num = scorer.load(str(model)), rng_for(1, "bench_probing", "cases"), 0
    for _ in range(NUM_CASES):
        found = attribution.attribute(loaded, "said:", f" {text(rng, planted=True)}", unit=unit).largest
        num += found is not None and found.text.strip() == PLANTED
    return num / NUM_CASES


def sway(model: Path, seed: int) -> counterfactual.Sway:
    """Of she against he in 200 new texts."""
    rng = rng_for(seed, "bench_probing", "people")
    texts = [Written(str(k), "said:", f" {text(rng, who=rng.choice(('she', 'he')))}") for k in range(NUM_CASES)]
    [table] = terms.load(None, ["gender"])
    [found] = counterfactual.probe(scorer.load(str(model)), texts, [table], seed=seed)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, probe, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    given = parser.parse_args(arguments)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = save_base(folder / "base")
        models = {kind: trained(folder, base, kind) for kind in ("planted", "biased", "fair")}
        began = time.perf_counter()
        shares = {unit: hits(models["planted"], unit) for unit in ("word", "token")}
        seconds = (time.perf_counter() - began) / (2 * NUM_CASES)
        sways = {kind: sway(models[kind], 2) for kind in ("biased", "fair")}
    print("| probe | figure |\n|---|---|")
    for unit, share in shares.items():
        print(f"| planted word has the largest share, by {unit} | {share:.3f} of {NUM_CASES} texts |")
    print(f"| seconds a text | {seconds:.4f} |")
    for kind, found in sways.items():
        assert found.ci95 is not None
        low, high = found.ci95
        due = -BIAS if kind == "biased" else 0.0
        print(f"| she - he, {kind} raters (planted {due:+.1f}) | {found.mean:+.4f}, 95 % {low:+.4f} to {high:+.4f} |")
    print(f"\n{time.perf_counter() - started:.0f} s")
    if given.json:
        told = {kind: {"mean": one.mean, "ci95": one.ci95} for kind, one in sways.items()}
        print(json.dumps({"planted": shares, "sway": told, "seconds_a_text": seconds}))


if __name__ == "__main__":
    main()
