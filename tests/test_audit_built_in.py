"""Every verifier that comes with us passes the audit that it asks of others."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rlvr import plugins
from rlvr.audit import audit
from rlvr.audit_card import report
from rlvr.audit_examples import examples_of
from rlvr.rewards.bound import apply, lookup, start_problem
from rlvr.types import Task
from rlvr.verifiers import http_endpoint


class Exact(BaseHTTPRequestHandler):
    """An endpoint that judges as `exact` does."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        task = Task(id=asked["id"], prompt=asked["prompt"], gold=asked["gold"], info=asked["info"])
        verdict = apply(lookup("exact"), asked["response"], task)
        answer = verdict.answer[:1000] if verdict.answer else None
        told = {"score": verdict.score, "outcome": verdict.outcome, "reason": verdict.reason, "answer": answer}
        body = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Exact) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/judge"
        server.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("name", plugins._BUILT_IN["verifier"])
def test_a_built_in_verifier_passes_every_check(name: str, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "http":
        judged = [e for e in examples_of(lookup("exact")) if e.score is not None]
        examples = [(e.gold, e.response, e.score, {"url": endpoint}) for e in judged]
        monkeypatch.setattr(http_endpoint, "EXAMPLES", examples)
    if missing := start_problem(name, examples_of(lookup(name))[0].options):
        pytest.skip(missing)  # a package that is not here
    card = audit(name)
    assert card.failed == [], "\n".join(report(card))
