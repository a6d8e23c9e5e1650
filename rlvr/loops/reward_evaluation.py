"""What a reward model is worth on rows that it was not trained on, and on pairs of texts that differ in one thing.

B completions, T tokens, K outputs of the model.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from rlvr import calibration, chat, heads, preference_losses
from rlvr.batching import micro_batches, pad
from rlvr.calibration import Floats
from rlvr.columns import columns_of, dress, valid_text
from rlvr.errors import NonFiniteError
from rlvr.loops import setup
from rlvr.loops.reward_rows import AnyRow, Encoded, compared
from rlvr.preference_settings import RewardModelRecipe
from rlvr.preferences import Prepared
from rlvr.progress import Progress
from rlvr.reward_settings import Rows
from rlvr.rows import BadRow, Row, as_plain, kind
from rlvr.runs import Run
from rlvr.tasks import Loaded, collect
from rlvr.trained import Trained
from rlvr.types import BestOf, Preference, Prompt, Ranking, Rating

_TOLD = ("accuracy", "ceiling_share", "ece", "calibration_slope", "best_of/accuracy", "auc", "mse", "pearson")

_SIGNS = {"higher": 1.0, "lower": -1.0, "same": 0.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Two texts that differ in one thing. Probe(id="p:3", prompt="Hi", a="Thanks!", b="So?", attribute="polite",
    expected="higher")"""

    id: str
    prompt: Prompt
    a: str
    b: str
    attribute: str
    expected: Literal["higher", "lower", "same"]
    """The reward of a beside that of b."""


def load_probes(probes: Rows) -> Loaded[Probe]:
    """DataError names all rows that cannot be used."""
    return collect(probes, "eval.probes", lambda row: [_probe(row, probes)])


def _probe(row: Row, probes: Rows) -> Probe:
    values = {"attribute": "all", "prompt": "", "id": f"{row.name}:{row.number}", **columns_of(row)}
    for name in ("id", "prompt", "a", "b", "attribute", "expected"):
        if not isinstance(values.get(name), str):
            raise BadRow(f"{name} must be text, got {kind(values.get(name))} (a probe has prompt, a, b, expected)")
    if values["expected"] not in ("higher", "lower", "same"):
        raise BadRow(f"expected must be higher, lower or same (the reward of a beside b's), got {values['expected']!r}")
    if values["a"] == values["b"]:
        raise BadRow("a and b are the same text")
    for name in ("a", "b"):
        if not values[name].strip():
            raise BadRow(f"{name} is empty")
    for name in ("id", "prompt", "a", "b", "attribute"):
        valid_text(values[name], name)
    if values["prompt"]:  # texts that stand alone have none
        values["prompt"] = dress(values["prompt"], probes, values)
    return Probe(**{name: values[name] for name in Probe.__dataclass_fields__})


class Evaluation:
    """The held-out rows and probes of a run, and how they are measured."""

    def __init__(self, recipe: RewardModelRecipe, prepared: Prepared) -> None:
        """DataError where the probes cannot be used."""
        self._loss, self._settings = recipe.loss, recipe.eval
        self.held_out: list[AnyRow] = prepared.held_out.rows if prepared.held_out is not None else []
        self._loaded: Loaded[Probe] = load_probes(recipe.eval.probes) if recipe.eval.probes is not None else Loaded([])
        self.probes = {probe.id: probe for probe in self._loaded.rows}
        self.pairs = [
            Preference(id=p.id, prompt=p.prompt, chosen=p.a, rejected=p.b, margin=_SIGNS[p.expected])
            for p in self._loaded.rows
        ]
        """The probes as comparisons, of which a is called chosen."""
        self._rows: list[Encoded] = []
        self._probed: list[Encoded] = []

    def encode(self, tokenizer: Any, max_length: int | None, progress: Progress) -> None:
        """Tokenise all of it. DataError as chat.encode_rows."""
        if self._loaded.num_bad:
            progress.warn(f"{self._loaded.num_bad} bad rows left out of the probes; the first: {self._loaded.bad[0]}")
        self._rows = self._encoded(
            tokenizer, self.held_out, max_length, self._settings.tasks, "held-out rows", progress
        )
        self._probed = self._encoded(tokenizer, self.pairs, max_length, self._settings.probes, "probes", progress)

    @staticmethod
    def _encoded(
        tokenizer: Any,
        rows: Sequence[AnyRow],
        max_length: int | None,
        settings: Rows | None,
        what: str,
        progress: Progress,
    ) -> list[Encoded]:
        if not rows or settings is None:
            return []
        kept = list(chat.encode_rows(tokenizer, rows, max_length=max_length, on_bad_row=settings.on_bad_row))
        if len(kept) < len(rows):
            progress.warn(f"{len(rows) - len(kept)} {what} left out: too long, or their completions are the same")
        return kept

    def __call__(self, trained: Trained, run: Run, progress: Progress, step: int) -> dict[str, Any]:
        """Measure, write evals/NAME and a row of metrics, say the figures; {} where there is nothing to measure on."""
        if not self._rows and not self._probed:
            return {}
        started = time.perf_counter()
        with progress.aside():
            score_BK = score(trained, [*self._rows, *self._probed], step)
        reward_B = rewards(trained.model, [*self._rows, *self._probed], score_BK)
        by_row = _by_row([*self._rows, *self._probed], reward_B)
        figures = self._figures(trained.model, by_row[: len(self._rows)], score_BK)
        if self._probed:
            delta = np.array([r[0] - r[1] for r in by_row[len(self._rows) :]])
            probes = [self.probes[row.id] for row, _ in self._probed]
            figures["probes"] = calibration.of_probes(
                delta, [p.expected for p in probes], [p.attribute for p in probes]
            )
        samples = [
            {"id": row.id, "rewards": rewards.tolist()}
            for (row, _), rewards in zip([*self._rows, *self._probed], by_row, strict=True)
        ]
        result: dict[str, Any] = as_plain(figures)  # NaN becomes null
        row = {"time/eval_seconds": time.perf_counter() - started, **_flat("eval", result)}
        flat = _flat("", result)
        figures_told = " ".join(f"{name} {flat[name]:.4f}" for name in _TOLD if name in flat)
        told = [f"{figures_told} ({len(self._rows)} held-out rows)"] if self._rows else []
        told += [f"{name} {probe['as_expected']:.2f} as expected" for name, probe in result.get("probes", {}).items()]
        setup.record_evaluation(run, progress, step, result, samples, row, ", ".join(told))
        return result

    def _figures(self, model: Any, by_row: Sequence[Floats], score_BK: Floats) -> dict[str, Any]:
        rows = [row for row, _ in self._rows]
        if not rows:
            return {}
        reward = np.concatenate(by_row)
        found: dict[str, Any] = {"num_rows": len(rows), "mean_reward": reward.mean(), "std_reward": reward.std()}
        if isinstance(rows[0], Rating):
            ratings = [row for row in rows if isinstance(row, Rating)]
            names = heads.labels(model)[: score_BK.shape[1] // (1 + self._loss.variance)]
            found |= self._of_ratings(ratings, names, score_BK, reward)
            for name, index in _by_group(ratings).items():
                own = self._of_ratings([ratings[k] for k in index], names, score_BK[index], reward[index])
                found.setdefault("by_group", {})[name] = own
            return found
        for name, index in _by_group(rows).items():
            own = of_compared([rows[k] for k in index], [by_row[k] for k in index])
            found.setdefault("by_group", {})[name] = {k: v for k, v in own.items() if k != "by_source"}
        found |= of_compared(rows, by_row, heads.log_tie_weight(model))
        tokens = np.array([len(e.ids) - e.num_prompt for _, examples in self._rows for e in examples], dtype=np.float64)
        row_of = [number for number, (_, examples) in enumerate(self._rows) for _ in examples]
        found["length_bias"] = dict(
            zip(("per_token", "standard_error"), calibration.slope_within(reward, tokens, row_of), strict=True)
        )
        truth = _true_log_odds(rows)
        if truth is not None:
            beyond = reward - np.stack([truth, -truth], axis=1).reshape(-1) / 2
            slopes = calibration.slope_within(beyond, tokens, row_of)
            found["length_bias_beyond_truth"] = dict(zip(("per_token", "standard_error"), slopes, strict=True))
        return found

    def _of_ratings(
        self, rows: Sequence[Rating], names: Sequence[str], score_BK: Floats, reward: Floats
    ) -> dict[str, Any]:
        """names: of the numbers that the model gives, their variances aside."""
        labelled = [k for k, row in enumerate(rows) if row.label is not None]
        if labelled:
            figures = calibration.of_labels(reward[labelled], np.array([bool(rows[k].label) for k in labelled]))
            is_log_odds = self._loss.kind == "binary"
            return (
                figures if is_log_odds else {k: v for k, v in figures.items() if k in ("num", "auc", "positive_share")}
            )
        found: dict[str, Any] = {}
        for name in dict.fromkeys(name for row in rows for name in row.scores):
            has = [k for k, row in enumerate(rows) if name in row.scores]
            wanted = np.array([rows[k].scores[name] for k in has], dtype=np.float64)
            if self._loss.kind not in ("regression", "attributes") or name not in names:
                figures = calibration.of_numbers(reward[has], wanted)
                found[name] = {k: v for k, v in figures.items() if k in ("num", "pearson", "spearman")}
                continue
            number = names.index(name)
            variance = np.exp(score_BK[has, len(names) + number]) if self._loss.variance else None
            found[name] = calibration.of_numbers(score_BK[has, number], wanted, variance)
        return found if len(found) > 1 else next(iter(found.values()))


def rewards(model: Any, rows: Sequence[Encoded], score_BK: Floats) -> Floats:
    """[B] of a model with outputs for groups a row's own group's, where it has one; else as heads.reward_weights()."""
    reward_B = score_BK @ heads.reward_weights(model).numpy()
    own = {name: heads.label_index(model, name) for name in heads.groups(model)}
    start = 0
    for row, examples in rows:
        end = start + len(examples)
        if row.group in own:
            reward_B[start:end] = score_BK[start:end, own[row.group]]
        start = end
    return reward_B


def _by_group(rows: Sequence[AnyRow]) -> dict[str, list[int]]:
    """Numbers of the rows of each group, "none" of no group; {} where no row is of one."""
    if not any(row.group for row in rows):
        return {}
    found: dict[str, list[int]] = {}
    for number, row in sorted(enumerate(rows), key=lambda pair: pair[1].group):
        found.setdefault(row.group or "none", []).append(number)
    return found


def of_compared(rows: Sequence[AnyRow], by_row: Sequence[Floats], log_nu: float | None = None) -> dict[str, Any]:
    """Figures of comparisons, rankings and best-of-N rows; ties of unknown truth are left out of the pairs.

    log_nu: of a model that knows how much a tie weighs, whose three outcomes are then measured on all pairs.
    """
    delta, probability, source = [], [], []
    for row, reward in zip(rows, by_row, strict=True):
        for pair in compared(row, in_pairs=True):
            first, second = pair.places
            delta.append(reward[first] - reward[second])
            probability.append(pair.probability)
            source.append(row.source)
    truth = [row.true_probability for row in rows if isinstance(row, Preference)]
    known = [p for p in truth if p is not None]
    is_known = len(known) == len(rows)
    judged = np.array([is_known or p != 0.5 for p in probability])
    found: dict[str, Any] = {}
    if judged.any():
        delta_, probability_ = np.array(delta)[judged], np.array(probability)[judged]
        true = np.array(known, dtype=np.float64) if is_known else None
        found |= calibration.of_pairs(delta_, probability_, true)
        sources = [name for name, counts in zip(source, judged, strict=True) if counts]
        if len(set(sources)) > 1:
            found["by_source"] = calibration.by_source(sources, delta_, probability_)
    if log_nu is not None and delta:
        found["ties"] = of_ties(np.array(delta), np.array(probability), log_nu)
    if isinstance(rows[0], Preference):
        return found
    choices = {"": list(range(len(rows)))}
    if len({row.source for row in rows}) > 1:
        for number, row in enumerate(rows):
            choices.setdefault(row.source, []).append(number)
    for name, numbers in choices.items():
        split = [_split(rows[k], by_row[k]) for k in numbers]
        figures = calibration.of_choices([good for good, _ in split], [bad for _, bad in split])
        if name:
            found.setdefault("best_of_by_source", {})[name] = figures
        else:
            found["best_of"] = figures
    return found


def of_ties(delta: Floats, probability: Floats, log_nu: float) -> dict[str, float]:
    """Share of the pairs that are ties (probability 0.5), the one that the model expects, and the nll (nats) of all
    three outcomes, as it is trained on without a margin."""
    delta_P, probability_P, nu = torch.as_tensor(delta), torch.as_tensor(probability), torch.tensor(log_nu)
    nll_P = preference_losses.davidson(delta_P, probability_P, probability_P == 0.5, nu)
    _, tie_P, _ = preference_losses.davidson_logp(delta_P, nu)
    share = float((probability == 0.5).mean())
    return {"num": float(len(delta)), "share": share, "expected": float(tie_P.exp().mean()), "nll": float(nll_P.mean())}


def _split(row: AnyRow, reward: Floats) -> tuple[list[float], list[float]]:
    """Rewards of the best completions and of the others."""
    best = (
        set(row.order[0]) if isinstance(row, Ranking) else set(range(len(row.chosen) if isinstance(row, BestOf) else 1))
    )
    good = [float(r) for k, r in enumerate(reward) if k in best]
    return good, [float(r) for k, r in enumerate(reward) if k not in best]


def _true_log_odds(rows: Sequence[AnyRow]) -> Floats | None:
    """[pairs], None where it is not known of all."""
    known = [row.true_probability for row in rows if isinstance(row, Preference) and row.true_probability is not None]
    return calibration.log_odds(np.array(known, dtype=np.float64)) if len(known) == len(rows) else None


@torch.no_grad()
def score(trained: Trained, rows: Sequence[Encoded], step: int) -> Floats:
    """score_BK of all completions of the rows, in their order, float64. NonFiniteError names a row that has none."""
    examples = [example for _, own in rows for example in own]
    length_B = torch.tensor([len(example.ids) for example in examples])
    score_BK = trained.in_memory(lambda: _scores(trained, examples, length_B), int(length_B.max())).numpy()
    if not np.isfinite(score_BK).all():
        ids = [row.id for row, own in rows for _ in own]
        bad = [row_id for row_id, score_K in zip(ids, score_BK, strict=True) if not np.isfinite(score_K).all()]
        raise NonFiniteError(
            f"step {step}: the reward of {len(bad)} of {len(ids)} held-out completions is NaN or infinite (the first: "
            f"row {bad[0]}); lower optim.lr, or look at the data of the last steps"
        )
    return score_BK


def _scores(trained: Trained, examples: Sequence[chat.Example], length_B: Tensor) -> Tensor:
    found: Tensor | None = None
    for index_B in micro_batches(length_B, trained.micro_tokens):
        rows = (x.to(setup.device()) for x in pad([examples[number].ids for number in index_B.tolist()]))
        score_BK = heads.scores(trained.model, *rows).double().cpu()
        if found is None:
            found = score_BK.new_zeros(len(examples), score_BK.shape[1])
        found[index_B] = score_BK
    assert found is not None
    return found


def _by_row(rows: Sequence[Encoded], reward_B: Floats) -> list[Floats]:
    ends = np.cumsum([len(examples) for _, examples in rows])
    return np.split(reward_B, ends[:-1]) if len(rows) else []


def _flat(prefix: str, tree: Any) -> dict[str, float]:
    """Numbers of nested figures as PREFIX/a/b; nulls and texts are left out."""
    if isinstance(tree, dict):
        found: dict[str, float] = {}
        for name, value in tree.items():
            found |= _flat(f"{prefix}/{name}" if prefix else name, value)
        return found
    return {prefix: tree} if isinstance(tree, int | float) and not isinstance(tree, bool) else {}
