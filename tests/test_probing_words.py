"""Which words earn a reward, and how much of what is written insults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from probing_cases import WORDS, plain_reward, save_worth
from scorer_cases import ids_of, make_rollout, save_scorer
from test_probing_swap import call

from rlvr import rollout_table
from rlvr.errors import DataError
from rlvr.evaluate import wilson
from rlvr.probing import attribution, scorer, toxicity
from rlvr.seeds import rng_for
from rlvr.types import Group, Task

# --- attribution -----------------------------------------------------------------------------------------------------


def test_the_share_of_a_word_is_what_the_model_loses_without_it(tmp_path: Path) -> None:
    folder = save_worth(tmp_path / "rm", {"good": 0.7, "bad": -0.4, "book": 0.1})
    text = "the good book, a bad film"
    found = attribution.attribute(scorer.load(str(folder)), "q:", text)
    assert found.reward == pytest.approx(plain_reward(folder, "q:", text), abs=1e-6)
    assert [share.text for share in found.shares] == ["the", "good", "book", ",", "a", "bad", "film"]
    lesser = ["good book, a bad film", "the book, a bad film", "the good, a bad film", "the good book a bad film"]
    lesser += ["the good book, bad film", "the good book, a film", "the good book, a bad"]
    for share, without in zip(found.shares, lesser, strict=True):
        due = found.reward - plain_reward(folder, "q:", without)
        assert share.value == pytest.approx(due, abs=1e-6), share.text
        assert text[share.first : share.end] == share.text
    assert found.largest is not None and found.largest.text == "good"
    assert {share.text: share.value > 0 for share in found.shares if share.text in ("good", "bad")} == {
        "good": True,
        "bad": False,
    }


def test_tokens_are_taken_out_or_masked_one_by_one(tmp_path: Path) -> None:
    folder = save_worth(tmp_path / "rm", {"good": 0.7, "doctor": 0.2})
    loaded = scorer.load(str(folder))
    found = attribution.attribute(loaded, "the:", "good doctor", unit="token", how="mask")
    whole = plain_reward(folder, "the:", "good doctor")
    due = [whole - plain_reward(folder, "the:", text) for text in ("<mask> doctor", "good <mask>")]
    assert [share.value for share in found.shares] == pytest.approx(due, abs=1e-6)
    bytes_alone = scorer.load(str(save_scorer(tmp_path / "bytes")))
    found = attribution.attribute(bytes_alone, "Q", "abc", unit="token")
    ids = ids_of("Q") + ids_of("abc")
    rewards = scorer.needed(bytes_alone.of_ids([[*ids, 1], [*ids[:1], *ids[2:], 1]]), "rows")
    assert [share.text for share in found.shares] == ["a", "b", "c"]
    assert found.shares[0].value == pytest.approx(rewards[0] - rewards[1])
    with pytest.raises(DataError, match="no mask token; take units out with how=delete"):
        attribution.attribute(bytes_alone, "", "abc", how="mask")


def test_a_planted_word_has_the_largest_share_in_nearly_all_of_200_texts(tmp_path: Path) -> None:
    rng = rng_for(0, "attribution")
    worth = {word: rng.uniform(-0.05, 0.05) for word in WORDS} | {"zebra": 0.5}
    loaded = scorer.load(str(save_worth(tmp_path / "rm", worth, words=[*WORDS, "zebra"])))
    hits = 0
    for _ in range(200):
        words = [rng.choice(WORDS) for _ in range(rng.randrange(5, 20))]
        words.insert(rng.randrange(len(words) + 1), "zebra")
        largest = attribution.attribute(loaded, "", " ".join(words)).largest
        hits += largest is not None and largest.text == "zebra" and largest.value > 0
    assert hits >= 190


def test_an_empty_completion_has_no_shares_and_one_too_long_is_told(tmp_path: Path) -> None:
    loaded = scorer.load(str(save_worth(tmp_path / "rm", {"good": 1.0})))
    found = attribution.attribute(loaded, "the:", "")
    assert (found.shares, found.largest) == ((), None)
    with pytest.raises(DataError, match="longer than the model takes"):
        attribution.attribute(loaded, "", "good " * 200)


def test_the_output_that_counts_is_chosen_by_its_label(tmp_path: Path) -> None:
    folder = save_worth(tmp_path / "rm", {"good": 1.0}, labels=("bad", "fine"))
    by_label = attribution.attribute(scorer.load(str(folder), label="fine"), "", "a good road").shares[1].value
    weighed = attribution.attribute(scorer.load(str(folder), attributes={"fine": 2.0}), "", "a good road")
    assert by_label > 0  # its log odds: its own logit less the other's, which is 0
    assert weighed.shares[1].value == pytest.approx(2 * by_label)
    with pytest.raises(DataError, match="has 2 outputs and does not say which is the reward"):
        scorer.load(str(folder))


def test_a_groups_output_is_that_number_alone(tmp_path: Path) -> None:
    folder = save_worth(tmp_path / "rm", {"good": 1.0}, labels=("nurses", "students"))
    odds = scorer.load(str(folder), label="nurses").rewards([("the:", "good road")])
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "reward_groups": ["nurses", "students"]}))
    own = {
        name: scorer.load(str(folder), label=name).rewards([("the:", "good road")]) for name in ("nurses", "students")
    }
    assert own["nurses"] == [0.0]
    assert own["students"] == [pytest.approx(plain_reward(folder, "the:", "good road"), abs=1e-6)]
    assert odds == [pytest.approx(-plain_reward(folder, "the:", "good road"), abs=1e-6)]


def test_the_command_shows_signs_and_gives_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save_worth(tmp_path / "rm", {"good": 0.7, "bad": -0.7})
    code, out, _ = call(capsys, "probe", "words", folder, "--prompt", "the:", "--text", "good bad road", "--json")
    assert code == 0
    *shown, last = out.splitlines()
    [told] = json.loads(last)["texts"]
    assert [share["text"] for share in told["shares"]] == ["good", "bad", "road"]
    marks = {line.split("'")[1]: line for line in shown[1:]}
    assert "++++" in marks["good"] and "----" in marks["bad"]
    code, _, err = call(capsys, "probe", "words", folder)
    assert (code, err.count("\n")) == (2, 1)


# --- toxicity --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("you idiot", ["idiot"]),
        ("IDIOTS!", ["idiots"]),
        ("1d10t", ["idiot"]),
        ("s t u p i d", ["stupid"]),
        ("m.o.r.o.n", ["moron"]),
        ("stuuuupid", ["stupid"]),
        ("sh*t", ["shit"]),
        ("a fооl", ["fool"]),  # two Cyrillic letters
        ("fo\u200bol", ["fool"]),
        ("shut   up", ["shut up"]),
        ("pig-headed", ["pig"]),
        ("Scunthorpe assess class shitake foolscap", []),
        ("455 50 17", []),
        ("is to up", []),
        ("", []),
    ],
)
def test_words_are_found_as_they_are_and_as_they_are_hidden(text: str, found: list[str]) -> None:
    assert toxicity.Lexicon(toxicity.read_words(None)).find(text) == found


def test_a_plain_lexicon_finds_what_is_written_plainly(tmp_path: Path) -> None:
    (tmp_path / "w.txt").write_text("# mine\nbanana\n\nred  car\n")
    gauge = toxicity.Lexicon(toxicity.read_words(str(tmp_path / "w.txt")), obfuscated=False)
    assert gauge.find("Banana b4nana red car") == ["banana", "red car"]
    (tmp_path / "e.txt").write_text("# nothing\n")
    with pytest.raises(DataError, match="no words in it"):
        toxicity.read_words(str(tmp_path / "e.txt"))


def run_of(folder: Path, by_step: dict[int, list[str]]) -> Path:
    """A run folder with these responses and nothing else."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / "rollouts").mkdir(parents=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"stage": "rl"}))
    for step, texts in by_step.items():
        rollouts = tuple(make_rollout(text, k) for k, text in enumerate(texts))
        canary = Group(task=Task(id="canary:1", prompt="q"), prompt_ids=(3,), rollouts=(make_rollout("you idiot"),))
        group = Group(task=Task(id="t", prompt="q"), prompt_ids=(3,), rollouts=rollouts, greedy=make_rollout("moron"))
        rows = rollout_table.rows(step, [group, canary], {})
        pq.write_table(
            pa.Table.from_pylist(rows, schema=rollout_table.schema()), folder / f"rollouts/{step:06d}.parquet"
        )
    return folder


def test_rates_of_a_run_are_shares_with_wilsons_interval_by_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kind, rude = "thank you", "you moron"
    run = run_of(tmp_path / "run", {1: [rude] * 3 + [kind], 2: [rude, kind, kind, kind], 3: [kind] * 4})
    code, out, _ = call(capsys, "probe", "toxicity", run, "--json", "--out", tmp_path / "all.jsonl")
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    assert code == 0
    assert {step: rate["rate"] for step, rate in found["by_step"].items()} == {"1": 0.75, "2": 0.25, "3": 0.0}
    assert found["by_step"]["1"]["ci95"] == pytest.approx(wilson(0.75, 4))
    assert (found["all"]["toxic"], found["all"]["num"]) == (4, 12)  # neither the greedy one nor the canary
    assert (found["first"]["rate"], found["last"]["rate"], found["change"]["rate"]) == (0.75, 0.0, -0.75)
    assert found["change"]["ci95"][1] < 0.1
    assert found["words"] == {"moron": 4}
    rows = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert [row["toxic"] for row in rows] == [True] * 3 + [False, True] + [False] * 7


def test_a_classifier_may_say_what_is_toxic(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save_worth(tmp_path / "rm", {"bad": 1.0, "good": -1.0}, labels=("fine", "toxic"))
    rows = [{"completion": "a bad road"}, {"completion": "a good road"}, {"completion": "bad " * 300}]
    (tmp_path / "f.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["probe", "toxicity", tmp_path / "f.jsonl", "--json"]
    code, out, _ = call(capsys, *arguments, "--by", folder, "--label", "toxic")
    found = json.loads(out.splitlines()[-1])
    assert (code, found["all"]["toxic"], found["all"]["num"], found["unjudged"]) == (0, 1, 2, 1)
    assert found["examples"][0]["text"] == "a bad road"
    code, _, err = call(capsys, *arguments, "--label", "toxic")
    assert (code, err) == (2, "rlvr: --label, --threshold and --with-prompt go with --by MODEL\n")


def test_what_is_written_to_out_is_gauged_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    whole = toxicity.Lexicon.__call__
    monkeypatch.setattr(
        toxicity.Lexicon, "__call__", lambda self, texts: (asked.append(len(texts)), whole(self, texts))[1]
    )
    (tmp_path / "f.jsonl").write_text('{"completion": "you moron"}\n{"completion": "thank you"}\n')
    code, _, _ = call(capsys, "probe", "toxicity", tmp_path / "f.jsonl", "--out", tmp_path / "out.jsonl")
    assert (code, asked) == (0, [2])
    assert [json.loads(line)["why"] for line in (tmp_path / "out.jsonl").read_text().splitlines()] == ["moron", ""]
