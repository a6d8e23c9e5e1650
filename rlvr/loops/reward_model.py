"""Training of a reward model on comparisons, rankings or ratings; what it is measured on is in reward_evaluation.py.

B completions, T tokens, K outputs, L lists of completions that are compared (pairs are lists of 2) with W places, E
elements of a batch, A attributes.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlvr import batching, chat, heads, lora, parallel, policy, preference_losses, preferences
from rlvr.batching import micro_batches
from rlvr.errors import DataError
from rlvr.failpoints import failpoint
from rlvr.loops import setup
from rlvr.loops.reward_evaluation import Evaluation
from rlvr.loops.reward_rows import Element, Listed, elements, output_names
from rlvr.loops.stopping import StopRequest
from rlvr.loops.supervised import Job, learn, tell
from rlvr.losses import Sums
from rlvr.preference_settings import OVERALL, PreferenceLoss, RewardModelRecipe
from rlvr.progress import Progress
from rlvr.runs import Run
from rlvr.seeds import seed_for
from rlvr.trained import Trained

_SHOWN = ("loss", "accuracy", "margin", "mse", "grad_norm", "perf/tokens_per_second")
_LEARNS_FROM: dict[str, dict[preferences.Kind, preferences.Kind]] = {
    # loss.kind: {what the data holds: what it is read as}
    "bradley_terry": {"comparison": "comparison", "ranking": "comparison"},
    "plackett_luce": {"ranking": "ranking", "best_of": "best_of"},
    "all_pairs": {"ranking": "ranking", "best_of": "best_of"},
    "top_choice": {"ranking": "ranking", "best_of": "best_of"},
    "binary": {"rating": "rating", "comparison": "rating"},
    "regression": {"rating": "rating"},
    "attributes": {"rating": "rating"},
}


def train(recipe: RewardModelRecipe, run: Run, progress: Progress, stop: StopRequest) -> dict[str, Any]:
    """Run the recipe to its end; returns what summary.json holds. RlvrError where it cannot, Stopped when asked to."""
    started = time.perf_counter()
    prepared = prepare(recipe)
    tell(prepared, progress)
    names = output_names(recipe.loss, prepared.rows, recipe.data) if recipe.data is not None and recipe.steps else []
    evaluation = Evaluation(recipe, prepared)
    made_from: dict[str, Any] = {"data": prepared.rows, "held_out": evaluation.held_out, "probes": evaluation.pairs}
    run.check_inputs(setup.inputs(recipe.model, **made_from))
    trained, tokenizer = _trained(recipe, names)
    model = trained.model
    if names:
        _name_outputs(model, recipe, names)
    _describe(model, progress)
    max_length = recipe.max_length or policy.context_length(model)
    evaluation.encode(tokenizer, max_length, progress)
    stop.check("before the first step")
    if recipe.data is None or not recipe.steps:
        return _measured(evaluation, trained, recipe, run, progress, started)
    left_out = setup.same_prompt(prepared.loaded.rows, prepared.rows)
    how: Any = {"max_length": max_length, "on_bad_row": recipe.data.on_bad_row, "left_out": left_out}
    encoded = chat.encode_rows(tokenizer, prepared.rows, **how)
    run.note_left_out(left_out)
    if len(encoded) < len(prepared.rows):
        progress.warn(f"{len(prepared.rows) - len(encoded)} rows left out: too long, or their completions are the same")
    parts = elements(encoded, recipe.loss, names, recipe.group_by)

    def evaluate(step: int) -> dict[str, Any]:
        figures = evaluation(trained, run, progress, step)
        if step == recipe.steps:
            _settle(model)
        return figures

    return learn(
        Job(recipe, run, progress, trained, tokenizer, stop),
        [part.num_tokens for part in parts],
        lambda chosen: pad([parts[i] for i in chosen]),
        partial(update, trained, recipe.loss),
        shown=_SHOWN,
        evaluate=evaluate,
        eval_every=recipe.eval.every,
    )


def _measured(
    evaluation: Evaluation, trained: Trained, recipe: RewardModelRecipe, run: Run, progress: Progress, started: float
) -> dict[str, Any]:
    """Of a model that is not trained on: nothing but figures is written."""
    after = evaluation(trained, run, progress, 0)
    summary = {
        "stage": recipe.stage,
        "steps": 0,
        "seconds": time.perf_counter() - started,
        "warnings": progress.num_warnings,
        "model": recipe.model.path,
        "after": after,
    }
    run.finish(summary)
    return summary


def begin(recipe: RewardModelRecipe) -> Callable[[Rows], dict[str, float]]:
    """What every other rank does in each step, once it has the main rank's state."""
    names: list[str] = []
    if (recipe.loss.groups or recipe.loss.attributes or recipe.loss.variance) and recipe.data is not None:
        names = output_names(recipe.loss, prepare(recipe).rows, recipe.data)  # rows say what several outputs are
    trained, _ = _trained(recipe, names)
    if names:
        _name_outputs(trained.model, recipe, names)
    trained.share_state()
    return partial(update, trained, recipe.loss)


# --- model -----------------------------------------------------------------------------------------------------------


def _trained(recipe: RewardModelRecipe, names: Sequence[str]) -> tuple[Trained, Any]:
    """(the model that the run begins with, on its device, tokenizer); names: of its outputs, where it has groups"""
    loss = recipe.loss
    num_outputs = len(names) if loss.groups else max(1, len(loss.attributes)) * (1 + loss.variance)
    model, tokenizer = heads.load_scorer(recipe.model, num_outputs=num_outputs, seed=seed_for(recipe.seed, "head"))
    if recipe.steps == 0:
        _check_finished(model, recipe)
        return Trained(model.to(setup.device()), recipe.optim, 0), tokenizer
    heads.check_outputs(model, num_outputs, "loss.groups" if loss.groups else f"loss.kind {loss.kind}")
    log_nu = heads.log_tie_weight(model)
    if log_nu is not None:
        del model.config.tie_weight  # true of the model as it was
    if loss.ties == "davidson":
        heads.head(model).log_tie_weight = torch.nn.Parameter(torch.tensor(log_nu or 0.0))
    if recipe.model.lora is not None:
        model = lora.attach(model, recipe.model.lora, seed_for(recipe.seed, "lora"), is_scorer=True)
    if recipe.gradient_checkpointing:
        policy.keep_few_activations(model)
    return Trained(model.to(setup.device()), recipe.optim, recipe.steps), tokenizer


def _check_finished(model: Any, recipe: RewardModelRecipe) -> None:
    """Have the outputs counted as loss.attributes says, else as the model does. DataError where that leaves it open
    what the reward is."""
    where, names = f"model.path {recipe.model.path}", dict(recipe.loss.attributes)
    if heads.notes(model):
        raise DataError(f"steps=0 only measures, and {where} is no trained reward model")
    wanted = [*names, *(f"{name}_log_variance" for name in names if recipe.loss.variance)]
    if isinstance(recipe.loss.groups, tuple) and (unknown := set(recipe.loss.groups) - set(heads.groups(model))):
        known_as = ", ".join(heads.groups(model)) or "none"
        raise DataError(f"loss.groups: {where} has no output for group {min(unknown)!r}; its groups are {known_as}")
    if recipe.loss.kind == "regression":
        heads.check_outputs(model, 1 + recipe.loss.variance, "loss.kind regression")
    try:
        for name in wanted:
            heads.label_index(model, name)
    except DataError as error:
        raise DataError(f"loss.attributes: {where}: {error}") from error
    if names:
        model.config.reward_weights = names
    elif len(known := heads.labels(model)) > 1 and getattr(model.config, "reward_weights", None) is None:
        is_choice = len(known) == 2 and model.config.problem_type not in ("regression", "multi_label_classification")
        weights = f"{{{known[1]}: 1, {known[0]}: -1}} for the log odds of {known[1]}" if is_choice else "{NAME: WEIGHT}"
        raise DataError(
            f"{where} has {len(known)} outputs ({', '.join(known)}) and does not say which is the reward; set "
            f"loss.kind=attributes and loss.attributes={weights}"
        )


def _name_outputs(model: Any, recipe: RewardModelRecipe, names: Sequence[str]) -> None:
    """Call the outputs what the run learns. DataError where a trained model's several outputs are other ones, or in
    another order: what they had learned would count as something else."""
    loss = recipe.loss
    due, weights = _outputs(loss, names)
    known = heads.labels(model)
    if len(known) > 1 and not heads.notes(model) and known != due:
        fix = (
            "name loss.attributes in its order" if sorted(known) == sorted(due) else "take the language model below it"
        )
        raise DataError(
            f"model.path {recipe.model.path} has the outputs {', '.join(known)}, and loss.kind {loss.kind} learns "
            f"{', '.join(due)}; {fix}"
        )
    heads.name_outputs(model, due, weights)
    if loss.groups:
        heads.name_groups(model, [name for name in names if name != OVERALL])


def _outputs(loss: PreferenceLoss, names: Sequence[str]) -> tuple[list[str], dict[str, float] | None]:
    """(name of each output of the model, what each counts in the reward where there are several)"""
    if loss.groups:
        counted = [OVERALL] if OVERALL in names else names
        return list(names), {name: 1 / len(counted) for name in counted}
    weights = dict(loss.attributes) or dict.fromkeys(names, 1.0)
    if not loss.variance:
        return list(names), weights if loss.attributes else None
    return [*names, *(f"{name}_log_variance" for name in names)], weights


def _settle(model: Any) -> None:
    """Take what was learned beside the model out of it, so that model/ is a plain folder: config.json keeps it."""
    if not heads.is_decoder(model):
        return
    plain = lora.plain(model)
    learned = getattr(heads.head(model), "log_tie_weight", None)
    if learned is not None:
        plain.config.tie_weight = math.exp(float(learned.detach()))
        for module in plain.modules():
            if hasattr(module, "log_tie_weight") and isinstance(module, torch.nn.Linear):
                del module.log_tie_weight


def _describe(model: Any, progress: Progress) -> None:
    plain = lora.plain(model)
    num_parameters = sum(p.numel() for p in plain.parameters())
    progress.say(
        f"{type(plain).__name__} with {num_parameters:,} parameters, outputs: {', '.join(heads.labels(model))}"
    )
    for line in heads.notes(model):
        progress.say(line)


# --- data ------------------------------------------------------------------------------------------------------------


def prepare(recipe: RewardModelRecipe) -> preferences.Prepared:
    """The rows of the recipe. DataError where loss.kind cannot learn from what the data holds."""
    if recipe.data is None or not recipe.steps:
        return preferences.prepare(None, recipe.eval.tasks)
    as_kind = preferences.read_as(recipe.data, recipe.loss.kind, _LEARNS_FROM)
    return preferences.prepare(recipe.data, recipe.eval.tasks, as_kind=as_kind)


# --- one step --------------------------------------------------------------------------------------------------------


class Rows(NamedTuple):
    """Completions of one step as tensors, and what is known of them. Each element weighs 1 in the loss."""

    ids_BT: Tensor
    """int64, right-padded with 0."""
    length_B: Tensor
    """int64, tokens that are no padding."""
    element_B: Tensor
    """int64, the element that the completion belongs to, 0 .. E - 1."""
    place_LW: Tensor
    """int64, rows of the completions that are compared, best first; -1 is padding."""
    level_LW: Tensor
    """int64, 0 is best, equal levels are a tie, -1 is padding."""
    probability_L: Tensor
    """float64, that the first is preferred (of pairs)."""
    margin_L: Tensor
    """float64, by how much the first has to be better (of pairs)."""
    weight_L: Tensor
    """float64"""
    target_BA: Tensor
    """float64, what the completion was rated; NaN: not, or not by this attribute."""
    weight_B: Tensor
    """float64, 0 of completions that are not rated."""
    head_L: Tensor
    """int64, the output of the model that a list is learnt by."""
    head_B: Tensor
    """int64, the same of a completion that is rated."""

    @property
    def num_tokens(self) -> int:
        return int(self.length_B.sum())

    @property
    def num_elements(self) -> int:
        return int(self.element_B.max()) + 1

    def cost_E(self) -> Tensor:
        """Padded tokens that each element takes at most beside others that are no longer."""
        num_E = torch.bincount(self.element_B)
        longest_E = torch.zeros_like(num_E).scatter_reduce(0, self.element_B, self.length_B, "amax")
        return longest_E * num_E.max()

    def pick(self, index_E: Tensor) -> Rows:
        """Some elements, cut to the longest of their completions; their numbers stay."""
        of_B = torch.isin(self.element_B, index_E)
        of_L = of_B[self.place_LW[:, 0]] if len(self.place_LW) else self.place_LW.new_zeros(0, dtype=torch.bool)
        row_B = torch.cumsum(of_B, dim=0) - 1
        place_LW = self.place_LW[of_L]
        length_B = self.length_B[of_B]
        longest = int(length_B.max()) if len(length_B) else 0
        return Rows(
            ids_BT=self.ids_BT[of_B, :longest],
            length_B=length_B,
            element_B=self.element_B[of_B],
            place_LW=torch.where(place_LW < 0, -1, row_B[place_LW.clamp(min=0)]),
            level_LW=self.level_LW[of_L],
            probability_L=self.probability_L[of_L],
            margin_L=self.margin_L[of_L],
            weight_L=self.weight_L[of_L],
            target_BA=self.target_BA[of_B],
            weight_B=self.weight_B[of_B],
            head_L=self.head_L[of_L],
            head_B=self.head_B[of_B],
        )


def pad(parts: Sequence[Element]) -> Rows:
    """The elements as tensors."""
    examples = [example for part in parts for example in part.examples]
    ids_BT, length_B = batching.pad([example.ids for example in examples])
    num_attributes = max((len(targets) for part in parts for _, targets in part.rated), default=1)
    widest = max((len(listed.places) for part in parts for listed in part.listed), default=2)
    target_BA = torch.full((len(examples), num_attributes), math.nan, dtype=torch.float64)
    weight_B = torch.zeros(len(examples), dtype=torch.float64)
    head_B = torch.zeros(len(examples), dtype=torch.int64)
    compared: list[tuple[Listed, int, float]] = []
    start = 0
    for part in parts:
        for place, targets in part.rated:
            target_BA[start + place] = torch.tensor(targets, dtype=torch.float64)
            weight_B[start + place] = 1 / len(part.rated)
        for (place, _), number in zip(part.rated, part.heads, strict=False):
            head_B[start + place] = number
        compared.extend((listed, start, 1 / len(part.listed)) for listed in part.listed)
        start += len(part.examples)
    place_LW = torch.full((len(compared), widest), -1, dtype=torch.int64)
    level_LW = place_LW.clone()
    for row, (listed, first, _) in enumerate(compared):
        place_LW[row, : len(listed.places)] = torch.tensor(listed.places) + first
        level_LW[row, : len(listed.levels)] = torch.tensor(listed.levels)
    return Rows(
        ids_BT=ids_BT,
        length_B=length_B,
        element_B=torch.repeat_interleave(torch.tensor([len(part.examples) for part in parts])),
        place_LW=place_LW,
        level_LW=level_LW,
        probability_L=torch.tensor([listed.probability for listed, _, _ in compared], dtype=torch.float64),
        margin_L=torch.tensor([listed.margin for listed, _, _ in compared], dtype=torch.float64),
        weight_L=torch.tensor([weight for _, _, weight in compared], dtype=torch.float64),
        target_BA=target_BA,
        weight_B=weight_B,
        head_L=torch.tensor([listed.head for listed, _, _ in compared], dtype=torch.int64),
        head_B=head_B,
    )


def update(trained: Trained, loss: PreferenceLoss, rows: Rows) -> dict[str, float]:
    """One optimizer step on the mean loss over the batch's elements, whatever the split into micro-batches.

    Every rank runs this alike, each on its share of the elements. An update that was skipped has no loss.
    """
    num_elements = rows.num_elements
    own = trained.in_memory(partial(_gradient, trained, loss, rows, num_elements), int(rows.cost_E().max()))
    ends = parallel.gather((own.pop("min_reward", math.inf), own.pop("max_reward", -math.inf)))
    sums = parallel.add(own)
    step = trained.step()
    if "skipped_updates" in step:
        return step
    figures = {"loss": sums["loss"], "mean_reward": sums["reward"] / len(rows.ids_BT)}
    for name, count in (("accuracy", "judged"), ("margin", "compared"), ("mse", "rated")):
        if sums.get(count):
            figures[name] = sums[name] / sums[count]
    return {**figures, "min_reward": min(low for low, _ in ends), "max_reward": max(high for _, high in ends), **step}


def _gradient(trained: Trained, loss: PreferenceLoss, rows: Rows, num_elements: int) -> dict[str, float]:
    """Add this rank's share of the gradient; its sums of figures."""
    totals: defaultdict[str, float] = defaultdict(float)
    ends = [math.inf, -math.inf]
    cost_E = rows.cost_E()
    share_E = parallel.share_B(cost_E)
    weight_K = heads.reward_weights(trained.model).to(setup.device())
    log_nu = heads.head(trained.model).log_tie_weight if loss.ties == "davidson" else None
    for index_E in micro_batches(cost_E[share_E], trained.micro_tokens):
        failpoint("micro")
        micro = Rows(*(x.to(setup.device()) for x in rows.pick(share_E[index_E])))
        score_BK = heads.scores(trained.model, micro.ids_BT, micro.length_B).double()
        sums = Sums(loss=loss_of(score_BK, micro, loss, log_nu), tokens=micro.num_tokens, sequences=len(micro.ids_BT))
        totals["loss"] += trained.backward(sums, num_elements)
        reward_B = score_BK.detach() @ weight_K
        if loss.groups and loss.kind == "binary":
            reward_B = _own_B(score_BK.detach(), micro)
        for name, value in figures_of(score_BK.detach(), reward_B, micro, loss).items():
            totals[name] += value
        ends = [min(ends[0], float(reward_B.min())), max(ends[1], float(reward_B.max()))]
    return {**totals, "min_reward": ends[0], "max_reward": ends[1]}


def loss_of(score_BK: Tensor, rows: Rows, loss: PreferenceLoss, log_nu: Tensor | None = None) -> Tensor:
    """Sum over the rows' elements of their loss, nats (regression and attributes without variance: squared error)."""
    if loss.kind in ("regression", "attributes"):
        num_attributes = rows.target_BA.shape[1]
        mean_BA, log_variance_BA = score_BK[:, :num_attributes], score_BK[:, num_attributes:]
        if loss.variance:
            loss_B = preference_losses.gaussian_nll(mean_BA, log_variance_BA, rows.target_BA)
        else:
            loss_B = preference_losses.squared_error(mean_BA, rows.target_BA)
        return (rows.weight_B * loss_B).sum()
    meant = partial(preference_losses.target, label_smoothing=loss.label_smoothing, flip_rate=loss.robust)
    if loss.kind == "binary":
        rated_B = rows.weight_B > 0
        score_B = _own_B(score_BK, rows)[rated_B] if loss.groups else score_BK[rated_B, 0]
        loss_B = preference_losses.binary(score_B, meant(rows.target_BA[rated_B, 0]))
        return (rows.weight_B[rated_B] * loss_B).sum()
    score_LW = _own_LW(score_BK, rows) if loss.groups else score_BK[:, 0][rows.place_LW.clamp(min=0)]
    if loss.kind == "plackett_luce":
        loss_L = preference_losses.plackett_luce(score_LW, rows.level_LW)
    elif loss.kind == "top_choice":
        loss_L = preference_losses.top_choice(score_LW, rows.level_LW)
    else:
        delta_L, target_L = score_LW[:, 0] - score_LW[:, 1], meant(rows.probability_L)
        margin_L = rows.margin_L if loss.margin == "column" else None
        if log_nu is None:
            loss_L = preference_losses.bradley_terry(delta_L, target_L, margin_L)
        else:
            is_tie_L = rows.probability_L == 0.5
            loss_L = preference_losses.davidson(delta_L, target_L, is_tie_L, log_nu, margin_L)
    if loss.center_coef:
        loss_L = loss_L + loss.center_coef * preference_losses.centring(score_LW, rows.level_LW)
    return (rows.weight_L * loss_L).sum()


def _own_LW(score_BK: Tensor, rows: Rows) -> Tensor:
    """What each list's own output says of its completions."""
    return score_BK[rows.place_LW.clamp(min=0), rows.head_L[:, None]]


def _own_B(score_BK: Tensor, rows: Rows) -> Tensor:
    """What each rated completion's own output says of it."""
    return score_BK.gather(1, rows.head_B[:, None])[:, 0]


def figures_of(score_BK: Tensor, reward_B: Tensor, rows: Rows, loss: PreferenceLoss) -> dict[str, float]:
    """Sums for TRL's figures: reward; accuracy over "judged" (pairs in the labels' order, ties aside, or labels),
    margin over "compared" pairs, mse over "rated" numbers."""
    found = {"reward": float(reward_B.sum())}
    rated_BA = ~rows.target_BA.isnan()
    if loss.kind == "binary":
        says_B = rated_BA[:, 0] & (rows.target_BA[:, 0] != 0.5)
        p, reward = rows.target_BA[says_B, 0], reward_B[says_B]
        return {**found, "accuracy": float(_right(reward, p).sum()), "judged": float(len(p))}
    if loss.kind in ("regression", "attributes"):
        error_BA = (score_BK[:, : rated_BA.shape[1]] - rows.target_BA).nan_to_num(0.0)
        return {**found, "mse": float((error_BA**2).sum()), "rated": float(rated_BA.sum())}
    reward_LW = _own_LW(score_BK, rows) if loss.groups else reward_B[rows.place_LW.clamp(min=0)]
    delta_LWW = reward_LW[:, :, None] - reward_LW[:, None, :]
    real_LW = rows.level_LW >= 0
    is_better_LWW = (rows.level_LW[:, :, None] < rows.level_LW[:, None, :]) & real_LW[:, :, None] & real_LW[:, None, :]
    p_LWW = rows.probability_L[:, None, None].expand_as(delta_LWW)
    is_better_LWW &= p_LWW != 0.5
    p, delta = p_LWW[is_better_LWW], delta_LWW[is_better_LWW]
    count, right = float(len(p)), float(_right(delta, p).sum())
    return {**found, "accuracy": right, "judged": count, "margin": float(delta.sum()), "compared": count}


def _right(sign: Tensor, p: Tensor) -> Tensor:
    """Share of the label, a probability, that a number is on the side of; half of it where it is 0."""
    return torch.where(sign == 0, 0.5, torch.where(sign > 0, p, 1 - p))
