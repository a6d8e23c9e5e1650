"""Presets that learn from something else than a reward's distance from its siblings', from settings to weights."""

from __future__ import annotations

from collections import defaultdict
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
from test_rl import make_recipe, steps_of, train

from rlvr import runs
from rlvr.errors import SettingsError
from rlvr.settings import from_overrides

PLUGIN = '''
def tasks(n, prefix="q"):
    for k in range(n):
        yield {"id": f"{prefix}{k}", "prompt": f"{prefix} {k}:", "gold": "-"}

def share(response):
    """Share of letters and digits."""
    return sum(c.isascii() and c.isalnum() for c in response) / max(1, len(response))
'''


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("plugin") / "toy.py"
    path.write_text(PLUGIN)
    return str(path)


def groups_of(run: Path, step: int) -> list[list[dict[str, Any]]]:
    groups: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in runs.read_rollouts(run, step):
        groups[row["task"]].append(row)
    return list(groups.values())


def advantages_of(group: list[dict[str, Any]]) -> list[float]:
    return [row["advantage"] for row in group]


def test_online_dpo_begins_with_half_of_beta_for_the_best_and_against_the_worst(
    tiny_model: Path, plugin: str, tmp_path: Path
) -> None:
    # before the first step the policy is the reference: sigmoid(0) = 1/2, times 4 siblings; later no longer
    run = tmp_path / "run"
    settings = ["advantage.beta=0.4", "steps=3", "optim.lr=1e-2", "sample.group_size=4"]
    train(make_recipe(run, tiny_model, plugin, "share", *settings, "algorithm=online_dpo"))
    compared = [group for group in groups_of(run, 1) if len({row["reward"] for row in group}) > 1]
    assert compared
    for group in compared:
        rewards = [row["reward"] for row in group]
        wanted = [0.0] * len(group)
        wanted[rewards.index(max(rewards))], wanted[rewards.index(min(rewards))] = 0.8, -0.8
        assert advantages_of(group) == pytest.approx(wanted, abs=1e-6)
    forces = [max(advantages_of(group)) for group in groups_of(run, 3)]
    assert all(abs(force - 0.8) > 1e-5 for force in forces if force)
    assert any(forces)


def test_raft_gives_the_group_of_the_best_its_whole_weight(tiny_model: Path, plugin: str, tmp_path: Path) -> None:
    train(make_recipe(tmp_path / "run", tiny_model, plugin, "share", "steps=1", "algorithm=raft"))
    (row,) = steps_of(tmp_path / "run")
    assert row["grad_norm"] > 0
    for group in groups_of(tmp_path / "run", 1):
        best = max(row["reward"] for row in group)
        num_best = sum(row["reward"] == best for row in group)
        share = 0.0 if num_best == len(group) else len(group) / num_best
        assert advantages_of(group) == pytest.approx([share * (row["reward"] == best) for row in group])


def test_distillation_comes_nearer_to_its_teacher(
    tiny_model: Path, untied_model: Path, plugin: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    settings = [f"reference.path={untied_model}", "steps=12", "optim.lr=3e-3"]
    train(make_recipe(run, tiny_model, plugin, "share", *settings, "algorithm=distillation"))
    kl = [row["kl"] for row in steps_of(run)]
    assert sum(kl[-3:]) < 0.8 * sum(kl[:3])
    assert min(kl[:3]) > 0.1


BASE = ["model.path=m", "data.path=d", "steps=2"]
TAUGHT = ["algorithm=distillation", "reference.path=teacher"]


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["algorithm=online_dpo", "updates=2"], "has the gradient of DPO's loss with updates: 1 only, got 2"),
        (["algorithm=online_dpo", "epochs=3"], "with epochs: 1 only, got 3"),
        (["algorithm=online_dpo", "loss.surrogate=clip"], "with loss.surrogate: reinforce only, got clip"),
        (["algorithm=online_dpo", "loss.aggregate=token"], "with loss.aggregate: sequence_sum only, got token"),
        (["algorithm=online_dpo", "advantage.whiten=true"], "with advantage.whiten: False only, got True"),
        (["algorithm=online_dpo", "advantage.top_entropy=0.5"], "with advantage.top_entropy: 1.0 only, got 0.5"),
        (["algorithm=online_dpo", "kl.coef=0.1"], "in advantage.beta; kl.coef must be 0, got 0.1"),
        (["advantage.kind=online_dpo"], "with loss.surrogate: reinforce only, got clip"),
        (["algorithm=raft", "loss.surrogate=clip"], "imitates the best with loss.surrogate: reinforce only, got clip"),
        (
            ["algorithm=raft", "loss.aggregate=sequence"],
            "loss.aggregate: sequence_sum or constant or token only, got s",
        ),
        (["algorithm=raft", "advantage.whiten=true"], "with advantage.whiten: False only, got True"),
        ([*TAUGHT, "kl.kind=k2"], "the divergence from the teacher with kl.kind: k1 only, got k2"),
        ([*TAUGHT, "epochs=2"], "updates and epochs must be 1, got 1 and 2, or loss.surrogate clip"),
    ],
)
def test_what_would_make_another_gradient_of_them_is_refused_in_one_line(overrides: list[str], told: str) -> None:
    with pytest.raises(SettingsError) as error:
        from_overrides("rl", [*BASE, *overrides])
    assert told in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ["algorithm=online_dpo", "sample.group_size=8"],
        ["algorithm=raft", "updates=2", "epochs=3", "loss.aggregate=constant", "kl.coef=0.1"],
        [*TAUGHT, "epochs=2", "loss.surrogate=clip"],
        [*TAUGHT, "loss.aggregate=sequence"],
    ],
)
def test_what_leaves_their_gradient_as_it_is_is_taken(overrides: list[str]) -> None:
    recipe = from_overrides("rl", [*BASE, *overrides])
    for word in overrides:
        name, _, value = word.partition("=")
        assert str(attrgetter(name)(recipe)) == value
