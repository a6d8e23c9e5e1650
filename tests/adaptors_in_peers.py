"""Our verifiers in the peers' own code, and theirs in ours: run by .venv-bench's interpreter, asserted by others.

    .venv-bench/bin/python tests/adaptors_in_peers.py trl|verl|prime|reasoning_gym FOLDER

Prints one JSON object on the last line. tests/test_adaptors_peers.py says what has to stand in it.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", HF_HUB_DISABLE_PROGRESS_BARS="1")
sys.path.append(str(Path(__file__).parent / "bench"))

from rlvr.adaptors.trl import reward_function


def trl(folder: str) -> dict[str, Any]:
    """GRPOTrainer, 2 steps, with two of our reward functions; one row's gold cannot be judged."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer  # pyright: ignore[reportMissingImports]
    from trl_grpo import make_model  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(1)
    make_model(Path(folder), updates=100)
    rows = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a, b in ((1, 2), (2, 3), (7, 1))]
    rows.append({"prompt": "9+9=", "answer": " "})
    math, boxed = reward_function("math"), reward_function("boxed", name="form")
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder),
        reward_funcs=[math, boxed],
        args=GRPOConfig(
            output_dir=f"{folder}/run",
            max_steps=2,
            num_generations=4,
            per_device_train_batch_size=16,
            max_completion_length=16,
            learning_rate=1e-3,
            seed=0,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(folder),
    )
    trainer.train()
    logs = trainer._logs
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        elsewhere = pool.apply(math, (["1+2="],), {"completions": [r"\boxed{3}"], "answer": ["3"]})
    return {
        "history": [row for row in trainer.state.log_history if "reward" in row],
        "prompts": list(logs["prompt"]),
        "completions": list(logs["completion"]),
        "rewards": {name: list(values) for name, values in logs["rewards"].items()},
        "extra": {name: list(values) for name, values in logs["extra"].items()},
        "elsewhere": elsewhere,
    }


def verl(folder: str) -> dict[str, Any]:
    """verl's own loading of a custom reward function, its reward managers of both kinds, and its own compute_score."""
    import numpy as np
    import torch
    from omegaconf import OmegaConf  # pyright: ignore[reportMissingImports]
    from verl import DataProto  # pyright: ignore[reportMissingImports]
    from verl.trainer.ppo import reward  # pyright: ignore[reportMissingImports]
    from verl.workers.reward_manager.naive import NaiveRewardManager  # pyright: ignore[reportMissingImports]

    import rlvr.adaptors.verl
    from rlvr.chat import byte_tokenizer

    def config(path: str, **arguments: Any) -> Any:
        function = {"path": path, "name": "compute_score", "reward_kwargs": arguments}
        manager = {"source": "register", "name": "naive"}
        return OmegaConf.create({"reward": {"custom_reward_function": function, "reward_manager": manager}})

    tokenizer = byte_tokenizer()
    cases = [("openai/gsm8k", "12", r"\boxed{12}"), ("openai/gsm8k", "12", "12 or 13"), ("mine", "12", r"\boxed{012}")]
    cases += [("openai/gsm8k", "7", rf"\boxed{{{k}}}") for k in range(16)]

    def batch(cases: list[tuple[str, str, str]]) -> Any:
        ids = [tokenizer(text)["input_ids"] for _, _, text in cases]
        T = max(map(len, ids))
        responses_BT = torch.tensor([row + [0] * (T - len(row)) for row in ids])
        mask_BT = torch.tensor([[1] * (2 + len(row)) + [0] * (T - len(row)) for row in ids])
        prompts_BT = torch.ones(len(cases), 2, dtype=torch.long)
        columns = {
            "data_source": [source for source, _, _ in cases],
            "reward_model": [{"ground_truth": gold} for _, gold, _ in cases],
            "extra_info": [
                {"index": k, "verifier": "exact"} if s == "mine" else {} for k, (s, _, _) in enumerate(cases)
            ],
        }
        return DataProto.from_dict(
            tensors={"prompts": prompts_BT, "responses": responses_BT, "attention_mask": mask_BT},
            non_tensors={name: np.array(values, dtype=object) for name, values in columns.items()},
        )

    async def in_loop(manager: Any, data: Any) -> list[Any]:
        return await asyncio.gather(*(manager.run_single(data[k : k + 1]) for k in range(len(data))))

    scored = {}
    for name, path in (("package", "pkg://rlvr.adaptors.verl"), ("file", str(rlvr.adaptors.verl.__file__))):
        manager = reward.load_reward_manager(config(path), tokenizer)
        scored[name] = manager.loop.run_until_complete(in_loop(manager, batch(cases)))
    compute_score = reward.get_custom_reward_fn(config("pkg://rlvr.adaptors.verl"))
    whole = NaiveRewardManager(tokenizer, 0, compute_score)(batch(cases), return_dict=True)
    invalid = batch([("openai/gsm8k", " ", r"\boxed{12}")])
    problems = []
    for arguments in ({}, {"unjudged": 0.0}, {"verifier": "mathh"}):
        manager = reward.load_reward_manager(config("pkg://rlvr.adaptors.verl", **arguments), tokenizer)
        try:
            problems.append(manager.loop.run_until_complete(in_loop(manager, invalid))[0])
        except Exception as error:
            problems.append(f"{type(error).__name__}: {error}")
    return {
        "cases": cases,
        "loop": scored,
        "whole": whole["reward_tensor"].sum(dim=1).tolist(),
        "last": [int(row.nonzero()[-1]) if row.any() else None for row in whole["reward_tensor"]],
        "extra": {name: list(values) for name, values in whole["reward_extra_info"].items()},
        "problems": problems,
    }


SUMS = """
import verifiers.v1 as vf

__all__ = ["SumsTaskset"]


class SumsData(vf.TaskData):
    answer: str


class SumsTask(vf.Task[SumsData]):
    @vf.reward(weight=0.7)
    async def right(self, trace):
        if self.data.answer == "boom":
            raise RuntimeError("no backend")
        return float(trace.last_reply.split()[-1:] == [self.data.answer])

    @vf.reward(weight=0.3)
    async def short(self, trace):
        return float(len(trace.last_reply) < 20)

    @vf.metric
    async def turns(self, trace):
        return float(len(trace.nodes))


class SumsConfig(vf.TasksetConfig):
    num_tasks: int = 3


class SumsTaskset(vf.Taskset[SumsTask, SumsConfig]):
    def load(self):
        for k in range(self.config.num_tasks):
            yield SumsTask(SumsData(prompt=f"{k}+1=", answer=str(k + 1), system_prompt="Add."), self.config.task)
"""
BOXED = """
import verifiers.v1 as vf

__all__ = ["BoxedTaskset"]


class BoxedTask(vf.Task[vf.TaskData]):
    @vf.reward
    async def passes(self, trace, runtime):
        return 1.0


class BoxedTaskset(vf.Taskset[BoxedTask, vf.TasksetConfig]):
    def load(self):
        return [BoxedTask(vf.TaskData(prompt="p"), self.config.task)]
"""


def prime(folder: str) -> dict[str, Any]:
    """Tasks of two environments of Prime's package, written here, through the generator and the pool."""
    from dataclasses import replace

    from rlvr.errors import DataError
    from rlvr.recipe import Data
    from rlvr.rewards.verified import VerifierPool
    from rlvr.tasks import load_tasks

    sys.path.insert(0, folder)
    Path(folder, "sums_taskset.py").write_text(SUMS)
    Path(folder, "boxed_taskset.py").write_text(BOXED)

    def data(environment: str, **args: Any) -> Data:
        path = "rlvr.adaptors.prime:tasks"
        return Data(path=path, source="generator", args={"environment": environment, **args})

    tasks = load_tasks(data("sums-taskset", config={"num_tasks": 4}, n=3)).rows
    problems = []
    for environment in ("boxed-taskset", "there-is-none"):
        try:
            load_tasks(data(environment))
        except DataError as error:
            problems.append(str(error))

    def with_answer(answer: str) -> Any:
        return replace(tasks[1], gold={**tasks[1].gold, "task": {**tasks[1].gold["task"], "answer": answer}})

    jobs = [("it is 2", tasks[1]), ("3", tasks[1]), ("a long way to the answer, which is 2", tasks[1]), ("3", tasks[2])]
    jobs += [("2", with_answer("boom")), ("2", replace(tasks[1], gold={**tasks[1].gold, "task": {}}))]
    with VerifierPool(["prime"], workers=1, memory_mib=4096) as pool:
        verdicts = pool.judge([("prime", response, task) for response, task in jobs])
        narrow = pool.judge([("prime", "it is 2", tasks[1])], {"prime": {"high": 0.5}})
    return {
        "tasks": [[task.id, task.prompt, task.gold["task"]["answer"], task.verifier] for task in tasks],
        "verdicts": [[v.score, v.outcome, v.reason, dict(v.checks)] for v in (*verdicts, *narrow)],
        "problems": problems,
    }


def junk(oracle: str) -> list[str]:
    numbers = [str(k) for k in range(-20, 200)]
    fixed = [", ".join(numbers), " ".join(numbers), "I don't know", ".", "yes no", "[]", "{}", "()", "None", "null"]
    return [*fixed, "gold or maybe something else", f"{oracle} or maybe something else", f"{oracle} {oracle}"]


EVIL = "[open({path!r}, 'w').close() or 1]"


def reasoning_gym(folder: str) -> dict[str, Any]:
    """Every data set: its entries' own answers, and junk, through our verifier; what is refused, by its own scorer."""
    from reasoning_gym import create_dataset  # pyright: ignore[reportMissingImports]
    from reasoning_gym.factory import DATASETS  # pyright: ignore[reportMissingImports]

    from rlvr.adaptors.reasoning_gym import tasks
    from rlvr.rewards.bound import apply, lookup
    from rlvr.types import Task
    from rlvr.verifiers.reasoning_gym_task import BROKEN, EXAMPLES, FORMS, _entry, _oracle

    bound = lookup("reasoning_gym")

    def judge(gold: Any, response: str, **options: Any) -> Any:
        return apply(bound, response, Task(id="t", prompt="", gold=gold), options)

    written = Path(folder, "written")
    refused, accepted, unjudged, num_judged = [], [], [], 0
    for name in sorted(set(DATASETS) - set(BROKEN)):
        for gold in [json.loads(json.dumps(create_dataset(name, size=2, seed=5)[k])) for k in range(2)]:
            oracle = _oracle(_entry(gold, {}))
            if judge(gold, f"<answer>{oracle}</answer>").score != 1:
                refused.append([name, oracle])
            for text in (*junk(oracle), EVIL.format(path=str(written))):
                verdict = judge(gold, f"<answer>{text}</answer>")
                num_judged += 1
                if verdict.score is None:
                    unjudged.append([name, text, verdict.reason])
                # () for [], 0 for -0 ... : what its question admits is no junk
                elif verdict.score > 0 and text != oracle:
                    accepted.append([name, text, oracle])
    rows = list(tasks(["chain_sum", "sokoban", "puzzle24"][:2], 6, seed=3, weights=[3, 1]))
    partial = create_dataset("chain_sum", size=1, seed=5)[0]
    return {
        "num_sets": len(DATASETS),
        "num_judged": num_judged,
        "refused": refused,
        "accepted": accepted,
        "unjudged": unjudged,
        "written": written.exists(),
        "unknown": sorted((set(BROKEN) | set(FORMS)) - set(DATASETS)),
        "faults": faults(create_dataset),
        "examples": [[wanted, judge(gold, text).score, judge(gold, text).outcome] for gold, text, wanted in EXAMPLES],
        "rows": rows,
        "again": rows == list(tasks(["chain_sum", "sokoban"], 6, seed=3, weights=[3, 1])),
        "row_scores": [judge(row["gold"], f"<answer>{row['gold']['answer']}</answer>").score for row in rows],
        "partial": judge(partial, f"<answer>{partial['answer']} or so</answer>", partial=True).score,
        "strict": judge(partial, f"<answer>{partial['answer']} or so</answer>").score,
    }


def faults(create_dataset: Any) -> dict[str, Any]:
    """What the scorers that we refuse say of answers that are wrong."""

    def scores(name: str, answer: Any) -> list[float]:
        data_set = create_dataset(name, size=8, seed=5)
        return [data_set.score_answer(answer(data_set[k]), data_set[k]) for k in range(8)]

    def one_off(entry: Any) -> str:
        numbers = json.loads(entry["answer"].replace("'", '"'))
        return json.dumps([float(number) + 1 for number in numbers])

    return {
        "coin_flip": scores("coin_flip", lambda _: "0"),
        "game_of_life_halting": scores("game_of_life_halting", lambda _: "I don't know"),
        "number_sorting": scores("number_sorting", one_off),
        "puzzle24": scores("puzzle24", lambda _: "6 * 4 * 1 * 1"),
        "propositional_logic": scores("propositional_logic", lambda entry: entry["metadata"]["premises"][0]),
        "without_answer": [create_dataset(name, size=1, seed=5)[0]["answer"] for name in ("boxnet", "rush_hour")],
    }


if __name__ == "__main__":
    run = {"trl": trl, "verl": verl, "prime": prime, "reasoning_gym": reasoning_gym}[sys.argv[1]]
    print(f"\n{json.dumps(run(sys.argv[2]))}")  # one of the scorers prints dots
