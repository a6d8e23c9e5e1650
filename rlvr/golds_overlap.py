"""Prompts that say the same: within a data set, and as an evaluation set does. Linear in the length of the texts."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import Any

from rlvr.types import Prompt, Task

N_GRAM = 13
"""Words in a row that two prompts of different tasks do not share by chance."""
_MOST_TASKS = 3
"""Evaluation tasks with the same words in a row: in more of them, it is how the questions are put."""
_WORD = re.compile(r"\w+|[^\w\s]")


def asked(prompt: Prompt) -> str:
    """What the prompt asks: without its system message."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(turn["content"] for turn in prompt if turn["role"] != "system")


def prompt_key(prompt: Prompt) -> bytes:
    """The same for prompts that differ in case, blanks and ways to write a character."""
    text = unicodedata.normalize("NFKC", asked(prompt)).casefold()
    return hashlib.blake2b("".join(text.split()).encode(), digest_size=16).digest()


def gold_key(gold: Any) -> bytes:
    """The same for golds that are written the same; 42 and "42" are."""
    text = gold if isinstance(gold, str) else json.dumps(gold, sort_keys=True, default=str)
    return hashlib.blake2b("".join(text.split()).encode("utf-8", "surrogatepass"), digest_size=16).digest()


class Overlap:
    """Finds tasks that an evaluation set has too: the same prompt, or 13 words in a row."""

    def __init__(self, held_out: Iterable[tuple[str, Task]]) -> None:
        """held_out: (where it stands, task)."""
        self._prompts: dict[bytes, str] = {}
        self._words: dict[str, int] = {}
        self._grams: dict[tuple[int, ...], str] = {}
        num_tasks: Counter[tuple[int, ...]] = Counter()
        for where, task in held_out:
            self._prompts.setdefault(prompt_key(task.prompt), where)
            ids = [self._words.setdefault(word, len(self._words)) for word in _words(task.prompt)]
            grams = {tuple(ids[k : k + N_GRAM]) for k in range(len(ids) - N_GRAM + 1)}
            num_tasks.update(grams)
            for gram in grams:
                self._grams.setdefault(gram, where)
        for gram, num in num_tasks.items():
            if num > _MOST_TASKS:
                del self._grams[gram]

    def find(self, task: Task) -> str:
        """What it shares with which evaluation task; "" where it shares nothing."""
        if (where := self._prompts.get(prompt_key(task.prompt))) is not None:
            return f"the same prompt as {where}"
        words = _words(task.prompt)
        run: list[int] = []
        for k, word in enumerate(words):
            number = self._words.get(word)
            if number is None:  # no evaluation task has this word, so none has 13 in a row with it
                run.clear()
                continue
            run.append(number)
            if len(run) >= N_GRAM and (where := self._grams.get(tuple(run[-N_GRAM:]))) is not None:
                return f'{N_GRAM} words in a row as in {where}: "{" ".join(words[k - N_GRAM + 1 : k + 1])}"'
        return ""


def _words(prompt: Prompt) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFKC", asked(prompt)).casefold())
