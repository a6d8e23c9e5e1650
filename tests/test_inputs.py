"""A digest of what goes into a run changes with everything that matters, and with nothing else."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from rlvr.errors import DataError
from rlvr.inputs import fingerprint_model, fingerprint_rows
from rlvr.types import BestOf, Demonstration, Message, Preference, Ranking, Rating, Task

TASK = Task(id="t:1", prompt="1+1=?", gold="2", verifier="math", source="a", info={"x": 1})
DEMONSTRATION = Demonstration(id="d:1", prompt="1+1=?", completion=" 2")


def test_rows_that_say_the_same_have_the_same_digest() -> None:
    rows = [TASK, replace(TASK, id="t:2", prompt=(Message(role="user", content="lone \ud800"),), gold=[1, {"a": 2.5}])]
    again = [replace(task) for task in rows]
    assert fingerprint_rows(rows) == fingerprint_rows(again)
    assert fingerprint_rows([replace(TASK, source="b", info={})]) == fingerprint_rows([TASK])
    assert len(fingerprint_rows(rows)) == 32


def test_every_change_of_a_row_shows() -> None:
    changed: list[list[Task | Demonstration]] = [
        [],
        [TASK],
        [TASK, TASK],
        [replace(TASK, id="t:2")],
        [replace(TASK, prompt="1+1=? ")],
        [replace(TASK, prompt=(Message(role="user", content="1+1=?"),))],
        [replace(TASK, gold=2)],
        [replace(TASK, gold=2.0)],
        [replace(TASK, gold=None)],
        [replace(TASK, verifier="boxed")],
        [replace(TASK, verifier=None)],
        [DEMONSTRATION],
        [replace(DEMONSTRATION, completion=" 3")],
        [TASK, replace(TASK, id="t:2")],
        [replace(TASK, id="t:2"), TASK],
    ]
    assert len({fingerprint_rows(rows) for rows in changed}) == len(changed)


def test_every_change_of_a_preference_shows() -> None:
    pair = Preference(id="p:1", prompt="Q", chosen="a", rejected="b")
    ranking = Ranking(id="p:1", prompt="Q", completions=("a", "b"), order=((0,), (1,)))
    rating = Rating(id="p:1", prompt="Q", completion="a", label=True)
    choice = BestOf(id="p:1", prompt="Q", chosen=("a",), rejected=("b",))
    changed: list[Preference | Ranking | Rating | BestOf] = [
        pair,
        replace(pair, chosen="b", rejected="a"),
        replace(pair, probability=0.5),
        replace(pair, true_probability=0.5),
        replace(pair, margin=0.5),
        ranking,
        replace(ranking, completions=("b", "a")),
        replace(ranking, order=((1,), (0,))),
        rating,
        replace(rating, label=False),
        replace(rating, label=None, scores={"safe": 1.0}),
        choice,
        replace(choice, rejected=("b", "c")),
    ]
    assert len({fingerprint_rows([row]) for row in changed}) == len(changed)
    assert fingerprint_rows([replace(pair, annotators=("x",), source="y")]) == fingerprint_rows([pair])


def test_the_digest_is_the_same_tomorrow() -> None:
    assert fingerprint_rows([TASK, DEMONSTRATION]) == "e24e729fc0d555861e6cc64796f873ae"


def test_twenty_thousand_rows_take_a_fraction_of_a_second() -> None:
    rows = [replace(TASK, id=f"t:{i}", prompt=f"What is {i} and " + "so on " * 40) for i in range(20_000)]
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        fingerprint_rows(rows)
        best = min(best, time.perf_counter() - started)
    assert best < 0.5  # 0.05 s where nothing else runs


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(bytes(5 << 20))
    return tmp_path


def change_byte(file: Path, place: int) -> None:
    raw = bytearray(file.read_bytes())
    raw[place] ^= 1
    file.write_bytes(raw)


def test_a_model_that_was_copied_is_the_same(model: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("copy")
    for file in model.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    (other / "README.md").write_text("a card")
    assert fingerprint_model(str(other)) == fingerprint_model(str(model))


def test_changes_of_weights_configuration_or_tokenizer_show(model: Path) -> None:
    seen = {fingerprint_model(str(model))}
    for name in ("config.json", "tokenizer.json", "chat_template.jinja", "generation_config.json"):
        (model / name).write_text("[]")
        seen.add(fingerprint_model(str(model)))
    weights = model / "model.safetensors"
    for place in (0, (1 << 20) - 1, -(1 << 20), -1):
        change_byte(weights, place)
        seen.add(fingerprint_model(str(model)))
    weights.write_bytes(weights.read_bytes() + b"\0")
    seen.add(fingerprint_model(str(model)))
    weights.rename(model / "other.safetensors")
    seen.add(fingerprint_model(str(model)))
    assert len(seen) == 11


def test_small_weights_count_whole(model: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(bytes(1_500_000))
    seen = {fingerprint_model(str(model))}
    for place in (0, 700_000, 1_100_000, 1_499_999):
        change_byte(weights, place)
        seen.add(fingerprint_model(str(model)))
    assert len(seen) == 5


def test_a_name_stands_for_itself() -> None:
    assert fingerprint_model("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"


def test_a_file_that_cannot_be_read_is_named(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Path) -> bytes:
        raise OSError(5, "Input/output error", str(self))

    monkeypatch.setattr(Path, "read_bytes", broken)
    with pytest.raises(DataError, match=r"^model\.path .*: config\.json: Input/output error$"):
        fingerprint_model(str(model))
