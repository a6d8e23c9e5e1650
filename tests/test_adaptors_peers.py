"""Our verifiers as the peers' reward functions, and theirs as our verifiers, in the peers' own code."""

from __future__ import annotations

import json
import math
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from rlvr.rewards.bound import apply, lookup
from rlvr.types import Task

ROOT = Path(__file__).parents[1]
PYTHON = ROOT / ".venv-bench" / "bin" / "python"
PACKAGES = {"trl": "trl", "verl": "verl", "prime": "verifiers", "reasoning_gym": "reasoning_gym"}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def gym(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run("reasoning_gym", tmp_path_factory.mktemp("gym"))


def run(what: str, folder: Path) -> Any:
    if not (ROOT / ".venv-bench" / "ready").exists():
        pytest.skip("no .venv-bench: make setup-bench")
    if not list((ROOT / ".venv-bench").glob(f"lib/python3*/site-packages/{PACKAGES[what]}")):
        pytest.skip(f"no {PACKAGES[what]} in .venv-bench: make setup-bench")
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(PYTHON), str(ROOT / "tests" / "adaptors_in_peers.py"), what, str(folder)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_trl_trains_on_our_reward_functions(tmp_path: Path) -> None:
    found = run("trl", tmp_path)
    assert [row["step"] for row in found["history"]] == [1, 2]
    assert any(row["grad_norm"] > 0 for row in found["history"]), "the rewards of siblings differ"
    assert all(row["reward"] == pytest.approx(row["reward"]) for row in found["history"]), "None made no NaN of it"
    golds = {"1+2=": "3", "2+3=": "5", "7+1=": "8", "9+9=": " "}
    assert len(found["completions"]) == 16
    for k, (prompt, completion) in enumerate(zip(found["prompts"], found["completions"], strict=True)):
        task = Task(id="t", prompt=prompt, gold=golds[prompt])
        wanted, form = apply(lookup("math"), completion, task), apply(lookup("boxed"), completion, task)
        given = found["rewards"]["math"][k]
        assert math.isnan(given) if wanted.score is None else given == wanted.score
        assert (given != given) == (prompt == "9+9="), "a gold that is none is left out, not scored"
        assert found["rewards"]["form"][k] == form.score
        assert found["extra"]["math/outcome"][k] == wanted.outcome
        assert found["extra"]["form/reason"][k] == form.reason
    assert set(found["rewards"]["form"]) == {0.0, 1.0}
    assert {0.0, 1.0} <= set(found["rewards"]["math"])
    assert found["elsewhere"] == [1.0], "pickled into a spawned process"


def test_verl_loads_and_calls_our_compute_score(tmp_path: Path) -> None:
    found = run("verl", tmp_path)
    wanted = [1.0, 0.0, 0.0] + [float(k == 7) for k in range(16)]
    for way in ("package", "file"):
        assert [row["reward_score"] for row in found["loop"][way]] == wanted
        extra = [row["reward_extra_info"] for row in found["loop"][way]]
        assert [row["acc"] for row in extra] == wanted
        assert [row["verifier"] for row in extra] == ["math", "math", "exact"] + ["math"] * 16
        assert extra[1]["outcome"] == "no_answer"
    assert found["whole"] == wanted, "the reward manager that scores a whole batch says the same"
    assert found["extra"]["judged"] == [1.0] * len(wanted)
    length = len(rb"\boxed{12}")
    assert found["last"][0] == length - 1, "the reward lies on the last token of the response"
    raised, chosen, unknown = found["problems"]
    assert raised.startswith("RlvrError: openai/gsm8k: verifier 'math' could not judge")
    assert "the gold is empty" in raised
    assert chosen["reward_score"] == 0.0
    assert chosen["reward_extra_info"]["judged"] == 0.0
    assert chosen["reward_extra_info"]["outcome"] == "gold_invalid"
    assert "did you mean 'math'?" in unknown


def test_an_environment_of_prime_judges(tmp_path: Path) -> None:
    found = run("prime", tmp_path)
    prompt = [{"role": "system", "content": "Add."}, {"role": "user", "content": "1+1="}]
    assert found["tasks"][1] == ["sums-taskset:1", prompt, "2", "prime"]
    assert len(found["tasks"]) == 3
    assert [row[0] for row in found["verdicts"]] == [1.0, 0.3, 0.7, 1.0, None, None, None]
    assert [row[1] for row in found["verdicts"][4:]] == ["error", "gold_invalid", "error"]
    right = found["verdicts"][0][3]
    assert right["right"] == {"score": 1.0, "reason": "weight 0.7"}
    assert right["turns"] == 3, "system, user, assistant"
    assert "RuntimeError: no backend" in found["verdicts"][4][2]
    assert "options low and high" in found["verdicts"][6][2]
    container, absent = found["problems"]
    assert "its reward 'passes' needs a container" in container
    assert "there-is-none" in absent


def test_every_data_set_of_reasoning_gym_takes_its_own_answer_and_no_junk(gym: Any) -> None:
    assert gym["num_sets"] >= 106
    assert gym["num_judged"] > 2000
    assert gym["accepted"] == []
    # its integrals that sympy cannot solve: the question said again would be right
    assert [row for row in gym["refused"] if "Integral(" not in row[1]] == []
    assert [row for row in gym["unjudged"] if row[0] != "intermediate_integration"] == []
    assert not gym["written"], "an answer was run as Python"
    assert gym["unknown"] == []
    assert all(score == wanted for wanted, score, _ in gym["examples"])


def test_what_is_refused_of_reasoning_gym_is_at_fault(gym: Any) -> None:
    faults = gym["faults"]
    for name in ("coin_flip", "game_of_life_halting", "number_sorting", "puzzle24"):
        assert faults[name] == [1.0] * 8, f"{name} may be used again"
    assert faults["propositional_logic"].count(1.0) >= 4
    assert faults["without_answer"] == [None, None]


def test_rows_of_reasoning_gym_are_the_same_for_the_same_seed(gym: Any) -> None:
    rows = gym["rows"]
    assert gym["again"]
    assert len({row["prompt"] for row in rows}) == len({row["id"] for row in rows}) == 6
    assert {row["gold"]["metadata"]["source_dataset"] for row in rows} == {"chain_sum", "sokoban"}
    assert gym["row_scores"] == [1.0] * 6
    assert 0 < gym["partial"] < 1
    assert gym["strict"] == 0.0
