"""Reward models: one step against the formula row by row, every kind of data, what is learned and what is measured."""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_rl import Quiet, assert_same_bits, exact, gradient_descent
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlvr import chat, heads, runs, trained
from rlvr.errors import DataError, NonFiniteError, SettingsError
from rlvr.loops import reward_model
from rlvr.loops.reward_rows import AnyRow, Listed, compared, elements
from rlvr.loops.stopping import StopRequest
from rlvr.preference_settings import PreferenceLoss, RewardModelRecipe
from rlvr.recipe import AdamW, Model
from rlvr.seeds import rng_for
from rlvr.settings import from_overrides
from rlvr.trained import Trained
from rlvr.types import BestOf, Preference, Ranking, Rating

PAIRS = [
    Preference(id="a", prompt="Q1", chosen="abc", rejected="d", margin=0.5),
    Preference(id="b", prompt="Q1", chosen="d", rejected="e f g h", probability=0.7),
    Preference(id="c", prompt="Q2", chosen="x", rejected="yz", probability=0.5),
    Preference(id="d", prompt="Q3", chosen="much longer than the others", rejected="no"),
]
RANKINGS = [
    Ranking(id="r", prompt="Q1", completions=("a", "bb", "c"), order=((2,), (0,), (1,))),
    Ranking(id="s", prompt="Q2", completions=("dd", "e", "f", "g"), order=((1, 3), (0,), (2,))),
]
BEST_OF = [BestOf(id="z", prompt="Q4", chosen=("yes", "yep"), rejected=("no", "nope", "never"))]
LABELS = [Rating(id=str(k), prompt="Q", completion=text, label=k % 2 == 0) for k, text in enumerate(["a", "bb", "c"])]
SCORES = [
    Rating(id="0", prompt="Q", completion="a", scores={"helpful": 1.5, "polite": -1.0}),
    Rating(id="1", prompt="Q", completion="bb", scores={"helpful": 0.5}),
    Rating(id="2", prompt="Q", completion="ccc", scores={"polite": 2.0}),
]


def loaded(path: Path, num_outputs: int = 1) -> tuple[Any, Any]:
    return heads.load_scorer(Model(path=str(path)), num_outputs=num_outputs, seed=0)


def make_rows(
    tokenizer: Any, rows: Sequence[AnyRow], loss: PreferenceLoss, group_by: Any = "row", names: Sequence[str] = ()
) -> reward_model.Rows:
    encoded = chat.encode_rows(tokenizer, rows, max_length=None)
    return reward_model.pad(elements(encoded, loss, names or ["reward"], group_by))


def reward(model: Any, tokenizer: Any, prompt: str, completion: str) -> Tensor:
    """[K] of one text alone, through the library's layers."""
    ids = tokenizer(prompt)["input_ids"] + tokenizer(completion)["input_ids"] + [tokenizer.eos_token_id]
    return model.score(model.model(torch.tensor([ids])).last_hidden_state[0, -1])


def naive(model: Any, tokenizer: Any, rows: Sequence[AnyRow], loss: PreferenceLoss) -> Tensor:
    """The mean over the rows of each kind's formula, one text at a time."""
    found = []
    for row in rows:
        if isinstance(row, Rating):
            score_K = reward(model, tokenizer, str(row.prompt), row.completion)
            if loss.kind == "binary":
                found.append(-logsigmoid(score_K[0] if row.label else -score_K[0]))
            else:
                errors = [(score_K[k] - row.scores[n]) ** 2 for k, n in enumerate(loss.attributes) if n in row.scores]
                found.append(torch.stack(errors).mean())
            continue
        if isinstance(row, Preference):
            texts, order = (row.chosen, row.rejected), ((0,), (1,))
        elif isinstance(row, Ranking):
            texts, order = row.completions, row.order
        else:
            texts = row.chosen + row.rejected
            order = (tuple(range(len(row.chosen))), tuple(range(len(row.chosen), len(texts))))
        r = [reward(model, tokenizer, str(row.prompt), text)[0] for text in texts]
        if isinstance(row, Preference):
            delta = r[0] - r[1] - (row.margin or 0.0) * (loss.margin == "column")
            found.append(-row.probability * logsigmoid(delta) - (1 - row.probability) * logsigmoid(-delta))
            found[-1] = found[-1] + loss.center_coef * (r[0] + r[1]) ** 2
            continue
        worse = [[j for later in order[level + 1 :] for j in later] for level in range(len(order))]
        stages = [
            [torch.logsumexp(torch.stack([r[i], *(r[j] for j in worse[level])]), 0) - r[i] for i in place]
            for level, place in enumerate(order)
        ]
        if loss.kind == "plackett_luce":
            found.append(torch.stack([stage for level in stages for stage in level]).sum())
        elif loss.kind == "top_choice":
            found.append(torch.stack(stages[0]).mean())
        else:
            pairs = [-logsigmoid(r[i] - r[j]) for level, place in enumerate(order) for i in place for j in worse[level]]
            if isinstance(row, Ranking):  # those of one place count half for either side
                ties = [p for place in order for p in itertools.combinations(place, 2)]
                pairs += [-0.5 * (logsigmoid(r[i] - r[j]) + logsigmoid(r[j] - r[i])) for i, j in ties]
            found.append(torch.stack(pairs).mean())
    return torch.stack(found).mean()


# --- one step --------------------------------------------------------------------------------------------------------

CASES: dict[str, tuple[Sequence[AnyRow], dict[str, Any]]] = {
    "bradley_terry": (PAIRS, {"margin": "column", "center_coef": 0.1}),
    "plackett_luce": (RANKINGS, {}),
    "all_pairs": (RANKINGS, {}),
    "top_choice": ([*BEST_OF], {}),
    "all_pairs of best_of": ([*BEST_OF], {}),
    "binary": (LABELS, {}),
    "attributes": (SCORES, {"attributes": {"helpful": 1.0, "polite": 2.0}}),
}


@pytest.mark.parametrize("case", list(CASES))
def test_loss_and_gradient_are_those_of_the_formula_row_by_row(
    case: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trained, "_optimizers", gradient_descent)
    rows, options = CASES[case]
    loss = PreferenceLoss(kind=case.partition(" ")[0], **options)
    names = list(loss.attributes)
    model, tokenizer = loaded(tiny_model, max(1, len(names)))
    heads.name_outputs(model, *reward_model._outputs(loss, names or ["reward"]))
    ours, theirs = copy.deepcopy(model).double(), copy.deepcopy(model).double()
    wanted = naive(theirs, tokenizer, rows, loss)
    wanted.backward()
    before = dict(copy.deepcopy(model).double().named_parameters())
    for micro_tokens in (1, 8192):  # each element alone, and all at once
        mine = copy.deepcopy(ours)
        stepped = Trained(mine, AdamW(lr=0.1, max_grad_norm=1e6, micro_tokens=micro_tokens), 1)
        metrics = reward_model.update(stepped, loss, make_rows(tokenizer, rows, loss, names=names))
        assert metrics["loss"] == pytest.approx(float(wanted.detach()), rel=1e-9)
        for (name, p), other in zip(mine.named_parameters(), theirs.parameters(), strict=True):
            step = before[name] - 0.1 * other.grad
            torch.testing.assert_close(p, step, rtol=1e-7, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


def test_figures_of_a_step_are_trls(tiny_model: Path) -> None:
    model, tokenizer = loaded(tiny_model)
    rows = [row for row in PAIRS if row.probability == 1.0]
    with torch.no_grad():
        pairs = [[float(reward(model, tokenizer, str(r.prompt), t)) for t in (r.chosen, r.rejected)] for r in rows]
    metrics = reward_model.update(
        Trained(model, AdamW(lr=1e-3), 1), PreferenceLoss(), make_rows(tokenizer, rows, PreferenceLoss())
    )
    flat = [r for pair in pairs for r in pair]
    assert metrics["accuracy"] == sum(c > r for c, r in pairs) / 2
    assert metrics["margin"] == pytest.approx(sum(c - r for c, r in pairs) / 2, abs=1e-5)
    for name, value in (("mean", sum(flat) / 4), ("min", min(flat)), ("max", max(flat))):
        assert metrics[f"{name}_reward"] == pytest.approx(value, abs=1e-5)


def test_rows_of_one_prompt_are_one_element_and_their_shared_completions_one_row(tiny_model: Path) -> None:
    tokenizer = loaded(tiny_model)[1]
    apart = make_rows(tokenizer, PAIRS, PreferenceLoss())
    together = make_rows(tokenizer, PAIRS, PreferenceLoss(), "prompt")
    assert (apart.num_elements, len(apart.ids_BT)) == (4, 8)
    assert (together.num_elements, len(together.ids_BT)) == (3, 7)  # "d" is in two pairs of Q1
    assert together.weight_L.tolist() == [0.5, 0.5, 1.0, 1.0]
    assert together.place_LW.tolist() == [[0, 1], [1, 2], [3, 4], [5, 6]]
    assert together.probability_L.tolist() == [1.0, 0.7, 0.5, 1.0]


def test_micro_batches_never_split_what_is_compared(tiny_model: Path) -> None:
    tokenizer = loaded(tiny_model)[1]
    rows = make_rows(tokenizer, [*RANKINGS], PreferenceLoss(kind="plackett_luce"))
    second = rows.pick(torch.tensor([1]))
    assert second.length_B.tolist() == rows.length_B[3:].tolist()
    assert second.place_LW.tolist() == [[1, 3, 0, 2]]
    assert second.level_LW.tolist() == [[0, 0, 1, 2]]
    assert second.ids_BT.shape[1] == int(second.length_B.max())
    assert rows.cost_E().tolist() == [4 * 5, 4 * 5]  # as many rows as the widest element, as long as its longest


def test_a_ranking_with_ties_as_pairs_has_half_labels_and_best_of_rows_none() -> None:
    pairs = compared(RANKINGS[1], in_pairs=True)
    assert [(p.places, p.probability) for p in pairs][:3] == [((1, 3), 0.5), ((1, 0), 1.0), ((1, 2), 1.0)]
    assert len(pairs) == 6
    assert [p.places for p in compared(BEST_OF[0], in_pairs=True)] == list(itertools.product((0, 1), (2, 3, 4)))
    assert compared(RANKINGS[1], in_pairs=False) == [Listed((1, 3, 0, 2), (0, 0, 1, 2))]


# --- the loop --------------------------------------------------------------------------------------------------------

WORTH = {"a": 1.2, "b": -1.2, "c": 0.6, "d": -0.6, "e": 0.0, "f": 0.0}


def worth(text: str) -> float:
    return sum(WORTH[letter] for letter in text)


def written(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def world(num: int, name: str, kind: str) -> list[dict[str, Any]]:
    """Texts of some letters, each with a worth: pairs labelled by Bradley and Terry, orders by worth, ratings."""
    rows = []
    for k in range(num):
        rng = rng_for(name, k)
        texts: list[str] = []
        while len(texts) < 4:
            text = "".join(rng.choice("abcdef") for _ in range(rng.randint(2, 5)))
            texts += [] if text in texts else [text]
        row: dict[str, Any] = {"id": f"{name}{k}", "prompt": f"{name}{k}:"}
        if kind == "pairs":
            p = 1 / (1 + math.exp(worth(texts[1]) - worth(texts[0])))
            if rng.random() > p:
                texts[:2], p = texts[1::-1], 1 - p
            row |= {"chosen": texts[0], "rejected": texts[1], "true_probability": p}
        elif kind == "ranking":
            row |= {"completions": texts, "ranks": [sorted(texts, key=worth, reverse=True).index(t) + 1 for t in texts]}
        elif kind == "label":
            row |= {"completion": texts[0], "label": worth(texts[0]) > 0}
        else:
            row |= {"completion": texts[0], "score": worth(texts[0])}
        rows.append(row)
    return rows


def weights(run: Path) -> dict[str, Tensor]:
    return load_file(run / "model" / "model.safetensors")


def train(folder: Path, model: Path, data: Path, *overrides: str, progress: Any = None) -> dict[str, Any]:
    settings = [f"run.dir={folder}", f"data.path={data}", f"model.path={model}", "optim.lr=3e-3", *overrides]
    recipe = from_overrides("reward_model", settings)
    assert isinstance(recipe, RewardModelRecipe)
    with runs.Run.open(recipe, "toy.yaml") as run:
        return reward_model.train(recipe, run, progress or Quiet(), StopRequest())


@pytest.mark.slow
def test_it_learns_a_known_preference_and_says_how_near_it_came(tiny_model: Path, tmp_path: Path) -> None:
    data, held_out = (written(tmp_path / f"{n}.jsonl", world(k, n, "pairs")) for n, k in (("t", 1500), ("h", 400)))
    probes = [
        {"id": "1", "prompt": "h0:", "a": "fa", "b": "fb", "attribute": "a", "expected": "higher"},
        {"id": "2", "prompt": "h0:", "a": "db", "b": "da", "attribute": "a", "expected": "lower"},
        {"id": "3", "prompt": "h0:", "a": "ef", "b": "fe", "attribute": "order", "expected": "same"},
    ]
    settings = ["steps=70", "batch_size=32", "eval.every=35", "optim.schedule=cosine", f"eval.tasks.path={held_out}"]
    probing = f"eval.probes={written(tmp_path / 'probes.jsonl', probes)}"
    after = train(tmp_path / "run", tiny_model, data, *settings, probing)["after"]
    assert after["ceiling_share"] > 0.93
    assert after["expected_accuracy"] == pytest.approx(after["ceiling_share"] * after["noise_ceiling"])
    assert after["best_nll"] < after["expected_nll"] < math.log(2)
    assert after["probes"]["a"]["as_expected"] == 1.0
    assert abs(after["length_bias_beyond_truth"]["per_token"]) < abs(after["length_bias"]["per_token"]) + 0.2
    rows = runs.read_metrics(tmp_path / "run")
    assert [row["step"] for row in rows if "eval/accuracy" in row] == [35, 70]
    assert json.loads((tmp_path / "run" / "evals" / "step_000070.json").read_text())["accuracy"] == after["accuracy"]
    again, tokenizer = loaded(tmp_path / "run" / "model")
    assert heads.labels(again) == ["reward"]
    with torch.no_grad():
        good, bad = (float(reward(again, tokenizer, "h0:", text)) for text in ("aca", "bdb"))
    assert good - bad > 2


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("ranking", ["loss.kind=plackett_luce"]),
        ("ranking", ["loss.kind=all_pairs", "group_by=prompt"]),
        ("label", ["loss.kind=binary"]),
        ("score", ["loss.kind=regression", "loss.variance=true"]),
        ("pairs", ["loss.kind=binary", "gradient_checkpointing=true"]),
        ("pairs", ["loss.robust=0.1", "model.lora=true", "optim.lr=5e-3"]),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0].partition("=")[2],
)
def test_every_kind_of_data_lowers_its_loss_and_is_measured(
    kind: str, settings: list[str], tiny_model: Path, tmp_path: Path
) -> None:
    data, held_out = (written(tmp_path / f"{n}.jsonl", world(k, n, kind)) for n, k in (("t", 96), ("h", 40)))
    given = ["steps=16", "batch_size=24", f"eval.tasks.path={held_out}", *settings]
    after = train(tmp_path / "run", tiny_model, data, *given)["after"]
    losses = [row["loss"] for row in runs.read_metrics(tmp_path / "run") if "loss" in row]
    assert sum(losses[-4:]) < sum(losses[:4])  # of whole epochs
    told = {"ranking": "best_of", "label": "auc", "score": "pearson", "pairs": "ceiling_share"}[kind]
    value = after[told]["accuracy"] if told == "best_of" else after[told]
    assert value > {"best_of": 0.3, "auc": 0.6, "pearson": 0.2, "ceiling_share": 0.7}[told]
    model, _ = loaded(tmp_path / "run" / "model")
    if kind == "score":
        assert heads.labels(model) == ["score", "score_log_variance"]
        assert heads.reward_weights(model).tolist() == [1.0, 0.0]
        assert 0 < after["within_two_deviations"] <= 1
    else:
        assert heads.labels(model) == ["reward"]


def test_attributes_are_outputs_whose_weights_the_model_keeps(tiny_model: Path, tmp_path: Path) -> None:
    rows = [
        {"prompt": f"Q{k}", "completion": text, "scores": {"helpful": float(text.count("a")), "short": -len(text)}}
        for k, text in enumerate(["a", "ab", "bbb", "aab", "abba", "b"])
    ]
    data = written(tmp_path / "t.jsonl", rows)
    settings = ["loss.kind=attributes", "loss.attributes={helpful: 1, short: 0.5}", "steps=4", "batch_size=6"]
    train(tmp_path / "run", tiny_model, data, *settings)
    model, _ = loaded(tmp_path / "run" / "model")
    assert heads.labels(model) == ["helpful", "short"]
    assert heads.reward_weights(model).tolist() == [1.0, 0.5]


@pytest.mark.parametrize("adapters", [False, True])
def test_the_weight_of_a_tie_is_learned_and_leaves_the_saved_model_plain(
    adapters: bool, tiny_model: Path, tmp_path: Path
) -> None:
    rows = [{**row, "probability": 0.5} for row in world(40, "t", "pairs")]  # nothing but ties
    data = written(tmp_path / "t.jsonl", rows)
    settings = [
        "loss.ties=davidson",
        "steps=10",
        "batch_size=20",
        "optim.lr=0.05",
        f"model.lora={str(adapters).lower()}",
    ]
    train(tmp_path / "run", tiny_model, data, *settings)
    losses = [row["loss"] for row in runs.read_metrics(tmp_path / "run")]
    assert losses[0] == pytest.approx(math.log(3), abs=0.05)  # three outcomes, none known
    assert losses[-1] < 0.95
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert config["tie_weight"] > 1.3
    assert not [name for name in weights(tmp_path / "run") if "tie" in name]


def test_the_same_recipe_gives_the_same_bits_and_another_seed_another_head(tiny_model: Path, tmp_path: Path) -> None:
    data = written(tmp_path / "t.jsonl", world(40, "t", "pairs"))
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.rand(3)
        train(tmp_path / name, tiny_model, data, "steps=3", "batch_size=8", f"seed={seed}")
    rows = {name: exact(runs.read_metrics(tmp_path / name)) for name in "abc"}
    assert rows["a"] == rows["b"] != rows["c"]
    assert_same_bits(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_a_reward_model_is_trained_on_with_the_head_it_has(tiny_model: Path, tmp_path: Path) -> None:
    data = written(tmp_path / "t.jsonl", world(60, "t", "pairs"))
    train(tmp_path / "a", tiny_model, data, "steps=12", "batch_size=30")
    train(tmp_path / "b", tmp_path / "a" / "model", data, "steps=1", "batch_size=60")
    first, last = (runs.read_metrics(tmp_path / name) for name in "ab")
    assert last[0]["loss"] < first[0]["loss"] - 0.02
    assert last[0]["accuracy"] > 0.6


def test_without_steps_a_trained_reward_model_is_measured_on_another_file(tiny_model: Path, tmp_path: Path) -> None:
    data, held_out = (written(tmp_path / f"{n}.jsonl", world(30, n, "pairs")) for n in "th")
    chosen = [
        {**row, "chosen": [row["chosen"]], "rejected": [row["rejected"], "bbbbb"]} for row in world(30, "h", "pairs")
    ]
    bench = written(tmp_path / "bench.jsonl", [{k: row[k] for k in ("prompt", "chosen", "rejected")} for row in chosen])
    settings = ["batch_size=30", f"eval.tasks.path={held_out}"]
    after = train(tmp_path / "a", tiny_model, data, "steps=2", *settings)["after"]
    again = train(tmp_path / "b", tmp_path / "a" / "model", data, "steps=0", *settings)
    assert (again["after"], again["model"]) == (after, str(tmp_path / "a" / "model"))
    assert not (tmp_path / "b" / "model").exists()
    measured = train(tmp_path / "c", tmp_path / "a" / "model", data, "steps=0", f"eval.tasks.path={bench}")["after"]
    assert measured["best_of"]["chance"] == pytest.approx(1 / 3)
    assert measured["num"] == 60
    with pytest.raises(DataError, match=r"steps=0 only measures, and model.path .* is no trained reward model"):
        train(tmp_path / "d", tiny_model, data, "steps=0", *settings)


# --- what cannot be trained on ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (
            "pairs",
            ["loss.kind=plackett_luce"],
            r"holds comparisons, .* from rankings .*; set loss.kind to bradley_terry",
        ),
        ("score", [], r"holds ratings, and loss.kind bradley_terry learns from comparisons .* binary or regression"),
        ("score", ["loss.kind=binary"], r"no label.*\n|ratings without a label; they have scores \(score\)"),
        ("label", ["loss.kind=regression"], r"ratings without a score; from labels loss.kind binary learns"),
        ("score", ["loss.kind=attributes", "loss.attributes={scor: 1}"], r"attributes.scor: .* did you mean 'score'\?"),
    ],
)
def test_data_that_the_loss_cannot_learn_from_is_refused_with_what_fits(
    kind: str, settings: list[str], message: str, tiny_model: Path, tmp_path: Path
) -> None:
    data = written(tmp_path / "t.jsonl", world(6, "t", kind))
    with pytest.raises(DataError, match=message):
        train(tmp_path / "run", tiny_model, data, "steps=1", *settings)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["loss.kind=all_pairs", "loss.margin=column"], "margin goes with kind bradley_terry; kind is all_pairs"),
        (["eval.every=5"], "eval: every: 5 has nothing to measure on; set eval.tasks or eval.probes"),
        (["data=null"], "data is needed to train on; only steps: 0"),
        (["loss.kind=attributes"], "kind attributes needs attributes"),
        (["loss.robust=0.1", "loss.label_smoothing=0.1"], "set one of them"),
        (["loss.robust=0.5"], "less than 0.5"),
        (["loss.robust=0.1", "loss.margin=column"], "robust with a margin is not in the mean the loss"),
        (["packing=true"], "packing is not for reward models"),
        (["steps=0"], "nothing to measure on; set eval.tasks or eval.probes"),
    ],
)
def test_settings_that_say_nothing_are_refused(settings: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=message):
        from_overrides("reward_model", ["steps=1", "data.path=x.jsonl", "model.path=m", *settings])


def test_probes_that_cannot_be_read_are_told_at_once(tiny_model: Path, tmp_path: Path) -> None:
    data = written(tmp_path / "t.jsonl", world(6, "t", "pairs"))
    probes = [{"a": "x", "b": "x", "expected": "same"}, {"a": "x", "b": "y", "expected": "more"}, {"b": "y"}]
    probing = f"eval.probes={written(tmp_path / 'p.jsonl', probes)}"
    with pytest.raises(DataError, match=r"(?s)3 of 3 .*same text.*higher, lower or same.*a must be text"):
        train(tmp_path / "run", tiny_model, data, "steps=1", probing)
    probes = [{"a": "x\ud83d", "b": "x", "expected": "same"}, {"a": "x", "b": " ", "expected": "same"}]
    written(tmp_path / "p.jsonl", probes)
    with pytest.raises(DataError, match=r"(?s)2 of 2 .*: a holds half a surrogate pair.*: b is empty"):
        train(tmp_path / "run", tiny_model, data, "steps=1", probing)


def test_rewards_that_are_no_numbers_name_their_row(tiny_model: Path, tmp_path: Path) -> None:
    data, held_out = (written(tmp_path / f"{n}.jsonl", world(12, n, "pairs")) for n in "th")
    settings = ["steps=1", "batch_size=4", "optim.max_nonfinite=5", f"eval.tasks.path={held_out}"]
    train(tmp_path / "run", tiny_model, data, *settings)
    broken = weights(tmp_path / "run")
    broken["score.weight"].fill_(torch.nan)
    save_file(broken, tmp_path / "run" / "model" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NonFiniteError, match=r"step 1: the reward of 24 of 24 .* row h0\)"):
        train(tmp_path / "again", tmp_path / "run" / "model", data, *settings)
