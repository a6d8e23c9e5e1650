"""`rlvr label` as a process of its own, and people who answer over HTTP."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

ROOT = Path(__file__).parents[1]


class Labelled:
    """A running server. `with Labelled(folder, "rows.jsonl", "--per-item", "2") as served: ...`"""

    def __init__(
        self, folder: Path, *arguments: str, env: Mapping[str, str] | None = None, log: Path | None = None
    ) -> None:
        self.folder, self.log = folder, log or folder / "log"
        words = [sys.executable, "-m", "rlvr", "label", *arguments, "--db", str(folder / "l.db"), "--json"]
        if "--port" not in words:
            words += ["--port", "0"]
        with open(self.log, "w") as stderr:
            self.process = subprocess.Popen(
                words, cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr, text=True, env={**os.environ, **(env or {})}
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait(30)
            raise RuntimeError(self.log.read_text())
        self.ready = json.loads(line)
        self.url, self.port = self.ready["url"], self.ready["port"]
        self.token = self.ready["owner"].partition("#")[2]
        self.http = httpx.Client(base_url=self.url, timeout=60, trust_env=False)

    def __enter__(self) -> Labelled:
        return self

    def __exit__(self, *error: object) -> None:
        self.end(signal.SIGTERM)

    def end(self, number: int) -> int:
        """Send the signal where it still runs; its return code."""
        self.http.close()
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            assert self.process.stdout is not None
            self.process.stdout.close()

    def person(self, name: str, token: str | None = None) -> Person:
        """Somebody with the shared token, or one of their own."""
        return Person(self, name, token or self.token)

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        """With the token of the database."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"content-type": "application/json", "x-token": self.token, **headers}
        return self.http.post(path, content=content, headers=sent)


class Person:
    """Who labels. Their connection is their own."""

    def __init__(self, served: Labelled, name: str, token: str) -> None:
        self.name = name
        headers = {"x-token": token, "x-annotator": quote(name)}
        self.http = httpx.Client(base_url=served.url, timeout=60, trust_env=False, headers=headers)

    def get(self, path: str) -> httpx.Response:
        return self.http.get(path)

    def next(self) -> dict[str, Any]:
        answer = self.get("/api/next")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def send(self, item: Mapping[str, Any], event: str | None = None, **judged: Any) -> httpx.Response:
        """An answer to what next() gave."""
        return self.http.post("/api/event", json=answer_to(item, event, **judged))

    def undo(self, event: str | None = None) -> httpx.Response:
        return self.http.post("/api/event", json={"event": event or str(uuid.uuid4()), "kind": "undo"})


def answer_to(item: Mapping[str, Any], event: str | None = None, **judged: Any) -> dict[str, Any]:
    """The body of an answer to an item of GET /api/next."""
    given = {name: item[name] for name in ("showing", "lease")}
    return {"event": event or str(uuid.uuid4()), "kind": "answer", "item": item["id"], **given, **judged}


def write_rows(folder: Path, rows: list[dict[str, Any]], name: str = "rows.jsonl") -> str:
    """A file of them; its path."""
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / name)


def pairs(num: int) -> list[dict[str, Any]]:
    """Rows to compare."""
    return [
        {"id": f"i{k}", "prompt": f"{k}?", "completions": ["yes", "no"], "model": "secret-model"} for k in range(num)
    ]
