"""`rlvr serve verify` as a process of its own; every answer to ask() is held against the service's own description."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
from jsonschema import Draft202012Validator

ROOT = Path(__file__).parents[1]
TOKEN = "0123456789abcdef-a-token"
DEEDS = '''
"""deeds: does what the response says."""
import math, os, time
from pathlib import Path
from typing import Literal
from rlvr import Verdict, verifier

@verifier("deeds", timeout=0.3)
def deeds(response, gold, task):
    deed, _, rest = response.partition(" ")
    if deed == "exit":
        os._exit(0)
    if deed == "raise":
        raise RuntimeError("on purpose")
    if deed == "loop":
        while True:
            pass
    if deed == "sleep":
        time.sleep(float(rest))
        return True
    if deed == "mark":
        Path(gold).write_text(f"{os.getpid()} {os.getppid()}")
        time.sleep(float(rest))
        return True
    if deed == "infinite":
        return Verdict(score=1.0, outcome="correct", checks={"what": float("inf")})
    if deed == "environment":
        return Verdict(score=1.0, outcome="correct", checks={"token": os.environ.get("RLVR_TOKEN")})
    if deed == "echo":
        given = {"gold": gold, "id": task.id, "prompt": task.prompt, "info": dict(task.info), "response": response}
        return Verdict(score=1.0, outcome="correct", checks=given)
    return response == gold

@verifier("tuned")
def tuned(response, *, share: float = 0.5, kind: Literal["a", "b"] = "a", text: str = "", any=None, most=math.inf,
          wall_seconds: float = 2.0, memory_mib: int | None = 64, allow_more: bool = False):
    """Tells its options."""
    checks = {"share": share, "kind": kind, "text": text, "any": any, "wall_seconds": wall_seconds,
              "memory_mib": memory_mib, "allow_more": allow_more}
    return Verdict(score=1.0, outcome="correct", checks=checks)
'''


class Served:
    """A running service. `with Served(["math"]) as served: ...`"""

    def __init__(
        self,
        verifiers: Sequence[str],
        *arguments: str,
        folder: Path,
        limits: Mapping[str, int] | None = None,
        workers: int = 2,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.log = folder / "log"
        words = [sys.executable, "-m", "rlvr", "serve", "verify", "--port", "0", "--workers", str(workers), "--json"]
        words += [word for name in verifiers for word in ("-v", name)] + list(arguments)
        words += [word for name, value in (limits or {}).items() for word in ("--limit", f"{name}={value}")]
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                words, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, **(env or {})}
            )
        try:
            assert self.process.stdout is not None
            self.line = self.process.stdout.readline()
            assert self.line, self.log.read_text()
            ready = json.loads(self.process.stdout.readline())
            self.url, self.pid = ready["url"].replace("0.0.0.0", "127.0.0.1"), ready["pid"]
            self.port = int(self.url.rpartition(":")[2])
            self.http = httpx.Client(base_url=self.url, timeout=60, trust_env=False)
            self.description = self.http.get("/openapi.json").json()
        except BaseException:
            self.end(signal.SIGKILL)
            raise

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *error: object) -> None:
        self.end(signal.SIGTERM)

    def end(self, number: int) -> int:
        """Send the signal where it still runs; its return code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            code = self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def ask(self, body: Any = None, *, path: str = "/v1/verify", method: str = "", **how: Any) -> httpx.Response:
        """POST of a JSON body, GET without one; the answer must be one that /openapi.json speaks of."""
        if body is not None:
            how["content"] = json.dumps(body)
            how["headers"] = {"content-type": "application/json", **how.get("headers", {})}
        answer = self.http.request(method or ("POST" if body is not None else "GET"), path, **how)
        self.check(answer)
        return answer

    def check(self, answer: httpx.Response) -> None:
        """That the description has this status, header and body for this path and method."""
        operation = self.description["paths"][answer.request.url.path][answer.request.method.lower()]
        response = operation["responses"][str(answer.status_code)]
        media, content = answer.headers["content-type"].partition(";")[0], response["content"]
        assert media in content
        for name, header in response.get("headers", {}).items():
            self.valid(int(answer.headers[name]), header["schema"])
        self.valid(answer.json() if media == "application/json" else answer.text, content[media]["schema"])

    def valid(self, value: Any, schema: Any) -> None:
        """ValidationError where the value is not as the schema, which may point into the description."""
        Draft202012Validator({**schema, "components": self.description["components"]}).validate(value)

    def verdicts(self, *items: Mapping[str, Any], verifier: str | None = None, **how: Any) -> list[dict[str, Any]]:
        """Of a request that must be answered."""
        answer = self.ask({"items": items} | ({"verifier": verifier} if verifier else {}), **how)
        assert answer.status_code == 200, answer.text
        return answer.json()["verdicts"]

    def metric(self, line: str) -> float:
        """The value behind a name with its labels."""
        found = re.search(rf"^rlvr_serve_{re.escape(line)} (.*)$", self.ask(path="/metrics").text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def raw(self, data: bytes = b"", *, timeout: float = 30) -> socket.socket:
        """A connection over which these bytes went."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=timeout)
        connection.sendall(data)
        return connection

    def descendants(self) -> set[int]:
        """Processes below the service."""
        return below(self.pid)


def below(pid: int) -> set[int]:
    """Children of a process, and theirs."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = entry.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents[int(entry.parent.name)] = int(words[1])
    found, new = set(), {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new} - found
        found |= new
    return found


def is_alive(pid: int) -> bool:
    """A zombie is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def read_all(connection: socket.socket) -> bytes:
    """Until the other side closes or aborts."""
    received = b""
    try:
        while data := connection.recv(65536):
            received += data
    except ConnectionResetError:
        pass
    return received


def head(length: int | str, path: str = "/v1/verify") -> bytes:
    """Of a POST with that many bytes of body to come."""
    lines = f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", f"Content-Length: {length}"
    return "\r\n".join((*lines, "", "")).encode()
