"""The label page for everybody: hostile text, names for screen readers, contrast, zoom; the statistics page."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from browser_case import Labelled, Person, browsing, labelling, person

pytestmark = pytest.mark.slow
LOOKS = Path(__file__).with_name("looks.js").read_text().partition("\n")[2]
LONG = "Donaudampfschifffahrt" * 30
HOSTILE = (
    "<script>window.pwn=1</script><img src=x onerror='window.pwn=2'><svg onload=window.pwn=3><a href=javascript:pwn=4>"
    "<iframe src=//example.com></iframe><style>body{display:none}</style>{{7*7}}${7*7}</div></body>"
)
HIDDEN = "safe \u202eevil\u202c \u2066x\u2069 \x07\x1b[31m\x00 \u200bz\ufeff a\u00adb"
MODES = ("rank", "rate", "thumbs", "write", "spans")


@pytest.fixture(scope="module", autouse=True)
def browser() -> Iterator[Any]:
    with browsing() as browser:
        yield browser


@pytest.fixture
def label(tmp_path: Path) -> Iterator[Callable[..., Labelled]]:
    with labelling(tmp_path) as start:
        yield start


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Labelled]:
    """Every mode once, for as many people as there are tests, with hostile and long texts."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "guideline.md").write_text(f"Be kind. {HOSTILE}")
    rows = [
        {"id": "rank", "prompt": f"rank {HOSTILE}", "completions": [HOSTILE, HIDDEN, LONG, "short"], "mode": "rank"},
        {"id": "rate", "prompt": "rate", "completions": ["one", LONG], "mode": "rate", 
         "attributes": ["<b>bold</b>", "w"]},
        {"id": "thumbs", "prompt": "thumbs", "completions": [LONG, "b"], "mode": "thumbs"},
        {"id": "write", "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": LONG}],
         "completions": [], "mode": "write"},
        {"id": "spans", "prompt": "spans", "completions": [f"{HIDDEN} {HOSTILE} {LONG}"], "mode": "spans"},
    ]  # fmt: skip
    people = ",".join(f"p{k}" for k in range(12))
    with labelling(folder) as start:
        yield start(rows, "--repeat", "0", "--annotators", people, "--per-item", "12", "--guideline",
                    str(folder / "guideline.md"))  # fmt: skip


def looks(somebody: Person, call: str) -> Any:
    """What that function of looks.js finds on the page."""
    return somebody.page.evaluate(f"({LOOKS}).{call}")


def mode_of(somebody: Person) -> str:
    titles = {"Rank": "rank", "Rate": "rate", "Is": "thumbs", "Write": "write", "Mark": "spans"}
    return titles[somebody.text("#what").split()[0]]


def begin(somebody: Person, mode: str) -> None:
    """Some of the work of that mode, so that every state of a control is on the page."""
    if mode == "rank":
        somebody.press("2", "t", "3")
    elif mode == "rate":
        somebody.press("3", "7")
    elif mode == "thumbs":
        somebody.press("y")
    elif mode == "write":
        somebody.page.keyboard.type("Something")
        somebody.press("Escape")
    else:
        somebody.press("Home", "Control+Shift+ArrowRight", "Control+Shift+ArrowRight", "m")


def finish(somebody: Person, mode: str) -> None:
    before = somebody.done()
    somebody.press(*{"rank": "14", "rate": "r1r1", "thumbs": "1yn"}.get(mode, ""), "Enter")
    somebody.wait_done(before + 1)


def each_mode(somebody: Person, link: str, look: Callable[[str], None]) -> None:
    """look(mode) at each mode's page, begun; then at the last page."""
    somebody.open(link)
    seen = []
    for _ in MODES:
        seen.append(mode := mode_of(somebody))
        begin(somebody, mode)
        look(mode)
        finish(somebody, mode)
    look("end")
    assert sorted(seen) == sorted(MODES)


def test_hostile_text_stays_text_and_hidden_signs_are_shown(served: Labelled, browser: Any) -> None:
    with person(browser) as somebody:

        def look(mode: str) -> None:
            if mode == "rank":
                shown = somebody.shown()
                assert HOSTILE in shown
                assert LONG in shown
                [hidden] = [text for text in shown if text.startswith("safe")]
                assert hidden == "safe RLOevilPDF LRIxPDI BELESC[31mNUL ZWSPzBOM aSHYb"
                assert HOSTILE in somebody.text("#prompt")
                somebody.press("g")
                assert HOSTILE in somebody.text("#guideline-text")
                somebody.press("Escape")
            elif mode == "rate":
                assert "<b>bold</b>" in somebody.text("#answers")

        each_mode(somebody, served.link("p0"), look)
        assert somebody.page.evaluate("window.pwn") is None
        assert somebody.page.query_selector_all("img, iframe, svg, main script, main style, main a") == []
        assert {url.split("/")[2] for url in somebody.requests} == {served.url.split("/")[2]}
        assert somebody.problems == []


def test_what_is_shown_names_no_item_and_no_model(label: Callable[..., Labelled], browser: Any) -> None:
    row = {"id": "secret-id", "prompt": "p", "completions": ["a", "b"], "model": "secret-m", "checkpoint": "secret-3"}
    labelled = label([row], "--repeat", "0")
    with person(browser) as somebody:
        somebody.open(labelled.link())
        assert "secret" not in somebody.page.inner_html("html")


NAMED = ("button", "link", "textbox", "radio", "progressbar", "dialog", "group", "region", "table", "list", "heading")


def test_every_control_has_a_name_and_the_page_its_landmarks(served: Labelled, browser: Any) -> None:
    with person(browser) as somebody:
        tools = somebody.context.new_cdp_session(somebody.page)

        def look(mode: str) -> None:
            nodes = [node for node in tools.send("Accessibility.getFullAXTree")["nodes"] if not node["ignored"]]
            found = [(node["role"]["value"], node.get("name", {}).get("value", "").strip()) for node in nodes]
            assert [role for role, name in found if role in NAMED and not name] == [], mode
            roles = {role for role, _ in found}
            assert {"banner", "main", "navigation", "heading", "progressbar"} <= roles
            names = [name for role, name in found if role in ("button", "radio", "textbox", "link")]
            if mode == "rank":
                assert {f"Choose answer {letter} as the next best" for letter in "ABCD"} <= set(names)
                assert ("group", "Answer B, tied first") in found
            elif mode == "rate":
                assert names.count("1 (lowest)") == names.count("7 (highest)") == 4
                assert ("group", "w of answer B") in found
            elif mode == "thumbs":
                assert "Good: answer A" in names
            elif mode == "spans":
                assert ("textbox", "Answer A") in found
            assert somebody.page.get_attribute("html", "lang") == "en"
            assert somebody.page.get_attribute("#status", "aria-live") == "polite"

        each_mode(somebody, served.link("p1"), look)
        somebody.page.goto(served.link().replace("/#", "/stats#"))
        somebody.wait_text("#status", "As of")
        nodes = [node for node in tools.send("Accessibility.getFullAXTree")["nodes"] if not node["ignored"]]
        named = [(node["role"]["value"], node.get("name", {}).get("value", "").strip()) for node in nodes]
        assert [role for role, name in named if role in NAMED and not name] == []


@pytest.mark.parametrize(("scheme", "name"), [("light", "p2"), ("dark", "p3")])
def test_text_has_a_contrast_of_4_5_and_edges_of_3(scheme: Any, name: str, served: Labelled, browser: Any) -> None:
    # https://www.w3.org/TR/WCAG21/#dfn-contrast-ratio
    least = {"text": 4.5, "edge": 3.0}
    with person(browser, color_scheme=scheme, reduced_motion="reduce") as somebody:

        def measure(where: str) -> None:
            found = looks(somebody, "contrasts()")
            assert len(found) > 3, where
            assert [one for one in found if one[1] < least[one[0]]] == [], where

        def look(mode: str) -> None:
            measure(mode)
            for key in "?sg" * (mode == "rank"):
                somebody.press(key)
                measure(f"{mode} {key}")
                somebody.press("Escape")
            if mode == "rank":
                somebody.press("Enter")
                assert somebody.text("#message")
                measure("message")

        each_mode(somebody, served.link(name), look)
        dark = somebody.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", dark)[:3])) < 200) == (scheme == "dark")
        somebody.page.goto(served.link().replace("/#", "/stats#"))
        somebody.wait_text("#status", "As of")
        measure("stats")


@pytest.mark.parametrize(
    ("how", "name"),
    [({"viewport": {"width": 320, "height": 600}}, "p4"),
     ({"viewport": {"width": 640, "height": 400}, "device_scale_factor": 2}, "p5")],
    ids=["320 px", "1280 px at 200 %"],
)  # fmt: skip
def test_nothing_overflows(how: dict[str, Any], name: str, served: Labelled, browser: Any) -> None:
    with person(browser, **how) as somebody:

        def look(mode: str) -> None:
            assert looks(somebody, "overflow()") == [], mode
            for key in "?sg" * (mode == "rank"):
                somebody.press(key)
                assert looks(somebody, "overflow()") == [], f"{mode} {key}"
                somebody.press("Escape")

        each_mode(somebody, served.link(name), look)
        somebody.page.goto(served.link().replace("/#", "/stats#"))
        somebody.wait_text("#status", "As of")
        assert looks(somebody, "overflow()") == []


def test_tab_reaches_every_control_and_shows_where_it_is(served: Labelled, browser: Any) -> None:
    with person(browser) as somebody:

        def look(mode: str) -> None:
            reached = {}
            for _ in range(60):
                somebody.press("Tab")
                name, style, width = looks(somebody, "focused()")
                reached[name] = (style, width)
            assert [name for name in looks(somebody, "controls()") if name not in reached] == [], mode
            rings = {name: ring for name, ring in reached.items() if name and "Donau" not in name}
            assert [name for name, (style, width) in rings.items() if style == "none" or width < 2] == [], mode
            somebody.page.focus("#done" if mode == "end" else "#task")  # Enter would press what has the focus

        each_mode(somebody, served.link("p6"), look)


def test_the_theme_is_kept_and_motion_can_be_turned_off(served: Labelled, browser: Any) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    moves = "getComputedStyle(document.getElementById('submit')).transitionDuration"
    with person(browser, color_scheme="light", reduced_motion="reduce") as somebody:
        somebody.open(served.link("p7"))
        light = somebody.page.evaluate(colour)
        somebody.page.focus("#theme")
        somebody.press("Enter", "Enter")
        assert somebody.text("#theme") == "Theme: dark"
        dark = somebody.page.evaluate(colour)
        assert dark != light
        somebody.page.reload()
        somebody.page.wait_for_selector("#task:not([hidden])")
        assert somebody.page.evaluate(colour) == dark
        assert somebody.page.evaluate(moves) == "0s"


def test_every_order_with_ties_can_be_reached_by_keys(served: Labelled, browser: Any) -> None:
    with person(browser) as somebody:
        somebody.open(served.link("p8"))
        # ordered Bell numbers, https://oeis.org/A000670
        assert [looks(somebody, f"orders({num})") for num in (2, 3, 4, 5)] == [3, 13, 75, 541]


def test_a_long_text_is_folded_until_it_is_asked_for(label: Callable[..., Labelled], browser: Any) -> None:
    with person(browser) as somebody:
        somebody.open(label([{"id": "long", "prompt": "p", "completions": ["word " * 30_000, "b"]}]).link())
        assert max(map(len, somebody.shown())) <= 8000
        somebody.press("e")
        assert max(map(len, somebody.shown())) >= 149_999


def test_a_text_made_of_hidden_signs_is_shown_in_short_and_marked_by_its_own_places(
    label: Callable[..., Labelled], browser: Any
) -> None:
    text = "\u200b" * 5000 + "bad" + "a\u202e" * 5000
    labelled = label([{"id": "signs", "prompt": "p", "completions": [text], "mode": "spans"}])
    with person(browser) as somebody:
        somebody.open(labelled.link())
        [shown] = somebody.shown()
        assert shown.startswith("5000 hidden charactersbadaRLOaRLO")
        assert shown.endswith("a\ufffda\ufffd")
        assert somebody.page.evaluate("document.querySelectorAll('.control').length") == 500
        somebody.press("Control+Home", "ArrowRight", *["Shift+ArrowRight"] * 3, "m")
        somebody.press("Control+End", "Shift+ArrowLeft", "m")
        somebody.submit()
    [answer] = labelled.answers()
    spans = [(span.first, span.end) for span in answer.judgement.spans or ()]
    assert spans == [(5000, 5003), (len(text) - 1, len(text))]


def test_the_statistics_page_shows_the_figures_of_the_server(served: Labelled, browser: Any) -> None:
    with person(browser) as somebody:
        somebody.open(served.link("p9"))
        if mode_of(somebody) == "rank":
            begin(somebody, "rank")
            finish(somebody, "rank")
        token = served.link().partition("#")[2]
        figures = httpx.get(served.url + "/api/stats", headers={"x-token": token}, trust_env=False).json()
        assert not somebody.page.is_visible("#stats"), "who is measured does not read them"
        somebody.page.goto(served.link().replace("/#", "/stats#"))
        somebody.wait_text("#status", "As of")
        rows = somebody.page.eval_on_selector_all(
            "#section-progress + div tr", "all => all.map(row => [...row.cells].map(cell => cell.innerText))"
        )
        cells = {row[0]: row[1] for row in rows if len(row) == 2}
        for name, said in (("items", "Items"), ("gold_items", "Items with a known answer"), ("repeats", "Repeats")):
            assert cells[said] == str(figures["progress"][name])
        heads = somebody.page.eval_on_selector_all("h2, thead th", "all => all.map(head => head.innerText)")
        raw = [
            head for head in heads if head and not head[0].isupper() and head not in ("p", *figures["groups"]["people"])
        ]
        assert raw == [], "keys of the JSON are no words"
        names = somebody.page.eval_on_selector_all(
            "#section-people ~ div tbody tr", "all => all.map(row => row.cells[0].innerText)"
        )
        assert names == [row["name"] for row in figures["people"]]
        assert somebody.problems == []
