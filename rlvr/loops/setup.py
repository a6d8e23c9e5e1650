"""What all loops do around their steps: load data, evaluate, save, resume."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any

import torch

from rlvr import chat, checkpoint, lora, policy
from rlvr.direct_settings import DpoRecipe
from rlvr.errors import DataError, NonFiniteError, SettingsError
from rlvr.evaluate import Evaluation
from rlvr.inputs import fingerprint_model, fingerprint_rows
from rlvr.progress import Progress
from rlvr.recipe import Canaries, Data, HeldOut, HfEngine, Model, RlRecipe, SftRecipe, VllmEngine
from rlvr.rewards.shaping import Running
from rlvr.runs import Run, read_metrics
from rlvr.seeds import seed_for
from rlvr.tasks import Item, Loaded, exclude_prompts, load_demonstrations, load_tasks
from rlvr.trained import Trained
from rlvr.types import Demonstration, Task


@dataclass(slots=True)
class State:
    """The numbers of a run that no function of the step gives back."""

    step: int = 0
    cursor: int = 0
    """Tasks drawn so far."""
    tokens: int = 0
    """Sampled (RL) or trained on (SFT, pretraining) so far."""
    before: dict[str, Any] | None = None
    """The evaluation before the first step."""
    kl_coef: float | None = None
    """Of the next RL step, which kl.adaptive moves; None before the first step, and in the checkpoints of versions that
    knew no adaptive one: that of the recipe."""
    running: Running = field(default_factory=Running)
    """What shaping.whiten: running knows of all rewards so far."""
    seconds_before: float = 0.0
    """Of earlier attempts."""
    saved: int = -1
    """Step of the checkpoint that is on disk."""
    started: float = field(default_factory=time.perf_counter)

    def advance(self, step: int, cursor: int, tokens: int) -> None:
        self.step, self.cursor = step, cursor
        self.tokens += tokens

    def seconds(self) -> float:
        return self.seconds_before + time.perf_counter() - self.started


def device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def is_due(step: int, every: int) -> bool:
    """Whether something that happens every `every` steps (0: never) happens after `step`."""
    return every > 0 and step % every == 0


def warn_of_head(fused: str, model: Any, progress: Progress) -> None:
    """Say where loss.fused: auto cannot fuse."""
    if fused == "auto" and policy.plain_head(model) is None:
        progress.warn(
            "the output head is more than a matrix (an adapter on it?), so loss.fused does not apply: logits are made "
            "plainly, with more memory"
        )


def load_policy(recipe: RlRecipe | SftRecipe | DpoRecipe) -> tuple[Any, Any]:
    """(model on its device, with adapters where the recipe wants them, tokenizer)"""
    model, tokenizer = policy.load_model(recipe.model)
    if recipe.model.lora is not None:
        model = lora.attach(model, recipe.model.lora, seed_for(recipe.seed, "lora"))
    if recipe.gradient_checkpointing:
        policy.keep_few_activations(model)
    return model.to(device()), tokenizer


def load_reference(recipe: RlRecipe | DpoRecipe, model: Any, tokenizer: Any) -> Any:
    """The frozen model that the policy is compared with; None where nothing is, or it is the policy without adapters.

    model, tokenizer: the policy's before the first step. DataError where reference.path cannot be used.
    """
    if not recipe.reads_reference:
        return None
    if recipe.reference.path is None:
        return None if recipe.model.lora is not None else copy.deepcopy(model).requires_grad_(False)
    given = Model(path=recipe.reference.path, made_by=recipe.reference.made_by)
    reference, its_tokenizer = policy.load_model(given, setting="reference.path")
    policy.check_same_tokens(tokenizer, its_tokenizer, f"reference.path {given.path}")
    return reference.requires_grad_(False).to(device())


def decide_packing(wanted: bool | None, model: Any) -> bool:
    """Whether rows are packed. SettingsError where that is wanted and the architecture does not keep them apart."""
    if wanted is False:
        return False
    can_pack = policy.can_pack(model)
    if wanted and not can_pack:
        raise SettingsError(
            f"packing: {type(lora.plain(model)).__name__} does not keep packed rows apart; leave packing out"
        )
    return can_pack


def inputs(model: Model | None, **rows: Sequence[Task] | Sequence[Demonstration]) -> dict[str, str]:
    """Fingerprints of what a run is made from, by name: a resumed run must find the same."""
    found = {name: fingerprint_rows(given) for name, given in rows.items() if given}
    return found if model is None else {**found, "model": fingerprint_model(model.path)}


def load_held_out(settings: HeldOut, progress: Progress) -> list[Task]:
    """The evaluation's tasks; none where none are set."""
    if settings.tasks is None:
        return []
    return _tell(load_tasks(settings.tasks, setting="eval.tasks"), "held-out tasks", progress)


def load_canaries(settings: Canaries, progress: Progress) -> list[Task]:
    """Tasks of the recipe's own that cannot be solved; none where none are set."""
    if settings.tasks is None:
        return []
    return _tell(load_tasks(settings.tasks, setting="canaries.tasks"), "canaries", progress)


def load_training_tasks(data: Data, held_out: Sequence[Task], progress: Progress) -> list[Task]:
    """The training tasks without the prompts of the held-out ones."""
    return _without_held_out(_tell(load_tasks(data), "training tasks", progress), held_out, progress)


def load_training_demonstrations(
    data: Data,
    held_out: Sequence[Task],
    progress: Progress,
    setting: str = "data",
    left_out: dict[str, str] | None = None,
) -> list[Demonstration]:
    """The demonstrations without the prompts of the held-out tasks, which are noted in left_out; `setting` is what
    messages call the data."""
    rows = _tell(load_demonstrations(data, setting=setting), "demonstrations", progress)
    kept = _without_held_out(rows, held_out, progress)
    if left_out is not None:
        left_out |= same_prompt(rows, kept)
    return kept


def same_prompt(rows: Sequence[Any], kept: Sequence[Any]) -> dict[str, str]:
    """{id: why} of rows that are not among those kept, for Run.note_left_out()."""
    ids = {row.id for row in kept}
    return {row.id: "a held-out row has the same prompt" for row in rows if row.id not in ids}


def encode(
    tokenizer: Any,
    tasks: Sequence[Task],
    data: Data | None,
    *,
    max_tokens: int,
    context: int | None,
    progress: Progress,
) -> list[tuple[Task, tuple[int, ...]]]:
    """Tasks with their prompt ids; prompts that leave no room are bad rows, as data.on_bad_row has it."""
    if data is None or not tasks:
        return []
    encoded = chat.encode_tasks(tokenizer, tasks, max_tokens=max_tokens, context=context, on_bad_row=data.on_bad_row)
    if len(encoded) < len(tasks):
        progress.warn(f"{len(tasks) - len(encoded)} tasks left out: their prompts leave no room in {context} tokens")
    return encoded


def longest(encoded: Sequence[tuple[Task, tuple[int, ...]]], max_tokens: int) -> int:
    """Tokens of the longest prompt with the longest completion."""
    return max((len(ids) for _, ids in encoded), default=0) + max_tokens


def context_of(model_context: int | None, engine: VllmEngine | HfEngine) -> int | None:
    """Longest prompt plus completion that model and engine both take."""
    limits = [model_context, engine.max_model_len if isinstance(engine, VllmEngine) else None]
    return min((limit for limit in limits if limit is not None), default=None)


def evaluate_and_record(run_it: Callable[[str], Evaluation], run: Run, progress: Progress, step: int) -> dict[str, Any]:
    """Evaluate, write evals/NAME and a row of metrics, say the figures; returns Evaluation.to_dict()."""
    with progress.aside():
        evaluation = run_it(evaluation_name(step))
    result = evaluation.to_dict()
    figures = {key: value for key, value in result.items() if isinstance(value, float | int)}
    row = {
        "time/eval_seconds": figures.pop("seconds"),
        "perf/eval_tokens_per_second": figures.pop("tokens_per_second"),
        **{f"eval/{key}": value for key, value in figures.items() if key != "schema"},
    }
    if result["ci95"]:
        row["eval/ci95_low"], row["eval/ci95_high"] = result["ci95"]
    greedy = result.get("greedy")
    if greedy:
        row |= {} if greedy["pass@1"] is None else {"eval/greedy/pass@1": greedy["pass@1"]}
    record_evaluation(run, progress, step, result, evaluation.rows, row, describe_evaluation(result))
    return result


def record_evaluation(
    run: Run,
    progress: Progress,
    step: int,
    result: Mapping[str, Any],
    samples: Sequence[Mapping[str, Any]],
    row: Mapping[str, float],
    told: str,
) -> None:
    """Write evals/NAME (result, samples) and a row of metrics with its time/eval_seconds, say what is told."""
    run.write_evaluation(evaluation_name(step), result, samples)
    # a run that was killed after its last evaluation does that one again; its row is there
    if not is_evaluated(run, step):
        run.record(step, row)
    progress.say(f"step {step}: {told}")


def evaluation_name(step: int) -> str:
    """Of the folder under evals/ with what was measured after `step`."""
    return f"step_{step:06d}"


def is_evaluated(run: Run, step: int) -> bool:
    """Whether the figures after `step` are recorded."""
    return any(row["step"] == step and "time/eval_seconds" in row for row in read_metrics(run.folder))


def describe_evaluation(result: dict[str, Any]) -> str:
    """One line for people."""
    greedy = result.get("greedy")
    parts = [
        f"pass@1 {_share(result['pass@1'])}",
        f"(95 % {_share(result['ci95'][0])} to {_share(result['ci95'][1])})" if result["ci95"] else "",
        f" greedy {_share(greedy['pass@1'])}" if greedy else "",
        f" {result['n_tasks']} tasks x {result['n_samples']}",
        f" cut {_share(result['truncated'])}",
        f" nothing extracted {_share(result['unextracted'])}",
        f" could not be judged: {result['unjudged']}" if result["unjudged"] else "",
    ]
    return " ".join(part for part in parts if part)


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"


def save(run: Run, trained: Trained, state: State, keep: int, critic: Trained | None = None) -> None:
    """A checkpoint of the step that state speaks of, where there is none yet."""
    if state.saved == state.step:
        return
    tensors = trained.state() | ({} if critic is None else critic.state())
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise NonFiniteError(f"step {state.step}: {name} holds NaN or infinity, so no checkpoint of it is saved")
    numbers = {
        **trained.numbers(),
        "cursor": state.cursor,
        "tokens": state.tokens,
        "before": state.before,
        "kl_coef": state.kl_coef,
        "running": astuple(state.running),
        "seconds": state.seconds(),
        **({} if critic is None else {"critic": critic.numbers()}),
    }
    run.sync()
    checkpoint.save(run.folder / "checkpoints", state.step, tensors, numbers, keep=keep)
    state.saved = state.step
    run.forget_groups()


def guard(
    run: Run,
    trained: Trained,
    metrics: Mapping[str, float],
    step: int,
    batch: Mapping[str, Any],
    progress: Progress,
    critic: Trained | None = None,
) -> None:
    """Say of updates that were skipped, and keep what they were computed from. NonFiniteError after too many."""
    skipped = [(trained, "loss or gradient", "optim")] if metrics.get("skipped_updates") else []
    if critic is not None and metrics.get("critic/skipped_updates"):
        skipped.append((critic, "the critic's loss or gradient", "critic.optim"))
    if not skipped:
        return
    path = run.write_nonfinite(step, {name: tensor for name, tensor in batch.items() if tensor is not None})
    for of, where, section in skipped:
        in_a_row, most = of.skipped_in_a_row, of.settings.max_nonfinite
        text = f"step {step}: NaN or infinity in {where}; the update was skipped, its batch is in {path}"
        if in_a_row > most:
            raise NonFiniteError(f"{text}; {in_a_row} in a row, at most {most} are let pass ({section}.max_nonfinite)")
        progress.warn(text)


def save_trained(model: Any, tokenizer: Any, run: Run) -> None:
    """model/, a plain Hugging Face folder; of adapters also adapter/, a PEFT one. The model is not trained again."""
    if lora.is_attached(model):
        policy.save_model(model, tokenizer, run.adapter_folder)
        model = lora.merged(model)
    policy.save_model(model, tokenizer, run.model_folder)


def resume(run: Run, trained: Trained, progress: Progress, critic: Trained | None = None) -> State:
    """The state of the newest whole checkpoint, or the start; later rows are forgotten."""
    found = checkpoint.load_newest(run.folder / "checkpoints")
    if found is None:
        if run.has_begun:
            progress.say("this run has no checkpoint yet: starting again from its first step")
        run.truncate(-1)
        return State()
    step, tensors, numbers, skipped = found
    for line in skipped:
        progress.warn(line)
    try:
        trained.load_state(tensors, numbers)
        if critic is not None:
            critic.load_state(tensors, numbers.get("critic", {}))
    except ValueError as error:
        raise DataError(f"the checkpoint of step {step} in {run.folder} is of another model: {error}") from error
    run.truncate(step)
    missing = set(range(1, step + 1)) - {row["step"] for row in read_metrics(run.folder)}
    if missing:
        progress.warn(
            f"metrics.jsonl lacks the rows of {len(missing)} steps before ({min(missing)}, ...): they are lost"
        )
    progress.say(f"resuming after step {step}")
    return State(
        step=step,
        cursor=numbers["cursor"],
        tokens=numbers["tokens"],
        before=numbers["before"],
        kl_coef=numbers.get("kl_coef"),
        running=Running(*numbers.get("running", ())),
        seconds_before=numbers["seconds"],
        saved=step,
    )


def _tell(loaded: Loaded[Item], what: str, progress: Progress) -> list[Item]:
    progress.say(f"{len(loaded.rows)} {what}")
    if loaded.num_bad:
        progress.warn(f"{loaded.num_bad} bad rows left out of the {what}; the first: {loaded.bad[0]}")
    return loaded.rows


def _without_held_out(rows: Sequence[Item], held_out: Sequence[Task], progress: Progress) -> list[Item]:
    kept, num_same = exclude_prompts(rows, held_out)
    if num_same:
        progress.say(f"{num_same} rows left out of training: a held-out task has the same prompt")
    if not kept:
        raise DataError("nothing is left to train on: every prompt is also in eval.tasks")
    return kept
