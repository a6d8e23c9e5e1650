"""`rlvr label` as a process of its own, and a real Chromium in which a person works with its page."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from rlvr.feedback.records import Answer
from rlvr.feedback.store import Store

ROOT = Path(__file__).parents[2]
TIMEOUT_MS = 10_000


def chromium() -> str | None:
    """Where it is; None: nowhere."""
    names = (os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if name and (path := shutil.which(name))), None)


class Labelled:
    """A running `rlvr label`, which can be killed and started again on the same port and database."""

    def __init__(self, folder: Path, rows: Sequence[Mapping[str, Any]], *arguments: str) -> None:
        self.folder, self.db = folder, folder / "labels.db"
        self.file = folder / "rows.jsonl"
        self.file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.arguments = arguments
        self.port = 0
        self.process: subprocess.Popen[str] | None = None
        self.ready: dict[str, Any] = {}
        self.start()

    def start(self, env: Mapping[str, str] | None = None) -> None:
        """Until it serves."""
        words = [sys.executable, "-m", "rlvr", "label", str(self.file), "--db", str(self.db), "--port", str(self.port)]
        with open(self.folder / "log", "a") as log:
            self.process = subprocess.Popen(
                [*words, *self.arguments, "--json"],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, **(env or {})},
            )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                self.ready = json.loads(line)
                break
        else:
            raise AssertionError((self.folder / "log").read_text())
        self.url, self.port = self.ready["url"], self.ready["port"]

    def end(self, number: int = signal.SIGTERM) -> None:
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            self.process.wait(20)
        finally:
            self.process.kill()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None

    def link(self, name: str = "") -> str:
        """What is printed for that person, or for who has the database."""
        return self.ready["links"][name] if name else self.ready["owner"]

    def answers(self, name: str = "") -> list[Answer]:
        """As they stand; of that person alone where one is named."""
        with Store.open(self.db, readonly=True) as store:
            return [answer for answer in store.answers() if name in ("", answer.annotator)]

    def num_events(self, kind: str, name: str = "") -> int:
        with Store.open(self.db, readonly=True) as store:
            return sum(event.kind == kind and name in ("", event.annotator) for event in store.events())


class Person:
    """A tab of a browser of its own, used by the keyboard alone; everything that went wrong there is kept."""

    def __init__(self, context: Any, page: Any) -> None:
        self.context, self.page = context, page
        self.problems: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self._hear(message.type, message.text))
        page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        page.on("request", lambda request: self.requests.append(request.url))

    def _hear(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.problems.append(f"{kind}: {text}")

    def open(self, link: str, name: str = "tester") -> Person:
        """The label page, ready for keys; gives the name where one is asked for."""
        self.page.goto(link)
        self.page.wait_for_selector("#task:not([hidden]), #done:not([hidden]), #name-box[open], #message:not(:empty)")
        if self.page.query_selector("#name-box[open]"):
            self.page.keyboard.type(name)
            self.press("Enter")
            self.page.wait_for_selector("#task:not([hidden]), #done:not([hidden])")
        return self

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def text(self, selector: str) -> str:
        return self.page.inner_text(selector)

    def wait(self, condition: str, argument: Any = None) -> None:
        """Until the expression of JavaScript holds."""
        self.page.wait_for_function(condition, arg=argument)

    def wait_text(self, selector: str, part: str) -> str:
        """Until that part stands there; all that stands there."""
        self.wait("([selector, part]) => document.querySelector(selector).textContent.includes(part)", [selector, part])
        return self.text(selector)

    def submit(self, *keys: str) -> None:
        """Press the keys, then Enter, and wait until the server counted it."""
        before = self.done()
        self.press(*keys, "Enter")
        self.wait_done(before + 1)

    def done(self) -> int:
        return int(self.text("#count").split()[0])

    def wait_done(self, num: int) -> None:
        """Until that many are done and the next item, or the end, can be seen."""
        self.wait(
            "(num) => document.getElementById('count').textContent.startsWith(`${num} of`) && "
            "document.activeElement !== document.body",
            num,
        )

    def shown(self) -> list[str]:
        """The texts of the answers, in the order of the page."""
        return self.page.eval_on_selector_all(".answer .text", "all => all.map(one => one.innerText)")

    def item(self) -> str:
        return self.text("#prompt")


@contextlib.contextmanager
def browsing() -> Iterator[Any]:
    """A Chromium without a window; where there is none the test skips and says what would install it."""
    if chromium() is None or importlib.util.find_spec("playwright") is None:
        pytest.skip("Chromium is not there: make setup-browser")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        )
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def person(browser: Any, **settings: Any) -> Iterator[Person]:
    """Somebody with a browser that knows nothing yet; settings are those of Playwright's new_context."""
    context = browser.new_context(**{"viewport": {"width": 1100, "height": 850}, **settings})
    context.set_default_timeout(TIMEOUT_MS)
    try:
        yield Person(context, context.new_page())
    finally:
        context.close()


@contextlib.contextmanager
def labelling(folder: Path) -> Iterator[Callable[..., Labelled]]:
    """Starts `rlvr label` with rows and arguments; ends what it started."""
    started: list[Labelled] = []

    def start(rows: Sequence[Mapping[str, Any]], *arguments: str) -> Labelled:
        started.append(Labelled(folder, rows, *arguments))
        return started[-1]

    try:
        yield start
    finally:
        for labelled in started:
            labelled.end()
