"""`rlvr why` names the judge behind a row or a reward, and says which rows a run left out."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from judge_case import Mind, serving
from scorer_cases import save_scorer
from test_judge_reward import letters, runs_with
from test_rl import PLUGIN, Quiet, make_recipe, train

from rlvr import ancestry_rows, cli, runs, trace, why
from rlvr.ancestry import Search
from rlvr.feedback.records import Item
from rlvr.feedback.store import Store
from rlvr.loop import labelling
from rlvr.loop_settings import Labels
from rlvr.loops import reward_model, sft
from rlvr.loops.stopping import StopRequest
from rlvr.settings import from_overrides


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run_of(stage: str, folder: Path, *settings: str) -> Path:
    common = ["steps=1", "batch_size=2", "data.on_bad_row=skip", "checkpoint.every=0", f"run.dir={folder}"]
    recipe: Any = from_overrides(stage, [*common, *settings])
    with runs.Run.open(recipe, "toy.yaml") as run:
        loop = {"sft": sft, "reward_model": reward_model}[stage]
        loop.train(recipe, run, Quiet(), StopRequest())
    return folder


def test_a_row_of_a_judge_names_it_with_what_it_said_of_each_order(tmp_path: Path, tiny_model: Path) -> None:
    asked = [{"id": "q1", "prompt": "Q", "completions": ["u=0 a", "u=1.5 b"]}]
    source, out = jsonl(tmp_path / "asked.jsonl", asked), tmp_path / "judged.jsonl"
    with serving(Mind(position=0.5)) as url:
        given = ["judge", str(source), "--endpoint", url, "--judge-model", "scripted", "--out", str(out)]
        with pytest.raises(SystemExit) as done:
            cli.main(given)
    assert done.value.code == 0
    (row,) = [json.loads(line) for line in out.read_text().splitlines()]
    run = run_of("reward_model", tmp_path / "rm", f"model.path={save_scorer(tmp_path / 'm')}", f"data.path={out}")
    text = trace.render(trace.trace(run, row["id"], Search()))
    version = row["judge"]["version"]
    assert f"by judge scripted {version}, pairwise; log odds of the chosen one +1.5; " in text
    assert "shown first +2" in text and "shown second +1" in text
    assert "probability 0.8176" in text
    assert f"made by rlvr judge with the judge scripted {version}" in text


def test_a_rollout_names_the_judge_of_its_reward_and_whom_it_was_compared_with(
    tiny_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "toy.py").write_text(PLUGIN)
    with serving(Mind(utility=letters)) as url:
        train(make_recipe(tmp_path / "run", tiny_model, str(tmp_path / "toy.py"), "share", *runs_with(url), "steps=1"))
    row = runs.read_rollouts(tmp_path / "run", 1)[0]
    told = trace.trace(tmp_path / "run", row["id"], Search())
    (verdict,) = [one for one in told["verdicts"] if one["part"] == "helpful"]
    assert verdict["judge"] == {"model": "scripted", "at": url, "method": "pairwise"}
    text = trace.render(told)
    assert f"judge scripted ({url}), by pairwise" in text
    for sample, odds in verdict["checks"]["against"].items():
        other = next(r for r in told["siblings"] if r["id"].endswith(f"/{sample}"))
        texts = {r["id"]: r["response"] for r in runs.read_rollouts(tmp_path / "run", 1)}
        assert odds == pytest.approx(letters(texts[row["id"]]) - letters(texts[other["id"]]), abs=1e-6)
        assert f"{sample}: {odds:+.3g}" in text


def test_what_may_be_a_secret_in_a_url_is_not_told() -> None:
    verdict = {"part": "p", "verifier": "judge"}
    recipe = {"rewards": {"p": {"by": {"kind": "endpoint", "url": "https://me:key@a.b:1/v1?key=s", "model": "m"}}}}
    assert why._judge(recipe, verdict) == {"model": "m", "at": "https://a.b:1/v1", "method": None}
    own = {"rewards": {"p": {"by": {"kind": "hf", "path": "judges/one"}}}}
    assert why._judge(own, verdict) == {"model": "judges/one", "at": "hf", "method": None}
    assert why._judge(own, {"part": "p", "verifier": "model"}) is None


def test_an_answer_of_a_judge_is_told_by_its_name_and_with_its_probability(tmp_path: Path) -> None:
    item = Item(id="q1", prompt="Q", completions=("u=2 a", "u=0 b"), source="round-001")
    with serving(Mind()) as url:
        settings = Labels(kind="judge", judge={"by": {"kind": "endpoint", "url": url, "model": "m"}})
        labelling.ask(settings, [item], 1, tmp_path / "l.db", tmp_path / "items.jsonl", seed=0)
    with Store.open(tmp_path / "l.db", readonly=True) as store:
        hashed = store.annotator_hash("judge:m")
    (event,) = ancestry_rows.answers_behind("q1", tmp_path / "l.db")
    assert (event["annotator"], event["source"], event["hashed"]) == ("judge:m", "judge", hashed)
    assert float(event["comment"].removeprefix("probability of the first: ")) == pytest.approx(1 / (1 + math.exp(-2)))
    rows = jsonl(tmp_path / "rows.jsonl", [{"id": "q1", "prompt": "Q", "chosen": "a", "rejected": "b"}])
    text = trace.render(trace.trace(rows, "q1", Search(databases=[tmp_path / "l.db"])))
    assert "answer by judge:m at " in text and "probability of the first: 0.88" in text
    assert hashed not in text


def test_rows_that_were_left_out_are_told_and_their_votes_do_not_count(tmp_path: Path) -> None:
    votes = {"vote_counts": {"chosen": 3, "rejected": 1, "tie": 0}, "probability": 0.75}
    good = {"prompt": "Q", "chosen": "yes", "rejected": "no", "annotators": ["aa", "bb"], **votes}
    data = [
        {"id": "good", **good},
        {"id": "long", **good, "chosen": "x" * 100},
        {"id": "bad", "prompt": "Q", "chosen": "x", **votes},
        {"id": "same", **good, "prompt": "held out"},
    ]
    file = jsonl(tmp_path / "rows.jsonl", data)
    model = save_scorer(tmp_path / "m")
    held = jsonl(tmp_path / "held.jsonl", [{**good, "id": "h", "prompt": "held out"}])
    given = [f"model.path={model}", f"data.path={file}", f"eval.tasks={held}"]
    run = run_of("reward_model", tmp_path / "rm", *given)
    too_long = "has 102 tokens with its end token; at most 64 are allowed"
    same = "a held-out row has the same prompt"
    assert runs.read_left_out(run) == {"same": same, "long": too_long}
    told = {name: trace.trace(run, name, Search())["left_out"] for name in ("good", "long", "same", "bad")}
    bad = "a bad row, which data.on_bad_row=skip passes over"
    assert told == {"good": "", "long": too_long, "same": same, "bad": bad}
    text = trace.render(trace.trace(run, "long", Search()))
    assert f"left out, not trained on: {too_long}" in text
    assert 'vote_counts {"chosen": 3, "rejected": 1, "tie": 0}; probability 0.75\n' in text
    text = trace.render(trace.trace(run / "model", None, Search()))
    assert f"2 of them left out, not trained on (the first: same: {same})" in text
    assert "4 votes by 2 people in 1 of the rows" in text


def test_a_demonstration_that_was_too_long_is_told(tmp_path: Path, tiny_model: Path) -> None:
    rows = [{"id": "a", "prompt": "Q", "completion": "A"}, {"id": "b", "prompt": "Q", "completion": "A" * 80}]
    data = jsonl(tmp_path / "rows.jsonl", rows)
    run = run_of("sft", tmp_path / "sft", f"model.path={tiny_model}", f"data.path={data}", "max_length=20")
    assert trace.trace(run, "b", Search())["left_out"] == "has 82 tokens with its end token; at most 20 are allowed"
    assert trace.trace(run, "a", Search())["left_out"] == ""
