"""The `math` verifier beside the peers' graders: accuracy, throughput, long texts, hostile answers, a pool under fire.

    python tests/bench/bench_verifiers.py [--cases FILE] [--size 1500] [--peers math_verify,trl,verl] [--only PART,...]

Parts: accuracy (labelled cases), mix (verifier_mix.py, all answers distinct), long (64k characters), hostile (each
through the pool, seconds beyond the deadline), pool (1000 responses, with and without 5 % hostile ones), respawn.
Peers run by peers_verifiers.py in .venv-bench, where it is there; math_verify runs here too. One process, one thread.
Prints Markdown tables, and one JSON object on the last line.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from verifier_mix import Item, mix, thought

from rlvr.rewards.verified import MEMORY_MIB, VerifierPool
from rlvr.sandbox import processes
from rlvr.types import Task, Verdict
from rlvr.verifiers.math_equal import math, warm_up
from rlvr.verify import quantile

HERE = Path(__file__).parent
CASES = HERE.parent / "math_cases.jsonl"
BENCH_PYTHON = HERE.parents[1] / ".venv-bench" / "bin" / "python"
NEVER_FOOLED = ("hedge_one_box", "echo", "junk", "injection", "think", "code_box", "hostile")
DEADLINE = 1.0

HOSTILE = {
    "tower of 10": "10^{10^{10^{10}}}",
    "tower of 9": "9^{9^{9^9}}",
    "tower modulo": r"7^{7^{7^{7}}} \bmod 10",
    "tower that cancels": "3^{3^{3^{3}}}-3^{3^{3^{3}}}+5x",
    "factorial": "1000000!",
    "factorial of a power": "(10^{10})!",
    "factorials": "5" + "!" * 30,
    "power of a factorial": "9999!^{999}",
    "binomial": r"\binom{10^9}{10^8}",
    "binomials": r"\binom{99999}{50000}^{99}",
    "long sum": r"\sum_{k=1}^{10^9}\frac{1}{k^2}+x",
    "long product": r"\prod_{k=1}^{10^8} k",
    "500 braces": "{" * 500 + "x" + "}" * 500,
    "900 brackets": "(" * 900 + "x" + ")" * 900,
    "nested roots": r"\sqrt{" * 60 + "2" + "}" * 60,
    "nested fractions": r"\frac{" * 200 + "1" + "}{2}" * 200,
    "nested sines": r"\sin(" * 40 + "x" + ")" * 40,
    "3000 terms": "+".join(["x"] * 3000),
    "900 different terms": "+".join(f"x^{{{k}}}" for k in range(900)),
    "large exponent": "x^{12345678}",
    "power of a sum": "(x+y+z)^{200}",
    "product of powers": "(x+1)^{500}(x-1)^{500}",
    "50th derivative": r"\frac{d^{50}}{dx^{50}} e^{\sin x}",
    "integral": r"\int_0^1 x^{x^{x^x}} dx",
    "gcd": r"\gcd(10^{100000}, 7)",
    "1900 digits": "1" * 1900,
    "50000 digits": "1" * 50_000,
    "squares of squares": "x" + "^2" * 300,
    "400 roots": ",".join(rf"\sqrt{{{k}}}" for k in range(400)),
    "trigonometric identity": r"\sin^{99}(x)\cos^{98}(x)\tan^{97}(x)+\Gamma(x)^{96}",
    "unclosed commands": r"\text{" * 300,
    "equation of degree 99": "x^{99}+y^{98}+z^{97}=xyz+\\Gamma(x)",
}


def main() -> None:
    """See the top of the file."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--cases", type=Path, default=CASES, help="labelled cases, JSONL")
    options.add_argument("--size", type=int, default=1500, help="answers of the mix")
    options.add_argument("--peers", default="math_verify", help="names of peers_verifiers.py, comma-separated")
    options.add_argument("--only", default="accuracy,mix,long,hostile,pool,respawn", help="parts, comma-separated")
    given = options.parse_args()
    peers = [name for name in given.peers.split(",") if name]
    warm_up()
    parts: dict[str, Callable[[], Any]] = {
        "accuracy": lambda: accuracy(given.cases, peers),
        "mix": lambda: throughput(given.size, peers),
        "long": long_texts,
        "hostile": hostile,
        "pool": under_fire,
        "respawn": respawn,
    }
    print(json.dumps({name: parts[name]() for name in given.only.split(",")}))


def accuracy(path: Path, peers: Sequence[str]) -> dict[str, Any]:
    """On labelled cases that are not ambiguous."""
    rows = [row for row in map(json.loads, path.read_text().splitlines()) if not row.get("ambiguous")]
    columns: dict[str, list[bool | None]] = {}
    for extraction in ("strict", "lenient"):
        verdicts = in_pool([(row["gold"], row["response"]) for row in rows], {"extraction": extraction})
        columns[f"ours, {extraction}"] = [None if v.score is None else v.score >= 0.5 for v in verdicts]
    for peer in peers:
        columns[peer] = judged_by(peer, rows)["verdicts"]
    lines, result = [], {}
    for name, column in columns.items():
        right = [verdict == row["expected"] for verdict, row in zip(column, rows, strict=True)]
        boxed = [ok for ok, row in zip(right, rows, strict=True) if "boxed" in row["response"]]
        fooled = [row for verdict, row in zip(column, rows, strict=True) if verdict is True and not row["expected"]]
        missed = sum(verdict is not True and row["expected"] for verdict, row in zip(column, rows, strict=True))
        worst = sum(row["kind"] in NEVER_FOOLED for row in fooled)
        figures = (sum(right) / len(right), sum(boxed) / len(boxed), len(fooled), worst, missed, column.count(None))
        names = ("accuracy", "boxed", "false_positive", "never_fooled", "false_negative", "unjudged")
        result[name] = dict(zip(names, figures, strict=True))
        lines.append((name, f"{figures[0]:.1%}", f"{figures[1]:.1%}", *figures[2:]))
    print(f"\nAccuracy on {len(rows)} cases of {path.name}\n")
    table(("grader", "all", "boxed", "false pos.", "of these hedge, echo, junk..", "false neg.", "unjudged"), lines)
    return result


def throughput(size: int, peers: Sequence[str]) -> dict[str, Any]:
    """Wall-clock seconds, ours also in CPU seconds, so that a busy machine does not count."""
    items = mix(size)
    verdicts, seconds, on_the_clock = timed(items)
    in_worker, cpu = through_a_worker(items)
    ours = [verdict.score == 1.0 for verdict in verdicts]
    stages = Counter(verdict.stage for verdict in verdicts)
    lines = [
        speed_line("ours, CPU time", seconds),
        speed_line("ours", on_the_clock),
        ("ours, one worker", f"{size / in_worker:,.0f}", *[""] * 4),
        ("ours, one worker, CPU time of all processes", f"{size / sum(cpu.values()):,.0f}", *[""] * 4),
    ]
    result: dict[str, Any] = {
        "per_second": size / sum(seconds),
        "per_second_with_worker": size / in_worker,
        "per_cpu_second_with_worker": size / sum(cpu.values()),
        "cpu_us": {name: 1e6 * value / size for name, value in cpu.items()},
        "p50_us": 1e6 * quantile(sorted(seconds), 0.5),
        "mean_us": 1e6 * sum(seconds) / size,
        "p99_ms": 1e3 * quantile(sorted(seconds), 0.99),
        "max_ms": 1e3 * max(seconds),
        "as_made": sum(verdict == item.is_right for verdict, item in zip(ours, items, strict=True)) / size,
        "stages": dict(stages),
        "without_sympy": 1 - stages["sympy"] / size,
    }
    rows = [{"gold": item.gold, "response": item.response} for item in items]
    for peer in peers:
        theirs = judged_by(peer, rows)
        agree = [a == b for a, b in zip(ours, theirs["verdicts"], strict=True)]
        lines.append(speed_line(peer, theirs["seconds"]))
        result[peer] = {
            "ratio": sum(theirs["seconds"]) / sum(on_the_clock),
            "ratio_with_worker": sum(theirs["seconds"]) / in_worker,
            "agreement": sum(agree) / size,
            "differ": [f"{item.gold} | {item.response[-80:]}" for item, ok in zip(items, agree, strict=True) if not ok][
                :9
            ],
        }
    shares = f"{result['as_made']:.2%} judged as made, {result['without_sympy']:.2%} without sympy"
    print(f"\nThe mix, {size} answers: {shares}\n")
    table(("grader", "per second", "mean ms", "p50 ms", "p99 ms", "max ms"), lines)
    parts = ", ".join(f"{name} {value:.0f}" for name, value in result["cpu_us"].items())
    print(f"\nThrough a worker, us of CPU for each answer: {parts}")
    print("\nStages: " + ", ".join(f"{name} {count / size:.1%}" for name, count in stages.most_common()))
    for peer in peers:
        print(f"{peer}: {result[peer]['ratio']:.0f} x its time, agreement {result[peer]['agreement']:.2%}")
    return result


def long_texts() -> dict[str, float]:
    """Least milliseconds of five for a response of 64 thousand characters."""
    draw = random.Random(2)
    cases = {
        "boxed integer": ("43", thought(draw, "42", 64_000)),
        "boxed formula": (r"\sqrt{2}+0.75", thought(draw, r"\frac{3}{4}+\sqrt{2}", 64_000)),
        "no box": ("43", thought(draw, "", 64_000)),
        "thinking before it": ("43", "<think>" + thought(draw, "42", 64_000) + r"</think> \boxed{43}"),
    }
    result = {name: 1e3 * min(once(gold, text) for _ in range(5)) for name, (gold, text) in cases.items()}
    print("\n64k characters\n")
    table(("response", "ms"), [(name, f"{value:.2f}") for name, value in result.items()])
    return result


def hostile() -> dict[str, Any]:
    """Each alone, through a pool of one worker."""
    lines, most, earned = [], 0.0, 0
    with VerifierPool(["math"], workers=1, memory_mib=MEMORY_MIB) as pool:
        for name, answer in HOSTILE.items():
            start = time.perf_counter()
            task = Task(id=name, prompt="", gold=r"\sqrt{5}+1")
            verdict = pool.submit("math", rf"so \boxed{{{answer}}}", task).result()
            seconds = time.perf_counter() - start
            most = max(most, seconds)
            earned += verdict.score != 0.0
            lines.append((name, verdict.outcome, verdict.stage, f"{1e3 * seconds:.1f}"))
    beyond = max(0.0, most - DEADLINE)
    print(f"\nHostile answers: {len(lines)}, the slowest took {most:.3f} s of wall clock; {earned} did not earn 0\n")
    table(("answer", "outcome", "stage", "ms"), lines)
    return {"n": len(lines), "slowest_seconds": most, "beyond_deadline_seconds": beyond, "not_zero": earned}


def under_fire() -> dict[str, float]:
    """Answers per second of a pool of two, plain and with 5 % hostile ones among them."""
    items = mix(1000, seed=5)
    draw = random.Random(9)
    bad = [rf"\boxed{{{answer}}}" for answer in HOSTILE.values()]
    plain = [(item.gold, item.response) for item in items]
    mixed = [(gold, draw.choice(bad)) if k % 20 == 0 else (gold, text) for k, (gold, text) in enumerate(plain)]
    speeds = {}
    for name, cases in (("plain", plain), ("5 % hostile", mixed)):
        with VerifierPool(["math"], workers=2, memory_mib=MEMORY_MIB) as pool:
            pool.judge([("math", plain[0][1], Task(id="warm", prompt="", gold=plain[0][0]))] * 4)
            jobs = [("math", text, Task(id=str(k), prompt="", gold=gold)) for k, (gold, text) in enumerate(cases)]
            start = time.perf_counter()
            pool.judge(jobs)
            speeds[name] = len(jobs) / (time.perf_counter() - start)
    kept = speeds["5 % hostile"] / speeds["plain"]
    print(f"\nA pool of two: {speeds['plain']:,.0f} per second, with 5 % hostile answers {kept:.0%} of it")
    return {**speeds, "kept": kept}


# --- helpers


def dies(response: str) -> bool:
    """A verifier that takes its process with it."""
    os.kill(os.getpid(), signal.SIGKILL)
    return False


def respawn(num: int = 40) -> dict[str, float]:
    """Milliseconds from the end of a worker that was killed to the next verdict, with one worker."""
    own, seconds = f"{Path(__file__).resolve()}:dies", []
    with VerifierPool([own, "exact"], 1, MEMORY_MIB) as workers:
        task = Task(id="t", prompt="", gold="42")
        for _ in range(num):
            assert workers.submit(own, "x", task).result().outcome == "error"
            start = time.perf_counter()
            assert workers.submit("exact", "42", task).result().score == 1.0
            seconds.append(1000 * (time.perf_counter() - start))
    seconds.sort()
    print(f"\nA worker killed {num} times: next verdict after {quantile(seconds, 0.5):.1f} ms (p50), ", end="")
    print(f"{seconds[-1]:.1f} ms (max)")
    return {"p50_ms": quantile(seconds, 0.5), "max_ms": seconds[-1]}


def in_pool(cases: Sequence[tuple[Any, str]], options: Mapping[str, Any]) -> list[Verdict]:
    with VerifierPool(["math"], workers=1, memory_mib=MEMORY_MIB) as pool:
        jobs = [("math", text, Task(id=str(k), prompt="", gold=gold)) for k, (gold, text) in enumerate(cases)]
        return pool.judge(jobs, {"math": options})


def timed(items: Sequence[Item]) -> tuple[list[Verdict], list[float], list[float]]:
    """Verdicts, CPU seconds, wall-clock seconds."""
    verdicts, computed, passed = [], [], []
    for item in items:
        start, begin = time.perf_counter(), time.process_time()
        verdicts.append(math(item.response, item.gold, 7))
        computed.append(time.process_time() - begin)
        passed.append(time.perf_counter() - start)
    return verdicts, computed, passed


def through_a_worker(items: Sequence[Item]) -> tuple[float, dict[str, float]]:
    """Seconds by the clock, and of CPU by process."""
    jobs = [("math", item.response, Task(id=str(k), prompt="", gold=item.gold)) for k, item in enumerate(items)]
    with VerifierPool(["math"], workers=1, memory_mib=MEMORY_MIB) as pool:
        pool.judge([("math", item.response, Task(id="warm", prompt="", gold=item.gold)) for item in mix(50, seed=99)])
        assert pool._supervisor is not None
        assert pool._supervisor._process is not None
        supervisor = pool._supervisor._process.pid
        pids = {"asking": os.getpid(), "supervisor": supervisor, "worker": min(processes.children(supervisor))}
        before = {name: computed(pid) for name, pid in pids.items()}
        start = time.perf_counter()
        pool.judge(jobs)
        seconds = time.perf_counter() - start
        return seconds, {name: computed(pid) - before[name] for name, pid in pids.items()}


def computed(pid: int) -> float:
    """Seconds of CPU that all threads of a process have used."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir()) / 1e9


def once(gold: str, response: str) -> float:
    start = time.perf_counter()
    math(response, gold)
    return time.perf_counter() - start


def judged_by(peer: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What peers_verifiers.py says: verdicts and seconds, in order."""
    python = sys.executable if peer == "math_verify" else str(BENCH_PYTHON)
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.write("\n".join(json.dumps({"gold": str(row["gold"]), "response": row["response"]}) for row in rows))
        file.flush()
        command = [python, str(HERE / "peers_verifiers.py"), file.name, "--peer", peer]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def speed_line(name: str, seconds: Sequence[float]) -> tuple[str, ...]:
    mean = sum(seconds) / len(seconds)
    ordered = sorted(seconds)
    figures = (mean, quantile(ordered, 0.5), quantile(ordered, 0.99), ordered[-1])
    return (name, f"{1 / mean:,.0f}", *(f"{1e3 * value:.3f}" for value in figures))


def table(head: Sequence[str], lines: Sequence[Sequence[Any]]) -> None:
    for line in (head, ["---"] * len(head), *lines):
        print("| " + " | ".join(map(str, line)) + " |")


if __name__ == "__main__":
    main()
