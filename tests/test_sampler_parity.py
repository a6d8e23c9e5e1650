"""The parity gate: sound engines pass, each known fault is put in on purpose and must be named, and no other."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from rlvr import chat, lora, parity, policy, trials
from rlvr.engines import hf
from rlvr.engines.hf import HuggingFace
from rlvr.mismatch import likely_cause
from rlvr.recipe import HfEngine, Lora, Model
from rlvr.trials import Cause, Trainer
from rlvr.types import Group, Message, Request, Sampling, Task

TOLERANCE = 1e-3
BOTH = ["hf", pytest.param("vllm", marks=pytest.mark.vllm)]


def tasks(tokenizer: Any, number: int = 12) -> list[tuple[Task, tuple[int, ...]]]:
    """Conversations of all lengths, and their ids."""
    found = []
    for k in range(number):
        turns = (Message(role="system", content="Add."), Message(role="user", content=f"{k}+" * (k % 4 + 1) + f"{k}=?"))
        task = Task(id=f"t{k}", prompt=turns)
        found.append((task, chat.render_prompt(tokenizer, task.prompt)))
    return found


def hugging_face(folder: Path, dtype: Any = "float32") -> HuggingFace:
    settings = Model(path=str(folder), dtype=dtype)
    return HuggingFace(HfEngine(kind="hf"), settings, policy.load_tokenizer(settings)[0])


@pytest.fixture(params=BOTH)
def engine(request: pytest.FixtureRequest, tiny_model: Path) -> Any:
    return request.getfixturevalue("vllm_engine") if request.param == "vllm" else hugging_face(tiny_model)


def trainer_of(folder: Path, temperature: float = 1.0) -> Trainer:
    settings = Model(path=str(folder))
    model, tokenizer = policy.load_model(settings)
    return Trainer(model=model, settings=settings, tokenizer=tokenizer, temperature=temperature)


@pytest.fixture
def trainer(tiny_model: Path) -> Trainer:
    return trainer_of(tiny_model)


def probe(engine: Any, trainer: Trainer, *, version: int = 0, number: int = 12, **sampling: Any) -> list[Group]:
    settings = Sampling(**{"temperature": trainer.temperature, "max_tokens": 64, **sampling})
    encoded = tasks(trainer.tokenizer)
    return parity.probe(engine, encoded, settings, number, seed=5, step=version, version=version, vocab_size=259)


def cause_of(trainer: Trainer, groups: Sequence[Group], **rest: Any) -> Cause:
    """Of a mismatch that there is; the one line that people see names it."""
    assert not parity.compare(trainer, groups).is_within(TOLERANCE)
    cause = likely_cause(trainer, groups, TOLERANCE, **rest)
    assert "\n" not in cause.text
    return cause


def move(model: Any, size: float = 0.1, seed: int = 9) -> None:
    """Weights as after some training."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += size * torch.randn(parameter.shape, generator=rng)


def sent(model: Any) -> Iterator[tuple[str, Tensor]]:
    """As the loop sends them: a tied head is not named."""
    return ((name, parameter.detach()) for name, parameter in model.named_parameters())


def with_completion(group: Group, **changes: Any) -> Group:
    (rollout,) = group.rollouts
    return replace(group, rollouts=(replace(rollout, completion=replace(rollout.completion, **changes)),))


def alone(trainer: Trainer, group: Group) -> Tensor:
    """The trainer's log-probabilities of the group's one completion."""
    ids_1T = torch.tensor([[*group.prompt_ids, *group.rollouts[0].completion.token_ids]])
    mask_1T = torch.arange(ids_1T.shape[1])[None] >= len(group.prompt_ids)
    with torch.no_grad():
        logp_1T, _ = policy.logprobs(trainer.model, ids_1T, mask_1T, trainer.temperature)
    return logp_1T[mask_1T]


def assert_certain(cause: Cause, kind: str) -> None:
    assert cause.kind == kind, cause.text
    assert "perhaps" not in cause.text and "or else" not in cause.text and "no single cause" not in cause.text


# --- sound engines ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_a_sound_sampler_agrees_before_and_after_new_weights(engine: Any, tiny_model: Path, temperature: float) -> None:
    trainer = trainer_of(tiny_model, temperature)
    for version in (0, 17):
        if version:
            move(trainer.model)
            engine.load(sent(trainer.model), version=version)
        agreement = parity.compare(trainer, probe(engine, trainer, version=version))
        assert agreement.num_tokens > 200 and agreement.mean < 1e-5
        assert agreement.is_within(TOLERANCE)
        metrics = agreement.metrics()
        assert metrics["sampling/sampling_logp_difference/max"] < 1e-4
        for part in ("min", "mean", "max"):
            assert metrics[f"sampling/importance_sampling_ratio/{part}"] == pytest.approx(1, abs=1e-4)


def test_a_sound_untied_model_agrees(untied_model: Path) -> None:
    trainer, engine = trainer_of(untied_model), hugging_face(untied_model)
    move(trainer.model)
    engine.load(sent(trainer.model), version=1)
    assert parity.compare(trainer, probe(engine, trainer, version=1)).mean < 1e-5


def test_the_probe_changes_nothing_that_is_sampled_after_it(engine: Any, trainer: Trainer) -> None:
    ids = trainer.tokenizer("what comes after")["input_ids"]
    request = Request(id="1/t0", prompt_ids=tuple(ids), seeds=(1, 2, 3), sampling=Sampling(max_tokens=20))
    before = dict(engine.generate([request]))
    first, again = probe(engine, trainer), probe(engine, trainer)
    assert first == again
    state = torch.get_rng_state()  # vLLM itself draws from it whenever it samples, and nothing of ours does
    parity.compare(trainer, first)
    assert torch.equal(torch.get_rng_state(), state)
    assert engine.version == 0
    assert dict(engine.generate([request])) == before


def test_the_probe_takes_short_completions_of_prompts_of_all_lengths(trainer: Trainer, tiny_model: Path) -> None:
    engine = hugging_face(tiny_model)
    lengths = sorted(len(ids) for _, ids in tasks(trainer.tokenizer))
    for number in (0, 1, 2, 4, 12, 50):
        groups = probe(engine, trainer, number=number)
        found = [len(group.prompt_ids) for group in groups]
        assert len(groups) == min(number, 12) and found == sorted(found)
        assert number < 2 or (found[0], found[-1]) == (lengths[0], lengths[-1])
        assert all(len(r.completion.token_ids) <= 32 for group in groups for r in group.rollouts)
    assert not parity.compare(trainer, []).num_tokens
    ids = {r.id for group in groups for r in group.rollouts}
    assert len(ids) == 12 and all(id.startswith("parity/0/t") for id in ids)


# --- each fault is named ---------------------------------------------------------------------------------------------


def test_weights_that_were_never_sent_are_named(engine: Any, trainer: Trainer) -> None:
    move(trainer.model)
    cause = cause_of(trainer, probe(engine, trainer))
    assert_certain(cause, "weights")
    assert f"older weights: those of {trainer.settings.path}" in cause.text


def test_weights_of_some_earlier_step_are_named_once_new_ones_help(engine: Any, trainer: Trainer) -> None:
    move(trainer.model)
    engine.load(sent(trainer.model), version=3)
    groups = probe(engine, trainer, version=3)
    move(trainer.model, seed=10)
    assert cause_of(trainer, groups).kind == "unknown"

    def resend() -> list[Group]:
        engine.load(sent(trainer.model), version=4)
        return probe(engine, trainer, version=4)

    cause = cause_of(trainer, groups, resend=resend)
    assert_certain(cause, "weights")
    assert "sent once more, it agrees" in cause.text


def test_few_rollouts_of_older_weights_among_many_are_named(trainer: Trainer, tiny_model: Path) -> None:
    engine = hugging_face(tiny_model)
    old = probe(engine, trainer)
    move(trainer.model)
    engine.load(sent(trainer.model), version=1)
    assert_certain(cause_of(trainer, [*probe(engine, trainer, version=1)[2:], *old[:2]]), "weights")


def test_a_tied_head_that_embedded_transformers_keeps_is_named(trainer: Trainer, tiny_model: Path) -> None:
    engine = hugging_face(tiny_model)
    head: Any = engine.model.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach().clone())
    move(trainer.model)
    engine.load(sent(trainer.model), version=1)
    cause = cause_of(trainer, probe(engine, trainer, version=1))
    assert_certain(cause, "head")
    assert "tied to the embeddings and was not refreshed" in cause.text


@pytest.mark.vllm
def test_a_tied_head_that_vllm_keeps_is_named(
    vllm_engine: Any, trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlvr.engines import vllm

    monkeypatch.setattr(vllm, "pack_output_head", lambda model: None)
    move(trainer.model)
    vllm_engine.load(sent(trainer.model), version=1)
    cause = cause_of(trainer, probe(vllm_engine, trainer, version=1))
    assert_certain(cause, "head")
    assert "tied to the embeddings and was not refreshed" in cause.text


def test_an_untied_head_that_was_not_sent_is_named(untied_model: Path) -> None:
    trainer, engine = trainer_of(untied_model), hugging_face(untied_model)
    move(trainer.model)
    engine.load(((n, p) for n, p in sent(trainer.model) if n != "lm_head.weight"), version=1)
    cause = cause_of(trainer, probe(engine, trainer, version=1))
    assert_certain(cause, "head")
    assert "it was not sent" in cause.text


@pytest.mark.parametrize(
    ("asked", "used", "told"),
    [
        (0.7, 1.0, "those at temperature 1, and sample.temperature is 0.7"),
        (1.0, 0.8, "those at temperature 0.8, and sample.temperature is 1"),
        (0.8, 1.25, "multiplies by the temperature"),
        (0.8, 0.64, "divides by the temperature twice"),
        (1.0, 1.2345, "those at temperature 1.2"),
    ],
)
def test_another_temperature_is_named(engine: Any, tiny_model: Path, asked: float, used: float, told: str) -> None:
    trainer = trainer_of(tiny_model, asked)
    cause = cause_of(trainer, probe(engine, trainer, temperature=used))
    assert_certain(cause, "temperature")
    assert told in cause.text


def test_raw_log_probabilities_are_named(trainer: Trainer, tiny_model: Path) -> None:
    warm = replace(trainer, temperature=0.7)
    groups = [
        with_completion(group, logprobs=tuple(alone(trainer, group).tolist()))
        for group in probe(hugging_face(tiny_model), warm)
    ]
    cause = cause_of(warm, groups)
    assert_certain(cause, "temperature")
    assert "logprobs_mode=processed_logprobs" in cause.text


@pytest.mark.parametrize(
    ("settings", "told"),
    [({"top_p": 0.8}, "top_p of about 0.8"), ({"top_p": 0.95}, "top_p of about 0.9"), ({"top_k": 5}, "top_k of 5")],
    ids=str,
)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_truncated_sampling_is_named(
    engine: Any, tiny_model: Path, settings: dict[str, Any], told: str, temperature: float
) -> None:
    trainer = trainer_of(tiny_model, temperature)
    cause = cause_of(trainer, probe(engine, trainer, **settings))
    assert_certain(cause, "truncation")
    assert told in cause.text


def test_a_guided_sampler_is_named(trainer: Trainer, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf, "truncate", lambda logits_BV, rows: logits_BV.masked_fill(torch.arange(259) % 3 > 0, -1e9))
    cause = cause_of(trainer, probe(hugging_face(tiny_model), trainer))
    assert cause.kind == "truncation"
    assert "no difference is below 0" in cause.text and "guided decoding" in cause.text


def raw_text(tokenizer: Any, task: Task, ids: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(tokenizer(task.prompt[-1]["content"], add_special_tokens=False)["input_ids"])


def no_head_of_the_turn(tokenizer: Any, task: Task, ids: tuple[int, ...]) -> tuple[int, ...]:
    text = tokenizer.apply_chat_template(list(task.prompt), tokenize=False, add_generation_prompt=False)
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def twice_rendered(tokenizer: Any, task: Task, ids: tuple[int, ...]) -> tuple[int, ...]:
    return chat.render_prompt(tokenizer, (Message(role="user", content=tokenizer.decode(list(ids))),))


PROMPTS: list[tuple[Callable[[Any, Task, tuple[int, ...]], tuple[int, ...]], str]] = [
    (lambda tokenizer, task, ids: (2, *ids), "with a (further) beginning-of-text token in front"),
    (raw_text, "the last turn's plain text, without chat template"),
    (no_head_of_the_turn, "without the head of the assistant's turn"),
    (lambda tokenizer, task, ids: chat.render_prompt(tokenizer, task.prompt[1:]), "without the system message"),
    (twice_rendered, "rendered by the chat template a second time"),
]


def seen_otherwise(engine: Any, trainer: Trainer, change: Callable[..., tuple[int, ...]]) -> list[Group]:
    """The sampler has seen other prompt ids than the trainer thinks."""
    right = {task.id: (task, ids) for task, ids in tasks(trainer.tokenizer)}
    wrong = [(task, change(trainer.tokenizer, task, ids)) for task, ids in right.values()]
    sampling = Sampling(max_tokens=32)
    groups = parity.probe(engine, wrong, sampling, 12, seed=5, step=0, version=0, vocab_size=259)
    return [replace(group, prompt_ids=right[group.task.id][1]) for group in groups]


@pytest.mark.parametrize(("change", "told"), PROMPTS, ids=[told for _, told in PROMPTS])
def test_another_prompt_is_named(engine: Any, trainer: Trainer, change: Any, told: str) -> None:
    cause = cause_of(trainer, seen_otherwise(engine, trainer, change))
    assert_certain(cause, "prompt")
    assert told in cause.text


def test_a_template_around_plain_prompts_is_named(trainer: Trainer, tiny_model: Path) -> None:
    texts = [f"{k}+{k}=" for k in range(8)]
    plain = [Task(id=text, prompt=text) for text in texts]
    wrong = [(task, chat.render_prompt(trainer.tokenizer, (Message(role="user", content=task.id),))) for task in plain]
    engine = hugging_face(tiny_model)
    groups = parity.probe(engine, wrong, Sampling(), 8, seed=5, step=0, version=0, vocab_size=259)
    right = {task.id: chat.render_prompt(trainer.tokenizer, task.prompt) for task in plain}
    cause = cause_of(trainer, [replace(group, prompt_ids=right[group.task.id]) for group in groups])
    assert_certain(cause, "prompt")


def adapted(folder: Path, alpha: float = 8.0) -> Trainer:
    trainer = trainer_of(folder)
    model = lora.attach(trainer.model, Lora(rank=4, alpha=alpha), seed=1)
    rng = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter += 0.3 * torch.randn(parameter.shape, generator=rng)
    return replace(trainer, model=model)


def merged(model: Any, factor: float) -> list[tuple[str, Tensor]]:
    from peft.tuners.lora import LoraLayer

    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.scaling["default"] *= factor
    return [(name, p.detach()) for name, p in lora.merged(model).named_parameters()]


def test_a_missing_adapter_is_named(engine: Any, tiny_model: Path) -> None:
    trainer = adapted(tiny_model)
    cause = cause_of(trainer, probe(engine, trainer))
    assert_certain(cause, "adapter")
    assert "the sampler has no adapter" in cause.text


@pytest.mark.parametrize(
    ("factor", "told"),
    [(2.0, "applied twice"), (0.5, "scaled by 1,"), (4.0, "scaled by 8,")],
)
def test_an_adapter_of_another_scale_is_named(tiny_model: Path, factor: float, told: str) -> None:
    trainer, engine = adapted(tiny_model), hugging_face(tiny_model)
    engine.load(merged(trainer.model, 1.0), version=1)
    assert parity.compare(trainer, probe(engine, trainer, version=1)).mean < 1e-5
    engine.load(merged(trainer.model, factor), version=2)
    cause = cause_of(trainer, probe(engine, trainer, version=2))
    assert_certain(cause, "adapter")
    assert told in cause.text and "alpha / rank is 2" in cause.text


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_another_precision_is_named(trainer: Trainer, tiny_model: Path, dtype: str) -> None:
    engine = hugging_face(tiny_model)
    engine.model.to(getattr(torch, dtype))
    cause = cause_of(trainer, probe(engine, trainer))
    assert_certain(cause, "dtype")
    assert f"the sampler computes in {dtype}, and the trainer in float32" in cause.text


def test_another_precision_of_weights_that_are_not_rounded_by_it_is_named(tmp_path: Path, tiny_model: Path) -> None:
    model, tokenizer = policy.load_model(Model(path=str(tiny_model)))
    model.to(torch.bfloat16).float().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    trainer, engine = trainer_of(tmp_path), hugging_face(tmp_path, "bfloat16")
    for number in (4, 12):
        assert_certain(cause_of(trainer, probe(engine, trainer, number=number)), "dtype")


def check_vllm_in_bfloat16(folder: str) -> None:
    """In a process of its own: there is one vLLM per process."""
    from rlvr.engines import base
    from rlvr.recipe import VllmEngine

    trainer = trainer_of(Path(folder))
    settings = Model(path=folder, dtype="bfloat16")
    engine = base.build(VllmEngine(max_num_seqs=8), settings, trainer.tokenizer)
    assert_certain(cause_of(trainer, probe(engine, trainer)), "dtype")
    engine.close()


@pytest.mark.slow
@pytest.mark.vllm
def test_vllm_in_another_precision_is_named(tiny_model: Path) -> None:
    pytest.importorskip("vllm")
    code = (
        f"import conftest, test_sampler_parity as t; t.check_vllm_in_bfloat16({str(tiny_model)!r}); print('all well')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent)
    assert done.stdout.splitlines()[-1:] == ["all well"], done.stderr[-3000:]


# --- where no cause may be claimed -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "kinds"), [(0.01, ("unknown", "temperature")), (0.02, ("unknown",)), (0.1, ("unknown", "weights"))]
)
def test_two_causes_at_once_are_not_taken_for_one(engine: Any, tiny_model: Path, size: float, kinds: Any) -> None:
    trainer = trainer_of(tiny_model, 0.7)
    move(trainer.model, size)
    cause = cause_of(trainer, probe(engine, trainer, temperature=1.0))
    assert cause.kind in kinds
    if cause.kind == "unknown":
        assert "no single cause found" in cause.text and "the largest difference is at token" in cause.text
    else:
        assert cause.text.startswith("perhaps ") and "second cause" in cause.text


def test_a_large_cause_above_a_small_one_is_named_with_what_is_left(tiny_model: Path) -> None:
    trainer, engine = trainer_of(tiny_model, 0.6), hugging_face(tiny_model, "bfloat16")
    cause = cause_of(trainer, probe(engine, trainer, temperature=1.0))
    assert cause.kind == "temperature"
    assert cause.text.startswith("perhaps ") and "second cause" in cause.text


@pytest.mark.parametrize("size", [0.0002, 0.0005, 0.001])
def test_small_differences_of_weights_are_not_taken_for_rounding(
    trainer: Trainer, tiny_model: Path, size: float
) -> None:
    engine = hugging_face(tiny_model)
    move(trainer.model)
    engine.load(sent(trainer.model), version=1)
    groups = probe(engine, trainer, version=1)
    move(trainer.model, size, seed=10)
    assert 1e-3 < parity.compare(trainer, groups).mean < 0.05  # what bfloat16 would make is between
    assert cause_of(trainer, groups).kind == "unknown"


def test_one_wrong_number_is_found(trainer: Trainer, tiny_model: Path) -> None:
    groups = probe(hugging_face(tiny_model), trainer)
    logprobs = groups[3].rollouts[0].completion.logprobs
    groups[3] = with_completion(groups[3], logprobs=(*logprobs[:6], logprobs[6] - 4, *logprobs[7:]))
    cause = cause_of(trainer, groups)
    assert cause.kind == "unknown"
    assert "1 of 12 rollouts are beyond the tolerance" in cause.text
    assert f"the largest difference is at token 6 of rollout {groups[3].rollouts[0].id}:" in cause.text


@pytest.mark.parametrize("odd", [math.nan, -math.inf])
def test_a_number_that_is_not_finite_is_a_mismatch_and_is_found(trainer: Trainer, tiny_model: Path, odd: float) -> None:
    groups = probe(hugging_face(tiny_model), trainer)
    logprobs = groups[2].rollouts[0].completion.logprobs
    groups[2] = with_completion(groups[2], logprobs=(*logprobs[:5], odd, *logprobs[6:]))
    agreement = parity.compare(trainer, groups)
    assert agreement.num_nonfinite == 1 and agreement.mean < 1e-5
    assert agreement.metrics()["sampling/nonfinite_tokens"] == 1
    cause = cause_of(trainer, groups)
    assert cause.kind == "non-finite"
    assert cause.text == (
        f"the sampler's ({odd:g}) log-probability of token 5 of rollout {groups[2].rollouts[0].id} "
        "is not a finite number"
    )


def test_a_model_that_is_gone_from_its_folder_is_said_not_to_have_been_tried(
    trainer: Trainer, tiny_model: Path
) -> None:
    groups = probe(hugging_face(tiny_model), trainer)
    move(trainer.model)
    gone = replace(trainer, settings=Model(path=str(tiny_model / "gone")))
    cause = cause_of(gone, groups)
    assert cause.kind == "unknown" and "; not tried: weights (model.path" in cause.text


def test_a_trial_that_fails_hides_neither_the_mismatch_nor_the_cause(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise torch.OutOfMemoryError("no room for a copy")

    monkeypatch.setattr(trials, "copy", SimpleNamespace(deepcopy=full))
    engine = hugging_face(tiny_model)
    cause = cause_of(trainer_of(tiny_model, 0.7), probe(engine, trainer_of(tiny_model), temperature=1.0))
    assert_certain(cause, "temperature")
    moved = trainer_of(tiny_model, 0.7)
    move(moved.model, 0.02)
    unknown = cause_of(moved, probe(engine, moved, temperature=1.0))
    assert "; not tried: dtypes (no room for a copy)" in unknown.text


def test_the_search_leaves_the_trainer_as_it_was(tiny_model: Path) -> None:
    from peft.tuners.lora import LoraLayer

    for trainer in (trainer_of(tiny_model, 0.7), adapted(tiny_model)):
        model = trainer.model
        layer = next(module for module in model.modules() if "Layer" in type(module).__name__)
        layer.training = True  # gradient checkpointing heeds it
        trained = [p for p in model.parameters() if p.requires_grad]
        for parameter in trained:
            parameter.grad = torch.ones_like(parameter)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        modes = [module.training for module in model.modules()]
        scales = [dict(m.scaling) for m in model.modules() if isinstance(m, LoraLayer)]
        cause_of(trainer, probe(hugging_face(tiny_model), trainer, temperature=1.3))
        after = model.state_dict()
        assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
        assert [module.training for module in model.modules()] == modes and sum(modes) == 1
        assert [dict(m.scaling) for m in model.modules() if isinstance(m, LoraLayer)] == scales
        assert [p for p in model.parameters() if p.requires_grad] == trained
        assert all(torch.equal(p.grad, torch.ones_like(p)) for p in trained)
        assert torch.is_grad_enabled()
