"""The table of presets in docs/LOSS.md, made from rlvr/presets.py: `python tests/loss_page.py` writes it anew."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from rlvr import presets

PAGE = Path(__file__).parents[1] / "docs" / "LOSS.md"
HEADER = "| `algorithm` | advantage | loss | more | source |\n|---|---|---|---|---|\n"


def table() -> str:
    return HEADER + "\n".join(row(name, settings) for name, settings in presets.PRESETS.items())


def row(name: str, settings: dict[str, Any]) -> str:
    more = {section: part for section, part in settings.items() if section not in ("advantage", "loss")}
    cells = [f"`{name}`", *(flow(part) for part in (settings["advantage"], settings["loss"], more))]
    link = source(name)
    return f"| {' | '.join(cells)} | [{link.rpartition('/')[2]}]({link}) |"


def flow(settings: dict[str, Any]) -> str:
    """As in a recipe, in one line."""
    text = yaml.safe_dump(settings, default_flow_style=True, sort_keys=False, width=10_000).strip()
    return f"`{text[1:-1]}`" if settings else ""


def source(name: str) -> str:
    """The first link of the comment above the preset."""
    lines = Path(presets.__file__).read_text(encoding="utf-8").splitlines()
    end = lines.index(f'    "{name}": {{')
    start = end
    while lines[start - 1].lstrip().startswith("#"):
        start -= 1
    found = re.search(r"https://arxiv\.org/abs/[\d.]*\d", "\n".join(lines[start:end]))
    assert found is not None, f"no link above {name}"
    return found[0]


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    old = re.search(rf"{re.escape(HEADER.splitlines()[0])}\n(?:\|.*\n)+", text)
    assert old is not None, f"no table of presets in {PAGE}"
    PAGE.write_text(text.replace(old[0], table() + "\n"), encoding="utf-8")


if __name__ == "__main__":
    main()
