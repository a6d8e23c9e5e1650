"""What a run leaves behind when it ends early, and that the next attempt comes to the same end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_rl import PLUGIN, Quiet, assert_same_bits, exact, held_out, make_recipe, train, weights

from rlvr import runs
from rlvr.engines.hf import HuggingFace
from rlvr.errors import EngineError, Stopped
from rlvr.loops import evaluation, rl
from rlvr.loops.stopping import StopRequest
from rlvr.recipe import EvalRecipe, RlRecipe
from rlvr.settings import from_overrides
from rlvr.types import Completion, Request


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("plugin") / "toy.py"
    path.write_text(PLUGIN)
    return str(path)


def assert_same_end(run: Path, unbroken: Path) -> None:
    assert exact(runs.read_metrics(run)) == exact(runs.read_metrics(unbroken))
    assert_same_bits(weights(run / "model"), weights(unbroken / "model"))


def test_groups_that_disagreed_with_the_trainer_are_sampled_anew_once_it_is_mended(
    tiny_model: Path, plugin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ["steps=3", "checkpoint.every=1"]
    train(make_recipe(tmp_path / "unbroken", tiny_model, plugin, "share", *settings))
    recipe = make_recipe(tmp_path / "run", tiny_model, plugin, "share", *settings)
    generate = HuggingFace.generate

    def off(self: Any, requests: Sequence[Request]) -> Iterator[tuple[str, Completion]]:
        for id, completion in generate(self, requests):
            shift = 0.5 if id.startswith("2/") else 0.0
            yield id, replace(completion, logprobs=tuple(logp - shift for logp in completion.logprobs))

    monkeypatch.setattr(HuggingFace, "generate", off)
    with pytest.raises(EngineError, match="step 2: sampler and trainer disagree"):
        train(recipe)
    monkeypatch.setattr(HuggingFace, "generate", generate)
    train(recipe)
    assert_same_end(tmp_path / "run", tmp_path / "unbroken")


def stopping_at(words: str, recipe: RlRecipe) -> Any:
    """Train until the progress line says `words`, and ask to stop there."""
    stop = StopRequest()

    class Watching(Quiet):
        def phase(self, text: str) -> None:
            stop.requested = stop.requested or text.startswith(words)

    with runs.Run.open(recipe, "toy.yaml") as run:
        return rl.train(recipe, run, Watching(), stop)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_a_run_that_is_stopped_while_it_evaluates_does_that_again(
    lora: bool, tiny_model: Path, plugin: str, tmp_path: Path
) -> None:
    settings = ["steps=4", "eval.every=2", "checkpoint.every=0", "kl.coef=0.1", *held_out(plugin, 5)]
    settings += ["model.lora=true"] if lora else []
    whole = train(make_recipe(tmp_path / "unbroken", tiny_model, plugin, "share", *settings))
    recipe = make_recipe(tmp_path / "run", tiny_model, plugin, "share", *settings)
    for words, where in (
        ("evaluating 2/", "while evaluating after step 0 of 4"),
        ("sampling 5/", "while sampling step 1, of which \\d of 4 groups are kept"),
        ("evaluating 3/", "while evaluating after step 2 of 4"),
        ("sampling 9/", "while sampling step 3, of which \\d of 4 groups are kept"),
    ):
        with pytest.raises(Stopped, match=f"^stopped {where}; the same command with run.dir="):
            stopping_at(words, recipe)
    again = train(recipe)
    assert again["before"]["pass@1"] == whole["before"]["pass@1"]
    assert again["after"]["pass@1"] == whole["after"]["pass@1"]
    assert_same_end(tmp_path / "run", tmp_path / "unbroken")
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["000000", "000002"]
    assert not list((tmp_path / "run" / "groups").glob("*.log"))


def test_an_evaluation_through_a_server_is_of_the_model_that_is_named(
    tiny_model: Path, plugin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: dict[str, Any] = {}

    class Somebody(HuggingFace):
        def load(self, weights: Iterable[tuple[str, Any]], version: int) -> None:
            sent.update(weights)

    def build(settings: Any, model: Any, tokenizer: Any, longest: int) -> Any:
        from rlvr.recipe import HfEngine

        return Somebody(HfEngine(kind="hf"), model, tokenizer)

    monkeypatch.setattr(evaluation.engines, "build", build)
    given = [f"model.path={tiny_model}", "engine.mode=server", "engine.url=http://127.0.0.1:9", *held_out(plugin, 2)]
    recipe = from_overrides("eval", [*given, "eval.max_tokens=4"])
    assert isinstance(recipe, EvalRecipe)
    evaluation.evaluate_model(recipe, Quiet())
    assert sent.keys() == weights(tiny_model).keys()
