"""The loop from tasks to weights, through the embedded engine and real verifier processes, on a random model."""

from __future__ import annotations

import io
import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from rlvr import policy, runs, trained
from rlvr.engines.hf import HuggingFace
from rlvr.errors import DataError, EngineError, SettingsError
from rlvr.loops import rl
from rlvr.loops.stopping import StopRequest
from rlvr.progress import Progress
from rlvr.recipe import Model, RlRecipe
from rlvr.seeds import permutation
from rlvr.settings import from_overrides

PLUGIN = '''
def tasks(n, prefix="q"):
    for k in range(n):
        yield {"id": f"{prefix}{k}", "prompt": f"{prefix} {k}:", "gold": "-"}

def letter(response):
    """Starts with a letter or a digit."""
    return response[:1].isascii() and response[:1].isalnum()

def share(response):
    """Share of letters and digits."""
    return sum(c.isascii() and c.isalnum() for c in response) / max(1, len(response))

def fragile(response):
    if response[:1] == "\\ufffd":
        raise RuntimeError("cannot read this")
    return share(response)

def broken(response):
    raise RuntimeError("never works")

def same(response):
    return 0.5
'''


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("plugin") / "toy.py"
    path.write_text(PLUGIN)
    return str(path)


class Quiet(Progress):
    """Shows nothing and keeps the warnings."""

    def __init__(self) -> None:
        super().__init__("toy", 1, console=Console(file=io.StringIO()))
        self.warned: list[str] = []

    def warn(self, text: str) -> None:
        self.warned.append(text)


def make_recipe(folder: Path, model: Path, plugin: str, verifier: str, *overrides: str) -> RlRecipe:
    recipe = from_overrides(
        "rl",
        [
            f"run.dir={folder}",
            f"model.path={model}",
            "engine.kind=hf",
            "data.source=generator",
            f"data.path={plugin}:tasks",
            "data.args={n: 40}",
            f"data.verifier={plugin}:{verifier}",
            "sample.group_size=4",
            "sample.groups_per_step=4",
            "sample.max_tokens=6",
            "steps=2",
            "optim.lr=1e-3",
            *overrides,
        ],
    )
    assert isinstance(recipe, RlRecipe)
    return recipe


def held_out(plugin: str, num_tasks: int) -> list[str]:
    return [
        "eval.tasks.source=generator",
        f"eval.tasks.path={plugin}:tasks",
        f"eval.tasks.args={{n: {num_tasks}, prefix: held}}",
        f"eval.tasks.verifier={plugin}:letter",
    ]


def train(recipe: RlRecipe, progress: Any = None) -> dict[str, Any]:
    with runs.Run.open(recipe, "toy.yaml") as run:
        return rl.train(recipe, run, progress or Quiet(), StopRequest())


def weights(folder: Path) -> dict[str, Tensor]:
    model, _ = policy.load_model(Model(path=str(folder)))
    return dict(model.named_parameters())


def steps_of(folder: Path) -> list[dict[str, Any]]:
    """The rows of steps, without those of evaluations."""
    return [row for row in runs.read_metrics(folder) if "reward" in row]


def exact(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if runs.is_exact(name)} for row in rows]


def assert_same_bits(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


# --- it learns -------------------------------------------------------------------------------------------------------


def test_it_learns_and_says_so_in_its_summary(tiny_model: Path, plugin: str, tmp_path: Path) -> None:
    recipe = make_recipe(
        tmp_path / "run",
        tiny_model,
        plugin,
        "letter",
        "steps=24",
        "sample.group_size=8",
        "sample.max_tokens=2",
        "optim.lr=3e-3",
        *held_out(plugin, 40),
        "eval.samples=4",
        "eval.every=12",
    )
    summary = train(recipe)
    rewards = [row["reward"] for row in steps_of(tmp_path / "run")]
    assert sum(rewards[:4]) / 4 < 0.45
    assert sum(rewards[-4:]) / 4 > 0.9
    assert summary["before"]["pass@1"] < 0.45 and summary["after"]["pass@1"] > 0.85
    assert summary["after"]["ci95"][0] > summary["before"]["ci95"][1]

    written = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert written == {"schema": 1, **json.loads(json.dumps(summary))}
    assert (written["steps"], written["algorithm"], written["stage"]) == (24, "grpo", "rl")
    assert written["seconds"] > 0
    sampled = [row for step in range(1, 25) for row in runs.read_rollouts(tmp_path / "run", step)]
    assert written["tokens"] == sum(len(row["token_ids"]) for row in sampled)
    assert written["before"]["n_tasks"] == written["after"]["n_tasks"] == 40
    assert written["before"]["n_samples"] == 4
    evaluated = [row["step"] for row in runs.read_metrics(tmp_path / "run") if "eval/pass@1" in row]
    assert evaluated == [0, 12, 24]
    assert sorted(p.name for p in (tmp_path / "run" / "evals").glob("*.json")) == [
        f"step_{step:06d}.json" for step in (0, 12, 24)
    ]
    # the saved model is the one that was evaluated last
    assert weights(tmp_path / "run" / "model").keys() == weights(tiny_model).keys()


def test_the_same_recipe_gives_the_same_bits(tiny_model: Path, plugin: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        train(make_recipe(tmp_path / name, tiny_model, plugin, "share", "steps=3"))
    rows_a, rows_b = (exact(runs.read_metrics(tmp_path / name)) for name in ("a", "b"))
    assert rows_a == rows_b
    assert len(rows_a) == 3
    assert_same_bits(weights(tmp_path / "a" / "model"), weights(tmp_path / "b" / "model"))
    train(make_recipe(tmp_path / "c", tiny_model, plugin, "share", "steps=3", "seed=1"))
    assert exact(runs.read_metrics(tmp_path / "c"))[0]["reward"] != rows_a[0]["reward"]


def test_a_run_killed_between_its_last_evaluation_and_its_summary_ends_the_same(
    tiny_model: Path, plugin: str, tmp_path: Path
) -> None:
    settings = ["steps=3", "eval.every=2", "checkpoint.every=1", *held_out(plugin, 5)]
    recipe = make_recipe(tmp_path / "run", tiny_model, plugin, "share", *settings)
    whole = train(recipe)
    rows, bits = exact(runs.read_metrics(tmp_path / "run")), weights(tmp_path / "run" / "model")
    (tmp_path / "run" / "summary.json").unlink()
    again = train(recipe)
    timeless = {"seconds": 0, "before": 0, "after": 0}
    assert {**again, **timeless} == {**whole, **timeless}
    for moment in ("before", "after"):
        assert again[moment]["pass@1"] == whole[moment]["pass@1"]
    assert exact(runs.read_metrics(tmp_path / "run")) == rows
    assert [row["step"] for row in rows] == [0, 1, 2, 2, 3, 3]
    assert_same_bits(weights(tmp_path / "run" / "model"), bits)


# --- each step is the formula ----------------------------------------------------------------------------------------


def gradient_descent(model: Any, settings: Any) -> list[torch.optim.Optimizer]:
    """In place of AdamW, whose first update is the sign of the gradient: a rounding error would be a whole step."""
    return [torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=settings.lr)]


def advantages_by_hand(recipe: RlRecipe, rewards: Sequence[float]) -> list[float]:
    mean = sum(rewards) / len(rewards)
    std = math.sqrt(sum((r - mean) ** 2 for r in rewards) / (len(rewards) - 1))
    return [(r - mean) / (std + recipe.advantage.eps if recipe.advantage.kind == "group" else 1) for r in rewards]


def logp_by_hand(model: Any, row: Mapping[str, Any], temperature: float) -> Tensor:
    ids = torch.tensor([[*row["prompt_ids"], *row["token_ids"]]])
    logits_LV = model(ids).logits[0, len(row["prompt_ids"]) - 1 : -1] / temperature
    return torch.log_softmax(logits_LV, dim=-1).gather(1, ids[0, len(row["prompt_ids"]) :, None])[:, 0]


def repeat_by_hand(recipe: RlRecipe, folder: Path) -> tuple[Any, list[dict[str, float]]]:
    """(model, what each step's metrics must be): the run once more from its rollouts, a token at a time."""
    model, reference = (policy.load_model(recipe.model)[0] for _ in range(2))
    reference.requires_grad_(False)
    wanted = []
    for step in range(1, recipe.steps + 1):
        groups: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in runs.read_rollouts(folder, step):
            groups[row["task"]].append(row)
        with torch.no_grad():
            for rows in groups.values():
                for row in rows:
                    row["old"] = logp_by_hand(model, row, recipe.sample.temperature)
                    row["ref"] = logp_by_hand(reference, row, recipe.sample.temperature)
                    if recipe.kl.where == "reward":
                        row["reward"] -= recipe.kl.coef * float((row["old"] - row["ref"]).double().sum())
                for row, advantage in zip(rows, advantages_by_hand(recipe, [r["reward"] for r in rows]), strict=True):
                    assert row["advantage"] == pytest.approx(advantage, rel=1e-3, abs=1e-5)
                    row["by_hand"] = advantage
        wanted.append(step_by_hand(recipe, model, list(groups.values()), step))
        if recipe.kl.in_reward:
            every = [row for rows in groups.values() for row in rows]
            apart = sum(float((row["old"] - row["ref"]).double().sum()) for row in every)
            wanted[-1]["kl"] = apart / sum(len(row["token_ids"]) for row in every)
    return model, wanted


def step_by_hand(
    recipe: RlRecipe, model: Any, groups: Sequence[Sequence[dict[str, Any]]], step: int
) -> dict[str, float]:
    num_updates, total, norms, clipped, tokens = 0, 0.0, 0.0, 0, 0
    for epoch in range(recipe.epochs):
        order = permutation(len(groups), recipe.seed, "minibatch", step, epoch)
        for update in range(recipe.updates):
            rows = [row for number in order[update :: recipe.updates] for row in groups[number]]
            count = {
                "token": sum(len(row["token_ids"]) for row in rows),
                "sequence": len(rows),
                "constant": len(rows) * recipe.sample.max_tokens,
            }[recipe.loss.aggregate]
            loss = torch.zeros(())
            for row in rows:
                logp_L = logp_by_hand(model, row, recipe.sample.temperature)
                ratio_L, adv = (logp_L - row["old"]).exp(), row["by_hand"]
                clip = recipe.loss.clip
                terms_L = -torch.minimum(ratio_L * adv, ratio_L.clamp(1 - clip.low, 1 + clip.high) * adv)
                clipped += int(((ratio_L < 1 - clip.low) if adv < 0 else (ratio_L > 1 + clip.high)).sum())
                tokens += len(logp_L)
                if recipe.kl.where == "loss":
                    d_L = row["ref"] - logp_L
                    terms_L = terms_L + recipe.kl.coef * (d_L**2 / 2 if recipe.kl.kind == "k2" else d_L.exp() - 1 - d_L)
                loss = loss + (terms_L.mean() if recipe.loss.aggregate == "sequence" else terms_L.sum())
            loss = loss / count
            loss.backward()
            norms += float(torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.optim.max_grad_norm))
            total += float(loss.detach())
            num_updates += 1
            with torch.no_grad():
                for p in model.parameters():
                    p -= recipe.optim.lr * p.grad
                    p.grad = None
    return {
        "loss": total / num_updates,
        "grad_norm": norms / num_updates,
        "clip_ratio/region_mean": clipped / tokens,
        "trained_tokens": tokens,
    }


@pytest.mark.parametrize(
    "overrides",
    [
        ["algorithm=grpo"],
        ["algorithm=dr_grpo", "sample.temperature=0.8", "loss.aggregate=token"],
        ["algorithm=dr_grpo", "updates=2", "epochs=2", "loss.clip.low=0.1", "optim.lr=1.0"],
        ["algorithm=grpo", "updates=3", "loss.clip.high=0.28", "optim.lr=1.0", "kl.coef=0.1"],
        ["algorithm=grpo", "kl.coef=0.5", "kl.kind=k2", "epochs=2"],
        ["algorithm=grpo", "kl.coef=0.5", "kl.where=reward"],
        ["algorithm=grpo", "kl.coef=0.5", "kl.kind=k1", "kl.where=reward", "epochs=2"],
    ],
    ids=" ".join,
)
def test_a_run_is_its_formula_applied_to_its_rollouts(
    overrides: list[str], tiny_model: Path, plugin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trained, "_optimizers", gradient_descent)
    settings = ["optim.lr=0.3", "optim.max_grad_norm=0.5", "seed=2", "optim.micro_tokens=60", *overrides]
    recipe = make_recipe(tmp_path / "run", tiny_model, plugin, "share", *settings)
    train(recipe)
    model, wanted = repeat_by_hand(recipe, tmp_path / "run")
    ours = weights(tmp_path / "run" / "model")
    start = weights(tiny_model)
    for name, tensor in model.named_parameters():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
        moved = float((tensor - start[name]).abs().max().detach())
        assert moved > 2e-4, name  # else the comparison would say nothing
    for row, step in zip(steps_of(tmp_path / "run"), wanted, strict=True):
        if recipe.kl.coef == 0 or recipe.kl.where == "reward":
            step.pop("trained_tokens")  # rows of equal rewards did not pass the model
            step.pop("clip_ratio/region_mean")
        assert {name: row[name] for name in step} == pytest.approx(step, rel=1e-3, abs=1e-6)
    if recipe.kl.in_reward:
        first, second = (row["kl"] for row in steps_of(tmp_path / "run"))
        assert abs(first) < 1e-5 and abs(second) > 1e-4  # it is the reference itself that starts
    if recipe.optim.lr == 1.0:
        assert any(row["clip_ratio/region_mean"] > 0 for row in steps_of(tmp_path / "run"))


def test_the_split_into_micro_batches_changes_no_result(
    tiny_model: Path, plugin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trained, "_optimizers", gradient_descent)
    settings = ["updates=2", "epochs=2", "kl.coef=0.2", "optim.lr=0.3", "algorithm=dr_grpo"]
    for micro in (1, 50, 32768):
        folder = tmp_path / str(micro)
        train(make_recipe(folder, tiny_model, plugin, "share", *settings, f"optim.micro_tokens={micro}"))
    whole, rows = weights(tmp_path / "32768" / "model"), exact(steps_of(tmp_path / "32768"))
    for micro in (1, 50):
        for name, tensor in weights(tmp_path / str(micro) / "model").items():
            torch.testing.assert_close(tensor, whole[name], rtol=0, atol=1e-5)
        for row, other in zip(exact(steps_of(tmp_path / str(micro))), rows, strict=True):
            assert row == pytest.approx(other, rel=1e-4, abs=1e-5)


# --- our failures and silent steps -----------------------------------------------------------------------------------


def test_what_a_verifier_could_not_judge_is_counted_and_not_trained_on(
    tiny_model: Path, plugin: str, tmp_path: Path
) -> None:
    progress = Quiet()
    train(make_recipe(tmp_path / "run", tiny_model, plugin, "fragile", "steps=2", "sample.group_size=6"), progress)
    for step, metrics in enumerate(steps_of(tmp_path / "run"), start=1):
        rows = runs.read_rollouts(tmp_path / "run", step)
        unjudged = [row for row in rows if row["response"].startswith("\ufffd")]
        assert 0 < len(unjudged) < len(rows)
        assert metrics["reward/unjudged_ratio"] == len(unjudged) / len(rows)
        groups: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in rows:
            assert (row in unjudged) == (row["reward"] is None)
            groups[row["task"]].append(row)
        for row in unjudged:
            assert row["advantage"] is None
            assert [v["outcome"] for v in row["verdicts"]] == ["error"]
            assert "cannot read this" in row["verdicts"][0]["reason"]
        for group in groups.values():
            judged = [row for row in group if row["reward"] is not None]
            if len(judged) < 2:
                assert all(row["advantage"] is None for row in group)
                continue
            mean = sum(row["reward"] for row in judged) / len(judged)
            for row in judged:
                assert (row["advantage"] > 1e-9) == (row["reward"] > mean + 1e-9)
    assert any("could not be judged" in text for text in progress.warned)


def test_a_run_whose_verifier_never_works_trains_nothing_and_says_why(
    tiny_model: Path, plugin: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"^step 1: none of 20 groups could be judged.*; most often .*: never works$"):
        train(make_recipe(tmp_path / "run", tiny_model, plugin, "broken", "steps=1"))
    assert not (tmp_path / "run").exists()  # a start that failed leaves nothing


def test_a_step_of_equal_rewards_leaves_the_weights_and_warns(tiny_model: Path, plugin: str, tmp_path: Path) -> None:
    progress = Quiet()
    # weight decay would move them, were there an update
    settings = ["optim.weight_decay=0.1", "updates=2", "optim.lr=0.01"]
    train(make_recipe(tmp_path / "run", tiny_model, plugin, "same", *settings), progress)
    assert_same_bits(weights(tmp_path / "run" / "model"), weights(tiny_model))
    for row in steps_of(tmp_path / "run"):
        assert (row["reward"], row["frac_reward_zero_std"], row["grad_norm"], row["loss"]) == (0.5, 1.0, 0.0, 0.0)
    assert any("all groups have equal rewards" in text for text in progress.warned)


def test_a_sampler_that_keeps_old_weights_stops_the_run(
    tiny_model: Path, plugin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HuggingFace, "load", lambda self, weights, version: None)
    with pytest.raises(EngineError, match=r"step 2: sampler and trainer disagree.*parity.tolerance"):
        train(make_recipe(tmp_path / "run", tiny_model, plugin, "share", "steps=4", "optim.lr=0.01"))
    assert len(steps_of(tmp_path / "run")) == 1
    assert not (tmp_path / "run" / "summary.json").exists()


def test_truncated_sampling_is_refused_before_anything_starts(tiny_model: Path, plugin: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"sample\.top_k: no such setting"):
        make_recipe(tmp_path / "run", tiny_model, plugin, "share", "sample.top_k=5")


def test_a_prompt_that_the_engine_has_no_room_for_ends_the_run_before_it_starts(
    tiny_model: Path, plugin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rl.engines, "build", lambda *_: pytest.fail("the engine was started"))
    settings = ["engine.kind=vllm", "engine.max_model_len=4"]
    with pytest.raises(DataError, match="at most 3 leave room"):
        train(make_recipe(tmp_path / "run", tiny_model, plugin, "share", *settings))


@pytest.mark.parametrize(
    ("overrides", "warned"),
    [
        (["rewards.answer.verifier=PLUGIN:share"], True),
        (["rewards.answer.verifier=PLUGIN:letter"], False),
        ([], False),  # each task's own
        (["rewards.answer.kind=random"], False),
        (["rewards.answer.verifier=PLUGIN:share", "rewards.more.verifier=PLUGIN:letter"], False),
        (
            ["rewards.answer.verifier=PLUGIN:share", "rewards.more.verifier=PLUGIN:letter", "rewards.more.weight=0"],
            True,
        ),
    ],
)
def test_another_judge_of_held_out_tasks_than_of_the_reward_is_told(
    tiny_model: Path, plugin: str, tmp_path: Path, overrides: list[str], warned: bool
) -> None:
    progress = Quiet()
    settings = ["steps=1", *held_out(plugin, 2), *(text.replace("PLUGIN", plugin) for text in overrides)]
    summary = train(make_recipe(tmp_path / "run", tiny_model, plugin, "letter", *settings), progress)
    assert any(f"judged by {plugin}:letter, but the rewards by {plugin}:share" in t for t in progress.warned) == warned
    assert "warnings" in summary


def test_sampler_and_trainer_agree_in_every_step(tiny_model: Path, plugin: str, tmp_path: Path) -> None:
    settings = ["steps=4", "optim.lr=3e-3", "sample.temperature=0.7"]
    train(make_recipe(tmp_path / "run", tiny_model, plugin, "share", *settings))
    gaps = [row["sampling/sampling_logp_difference/mean"] for row in steps_of(tmp_path / "run")]
    assert len(gaps) == 4
    assert max(gaps) < 1e-5


def test_every_rollout_names_the_version_that_sampled_it(tiny_model: Path, plugin: str, tmp_path: Path) -> None:
    train(make_recipe(tmp_path / "run", tiny_model, plugin, "share", "steps=3"))
    for step in (1, 2, 3):
        spans = [row["versions"] for row in runs.read_rollouts(tmp_path / "run", step)]
        assert spans == [[{"start": 0, "version": step - 1}]] * 16
