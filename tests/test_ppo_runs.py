"""Runs with a critic: it learns, is not changed by a kill or by the number of ranks, and the next run takes it up."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from attempts import differences
from safetensors.torch import load_file
from test_kills import PLUGIN as COUNTING
from test_kills import RL, Case
from test_learn import launch, model
from test_ppo import PPO, captured, with_critic
from test_rl import PLUGIN, Quiet, exact, make_recipe, steps_of, train, weights

from rlvr import heads, policy, runs
from rlvr.errors import NonFiniteError, SettingsError
from rlvr.loops import rl
from rlvr.loops.learn import learn
from rlvr.loss_settings import AdaptiveKl
from rlvr.progress import warnings_in_words
from rlvr.recipe import Model

__all__ = ["model"]
MOOD = '''
def mood(response, task):
    """Odd tasks are worth most; how they are answered counts little."""
    return 0.9 * (int(task.id[1:]) % 2) + 0.1 * letter(response)
'''
TERMINAL = ("algorithm=ppo", "critic.truncated=terminal", "critic.optim.lr=3e-3")


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("plugin") / "toy.py"
    path.write_text(PLUGIN + MOOD)
    return str(path)


def test_a_critic_is_baseline_enough_for_lone_completions(tiny_model: Path, plugin: str, tmp_path: Path) -> None:
    settings = ["sample.group_size=1", "sample.groups_per_step=8", "sample.max_tokens=4", "steps=2", *TERMINAL]
    train(make_recipe(tmp_path / "run", tiny_model, plugin, "mood", *settings))
    for row in steps_of(tmp_path / "run"):
        assert row["num_groups"] == 8
        assert row["reward/unjudged_ratio"] == 0
        assert row["trained_tokens"] == row["completions/mean_length"] * 8
        assert row["grad_norm"] > 0 and row["critic/grad_norm"] > 0


@pytest.mark.parametrize(
    ("extra", "what"), [("algorithm=grpo", "advantage.kind group"), ("sample.dynamic=true", "sample.dynamic")]
)
def test_lone_completions_are_refused_where_siblings_are_compared(
    tiny_model: Path, plugin: str, tmp_path: Path, extra: str, what: str
) -> None:
    with pytest.raises(SettingsError, match=f"sample.group_size must be at least 2 for {what}"):
        make_recipe(tmp_path / "run", tiny_model, plugin, "mood", "algorithm=ppo", "sample.group_size=1", extra)


@pytest.mark.slow
def test_the_critic_comes_to_foretell_what_comes_and_the_next_run_takes_it_up(
    tiny_model: Path, plugin: str, tmp_path: Path
) -> None:
    # most of it is told by the prompt
    settings = ["sample.groups_per_step=8", "sample.max_tokens=4", "optim.lr=1e-6", "epochs=4", *TERMINAL]
    settings += ["critic.optim.lr=1e-3"]
    train(make_recipe(tmp_path / "run", tiny_model, plugin, "mood", *settings, "steps=12"))
    rows = steps_of(tmp_path / "run")
    explained = [row["critic/vf_explained_var_mc"] for row in rows]
    assert explained[0] < 0.2
    assert sum(explained[-2:]) / 2 > 0.75
    assert rows[-1]["loss/value_avg"] < rows[0]["loss/value_avg"] / 4
    assert "critic/bootstrapped" not in rows[-1]

    critic = tmp_path / "run" / "critic"
    assert json.loads((critic / "config.json").read_text())["architectures"] == ["Qwen3ForSequenceClassification"]
    assert weights(tmp_path / "run" / "model").keys() == weights(tiny_model).keys()  # and nothing of the critic
    train(make_recipe(tmp_path / "next", tiny_model, plugin, "mood", *settings, "steps=1", f"critic.path={critic}"))
    scorer, _ = heads.load_scorer(Model(path=str(critic)), seed=0)
    values = []
    for row in runs.read_rollouts(tmp_path / "next", 1):
        ids = [*row["prompt_ids"], *row["token_ids"]]
        with torch.no_grad():
            after_T = heads.values(scorer, torch.tensor([ids]), torch.tensor([len(ids)]))[0]
        values += after_T[len(row["prompt_ids"]) - 1 : -1].tolist()
    (first,) = steps_of(tmp_path / "next")
    assert first["critic/values/mean"] == pytest.approx(sum(values) / len(values), rel=1e-4)
    assert first["critic/vf_explained_var_mc"] > explained[0] + 0.2


@pytest.mark.parametrize("role", ["critic", "reference"])
def test_completions_end_where_the_context_of_each_model_does(
    tiny_model: Path, plugin: str, tmp_path: Path, role: str
) -> None:
    other = shutil.copytree(tiny_model, tmp_path / "short")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 12}))
    path = [f"{role}.path={other}", *(["critic.kind=own"] if role == "critic" else ["kl.coef=0.1"])]
    train(
        make_recipe(tmp_path / "run", tiny_model, plugin, "mood", "steps=1", "sample.max_tokens=32", *TERMINAL, *path)
    )
    (row,) = steps_of(tmp_path / "run")
    assert 0 < row["completions/max_length"] <= 11


@pytest.mark.parametrize("kind", ["shared", "own with adapters"])
def test_policies_learn_with_any_kind_of_critic(tiny_model: Path, plugin: str, tmp_path: Path, kind: str) -> None:
    which = [f"critic.kind={kind.split()[0]}", *(["model.lora=true", "critic.lora=true"] if "adapters" in kind else [])]
    rate = "1e-2" if "adapters" in kind else "3e-3"
    settings = ["sample.group_size=8", "sample.max_tokens=2", f"optim.lr={rate}", "kl.coef=0.01", "steps=14"]
    train(make_recipe(tmp_path / "run", tiny_model, plugin, "letter", *TERMINAL, *settings, *which))
    rewards = [row["reward"] for row in steps_of(tmp_path / "run")]
    assert sum(rewards[:3]) / 3 < 0.5 < 0.8 < sum(rewards[-3:]) / 3
    assert (tmp_path / "run" / "critic").is_dir() == (kind != "shared")
    if "adapters" in kind:
        heads.load_scorer(Model(path=str(tmp_path / "run" / "critic")), seed=0, new_head=False)


def test_a_step_of_truncated_completions_alone_is_told(tiny_model: Path, plugin: str, tmp_path: Path) -> None:
    progress = Quiet()
    train(make_recipe(tmp_path / "run", tiny_model, plugin, "letter", "algorithm=ppo", "steps=1"), progress)
    assert any("learnt nothing of the rewards" in text for text in progress.warned)
    assert steps_of(tmp_path / "run")[0]["critic/bootstrapped"] == 1


def test_the_coefficient_follows_the_divergence(tiny_model: Path, plugin: str, tmp_path: Path) -> None:
    adaptive = ["kl.coef=0.1", "kl.adaptive={target: 0.01, horizon: 20}", "critic.warmup_steps=1"]
    train(make_recipe(tmp_path / "run", tiny_model, plugin, "share", *TERMINAL, "optim.lr=3e-3", *adaptive, "steps=4"))
    rows = steps_of(tmp_path / "run")
    coefs, settings = [row["kl/coef"] for row in rows[1:]], AdaptiveKl(target=0.01, horizon=20)
    assert coefs[0] == 0.1  # which no step of the critic alone has moved
    for row, later in zip(rows[1:], coefs[1:], strict=False):
        assert later == rl.next_kl_coef(row["kl/coef"], row["kl"], 16, settings) != row["kl/coef"]


def test_another_reference_is_what_the_divergence_is_measured_from(
    tiny_model: Path, untied_model: Path, plugin: str, tmp_path: Path
) -> None:
    settings = ["kl.coef=0.1", "kl.where=reward", "steps=1", f"reference.path={untied_model}"]
    for name, more in (("full", []), ("lora", ["model.lora=true"])):
        train(make_recipe(tmp_path / name, tiny_model, plugin, "share", *settings, *more))
        teacher, _ = policy.load_model(Model(path=str(untied_model)))
        apart, tokens = 0.0, 0
        for row in runs.read_rollouts(tmp_path / name, 1):
            ids = torch.tensor([[*row["prompt_ids"], *row["token_ids"]]])
            mask = torch.arange(ids.shape[1])[None] >= len(row["prompt_ids"])
            with torch.no_grad():
                logp_BT, _ = policy.logprobs(teacher, ids, mask)
            apart += sum(row["logprobs"]) - float(logp_BT.sum())
            tokens += len(row["token_ids"])
        assert steps_of(tmp_path / name)[0]["kl"] == pytest.approx(apart / tokens, rel=1e-4)


def test_a_critic_that_never_has_a_number_ends_the_run_by_its_own_settings(
    tiny_model: Path, plugin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = heads.values
    # with gradient alone, so that the policy goes on learning
    monkeypatch.setattr(
        heads, "values", lambda *given: values(*given) * (torch.nan if torch.is_grad_enabled() else 1.0)
    )
    progress = Quiet()
    recipe = make_recipe(tmp_path / "run", tiny_model, plugin, "share", *TERMINAL, "critic.optim.max_nonfinite=1")
    with pytest.raises(NonFiniteError, match=r"step 2: NaN .* in the critic's loss.*\(critic\.optim\.max_nonfinite\)"):
        train(recipe, progress)
    assert any("step 1: NaN or infinity in the critic's loss or gradient" in text for text in progress.warned)
    assert "grad_norm" in steps_of(tmp_path / "run")[0]


def test_a_checkpoint_names_the_policy_as_ever_and_the_critic_apart(
    tiny_model: Path, plugin: str, tmp_path: Path
) -> None:
    from rlvr import checkpoint

    names = {}
    for name, more in (("with", TERMINAL), ("without", ())):
        settings = ["steps=1", "checkpoint.every=1", *more]
        train(make_recipe(tmp_path / name, tiny_model, plugin, "share", *settings))
        tensors, numbers = checkpoint.load(tmp_path / name / "checkpoints", 1)
        names[name] = set(tensors)
        assert ("critic" in numbers) == (name == "with")
    own = {name for name in names["with"] if name.startswith("critic.")}
    assert names["with"] - own == names["without"]
    assert "critic.model.score.weight" in own and "critic.optimizer.score.weight.exp_avg" in own


def test_equal_siblings_are_no_fault_where_a_critic_is_the_baseline() -> None:
    assert warnings_in_words({"frac_reward_zero_std": 1.0})
    assert not warnings_in_words({"frac_reward_zero_std": 1.0, "critic/values/mean": 0.5})


# --- kills and ranks -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["own", "shared"])
def test_a_run_killed_at_every_place_ends_bit_for_bit(tmp_path: Path, tiny_model: Path, kind: str) -> None:
    plugin, rows = tmp_path / "plugin.py", tmp_path / "ptx.jsonl"
    plugin.write_text(COUNTING)
    texts = [{"id": f"d{k}", "prompt": f"Q: {k}+1=?", "completion": f" {k + 1}, of course"} for k in range(7)]
    rows.write_text("".join(json.dumps(row) + "\n" for row in texts))
    values: Mapping[str, Any] = {
        **RL,
        "steps": 4,
        "algorithm": "ppo",
        "updates": 2,
        "critic": {"kind": kind, "optim": {"lr": 1e-3, "micro_tokens": 100}, "value_clip": 0.2, "warmup_steps": 1},
        "ptx": {"data": str(rows), "coef": 0.5, "batch_size": 3},
        "kl": {"coef": 0.1, "adaptive": {"target": 0.01, "horizon": 40}},
        "model": {"path": str(tiny_model)},
        "data": {"source": "generator", "path": f"{plugin}:tasks", "args": {"n": 30}, "verifier": f"{plugin}:share"},
    }
    of = Case(tmp_path, values)
    whole = of.whole()
    for where in ("micro@5", "update@3", "checkpoint.tensors", "update@2", "record@1", "checkpoint.renamed", "model"):
        of.kill("killed", where)
    of.finish("killed")
    killed = of.run("killed")
    assert differences(killed, whole) == []
    if kind == "own":
        for file in (whole / "critic").iterdir():
            assert (killed / "critic" / file.name).read_bytes() == file.read_bytes(), file.name
    assert "ptx/loss" in exact(steps_of(whole))[-1]


RANKS = """
import json
import sys
from functools import partial
from pathlib import Path

from safetensors.torch import save_file
from test_learn import batch
from test_ppo import captured, with_critic

from rlvr import parallel
from rlvr.loops.learn import learn

folder, out, *overrides = sys.argv[1:]
parallel.join()
learner = with_critic(Path(folder), *overrides)


def work(given):
    return captured(learner, lambda: learn(learner, given, 1))


if parallel.is_main():
    parallel.begin()
    outcome, *gradients = parallel.Together(work)(batch())
    Path(out, "metrics.json").write_text(json.dumps({"ranks": parallel.size(), **outcome.metrics}))
    for name, updates in zip(("policy", "critic"), gradients, strict=True):
        save_file({f"{k} {n}": t for k, (_, g) in enumerate(updates) for n, t in g.items()}, Path(out, name))
    parallel.dismiss()
else:
    parallel.follow(lambda: work)
state = learner.critic.trained.state()
save_file({n: t.contiguous() for n, t in state.items()}, Path(out, f"rank{parallel.rank()}"))
parallel.leave()
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["own", "shared"])
def test_two_processes_learn_what_one_does(model: Path, tmp_path: Path, kind: str) -> None:
    settings = (*PPO, f"critic.kind={kind}", "updates=2", "kl.coef=0.1", "critic.value_clip=0.1")
    settings += ("optim.micro_tokens=30", "critic.optim.micro_tokens=30")
    script = tmp_path / "work.py"
    script.write_text(RANKS)
    done = launch(script, 2, str(model), str(tmp_path), *settings)
    assert done.returncode == 0, done.stderr
    learner = with_critic(model, *settings)
    from test_learn import assert_equal_gradients, assert_equal_metrics, batch

    outcome, *gradients = captured(learner, lambda: learn(learner, batch(), 1))
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics.pop("ranks") == 2
    assert_equal_metrics(metrics, outcome.metrics)
    for name, updates in zip(("policy", "critic"), gradients, strict=True):
        alone = {f"{k} {n}": t for k, (_, g) in enumerate(updates) for n, t in g.items()}
        assert_equal_gradients(load_file(tmp_path / name), alone)
    ours, theirs = load_file(tmp_path / "rank0"), load_file(tmp_path / "rank1")
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
