from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants
from hypothesis import given
from hypothesis import strategies as st

from rlvr.errors import DataError, SettingsError
from rlvr.recipe import Data
from rlvr.tasks import BatchPlan, TaskStream, exclude_prompts, load_demonstrations, load_tasks
from rlvr.types import Demonstration, Message, Task

USER = Message(role="user", content="What is 2+2?")
SYSTEM = Message(role="system", content="Be brief.")
ASSISTANT = Message(role="assistant", content="4")
Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    monkeypatch.chdir(tmp_path)

    def write_rows(*rows: Any, name: str = "train.jsonl") -> str:
        lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(b"\n".join(lines) + b"\n")
        return name

    return write_rows


def task(**fields: Any) -> Task:
    return Task(**({"id": "train:1", "prompt": "What is 2+2?", "gold": "4", "verifier": "math"} | fields))


VERL = {
    "data_source": "openai/gsm8k",
    "prompt": [USER],
    "ability": "math",
    "reward_model": {"style": "rule", "ground_truth": "4"},
    "extra_info": {"split": "train", "index": 17},
}
VERL_TASK = task(
    id="gsm8k:17",
    prompt=(USER,),
    source="openai/gsm8k",
    info={"ability": "math", "reward_model": {"style": "rule"}, "extra_info": {"split": "train", "index": 17}},
)
DIALECTS = {
    "ours": (
        {"id": "a", "prompt": "What is 2+2?", "gold": "4", "verifier": "exact", "source": "s", "level": 3},
        task(id="a", verifier="exact", source="s", info={"level": 3}),
    ),
    "prompt as messages": ({"prompt": [USER], "gold": "4"}, task(prompt=(USER,))),
    "question, answer": ({"question": "What is 2+2?", "answer": "4"}, task()),
    "problem, solution": ({"problem": "What is 2+2?", "solution": "4"}, task()),
    "query, ground_truth": ({"query": "What is 2+2?", "ground_truth": "4"}, task()),
    "instruction, target": ({"instruction": "What is 2+2?", "target": "4"}, task()),
    "messages without the last turn": (
        {"messages": [SYSTEM, USER, ASSISTANT], "gold": "4"},
        task(prompt=(SYSTEM, USER)),
    ),
    "messages that end with the user": ({"messages": [USER], "gold": "4"}, task(prompt=(USER,))),
    "content in parts": (
        {"prompt": [{"role": "user", "content": [{"type": "text", "text": "What is 2+2?"}]}], "gold": "4"},
        task(prompt=(USER,)),
    ),
    "gsm8k": (
        {"question": "What is 2+2?", "answer": "Two and two.\n#### 1,234"},
        task(gold="1234", info={"answer": "Two and two.\n#### 1,234"}),
    ),
    "hashes elsewhere": ({"question": "What is 2+2?", "answer": "#### 4\nis four"}, task(gold="#### 4\nis four")),
    "answer before solution": (
        {"problem": "What is 2+2?", "solution": "so it is 4", "answer": "4"},
        task(info={"solution": "so it is 4"}),
    ),
    "an empty alias gives way": ({"prompt": "What is 2+2?", "gold": "", "answer": "4"}, task(info={"gold": ""})),
    "verl": (VERL, VERL_TASK),
    "verl, reward_model as JSON": (VERL | {"reward_model": json.dumps(VERL["reward_model"])}, VERL_TASK),
    "whole-number id and gold": ({"id": 7, "prompt": "What is 2+2?", "gold": 4}, task(id="7", gold=4)),
    "no gold for boxed": ({"prompt": "What is 2+2?", "verifier": "boxed"}, task(gold=None, verifier="boxed")),
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_each_dialect_becomes_the_task_that_it_means(dialect: str, write: Write) -> None:
    row, expected = DIALECTS[dialect]
    assert load_tasks(Data(path=write(row))).rows == [expected]


DEMONSTRATION_DIALECTS = {
    "prompt, completion": (
        {"prompt": "What is 2+2?", "completion": "4"},
        Demonstration(id="train:1", prompt="What is 2+2?", completion="4"),
    ),
    "conversational": (
        {"prompt": [USER], "completion": [ASSISTANT]},
        Demonstration(id="train:1", prompt=(USER,), completion="4"),
    ),
    "messages": (
        {"id": "m", "messages": [SYSTEM, USER, ASSISTANT]},
        Demonstration(id="m", prompt=(SYSTEM, USER), completion="4"),
    ),
    "text": ({"text": "Once.", "url": "u"}, Demonstration(id="train:1", prompt="", completion="Once.")),
}


@pytest.mark.parametrize("dialect", DEMONSTRATION_DIALECTS)
def test_each_dialect_becomes_the_demonstration_that_it_means(dialect: str, write: Write) -> None:
    row, expected = DEMONSTRATION_DIALECTS[dialect]
    assert load_demonstrations(Data(path=write(row))).rows == [expected]


def test_columns_of_the_recipe_win_over_known_names(write: Write) -> None:
    path = write(
        {"prompt": "no", "q": "What is 2+2?", "gold": "no", "meta": {"right": "4"}, "key": "k", "judge": "exact"}
    )
    columns = {"prompt": "q", "gold": "meta.right", "id": "key", "verifier": "judge"}
    loaded = load_tasks(Data(path=path, columns=columns))  # type: ignore[arg-type]
    info = {"prompt": "no", "gold": "no", "meta": {"right": "4"}}
    assert loaded.rows == [task(id="k", verifier="exact", info=info)]


@pytest.mark.parametrize(
    ("settings", "prompt"),
    [
        ({"prompt_template": "Q: {prompt} {x}"}, "Q: What is 2+2? {x}"),
        ({"as_chat": True}, (USER,)),
        ({"system": "Be brief."}, (SYSTEM, USER)),
        (
            {"system": "Be brief.", "prompt_template": "{prompt}!"},
            (SYSTEM, {"role": "user", "content": "What is 2+2?!"}),
        ),
    ],
)
def test_template_system_and_chat_form_are_applied(settings: dict[str, Any], prompt: Any, write: Write) -> None:
    path = write({"prompt": "What is 2+2?", "gold": "4"})
    assert load_tasks(Data(path=path, **settings)).rows == [task(prompt=prompt)]


def test_a_template_shows_other_columns_of_the_row(write: Write) -> None:
    row = {
        "text": "Add {row.tests}.",
        "tests": ["assert f(1) == 2", "assert f(2) == 3"],
        "head": "def f(x):",
        "no": None,
    }
    template = "{prompt}\n{row.head}{row.no}\n\\frac{row}{head}\n{row.tests}"
    shown = "Add {row.tests}.\ndef f(x):\n\\frac{row}{head}\nassert f(1) == 2\nassert f(2) == 3"
    data = Data(path=write(row), columns={"prompt": "text", "gold": "tests"}, prompt_template=template)
    (loaded,) = load_tasks(data).rows
    assert (loaded.prompt, loaded.gold) == (shown, row["tests"])
    (chat,) = load_tasks(data.model_copy(update={"as_chat": True})).rows
    assert chat.prompt == ({"role": "user", "content": shown},)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("test", "no column 'test' (prompt_template names it; has: prompt, gold, tests)"),
        ("tests", "column 'tests' must be text or a list of texts, got a list (prompt_template names it)"),
    ],
)
def test_a_template_that_a_row_cannot_fill_makes_it_a_bad_row(column: str, message: str, write: Write) -> None:
    path = write({"prompt": "p", "gold": "1", "tests": [1, 2]})
    with pytest.raises(DataError) as raised:
        load_tasks(Data(path=path, prompt_template="{prompt} {row." + column + "}"))
    assert str(raised.value).endswith(f"train.jsonl:1: {message}")


def test_the_system_message_of_the_recipe_replaces_that_of_the_row(write: Write) -> None:
    path = write({"prompt": [{"role": "system", "content": "Be long."}, USER], "gold": "4"})
    assert load_tasks(Data(path=path, system="Be brief.")).rows[0].prompt == (SYSTEM, USER)


BAD = [
    (b'{"prompt": "p", "gold": 1', "not JSON: Expecting ',' delimiter"),
    (b"[1, 2]", "not an object of columns but a list"),
    (b'{"prompt": "caf\xe9", "gold": "1"}', "not UTF-8 (byte 16 of the line)"),
    (b'{"prompt": "\\ud83d", "gold": "1"}', "prompt holds half a surrogate pair"),
    ({"promt": "p", "gold": "1"}, "no prompt (has: promt, gold; did you mean data.columns.prompt=promt?)"),
    ({"prompt": 5, "gold": "1"}, "prompt must be text or messages, got a number (column 'prompt')"),
    ({"prompt": "  ", "gold": "1"}, "prompt is empty (column 'prompt')"),
    (
        {"question": "p", "solutoin": "1"},
        "no gold (has: question, solutoin; did you mean data.columns.gold=solutoin?)",
    ),
    ({"prompt": "p", "gold": " "}, "gold is empty (column 'gold')"),
    (b'{"prompt": "p", "gold": NaN}', "gold is NaN (column 'gold')"),
    ({"prompt": [{"role": "user"}], "gold": "1"}, "prompt[0] must have role and content as text"),
    ({"messages": [], "gold": "1"}, "messages must be a list of messages, got a list"),
    ({"id": "good", "prompt": "p", "gold": "1"}, "id 'good' is already that of train.jsonl:1"),
    ({"id": 1.5, "prompt": "p", "gold": "1"}, "id must be text or a whole number, got a number (column 'id')"),
]
GOOD = {"id": "good", "prompt": "p", "gold": "1"}


def test_all_bad_rows_are_in_one_message(write: Write) -> None:
    path = write(GOOD, *(row for row, _ in BAD))
    with pytest.raises(DataError) as caught:
        load_tasks(Data(path=path))
    head, *lines = str(caught.value).split("\n")
    assert head == "train.jsonl: 14 of 15 rows cannot be used (set data.on_bad_row=skip to leave them out):"
    assert len(lines) == len(BAD)
    for number, (line, (_, reason)) in enumerate(zip(lines, BAD, strict=True), start=2):
        assert line.startswith(f"train.jsonl:{number}: {reason}")


def test_bad_rows_can_be_left_out_and_are_counted(write: Write) -> None:
    loaded = load_tasks(Data(path=write(GOOD, *(row for row, _ in BAD)), on_bad_row="skip"))
    assert [row.id for row in loaded.rows] == ["good"]
    assert loaded.num_bad == len(BAD)
    assert loaded.bad[3].startswith("train.jsonl:5: prompt holds half a surrogate pair")


def test_only_twenty_bad_rows_are_named(write: Write) -> None:
    path = write(GOOD, *[{"gold": "1"}] * 25)
    with pytest.raises(DataError) as caught:
        load_tasks(Data(path=path), setting="eval.tasks")
    lines = str(caught.value).split("\n")
    assert len(lines) == 22
    assert "eval.tasks.on_bad_row=skip" in lines[0]
    assert lines[-1] == "... and 5 more"


def test_skipping_every_row_is_an_error(write: Write) -> None:
    with pytest.raises(DataError, match=r"1 of 1 rows cannot be used \(none is left"):
        load_tasks(Data(path=write({"gold": "1"}), on_bad_row="skip"))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "p", "completion": " "}, "completion is empty"),
        ({"prompt": "p"}, "no completion (has: prompt; name its column with data.columns.completion=COLUMN)"),
        ({"prompt": "p", "output": "4"}, "no completion (has: prompt, output"),
        ({"prompt": "p", "text": "4"}, "no completion (has: prompt, text"),
        ({"completion": "4"}, "no prompt (has: completion"),
        ({"prompt": "p", "completion": [USER]}, "completion must be text or one assistant's message"),
        ({"messages": [USER]}, "messages must end with an assistant's turn"),
        ({"messages": [ASSISTANT]}, "messages must have a turn before the assistant's last"),
    ],
)
def test_bad_demonstrations_say_why(row: dict[str, Any], reason: str, write: Write) -> None:
    with pytest.raises(DataError) as caught:
        load_demonstrations(Data(path=write(row)))
    assert f"\ntrain.jsonl:1: {reason}" in str(caught.value)


ROWS = [{"question": f"1+{k}", "answer": f"0{k + 1}"} for k in range(3)]


@pytest.mark.parametrize(
    "kind", ["jsonl", "json", "json lines", "parquet", "csv", "saved", "saved dict", "folder", "hub"]
)
def test_the_same_rows_come_from_every_kind_of_file(kind: str, write: Write) -> None:
    rows = datasets.Dataset.from_list(ROWS)
    path = {"json lines": "x.json", "hub": "x", "folder": "x", "saved": "x", "saved dict": "x"}.get(kind, f"x.{kind}")
    settings: dict[str, Any] = {"path": path}
    if kind == "json":
        Path(path).write_text(json.dumps(ROWS))
    elif kind in ("jsonl", "json lines"):
        write(*ROWS, name=path)
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif kind == "csv":
        Path(path).write_text("question,answer\n" + "".join(f"{r['question']},{r['answer']}\n" for r in ROWS))
    elif kind == "saved":
        rows.save_to_disk(path)
    elif kind == "saved dict":
        datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(path)
    else:
        write(*ROWS, name="x/train.jsonl")
        settings |= {"source": "hub"} if kind == "hub" else {}
    loaded = load_tasks(Data(**settings))
    assert [(t.prompt, t.gold) for t in loaded.rows] == [("1+0", "01"), ("1+1", "02"), ("1+2", "03")]
    first = 2 if kind == "csv" else 1  # a CSV's header is a line too
    name = "train" if kind == "folder" else "x"
    assert [t.id for t in loaded.rows] == [f"{name}:{first + k}" for k in range(3)]


def test_a_folder_with_splits_gives_only_the_one_asked_for(write: Write) -> None:
    write({"prompt": "a", "gold": "1"}, name="d/train-00000.jsonl")
    write({"prompt": "b", "gold": "2"}, name="d/test.jsonl")
    assert [t.prompt for t in load_tasks(Data(path="d")).rows] == ["a"]
    assert [t.prompt for t in load_tasks(Data(path="d", split="test")).rows] == ["b"]
    with pytest.raises(DataError, match=r"data.split: d has no files of split 'val' \(has: test, train\)"):
        load_tasks(Data(path="d", split="val"))


def test_csv_rows_are_named_by_the_line_they_start_on(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b'prompt,gold\n"a\nb",1\nc\nd,\xe9\ne,2\n')
    loaded = load_tasks(Data(path=str(path), on_bad_row="skip"))
    assert [(t.id, t.prompt) for t in loaded.rows] == [("x:2", "a\nb"), ("x:6", "e")]
    assert loaded.bad == ("x.csv:4: 1 cells for 2 columns", "x.csv:5: not UTF-8")


def test_limit_takes_the_first_rows(write: Write) -> None:
    path = write(*ROWS, {"no": 1})
    assert [t.id for t in load_tasks(Data(path=path, limit=2)).rows] == ["train:1", "train:2"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("trian.jsonl", r"data.path: no file or folder trian.jsonl \(seen from .*\); did you mean train.jsonl\?"),
        ("openai/gsm8k", r"no file or folder openai/gsm8k .* a Hugging Face data set needs data.source=hub"),
        ("notes.txt", r"notes.txt must end in .jsonl .json .parquet .csv"),
        ("empty.jsonl", r"data.path: empty.jsonl holds no rows \(seen from "),
        ("hollow", r"data.path: hollow holds no .jsonl .json .parquet .csv file"),
        ("object.json", r"cannot read object.json .*must hold a list of objects, holds an object"),
        ("broken.parquet", r"data.path: cannot read broken.parquet"),
        ("itself.jsonl", r"data.path: itself.jsonl is no regular file or folder"),
    ],
)
def test_unusable_paths_are_one_line(path: str, message: str, write: Write) -> None:
    write(GOOD)
    Path("notes.txt").write_text("hello")
    Path("empty.jsonl").write_text("\n")
    Path("hollow").mkdir()
    Path("object.json").write_text("{}")
    Path("broken.parquet").write_text("PAR1")
    Path("itself.jsonl").symlink_to("itself.jsonl")
    with pytest.raises(DataError, match=message) as caught:
        load_tasks(Data(path=path))
    assert "\n" not in str(caught.value)


def test_a_missing_hub_name_is_one_line_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    start = time.monotonic()
    with pytest.raises(DataError, match=r"cannot load Hugging Face data set 'nobody/nothing'.*no connection") as caught:
        load_tasks(Data(path="nobody/nothing", source="hub"))
    assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 10  # the library by itself tries for 20 s and more
    assert constants.HF_HUB_OFFLINE is False


GENERATOR = """
def rows(seed, n=2):
    for k in range(n):
        yield {"prompt": f"{seed}+{k}", "gold": str(seed + k)}
def breaks():
    yield {"prompt": "p", "gold": "1"}
    raise RuntimeError("tired")
number = 3
"""


def test_a_generator_yields_rows(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(GENERATOR)
    loaded = load_tasks(Data(path=f"{tmp_path}/mine.py:rows", source="generator", args={"seed": 5}))
    assert [(t.id, t.prompt, t.gold) for t in loaded.rows] == [("rows:1", "5+0", "5"), ("rows:2", "5+1", "6")]


@pytest.mark.parametrize(
    ("name", "args", "error", "message"),
    [
        ("rows", {"sed": 1}, SettingsError, r"data.args: .*; rows\(seed, n\); did you mean 'seed'\?"),
        ("rows", {}, SettingsError, r"data.args: missing a required argument: 'seed'; rows\(seed, n\)"),
        ("row", {}, SettingsError, "did you mean 'rows'"),
        ("number", {}, SettingsError, "number is no function but a number"),
        ("breaks", {}, DataError, "mine.py:breaks failed: RuntimeError: tired"),
    ],
)
def test_a_generator_that_cannot_be_used_is_one_line(
    name: str, args: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(GENERATOR)
    with pytest.raises(error, match=message) as caught:
        load_tasks(Data(path=f"{tmp_path}/mine.py:{name}", source="generator", args=args))
    assert "\n" not in str(caught.value)


def test_held_out_prompts_leave_training_whatever_their_form() -> None:
    rows = [task(id="a", prompt="x"), task(id="b", prompt=(SYSTEM, USER)), task(id="c", prompt="y")]
    kept, num_out = exclude_prompts(rows, [task(prompt="x"), task(prompt="What is 2+2?")])
    assert [row.id for row in kept] == ["c"]
    assert num_out == 2


def test_info_holds_only_plain_data(tmp_path: Path) -> None:
    import datetime
    import decimal

    row = {
        "prompt": "p",
        "gold": decimal.Decimal("3.50"),
        "day": datetime.date(2024, 1, 2),
        "raw": b"x",
        "x": float("inf"),
    }
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "x.parquet")
    (loaded,) = load_tasks(Data(path=str(tmp_path / "x.parquet"))).rows
    assert loaded.gold == "3.50"
    assert json.loads(json.dumps(loaded.info)) == {"day": "2024-01-02", "x": None}


@given(size=st.integers(1, 40), seed=st.integers(0, 9), epoch=st.integers(0, 5))
def test_every_epoch_of_a_stream_visits_each_task_once(size: int, seed: int, epoch: int) -> None:
    rows = [task(id=str(k)) for k in range(size)]
    taken = TaskStream(rows, seed).take(epoch * size, size)
    assert sorted(int(t.id) for t in taken) == list(range(size))
    # a stream that has been elsewhere gives the same
    other = TaskStream(rows, seed)
    other.take(0, 3)
    assert [other.at(epoch * size + k) for k in reversed(range(size))] == taken[::-1]


def test_the_order_of_a_stream_changes_with_seed_and_epoch() -> None:
    rows = [task(id=str(k)) for k in range(50)]
    orders = [TaskStream(rows, seed).take(epoch * 50, 50) for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(t.id for t in order) for order in orders}) == 4


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=60),
    batch_size=st.integers(1, 7),
    bucket=st.integers(1, 4),
    seed=st.integers(0, 3),
    epoch=st.integers(0, 3),
)
def test_an_epoch_of_batches_loses_and_doubles_nothing(
    lengths: list[int], batch_size: int, bucket: int, seed: int, epoch: int
) -> None:
    plan = BatchPlan(lengths, batch_size, bucket, seed)
    first = epoch * plan.steps_per_epoch
    batches = [plan.rows(step) for step in range(first, first + plan.steps_per_epoch)]
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert sum(len(batch) < batch_size for batch in batches) <= 1
    for start in range(0, len(batches), bucket):  # within a window, batches do not overlap in length
        spans = sorted((lengths[b[0]], lengths[b[-1]]) for b in batches[start : start + bucket])
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
    assert BatchPlan(lengths, batch_size, bucket, seed).rows(first) == batches[0]


def test_batches_differ_between_epochs_and_seeds() -> None:
    lengths = [k % 11 for k in range(64)]
    plans = [BatchPlan(lengths, 4, 4, seed) for seed in (0, 1)]
    epochs = [[tuple(plan.rows(16 * epoch + k)) for k in range(16)] for plan in plans for epoch in (0, 1)]
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert len({tuple(sorted(epoch)) for epoch in epochs}) == 4  # other batches, not the same in another order


def test_a_small_epoch_is_not_sorted_as_a_whole_where_it_is_to_have_several_windows() -> None:
    lengths = list(range(194))
    whole, quarters = BatchPlan(lengths, 16, 16, 0), BatchPlan(lengths, 16, 16, 0, num_windows=4)
    batches = [quarters.rows(step) for step in range(quarters.steps_per_epoch)]
    assert sorted(row for batch in batches for row in batch) == lengths
    assert max(batch[-1] - batch[0] for batch in map(whole.rows, range(13))) == 15
    assert min(batch[-1] - batch[0] for batch in batches if len(batch) == 16) > 30  # not all of one kind
    large = [7 * k % 101 for k in range(200)]
    assert [BatchPlan(large, 2, 4, 0, num_windows=4).rows(k) for k in range(100)] == [
        BatchPlan(large, 2, 4, 0).rows(k) for k in range(100)
    ]


def test_no_rows_at_all_is_an_error() -> None:
    with pytest.raises(DataError, match="no tasks"):
        TaskStream([], 0)
    with pytest.raises(DataError, match="no demonstrations"):
        BatchPlan([], 1, 1, 0)


def test_importing_the_module_loads_no_heavy_library() -> None:
    heavy = ["torch", "transformers", "datasets"]
    code = f"import sys, rlvr.tasks, rlvr.chat; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
