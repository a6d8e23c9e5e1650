"""`rlvr serve verify` over real HTTP: what it answers, whom it answers, and what it says of itself."""

from __future__ import annotations

import concurrent.futures
import inspect
import json
import math
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from serve_case import DEEDS, ROOT, TOKEN, Served, read_all
from uvicorn.protocols.http import h11_impl
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from rlvr.errors import SettingsError
from rlvr.rewards.verified import VerifierPool
from rlvr.serve.limits import Buckets, ServeLimits, client_of
from rlvr.serve.offer import Offer
from rlvr.serve.openapi import _REFUSALS
from rlvr.serve.requests import parse
from rlvr.serve.web import Connection, Refusal
from rlvr.types import Task, Verdict

MIXED = [  # verifier, gold, response
    ("math", "7/2", r"\boxed{3.5}"),
    ("math", "7/2", r"\boxed{3.4}"),
    ("math", r"\frac{1}{3}", "The answer is 1/3."),
    ("math", "", r"\boxed{1}"),
    ("boxed", "XIV", r"so \boxed{XIV}"),
    ("boxed", "XIV", "XIV"),
    ("exact", "yes", "The answer is no."),
    ("exact", 42, "42"),
    ("exact", None, "42"),
    ("exact", "\ud800", "\ud800"),
    ("exact", "né 日本 🙂", "né 日本 🙂"),
]

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("serve")
    limits = {"rate": 1000000, "burst": 1000000, "num_items": 1024}
    with Served(["math", "boxed", "exact"], folder=folder, limits=limits) as served:
        yield served
    assert served.process.returncode == 0


@pytest.fixture
def deeds(tmp_path: Path) -> list[str]:
    (tmp_path / "deeds.py").write_text(DEEDS)
    return [f"{tmp_path}/deeds.py:deeds"]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Offer:
    file = tmp_path_factory.mktemp("tuned") / "deeds.py"
    file.write_text(DEEDS)
    return Offer([f"{file}:tuned"])


def direct(cases: list[tuple[str, Any, str]]) -> list[dict[str, Any]]:
    """The same verdicts without the service, but for their time."""
    with VerifierPool(["math", "boxed", "exact"], 1, 2048) as pool:
        tasks = [Task(id=str(index), prompt="", gold=gold) for index, (_, gold, _) in enumerate(cases)]
        asked = [(name, response, task) for (name, _, response), task in zip(cases, tasks, strict=True)]
        verdicts = pool.judge(asked)
    return [timeless(asdict(verdict)) for verdict in verdicts]


def timeless(verdict: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in verdict.items() if key not in ("seconds", "id", "stderr")}


def rows(cases: list[tuple[str, Any, str]]) -> list[dict[str, Any]]:
    return [
        {"id": index, "verifier": name, "gold": gold, "response": response}
        for index, (name, gold, response) in enumerate(cases)
    ]


def failed_start(*arguments: str, **env: str) -> str:
    """What a service that must refuse to start says, in one line."""
    words = [sys.executable, "-m", "rlvr", "serve", "verify", "-v", "exact", *arguments]
    done = subprocess.run(
        words, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **env}
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    return done.stderr


# --- verdicts ---------------------------------------------------------------------------------------------------------


def test_verdicts_are_those_of_the_pool_in_the_order_of_the_items(served: Served) -> None:
    cases = MIXED * 20
    random.Random(0).shuffle(cases)
    verdicts = served.verdicts(*rows(cases))
    assert [verdict["id"] for verdict in verdicts] == list(range(len(cases)))
    assert [timeless(verdict) for verdict in verdicts] == direct(cases)
    assert {verdict["outcome"] for verdict in verdicts} == {"correct", "wrong", "no_answer", "gold_invalid"}


def test_an_item_without_a_verifier_is_judged_by_that_of_the_body(served: Served) -> None:
    item = {"gold": "1/2", "response": r"\boxed{0.5}"}
    found = served.verdicts(item, {**item, "verifier": "exact"}, {**item, "verifier": None}, verifier="math")
    assert [(verdict["verifier"], verdict["score"]) for verdict in found] == [
        ("math", 1.0),
        ("exact", 0.0),
        ("math", 1.0),
    ]
    assert [verdict["id"] for verdict in found] == [None, None, None]


def test_no_items_have_no_verdicts(served: Served) -> None:
    assert served.verdicts() == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"response": 3}, "items[1].response: must be text, got a number"),
        ({"response": None}, "items[1].response: must be text, got null"),
        ({"response": "é" * 131073}, "items[1].response: at most 262144 bytes, got 262146"),
        ({"gold": ...}, "items[1].gold: is missing (null where the verifier needs none)"),
        ({"response": ...}, "items[1].response: is missing"),
        ({"verifier": "maths"}, "items[1].verifier: 'maths' is not served; did you mean 'math'? served: boxed, exact"),
        ({"verifier": 1}, "items[1].verifier: must be text, got a number"),
        ({"id": 1.5}, "items[1].id: must be a text of at most 256 characters or a whole number of 63 bits"),
        ({"id": 2**63}, "items[1].id: must be"),
        ({"id": True}, "items[1].id: must be"),
        ({"id": "x" * 257}, "items[1].id: must be"),
        ({"prompt": {"role": "user"}}, "items[1].prompt: must be text or a list of messages, got an object"),
        ({"prompt": [{"role": "user"}]}, "items[1].prompt[0]: must be an object with role and content, both text"),
        ({"info": []}, "items[1].info: must be an object, got a list"),
        ({"goal": "1"}, "items[1]: an item has no field 'goal'; did you mean 'gold'? known: id, response, gold"),
    ],
)
def test_a_problem_of_an_item_is_its_own_error_and_never_a_zero(
    served: Served, change: dict[str, Any], reason: str
) -> None:
    good = {"id": "a", "gold": "1", "response": "1"}
    bad = {key: value for key, value in {**good, **change}.items() if value is not ...}
    first, second, third = served.verdicts(good, bad, {**good, "response": "2"}, verifier="exact")
    assert (first["score"], third["score"]) == (1.0, 0.0)
    assert (second["score"], second["outcome"]) == (None, "error")
    assert second["reason"].startswith(reason)


def test_an_item_that_is_no_object_and_one_without_any_verifier_are_named(served: Served) -> None:
    found = served.verdicts(["gold"], {"gold": 1, "response": "1"})  # type: ignore[arg-type]
    assert [verdict["reason"] for verdict in found] == [
        "items[0]: must be an object, got a list",
        "items[1].verifier: is missing, and the body names none; served: boxed, exact, math",
    ]


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        (b"", 400, "the body is no JSON: Expecting value"),
        (b"{", 400, "the body is no JSON, or nested deeper than 32 levels"),
        (b"\xff{}", 400, "the body is not UTF-8 (byte 0)"),
        ('{"items": []}'.encode("utf-16"), 400, "the body is"),
        (b'{"items": [NaN]}', 400, "NaN is not a number in JSON"),
        (b'{"items": [1e999]}', 400, "the number 1e999 is too large"),
        (b'{"items": [' + b"1" * 5000 + b"]}", 400, "a number has 5000 digits, at most 4300 are read"),
        (b"[" * 100000, 400, "nested deeper than 32 levels"),
        (b'{"items": ' + b"[" * 32 + b"]" * 32 + b"}", 400, "nested deeper than 32 levels"),
        (b"[]", 422, "the body must be an object, got a list"),
        (b"{}", 422, "items: must be a list of objects {response, gold}, got none"),
        (b'{"items": {}}', 422, "items: must be a list of objects {response, gold}, got an object"),
        (b'{"items": [], "verfier": "math"}', 422, "no field 'verfier'; did you mean 'verifier'?"),
        (b'{"items": [], "verifier": "os:system"}', 422, "verifier: 'os:system' is not served; served: boxed, exact"),
        (b'{"items": [], "verifier": []}', 422, "verifier: must be text, got a list"),
        (b'{"items": [' + b"1," * 1024 + b"1]}", 413, "items: at most 1024 in one request, got 1025"),
        (b'{"items": [' + b"[]," * 500000 + b"1]}", 413, "more than 500000 values"),
    ],
)
def test_a_body_that_cannot_be_used_is_refused_in_one_line(
    served: Served, body: bytes, status: int, error: str
) -> None:
    answer = served.http.post("/v1/verify", content=body, headers={"content-type": "application/json"})
    served.check(answer)
    assert answer.status_code == status
    assert error in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "application/json; charset=UTF-8"}, 200),
        ({"content-type": "application/json", "content-encoding": "identity"}, 200),
        ({}, 415),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/jsonp"}, 415),
        ({"content-type": "application/json; charset=latin-1"}, 415),
        ({"content-type": "application/json", "content-encoding": "gzip"}, 415),
    ],
)
def test_only_plain_json_is_read(served: Served, headers: dict[str, str], status: int) -> None:
    answer = served.http.post("/v1/verify", content=b'{"items": []}', headers=headers)
    served.check(answer)
    assert answer.status_code == status


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/verify", 405), ("POST", "/", 405), ("GET", "/v1/verify/", 404), ("GET", "/docs", 404)],
)
def test_other_paths_and_methods_are_told_which_there_are(served: Served, method: str, path: str, status: int) -> None:
    answer = served.http.request(method, path)
    assert answer.status_code == status
    assert "there are GET /, GET /healthz" in answer.json()["error"]


def test_what_a_request_names_is_never_imported(tmp_path: Path, deeds: list[str]) -> None:
    marker = tmp_path / "imported"
    (tmp_path / "trap.py").write_text(f"open({str(marker)!r}, 'w')\ndef trap(response): return True\n")
    with Served(deeds, folder=tmp_path, env={"PYTHONPATH": str(tmp_path)}) as served:
        names = ["trap:trap", f"{tmp_path}/trap.py:trap", "exact", "math", "os:system", "trap"]
        item = {"gold": "1", "response": "1"}
        for name in names:
            assert served.ask({"verifier": name, "items": [item]}).status_code == 422
        found = served.verdicts(*({**item, "verifier": name} for name in names), {**item, "verifier": deeds[0]})
        assert [verdict["score"] for verdict in found] == [None] * len(names) + [1.0]
        assert found[-1]["verifier"] == "deeds"
        assert not marker.exists()


def test_without_names_all_that_are_built_in_may_be_asked_for(tmp_path: Path) -> None:
    with Served([], folder=tmp_path) as served:
        names = served.description["components"]["schemas"]["Item"]["properties"]["verifier"]["anyOf"][0]["enum"]
        assert {"boxed", "exact", "math", "python_tests", "stdin_stdout"} <= set(names)
        assert served.verdicts({"gold": "1", "response": r"\boxed{1}"}, verifier="boxed")[0]["score"] == 1.0


def test_a_verifier_sees_the_whole_item(tmp_path: Path, deeds: list[str]) -> None:
    with Served(deeds, folder=tmp_path) as served:
        prompt = [{"role": "user", "content": "1+1?"}]
        item = {"id": "a/1", "response": "echo \x00\ud83d", "gold": {"a": [1, 2.5, None]}, "prompt": prompt}
        found = served.verdicts({**item, "info": {"n": 10**30}}, {"gold": None, "response": "echo"}, verifier=deeds[0])
        assert found[0]["checks"] == {**item, "info": {"n": 10**30}}
        assert found[1]["checks"] == {"id": "1", "response": "echo", "gold": None, "prompt": "", "info": {}}


def test_a_request_sets_options_but_grants_itself_nothing(tmp_path: Path, deeds: list[str]) -> None:
    tuned = deeds[0].replace(":deeds", ":tuned")
    given = [f"--option={tuned}.{text}" for text in ("wall_seconds=5", "text=mine", "allow_more=true")]
    with Served([tuned, *deeds], *given, folder=tmp_path) as served:
        item = {"gold": None, "response": "x"}
        usual = {"share": 0.5, "kind": "a", "text": "mine", "any": None, "wall_seconds": 5, "memory_mib": 64}
        usual["allow_more"] = True
        for asked in (None, {}, {"share": 1, "kind": "b"}, {"text": "", "any": [1, {}]}, {"wall_seconds": 5.0}):
            answer = served.ask({"verifier": tuned, "options": asked, "items": [item, item]})
            assert [verdict["checks"] for verdict in answer.json()["verdicts"]] == [usual | (asked or {})] * 2
        other = {**item, "verifier": deeds[0], "response": "echo"}
        answer = served.ask({"verifier": tuned, "options": {"share": 1}, "items": [other, item]})
        assert [verdict["score"] for verdict in answer.json()["verdicts"]] == [1.0, 1.0]
        answer = served.ask({"verifier": deeds[0], "items": [{**item, "verifier": tuned}]})
        assert answer.json()["verdicts"][0]["checks"] == usual
        for asked, error in (
            ({"shares": 1}, "options.shares: verifier 'tuned' has no such option; did you mean 'share'?"),
            ({"share": "1"}, "options.share: input should be a valid number, got '1' (verifier 'tuned')"),
            ({"kind": "c"}, "options.kind: input should be 'a' or 'b', got 'c'"),
            ({"allow_more": False}, "options.allow_more: is not a request's to set, but of who runs the service"),
            ({"wall_seconds": 5.1}, "options.wall_seconds: at most 5 here, got 5.1; who runs the service can raise it"),
            ({"memory_mib": None}, "options.memory_mib: at most 64 here, got None"),
            ({"text": ["x" * 9999]}, "options.text: input should be a valid string, got ['xxx"),
            ([], "options: must be an object, got a list"),
        ):
            answer = served.ask({"verifier": tuned, "options": asked, "items": [item]})
            assert answer.status_code == 422
            assert answer.json()["error"].startswith(error)
            assert len(answer.json()["error"]) <= 500
        answer = served.ask({"options": {"share": 1}, "items": [{**item, "verifier": tuned}]})
        assert answer.json() == {"error": "options: are one verifier's own; name it with verifier"}
        shown = served.description["info"]["x-options"]
        assert shown[tuned] == {**usual, "most": "inf"}
        assert shown[deeds[0]] == {}


def test_options_of_the_start_are_checked() -> None:
    assert "must be VERIFIER.NAME=VALUE, of exact" in failed_start("--option", "math.share=1")
    assert "verifier 'exact' has no such option; it has none" in failed_start("--option", "exact.share=1")


WILD_OPTIONS = st.dictionaries(
    st.sampled_from(["share", "kind", "text", "any", "wall_seconds", "allow_more", "x\n"]), PLAIN
)


@pytest.mark.slow
@given(asked=WILD_OPTIONS)
@settings(max_examples=300, deadline=None)
def test_no_options_make_it_fail(tuned: Offer, asked: dict[str, Any]) -> None:
    try:
        found, error = tuned.options(tuned.names[0], asked), ""
    except SettingsError as refused:
        found, error = None, str(refused)
    assert "\n" not in error
    assert found is None or (found == asked and "allow_more" not in asked and asked.get("wall_seconds", 0) <= 2)


# --- who is answered --------------------------------------------------------------------------------------------------


def test_values_are_counted_without_the_signs_in_texts() -> None:
    body = b'{"items": [{"gold": ["[,{", {"a": [1, 2]}, [ ], {}], "response": "\\"[,,,"}]}'
    values = 11  # one less than body, items, item, gold, its text, object, a, 1, 2, list and object, and response
    assert len(parse(body, ServeLimits(num_values=values + 1), Offer(["exact"]))) == 1
    with pytest.raises(Refusal, match=f"more than {values} values"):
        parse(body, ServeLimits(num_values=values), Offer(["exact"]))


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "localhost@evil", "", "10.0.0.1", "[::2]"])
def test_a_foreign_host_is_refused_on_loopback(served: Served, host: str) -> None:
    for path in ("/", "/healthz", "/openapi.json"):
        answer = served.ask(path=path, headers={"host": host})
        assert answer.status_code == 400
        assert "Host" in answer.json()["error"]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:9999", "127.8.8.8", "[::1]:80", "localhost."])
def test_this_machines_own_names_are_no_foreign_hosts(served: Served, host: str) -> None:
    assert served.ask(path="/", headers={"host": host}).status_code == 200


def test_a_request_without_a_host_is_refused_on_loopback(served: Served) -> None:
    assert read_all(served.raw(b"GET / HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 400 ")


def test_a_token_is_asked_for_wherever_one_is_set(tmp_path: Path, deeds: list[str]) -> None:
    with Served(deeds, folder=tmp_path, env={"RLVR_TOKEN": TOKEN}) as served:
        body = {"verifier": deeds[0], "items": [{"gold": "", "response": "environment"}]}
        wrong = [
            {},
            {"authorization": "Bearer"},
            {"authorization": f"Bearer {TOKEN[:-1]}"},
            {"authorization": f"Bearer {TOKEN}x"},
            {"authorization": f"Basic {TOKEN}"},
            {"authorization": TOKEN},
            {"authorization": "Bearer é".encode("latin-1")},
            {"x-token": TOKEN.upper()},
            {"authorization": "Bearer wrong", "x-token": TOKEN},
        ]
        for headers in wrong:
            answer = served.ask(body, headers=headers)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            assert served.ask(path="/metrics", headers=headers).status_code == 401
        for headers in ({"authorization": f"Bearer {TOKEN}"}, {"authorization": f"bearer {TOKEN}"}, {"x-token": TOKEN}):
            answer = served.ask(body, headers=headers)
            assert answer.json()["verdicts"][0]["checks"] == {"token": None}, "verifiers must not inherit it"
            assert served.ask(path="/metrics", headers=headers).status_code == 200
        assert served.ask(path="/healthz").json() == {"alive": True, "ready": True, "why": ""}
        for pid in {served.pid, *served.descendants()}:
            assert TOKEN.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert TOKEN not in served.log.read_text()


def test_elsewhere_than_on_loopback_a_token_is_needed(tmp_path: Path) -> None:
    assert failed_start("--host", "0.0.0.0", "--port", "0") == (
        "rlvr: serving on 0.0.0.0, which is not loopback, needs a token: set RLVR_TOKEN or give --token-file\n"
    )
    assert "behind a proxy (--proxy) needs a token" in failed_start("--proxy", "127.0.0.1", "--port", "0")
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    with Served(["exact"], "--host", "0.0.0.0", "--token-file", str(file), folder=tmp_path) as served:
        answer = served.ask(path="/metrics", headers={"host": "verify.example", "x-token": TOKEN})
        assert answer.status_code == 200


@pytest.mark.slow
def test_a_start_that_cannot_be_right_ends_in_one_line(tmp_path: Path) -> None:
    assert "a token has 16 to 512 ASCII characters" in failed_start(RLVR_TOKEN="")
    assert "a token has 16 to 512 ASCII characters" in failed_start(RLVR_TOKEN="short")
    assert "No such file" in failed_start("--token-file", str(tmp_path / "none"))
    assert "did you mean 'rate'?" in failed_start("--limit", "rates=1")
    assert "must be NAME=WHOLE NUMBER" in failed_start("--limit", "rate=-1")
    assert "did you mean 'exact'?" in failed_start("-v", "exakt")
    assert "Name or service not known" in failed_start("--host", "no.such.host.invalid")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "Address already in use" in failed_start("--port", str(taken.getsockname()[1]))


@pytest.mark.slow
def test_each_client_has_a_rate(tmp_path: Path, deeds: list[str]) -> None:
    limits = {"num_items": 4, "burst": 10, "rate": 1}
    with Served(deeds, folder=tmp_path, limits=limits) as served:  # which has asked for /openapi.json: 9 are left
        item = {"gold": "1", "response": "1", "verifier": deeds[0]}
        assert len(served.verdicts(*[item] * 4)) == 4
        refused = served.ask({"items": [item] * 4})  # 1 for the request are left to take, 4 for its items not
        assert refused.status_code == 429
        seconds = int(refused.headers["retry-after"])
        assert 1 <= seconds <= 3
        assert served.ask(path="/healthz").status_code == 200, "a health check costs nothing"
        served.http.headers["x-forwarded-for"] = "203.0.113.9"
        assert served.ask({"items": [item] * 4}).status_code == 429, "what is not a proxy's word is not believed"
        time.sleep(seconds + 1)
        assert len(served.verdicts(*[item] * 2)) == 2
    proxied = ["--proxy", "127.0.0.1"]
    with Served(deeds, *proxied, folder=tmp_path, limits=limits, env={"RLVR_TOKEN": TOKEN}) as served:
        served.http.headers["x-token"] = TOKEN
        for address in ("203.0.113.9", "203.0.113.10", "203.0.113.9, 2001:db8::1"):
            served.http.headers["x-forwarded-for"] = address
            assert len(served.verdicts(*[item] * 4)) == 4
        served.http.headers["x-forwarded-for"] = "2001:db8::2"
        assert len(served.verdicts(*[item] * 4)) == 4
        assert served.ask({"items": [item] * 4}).status_code == 429, "its /64 network is one client"


def test_a_bucket_fills_by_the_clock_and_forgets_nobody_who_came_lately() -> None:
    now = [0.0]
    buckets = Buckets(rate=2, burst=10, clock=lambda: now[0])
    assert [buckets.take("a", count) for count in (6, 4, 1, 5)] == [0, 0, 1, 3]
    now[0] = 1.5  # 3 are there
    assert [buckets.take("a", count) for count in (4, 3, 1)] == [1, 0, 1]
    for number in range(4096):
        assert buckets.take(f"client {number}", 10) == 0
    assert buckets.take("client 4095", 1) == 1
    now[0] = 1e9
    assert [buckets.take("client 7", count) for count in (11, 10)] == [1, 0]
    assert [client_of(ip) for ip in ("192.0.2.1", "::ffff:192.0.2.1", "2001:db8:0:0:1::7", "fe80::1%eth0", "?")] == [
        "192.0.2.1",
        "192.0.2.1",
        "2001:db8::/64",
        "fe80::/64",
        "?",
    ]


def test_limits_that_make_no_sense_are_refused() -> None:
    for change, error in (
        ({"rate": 0}, "limit rate must be a whole number above 0, got 0"),
        ({"depth": True}, "limit depth must be a whole number above 0, got True"),
        ({"burst": 1024}, "burst must be above num_items"),
        ({"queue_items": 9}, "num_items must be at most queue_items"),
        ({"buffered_bytes": 9}, "body_bytes must be at most buffered_bytes"),
    ):
        with pytest.raises(SettingsError, match=error):
            ServeLimits(**change)


# --- what it says of itself -------------------------------------------------------------------------------------------


def test_the_description_is_whole_and_true(served: Served) -> None:
    text = json.dumps(served.description)
    for name in re.findall(r'"\$ref": "#/components/schemas/(\w+)"', text):
        assert name in served.description["components"]["schemas"]
    assert served.description["openapi"] == "3.1.0"
    assert served.description["info"]["x-limits"] == ServeLimits(rate=1000000, burst=1000000).as_dict()
    schemas = served.description["components"]["schemas"]
    told = [entry.name for entry in fields(Verdict) if entry.name != "stderr"]  # which may tell of the machine
    assert list(schemas["Verdict"]["properties"]) == ["id", *told]
    assert schemas["Batch"]["properties"]["verifier"]["anyOf"][0]["enum"] == ["boxed", "exact", "math"]
    for path, operations in served.description["paths"].items():
        for method in ("get", "post", "put", "delete", "patch"):
            status = served.http.request(method, path).status_code
            assert (status == 405) == (method not in operations), f"{method} {path}: {status}"


def test_the_counts_are_those_of_what_was_asked(tmp_path: Path, deeds: list[str]) -> None:
    with Served(deeds, folder=tmp_path) as served:
        name = deeds[0]
        served.verdicts(*({"gold": "1", "response": text} for text in ("1", "1", "2", "raise")), verifier=name)
        served.ask({"items": [{}]})
        served.ask({"items": 1})
        served.ask(path="/", headers={"host": "evil.example"})
        label = f'verifier="{name}"'
        assert served.metric(f'verdicts_total{{{label},outcome="correct"}}') == 2
        assert served.metric(f'verdicts_total{{{label},outcome="wrong"}}') == 1
        assert served.metric(f'verdicts_total{{{label},outcome="error"}}') == 1
        assert served.metric('verdicts_total{verifier="",outcome="error"}') == 1
        assert served.metric('requests_total{path="/v1/verify",status="200"}') == 2
        assert served.metric('requests_total{path="/v1/verify",status="422"}') == 1
        assert served.metric('refused_total{reason="fields"}') == 1
        assert served.metric('refused_total{reason="host"}') == 1
        assert served.metric(f"verdict_seconds_count{{{label}}}") == 4
        assert served.metric(f'verdict_seconds_bucket{{{label},le="+Inf"}}') == 4
        assert 0 < served.metric(f"verdict_seconds_sum{{{label}}}") < 4
        assert served.metric("in_flight_items") == 0
        assert served.metric("in_flight_requests") == 1
        assert served.metric("buffered_bytes") == 0
        page = served.ask(path="/metrics").text
        line = re.compile(r'# (HELP|TYPE) \w+ .+|\w+(\{(\w+="([^"\\\n]|\\.)*",?)+\})? [0-9.e+-]+')
        assert all(line.fullmatch(text) for text in page.splitlines())


def test_the_log_holds_no_text_of_a_response(served: Served) -> None:
    served.verdicts({"gold": "1", "response": "a text of mine", "id": "an id of mine"}, verifier="exact")
    served.http.get("/a-path-of-mine?query-of-mine")
    lines = served.log.read_text()
    assert " POST /v1/verify 200 1 items " in lines
    assert " GET other 404 " in lines
    assert "of mine" not in lines
    assert "of-mine" not in lines


def test_the_ready_line_names_the_address_and_the_verifiers(served: Served) -> None:
    assert served.line == f"rlvr serve verify: {served.url} (verifiers: math, boxed, exact)\n"


def test_the_page_shows_the_limits_as_they_are() -> None:
    page = (ROOT / "docs" / "SERVE.md").read_text()
    rows = [f"| `{entry.name}` | {entry.default} | {entry.metadata['help']} |" for entry in fields(ServeLimits)]
    assert "\n".join(["| limit | default | meaning |", "|---|---|---|", *rows]) in page


def test_the_page_lists_every_status_of_an_error() -> None:
    page = (ROOT / "docs" / "SERVE.md").read_text()
    (part,) = re.findall(r"\*\*A problem of the whole request\*\*.*?\n- ", page, re.DOTALL)
    assert {int(status) for status in re.findall(r"\b\d{3}\b", part)} == {*_REFUSALS, 404, 405}


# --- what is built on -------------------------------------------------------------------------------------------------


def test_the_parts_of_uvicorn_that_connections_build_on_are_there() -> None:
    """Where this fails, serve/web.py has to be read beside the new uvicorn, and its cap in pyproject.toml kept."""

    def parameters(function: Any) -> list[str]:
        return list(inspect.signature(function).parameters)

    overridden = {
        "connection_made": ["self", "transport"],
        "handle_events": ["self"],
        "on_response_complete": ["self"],
        "connection_lost": ["self", "exc"],
        "pause_writing": ["self"],
        "resume_writing": ["self"],
        "send_400_response": ["self", "msg"],
    }
    assert overridden.keys() <= vars(Connection).keys()
    for name, wanted in overridden.items():
        assert parameters(getattr(H11Protocol, name)) == wanted, name
        assert parameters(getattr(Connection, name)) == wanted, name
    source = inspect.getsource(h11_impl)
    for call in ("self.handle_events()", "self.send_400_response(", "on_response=self.on_response_complete"):
        assert call in source, f"uvicorn's H11Protocol no longer has {call}"
    connection = H11Protocol(uvicorn.Config(lambda: None, loop="asyncio"), ServerState(), {}, _loop=object())  # type: ignore[arg-type]
    assert isinstance(connection.connections, set)
    assert (connection.cycle, hasattr(connection, "transport"), hasattr(connection, "loop")) == (None, True, True)
    assert "response_complete" in inspect.getsource(h11_impl.RequestResponseCycle.__init__)
    assert parameters(uvicorn.Server.startup) == ["self", "sockets"]
    assert parameters(uvicorn.Server.capture_signals) == ["self"]
    assert "capture_signals()" in inspect.getsource(uvicorn.Server.serve)


@pytest.mark.slow
def test_the_page_runs_as_it_is_written(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "SERVE.md").read_text()
    curl, python = (re.findall(rf"```{kind}\n(.*?)```", page, re.DOTALL)[0] for kind in ("sh", "python"))
    with Served(["math"], folder=tmp_path, env={"RLVR_TOKEN": TOKEN}) as served:
        env = {**os.environ, "RLVR_TOKEN": TOKEN}
        for words in (["sh", "-c", curl], [sys.executable, "-c", python]):
            words[2] = words[2].replace("http://127.0.0.1:8766", served.url)
            done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True, env=env)
            assert '"score": 1.0' in done.stdout or "1.0 correct" in done.stdout


# --- many at once, and anything at all --------------------------------------------------------------------------------


def test_many_clients_at_once_get_the_verdicts_that_one_gets(served: Served) -> None:
    expected = direct(MIXED)

    def client(seed: int) -> None:
        order = list(range(len(MIXED))) * 3
        random.Random(seed).shuffle(order)
        for _ in range(5):
            # each under the number that it has in MIXED, which is part of its seed
            asked = [{**row, "id": index} for index, row in zip(order, rows([MIXED[k] for k in order]), strict=True)]
            found = served.verdicts(*asked)
            assert [timeless(verdict) for verdict in found] == [expected[index] for index in order]

    with concurrent.futures.ThreadPoolExecutor(12) as clients:
        for done in [clients.submit(client, seed) for seed in range(12)]:
            done.result()
    assert served.metric("in_flight_items") == 0
    assert served.metric("buffered_bytes") == 0


NAMES = st.sampled_from(["exact", "boxed", "os:system", "", "EXACT"])
WILD_ITEMS = st.fixed_dictionaries(
    {}, optional={"id": PLAIN, "response": PLAIN, "gold": PLAIN, "verifier": NAMES | PLAIN, "info": PLAIN}
)
WILD_BODIES = st.one_of(
    PLAIN,
    st.fixed_dictionaries(
        {}, optional={"verifier": NAMES | PLAIN, "items": st.lists(WILD_ITEMS | PLAIN, max_size=5) | PLAIN}
    ),
).map(lambda body: json.dumps(body).encode())
BROKEN_BODIES = st.tuples(WILD_BODIES, st.integers(0), st.binary(max_size=3)).map(
    lambda cut: cut[0][: cut[1] % (len(cut[0]) + 1)] + cut[2] + cut[0][cut[1] % (len(cut[0]) + 1) :]
)


@pytest.mark.slow
@given(body=st.one_of(st.binary(max_size=200), WILD_BODIES, BROKEN_BODIES))
@settings(max_examples=300, deadline=None)
def test_no_body_makes_it_fail(served: Served, body: bytes) -> None:
    answer = served.http.post("/v1/verify", content=body, headers={"content-type": "application/json"})
    served.check(answer)
    assert answer.status_code in (200, 400, 422)
    if answer.status_code == 200:
        items, verdicts = json.loads(body)["items"], answer.json()["verdicts"]
        assert len(verdicts) == len(items)
        for index, verdict in enumerate(verdicts):
            assert (verdict["score"] is None) == (verdict["outcome"] in ("error", "gold_invalid", "not_applicable"))
            if verdict["outcome"] == "error":
                assert verdict["reason"].startswith(f"items[{index}]")


TEXTS = st.text(st.characters(), max_size=20)
VALID_ITEMS = st.fixed_dictionaries(
    {"response": TEXTS, "gold": TEXTS | st.integers(-9, 9)},
    optional={
        "id": st.none() | TEXTS | st.integers(1 - 2**63, 2**63 - 1),
        "verifier": st.sampled_from([None, "exact", "boxed"]),
        "prompt": st.none() | TEXTS | st.lists(st.fixed_dictionaries({"role": TEXTS, "content": TEXTS}), max_size=2),
        "info": st.none() | st.dictionaries(TEXTS, st.integers() | TEXTS, max_size=2),
    },
)


@given(items=st.lists(VALID_ITEMS, max_size=4))
@settings(max_examples=100, deadline=None)
def test_what_the_description_allows_is_judged(served: Served, items: list[dict[str, Any]]) -> None:
    body = {"verifier": "exact", "items": items}
    served.valid(body, {"$ref": "#/components/schemas/Batch"})
    verdicts = served.verdicts(*items, verifier="exact")
    assert [verdict["id"] for verdict in verdicts] == [item.get("id") for item in items]
    assert "error" not in [verdict["outcome"] for verdict in verdicts]


def levels(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(levels, inner), default=0)


NESTED = st.recursive(
    st.text(st.sampled_from('[]{}"\\x'), max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.sampled_from('[{"\\'), max_size=3), inner),
    max_leaves=20,
)


@given(value=NESTED, depth=st.integers(1, 6))
def test_depth_is_counted_in_lists_and_objects_and_not_in_texts(value: Any, depth: int) -> None:
    raw = json.dumps(value).encode()
    with pytest.raises(Refusal) as refused:  # it holds no items, whatever its depth
        parse(raw, ServeLimits(depth=depth), Offer(["exact"]))
    assert ("nested deeper" in refused.value.message) == (levels(value) > depth)


def test_reading_hostile_bodies_takes_time_in_their_size() -> None:
    limits, offer = ServeLimits(), Offer(["exact"])
    size = 1 << 20
    for unit in (b"[", b'"', b'\\"', b'"\\"', b"[]", b"{}", b'{"":', b"[[[]]],", b"]", b'"[",', b"\\", b"1,", b"0"):
        for prefix in (b"", b'"', b"["):
            start = time.process_time()
            with pytest.raises(Refusal):
                parse((prefix + unit * (size // len(unit)))[:size], limits, offer)
            assert time.process_time() - start < 1, (prefix, unit)


def test_what_is_sent_by_two_is_judged_for_two(served: Served) -> None:
    """A second request on the same connection, sent before the first is answered, is answered second."""
    body = json.dumps({"verifier": "exact", "items": [{"gold": "1", "response": "1"}]}).encode()
    other = body.replace(b'"response": "1"', b'"response": "2"')
    start = b"POST /v1/verify HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
    data = start % len(body) + b"\r\n" + body + start % len(other) + b"Connection: close\r\n\r\n" + other
    answers = re.findall(rb'"score": (\S+),', read_all(served.raw(data)))
    assert answers == [b"1.0", b"0.0"]


def test_the_time_of_a_verdict_is_told(served: Served) -> None:
    verdict = served.verdicts({"gold": "1", "response": "1"}, verifier="exact")[0]
    assert math.isfinite(verdict["seconds"])
    assert 0 < verdict["seconds"] < 1


def test_an_interrupt_ends_it_as_a_request_to_end_does(tmp_path: Path) -> None:
    served = Served(["exact"], folder=tmp_path)
    assert served.end(signal.SIGINT) == 0
    with pytest.raises(httpx.ConnectError):
        served.http.get("/healthz")
