"""Results kept for texts that come again, within bounds that no response can stretch.

A worker's memory is limited, and what it has judged before must not decide what it can judge next. So a cache whose
keys come from responses says how long they may be; longer ones are worked out each time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import TypeVar

T = TypeVar("T")


def kept(most: int, longest: int) -> Callable[[Callable[[str], T]], Callable[[str], T]]:
    """Keep the last `most` results of a function of one text, for texts of at most `longest` characters."""

    def keep(function: Callable[[str], T]) -> Callable[[str], T]:
        short = lru_cache(most)(function)

        @wraps(function)
        def kept_or_made(text: str) -> T:
            return short(text) if len(text) <= longest else function(text)

        return kept_or_made

    return keep
