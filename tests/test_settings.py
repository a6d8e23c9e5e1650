"""Layers of a recipe, what wins, and what people are told when a name or a value is wrong."""

from __future__ import annotations

import re
import subprocess
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from rlvr.errors import SettingsError
from rlvr.loss_settings import Loss
from rlvr.recipe import EvalRecipe, RlRecipe, SftRecipe
from rlvr.settings import _DEFAULT_TAGS, describe, from_overrides, load_recipe, to_yaml
from rlvr.stages import STAGES

BASE = "stage: rl\nsteps: 2\nmodel: {path: m}\ndata: {path: d.jsonl}\n"
SELF_EVIDENT = {"stage", "betas", "weight_decay", "temperature"}
Load = Callable[..., Any]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """load(text, *overrides, base=...) in an empty folder, so that files are named as they were given."""
    monkeypatch.chdir(tmp_path)

    def load_text(text: str = "", *overrides: str, stage: str | None = None, **files: str) -> Any:
        for name, content in files.items():
            Path(f"{name}.yaml").write_text(content)
        Path("r.yaml").write_text((BASE if "base:" not in text else "") + text)
        return load_recipe("r.yaml", overrides, stage=stage)

    return load_text


def problems(load: Load, text: str = "", *overrides: str, **files: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(text, *overrides, **files)
    return str(caught.value).splitlines()


# --- layers ---


def test_a_file_wins_over_its_base_and_the_command_line_over_both(load: Load) -> None:
    bottom = BASE + "seed: 1\nupdates: 1\nsample: {group_size: 2, max_tokens: 10}\n"
    middle = "base: bottom.yaml\nseed: 2\nsample: {group_size: 3}\n"
    recipe = load("base: middle.yaml\nsample: {groups_per_step: 5}\n", "seed=9", bottom=bottom, middle=middle)
    assert (recipe.seed, recipe.updates, recipe.steps) == (9, 1, 2)
    assert (recipe.sample.group_size, recipe.sample.max_tokens, recipe.sample.groups_per_step) == (3, 10, 5)


def test_a_base_is_looked_for_beside_the_file_that_names_it(load: Load) -> None:
    Path("below").mkdir()
    Path("below/middle.yaml").write_text("base: bottom.yaml\nseed: 4\n")
    Path("below/bottom.yaml").write_text(BASE)
    assert load("base: below/middle.yaml\n").seed == 4


def test_a_preset_lies_below_the_recipe_and_above_the_defaults(load: Load) -> None:
    recipe = load("algorithm: dr_grpo\nloss: {clip: {high: 0.3}}\n")
    assert recipe.advantage.kind == "group_no_std"
    assert recipe.loss.aggregate == "constant"
    assert (recipe.loss.clip.low, recipe.loss.clip.high) == (0.2, 0.3)
    assert load("algorithm: dr_grpo\n", "loss.aggregate=token").loss.aggregate == "token"


def test_overrides_read_their_values_as_yaml(load: Load) -> None:
    recipe = load(
        "", "optim.lr=1e-4", "eval.k=[1, 8]", "eval.samples=8", "rewards.fmt.verifier=boxed", "data.args={}",
        "sample.stop=['\\n', Q]", "optim.betas=[0.5, 0]", "kl.coef=1", "run.dir=2026-01-31", "model.path=a=b",
    )  # fmt: skip
    assert recipe.optim.lr == 1e-4
    assert recipe.eval.k == (1, 8)
    assert recipe.rewards["fmt"].verifier == "boxed"
    assert recipe.sample.stop == ("\\n", "Q")
    assert recipe.optim.betas == (0.5, 0.0)
    assert recipe.kl.coef == 1.0
    assert recipe.run.dir == "2026-01-31"
    assert recipe.model.path == "a=b"


def test_numbers_of_yaml_1_2_are_numbers_in_files_too(load: Load) -> None:
    recipe = load("optim: {lr: 3e-4, weight_decay: .5, max_grad_norm: 1}\n")
    assert (recipe.optim.lr, recipe.optim.weight_decay, recipe.optim.max_grad_norm) == (3e-4, 0.5, 1.0)


@pytest.mark.parametrize("override", ["steps=true", "steps=2.0", "steps='2'", "optim.lr=true", "eval.before=1"])
def test_nothing_is_converted_in_silence(load: Load, override: str) -> None:
    name = override.partition("=")[0]
    assert problems(load, "", override)[0].startswith(f"command line: {name}: input should be a valid ")


def test_another_kind_drops_the_settings_of_the_old_one(load: Load) -> None:
    text = "optim: {kind: muon, momentum: 0.5, adamw_lr: 1.0}\nrewards: {answer: {verifier: math, weight: 2.0}}\n"
    recipe = load(text, "optim.kind=adamw", "rewards.answer.kind=random")
    assert recipe.optim == RlRecipe.model_fields["optim"].default
    assert recipe.rewards["answer"].model_dump() == {
        "kind": "random",
        "p": 0.5,
        "weight": 1.0,
        "optional": False,
        "gate": None,
    }


def test_another_kind_than_the_default_drops_settings_where_no_kind_was_written(load: Load) -> None:
    recipe = load("optim: {lr: 7.0}\nengine: {cpu_kvcache_gib: 3}\n", "optim.kind=muon", "engine.kind=hf")
    assert recipe.optim.lr == 1e-2
    assert recipe.engine.model_dump() == {"kind": "hf", "max_num_seqs": 512}
    recipe = load("base: b.yaml\noptim: {kind: muon}\n", b=BASE + "optim: {lr: 7.0}\n")
    assert recipe.optim.lr == 1e-2


def test_the_same_kind_written_again_drops_nothing(load: Load) -> None:
    assert load("optim: {lr: 7.0}\n", "optim.kind=adamw").optim.lr == 7.0


def test_a_kind_that_only_chooses_a_formula_keeps_its_siblings(load: Load) -> None:
    recipe = load("kl: {coef: 0.1, kind: k3}\nadvantage: {eps: 0.5, kind: group}\n", "kl.kind=k2")
    assert (recipe.kl.coef, recipe.kl.kind) == (0.1, "k2")
    assert load("advantage: {eps: 0.5}\n", "advantage.kind=group_no_std").advantage.eps == 0.5


def test_a_generators_own_argument_named_kind_is_merged_like_any_other(load: Load) -> None:
    below = "stage: rl\nsteps: 2\nmodel: {path: m}\ndata: {source: generator, path: g:f, args: {kind: easy, n: 5}}\n"
    recipe = load("base: below.yaml\ndata: {args: {kind: hard}}\n", below=below)
    assert recipe.data.args == {"kind": "hard", "n": 5}


def test_every_section_with_kinds_has_its_default_kind_known() -> None:
    found = {path for model in STAGES.values() for path in _unions(model, ())}
    assert found == {
        path for path in _DEFAULT_TAGS if path not in (("data",), ("eval", "tasks"), ("canaries", "tasks"))
    }


def _unions(model: type[BaseModel], at: tuple[str, ...]) -> set[tuple[str, ...]]:
    found: set[tuple[str, ...]] = set()
    for name, field in model.model_fields.items():
        path, annotation = (*at, name), field.annotation
        if typing.get_origin(annotation) is dict:
            path, annotation = (*path, "*"), typing.get_args(annotation)[1]
        if typing.get_origin(annotation) is typing.Annotated:
            annotation = typing.get_args(annotation)[0]
        options = [a for a in (annotation, *typing.get_args(annotation)) if isinstance(a, type)]
        models = [a for a in options if issubclass(a, BaseModel)]
        if len(models) > 1:
            found.add(path)
        for option in models:
            found |= _unions(option, path)
    return found


def test_null_takes_a_reward_away(load: Load) -> None:
    recipe = load("rewards: {a: {verifier: math}, b: {kind: random}}\n", "rewards.a=null")
    assert list(recipe.rewards) == ["b"]
    assert problems(load, "rewards: {a: {}}\n", "rewards.a=null") == [
        "r.yaml: recipe: rewards must have at least one part"
    ]


def test_eval_tasks_may_be_a_path_whose_settings_later_layers_refine(load: Load) -> None:
    assert load("eval: {tasks: held.jsonl}\n").eval.tasks.path == "held.jsonl"
    recipe = load("eval: {tasks: held.jsonl}\n", "eval.tasks.limit=3")
    assert (recipe.eval.tasks.path, recipe.eval.tasks.limit) == ("held.jsonl", 3)
    recipe = load("eval: {tasks: {path: g:f, source: generator}}\n", "eval.tasks=held.jsonl")
    assert (recipe.eval.tasks.path, recipe.eval.tasks.source) == ("held.jsonl", "file")


# --- what evaluation has from training ---


def test_held_out_tasks_are_read_and_asked_like_those_trained_on(load: Load) -> None:
    text = """
data: {path: d.jsonl, columns: {gold: answer}, verifier: exact, system: Think., as_chat: true,
       prompt_template: "Q: {prompt}", limit: 5, on_bad_row: skip}
sample: {max_tokens: 77, stop: [END]}
"""
    text = BASE.replace("data: {path: d.jsonl}\n", "") + text
    bare = {"path": "held.jsonl", "limit": None, "on_bad_row": "error", "split": "train"}
    same = {"columns": {"gold": "answer"}, "verifier": "exact", "system": "Think.", "as_chat": True,
            "prompt_template": "Q: {prompt}"}  # fmt: skip
    Path("below.yaml").write_text(text)
    recipe = load("base: below.yaml\neval: {tasks: held.jsonl}\n")
    assert recipe.eval.tasks.model_dump(include={*bare, *same}) == bare | same
    assert (recipe.eval.max_tokens, recipe.eval.stop) == (77, ("END",))
    assert load("base: below.yaml\n").eval.tasks is None
    own = load(
        "base: below.yaml\neval: {max_tokens: 9, stop: [], tasks: {path: h, columns: {prompt: q}, verifier: math}}\n",
        "eval.tasks.as_chat=false", "eval.tasks.system=null",
    ).eval  # fmt: skip
    assert (own.max_tokens, own.stop) == (9, ())
    assert (own.tasks.columns, own.tasks.verifier, own.tasks.as_chat) == ({"prompt": "q"}, "math", False)
    assert (own.tasks.system, own.tasks.prompt_template) == (None, "Q: {prompt}")


@pytest.mark.parametrize("stage", ["sft", "pretrain"])
def test_held_out_tasks_of_supervised_stages_are_for_leaving_out_alone(stage: str) -> None:
    needed = ["steps=2", "data.path=d", "data.columns.prompt=q", *(["model.path=m"] if stage == "sft" else [])]
    recipe: Any = from_overrides(stage, [*needed, "eval.tasks=held.jsonl"])
    assert recipe.eval.model_dump(include={"tasks": {"path", "columns"}}) == {
        "tasks": {"path": "held.jsonl", "columns": {"prompt": "q"}}
    }
    with pytest.raises(SettingsError, match=r"^command line: eval\.every: no such setting"):
        from_overrides(stage, [*needed, "eval.every=5"])


@pytest.mark.parametrize(
    ("override", "message"),
    [("sample.max_tokens=x", "sample.max_tokens: input should be a valid integer, got 'x'"),
     ("sample.stop=3", "sample.stop: input should be a valid tuple, got 3"),
     ("data.verifier=3", "data.verifier: input should be a valid string, got 3"),
     ("data.columns.gold=3", "data.columns.gold: input should be a valid string, got 3"),
     ("eval.max_tokens=x", "eval.max_tokens: input should be a valid integer, got 'x'"),
     ("eval.tasks.verifier=3", "eval.tasks.verifier: input should be a valid string, got 3")],
)  # fmt: skip
def test_a_wrong_value_that_evaluation_would_have_too_is_told_once(load: Load, override: str, message: str) -> None:
    assert problems(load, "eval: {tasks: h}\n", override) == [f"command line: {message}"]


def test_an_eval_section_that_is_none_is_not_replaced_by_what_sample_says(load: Load) -> None:
    (told,) = problems(load, "sample: {max_tokens: 3}\n", "eval=3")
    assert told.startswith("command line: eval: input should be a valid dictionary")


# --- defaults and presets ---


def test_defaults_that_the_machine_and_the_user_feel(load: Load) -> None:
    recipe = load()
    assert (recipe.optim.micro_tokens, recipe.checkpoint.every, recipe.parity.tolerance) == (8192, 50, 1e-3)
    assert (recipe.eval.max_tokens, recipe.eval.stop) == (256, ())


@pytest.mark.parametrize(
    ("overrides", "where", "kind"),
    [
        (["algorithm=grpo"], "loss", "k3"),
        (["algorithm=grpo", "kl.coef=0.1", "kl.where=loss"], "loss", "k3"),
        (["algorithm=grpo", "kl.kind=k2"], "loss", "k2"),
        (["algorithm=grpo", "kl.where=reward"], "reward", None),
        (["algorithm=grpo", "kl.where=reward", "kl.kind=k3"], "reward", "k3"),
        (["algorithm=dr_grpo", "kl.coef=0.1"], "reward", None),
        (["algorithm=dr_grpo", "kl.where=loss"], "loss", None),
        (["algorithm=dr_grpo", "kl.kind=k2"], "loss", "k2"),
        (["algorithm=dr_grpo", "kl.weighted=true"], "loss", None),
        (["algorithm=dr_grpo", "kl.where=reward", "kl.kind=k3"], "reward", "k3"),
    ],
)
def test_the_presets_estimator_of_kl_is_for_the_loss_alone(
    load: Load, overrides: list[str], where: str, kind: str | None
) -> None:
    recipe = load("", *overrides)
    assert (recipe.kl.where, recipe.kl.kind) == (where, kind)
    Path("again.yaml").write_text(to_yaml(recipe))
    assert load_recipe("again.yaml") == recipe


@pytest.mark.parametrize("stage", ["rl", "sft"])
def test_training_takes_float32_alone(stage: str) -> None:
    with pytest.raises(SettingsError, match=r"model\.dtype must be float32 for training \(.*rounding of bfloat16\)"):
        from_overrides(stage, ["steps=2", "data.path=d", "model.path=m", "model.dtype=bfloat16"])
    evaluated: Any = from_overrides("eval", ["model.path=m", "model.dtype=bfloat16", "eval.tasks=t"])
    assert evaluated.model.dtype == "bfloat16"


def test_a_new_model_has_no_dtype() -> None:
    with pytest.raises(SettingsError, match=r"^command line: model\.dtype: no such setting"):
        from_overrides("pretrain", ["steps=2", "data.path=d", "model.dtype=float32"])


def test_some_part_of_the_reward_must_count(load: Load) -> None:
    text = "rewards: {a: {weight: 0}, b: {kind: random, weight: 0.0}}\n"
    assert problems(load, text) == ["r.yaml: recipe: rewards must have a part whose weight is not 0"]
    assert load(text, "rewards.b.weight=-1").rewards["b"].weight == -1.0


# --- what people are told ---


def test_all_problems_are_told_at_once_with_file_path_and_nearest_name(load: Load) -> None:
    text = "base: b.yaml\nloss: {agregate: token}\noptim: {lr: -1.0}\n"
    below = BASE + "rewards: {answer: {wieght: 2}}\n"
    told = problems(load, text, "sample.group_sise=3", "engine.kind=vlm", "loss.clip.low=x", b=below)
    assert sorted(told) == [
        "b.yaml: rewards.answer.wieght: no such setting; did you mean rewards.answer.weight?",
        "command line: engine.kind: must be one of 'vllm', 'hf', got vlm",
        "command line: loss.clip.low: input should be a valid number, got 'x'",
        "command line: sample.group_sise: no such setting; did you mean sample.group_size?",
        "r.yaml: loss.agregate: no such setting; did you mean loss.aggregate?",
        "r.yaml: optim.lr: input should be greater than 0, got -1.0",
    ]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("beta", "kl.coef"),
        ("epsilon", "loss.clip.low"),
        ("epsilon_high", "loss.clip.high"),
        ("num_generations", "sample.group_size"),
        ("max_completion_length", "sample.max_tokens"),
        ("critic.missing_eos_penalty", "overlong.missing_eos"),
        ("learning_rate", "optim.lr"),
        ("loss_type", "loss.aggregate"),
        ("scale_rewards", "advantage.kind"),
        ("num_iterations", "epochs"),
        ("max_steps", "steps"),
        ("output_dir", "run.dir"),
        ("use_vllm", "engine.kind"),
        ("sample.beta", "kl.coef"),
        ("optim.learning_rate", "optim.lr"),
        ("model.temperature", "sample.temperature"),
    ],
)
def test_names_of_trl_are_answered_with_ours(load: Load, theirs: str, ours: str) -> None:
    assert problems(load, "", f"{theirs}=1") == [f"command line: {theirs}: no such setting; did you mean {ours}?"]


def test_a_name_like_no_other_is_answered_with_those_that_are_known_there(load: Load) -> None:
    (told,) = problems(load, "", "loss.zzz=1")
    assert told == "command line: loss.zzz: no such setting; known here: " + ", ".join(sorted(Loss.model_fields))
    (told,) = problems(load, "", "zzz=1")
    assert " schema, " in told and "schema_version" not in told


def test_a_setting_that_is_needed_is_named(load: Load) -> None:
    Path("bare.yaml").write_text("stage: rl\n")
    with pytest.raises(SettingsError) as caught:
        load_recipe("bare.yaml")
    assert str(caught.value).splitlines() == [
        f"bare.yaml: {name}: is needed but not set" for name in ("steps", "data", "model")
    ]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("algorithm=grpoo", "algorithm: no 'grpoo'; did you mean 'grpo'? known: grpo"),
        ("algorithm=[grpo]", "algorithm: no ['grpo']; did you mean 'grpo'? known: grpo"),
        ("stage=sftt", "stage: no 'sftt'; did you mean 'sft'? known: rl, sft, pretrain"),
        ("stage=[rl]", "stage: no ['rl']; known: rl, sft, pretrain"),
        ("stage=null", "stage: no None; known: rl, sft, pretrain"),
        ("optim.kind=sgd", "optim.kind: must be one of 'adamw', 'muon', got sgd"),
        ("rewards.x.kind=verifed", "rewards.x.kind: must be one of 'verified', 'random', 'model', "),
        (
            "loss.aggregate=tokn",
            "loss.aggregate: input should be 'token', 'sequence', 'sequence_sum', 'constant' or 'prompt', "
            "got 'tokn'",
        ),
        ("optim=null", "optim: input should be a valid dictionary or object to extract fields from, got None"),
        ("rewards=null", "rewards: input should be a valid dictionary, got None"),
        ("optim.lr=.nan", "optim.lr: input should be a finite number, got nan"),
        ("optim.lr=.inf", "optim.lr: input should be a finite number, got inf"),
        ("eval.k=[4]", "eval: k [4] needs samples >= 4, got 1"),
        ("data.prompt_template=x", "data: prompt_template must contain {prompt}"),
        ("data.columns.prmpt=x", "data.columns.prmpt: input should be 'id', 'prompt', 'gold', 'completion', "
         "'text' or 'verifier', got 'prmpt'"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_answered_with_what_is_right(load: Load, override: str, message: str) -> None:
    (told,) = problems(load, "", override)
    assert told.startswith(f"command line: {message}")  # further kinds may follow


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("steps", "command line: 'steps' must look like section.setting=value"),
        ("=3", "command line: '=3' must look like section.setting=value"),
        ("a..b=3", "command line: 'a..b=3' must look like section.setting=value"),
        ("seed=a: b: c", "command line: seed: value 'a: b: c' is not valid YAML; put quotes around it"),
        ("seed=0b_", "command line: seed: value '0b_' is not valid YAML; put quotes around it"),
    ],
)
def test_an_override_that_cannot_be_read_is_shown(load: Load, override: str, message: str) -> None:
    assert problems(load, "", override) == [message]


def test_a_setting_that_is_set_whole_and_in_part_is_refused(load: Load) -> None:
    assert problems(load, "", "steps=3", "steps.x=1") == ["command line: steps is set both whole and in part"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nseed: 2\n", "r.yaml:6: 'seed' is set twice (first in line 5)"),
        ("loss: {clip: {low: 0.1, low: 0.2}}\n", "r.yaml:5: 'low' is set twice (first in line 5)"),
        ("? [a, b]\n: c\n", "r.yaml:5: the name of a setting must be text"),
        ("seed: [1\n", "r.yaml:6: not valid YAML: expected ',' or ']', but got '<stream end>'"),
        ("seed: !!python/name:os.system\n", "r.yaml:5: not valid YAML: could not determine a constructor for the tag "
         "'tag:yaml.org,2002:python/name:os.system'"),
        ("base: 3\n", "r.yaml: base: must be the path of a recipe, got 3"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_told_with_its_line(load: Load, text: str, message: str) -> None:
    Path("r.yaml").write_text(BASE + text)
    with pytest.raises(SettingsError) as caught:
        load_recipe("r.yaml")
    assert str(caught.value) == message


@pytest.mark.parametrize("content", ["\x00", "- 1\n", "", "3: 4\n", "a: " + "[" * 5000, "seed: 0b_\n"])
def test_no_content_of_a_file_is_more_than_a_settings_error_in_one_line(load: Load, content: str) -> None:
    Path("r.yaml").write_text(content)
    with pytest.raises(SettingsError, match=r"^r\.yaml: [^\n]*$"):
        load_recipe("r.yaml")


def test_bytes_that_are_no_text_are_told(load: Load) -> None:
    Path("r.yaml").write_bytes(b"seed: \xff\n")
    with pytest.raises(SettingsError, match=r"^r\.yaml: cannot be read as UTF-8 text"):
        load_recipe("r.yaml")


def test_merge_keys_of_yaml_work(load: Load) -> None:
    recipe = load("loss: {clip: &c {low: 0.1, high: 0.4}}\nsample: {max_tokens: 1}\n")
    assert recipe.loss.clip.high == 0.4
    recipe = load("rewards:\n  a: &a {weight: 2.0}\n  b: {<<: *a, verifier: boxed}\n")
    assert (recipe.rewards["b"].weight, recipe.rewards["b"].verifier) == (2.0, "boxed")


def test_a_missing_recipe_is_answered_with_the_nearest_file(load: Load) -> None:
    Path("grpo.yaml").write_text(BASE)
    with pytest.raises(SettingsError, match=r"^no recipe grop\.yaml; did you mean grpo\.yaml\?$"):
        load_recipe("grop.yaml")
    with pytest.raises(SettingsError, match=r"^no recipe far/away\.yaml \(seen from "):
        load_recipe("far/away.yaml")


def test_bases_in_a_circle_are_refused(load: Load) -> None:
    (told,) = problems(load, "base: b.yaml\n", b="base: r.yaml\n")
    assert told.startswith("r.yaml: base files go round in a circle: ")


def test_a_recipe_for_another_command_is_told_which(load: Load) -> None:
    with pytest.raises(SettingsError, match=r"^r\.yaml is a recipe for `rlvr train` \(stage: rl\)$"):
        load("", stage="sft")
    assert isinstance(load("", "stage=sft", stage="sft"), SftRecipe)


def test_a_recipe_can_be_made_of_overrides_alone() -> None:
    recipe = from_overrides("eval", ["model.path=m", "eval.tasks.path=t.jsonl", "engine.kind=hf"])
    assert isinstance(recipe, EvalRecipe)
    assert (recipe.model.path, recipe.eval.tasks and recipe.eval.tasks.path) == ("m", "t.jsonl")
    with pytest.raises(SettingsError, match=r"^command line: recipe: eval.tasks is needed"):
        from_overrides("eval", ["model.path=m", "eval.every=0"])


# --- the resolved recipe ---


@given(
    text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
    | st.sampled_from(
        [
            "1e-4",
            "3",
            "true",
            "null",
            "2026-01-31",
            ".5",
            "-",
            "a: b",
            "0x1f",
            "1_0",
            "~",
            "'",
            "=",
            "a\x85b",
            "\u2028",
            "<<",
        ]
    ),
    lr=st.floats(min_value=1e-12, max_value=100),
    k=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    args=st.dictionaries(st.text("ab1.", min_size=1, max_size=4), st.integers() | st.booleans() | st.text(max_size=4)),
    kind=st.sampled_from(["adamw", "muon"]),
)
@settings(max_examples=60, deadline=None)
def test_the_resolved_recipe_is_a_recipe_that_resolves_to_the_same(
    tmp_path_factory: pytest.TempPathFactory, text: str, lr: float, k: list[int], args: dict[str, Any], kind: str
) -> None:
    values: dict[str, Any] = {
        "stage": "rl",
        "steps": 2,
        "algorithm": "dr_grpo",
        "model": {"path": text},
        "run": {"dir": text},
        "data": {"path": text, "source": "generator", "args": args},
        "optim": {"kind": kind, "lr": lr},
        "eval": {"k": k, "samples": 4, "tasks": "held.jsonl", "stop": [text]},
        "rewards": {"a": {"kind": "verified", "verifier": "boxed"}, "b": {"kind": "random", "p": 0.25}},
    }
    recipe = RlRecipe.model_validate(values)
    path = tmp_path_factory.getbasetemp() / "resolved.yaml"
    path.write_text(to_yaml(recipe), encoding="utf-8")
    again = load_recipe(path, stage="rl")
    assert again == recipe
    assert to_yaml(again) == to_yaml(recipe)
    assert yaml.safe_load(to_yaml(recipe))["model"]["path"] == text  # other readers see the same


@pytest.mark.parametrize("stage", list(STAGES))
def test_describe_lists_every_setting_once_with_its_meaning(stage: str) -> None:
    rows = describe(stage)
    names = [name for name, _, _ in rows]
    assert len(names) == len(set(names))
    assert {"stage", "schema", "seed", "run.dir"} <= set(names)
    assert ("model.dtype" in names) == (stage != "pretrain")  # a new model is float32
    assert ("eval.max_tokens" in names) == (stage in ("rl", "eval", "loop"))
    assert ("eval.every" in names) == (stage not in ("sft", "pretrain", "loop"))
    assert "eval.tasks.path" in names
    assert {name for name, _, text in rows if not text and name.split(".")[-1] not in SELF_EVIDENT} == set()


def test_describe_tells_kinds_apart() -> None:
    rows = {name: (default, text) for name, default, text in describe("rl")}
    assert rows["engine.kind"] == ("vllm", "vllm; hf")
    assert rows["engine.max_num_seqs"] == ("vllm: 256; hf: 512", "Completions sampled at the same time.")
    assert rows["engine.cpu_kvcache_gib"] == ("1", "(vllm only) Cache on a CPU, in GiB.")
    assert rows["optim.lr"][0] == "adamw: 1e-06; muon: 0.01"
    assert rows["optim.warmup_steps"][0] == "0"
    assert rows["steps"][0] == "needed"
    assert (rows["eval.tasks.verifier"][0], rows["eval.tasks.limit"][0]) == ("data.verifier", "None")
    assert rows["canaries.tasks.columns.NAME"][0] == "data.columns"
    assert {n: d for n, d, _ in describe("eval")}["eval.tasks.verifier"] == "math"  # there is no data
    with pytest.raises(SettingsError, match="did you mean 'pretrain'"):
        describe("pretrian")


def test_every_described_setting_can_be_set(load: Load) -> None:
    plain = [(n, d) for n, d, _ in describe("rl") if "NAME" not in n and d.replace(".", "").isdigit()]
    assert len(plain) > 20
    for name, default in plain:
        load("", f"{name}={default}", *_needed_by(name))


def _needed_by(name: str) -> list[str]:
    sections = {
        "eval.tasks": ["eval.tasks.path=t"],
        "optim.momentum": ["optim.kind=muon"],
        "optim.adamw_lr": ["optim.kind=muon"],
        "kl.adaptive": ["kl.coef=0.1", "kl.adaptive.target=0.1"],
        "critic.": ["algorithm=ppo"],
        "ptx.": ["ptx.data=d"],
    }
    return next((needed for section, needed in sections.items() if name.startswith(section)), [])


def test_loading_takes_less_than_a_second_and_no_torch() -> None:
    code = (
        "import sys, time; start = time.perf_counter()\n"
        "from rlvr.settings import load_recipe; load_recipe('recipes/arithmetic/grpo.yaml')\n"
        "seconds = time.perf_counter() - start\n"
        "print(seconds, [m for m in ('torch', 'transformers', 'vllm', 'numpy', 'pandas') if m in sys.modules])"
    )
    root = Path(__file__).parents[1]
    out = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout
    seconds, _, heavy = out.strip().partition(" ")
    assert heavy == "[]"
    assert float(seconds) < 1.0


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("optim.lr=1e30", "optim.lr: input should be less than or equal to 100"),
        ("optim.betas=[1, 1]", "optim.betas.0: input should be less than 1"),
        ("sample.stop=['']", "sample.stop.0: string should have at least 1 character"),
        ("rewards.a.weight=1e300", "rewards.a.weight: input should be less than or equal to 1000000"),
        ("model.path=", "model.path: string should have at least 1 character"),
    ],
)
def test_numbers_and_names_that_can_only_be_mistakes_are_refused(load: Load, override: str, told: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(told)):
        load("", override)


@pytest.mark.parametrize("name", ["dpo", "cdpo", "rpo"])
def test_a_loss_that_is_called_as_its_paper_does_is_told_its_name_here(name: str) -> None:
    given = ["steps=1", "model.path=m", "data.path=d", f"loss.kind={name}"]
    with pytest.raises(SettingsError, match=rf"got '{name}'; DPO is sigmoid \(with label_smoothing cDPO"):
        from_overrides("dpo", given)
    with pytest.raises(SettingsError, match=rf"got '{name}'$"):
        from_overrides("reward_model", given)
