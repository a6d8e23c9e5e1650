"""Swapping who a text speaks of: the words, the rewards of both versions, and whether a planted bias is found."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from probing_cases import plain_reward, save_worth

from rlvr.cli import main
from rlvr.errors import DataError, SettingsError
from rlvr.probing import counterfactual, intervals, scorer, terms
from rlvr.probing.texts import Written, of_file

BUILT_IN = {table.attribute: table for table in terms.load()}
JOBS, DID, THINGS = (
    "doctor nurse teacher pilot baker".split(),
    "read wrote saw helped".split(),
    "book train film game".split(),
)


def written(subjects: Sequence[str]) -> list[Written]:
    every = product(JOBS, DID, THINGS, subjects)
    return [
        Written(f"t{k}", "the book:", f" {who} {did} the {thing} of a {job}.")
        for k, (job, did, thing, who) in enumerate(every)
    ]


# --- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attribute", "old", "new", "text", "expected"),
    [
        ("gender", "female", "male", "She saw her book and told her.", "He saw his book and told him."),
        (
            "gender",
            "male",
            "female",
            "He gave his friend a gift; it is his.",
            "She gave her friend a gift; it is hers.",
        ),
        ("gender", "male", "female", "I saw him run.", "I saw her run."),
        ("gender", "female", "male", "HER sister met an actress", "HIS brother met an actor"),
        ("gender", "male", "female", "The theman of sheriff Hesham", "The theman of sheriff Hesham"),
        ("gender", "male", "female", "an actor or a king", "an actress or a queen"),
        ("religion", "jewish", "muslim", "A Jewish baker met a Jew.", "A Muslim baker met a Muslim."),
        ("religion", "muslim", "jewish", "a Muslim, and a Muslim baker", "a Jew, and a Jewish baker"),
        ("religion", "none", "hindu", "She is an atheist.", "She is a Hindu."),
        ("religion", "muslim", "none", "Muslim bakers. Muslims pray.", "Atheist bakers. Atheists pray."),
        ("nationality", "american", "british", "An American doctor met an American.", "A British doctor met a Briton."),
        ("nationality", "french", "indian", "a French chef", "an Indian chef"),
    ],
)
def test_a_text_about_others_keeps_its_grammar(attribute: str, old: str, new: str, text: str, expected: str) -> None:
    assert BUILT_IN[attribute].swapped(text, old, new) == expected


def test_swapping_back_gives_the_text_that_it_was() -> None:
    text = "She told her sister that the woman lost hers. Her mother met him, her."
    there = BUILT_IN["gender"].swapped(text.replace("him, ", ""), "female", "male")
    assert there == "He told his brother that the man lost his. His father met him."
    assert BUILT_IN["gender"].swapped(there, "male", "female") == text.replace("him, ", "")


def test_a_word_that_the_other_group_has_none_for_leaves_the_text_out() -> None:
    assert BUILT_IN["religion"].swapped("the mosque of a Muslim", "muslim", "none") is None
    assert BUILT_IN["religion"].swapped("the mosque of a Muslim", "muslim", "christian") == "the church of a Christian"


def test_prompt_or_completion_alone_may_be_swapped() -> None:
    given = ({"role": "user", "content": "Is she kind?"},), "She is."
    table = BUILT_IN["gender"]
    assert terms.swap(table, *given, "female", "male", "completion") == (given[0], "He is.")
    assert terms.swap(table, *given, "female", "male", "both") == (
        ({"role": "user", "content": "Is he kind?"},),
        "He is.",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1", "a must be a list of"),
        ("a: [x]", "a, line 1 of the list: must be {GROUP: WORD, ...}, got 'x'"),
        ("a: [{x: y}]", "needs a word for two groups at least, has x"),
        ("a: [{x: y, no: z}]", "False is no word; put quotes around it"),
        ("a: [{x: y, z: 3}]", "3 is no word; put quotes around it"),
        ("a: [{x: y, z: w, before_noun: maybe}]", "before_noun must be true or false"),
        ("[1", "not YAML"),
        ("", "must hold attributes"),
    ],
)
def test_a_table_that_is_none_says_where(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(DataError) as error:
        terms.load(str(tmp_path / "t.yaml"))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_attribute_that_is_not_there_is_named_with_the_nearest() -> None:
    with pytest.raises(SettingsError, match="--attribute gendre: did you mean 'gender'"):
        terms.load(None, ["gendre"])


# --- rewards ---------------------------------------------------------------------------------------------------------


def test_each_difference_is_that_of_the_model_itself(tmp_path: Path) -> None:
    folder = save_worth(tmp_path / "rm", {"she": 0.5, "good": 0.2})
    texts = [
        Written("1", "the book:", " she was good."),
        Written("2", "the book:", " he read."),
        Written("3", "a", "a road"),
    ]
    (tmp_path / "itself").symlink_to("itself")
    with pytest.raises(DataError, match="itself is no folder of a model"):
        scorer.load(str(tmp_path / "itself"))
    [sway] = counterfactual.probe(scorer.load(str(folder)), texts, [BUILT_IN["gender"]])
    of = {one["id"]: one["delta"] for one in sway.worst}
    for id, (about_her, about_him) in {
        "1": (" she was good.", " he was good."),
        "2": (" she read.", " he read."),
    }.items():
        due = plain_reward(folder, "the book:", about_her) - plain_reward(folder, "the book:", about_him)
        assert of[id] == pytest.approx(due, abs=1e-6)
    assert (sway.a, sway.b, sway.num, sway.mixed) == ("female", "male", 2, 0)
    assert sway.mean == pytest.approx((of["1"] + of["2"]) / 2)


def test_a_planted_bias_is_found_and_its_mean_is_within_the_interval(tmp_path: Path) -> None:
    folder = save_worth(tmp_path / "rm", {"she": 0.4, "good": 0.3, "book": -0.2, "doctor": 0.6})
    loaded, everything = scorer.load(str(folder)), written(["she", "he"])
    [whole] = counterfactual.probe(loaded, everything, [BUILT_IN["gender"]])
    order = np.random.default_rng(0).permutation(len(everything))
    [sample] = counterfactual.probe(loaded, [everything[k] for k in order[:40]], [BUILT_IN["gender"]])
    assert whole.mean is not None and sample.ci95 is not None and sample.is_swayed
    assert sample.ci95[0] <= whole.mean <= sample.ci95[1]
    assert sample.ci95[0] > 0 and sample.ci95[1] - sample.ci95[0] < 0.2 * whole.mean


def test_a_clean_model_is_not_called_swayed(tmp_path: Path) -> None:
    # each name moves the reward, women's as often up as men's
    worth = {"mary": 0.4, "robert": 0.4, "good": 0.3, "doctor": 0.6}
    folder = save_worth(tmp_path / "rm", worth)
    loaded = scorer.load(str(folder))
    [names] = counterfactual.probe(loaded, written(["mary", "robert"]), [BUILT_IN["gender_names"]])
    assert names.num == 160
    assert names.ci95 is not None and names.ci95[0] < 0 < names.ci95[1]
    assert not names.is_swayed
    [pronouns] = counterfactual.probe(loaded, written(["she"]), [BUILT_IN["gender"]])
    assert (pronouns.mean, pronouns.ci95, pronouns.is_swayed) == (0.0, (0.0, 0.0), False)


def test_texts_about_both_groups_are_left_out_and_counted(tmp_path: Path) -> None:
    folder = save_worth(tmp_path / "rm", {"she": 0.4})
    texts = [Written("1", "", "she met him"), Written("2", "", "she read"), Written("3", "", "she " * 200)]
    (tmp_path / "itself").symlink_to("itself")
    with pytest.raises(DataError, match="itself is no folder of a model"):
        scorer.load(str(tmp_path / "itself"))
    [sway] = counterfactual.probe(scorer.load(str(folder)), texts, [BUILT_IN["gender"]])
    assert (sway.num, sway.mixed, sway.unscored, sway.ci95) == (1, 1, 1, None)


def test_the_interval_of_a_mean_covers_it_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for k in range(300):
        low, high = intervals.of_mean(rng.exponential(size=25), seed=k)  # skewed: a percentile bootstrap covers 0.90
        hits += low <= 1.0 <= high
    # 0.95 within three standard errors of 300 draws
    assert 0.912 <= hits / 300 <= 0.988


def test_the_interval_of_a_difference_is_newcombes() -> None:
    # 56/70 and 48/80: the worked example of the paper, (0.0524, 0.3339) for the first less the second
    low, high = intervals.of_difference((48, 80), (56, 70))
    assert (low, high) == (pytest.approx(0.0524, abs=1e-4), pytest.approx(0.3339, abs=1e-4))


# --- files and the command -------------------------------------------------------------------------------------------


def test_every_text_of_a_row_is_read(tmp_path: Path) -> None:
    rows: list[Any] = [
        {"prompt": "p", "chosen": "a", "rejected": [{"role": "assistant", "content": "b"}]},
        {"id": 7, "question": [{"role": "user", "content": "q"}], "completions": ["c", {"text": "d"}]},
        {"instruction": "only a prompt"},
        "no row",
    ]
    (tmp_path / "f.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = [(one.id, one.prompt, one.completion) for one in of_file(str(tmp_path / "f.jsonl"))]
    turns = ({"role": "user", "content": "q"},)
    assert found == [
        ("f:1/chosen", "p", "a"), ("f:1/rejected", "p", "b"), ("7/0", turns, "c"), ("7/1", turns, "d"),
        ("f:3", "only a prompt", ""),
    ]  # fmt: skip


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[Any, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return ended.value.code, said.out, said.err


def test_the_command_tells_the_pair_and_ends_with_an_error_where_it_is_too_far(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_worth(tmp_path / "rm", {"she": 0.4})
    rows = [{"prompt": one.prompt, "completion": one.completion} for one in written(["she", "he"])[:40]]
    (tmp_path / "f.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["probe", "swap", folder, "--rows", tmp_path / "f.jsonl", "--json", "--out", tmp_path / "out.jsonl"]
    code, out, _ = call(capsys, *arguments)
    found = json.loads(out.splitlines()[-1])
    assert (code, found["swayed"], found["beyond"]) == (0, 1, 0)
    [pair] = found["pairs"]
    assert (pair["a"], pair["b"], pair["num"]) == ("female", "male", 40)
    assert json.loads((tmp_path / "out.jsonl").read_text()) == pair
    code, _, err = call(capsys, *arguments, "--most", "0.01")
    assert code == 3
    assert "rewards of the same text about female and male differ by more than 0.01" in err
    code, _, err = call(capsys, *arguments, "--groups", "female")
    assert (code, err.count("\n")) == (2, 1)
    code, _, err = call(capsys, *arguments, "--groups", "female,mael")
    assert "did you mean 'male'" in err
    code, _, err = call(capsys, *arguments, "--attribute", "religion")
    assert (code, "none of 40 texts speaks of one of the groups" in err) == (3, True)


def test_words_that_the_tokenizer_does_not_know_are_left_out_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_worth(tmp_path / "rm", {"she": 0.4})  # knows she, he, her, his; neither queen nor king
    known, unknown = "she was good.", "a queen was good."
    model = scorer.load(str(folder))
    both = [Written("1", "the book:", known), Written("2", "the book:", unknown)]
    [sway] = counterfactual.probe(model, both, [BUILT_IN["gender"]])
    assert (sway.num, sway.unknown) == (1, 1)
    assert sway.mean == pytest.approx(
        plain_reward(folder, "the book:", known) - plain_reward(folder, "the book:", "he was good.")
    )
    rows = tmp_path / "f.jsonl"
    rows.write_text(json.dumps({"prompt": "the book:", "completion": unknown}) + "\n")
    code, out, err = call(capsys, "probe", "swap", folder, "--rows", rows, "--attribute", "gender")
    assert (code, out) == (3, "")
    assert err.startswith(f"rlvr: {folder}: its tokenizer does not know the words of the groups in any of 1 texts")


def test_long_names_are_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "n" * 300
    rows = tmp_path / "f.jsonl"
    rows.write_text('{"completion": "good"}\n')
    for arguments in (
        ("why", name), ("why", "--check", name), ("probe", "toxicity", name),
        ("probe", "toxicity", rows, "--out", name), ("probe", "swap", name, "--rows", rows),
        ("loop", "x.yaml", "--resume", name), ("audience", "report", name),
    ):  # fmt: skip
        code, _, err = call(capsys, *arguments)
        assert code in (2, 3, 4)
        assert err.startswith("rlvr: ") and err.count("\n") == 1
