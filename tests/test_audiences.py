"""One adapter for each audience: rows by group, the matrix of who is served how, and a real run of two tastes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from probing_cases import save_worth
from test_probing_swap import call

from rlvr import ancestry, audience, audience_report, lineage
from rlvr.errors import DataError, SettingsError

TASTE = '''
def nurses(response):
    """Share of a."""
    return response.count("a") / max(1, len(response))

def students(response):
    """Share of b."""
    return response.count("b") / max(1, len(response))

def not_nurses(response):
    return 1 - nurses(response)

def not_students(response):
    return 1 - students(response)
'''


def jsonl(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def preferences(num: int = 24) -> list[dict[str, Any]]:
    sides = {"nurses": ("aaaaaaaa", "bbbbbbbb"), "students": ("bbbbbbbb", "aaaaaaaa")}
    return [
        {
            "id": f"{group}{k}",
            "prompt": f"q {k}:",
            "chosen": sides[group][0],
            "rejected": sides[group][1],
            "group": group,
        }
        for k in range(num)
        for group in sides
    ]


@pytest.fixture
def recipe(tmp_path: Path, tiny_model: Path) -> Path:
    values = {
        "stage": "dpo",
        "steps": 12,
        "batch_size": 8,
        "model": {"path": str(tiny_model), "lora": {"rank": 8}},
        "data": {"path": str(jsonl(tmp_path / "rows.jsonl", preferences()))},
        "optim": {"lr": 1e-2},
        "system": {"threads": 1},
    }
    (tmp_path / "dpo.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "dpo.yaml"


# --- training --------------------------------------------------------------------------------------------------------


def test_each_group_learns_from_its_own_rows(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, Sequence[str]]] = []
    monkeypatch.setattr(audience, "_run", lambda command, path, overrides: asked.append((command, overrides)))
    told = audience.train(str(recipe), tmp_path / "out", by="group", overrides=["seed=3", "loss.beta=0.2"])
    assert list(told["groups"]) == ["nurses", "students"]
    assert [command for command, _ in asked] == ["dpo", "dpo"]
    for (_, overrides), name in zip(asked, told["groups"], strict=True):
        file = tmp_path / "out" / f"{name}.jsonl"
        assert overrides == ["seed=3", "loss.beta=0.2", f'run.dir="{tmp_path / "out" / name}"', f'data.path="{file}"']
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        assert rows == [row for row in preferences() if row["group"] == name]
        origin = lineage.origin_of(file)
        assert origin is not None and origin["where"] == {"group": name}
        assert origin["inputs"][0]["files"][0]["path"] == str(tmp_path / "rows.jsonl")
    with pytest.raises(DataError, match="the adapter of nurses is not finished"):
        audience.read(tmp_path / "out")


def test_an_override_may_name_the_group(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Sequence[str]] = []
    monkeypatch.setattr(audience, "_run", lambda command, path, overrides: asked.append(overrides))
    given = ["data.path=runs/{group}.jsonl", "model.lora=null"]
    audience.train(str(recipe), tmp_path / "out", by=None, groups=["a", "b"], overrides=given)
    assert [overrides[0] for overrides in asked] == ["data.path=runs/a.jsonl", "data.path=runs/b.jsonl"]
    assert all(overrides[-1] == "model.lora=true" for overrides in asked)  # an adapter in any case


@pytest.mark.parametrize(
    ("by", "groups", "message"),
    [
        (None, [], "--by COLUMN names the groups"),
        ("team", [], "no row says in 'team' which group it is of (48 rows)"),
        ("group", ["doctors"], "no row is of 'doctors'; there are nurses, students"),
        ("group", ["../x"], "must be the name of a folder"),
        ("group", ["base"], "must be the name of a folder"),
    ],
)
def test_groups_that_are_none_are_refused(
    recipe: Path, tmp_path: Path, by: str | None, groups: list[str], message: str
) -> None:
    with pytest.raises((DataError, SettingsError)) as error:
        audience.train(str(recipe), tmp_path / "out", by=by, groups=groups)
    assert message in str(error.value)


# --- the matrix ------------------------------------------------------------------------------------------------------


def test_a_group_that_is_served_worse_is_named_and_cross_use_is_not_counted() -> None:
    base = {str(k): 0.5 for k in range(20)}
    lower, higher = ({task: value + by for task, value in base.items()} for by in (-0.2, 0.2))
    found = {"base": {"a": base, "b": base}, "a": {"a": higher, "b": lower}, "b": {"a": lower, "b": higher}}
    told = audience_report.matrix(found)
    assert (told["worse"], told["better"]) == ([], ["a", "b"])
    assert told["cross_worse"] == ["a on b", "b on a"]
    assert told["verdict"].startswith("no group is served worse than before; 2 of 2 better")
    found["b"] = {"a": lower, "b": lower}
    told = audience_report.matrix(found)
    assert (told["worse"], told["better"]) == (["b"], ["a"])
    assert told["verdict"].startswith("worse than before: b")
    assert audience_report.matrix(found, tolerance=0.3)["worse"] == []


def test_scores_are_those_of_each_groups_own_judge(tmp_path: Path) -> None:
    (tmp_path / "taste.py").write_text(TASTE)
    rows = [
        {"id": "1", "prompt": "q:", "completions": ["aab", "abbb"]},
        {"id": "2", "prompt": "q:", "completions": ["b"]},
    ]
    files = {"base": jsonl(tmp_path / "base.jsonl", rows)}
    found = audience_report.scores(f"{tmp_path / 'taste.py'}:{{group}}", ["nurses", "students"], files)["base"]
    assert found["nurses"] == {"1": pytest.approx((2 / 3 + 1 / 4) / 2), "2": 0.0}
    assert found["students"] == {"1": pytest.approx((1 / 3 + 3 / 4) / 2), "2": 1.0}
    model = save_worth(tmp_path / "rm", {"good": 1.0}, labels=("nurses", "students"))
    rows = [{"id": "1", "prompt": "the:", "completions": ["good road", "road"]}]
    files = {"base": jsonl(tmp_path / "words.jsonl", rows)}
    found = audience_report.scores(f"{model}:{{group}}", ["nurses", "students"], files)["base"]
    # one output is that of the other class: log odds of students are those of nurses with another sign
    assert found["students"]["1"] == pytest.approx(-found["nurses"]["1"])
    assert found["students"]["1"] > 0


# --- for real --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_audiences_are_each_served_better_and_none_worse(
    recipe: Path, tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    code, out, err = call(capsys, "audience", "train", recipe, "--by", "group", "--dir", folder, "--json")
    assert code == 0, err
    base = lineage.fingerprint_model(str(tiny_model))
    assert json.loads(out.splitlines()[-1])["base_fingerprint"] == base
    assert sorted(path.name for path in (folder / "nurses" / "adapter").glob("*.safetensors")) == [
        "adapter_model.safetensors"
    ]
    tasks = jsonl(tmp_path / "held.jsonl", [{"id": f"h{k}", "prompt": f"held {k}:"} for k in range(24)])
    (tmp_path / "taste.py").write_text(TASTE)
    arguments = [
        "audience",
        "report",
        folder,
        "--tasks",
        tasks,
        "--engine",
        "hf",
        "--max-tokens",
        8,
        "--strict",
        "--json",
    ]
    code, out, err = call(capsys, *arguments, "--score", f"{tmp_path / 'taste.py'}:{{group}}")
    assert code == 0, err
    told = json.loads(out.splitlines()[-1])
    assert (told["better"], told["worse"]) == (["nurses", "students"], [])
    for name, other in (("nurses", "students"), ("students", "nurses")):
        cell = told["cells"][name][name]
        assert cell["after"] > cell["before"] + 0.2
        assert told["cells"][name][other]["delta"] < 0.05
    code, _, err = call(capsys, *arguments, "--score", f"{tmp_path / 'taste.py'}:not_{{group}}")
    assert (code, err.splitlines()[-1]) == (1, f"rlvr: {folder}: served worse than by {tiny_model}: nurses, students")
    # of adapters of another model nothing is said
    swapped = audience.read(folder)
    swapped["groups"]["nurses"], swapped["groups"]["students"] = (swapped["groups"][n] for n in ("students", "nurses"))
    swapped["base"] = str(folder / "nurses" / "model")
    swapped["base_fingerprint"] = lineage.fingerprint_model(swapped["base"])
    (folder / audience.NAME).write_text(json.dumps(swapped))
    code, _, err = call(capsys, *arguments, "--score", f"{tmp_path / 'taste.py'}:{{group}}")
    assert code == 3 and "was trained on another model" in err
    # the rows of a group are walked back to the file that they were taken from
    node = ancestry.of_run(folder / "nurses", ancestry.Search())
    data = next(one for one in node["from"] if one["what"] == "data.path")
    assert data["num_rows"] == 24
    assert [one["path"] for one in data["from"]] == [str(tmp_path / "rows.jsonl")]


def test_the_recipe_is_read_once_for_all_groups(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    whole = audience.settings.load_recipe
    monkeypatch.setattr(audience, "_run", lambda command, path, overrides: None)
    monkeypatch.setattr(
        audience.settings, "load_recipe", lambda path, given: (read.append(path), whole(path, given))[1]
    )
    audience.train(str(recipe), tmp_path / "out", by="group")
    assert read == [str(recipe)]
