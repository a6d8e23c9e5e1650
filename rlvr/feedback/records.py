"""What people are asked and what they answer, as frozen data: the words of the label page, its database and its files.

These types go into files and databases that must stay readable for years, so fields are added, never renamed. Standard
library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from rlvr.types import Prompt

Mode = Literal["compare", "rank", "rate", "thumbs", "write", "spans"]
MODES: tuple[Mode, ...] = get_args(Mode)
ATTRIBUTES = ("helpful", "correct", "polite", "safe")
"""What is rated where nobody names attributes of their own."""
MOST_COMPLETIONS = 9
"""As many as there are keys to choose with."""
RATINGS = (1, 7)
"""Lowest and highest rating of an attribute."""

Ranking = tuple[tuple[int, ...], ...]
"""Places, best first; those of one place are a tie: ((2,), (0, 1)). Indices are of Item.completions, whatever was
shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Characters first..end-1 of a completion that were marked: Span(completion=0, first=4, end=9, label="toxic")"""

    completion: int
    first: int
    end: int
    label: str = "toxic"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What somebody thinks of an item; which fields are filled is told by the item's mode.

    Judgement(ranking=((1,), (0,)))
    """

    ranking: Ranking | None = None
    """compare, rank: every completion is in one place; a tie of all says that none is better."""
    ratings: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """rate: {"0": {"helpful": 6.0}}, attribute by index of completion; beside any other mode where attributes are
    asked."""
    thumbs: Mapping[str, bool] = field(default_factory=dict)
    """thumbs: {"0": True}, by index of completion."""
    text: str | None = None
    """write: the demonstration."""
    spans: tuple[Span, ...] | None = None
    """spans: what was marked; () says that nothing is to be marked."""
    skipped: str | None = None
    """The reason why none of these is given; then all of them are empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One question to people.

    Item(id="q1", prompt="What is 2+2?", completions=("4", "5"), mode="compare")
    """

    id: str
    """Unique within its database."""
    prompt: Prompt
    completions: tuple[str, ...] = ()
    """2 to 9 to compare or rank; 1 to 9 to rate, thumb or mark; none or one (a draft to edit) to write."""
    mode: Mode = "compare"
    attributes: tuple[str, ...] = ()
    """Rated from 1 to 7 for each completion; mode rate alone has ATTRIBUTES where this is empty."""
    gold: Judgement | None = None
    """What is known to be right: people are measured by it, and are not told."""
    source: str = ""
    """Name of the data set or of the round of a loop, for figures by source."""
    info: Mapping[str, Any] = field(default_factory=dict)
    """All further columns of the row: model, checkpoint, rollout ids. Never shown to who labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The judgement of one person of one item, as it stands: what was undone or replaced is in the events alone.

    Answer(item="q1", annotator="alice", judgement=Judgement(ranking=((0,), (1,))), shown=(1, 0), seconds=6.1,
           at="2026-11-20T09:30:00.000Z")
    """

    item: str
    annotator: str
    """As given; exports and traces bear a keyed hash of it (store.annotator_hash)."""
    showing: int = 0
    """0: the first time; 1: the item was mixed in again for the same person, to see whether the answer stays."""
    judgement: Judgement
    shown: tuple[int, ...] = ()
    """Indices of Item.completions in the order in which they stood on the page."""
    seconds: float = 0.0
    """From shown to submitted, by the page's monotonic clock; away from the page is not counted."""
    at: str = ""
    """UTC, when the server wrote it."""
    group: str = ""
    """Of the person, where the database knows one (an audience, a team)."""
    comment: str = ""
    source: Literal["page", "api", "import", "judge", "simulated"] = "page"
