"""The peers' graders of mathematical answers, as each is called by its own project: verdict and time of each case.

    .venv-bench/bin/python tests/bench/peers_verifiers.py CASES.jsonl --peer trl [--deadline 10]

CASES.jsonl has rows {"gold", "response"}, the gold without dollar signs. Prints one JSON object on the last line:
{"peer", "version", "verdicts": [true|false|null, ...], "seconds": [...], "hung"}, null where the peer leaves a case
out, raises, or is still at work at the deadline (it is then killed, and counted in `hung`). The clock starts after one
case that is not counted, which pays for imports.

    math_verify       parse() of both, the gold in dollar signs, and verify()
    trl               accuracy_reward, the gold in dollar signs
    trl_raw           accuracy_reward, the gold as it is (as many data sets have it)
    verl              reward_score.math_verify, in its pool of processes
    verl_prime_math   reward_score.prime_math
    verl_math_dapo    reward_score.math_dapo
    verl_math_reward  reward_score.math_reward
    open_instruct     AllenAI's order of trials (the box, Minerva's sentence, the last formula, all of it), each
                      compared in Minerva's and Hendrycks' way by lm-eval's functions, of which AllenAI's are copies
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path

Grader = Callable[[str, str], bool | None]
"""(gold, response) -> right, or None where the peer leaves it out."""


def math_verify() -> Grader:
    from math_verify import parse, verify

    return lambda gold, response: bool(verify(parse(f"${gold}$"), parse(response)))


def trl(wrapped: bool = True) -> Grader:
    from trl.rewards import accuracy_reward  # pyright: ignore[reportMissingImports]

    def grade(gold: str, response: str) -> bool | None:
        message = {"role": "assistant", "content": response}
        score = accuracy_reward([[message]], solution=[f"${gold}$" if wrapped else gold])[0]
        return None if score is None else score > 0.5

    return grade


def verl() -> Grader:
    from verl.utils.reward_score import math_verify  # pyright: ignore[reportMissingImports]

    return lambda gold, response: math_verify.compute_score(response, gold) > 0.5


def verl_prime_math() -> Grader:
    from verl.utils.reward_score import prime_math  # pyright: ignore[reportMissingImports]

    return lambda gold, response: bool(prime_math.compute_score(response, gold)[0])


def verl_math_dapo() -> Grader:
    from verl.utils.reward_score import math_dapo  # pyright: ignore[reportMissingImports]

    return lambda gold, response: bool(math_dapo.compute_score(response, gold)["acc"])


def verl_math_reward() -> Grader:
    from verl.utils.reward_score import math_reward  # pyright: ignore[reportMissingImports]

    return lambda gold, response: math_reward.compute_score(response, gold) > 0.5


def open_instruct() -> Grader:
    from lm_eval.tasks.hendrycks_math.utils import is_equiv as hendrycks  # pyright: ignore[reportMissingImports]
    from lm_eval.tasks.minerva_math import utils as minerva  # pyright: ignore[reportMissingImports]

    def candidates(response: str) -> list[str]:
        found = []
        with contextlib.suppress(AssertionError, TypeError):  # no box, or one that is not closed
            found.append(minerva.remove_boxed(minerva.last_boxed_only_string(response)))
        sentence = minerva.normalize_final_answer(minerva.get_unnormalized_answer(response))
        if sentence != "[invalidanswer]":
            found.append(sentence)
        pieces = response.split("$")
        if not found and len(pieces) > 2:
            found.append(minerva.normalize_final_answer(pieces[-2]))
        return found or [minerva.normalize_final_answer(response), response]

    return lambda gold, response: any(
        minerva.is_equiv(answer, gold) or hendrycks(answer, gold) for answer in candidates(response)
    )


PEERS: dict[str, tuple[str, Callable[[], Grader]]] = {
    # name -> package, what makes its grader
    "math_verify": ("math-verify", math_verify),
    "trl": ("trl", trl),
    "trl_raw": ("trl", lambda: trl(wrapped=False)),
    "verl": ("verl", verl),
    "verl_prime_math": ("verl", verl_prime_math),
    "verl_math_dapo": ("verl", verl_math_dapo),
    "verl_math_reward": ("verl", verl_math_reward),
    "open_instruct": ("lm_eval", open_instruct),
}


class Worker:
    """The grader in a process of its own, in whose main thread it may use signals; killed where it hangs."""

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self._start()

    def _start(self) -> None:
        self.end, other = multiprocessing.Pipe()
        self.process = multiprocessing.get_context("fork").Process(target=_serve, args=(self.peer, other))
        self.process.start()
        other.close()
        self.end.send(("2", r"it is $\boxed{2}$"))
        self.end.recv()

    def judge(self, gold: str, response: str, deadline: float) -> tuple[bool | None, float]:
        """(verdict, seconds); at the deadline None, and another process."""
        self.end.send((gold, response))
        if self.end.poll(deadline):
            with contextlib.suppress(EOFError):  # it ended, by its own or the kernel's doing
                return self.end.recv()
        self.close()
        self._start()
        return None, deadline

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid or 0, signal.SIGKILL)
        self.process.join()


def _serve(peer: str, end: Connection) -> None:
    os.setpgid(0, 0)
    grade = PEERS[peer][1]()
    while True:
        gold, response = end.recv()
        start = time.perf_counter()
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                verdict = grade(gold, response)
        except Exception:  # a peer's own: told as none
            verdict = None
        end.send((verdict, time.perf_counter() - start))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("cases", type=Path)
    options.add_argument("--peer", choices=PEERS, required=True)
    options.add_argument("--deadline", type=float, default=10.0, help="seconds for one case")
    chosen = options.parse_args()
    cases = [json.loads(line) for line in chosen.cases.read_text().splitlines() if line.strip()]
    worker = Worker(chosen.peer)
    judged = [worker.judge(str(case["gold"]), case["response"], chosen.deadline) for case in cases]
    worker.close()
    print(
        json.dumps(
            {
                "peer": chosen.peer,
                "version": version(PEERS[chosen.peer][0]),
                "verdicts": [verdict for verdict, _ in judged],
                "seconds": [seconds for _, seconds in judged],
                "hung": sum(seconds >= chosen.deadline for _, seconds in judged),
            }
        )
    )


if __name__ == "__main__":
    main()
