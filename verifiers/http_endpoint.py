"""http: an endpoint of your own judges: POST with {response, gold, prompt, info}, answered by {score, reason, ...}.

The gold is any JSON; the endpoint reads it. Its answer's `score` is a number in [0, 1], or null where it could not
judge; `outcome`, `reason`, `answer` and `checks` are taken over where they are there. With the option `verifier` a
`rlvr serve verify` is asked, at .../v1/verify. Whatever goes wrong between here and there is an error, never a 0.
"""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field

from rlvr.plugins import verifier
from rlvr.types import Task, Verdict

_MOST_BYTES = 1 << 20
"""Of an answer."""
_LONGEST_PAUSE = 8.0
_AGAIN = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses that another attempt may not meet."""
_Seconds = Annotated[float, Field(gt=0, le=120)]
_Retries = Annotated[int, Field(ge=0, le=5)]


class _Failed(Exception):
    """Why there is no verdict; `is_passing` where another attempt may go better."""

    def __init__(self, reason: str, is_passing: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.is_passing = reason, is_passing


TRUSTED_OPTIONS = ("url", "headers_from")
"""What is asked, and what of this machine's environment it is told."""


@verifier("http", wall_seconds=900.0, isolation="thread")
def http_endpoint(
    response: str,
    gold: Any,
    task: Task,
    *,
    url: str = "",
    timeout_seconds: _Seconds = 30.0,
    retries: _Retries = 2,
    headers_from: dict[str, str] | None = None,
    verifier: str = "",
    options: dict[str, Any] | None = None,
) -> Verdict:
    """headers_from: header to the NAME of the environment variable that holds its value, so that no secret stands in a
    recipe. timeout_seconds: for each attempt; retries: further attempts, after pauses of 0.5, 1, 2, ... s. verifier:
    asks a `rlvr serve verify` for that verifier, with these options."""
    item = {"response": response, "gold": gold, "prompt": task.prompt, "info": dict(task.info)}
    try:
        if verifier:
            asked = {"verifier": verifier, "items": [item], **({"options": options} if options else {})}
            body = _body(asked)
        else:
            body = _body({**item, "id": task.id})
        answer = _asked(url, body, _headers(headers_from or {}), timeout_seconds, retries)
        if verifier:
            answer = _only_verdict(answer)
        return _verdict(answer)
    except _Failed as failure:
        return Verdict(score=None, outcome="error", reason=failure.reason)


def start_problem(options: Mapping[str, Any]) -> str:
    """Why nothing can be asked with these options; one line, "" where it can be."""
    if problem := _url_problem(options.get("url", "")):
        return problem
    if options.get("options") and not options.get("verifier"):
        return "options go with verifier, the one of the `rlvr serve verify` that is asked"
    try:
        _headers(options.get("headers_from") or {})
    except _Failed as failure:
        return failure.reason
    return ""


def _url_problem(url: str) -> str:
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0  # checks its range
    except ValueError:
        parts, is_usable = None, False
    if parts is None or not is_usable:
        return f"the option url must be such as http://127.0.0.1:8000/judge, got {url!r}"
    if parts.username is not None or parts.password is not None:
        return "the option url must hold no password; headers_from names an environment variable that does"
    return ""


def warm_up() -> None:
    """Load what asks."""
    _client()


@functools.cache
def _client() -> Any:
    """One for all threads of the process, with connections that stay open."""
    import httpx

    return httpx.Client(follow_redirects=False, limits=httpx.Limits(max_connections=256, max_keepalive_connections=64))


def _body(asked: Any) -> bytes:
    try:
        return json.dumps(asked, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise _Failed(f"the task cannot be sent as JSON: {error}") from None


def _headers(names: Mapping[str, str]) -> dict[str, str]:
    headers = {"content-type": "application/json"}
    for header, variable in names.items():
        value = os.environ.get(variable)
        if value is None:
            raise _Failed(f"the option headers_from: no environment variable {variable!r} (for the header {header})")
        if not value.isprintable() or not value.isascii() or not header.isascii() or not header.isprintable():
            raise _Failed(f"the option headers_from: {variable!r} holds what no header can (for the header {header})")
        headers[header] = value
    return headers


def _asked(url: str, body: bytes, headers: Mapping[str, str], seconds: float, retries: int) -> Any:
    """The answer's JSON. _Failed after the last attempt."""
    for attempt in range(retries + 1):
        try:
            return _attempt(url, body, headers, seconds)
        except _Failed as failure:
            if not failure.is_passing or attempt == retries:
                times = f" ({attempt + 1} attempts)" if attempt else ""
                raise _Failed(f"{_shown(url)}: {failure.reason}{times}") from None
        time.sleep(min(0.5 * 2**attempt, _LONGEST_PAUSE))
    raise AssertionError("each attempt returns or raises")


def _attempt(url: str, body: bytes, headers: Mapping[str, str], seconds: float) -> Any:
    import httpx

    end = time.monotonic() + seconds
    late = _Failed(f"no answer within {seconds:g} s", is_passing=True)
    try:
        with _client().stream("POST", url, content=body, headers=dict(headers), timeout=seconds) as answer:
            received = bytearray()
            for piece in answer.iter_bytes():  # one that drips would outlast the timeout of each read
                received += piece
                if time.monotonic() > end:
                    raise late
                if len(received) > _MOST_BYTES:
                    raise _Failed(f"its answer has more than {_MOST_BYTES} bytes")
    except httpx.TimeoutException:
        raise late from None
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        told = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise _Failed(f"cannot be asked: {told}", is_passing=isinstance(error, httpx.TransportError)) from None
    if answer.status_code != 200:
        told = " ".join(received[:2000].decode("utf-8", "replace").split())[:200]
        why = f"status {answer.status_code}" + (f": {told}" if told else "")
        raise _Failed(why, is_passing=answer.status_code in _AGAIN)
    try:
        return json.loads(received)
    except (ValueError, RecursionError) as error:
        raise _Failed(f"its answer is not JSON: {error}") from None


def _only_verdict(answer: Any) -> Any:
    verdicts = answer.get("verdicts") if isinstance(answer, dict) else None
    if not isinstance(verdicts, list) or len(verdicts) != 1:
        raise _Failed("its answer must have one verdict for one item, as `rlvr serve verify` gives")
    return verdicts[0]


def _verdict(answer: Any) -> Verdict:
    """_Failed where the answer is none that can be believed."""
    if not isinstance(answer, dict):
        raise _Failed(f"its answer must be an object with score, got a {type(answer).__name__}")
    if "score" not in answer:
        raise _Failed(f"its answer has no score; it has {', '.join(answer)[:200] or 'nothing'}")
    score, reason = answer["score"], answer.get("reason")
    reason = " ".join(reason.split())[:1000] if isinstance(reason, str) else ""
    if score is None:
        told = answer.get("outcome")
        outcome = told if told in ("gold_invalid", "not_applicable") else "error"
        return Verdict(score=None, outcome=outcome, reason=reason or "the endpoint could not judge it")
    if not isinstance(score, bool | int | float) or not 0 <= score <= 1:  # NaN is not
        raise _Failed(f"its score must be a number in [0, 1] or null, got {str(score)[:60]}")
    told = answer.get("outcome")
    said, checks = answer.get("answer"), answer.get("checks")
    fields = {
        "score": float(score),
        "reason": reason or f"the endpoint scored it {score:g}",
        "answer": said if isinstance(said, str) else None,
        "checks": checks if isinstance(checks, dict) else {},
    }
    if isinstance(told, str):
        try:
            return Verdict(outcome=told, **fields)  # type: ignore[arg-type] - Verdict checks it
        except ValueError as error:
            raise _Failed(f"its verdict makes no sense: {error}") from None
    return Verdict(outcome="correct" if score == 1 else "wrong" if score == 0 else "partial", **fields)


def _shown(url: str) -> str:
    """Without what follows the path, where some put keys."""
    return url.partition("?")[0]


# None can be judged without an endpoint; what a test needs is one that listens.
EXAMPLES: list[tuple[Any, str, float | None]] = []
