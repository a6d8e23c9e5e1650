"""lm-evaluation-harness: our task files, read by us and by the harness itself, and our figures in its form."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlvr import cli
from rlvr.errors import DataError, SettingsError
from rlvr.lm_eval import judge, task_file
from rlvr.lm_eval.results import to_lm_eval
from rlvr.settings import from_overrides
from rlvr.tasks import load_tasks

ROOT = Path(__file__).parents[1]
PEERS = ROOT / ".venv-bench" / "bin" / "python"
OURS = sorted(path.stem for path in task_file.FOLDER.glob("rlvr_*.yaml"))
DOCS: dict[str, dict[str, Any]] = {
    "rlvr_gsm8k": {"question": "Tom has 3 pens and buys 4. How many?", "answer": "3 + 4 = <<3+4=7>>7\n#### 7"},
    "rlvr_math500": {"problem": "What is $1/2+1/3$?", "solution": r"\boxed{\frac56}", "answer": r"\frac{5}{6}"},
    "rlvr_aime24": {"ID": "2024-I-1", "Problem": "What is $200+4$?", "Answer": 204},
    "rlvr_aime25": {"problem": "What is $70$?", "answer": "70"},
    "rlvr_ifeval": {
        "key": 1,
        "prompt": "Write without commas, in lower case.",
        "instruction_id_list": ["punctuation:no_comma", "change_case:english_lowercase"],
        "kwargs": [{}, {}],
    },
    "rlvr_mbpp": {
        "task_id": 11,
        "text": "Write a function to double a number.",
        "code": "def double(x): return 2 * x",
        "test_list": ["assert double(2) == 4", "assert double(5) == 10"],
        "test_setup_code": "",
        "challenge_test_list": [],
    },
    "rlvr_humaneval": {
        "task_id": "HumanEval/0",
        "prompt": 'def double(x: int) -> int:\n    """Twice x."""\n',
        "canonical_solution": "    return 2 * x\n",
        "test": "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(5) == 10\n",
        "entry_point": "double",
    },
}
DOCS["rlvr_humaneval_base"] = DOCS["rlvr_humaneval"]
RIGHT = {
    "rlvr_gsm8k": r"\boxed{7}",
    "rlvr_math500": r"\boxed{5/6}",
    "rlvr_aime24": r"\boxed{204}",
    "rlvr_aime25": r"\boxed{70}",
    "rlvr_ifeval": "no commas here and all in small letters",
    "rlvr_mbpp": "```python\ndef double(x):\n    return x + x\n```",
    "rlvr_humaneval": "```python\ndef double(x):\n    return x + x\n```",
    "rlvr_humaneval_base": "    return x + x\n",
}
WRONG = {
    "rlvr_ifeval": "Well, no.",
    "rlvr_mbpp": "```python\ndef double(x):\n    return 4\n```",
    "rlvr_humaneval": "```python\ndef double(x):\n    return 4\n```",
    "rlvr_humaneval_base": "    return 4\n",
}
USER = {
    "rlvr_gsm8k": "Tom has 3 pens and buys 4. How many?\n"
    "Reason step by step and put the final answer within \\boxed{}.",
    "rlvr_humaneval_base": 'def double(x: int) -> int:\n    """Twice x."""\n',
    "rlvr_ifeval": "Write without commas, in lower case.",
}


KWARGS = "metadata: {{rlvr: {{verifier: math}}}}\ngeneration_kwargs: {{{}}}"


def local(name: str, folder: Path, docs: list[dict[str, Any]] | None = None, **config: Any) -> Path:
    """The task file of that name on rows of a local file."""
    rows = folder / f"{name}_rows.jsonl"
    rows.write_text("".join(json.dumps(doc) + "\n" for doc in docs or [DOCS[name]]))
    path = folder / f"local_{name}.yaml"
    config = {
        "include": str(task_file.FOLDER / f"{name}.yaml"),
        "task": f"local_{name}",
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {"test": str(rows)}},
        "test_split": "test",
        **config,
    }
    path.write_text(yaml.safe_dump(config))
    return path


def test_every_task_file_has_a_case_here() -> None:
    assert sorted(DOCS) == sorted(RIGHT) == OURS


@pytest.mark.parametrize("name", OURS)
def test_right_answers_score_and_wrong_ones_do_not(name: str) -> None:
    process = getattr(judge, name)
    right, wrong = (process(DOCS[name], [text]) for text in (RIGHT[name], WRONG.get(name, r"\boxed{1}")))
    assert (right["score"], right["unjudged"]) == (1.0, 0.0)
    assert (wrong["score"], wrong["unjudged"]) == (0.0, 0.0)


def test_what_we_cannot_judge_is_nan_and_counted() -> None:
    doc = {**DOCS["rlvr_gsm8k"], "answer": "#### "}
    metrics = judge.rlvr_gsm8k(doc, [r"\boxed{7}"])
    assert math.isnan(metrics["score"]) and metrics["unjudged"] == 1.0
    assert math.isnan(judge.score([""], [r"\boxed{7}"]))
    assert judge.score(["7", ""], [r"\boxed{7}", "x"]) == 1.0


def test_ifeval_has_the_harness_s_four_metrics() -> None:
    metrics = judge.rlvr_ifeval(DOCS["rlvr_ifeval"], ["*Here*\nno comma but a Capital\nlower"])
    assert metrics["inst_level_strict_acc"] == [True, False]
    assert (metrics["prompt_level_strict_acc"], metrics["prompt_level_loose_acc"]) == (0.0, 0.0)
    assert judge.mean_of_lists([[True, False], [True], []]) == pytest.approx(2 / 3)
    assert math.isnan(judge.mean_of_lists([]))


@pytest.mark.parametrize("name", sorted(USER))
def test_prompts_are_rendered_as_the_harness_renders_them(name: str) -> None:
    assert task_file.read(task_file.FOLDER / f"{name}.yaml").prompt(DOCS[name]) == USER[name]


@pytest.mark.parametrize("name", OURS)
def test_a_task_file_gives_tasks_for_our_own_evaluation(name: str, tmp_path: Path) -> None:
    path = local(name, tmp_path, [DOCS[name], DOCS[name]])
    flags = [f"{key}={json.dumps(value)}" for key, value in task_file.overrides(path).items()]
    recipe: Any = from_overrides("eval", [*flags, "model.path=nowhere"])
    tasks = load_tasks(recipe.eval.tasks, setting="eval.tasks").rows
    assert [task.id for task in tasks] == [f"local_{name}:1", f"local_{name}:2"]
    file = task_file.read(path)
    assert {task.verifier for task in tasks} == {file.verifier}
    assert tasks[0].prompt == file.prompt(DOCS[name])
    verdict = judge.judge(file.verifier, RIGHT[name], tasks[0], recipe.eval.options)
    assert verdict.score == 1.0, verdict
    assert recipe.eval.max_tokens == file.config["generation_kwargs"]["max_gen_toks"]


def test_examples_stand_before_the_prompt(tmp_path: Path) -> None:
    shots = {"num_fewshot": 1, "fewshot_config": {"sampler": "first_n"}, "fewshot_split": "test"}
    path = local("rlvr_gsm8k", tmp_path, **shots)
    (row,) = task_file.rows(str(path))
    asked = USER["rlvr_gsm8k"]
    assert row["prompt"] == f"{asked} 7\n\n{asked}"
    with pytest.raises(DataError, match=r"num_fewshot 5 and the sampler 'default'.*first_n"):
        list(task_file.rows(str(local("rlvr_gsm8k", tmp_path, num_fewshot=5))))


def test_functions_beside_the_file_are_called(tmp_path: Path) -> None:
    (tmp_path / "own_utils.py").write_text(
        "def ask(doc):\n    return 'Q: ' + doc['question']\n\n"
        "def keep(docs):\n    return docs.filter(lambda doc: 'Tom' in doc['question'])\n"
    )
    path = local("rlvr_gsm8k", tmp_path, [DOCS["rlvr_gsm8k"], {**DOCS["rlvr_gsm8k"], "question": "Ann?"}])
    path.write_text(path.read_text() + "doc_to_text: !function own_utils.ask\nprocess_docs: !function own_utils.keep\n")
    (row,) = task_file.rows(str(path))
    assert row["prompt"] == "Q: Tom has 3 pens and buys 4. How many?"
    path.write_text(path.read_text().replace("own_utils.ask", "own_utils.aks"))
    with pytest.raises(DataError, match=r"!function own_utils.aks cannot be loaded"):
        list(task_file.rows(str(path)))


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("task: [", DataError, "while parsing"),
        ("- a", DataError, "is a mapping"),
        ("task: x\nmetadata: {version: 1}", SettingsError, r"metadata.rlvr.verifier is missing.*verifier: math"),
        ("metadata: {rlvr: math}", SettingsError, r"metadata.rlvr must be a mapping"),
        ("include: gone.yaml", DataError, "No such file"),
        ("include: bad.yaml", DataError, "include one another"),
        (KWARGS.format("until: 5"), SettingsError, r"generation_kwargs.until must be text.*got 5"),
        (KWARGS.format("temperature: hot"), SettingsError, r"temperature must be a number, got 'hot'"),
        (KWARGS.format("max_gen_toks: many"), SettingsError, r"max_gen_toks must be a count, got 'many'"),
    ],
)
def test_a_bad_task_file_is_one_line(text: str, error: type[Exception], message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(error, match=message) as told:
        task_file.overrides(path)
    assert "\n" not in str(told.value) and ".yaml" in str(told.value)


def test_a_template_that_asks_for_a_column_that_is_not_there_names_both(tmp_path: Path) -> None:
    path = local("rlvr_gsm8k", tmp_path, [{"query": "?", "answer": "#### 7"}])
    with pytest.raises(
        DataError, match=r"doc_to_text: UndefinedError: 'question' is undefined \(columns: query, answer\)"
    ):
        list(task_file.rows(str(path)))


def test_a_column_that_is_empty_is_a_bad_row_and_not_the_text_none(tmp_path: Path) -> None:
    docs = [DOCS["rlvr_math500"], {**DOCS["rlvr_math500"], "answer": None}]
    path = local("rlvr_math500", tmp_path, docs)
    assert [row["gold"] for row in task_file.rows(str(path))] == [r"\frac{5}{6}", None]
    flags = [f"{key}={json.dumps(value)}" for key, value in task_file.overrides(path).items()]
    recipe: Any = from_overrides("eval", [*flags, "model.path=nowhere"])
    with pytest.raises(DataError, match=r"1 of 2 rows cannot be used(.|\n)*rows:2.*no gold|gold is empty"):
        load_tasks(recipe.eval.tasks, setting="eval.tasks")


def test_a_data_set_that_cannot_be_had_is_one_line(tmp_path: Path) -> None:
    path = local("rlvr_gsm8k", tmp_path, dataset_kwargs={"data_files": {"test": str(tmp_path / "none.jsonl")}})
    with pytest.raises(DataError, match="data set 'json': ") as told:
        list(task_file.rows(str(path)))
    assert "\n" not in str(told.value)


# --- figures in the harness's form -----------------------------------------------------------------------------------


def test_figures_have_the_harness_s_names_and_standard_errors() -> None:
    rows = [
        {"task": "t1", "greedy": False, "score": 1.0},
        {"task": "t1", "greedy": False, "score": 0.0},
        {"task": "t2", "greedy": False, "score": 1.0},
        {"task": "t2", "greedy": False, "score": None},
        {"task": "t1", "greedy": True, "score": 0.5},
        {"task": "t2", "greedy": True, "score": 1.0},
    ]
    result = {"tasks": "x.jsonl", "model": "m", "n_tasks": 2, "n_samples": 2, "pass@1": 0.75, "pass@2": 1.0,
              "maj@2": 0.5, "unjudged": 1, "verifier": "math", "version": "2", "seconds": 1.5}  # fmt: skip
    found = to_lm_eval(result, rows, {"max_gen_toks": 7})
    assert found["configs"]["x.jsonl"]["generation_kwargs"] == found["config"]["gen_kwargs"] == {"max_gen_toks": 7}
    metrics = found["results"]["x.jsonl"]
    assert metrics["pass@1,sampled"] == 0.75
    assert metrics["pass@1_stderr,sampled"] == pytest.approx(0.25)  # of 0.5 and 1: std 0.3536 over sqrt 2
    assert (metrics["pass@1,greedy"], metrics["pass@2,sampled"], metrics["maj@2,sampled"]) == (0.5, 1.0, 0.5)
    assert found["higher_is_better"]["x.jsonl"]["pass@1"] is True
    assert found["higher_is_better"]["x.jsonl"]["unjudged"] is False
    assert found["n-samples"]["x.jsonl"] == {"original": 2, "effective": 2}
    json.dumps(found)


@pytest.mark.slow
def test_eval_runs_a_task_file_and_writes_both_forms(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = local("rlvr_gsm8k", tmp_path, [DOCS["rlvr_gsm8k"]] * 3), tmp_path / "lm.json"
    arguments = ["eval", "--model", str(tiny_model), "--tasks", str(path), "--engine", "hf", "--max-tokens", "8"]
    with pytest.raises(SystemExit) as ended:
        cli.main([*arguments, "--lm-eval-out", str(out), "--json"])
    assert ended.value.code == 0
    ours, theirs = json.loads(capsys.readouterr().out.splitlines()[-1]), json.loads(out.read_text())
    assert (ours["n_tasks"], ours["tasks"], ours["verifier"]) == (3, str(path), "math")
    metrics = theirs["results"]["local_rlvr_gsm8k"]
    assert metrics["pass@1,sampled"] == ours["pass@1"] and metrics["pass@1,greedy"] == ours["greedy"]["pass@1"]
    assert theirs["configs"]["local_rlvr_gsm8k"]["metadata"]["rlvr"] == {"verifier": "math"}
    assert theirs["config"]["gen_kwargs"]["max_gen_toks"] == 8  # not the file's 2048
    assert theirs["versions"] == {"local_rlvr_gsm8k": 1.0}


# --- in the harness itself -------------------------------------------------------------------------------------------

IN_THE_HARNESS = """
import json, sys
import rlvr.lm_eval.plugin
import lm_eval
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

texts, folder = json.loads(sys.argv[1]), sys.argv[2]
prompts = {}

class Canned(LM):
    def generate_until(self, requests, **_):
        for request in requests:
            prompts[request.task_name] = request.args[0]
        return [texts[request.task_name][request.doc_id] for request in requests]

    def loglikelihood(self, requests, **_):
        raise NotImplementedError

    loglikelihood_rolling = loglikelihood

manager = TaskManager(include_path=folder)
found = lm_eval.simple_evaluate(model=Canned(), tasks=list(texts), task_manager=manager, bootstrap_iters=10)
print(json.dumps({"results": found["results"], "prompts": prompts}, default=str))
"""


def has_harness() -> bool:
    return PEERS.is_file() and subprocess.run([PEERS, "-c", "import lm_eval"], check=False).returncode == 0


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One run of the harness over our task files, and one of somebody else's that uses our filter and metric."""
    if not has_harness():
        pytest.skip("lm-eval is in .venv-bench: make setup-bench")
    folder = tmp_path_factory.mktemp("tasks")
    texts = {}
    for name in OURS:
        local(name, folder, [DOCS[name]] * 3)
        texts[f"local_{name}"] = [RIGHT[name], WRONG.get(name, r"\boxed{1}"), RIGHT[name]]
    rows = folder / "rows.jsonl"
    rows.write_text((json.dumps(DOCS["rlvr_gsm8k"]) + "\n") * 3)
    (folder / "foreign.yaml").write_text(FOREIGN.replace("ROWS", str(rows)))
    texts["foreign"] = [r"\boxed{7}", r"so \boxed{7.0}", "I do not know"]
    done = subprocess.run(
        [str(PEERS), "-c", IN_THE_HARNESS, json.dumps(texts), str(folder)],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


FOREIGN = r"""
task: foreign
dataset_path: json
dataset_kwargs: {data_files: {test: ROWS}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer.split('####')[-1].strip()}}"
generation_kwargs: {until: [], do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
  - metric: !function rlvr.lm_eval.judge.score
    verifier: math
    aggregation: nanmean
    higher_is_better: true
filter_list:
  - {name: raw, filter: [{function: take_first}]}
  - {name: ours, filter: [{function: rlvr_extract}, {function: take_first}]}
metadata: {version: 1.0}
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", OURS)
def test_the_harness_runs_our_task_files(name: str, harness: dict[str, Any]) -> None:
    metrics = harness["results"][f"local_{name}"]
    assert metrics["score,none"] == pytest.approx(2 / 3)
    assert metrics["unjudged,none"] == 0.0
    assert harness["prompts"][f"local_{name}"] == task_file.read(task_file.FOLDER / f"{name}.yaml").prompt(DOCS[name])


@pytest.mark.slow
def test_our_filter_and_metric_serve_a_task_file_of_somebody_else(harness: dict[str, Any]) -> None:
    metrics = harness["results"]["foreign"]
    assert metrics["exact_match,ours"] == pytest.approx(1 / 3)  # 7.0 is not 7 as text
    assert metrics["exact_match,raw"] == 0.0
    assert metrics["score,raw"] == pytest.approx(2 / 3)


def test_the_folder_is_printed_for_include_path() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rlvr.lm_eval"], capture_output=True, text=True, timeout=60, check=True, cwd=ROOT
    )
    assert Path(done.stdout.strip()) == task_file.FOLDER
