"""Who is asked: an endpoint or our own engine, behind a cache."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from rlvr.errors import SettingsError
from rlvr.judge_settings import EndpointJudge, Judging
from rlvr.judging.cache import Cache, key_of
from rlvr.judging.questions import Question
from rlvr.judging.replies import Reply


class Asker(Protocol):
    """Somebody who answers questions."""

    name: str
    """Of the model, for people."""

    @property
    def identity(self) -> str:
        """All that a reply depends on beside the question."""
        ...

    def ask(self, questions: Sequence[Question], came: Callable[[int, Reply], None] | None = None) -> list[Reply]:
        """Replies in the order of the questions; what went wrong is a reply's problem. `came` is told each with its
        question's place as it comes, in whatever order, in the thread that asks."""
        ...

    def close(self) -> None:
        """May be called again."""
        ...


class Cached:
    """An asker that is asked nothing twice; without a file it asks each time. As safe from threads as the asker is."""

    def __init__(self, asker: Asker, path: Path | None) -> None:
        self.asker = asker
        self.name, self.identity = asker.name, asker.identity
        self.num_asked = self.num_kept = 0
        """Questions that went to the model, and those that the cache answered."""
        self._cache = None if path is None else Cache(path)

    def ask(self, questions: Sequence[Question]) -> list[Reply]:
        keys = [key_of(self.identity, question) for question in questions]
        found = {} if self._cache is None else self._cache.get(list(dict.fromkeys(keys)))
        missing = {key: question for key, question in zip(keys, questions, strict=True) if key not in found}
        self.num_asked += len(missing)
        self.num_kept += len(questions) - len(missing)
        if missing:
            names, cache = list(missing), self._cache
            keep = None if cache is None else lambda k, reply: cache.put([(names[k], reply)])
            found |= zip(names, self.asker.ask(list(missing.values()), keep), strict=True)
        return [found[key] for key in keys]

    def close(self) -> None:
        self.asker.close()
        if self._cache is not None:
            self._cache.close()


def build(settings: Judging, cache: Path | None = None, *, setting: str = "by") -> Cached:
    """Who the settings name. SettingsError where an environment variable is absent, DataError where a model cannot be
    loaded; `setting` is where `by` stands, for messages."""
    by = settings.by
    if isinstance(by, EndpointJudge):
        from rlvr.judging.endpoint import Endpoint

        return Cached(Endpoint(by, setting=setting), cache)
    from rlvr.judging.own import Own  # with torch, which who asks over HTTP need not wait for

    return Cached(Own(by, setting=setting), cache)


def secret_of(settings: Judging, seed: int, setting: str = "") -> str:
    """What fences are keyed with. SettingsError where secret_from names no variable."""
    word = ""
    if settings.secret_from is not None:
        word = os.environ.get(settings.secret_from, "")
        if not word:
            raise SettingsError(f"{setting}secret_from: no environment variable {settings.secret_from!r}; export it")
    return f"{seed}:{settings.seed}:{word}"
