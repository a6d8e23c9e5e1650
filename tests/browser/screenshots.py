"""Makes the pictures in docs/images: python tests/browser/screenshots.py [FOLDER]"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path
from typing import Any

from browser_case import ROOT, Labelled, Person, browsing, labelling, person
from PIL import Image

from rlvr.feedback import crowd
from rlvr.feedback.store import Store

QUESTION = "Why does ice float on water? One short paragraph, for a child."
ANSWERS = [
    "When water freezes, its molecules line up with more room between them. So a piece of ice is lighter than the same "
    "amount of water, and the water carries it.",
    "Ice floats because it is cold and cold things rise.",
    "Most things shrink when they freeze, but water grows a little. The same water takes more room as ice, so it is "
    "lighter for its size, and floats like a boat.",
    "Density(ice) = 917 kg/m³ < density(water) = 1000 kg/m³; hence it floats by Archimedes' principle.",
]
ROWS: list[dict[str, Any]] = [
    {"id": "rank", "prompt": QUESTION, "completions": ANSWERS, "mode": "rank"},
    {"id": "rate", "prompt": QUESTION, "completions": ANSWERS[::2], "mode": "rate",
     "attributes": ["helpful", "correct", "polite", "safe"]},
    {"id": "spans", "prompt": "My code does not compile.", "mode": "spans",
     "completions": ["Only an idiot forgets a semicolon. Put one at the end of line 3, and it compiles."]},
]  # fmt: skip


def save(somebody: Person, file: Path) -> None:
    """A PNG of few colours: these pages have no more."""
    shot = somebody.page.screenshot(full_page=True, animations="disabled")
    picture = Image.open(io.BytesIO(shot)).convert("RGB").quantize(64, dither=Image.Dither.NONE)
    picture.save(file, optimize=True)
    print(f"{file} {file.stat().st_size // 1024} kB")


def work(somebody: Person, folder: Path, scheme: str) -> None:
    """Answer every item, with a picture of it half done; of the dark ones the ranking is enough."""
    while somebody.page.is_visible("#task"):
        title = somebody.text("#what")
        if title.startswith("Rank"):
            mode, rest = "rank", [_key(somebody, ANSWERS[3])]
            keys = [_key(somebody, ANSWERS[2]), "t", _key(somebody, ANSWERS[0])]
        elif title.startswith("Rate"):
            mode, keys, rest = "rate", list("7676"), list("5667")
        else:
            mode, keys, rest = "spans", ["Home", *["Control+ArrowRight"] * 3, "m"], []
        somebody.press(*keys)
        if scheme == "light" or mode == "rank":
            somebody.page.evaluate("window.scrollTo(0, 0)")
            save(somebody, folder / f"label_{mode}_{scheme}.png")
        somebody.submit(*rest)


def _key(somebody: Person, text: str) -> str:
    return str(somebody.shown().index(text) + 1)


def crowded(labelled: Labelled) -> None:
    """A crowd of known faults answers, as if on the page."""
    labelled.end()
    people = [
        crowd.Person(name="ada", reliability=0.95),
        crowd.Person(name="grace", reliability=0.9),
        crowd.Person(name="katherine", reliability=0.85, position_bias=2.0),
        crowd.Person(name="mallory", reliability=0.9, is_adversary=True),
        crowd.Person(name="speedy", reliability=0.6, speed=2000.0),
    ]
    with Store.open(labelled.db) as store:
        items = list(store.items())
        store.add_answers(crowd.answer(people, items, lambda item, k: -float(k), per_item=4, seed=1, repeats=0.2))
    labelled.start()


def main(folder: Path) -> None:
    """The pictures into that folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, labelling(Path(scratch)) as start, browsing() as browser:
        labelled: Labelled = start(ROWS, "--repeat", "0", "--annotators", "ada,dora", "--per-item", "2")
        for name, scheme in (("ada", "light"), ("dora", "dark")):
            size: Any = {"width": 1000, "height": 820}
            chosen: Any = scheme
            with person(browser, viewport=size, color_scheme=chosen, reduced_motion="reduce") as somebody:
                work(somebody.open(labelled.link(name)), folder, scheme)
    rows = [
        {"id": f"q{k}", "prompt": f"Question {k}? {QUESTION}", "completions": ANSWERS[: 2 + k % 2]} for k in range(60)
    ]
    for row in rows[:12]:
        row["gold"] = {"order": [[n] for n in range(len(row["completions"]))]}
    with tempfile.TemporaryDirectory() as scratch, labelling(Path(scratch)) as start, browsing() as browser:
        labelled = start(rows)
        crowded(labelled)
        with person(browser, viewport={"width": 1400, "height": 700}) as owner:
            owner.page.goto(labelled.link().replace("/#", "/stats#"))
            owner.wait_text("#status", "As of")
            owner.page.evaluate("document.querySelector('#section-disputed').parentElement.remove()")  # a long one
            save(owner, folder / "label_stats.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images")
