"""Rewards of models: what a sequence classifier thinks of a prompt with its completion, alone or as an ensemble.

A group's completions pass the model by themselves, in the order of the siblings: so a number does not depend on which
other groups are there, or on what came first. B rows, T tokens, K outputs of the model.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Any

import torch
from torch import Tensor

from rlvr import chat, heads, policy, recipe
from rlvr.batching import micro_batches, pad
from rlvr.errors import DataError, SettingsError, near
from rlvr.inputs import fingerprint_model
from rlvr.odds import sigmoid
from rlvr.reward_settings import Ensemble
from rlvr.rewards.base import MODEL
from rlvr.trained import is_out_of_memory
from rlvr.types import Group, Rollout, Task, Verdict

_MEANT = ("label", "attributes", "ensemble", "shift", "scale", "clip", "dtype")
"""Settings that a number depends on, beside the models."""
_MEANT_WHERE_SET = ("group", "combine")
"""The same, told apart only from those that have none."""
Reader = Callable[[Tensor], Tensor]
"""score_BK -> number_B"""


@dataclass(frozen=True, slots=True)
class Writer:
    """How the policy writes: the tokens that a reward model may or may not share."""

    tokenizer: Any
    end_ids: frozenset[int]
    """Tokens that end a completion."""

    @classmethod
    def of(cls, settings: recipe.Model) -> Writer:
        """Without weights. DataError where the model cannot be used."""
        tokenizer, _ = policy.load_tokenizer(settings)
        return cls(tokenizer, chat.end_token_ids(settings.path, tokenizer))


class ModelReward:
    """RewardSource: value is the number that the model gives, score its sigmoid.

    Not safe from several threads at once, nor beside other work of torch: its bits would depend on it.
    """

    def __init__(
        self,
        name: str,
        settings: recipe.ModelReward,
        writer: Writer,
        tasks: Sequence[Task],
        warn: Callable[[str], None],
    ) -> None:
        """name: of the part; tasks: whose prompts it will see; warn: told of the first number that is not finite.

        DataError in one line where a model cannot be loaded, does not have the outputs that are asked for, or cannot
        read the prompts.
        """
        self.name, self.settings = name, settings
        self._warn: Callable[[str], None] | None = warn
        paths = [("path", settings.path)] if settings.path else [("paths", path) for path in settings.paths]
        self._paths = [str(path) for _, path in paths]
        self._members = [
            _Member(f"rewards.{name}.{key}", f"rewards.{name}", str(path), settings, writer, tasks)
            for key, path in paths
        ]
        self._version = f"1+{digest(settings)}"

    def score(self, groups: Sequence[Group]) -> list[list[Verdict]]:
        """Verdicts [group][rollout]; outcome error where the number is not finite, or the row is none of the model's.

        SettingsError where memory does not even hold one row.
        """
        return [self._of_group(group) for group in groups]

    def _of_group(self, group: Group) -> list[Verdict]:
        asked = [rollout for rollout in group.rollouts if rollout.completion.finish != "abort"]
        told = iter(zip(*(member.read(group.task, group.prompt_ids, asked) for member in self._members), strict=True))
        return [
            self._verdict("the engine took the completion back", None)
            if rollout.completion.finish == "abort"
            else self._of_rollout(rollout, next(told))
            for rollout in group.rollouts
        ]

    def _of_rollout(self, rollout: Rollout, told_M: Sequence[_Told]) -> Verdict:
        """told_M: what each member says of it."""
        row_hash = told_M[0].row_hash
        for told in told_M:
            if told.problem:
                return self._verdict(told.problem, row_hash)
        numbers = [told.number for told in told_M]
        if not all(map(math.isfinite, numbers)):
            path, bad = next((path, n) for path, n in zip(self._paths, numbers, strict=True) if not math.isfinite(n))
            if self._warn is not None:
                what, fix = "such completions count as unjudged and are never trained on", ""
                if self.settings.optional:
                    what = "groups with such completions do without this part"
                else:
                    fix = f", or set rewards.{self.name}.optional=true for groups with one to do without this part"
                self._warn(
                    f"rewards.{self.name}: the model {path} gives {bad} for {rollout.id}; {what}; train it again with "
                    f"a lower optim.lr{fix}"
                )
                self._warn = None
            return self._verdict(f"the model gives {bad}", row_hash)
        raw = combined(numbers, self.settings.ensemble)
        value = normalised(raw, self.settings)
        if not math.isfinite(value):  # of finite numbers, as with an ensemble.k too large for them
            return self._verdict(f"the {'ensemble' if len(numbers) > 1 else 'model'} gives {value}", row_hash)
        checks: dict[str, Any] = {"outputs": told_M[0].outputs} if len(told_M) == 1 and told_M[0].outputs else {}
        if len(numbers) > 1:
            checks |= {"members": numbers, "std": pstdev(numbers)}
        checks |= {"raw": raw} if value != raw else {}
        return Verdict(
            score=sigmoid(value),
            value=value,
            outcome="partial",
            reason=f"the {'ensemble' if len(numbers) > 1 else 'model'} gives {value:.6g}",
            checks=checks,
            verifier=MODEL,
            version=self._version,
            input_hash=row_hash,
        )

    def _verdict(self, problem: str, row_hash: str | None) -> Verdict:
        return Verdict(
            score=None,
            outcome="error",
            reason=problem,
            verifier=MODEL,
            version=self._version,
            input_hash=row_hash or "",
        )


def combined(numbers: Sequence[float], ensemble: Ensemble) -> float:
    """The members' numbers as one: mean, min, or mean - k * std over n."""
    if ensemble.how == "min":
        return min(numbers)
    penalty = ensemble.k * pstdev(numbers) if ensemble.how == "mean_minus_std" else 0.0
    return fmean(numbers) - penalty


def normalised(raw: float, settings: recipe.ModelReward) -> float:
    """clip((raw - shift) / scale)"""
    value = (raw - settings.shift) / settings.scale
    return value if settings.clip is None else min(max(value, -settings.clip), settings.clip)


def digest(settings: recipe.ModelReward) -> str:
    """Eight hexadecimal digits of the models and of how they are read. DataError where a folder cannot be read."""
    paths = settings.paths or (str(settings.path),)
    read = settings.model_dump(include={*_MEANT, *_MEANT_WHERE_SET})
    names = [*_MEANT, *(name for name in _MEANT_WHERE_SET if read[name] is not None)]
    whole = repr(([fingerprint_model(path) for path in paths], [(name, read[name]) for name in names]))
    return hashlib.blake2b(whole.encode(), digest_size=4).hexdigest()


# --- one model -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Told:
    """What one model says of one completion."""

    number: float
    outputs: dict[str, float]
    """By label, where there are several."""
    row_hash: str
    problem: str = ""
    """Why the row could not be shown to the model."""


class _Member:
    """A sequence classifier with its tokenizer."""

    def __init__(
        self,
        setting: str,
        part: str,
        path: str,
        settings: recipe.ModelReward,
        writer: Writer,
        tasks: Sequence[Task],
    ) -> None:
        wanted = recipe.Model(path=path, dtype=settings.dtype, made_by=settings.made_by)
        model, self._tokenizer = heads.load_scorer(wanted, seed=0, new_head=False, setting=setting)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = model.to(device).requires_grad_(False)
        self._labels = heads.labels(model)
        self._reader = reader(model, settings, part)
        self._context = policy.context_length(model)
        self._vocab_size: int = model.config.get_text_config().vocab_size
        self._micro_tokens = settings.micro_tokens
        self._end_ids = writer.end_ids
        self._shares_ids = shares_ids(self._tokenizer, writer.tokenizer)
        self._shares_template = self._tokenizer.chat_template == writer.tokenizer.chat_template
        foreign = [task for task in tasks if not self._reads(task)]
        if foreign:  # what it cannot render, it cannot score
            try:
                chat.encode_tasks(self._tokenizer, foreign, max_tokens=None, context=self._context)
            except DataError as error:
                raise DataError(
                    f"{setting} {path}: its tokenizer is not the policy's, and it cannot read the prompts: {error}"
                ) from error

    def _reads(self, task: Task) -> bool:
        """Whether the policy's ids are what it would render for this task."""
        return self._shares_ids and (isinstance(task.prompt, str) or self._shares_template)

    def read(self, task: Task, prompt_ids: Sequence[int], rollouts: Sequence[Rollout]) -> list[_Told]:
        """Of each completion of one group."""
        rows: list[Sequence[int]] = []
        problems: list[str] = []
        for rollout in rollouts:
            try:
                rows.append(self._row(task, prompt_ids, rollout))
                problems.append(self._problem(rows[-1]))
            except DataError as error:
                rows.append(())
                problems.append(f"the reward model cannot read it: {error}")
        fine = [row for row, problem in zip(rows, problems, strict=True) if not problem]
        told = iter(self._scores(fine))
        return [
            _Told(math.nan, {}, _hash(row), problem) if problem else self._told(next(told), _hash(row))
            for row, problem in zip(rows, problems, strict=True)
        ]

    def _told(self, score_K: Tensor, row_hash: str) -> _Told:
        number = float(self._reader(score_K[None])[0])
        outputs = dict(zip(self._labels, score_K.tolist(), strict=True)) if len(score_K) > 1 else {}
        return _Told(number, outputs, row_hash)

    def _row(self, task: Task, prompt_ids: Sequence[int], rollout: Rollout) -> list[int]:
        """Prompt and completion as a reward model is trained on them: with the end token where the text has ended.
        DataError where its chat template cannot render the text."""
        completion = rollout.completion
        is_cut = completion.finish == "length"
        if self._reads(task) and (is_cut or (completion.token_ids and completion.token_ids[-1] in self._end_ids)):
            return [*prompt_ids, *completion.token_ids]
        # of another tokenizer, or ended by a stop string, which is no part of the response
        ids = chat.encode_completion(self._tokenizer, task.prompt, completion.text).ids.tolist()
        return ids[:-1] if is_cut and ids[-1] == self._tokenizer.eos_token_id else ids

    def _problem(self, row: Sequence[int]) -> str:
        if self._context is not None and len(row) > self._context:
            return f"prompt and completion have {len(row)} tokens, and the reward model takes {self._context}"
        if not row or max(row) >= self._vocab_size:
            return f"token {max(row, default=None)} is none of the reward model's {self._vocab_size}"
        return ""

    def _scores(self, rows: Sequence[Sequence[int]]) -> list[Tensor]:
        """score_K of each row, float64 on the CPU."""
        length_B = torch.tensor([len(row) for row in rows], dtype=torch.int64)
        found: dict[int, Tensor] = {}
        for index_B in micro_batches(length_B, self._micro_tokens) if rows else ():
            found |= self._forward(rows, index_B.tolist())
        return [found[k] for k in range(len(rows))]

    def _forward(self, rows: Sequence[Sequence[int]], index: Sequence[int]) -> dict[int, Tensor]:
        """By the row's number. Where memory runs out in two halves, of this batch alone: so that what a row is scored
        with depends on its own group, and not on what came before."""
        try:
            ids_BT, length_B = (x.to(self._model.device) for x in pad([rows[k] for k in index]))
            with torch.inference_mode():
                score_BK = heads.scores(self._model, ids_BT, length_B).double().cpu()
            return dict(zip(index, score_BK, strict=True))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(index) == 1:
                raise SettingsError(
                    f"out of memory with one completion of {len(rows[index[0]])} tokens in a reward model; lower "
                    "sample.max_tokens, set its dtype to bfloat16, or take a smaller one"
                ) from error
        # outside of the handler: the traceback holds the tensors that there was no room for
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        half = len(index) // 2
        return self._forward(rows, index[:half]) | self._forward(rows, index[half:])


def reader(model: Any, settings: recipe.ModelReward, part: str) -> Reader:
    """How a model's outputs become one number. DataError where they do not have the labels that settings name.

    label: log p / (1 - p) where the outputs are logits of classes of which one is true, so z_label - logsumexp of the
    others; the bare output where each stands for itself (one output, config.json's problem_type regression or
    multi_label_classification, or a reward model of ours). attributes: their weighted sum. group: that group's output.
    combine: the mean, or the least, of the groups' outputs. None of these: the only output, or as the reward model was
    trained.
    """
    try:
        if settings.group is not None or settings.combine is not None:
            return _of_groups(model, settings)
        if settings.attributes:
            names = {name: heads.label_index(model, name) for name in settings.attributes}
            index_A = torch.tensor(list(names.values()))
            weight_A = torch.tensor(list(settings.attributes.values()), dtype=torch.float64)
            return lambda score_BK: score_BK[:, index_A].double() @ weight_A
        if settings.label is None:
            weight_K = heads.reward_weights(model)
            return lambda score_BK: score_BK.double() @ weight_K
        index = heads.label_index(model, settings.label)
    except DataError as error:
        raise DataError(f"{part}: {error}") from error
    config = model.config
    stand_alone = config.problem_type in ("regression", "multi_label_classification")
    if config.num_labels == 1 or stand_alone or getattr(config, "reward_weights", None) is not None:
        return lambda score_BK: score_BK[:, index].double()
    others_K = torch.arange(config.num_labels) != index

    def log_odds(score_BK: Tensor) -> Tensor:
        score_BK = score_BK.double()
        return score_BK[:, index] - score_BK[:, others_K].logsumexp(dim=1)

    return log_odds


def _of_groups(model: Any, settings: recipe.ModelReward) -> Reader:
    """DataError where the model has no outputs of groups, or none of the group that is named."""
    known = heads.groups(model)
    if not known:
        what = f"group {settings.group!r}" if settings.group is not None else f"combine: {settings.combine}"
        raise DataError(
            f"{what} needs a reward model with outputs for groups (loss.groups), and this one has "
            f"{', '.join(map(repr, heads.labels(model)))}"
        )
    if settings.group is not None and settings.group not in known:
        raise DataError(
            f"the model has no group {settings.group!r}; {near(settings.group, known)}it has "
            f"{', '.join(map(repr, known))}"
        )
    names = known if settings.group is None else [settings.group]
    index_G = torch.tensor([heads.label_index(model, name) for name in names])
    if settings.combine == "min":
        return lambda score_BK: score_BK[:, index_G].double().min(dim=1).values
    return lambda score_BK: score_BK[:, index_G].double().mean(dim=1)


def shares_ids(own: Any, writer: Any) -> bool:
    """Whether the ids of the policy's tokenizer are those that a model of the tokenizer `own` would read: both have the
    same tokens, but for special ones that `own` may have more, and texts begin and end alike."""
    ours, theirs = writer.get_vocab(), own.get_vocab()
    more = theirs.keys() - ours.keys() - own.get_added_vocab().keys()
    if more or any(theirs.get(token) != id for token, id in ours.items()):
        return False
    probe = "2 + 2"
    return own.eos_token_id == writer.eos_token_id and own(probe)["input_ids"] == writer(probe)["input_ids"]


def _hash(row: Sequence[int]) -> str:
    return hashlib.blake2b(repr(list(row)).encode(), digest_size=8).hexdigest()
