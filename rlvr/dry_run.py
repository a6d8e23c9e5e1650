"""What can be found out about a run before it is started."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rlvr.direct_settings import DpoRecipe
from rlvr.errors import DataError
from rlvr.preference_settings import RewardModelRecipe
from rlvr.recipe import Data, RlRecipe, SftRecipe, TrainingRecipe, VerifiedReward, VllmEngine

if TYPE_CHECKING:
    from rlvr.chat import Example
    from rlvr.types import BestOf, Preference, Ranking, Rating, Task


def dry_run(recipe: TrainingRecipe) -> dict[str, Any]:
    """All that can be found out without weights: rows, verifiers, the model's files, the lengths of prompts."""
    from rlvr import runs, tasks
    from rlvr.rewards.base import check_options, options_by_verifier

    runs.check_settings(recipe)
    if isinstance(recipe, RewardModelRecipe | DpoRecipe):
        return {"stage": recipe.stage, "steps": recipe.steps, **_check_preferences(recipe)}

    held_out = tasks.load_tasks(recipe.eval.tasks, setting="eval.tasks").rows if recipe.eval.tasks else []
    found: dict[str, Any] = {"stage": recipe.stage, "steps": recipe.steps, "held_out": len(held_out)}
    loaded: tasks.Loaded[Any]
    loaded = tasks.load_tasks(recipe.data) if isinstance(recipe, RlRecipe) else tasks.load_demonstrations(recipe.data)
    rows, num_same = tasks.exclude_prompts(loaded.rows, held_out)
    found |= {"rows": len(rows), "bad_rows": loaded.num_bad, "same_prompt": num_same}
    if not rows:
        raise DataError("nothing is left to train on: every prompt is also in eval.tasks")
    if isinstance(recipe, RlRecipe):
        check_options(recipe.rewards, {task.verifier for task in (*rows, *held_out) if task.verifier})
        asked = [(part.verifier, part.options) for part in recipe.rewards.values() if isinstance(part, VerifiedReward)]
        found["gold_invalid"] = _check_golds(rows, asked, recipe.data, "data")
        if recipe.eval.tasks is not None:
            found["gold_invalid"] += _check_golds(
                held_out, [(None, {})], recipe.eval.tasks, "eval.tasks", options_by_verifier(recipe.rewards)
            )
        found |= _check_canaries(recipe, rows)
        found |= _check_other_models(recipe)
    if isinstance(recipe, RlRecipe) and isinstance(recipe.engine, VllmEngine) and recipe.engine.mode == "server":
        from rlvr.engines.server import server_command

        found["server"] = server_command(recipe.engine, recipe.model)
    if isinstance(recipe, RlRecipe | SftRecipe):
        found |= _check_lengths(recipe, rows)
    return found


def _check_canaries(recipe: RlRecipe, rows: Sequence[Task]) -> dict[str, int]:
    """How many canaries of the recipe's own there are. SettingsError, DataError where none can be made or read."""
    from rlvr import tasks
    from rlvr.canaries import Canaries

    settings = recipe.canaries
    own = tasks.load_tasks(settings.tasks, setting="canaries.tasks").rows if settings.tasks else []
    Canaries(settings, recipe.rewards, [(task, ()) for task in rows], [(task, ()) for task in own], recipe.seed)
    return {"canaries": len(own)} if own else {}


def _check_other_models(recipe: RlRecipe) -> dict[str, int]:
    """DataError where the files of a reward model, the critic or the reference are none, or of another tokenizer where
    that may not be. How many demonstrations ptx has."""
    from rlvr import heads, policy, tasks
    from rlvr.recipe import JudgeReward, Model, ModelReward

    own_tokenizer, _ = policy.load_tokenizer(recipe.model)
    for name, part in recipe.rewards.items():
        if isinstance(part, ModelReward):
            wanted = list(part.attributes) or [name for name in (part.label, part.group) if name is not None]
            setting = f"rewards.{name}.{'paths' if part.paths else 'path'}"
            for path in part.paths or [part.path or ""]:
                model = Model(path=path, made_by=part.made_by)
                heads.check_files(model, wanted, setting=setting)
                heads.load_tokenizer(model, setting=setting)
        if isinstance(part, JudgeReward) and part.by.kind != "endpoint":
            model = Model(path=part.by.path, made_by=part.by.made_by)
            policy.load_tokenizer(model, setting=f"rewards.{name}.by.path")
    for setting, other in (("critic.path", recipe.critic), ("reference.path", recipe.reference)):
        if other.path:
            tokenizer, _ = heads.load_tokenizer(Model(path=other.path, made_by=other.made_by), setting=setting)
            policy.check_same_tokens(own_tokenizer, tokenizer, f"{setting} {other.path}")
    if recipe.ptx is None:
        return {}
    return {"ptx": len(tasks.load_demonstrations(recipe.ptx.data, setting="ptx.data").rows)}


def _check_golds(
    rows: Sequence[Task],
    asked: Sequence[tuple[str | None, Mapping[str, Any]]],
    data: Data,
    setting: str,
    own: Mapping[str, Mapping[str, Any]] | None = None,
) -> int:
    """How many rows have a gold that a verifier which judges them cannot use. `asked` and `own` as golds.unusable().

    DataError names them, unless on_bad_row=skip: such a row is sampled, and never judged.
    """
    from rlvr.golds import unusable
    from rlvr.tasks import bad_rows_message

    bad = [f"{row.id}: {problem}" for row, problem in unusable(rows, asked, own)]
    if bad and data.on_bad_row == "error":
        advice = f"gold_invalid, never judged; set {setting}.on_bad_row=skip to go on with them"
        raise DataError(bad_rows_message(data.path, bad, len(bad), len(rows), advice))
    return len(bad)


def _check_lengths(recipe: RlRecipe | SftRecipe, rows: Sequence[Any]) -> dict[str, Any]:
    """Tokenise all rows as training would. tokens: [least, median, most]; first: the first row as the model sees it."""
    import statistics

    from rlvr import chat, policy
    from rlvr.loops import setup

    tokenizer, context = policy.load_tokenizer(recipe.model)
    on_bad_row = recipe.data.on_bad_row
    if isinstance(recipe, RlRecipe):
        context = setup.context_of(context, recipe.engine)
        most = recipe.sample.max_tokens
        encoded = chat.encode_tasks(tokenizer, rows, max_tokens=most, context=context, on_bad_row=on_bad_row)
        ids = [prompt_ids for _, prompt_ids in encoded]
        gold = encoded[0][0].gold
    else:
        examples = chat.encode_demonstrations(
            tokenizer,
            rows,
            max_length=recipe.max_length or context,
            completion_only=recipe.completion_only_loss,
            on_bad_row=on_bad_row,
        )
        ids = [tuple(example.ids.tolist()) for example in examples]
        gold = None
    lengths = [len(i) for i in ids]
    found: dict[str, Any] = {"too_long": len(rows) - len(ids), "context": context}
    found["tokens"] = [min(lengths), int(statistics.median(lengths)), max(lengths)]
    found["first"] = tokenizer.decode(list(ids[0]))
    if isinstance(recipe, RlRecipe):
        found["gold"] = gold  # of the first that is kept
        if context is not None and max(lengths) + recipe.sample.max_tokens > context:
            found["note"] = (
                f"the longest prompt ({max(lengths)}) leaves {context - max(lengths)} of sample.max_tokens="
                f"{recipe.sample.max_tokens} tokens in a context of {context}"
            )
    return found


def _check_preferences(recipe: RewardModelRecipe | DpoRecipe) -> dict[str, Any]:
    """Rows as training would read and tokenise them, counted by what they are; tokens: of each row's longest side.

    Without steps those that are measured on."""
    import statistics

    from rlvr import chat, heads, policy
    from rlvr.loops import dpo, reward_evaluation, reward_model, reward_rows
    from rlvr.preferences import IN_WORDS

    if isinstance(recipe, RewardModelRecipe):
        prepared = reward_model.prepare(recipe)
        if recipe.data is not None and prepared.rows:
            reward_rows.output_names(recipe.loss, prepared.rows, recipe.data)
        tokenizer, context = heads.load_tokenizer(recipe.model)
    else:
        prepared = dpo.prepare(recipe)
        tokenizer, context = policy.load_tokenizer(recipe.model)
    rows, held_out = prepared.rows, prepared.held_out
    most = recipe.max_length or context
    encoded: Sequence[Any] = ()
    found: dict[str, Any] = {}
    if recipe.data is not None and prepared.kind is not None:
        encoded = chat.encode_rows(tokenizer, rows, max_length=most, on_bad_row=recipe.data.on_bad_row)
        found = {
            IN_WORDS[prepared.kind]: len(rows),
            "bad_rows": prepared.loaded.num_bad,
            "same_prompt": prepared.num_same,
            "too_long": len(rows) - len(encoded),
        }
    found["context"] = context
    if recipe.eval.tasks is not None and held_out is not None and prepared.held_out_kind is not None:
        bad = recipe.eval.tasks.on_bad_row
        kept = chat.encode_rows(tokenizer, held_out.rows, max_length=most, on_bad_row=bad)
        found |= {"held_out": len(kept), "held_out_are": IN_WORDS[prepared.held_out_kind]}
        encoded = encoded or kept
    if isinstance(recipe, RewardModelRecipe) and recipe.eval.probes is not None:
        found["probes"] = len(reward_evaluation.load_probes(recipe.eval.probes).rows)
    if not encoded:  # steps: 0 with probes alone
        return found
    lengths = [max(len(example.ids) for example in examples) for _, examples in encoded]
    found["tokens"] = [min(lengths), int(statistics.median(lengths)), max(lengths)]
    return found | _first(tokenizer, *encoded[0])


def _first(tokenizer: Any, row: Preference | Ranking | Rating | BestOf, examples: Sequence[Example]) -> dict[str, Any]:
    """A row as the model sees it: the prompt, and what stands behind it on each side."""
    from rlvr.types import BestOf, Preference, Ranking

    texts = [tokenizer.decode(example.ids[example.num_prompt :].tolist()) for example in examples]
    shown: dict[str, Any] = {"first": tokenizer.decode(examples[0].ids[: examples[0].num_prompt].tolist())}
    if isinstance(row, Preference):
        return shown | {"chosen": texts[0], "rejected": texts[1], "probability": row.probability}
    if isinstance(row, Ranking):
        return shown | {"best_first": [[texts[k] for k in place] for place in row.order]}
    if isinstance(row, BestOf):
        return shown | {"chosen": texts[: len(row.chosen)], "rejected": texts[len(row.chosen) :]}
    return shown | {"completion": texts[0]} | ({"scores": dict(row.scores)} if row.scores else {"label": row.label})
