"""Our extraction as a filter of lm-evaluation-harness; importing this module registers it.

    filter_list:
      - name: rlvr
        filter: [{function: rlvr_extract, mode: strict}, {function: take_first}]

From the command line: `python -c "import rlvr.lm_eval.plugin, lm_eval.__main__ as m; m.cli_evaluate()" --tasks ...`
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rlvr.errors import SettingsError
from rlvr.verifiers.extract import extract

try:
    from lm_eval.api.filter import Filter  # pyright: ignore[reportMissingImports]
    from lm_eval.api.registry import register_filter  # pyright: ignore[reportMissingImports]
except ImportError:
    raise SettingsError("lm-evaluation-harness is not installed: pip install 'rlvr[lm-eval]'") from None


@register_filter("rlvr_extract")
class Extract(Filter):
    """The answer that each response commits to; `fallback` where it commits to none."""

    def __init__(self, mode: str = "strict", fallback: str = "[invalid]") -> None:
        if mode not in ("strict", "lenient"):
            raise SettingsError(f"rlvr_extract: mode must be strict or lenient, got {mode!r}")
        self.lenient, self.fallback = mode == "lenient", fallback

    def apply(self, resps: Iterable[Sequence[str]], docs: Sequence[dict[str, Any]]) -> list[list[str]]:
        """[row][repeat], as they came."""
        return [[self._answer(text) for text in row] for row in resps]

    def _answer(self, text: str) -> str:
        found = extract(text, lenient=self.lenient)
        return self.fallback if found is None else found.answer
