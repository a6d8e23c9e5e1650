"""A reward model with an output for each group of people: what each learns, how it is measured, what the reward is."""

from __future__ import annotations

import copy
import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from pydantic import ValidationError
from scorer_cases import make_group, plain_logits, save_scorer
from test_ranks import ended
from test_reward_model import LABELS, PAIRS, RANKINGS, loaded, make_rows, naive, reward, train, world, written
from test_rl import Quiet, gradient_descent

from rlvr import chat, heads, trained
from rlvr.errors import DataError, SettingsError
from rlvr.feedback.crowd import Person, answer
from rlvr.feedback.exports import Export, export_rows
from rlvr.feedback.records import Item
from rlvr.inputs import fingerprint_rows
from rlvr.loops import reward_model
from rlvr.loops.reward_evaluation import rewards
from rlvr.loops.reward_rows import AnyRow
from rlvr.preference_settings import PreferenceLoss
from rlvr.preferences import load_preferences, load_rankings, load_ratings
from rlvr.recipe import AdamW, ModelReward
from rlvr.reward_settings import PreferenceData
from rlvr.rewards import model as model_reward
from rlvr.runs import is_exact, read_metrics
from rlvr.seeds import rng_for
from rlvr.trained import Trained
from rlvr.types import Preference, Rating

NAMES = ["old", "young", "reward"]
GROUPS = ("young", "old", "", "young")


def grouped(rows: Sequence[AnyRow]) -> list[AnyRow]:
    return [replace(row, group=group) for row, group in zip(rows, GROUPS, strict=False)]


# --- rows ------------------------------------------------------------------------------------------------------------


def test_the_group_of_a_row_is_read_whatever_the_row_is(tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "chosen": "a", "rejected": "b", "group": "young"},
        {"prompt": "p", "chosen": "a", "rejected": "b", "group": None},
        {"prompt": "p", "chosen": "a", "rejected": "b", "group": 3},
        {"prompt": "p", "chosen": "a", "rejected": "b", "group": ["no", "name"]},
    ]
    data = PreferenceData(path=str(written(tmp_path / "pairs.jsonl", rows)))
    assert [row.group for row in load_preferences(data).rows] == ["young", "", "3", ""]
    assert [row.group for row in load_ratings(data).rows] == ["young", "young", "", "", "3", "3", "", ""]
    ranking = written(tmp_path / "r.jsonl", [{"prompt": "p", "completions": ["a", "b"], "ranks": [1, 2], "team": "x"}])
    named = PreferenceData(path=str(ranking), columns={"group": "team"})
    assert load_rankings(named).rows[0].group == load_preferences(named).rows[0].group == "x"


def test_a_label_may_say_how_sure_it_is(tmp_path: Path) -> None:
    row = {"prompt": "p", "completion": "c", "label": False}
    path = written(tmp_path / "a.jsonl", [row, {**row, "probability": 0.75}, {**row, "probability": 0.2}])
    data = PreferenceData(path=str(path), on_bad_row="skip")
    found = load_ratings(data)
    assert [r.probability for r in found.rows] == [1.0, 0.75]
    assert found.bad == (
        "a.jsonl:3: probability is 0.2, which says that the label is wrong; turn it round and give 0.8",
    )


def test_a_soft_label_is_learnt_as_such_by_a_discriminator_and_by_kto(tiny_model: Path, tmp_path: Path) -> None:
    from rlvr.loops import dpo

    soft = Rating(id="s", prompt="Q", completion="abc", label=False, probability=0.75)
    loss = PreferenceLoss(kind="binary")
    model, tokenizer = loaded(tiny_model)
    score = float(reward(model, tokenizer, "Q", "abc").detach())
    metrics = reward_model.update(Trained(model, AdamW(lr=1e-3), 1), loss, make_rows(tokenizer, [soft], loss))
    nll = 0.25 * math.log1p(math.exp(-score)) + 0.75 * math.log1p(math.exp(score))
    assert metrics["loss"] == pytest.approx(nll, abs=1e-5)
    units = dpo._encode(tokenizer, [soft], PreferenceData(path="x"), None, Quiet())
    assert [unit.probability for unit in units] == [0.25]


def test_rows_without_a_group_have_the_digest_that_they_always_had() -> None:
    # as of version 0.7, before rows had groups: a run that was begun then goes on
    assert fingerprint_rows(PAIRS[:1]) == fingerprint_rows([replace(PAIRS[0], source="x")])
    assert fingerprint_rows(PAIRS[:1]) != fingerprint_rows([replace(PAIRS[0], group="x")])
    import hashlib

    plain = repr(("a", "Q1", "abc", "d", 1.0, None, 0.5)).encode()
    assert fingerprint_rows(PAIRS[:1]) == hashlib.blake2b(plain, digest_size=16).hexdigest()


# --- one step --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["bradley_terry", "plackett_luce", "all_pairs", "binary"])
def test_each_row_is_learnt_by_the_output_of_its_group(
    case: Any, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trained, "_optimizers", gradient_descent)
    rows = grouped({"bradley_terry": PAIRS, "binary": LABELS}.get(case, RANKINGS))
    loss = PreferenceLoss(kind=case, groups="auto")
    model, tokenizer = loaded(tiny_model, len(NAMES))
    ours, theirs = model.double(), copy.deepcopy(model).double()
    heads.name_outputs(ours, NAMES, dict.fromkeys(NAMES, 1 / 3))
    wanted = torch.zeros((), dtype=torch.float64)
    for row in rows:  # the formula of the row, of a model whose first output is the group's
        turned = SimpleNamespace(model=theirs.model, score=Picked(theirs.score, NAMES.index(row.group or "reward")))
        wanted = wanted + naive(turned, tokenizer, [row], PreferenceLoss(kind=case)) / len(rows)
    wanted.backward()
    before = dict(copy.deepcopy(ours).named_parameters())
    for micro_tokens in (1, 8192):
        mine = copy.deepcopy(ours)
        stepped = Trained(mine, AdamW(lr=0.1, max_grad_norm=1e6, micro_tokens=micro_tokens), 1)
        metrics = reward_model.update(stepped, loss, make_rows(tokenizer, rows, loss, names=NAMES))
        assert metrics["loss"] == pytest.approx(float(wanted.detach()), rel=1e-9)
        for (name, p), other in zip(mine.named_parameters(), theirs.parameters(), strict=True):
            step = before[name] - 0.1 * other.grad
            torch.testing.assert_close(p, step, rtol=1e-7, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


class Picked(torch.nn.Module):
    """One output of a head as its first."""

    def __init__(self, head: Any, index: int) -> None:
        super().__init__()
        self.head, self.index = head, index

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.head(hidden)[..., self.index : self.index + 1]


def test_figures_of_a_step_are_of_each_rows_own_output(tiny_model: Path) -> None:
    model, tokenizer = loaded(tiny_model, len(NAMES))
    heads.name_outputs(model, NAMES, dict.fromkeys(NAMES, 1 / 3))
    with torch.no_grad():  # young likes what old does not
        head = heads.head(model).weight
        head[1], head[2] = -head[0], 0.0
    pair = Preference(id="1", prompt="Q", chosen="abc", rejected="d", group="old")
    rows: list[AnyRow] = [pair, replace(pair, id="2", group="young")]
    loss = PreferenceLoss(groups=("old", "young"))
    metrics = reward_model.update(
        Trained(model, AdamW(lr=1e-3), 1), loss, make_rows(tokenizer, rows, loss, names=NAMES)
    )
    assert metrics["accuracy"] == 0.5 and metrics["margin"] == pytest.approx(0.0, abs=1e-6)


# --- runs ------------------------------------------------------------------------------------------------------------


def split_world(num: int, name: str, *, with_none: bool = False) -> list[dict[str, Any]]:
    """Pairs of test_reward_model's world, of which the group "old" thinks the reverse."""
    rows = world(num, name, "pairs")
    for k, row in enumerate(rows):
        row["group"] = "young" if k % 2 else "old"
        if with_none and k % 5 == 0:
            row["group"] = None
        elif row["group"] == "old":
            row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    return rows


def test_a_model_keeps_its_groups_and_is_measured_by_group(tiny_model: Path, tmp_path: Path) -> None:
    data, held_out = (written(tmp_path / f"{n}.jsonl", split_world(k, n)) for n, k in (("t", 96), ("h", 40)))
    settings = ["steps=6", "batch_size=16", f"eval.tasks.path={held_out}", "loss.groups=[young,old]"]
    after = train(tmp_path / "run", tiny_model, data, *settings)["after"]
    model, tokenizer = loaded(tmp_path / "run" / "model")
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert config["reward_groups"] == ["young", "old"] == heads.labels(model) == heads.groups(model)
    assert config["reward_weights"] == {"young": 0.5, "old": 0.5}
    rows = load_preferences(PreferenceData(path=str(held_out))).rows
    encoded = chat.encode_rows(tokenizer, rows, max_length=None)
    examples = [example for _, own in encoded for example in own]
    with torch.no_grad():
        rows_of_K = [
            heads.scores(model, torch.tensor(e.ids)[None].long(), torch.tensor([len(e.ids)])) for e in examples
        ]
    score_BK = torch.cat(rows_of_K).double()
    own = rewards(model, encoded, score_BK.numpy())
    for group, index in (("young", 0), ("old", 1)):
        of = [k for k, row in enumerate(rows) if row.group == group]
        deltas = [float(score_BK[2 * k, index] - score_BK[2 * k + 1, index]) for k in of]
        assert [own[2 * k] - own[2 * k + 1] for k in of] == pytest.approx(deltas)
        figures = after["by_group"][group]
        assert figures["num"] == len(of) == 20
        assert figures["accuracy"] == pytest.approx(sum(delta > 0 for delta in deltas) / len(of))
        assert figures["margin"] == pytest.approx(sum(deltas) / len(of), abs=1e-5)
        assert {"ece", "nll", "calibration_slope"} <= set(figures)
    assert after["accuracy"] == pytest.approx(
        (after["by_group"]["young"]["accuracy"] + after["by_group"]["old"]["accuracy"]) / 2
    )
    measured = train(tmp_path / "again", tmp_path / "run" / "model", data, "steps=0", f"eval.tasks.path={held_out}")
    for group, figures in after["by_group"].items():
        assert measured["after"]["by_group"][group] == pytest.approx(figures)
    with pytest.raises(
        DataError, match=r"loss\.groups: model\.path .* has no output for group 'rich'; its groups are young"
    ):
        train(tmp_path / "no", tmp_path / "run" / "model", data, "steps=0", "loss.groups=[old,rich]", settings[2])


def test_rows_of_no_group_have_an_output_of_their_own_which_is_the_reward(tiny_model: Path, tmp_path: Path) -> None:
    data = written(tmp_path / "t.jsonl", split_world(30, "t", with_none=True))
    train(tmp_path / "run", tiny_model, data, "steps=2", "batch_size=8", "loss.groups=auto", "loss.ties=davidson")
    model, _ = loaded(tmp_path / "run" / "model")
    assert heads.labels(model) == ["old", "young", "reward"] and heads.groups(model) == ["old", "young"]
    assert heads.reward_weights(model).tolist() == [0.0, 0.0, 1.0]
    again = train(tmp_path / "more", tmp_path / "run" / "model", data, "steps=1", "batch_size=8", "loss.groups=auto")
    assert again["steps"] == 1
    with pytest.raises(
        SettingsError, match=r"needs a model with 1 output\(s\), and model.path has a classifier with 3"
    ):
        train(tmp_path / "other", tmp_path / "run" / "model", data, "steps=1")


def test_without_the_setting_groups_change_no_bit(tiny_model: Path, tmp_path: Path) -> None:
    rows = split_world(24, "t")
    data = written(tmp_path / "t.jsonl", rows)
    plain = written(tmp_path / "p.jsonl", [{k: v for k, v in row.items() if k != "group"} for row in rows])
    for name, path in (("with", data), ("without", plain)):
        train(tmp_path / name, tiny_model, path, "steps=3", "batch_size=8")
    one, two = ((tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("with", "without"))
    assert one == two
    assert "reward_groups" not in json.loads((tmp_path / "with" / "model" / "config.json").read_text())


@pytest.mark.parametrize(
    ("groups", "told"),
    [
        (
            "[young,olt]",
            "is of group 'old', which loss.groups does not name; did you mean 'olt'. groups are young, olt",
        ),
        ("[young,old,rich]", "loss.groups: no row of .* is of group 'rich'; there are old, young"),
    ],
)
def test_groups_that_the_rows_do_not_have_are_told(groups: str, told: str, tiny_model: Path, tmp_path: Path) -> None:
    data = written(tmp_path / "t.jsonl", split_world(8, "t"))
    with pytest.raises(DataError, match=told):
        train(tmp_path / "run", tiny_model, data, "steps=1", f"loss.groups={groups}")


def test_groups_of_rows_without_any_are_told(tiny_model: Path, tmp_path: Path) -> None:
    data = written(tmp_path / "t.jsonl", world(8, "t", "pairs"))
    with pytest.raises(DataError, match=r"no row has a group, of which loss\.groups learns; name the column with"):
        train(tmp_path / "run", tiny_model, data, "steps=1", "loss.groups=auto")
    one = written(tmp_path / "one.jsonl", [row | {"group": "a"} for row in world(8, "t", "pairs")])
    with pytest.raises(DataError, match=r"all rows of .* are of group 'a'; leave loss\.groups out"):
        train(tmp_path / "run", tiny_model, one, "steps=1", "loss.groups=auto")


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        ({"groups": ("a",)}, "groups must be two or more different names"),
        ({"groups": ("a", "a")}, "groups must be two or more different names"),
        ({"groups": ("a", "reward")}, "none of them 'reward'"),
        ({"groups": ("a", "b"), "kind": "regression"}, "groups goes with kind bradley_terry, all_pairs,"),
    ],
)
def test_settings_of_groups_that_cannot_be_are_refused(loss: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        PreferenceLoss(**loss)


# --- as a reward -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def edit(model: Any) -> None:
        heads.name_outputs(model, NAMES, {"reward": 1.0})
        heads.name_groups(model, NAMES[:2])

    return save_scorer(tmp_path_factory.mktemp("groups") / "model", labels=("a", "b", "c"), edit=edit)


@pytest.mark.parametrize(
    ("given", "due"),
    [
        ({}, lambda row: row[2]),
        ({"group": "old"}, lambda row: row[0]),
        ({"group": "young"}, lambda row: row[1]),
        ({"combine": "mean"}, lambda row: (row[0] + row[1]) / 2),
        ({"combine": "min"}, lambda row: min(row[0], row[1])),
        ({"label": "young"}, lambda row: row[1]),
    ],
    ids=["overall", "old", "young", "mean", "min", "label"],
)
def test_a_reward_is_of_one_group_or_of_all(scorer: Path, given: dict[str, Any], due: Any) -> None:
    group = make_group("2", "it is two", "three, I think", "")
    writer = model_reward.Writer(chat.byte_tokenizer(), frozenset({1}))
    settings = ModelReward(kind="model", path=str(scorer), **given)
    (verdicts,) = model_reward.ModelReward("taste", settings, writer, (), lambda _: None).score([group])
    logits = plain_logits(scorer, [(*group.prompt_ids, *r.completion.token_ids) for r in group.rollouts])
    assert [verdict.value for verdict in verdicts] == pytest.approx([due(row) for row in logits], abs=1e-5)


def test_a_group_that_is_not_there_is_told(scorer: Path, tmp_path: Path) -> None:
    writer = model_reward.Writer(chat.byte_tokenizer(), frozenset({1}))
    plain = save_scorer(tmp_path / "plain")
    cases = [
        (scorer, {"group": "olt"}, "rewards.taste: the model has no group 'olt'; did you mean 'old'? it has 'old', 'y"),
        (plain, {"combine": "min"}, "rewards.taste: combine: min needs a reward model with outputs for groups"),
        (plain, {"group": "old"}, "rewards.taste: group 'old' needs a reward model with outputs for groups"),
    ]
    for path, given, told in cases:
        settings = ModelReward(kind="model", path=str(path), **given)
        with pytest.raises(DataError) as caught:
            model_reward.ModelReward("taste", settings, writer, (), lambda _: None)
        assert str(caught.value).startswith(told)
    with pytest.raises(ValidationError, match="label, attributes, group and combine each say which outputs count"):
        ModelReward(kind="model", path="x", group="a", combine="min")


def test_another_group_is_another_version_and_none_is_the_one_there_was(scorer: Path) -> None:
    def digest(**given: Any) -> str:
        return model_reward.digest(ModelReward(kind="model", path=str(scorer), **given))

    assert len({digest(), digest(group="old"), digest(group="young"), digest(combine="min")}) == 4
    names = ("label", "attributes", "ensemble", "shift", "scale", "clip", "dtype")
    read = ModelReward(kind="model", path=str(scorer)).model_dump()
    from hashlib import blake2b

    from rlvr.inputs import fingerprint_model

    whole = repr(([fingerprint_model(str(scorer))], [(name, read[name]) for name in names]))
    assert digest() == blake2b(whole.encode(), digest_size=4).hexdigest()


# --- what it is for --------------------------------------------------------------------------------------------------


def crowd_of_two_minds(num: int, name: str) -> tuple[list[Item], list[Any], list[float]]:
    """(items, answers of three who like what two others dislike, log odds of the three for the first completion)"""
    rows = world(num, name, "ranking")
    items = [Item(id=row["id"], prompt=row["prompt"], completions=tuple(row["completions"][:2])) for row in rows]
    worth = {"a": 1.6, "b": -1.6, "c": 0.8, "d": -0.8, "e": 0.0, "f": 0.0}

    def utility(item: Item, k: int) -> float:
        return sum(worth[letter] for letter in item.completions[k])

    people = [Person(name=f"{group}{k}", group=group) for group, n in (("most", 3), ("few", 2)) for k in range(n)]
    answers = answer(
        people, items, {"most": utility, "few": lambda item, k: -utility(item, k)}, per_item=5, seed=len(name)
    )
    return items, answers, [utility(item, 0) - utility(item, 1) for item in items]


@pytest.mark.slow
def test_heads_of_two_groups_reach_both_ceilings_where_one_head_is_sure_of_what_divides_them(
    tiny_model: Path, tmp_path: Path
) -> None:
    items, answers, _ = crowd_of_two_minds(500, "t")
    held_items, _, log_odds = crowd_of_two_minds(300, "h")
    sigmoid = [1 / (1 + math.exp(-x)) for x in log_odds]

    def held(group: str | None, p_first: list[float]) -> list[dict[str, Any]]:
        found = []
        for item, p in zip(held_items, p_first, strict=True):
            is_first = rng_for("held", str(group), item.id).random() < p
            chosen, rejected = item.completions if is_first else item.completions[::-1]
            row = {"prompt": item.prompt, "chosen": chosen, "rejected": rejected, "group": group}
            found.append({"id": f"{item.id}{group}", **row, "true_probability": p if is_first else 1 - p})
        return found

    pooled = held(None, [0.6 * p + 0.4 * (1 - p) for p in sigmoid])
    by_group = held("most", sigmoid) + held("few", [1 - p for p in sigmoid])
    after = {}
    for name, labels, is_split in (("soft", "votes", False), ("hard", "majority", False), ("groups", "votes", True)):
        settings: Any = Export(labels=labels, by_group=is_split)
        rows = export_rows(items, answers, settings, lambda name: name, {}).rows
        data = written(tmp_path / f"{name}.jsonl", rows)
        held_out = written(tmp_path / f"{name}-held.jsonl", by_group if is_split else pooled)
        given = ["steps=90", "batch_size=32", "optim.schedule=cosine", f"eval.tasks.path={held_out}"]
        given += ["loss.groups=auto"] if is_split else []
        after[name] = train(tmp_path / name, tiny_model, data, *given)["after"]
    # three to two: what is known of a choice is little, and only soft labels say so
    assert after["soft"]["ece_true"] < 0.09 < 0.15 < after["hard"]["ece_true"]
    assert after["hard"]["calibration_slope"] < 0.35
    for group in ("most", "few"):
        assert after["groups"]["by_group"][group]["ceiling_share"] > 0.95
        assert after["groups"]["by_group"][group]["ece_true"] < 0.1
    # one head can be right for the many alone
    given = ["steps=0", f"eval.tasks.path={tmp_path / 'groups-held.jsonl'}"]
    of_one = train(tmp_path / "one", tmp_path / "soft" / "model", data, *given)["after"]["by_group"]
    assert of_one["few"]["ceiling_share"] < 0.3 < 0.9 < of_one["most"]["ceiling_share"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "loss", [{"groups": "auto"}, {"kind": "attributes", "attributes": {"score": 1.0, "safe": 0.5}}]
)
def test_two_ranks_give_the_outputs_of_one(loss: dict[str, Any], tiny_model: Path, tmp_path: Path) -> None:
    rows = {n: split_world(k, n) for n, k in (("t", 40), ("h", 12))}
    if "groups" not in loss:
        rows = {n: [{**row, "safe": 1.0} for row in world(len(rows[n]), n, "score")] for n in rows}
    data, held_out = (written(tmp_path / f"{n}.jsonl", rows[n]) for n in rows)
    values = {
        "stage": "reward_model",
        "steps": 4,
        "batch_size": 6,
        "model": {"path": str(tiny_model)},
        "data": {"path": str(data)},
        "loss": loss,
        "eval": {"tasks": {"path": str(held_out)}},
        "optim": {"lr": 1e-3, "micro_tokens": 64},
    }
    for run, ranks in (("one", 1), ("two", 2)):
        (tmp_path / f"{run}.yaml").write_text(yaml.safe_dump({**values, "run": {"dir": run}}))
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
        process = subprocess.Popen(
            [sys.executable, *launcher, "-m", "rlvr", "reward-model", f"{run}.yaml"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        code, said = ended(process)
        assert code == 0, said
    for ours, theirs in zip(*(read_metrics(tmp_path / run) for run in ("two", "one")), strict=True):
        for name in filter(is_exact, theirs):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3, abs=1e-4), name
