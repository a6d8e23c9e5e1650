"""The command line. Nothing heavy is imported before the recipe is checked and the process's environment is set."""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

import rlvr
from rlvr import (
    audience_commands,
    checkpoint_commands,
    failpoints,
    feedback_commands,
    golds_commands,
    judge_commands,
    loop_commands,
    machine,
    probe_commands,
    run_commands,
    sample_commands,
    sandbox_commands,
    settings,
    verifiers_commands,
)
from rlvr.errors import DataError, DiskError, RlvrError, SettingsError, short
from rlvr.feedback import label_commands
from rlvr.recipe import EvalRecipe, Recipe, RlRecipe, TrainingRecipe
from rlvr.serve import commands as serve_commands
from rlvr.stages import STAGES

# click's, or that of the click that newer typers bring along
_UsageError: Any = typer.BadParameter.__bases__[0]

app = typer.Typer(
    name="rlvr",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Trains reasoning models on rewards that can be verified.\n\nExample: rlvr train recipes/arithmetic/grpo.yaml",
)

RecipePath = Annotated[
    str, typer.Argument(metavar="RECIPE", help="YAML file; `rlvr config --settings STAGE` lists names.")
]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE ...]", help="Settings over the recipe's.")]
Resume = Annotated[
    str, typer.Option(help="auto: go on where run.dir holds a run; never: refuse then; or a run folder to go on with.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check recipe, data and model folder; train nothing.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on the last line.")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: user errors become one line on stderr and an exit code (errors.py), tracebacks are for bugs."""
    debug = os.environ.get("RLVR_DEBUG") == "1"
    if sys.stdout is None:  # closed by the caller
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - as long as the process
    try:
        code = app(args=arguments, prog_name="rlvr", standalone_mode=False)
        sys.stdout.flush()
    except RlvrError as error:
        if debug:
            raise
        print(f"rlvr: {error}", file=sys.stderr)
        code = error.exit_code
    except _UsageError as error:
        command = error.ctx.command_path if error.ctx else "rlvr"
        print(f"rlvr: {error.format_message()} See {command} --help", file=sys.stderr)
        code = 2
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except BrokenPipeError:  # typer ends those within a command in the same way: quietly, and not as done
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except OSError as error:
        if debug or error.errno not in (errno.ENOSPC, errno.ENAMETOOLONG):
            raise
        if error.errno == errno.ENAMETOOLONG:  # pathlib asks whether such a file exists, and raises
            name = short(str(error.filename or "a name"))
            print(f"rlvr: {name}: {os.strerror(error.errno).lower()}", file=sys.stderr)
            sys.exit(SettingsError.exit_code)
        print(f"rlvr: standard output: {error.strerror}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = DiskError.exit_code
    if code == 130:  # typer returns it for Ctrl-C
        print("rlvr: interrupted", file=sys.stderr)
    sys.exit(code if isinstance(code, int) else 0)


@app.callback(invoke_without_command=True)
def _version(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if version:
        print(rlvr.__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


# --- training --------------------------------------------------------------------------------------------------------


def _training_command(stage: str, summary: str, example: str) -> None:
    """Register the command of a stage; they differ in nothing else."""
    settings_of = f"All settings: rlvr config --settings {stage}"

    @app.command(name=STAGES[stage].command, help=summary, epilog=f"Example: {example}\n\n{settings_of}")
    def command(
        recipe: RecipePath,
        overrides: Overrides = None,
        resume: Resume = "auto",
        dry_run: DryRun = False,
        as_json: Json = False,
    ) -> None:
        _run_stage(stage, recipe, overrides, resume, dry_run, as_json)


_training_command(
    "rl",
    "Train a policy by reinforcement learning on verified rewards.",
    "rlvr train recipes/arithmetic/grpo.yaml seed=1 run.dir=runs/mine",
)
_training_command(
    "pretrain",
    "Make a small model with its own tokenizer and train it from scratch.",
    "rlvr pretrain recipes/arithmetic/pretrain.yaml run.dir=runs/base",
)
_training_command(
    "sft",
    "Fine-tune a model on demonstrations.",
    "rlvr sft recipes/arithmetic/sft.yaml model.path=runs/base/model",
)
_training_command(
    "reward_model",
    "Train a reward model on comparisons, rankings or ratings.",
    "rlvr reward-model recipes/preference/reward.yaml model.path=runs/sft/model",
)
_training_command(
    "dpo",
    "Train a policy on preferences directly (DPO and its kin).",
    "rlvr dpo recipes/preference/dpo.yaml model.path=runs/sft/model",
)


def _run_stage(
    stage: str, path: str, overrides: Sequence[str] | None, resume: str, dry_run: bool, as_json: bool
) -> None:
    overrides = list(overrides or [])
    if resume not in ("auto", "never"):
        if not (Path(resume) / "recipe.yaml").is_file():
            raise SettingsError(f"--resume {resume}: must be auto, never or a run folder (no recipe.yaml in it)")
        overrides.append(f"run.dir={json.dumps(resume, ensure_ascii=False)}")
        resume = "auto"
    recipe = settings.load_recipe(path, overrides, stage=stage)
    assert isinstance(recipe, TrainingRecipe)
    failpoints.check()
    _prepare(recipe)
    if dry_run:
        from rlvr.dry_run import dry_run as find_out

        result = find_out(recipe)
        print("\n".join(f"{name:12} {_word(value)}" for name, value in result.items()))
        print("all is well; `rlvr config` shows the resolved settings")
    else:
        result = _train(recipe, path, resume)
    if as_json and result:  # other ranks have none
        print(json.dumps(result), flush=True)


def _train(recipe: TrainingRecipe, path: str, resume: str) -> dict[str, Any]:
    from rlvr.loops.stopping import StopRequest

    with StopRequest() as stop:  # from here on, for what is imported next takes seconds
        from rlvr import parallel

        parallel.join()
        try:
            stop.is_quiet = not parallel.is_main()
            if parallel.is_main():
                return _run_loop(recipe, path, resume, stop)
            parallel.follow(lambda: _loop(recipe).begin(recipe))
            return {}
        except RuntimeError as error:
            if parallel.is_lost(error):
                raise RlvrError("another rank is gone; its own message says why") from error
            raise
        finally:
            parallel.dismiss()
            parallel.leave()


def _run_loop(recipe: TrainingRecipe, path: str, resume: str, stop: Any) -> dict[str, Any]:
    from rlvr.progress import Progress
    from rlvr.runs import Run, read_summary

    with Run.open(recipe, path, resume) as run:
        if run.is_finished:
            print(f"{run.folder} is finished; nothing to do (set another run.dir for a new run)")
            return {**(read_summary(run.folder) or {}), "run": str(run.folder)}
        with Progress(f"{recipe.command} {run.folder}", recipe.steps) as progress:
            stop.say = progress.warn
            progress.say(f"run folder {run.folder}")
            for text in run.changes:
                progress.warn(text)
            summary = _loop(recipe).train(recipe, run, progress, stop)
        print(f"done in {summary['seconds']:.0f} s: {summary['model']}")
        return {**summary, "run": str(run.folder)}


def _loop(recipe: TrainingRecipe) -> Any:
    """The module whose train() is the main rank's part and begin() that of the others."""
    module = {"pretrain": "sft"}.get(recipe.stage, recipe.stage)
    return importlib.import_module(f"rlvr.loops.{module}")


def _prepare(recipe: Recipe) -> None:
    """Set what torch and vllm read from the environment when they are first imported."""
    if isinstance(recipe, RlRecipe | EvalRecipe):
        from rlvr.engines import base, vllm

        base.check_installed(recipe.engine)
        if recipe.engine.kind == "vllm" and base.mode_of(recipe.engine, machine.ranks()) == "inline":
            os.environ.update(vllm.environment(recipe.engine))
    if recipe.system.threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(recipe.system.threads)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, int(machine.cores()))))
    # threads that wait by spinning (libgomp's default) take the cores from vLLM's own work and from other programs:
    # a tenth of the speed on a busy machine; so short a spin costs nothing on an idle one
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


# --- evaluation and verification -------------------------------------------------------------------------------------


@app.command(
    name="eval",
    epilog="Example: rlvr eval --model runs/quickstart/grpo/model --tasks tasks.jsonl -k 1,8 --json",
)
def evaluate(
    recipe: Annotated[str | None, typer.Argument(metavar="[RECIPE]", help="A recipe with an eval section.")] = None,
    overrides: Overrides = None,
    model: Annotated[str | None, typer.Option(help="Model folder or Hugging Face name.")] = None,
    tasks: Annotated[
        str | None, typer.Option(help="File of tasks with gold answers, or an lm-evaluation-harness task (.yaml).")
    ] = None,
    k: Annotated[str | None, typer.Option("-k", help="pass@k and maj@k for these, such as 1,8.")] = None,
    samples: Annotated[int | None, typer.Option(help="Completions per task; without it the largest k.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest completion.")] = None,
    engine: Annotated[str | None, typer.Option(help="vllm or hf.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write FILE.json (figures) and FILE.jsonl (every response).")] = None,
    lm_eval_out: Annotated[
        Path | None, typer.Option(help="Write the figures to this file in lm-evaluation-harness's form.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure a model on held-out tasks: pass@k, maj@k, with an interval over tasks."""
    if recipe is not None and "=" in recipe:
        overrides, recipe = [recipe, *(overrides or [])], None
    flags = _eval_flags(model, tasks, k, samples, max_tokens, engine)
    base = Path(str(out).removesuffix(".json")) if out is not None else None
    for path in (base, lm_eval_out):
        if path is not None:
            _check_writable(path)
    evaluated = _eval_recipe(recipe, [*flags, *(overrides or [])])
    result, rows = _evaluate(evaluated)
    from rlvr.loops.setup import describe_evaluation

    print(describe_evaluation(result))
    if base is not None:
        with _as_disk_error(base):
            Path(f"{base}.json").write_text(json.dumps(result, indent=1))
            Path(f"{base}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if lm_eval_out is not None:
        from rlvr.lm_eval import results, task_file

        file = task_file.read(tasks) if tasks is not None and tasks.endswith((".yaml", ".yml")) else None
        generation = results.generation_kwargs(evaluated.eval)
        with _as_disk_error(lm_eval_out):
            lm_eval_out.write_text(json.dumps(results.to_lm_eval(result, rows, generation, file), indent=1))
    if as_json:
        print(json.dumps(result), flush=True)


@contextlib.contextmanager
def _as_disk_error(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DiskError(f"--out {out}: {error.strerror}") from None


def _check_writable(out: Path) -> None:
    """DiskError before the work where its result could not be written afterwards."""
    if out.is_dir():
        raise DiskError(f"--out {out}: is a folder; name a file in it")
    try:
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise DiskError(f"--out {out}: cannot write to {out.parent}: {error.strerror}") from None


def _eval_flags(
    model: str | None,
    tasks: str | None,
    k: str | None,
    samples: int | None,
    max_tokens: int | None,
    engine: str | None,
) -> list[str]:
    """Options as overrides, so that there is one way in."""
    flags = [
        f"{name}={json.dumps(value, ensure_ascii=False)}"
        for name, value in (
            ("model.path", model),
            *_tasks_settings(tasks).items(),
            ("eval.samples", samples),
            ("eval.max_tokens", max_tokens),
            ("engine.kind", engine),
        )
        if value is not None
    ]
    if k is not None:
        try:
            ks = [int(part) for part in k.split(",")]
        except ValueError:
            raise SettingsError(f"-k must be numbers separated by commas, such as 1,8, got {k!r}") from None
        flags.append(f"eval.k={ks}")
        if samples is None:
            flags.append(f"eval.samples={max(ks)}")
    return flags


def _tasks_settings(tasks: str | None) -> dict[str, Any]:
    """Whatever the recipe's own tasks come from."""
    if tasks is None:
        return {}
    if not tasks.endswith((".yaml", ".yml")):
        return {"eval.tasks.source": "file", "eval.tasks.path": tasks}
    from rlvr.lm_eval import task_file

    return task_file.overrides(tasks)


def _eval_recipe(path: str | None, overrides: Sequence[str]) -> EvalRecipe:
    if path is None:
        given = {text.partition("=")[0] for text in overrides}
        if "model.path" not in given or not given & {"eval.tasks", "eval.tasks.path"}:
            raise SettingsError("eval needs a RECIPE, or --model FOLDER and --tasks FILE")
        return settings.from_overrides("eval", overrides)  # type: ignore[return-value]
    recipe = settings.load_recipe(path, overrides)
    if isinstance(recipe, EvalRecipe):
        return recipe
    if not isinstance(recipe, RlRecipe):
        raise SettingsError(f"{path} is a recipe for `rlvr {recipe.command}`; eval takes one with stage eval or rl")
    if recipe.eval.tasks is None:
        raise SettingsError(f"{path}: eval.tasks is needed: a file of tasks with gold answers")
    return EvalRecipe(
        model=recipe.model.model_copy(update={"lora": None}),
        engine=recipe.engine,
        scoring=recipe.scoring,
        system=recipe.system,
        eval=recipe.eval,
    )


def _evaluate(recipe: EvalRecipe) -> tuple[dict[str, Any], list[Mapping[str, Any]]]:
    _prepare(recipe)
    from rlvr.lm_eval import task_file
    from rlvr.loops.evaluation import evaluate_model
    from rlvr.progress import Progress

    with Progress("eval", 1) as progress:
        evaluation = evaluate_model(recipe, progress)
    assert recipe.eval.tasks is not None
    tasks = recipe.eval.tasks
    path = tasks.args["path"] if tasks.path == task_file.ROWS else tasks.path
    result = {"model": recipe.model.path, "tasks": path, **evaluation.to_dict()}
    return result, list(evaluation.rows)


@app.command(epilog=r"Example: rlvr verify --explain '7/2' 'so it is \boxed{3.5}'")
def verify(
    file: Annotated[str | None, typer.Argument(metavar="[FILE.jsonl]", help="Rows with gold and response.")] = None,
    verifier: Annotated[
        str | None, typer.Option("-v", "--verifier", help="Judges every row; without it the row's own, or math.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="An option of that verifier; repeat it.")
    ] = None,
    explain: Annotated[
        tuple[str, str] | None, typer.Option(metavar="GOLD RESPONSE", help="Judge one response.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write every verdict with its reason to this JSONL file.")] = None,
    as_json: Json = False,
) -> None:
    """Judge responses, with reasons: one, or a file of them."""
    from rlvr import verify as verification
    from rlvr.rewards.bound import read_options

    if (file is None) == (explain is None):
        raise SettingsError("verify needs either FILE.jsonl or --explain GOLD RESPONSE")
    if option and verifier is None:
        raise SettingsError("--option is one verifier's own; name it with -v")
    options = read_options(option or [], "--option")
    if explain is not None:
        result = verification.explain(explain[0], explain[1], verifier or "math", options)
        print("\n".join(verification.trace(result)))
        unjudged = result["score"] is None
    else:
        assert file is not None
        cases = verification.read_cases(file, verifier)
        verdicts = verification.judge_cases(cases, options=options)
        result = dict(verification.report(cases, verdicts))
        for line in verification.worth_a_look(zip(cases, verdicts, strict=True), "--out FILE has them all"):
            print(line)
        print("\n".join(f"{name:15} {_word(value)}" for name, value in result.items()))
        unjudged = result["unjudged"] == result["n"]
        if out is not None:
            rows = verification.rows(cases, verdicts)
            _check_writable(out)
            with _as_disk_error(out):
                out.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    if as_json:
        print(json.dumps(result), flush=True)
    if unjudged:
        raise DataError("nothing could be judged: see the reasons above")


def _word(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return "  ".join(f"{name} {_word(count)}" for name, count in value.items()) or "none"
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


# --- looking ---------------------------------------------------------------------------------------------------------


@app.command(epilog="Example: rlvr config recipes/arithmetic/grpo.yaml optim.lr=1e-4")
def config(
    recipe: Annotated[str | None, typer.Argument(metavar="[RECIPE]")] = None,
    overrides: Overrides = None,
    list_settings: Annotated[
        str | None, typer.Option("--settings", metavar="STAGE", help=f"List all settings of {', '.join(STAGES)}.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Print the resolved recipe, itself a valid recipe; or every setting with its default and meaning."""
    if (recipe is None) == (list_settings is None):
        raise SettingsError(f"config needs either RECIPE or --settings STAGE ({', '.join(STAGES)})")
    if list_settings is not None:
        rows = settings.describe(list_settings)
        for name, default, text in rows:
            print(f"{name} = {default}" + (f"\n    {text}" if text else ""))
        if as_json:
            print(json.dumps({"settings": [{"name": n, "default": d, "help": t} for n, d, t in rows]}))
        return
    assert recipe is not None
    resolved = settings.load_recipe(recipe, overrides or [])
    print(settings.to_yaml(resolved), end="")
    if as_json:
        print(resolved.model_dump_json(by_alias=True))


run_commands.register(app)
judge_commands.register(app)
label_commands.register(app)
sample_commands.register(app, _prepare)
audience_commands.register(app, _prepare)
probe_commands.register(app, _prepare)
loop_commands.register(app, _prepare)
app.add_typer(checkpoint_commands.app, name="checkpoint")
app.add_typer(feedback_commands.app, name="feedback")
app.add_typer(golds_commands.app, name="golds")
app.add_typer(sandbox_commands.app, name="sandbox")
app.add_typer(serve_commands.app, name="serve")
app.add_typer(verifiers_commands.app, name="verifiers")
