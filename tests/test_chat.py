from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rlvr.chat import (
    bpe_tokenizer,
    byte_tokenizer,
    decode,
    encode_demonstrations,
    encode_tasks,
    render_prompt,
)
from rlvr.errors import DataError
from rlvr.types import Demonstration, Message, Prompt, Task

BYTES = byte_tokenizer()
TEXTS = ["the cat sat on the mat", "the dog sat on the log", "Q: 12+30=?\nA: 42 🙂"] * 5
BPE = bpe_tokenizer(TEXTS, 300)
USER = Message(role="user", content="hi")
CHAT_ML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<eos>{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{{ '\\n' }}{% endif %}"
)


def with_template(template: str | None, **changes: Any) -> PreTrainedTokenizerFast:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    for name, value in changes.items():
        setattr(tokenizer, name, value)
    return tokenizer


def demo(prompt: Prompt, completion: str, k: int = 1) -> Demonstration:
    return Demonstration(id=f"d:{k}", prompt=prompt, completion=completion)


def task(prompt: Prompt, k: int = 1) -> Task:
    return Task(id=f"t:{k}", prompt=prompt, gold="1")


def test_the_byte_tokenizer_has_259_tokens_in_the_documented_order() -> None:
    assert len(BYTES) == BYTES.vocab_size == 259
    assert BYTES.convert_tokens_to_ids(["<pad>", "<eos>", "<bos>", "!", "A"]) == [0, 1, 2, 3, 3 + ord("A") - ord("!")]
    assert (BYTES.pad_token_id, BYTES.eos_token_id, BYTES.bos_token_id) == (0, 1, 2)
    assert len(BYTES("🙂")["input_ids"]) == 4


@pytest.mark.parametrize("tokenizer", [BYTES, BPE], ids=["bytes", "bpe"])
@given(text=st.text())
def test_any_text_comes_back_exactly(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert decode(tokenizer, tokenizer(text)["input_ids"]) == text


@pytest.mark.parametrize("text", ["a  b .  c ' s\n\n", " <eos><pad> ", "🙂👩‍👩‍👧 é\u0301", "\x00\ufeff"])
def test_awkward_texts_come_back_exactly(text: str) -> None:
    for tokenizer in (BYTES, BPE):
        assert decode(tokenizer, [*tokenizer(text)["input_ids"], 1]) == text


def test_a_saved_tokenizer_is_the_same(tmp_path: Any) -> None:
    for tokenizer in (BYTES, BPE):
        tokenizer.save_pretrained(tmp_path)
        loaded = AutoTokenizer.from_pretrained(tmp_path)
        text = "the cat <eos> 🙂"
        assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert loaded.chat_template == tokenizer.chat_template
        assert decode(loaded, loaded(text)["input_ids"]) == text
        assert render_prompt(loaded, (USER,)) == render_prompt(tokenizer, (USER,))


def test_bpe_is_deterministic_and_shorter_than_bytes() -> None:
    assert bpe_tokenizer(iter(TEXTS), 300).get_vocab() == BPE.get_vocab()
    assert len(BPE) <= 300
    assert BPE.convert_tokens_to_ids(["<pad>", "<eos>", "<bos>", "!"]) == [0, 1, 2, 3]
    assert len(BPE("the cat sat")["input_ids"]) < 6
    with pytest.raises(DataError, match="vocab_size must be at least 259"):
        bpe_tokenizer(TEXTS, 100)


def test_plain_prompts_are_tokenised_as_they_are() -> None:
    assert render_prompt(BYTES, "!A") == (3, 35)


def test_plain_prompts_keep_the_tokenizers_own_bos_but_no_end_token() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 1)]
    )
    assert render_prompt(tokenizer, "!") == (2, 3)
    (example,) = encode_demonstrations(tokenizer, [demo("!", "A")], max_length=None, completion_only=True)
    assert (example.ids.tolist(), example.num_prompt) == ([2, 3, 35, 1], 2)


def test_messages_go_through_the_chat_template() -> None:
    assert decode(BYTES, render_prompt(BYTES, (USER,))) == "user: hi\nassistant: "


def test_a_tokenizer_without_template_says_what_would_help() -> None:
    with pytest.raises(DataError, match=r"no chat template.*plain prompts") as caught:
        render_prompt(with_template(None), (USER,))
    assert "\n" not in str(caught.value)


def test_tasks_keep_their_order_and_get_the_ids_of_render_prompt() -> None:
    tasks = [task("!A", 1), task((USER,), 2), task("A", 3)]
    encoded = encode_tasks(BYTES, tasks, max_tokens=8, context=64)
    assert [t for t, _ in encoded] == tasks
    assert [ids for _, ids in encoded] == [render_prompt(BYTES, t.prompt) for t in tasks]


def test_prompts_without_room_for_a_completion_are_reported_at_once() -> None:
    tasks = [task("x" * k, k) for k in (3, 4, 5)]
    with pytest.raises(DataError) as caught:
        encode_tasks(BYTES, tasks, max_tokens=8, context=4)
    head, *lines = str(caught.value).split("\n")
    assert head.startswith("prompts: 2 of 3 rows cannot be used (shorten")
    rest = "leave room for a completion of up to 8 tokens in a context of 4"
    assert lines == [f"t:{k}: prompt has {k} tokens; at most 3 {rest}" for k in (4, 5)]
    kept = encode_tasks(BYTES, tasks, max_tokens=None, context=4, on_bad_row="skip")
    assert [t.id for t, _ in kept] == ["t:3"]


def test_a_template_that_refuses_one_conversation_names_that_row() -> None:
    picky = with_template(
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{{ m['content'] }}{% endfor %}"
    )
    tasks = [task((USER,), 1), task((Message(role="system", content="s"), USER), 2)]
    with pytest.raises(DataError, match=r"prompts: 1 of 2 rows.*\nt:2: the chat template refuses it: no system"):
        encode_tasks(picky, tasks, max_tokens=None, context=None)


def test_a_demonstration_is_prompt_completion_end() -> None:
    rows = [demo("!", "AA")]
    (only,) = encode_demonstrations(BYTES, rows, max_length=4, completion_only=True)
    assert (only.ids.tolist(), only.num_prompt) == ([3, 35, 35, 1], 1)
    (whole,) = encode_demonstrations(BYTES, rows, max_length=4, completion_only=False)
    assert (whole.ids.tolist(), whole.num_prompt) == ([3, 35, 35, 1], 0)


def test_a_text_alone_is_trained_from_its_first_token() -> None:
    (example,) = encode_demonstrations(BYTES, [demo("", "!A")], max_length=None, completion_only=True)
    assert (example.ids.tolist(), example.num_prompt) == ([3, 35, 1], 0)


@settings(max_examples=50)
@given(prompt=st.text(), completion=st.text(min_size=1), chat=st.booleans())
def test_a_demonstration_begins_as_the_sampler_would_see_it(prompt: str, completion: str, chat: bool) -> None:
    asked: Prompt = (Message(role="user", content=prompt),) if chat else prompt
    for tokenizer in (BYTES, BPE):
        (example,) = encode_demonstrations(tokenizer, [demo(asked, completion)], max_length=None, completion_only=True)
        ids = example.ids.tolist()
        assert tuple(ids[: example.num_prompt]) == render_prompt(tokenizer, asked)
        assert decode(tokenizer, ids[example.num_prompt :]) == completion
        assert ids[-1] == 1
        assert ids.count(1) == 1


def test_the_templates_own_end_token_is_not_doubled_and_ends_the_row() -> None:
    tokenizer = with_template(CHAT_ML, split_special_tokens=False)
    (example,) = encode_demonstrations(tokenizer, [demo((USER,), "yo")], max_length=None, completion_only=True)
    ids = example.ids.tolist()
    assert tuple(ids[: example.num_prompt]) == render_prompt(tokenizer, (USER,))
    assert ids[example.num_prompt :] == [*tokenizer("yo")["input_ids"], 1]


def test_where_the_prompt_is_no_prefix_the_bare_completion_follows_it() -> None:
    # a template that drops the earlier turns once they are answered
    rewriting = with_template(
        "{% if add_generation_prompt %}{{ messages[0]['content'] }}>{% else %}{{ messages[-1]['content'] }}{% endif %}"
    )
    (example,) = encode_demonstrations(rewriting, [demo((USER,), "yo")], max_length=None, completion_only=True)
    assert decode(rewriting, example.ids[: example.num_prompt].tolist()) == "hi>"
    assert example.ids[example.num_prompt :].tolist() == [*BYTES("yo")["input_ids"], 1]


def test_demonstrations_that_are_too_long_are_reported_at_once() -> None:
    rows = [demo("!", "A", 1), demo("!", "AA", 2)]
    with pytest.raises(DataError, match=r"demonstrations: 1 of 2.*\nd:2: has 4 tokens with its end token; at most 3"):
        encode_demonstrations(BYTES, rows, max_length=3, completion_only=True)
    assert len(encode_demonstrations(BYTES, rows, max_length=3, completion_only=True, on_bad_row="skip")) == 1


def test_sixty_thousand_short_rows_take_seconds() -> None:
    # a share of them, so that a busy machine does not fail the test
    tasks = [task(f"Q: 82+83-{k}=?\nA: ", k) for k in range(15_000)]
    start = time.process_time()
    encode_tasks(BYTES, tasks, max_tokens=64, context=128)
    assert time.process_time() - start < 2.0
