"""Between text and token ids: prompts as the sampler sees them, demonstrations, small tokenizers of our own.

transformers and tokenizers load with the first call, never with the import.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from rlvr.errors import DataError
from rlvr.preferences import IN_WORDS, Kind
from rlvr.tasks import NUM_SHOWN, BadRow, bad_rows_message
from rlvr.types import BestOf, Demonstration, Message, Preference, Prompt, Ranking, Rating, Task

if TYPE_CHECKING:
    import numpy.typing as npt
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

Row = TypeVar("Row")

PAD, EOS, BOS = "<pad>", "<eos>", "<bos>"
"""Ids 0, 1, 2 of our tokenizers."""

CHAT_TEMPLATE = (
    "{% for m in messages %}{% if not loop.first %}{{ '\\n' }}{% endif %}{{ m['role'] }}: {{ m['content'] }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '\\nassistant: ' }}{% endif %}"
)
_COMPLETIONS: dict[type, tuple[Kind, Callable[[Any], Sequence[str]]]] = {
    Preference: ("comparison", lambda row: (row.chosen, row.rejected)),
    Ranking: ("ranking", lambda row: row.completions),
    Rating: ("rating", lambda row: (row.completion,)),
    BestOf: ("best_of", lambda row: row.chosen + row.rejected),
}
_CHUNK = 1024  # texts per call: the library's objects are some KiB each


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """A tokenised demonstration: Example(ids=array([51, 28, 30, 1], dtype=int32), num_prompt=2)"""

    ids: npt.NDArray[np.int32]
    """[T] prompt, completion, end token."""
    num_prompt: int
    """Tokens at the front that are not trained on: the prompt's, or 0 where everything is trained."""


def render_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> tuple[int, ...]:
    """Ids of a prompt, without an end token.

    Plain text goes in as it is, with the BOS that the tokenizer adds by itself (as TRL and vLLM do); messages go
    through the chat template, with the head of the assistant's turn. DataError: no chat template, or one that
    refuses these messages.
    """
    try:
        return tuple(_prompt_ids(tokenizer, [prompt])[0])
    except BadRow as error:
        raise DataError(str(error)) from error


def encode_tasks(
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[Task],
    *,
    max_tokens: int | None,
    context: int | None,
    on_bad_row: Literal["error", "skip"] = "error",
) -> list[tuple[Task, tuple[int, ...]]]:
    """Tasks with their prompt ids, in order.

    `context` is the longest prompt plus completion, in tokens: a prompt of more than context - 1 leaves no room and is
    a bad row; one that leaves less than `max_tokens` is used, and its completions end where the context does.
    DataError names all bad rows; with skip they are left out.
    """
    wanted = f" of up to {max_tokens} tokens" if max_tokens is not None else ""

    def check(task: Task, ids: list[int]) -> tuple[Task, tuple[int, ...]]:
        if not ids:
            raise BadRow("prompt has no tokens")
        if context is not None and len(ids) > context - 1:
            raise BadRow(
                f"prompt has {len(ids)} tokens; at most {context - 1} leave room for a completion{wanted} in a"
                f" context of {context}"
            )
        return task, tuple(ids)

    encoded = _by_row(tasks, lambda rows: _prompt_ids(tokenizer, [row.prompt for row in rows]))
    return _checked(
        "prompts", tasks, encoded, check, "shorten the prompts or the limits of model and engine", on_bad_row
    )


def encode_demonstrations(
    tokenizer: PreTrainedTokenizerBase,
    demonstrations: Sequence[Demonstration],
    *,
    max_length: int | None,
    completion_only: bool,
    split: bool = False,
    on_bad_row: Literal["error", "skip"] = "error",
    left_out: dict[str, str] | None = None,
) -> list[Example]:
    """Prompt ids + completion ids + end token, in order; rows of more than max_length tokens are bad rows.

    With `split` such a row becomes several examples of max_length tokens (plain text that is read in pieces).

    Prompt and completion are tokenised apart, as in sampling, so the ids begin with those of render_prompt. The
    completion of a conversation is what the chat template adds to the rendered prompt, up to its end token; where the
    template rewrites earlier turns (so that the prompt is not a prefix) it is the bare text. An end token that the
    template did not write is added. DataError names all bad rows; with skip they are left out, and noted in left_out,
    {id: why}.
    """

    def check(row: Demonstration, ids: tuple[list[int], list[list[int]]]) -> Example:
        (example,) = _examples(*ids)
        length = len(example.ids)
        if max_length is not None and length > max_length and not split:
            raise BadRow(f"has {length} tokens with its end token; at most {max_length} are allowed")
        return example if completion_only else Example(example.ids, 0)

    encoded = _by_row(
        demonstrations, lambda rows: _sequences(tokenizer, [(row.prompt, (row.completion,)) for row in rows])
    )
    examples = _checked(
        "demonstrations", demonstrations, encoded, check, "shorten them, or raise max_length", on_bad_row, left_out
    )
    if not split or max_length is None:
        return examples
    pieces = (Example(e.ids[k : k + max_length], 0) for e in examples for k in range(0, len(e.ids), max_length))
    return [piece for piece in pieces if len(piece.ids) > 1]  # a token alone is predicted by nothing


def encode_completion(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, completion: str) -> Example:
    """Prompt ids + completion ids + end token, as encode_demonstrations has them; num_prompt are the prompt's.

    What is written in the completion stays characters, though it be the text of an end token or of a turn. DataError:
    no end token, no chat template, or one that refuses these messages, or that rewrites a completion with such text.
    """
    try:
        if _tokenised(tokenizer, [completion], add_special_tokens=False)[0] != _as_characters(tokenizer, completion):
            return _examples(*_with_characters(tokenizer, prompt, completion))[0]
        return _examples(*_sequences(tokenizer, [(prompt, (completion,))])[0])[0]
    except BadRow as error:
        raise DataError(str(error)) from error


def encode_rows(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    *,
    max_length: int | None,
    on_bad_row: Literal["error", "skip"] = "error",
    left_out: dict[str, str] | None = None,
) -> list[tuple[Row, tuple[Example, ...]]]:
    """Comparisons, rankings, ratings or best-of-N rows (all of one kind) with an Example of each completion, in order.

    Each Example is as encode_completion has it, all of a row behind the same prompt ids: chosen before rejected, or
    as the ranking has them. Rows of which a completion has more than max_length tokens with its prompt, or two have
    the same tokens, are bad rows. DataError names all of those; with skip they are left out, and noted in left_out,
    {id: why}.
    """
    kind, completions = _COMPLETIONS[type(rows[0])]

    def check(row: Row, ids: tuple[list[int], list[list[int]]]) -> tuple[Row, tuple[Example, ...]]:
        prompt, own = ids
        longest = len(prompt) + max(map(len, own))
        if max_length is not None and longest > max_length:
            raise BadRow(f"has {longest} tokens with its end token; at most {max_length} are allowed")
        if len({tuple(one) for one in own}) < len(own):
            raise BadRow("two of its completions have the same tokens, so that no model can tell them apart")
        return row, _examples(prompt, own)

    def encode(chunk: Sequence[Any]) -> list[tuple[list[int], list[list[int]]]]:
        return _sequences(tokenizer, [(row.prompt, completions(row)) for row in chunk])

    encoded = _by_row(rows, encode)
    advice = "shorten them, or raise max_length"
    return _checked(IN_WORDS[kind], rows, encoded, check, advice, on_bad_row, left_out)


def decode(tokenizer: PreTrainedTokenizerBase, ids: Iterable[int]) -> str:
    """The response: text without special tokens, with every space as it was written."""
    text = tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text


def cut_at_stop(text: str, stop: tuple[str, ...]) -> str | None:
    """Text up to the first stop string, or None where there is none."""
    places = [place for place in (text.find(s) for s in stop) if place >= 0]
    return text[: min(places)] if places else None


def end_token_ids(path: str, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens that end a completion: the tokenizer's end token and those of the model's generation_config.json."""
    from transformers import GenerationConfig

    try:
        configured = GenerationConfig.from_pretrained(path).eos_token_id
    except OSError:  # the model has no such file
        configured = None
    many = configured if isinstance(configured, list) else [configured]
    return frozenset(token for token in (*many, tokenizer.eos_token_id) if isinstance(token, int))


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, 259 tokens: <pad> <eos> <bos> and 256 bytes in the order of the byte-level alphabet."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    names = [PAD, EOS, BOS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    bare = Tokenizer(models.BPE(vocab={name: k for k, name in enumerate(names)}, merges=[]))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return _wrapped(bare)


def bpe_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on texts, the same for the same texts; the first 259 tokens are byte_tokenizer's.

    Few texts may have fewer than vocab_size pairs worth a token. DataError: vocab_size below 259.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if vocab_size < len(alphabet) + 3:
        raise DataError(
            f"vocab_size must be at least {len(alphabet) + 3} (3 special tokens, 256 bytes), got {vocab_size}"
        )
    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[PAD, EOS, BOS],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    bare.train_from_iterator(texts, trainer)
    return _wrapped(bare)


def _wrapped(bare: Any) -> PreTrainedTokenizerFast:
    from tokenizers import decoders
    from transformers import PreTrainedTokenizerFast

    bare.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bare,
        pad_token=PAD,
        eos_token=EOS,
        bos_token=BOS,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        split_special_tokens=True,  # the text "<eos>" in somebody's prompt stays five characters
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _prompt_ids(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Ids of each prompt; BadRow where the chat template fails on one."""
    plain = [prompt for prompt in prompts if isinstance(prompt, str)]
    chats = [_render(tokenizer, prompt) for prompt in prompts if not isinstance(prompt, str)]
    plain_ids = iter(_tokenised(tokenizer, plain, add_special_tokens=True))
    chat_ids = iter(_tokenised(tokenizer, chats, add_special_tokens=False))
    return [
        _without_end(tokenizer, prompt, next(plain_ids)) if isinstance(prompt, str) else next(chat_ids)
        for prompt in prompts
    ]


def _sequences(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[tuple[Prompt, Sequence[str]]]
) -> list[tuple[list[int], list[list[int]]]]:
    """(prompt ids, ids of each completion with an end token) of each row; BadRow where the chat template fails."""
    eos: Any = tokenizer.eos_token_id
    if eos is None:
        raise DataError("the tokenizer has no end token (eos_token), so a completion could not end")
    writes_end = not tokenizer.split_special_tokens
    texts: list[str] = []
    ends: list[list[int]] = []
    for prompt, completions in rows:
        head = None if isinstance(prompt, str) else _render(tokenizer, prompt)
        for text in completions:
            end = [eos]
            if head is not None and not isinstance(prompt, str):
                whole = _render(tokenizer, (*prompt, Message(role="assistant", content=text)), to_be_answered=False)
                if whole.startswith(head):
                    text = whole[len(head) :]
                    if writes_end and text.rstrip().endswith(str(tokenizer.eos_token)):
                        text, end = text.rstrip(), []  # what the template writes after its end is never sampled
            texts.append(text)
            ends.append(end)
    prompts = _prompt_ids(tokenizer, [prompt for prompt, _ in rows])
    ids = _tokenised(tokenizer, texts, add_special_tokens=False)
    ended = iter([own + end for own, end in zip(ids, ends, strict=True)])
    return [(own, [next(ended) for _ in row[1]]) for own, row in zip(prompts, rows, strict=True)]


def _with_characters(
    tokenizer: PreTrainedTokenizerBase, prompt: Prompt, completion: str
) -> tuple[list[int], list[list[int]]]:
    """One row of _sequences(), with special tokens only where the chat template writes them; BadRow where it changes
    the completion by more than the space around it."""
    (own,) = _prompt_ids(tokenizer, [prompt])
    eos: Any = tokenizer.eos_token_id
    if eos is None:
        raise DataError("the tokenizer has no end token (eos_token), so a completion could not end")
    head = None if isinstance(prompt, str) else _render(tokenizer, prompt)
    if head is None or isinstance(prompt, str):
        return own, [[*_as_characters(tokenizer, completion), eos]]
    whole = _render(tokenizer, (*prompt, Message(role="assistant", content=completion)), to_be_answered=False)
    if not whole.startswith(head):
        return own, [[*_as_characters(tokenizer, completion), eos]]
    written = whole[len(head) :]
    text = next((t for t in (completion, completion.strip()) if written.count(t) == 1), None)
    if text is None:
        raise BadRow("holds the text of a special token, and the chat template does not keep it as it is")
    before, _, after = written.partition(text)
    if not tokenizer.split_special_tokens and after.rstrip().endswith(str(tokenizer.eos_token)):
        after, eos = after.rstrip(), None
    around = _tokenised(tokenizer, [before, after], add_special_tokens=False)
    return own, [[*around[0], *_as_characters(tokenizer, text), *around[1], *([] if eos is None else [eos])]]


def _as_characters(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return _tokenised(tokenizer, [text], add_special_tokens=False, split_special_tokens=True)[0]


def _examples(prompt: Sequence[int], completions: Iterable[Sequence[int]]) -> tuple[Example, ...]:
    return tuple(
        Example(np.fromiter((*prompt, *own), dtype=np.int32, count=len(prompt) + len(own)), len(prompt))
        for own in completions
    )


def _render(tokenizer: PreTrainedTokenizerBase, turns: tuple[Message, ...], *, to_be_answered: bool = True) -> str:
    import jinja2

    if not tokenizer.chat_template:
        raise DataError(
            f"the tokenizer {tokenizer.name_or_path or '(unnamed)'} has no chat template, and a prompt is a"
            " conversation (messages, data.system or data.as_chat): use plain prompts, or an instruct model's tokenizer"
        )
    try:
        text = tokenizer.apply_chat_template(
            [{"role": turn["role"], "content": turn["content"]} for turn in turns],
            tokenize=False,
            add_generation_prompt=to_be_answered,
        )
    except jinja2.TemplateError as error:
        raise BadRow(f"the chat template refuses it: {str(error).partition(chr(10))[0]}") from error
    assert isinstance(text, str)
    return text


def _tokenised(
    tokenizer: PreTrainedTokenizerBase,
    texts: list[str],
    *,
    add_special_tokens: bool,
    split_special_tokens: bool | None = None,
) -> list[list[int]]:
    if not texts:
        return []
    # verbose=False: that a text is longer than the model allows is ours to report
    encoding = tokenizer(
        texts,
        add_special_tokens=add_special_tokens,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
        split_special_tokens=split_special_tokens,  # None: as the tokenizer has it
    )
    return encoding["input_ids"]  # type: ignore[return-value]  # pyright: ignore[reportReturnType]


def _without_end(tokenizer: PreTrainedTokenizerBase, text: str, ids: list[int]) -> list[int]:
    """Some tokenizers end every text with EOS, after which nothing would be sampled."""
    ended = bool(ids) and ids[-1] == tokenizer.eos_token_id and not text.endswith(str(tokenizer.eos_token))
    return ids[:-1] if ended and len(ids) > 1 else ids


def _by_row(rows: Sequence[Row], encode: Callable[[Sequence[Row]], Sequence[Any]]) -> Iterator[Any]:
    """What encode yields for each row, BadRow in the place of one that it refuses; a chunk at a time for speed."""
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]
        try:
            yield from encode(chunk)
        except BadRow:
            for row in chunk:
                try:
                    yield from encode([row])
                except BadRow as error:
                    yield error


def _checked(
    name: str,
    rows: Sequence[Any],
    encoded: Iterable[Any],
    check: Callable[[Any, Any], Any],
    advice: str,
    on_bad_row: Literal["error", "skip"],
    left_out: dict[str, str] | None = None,
) -> list[Any]:
    good: list[Any] = []
    bad: list[str] = []
    for row, item in zip(rows, encoded, strict=True):
        try:
            if isinstance(item, BadRow):
                raise item
            good.append(check(row, item))
        except BadRow as error:
            bad.append(f"{row.id}: {error}")
            if left_out is not None:
                left_out[row.id] = str(error)
    if bad and (on_bad_row == "error" or not good):
        raise DataError(bad_rows_message(name, bad[:NUM_SHOWN], len(bad), len(rows), advice))
    return good
