"""What a judge is worth that likes the first place by 1 logit: asked in one order, and in both; and how fast we ask.

    python tests/bench/bench_judge.py [--pairs 4000]

Pairs differ in utility by a draw of normal(0, 1); the judge prefers the first answer with probability
sigmoid(difference + 1), behind a real server in this process. Accuracy is the share of pairs in which it names the
better one.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).parents[1]))

from judge_case import Mind, serving

from rlvr.judge_settings import Judging
from rlvr.judging.judge import Compared, Judge, Pair

BIAS = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--pairs", type=int, default=4000)
    num: int = parser.parse_args().pairs
    rng = random.Random(1)
    gaps = [rng.gauss(0, 1) for _ in range(num)]
    pairs = [Pair(prompt="q", a=f"u={gap:.6f} #{k}", b=f"u=0 #{k}", key=f"{k}") for k, gap in enumerate(gaps)]
    print(f"{num} pairs, a bias of {BIAS:g} logit for the first place\n")
    print(f"{'asked':52}{'accuracy':>10}{'kept':>8}{'questions/s':>13}")
    votes = {"by": {"logprobs": False}, "temperature": 1.0}
    show("votes, one order by lot", pairs, gaps, method={"orders": "one"}, **votes)
    show("votes, both orders, all kept (ties by lot)", pairs, gaps, method={"keep": "soft"}, **votes)
    show("votes, both orders, consistent kept", pairs, gaps, method={"keep": "consistent"}, **votes)
    show("votes of 5 samples, both orders, all kept", pairs, gaps, samples=5, by={"logprobs": False}, method={})
    show("log-probabilities, one order by lot", pairs, gaps, method={"orders": "one"})
    show("log-probabilities, both orders, consistent kept", pairs, gaps, method={"keep": "consistent"})
    show("log-probabilities, both orders, all kept", pairs, gaps, method={})


def show(name: str, pairs: list[Pair], gaps: list[float], **more: dict[str, object] | float) -> None:
    by, method = more.pop("by", {}), more.pop("method", {})
    assert isinstance(by, dict) and isinstance(method, dict)
    with serving(Mind(position=BIAS)) as url:
        endpoint = {"kind": "endpoint", "url": url, "model": "scripted", "concurrency": 32, **by}
        settings = {"by": endpoint, "method": {"kind": "pairwise", **method}, **more}
        judge = Judge(Judging.model_validate(settings))
        started = time.perf_counter()
        found = judge.compare(pairs)
        seconds = time.perf_counter() - started
        judge.close()
    kept = [(one, gap) for one, gap in zip(found, gaps, strict=True) if one.logit is not None]
    accuracy = fmean(is_right(one, gap) for one, gap in kept)
    rate = sum(one.cost.questions for one in found) / seconds
    print(f"{name:52}{accuracy:10.3f}{len(kept) / len(pairs):8.3f}{rate:13.0f}", flush=True)


def is_right(one: Compared, gap: float) -> float:
    """0.5 where the judge has no preference."""
    assert one.logit is not None
    return 0.5 if abs(one.logit) < 1e-12 else float((one.logit > 0) == (gap > 0))


if __name__ == "__main__":
    main()
