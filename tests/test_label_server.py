"""The label page's server: what people are given, what they may send, who may ask, and how it begins and ends."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from label_case import ROOT, Labelled, answer_to, pairs, write_rows

from rlvr.cli import main
from rlvr.feedback.app import Service, Settings, fill_board, token_of
from rlvr.feedback.items import load_items
from rlvr.feedback.leases import Board, Plan
from rlvr.feedback.records import Judgement, Span
from rlvr.feedback.schema import Draft, Event
from rlvr.feedback.statistics import statistics
from rlvr.feedback.store import Store
from rlvr.feedback.writer import Writer
from rlvr.reward_settings import PreferenceData

ONE = "11111111-2222-4333-8444-555555555555"
MODES = [
    {"id": "compare", "prompt": "p", "completions": ["aa", "bb"], "attributes": ["kind"]},
    {"id": "rank", "prompt": [{"role": "user", "content": "q"}], "completions": ["a", "b", "c"]},
    {"id": "rate", "prompt": "p", "completions": ["x", "y"], "mode": "rate"},
    {"id": "thumbs", "prompt": "p", "completion": "x"},
    {"id": "write", "prompt": "p", "draft": "almost"},
    {"id": "spans", "prompt": "p", "completions": ["😀bad", "good"], "mode": "spans"},
]
ANSWERS: dict[str, dict[str, Any]] = {
    "compare": {"ranking": [[1], [0]], "ratings": {"0": {"kind": 2}}},
    "rank": {"ranking": [[2], [0, 1]]},
    "rate": {"ratings": {k: {"helpful": 7, "correct": 1, "polite": 3.5, "safe": 4} for k in "01"}},
    "thumbs": {"thumbs": {"0": False}},
    "write": {"text": "done \x00 </script>"},
    "spans": {"spans": [{"completion": 1, "first": 1, "end": 4, "label": "toxic"}]},
}


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Labelled]:
    """Three pairs; answers by one person each."""
    with Labelled(tmp_path, write_rows(tmp_path, pairs(3))) as served:
        yield served


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Labelled]:
    """For tests that change nothing that others look at."""
    folder = tmp_path_factory.mktemp("busy")
    rows = write_rows(folder, [*pairs(40), *MODES])
    with Labelled(folder, rows, "--per-item", "9", "--repeat", "0", "--labels", "toxic,rude") as served:
        yield served


def answers(served: Labelled) -> dict[tuple[str, str, int], Any]:
    with Store.open(served.folder / "l.db", readonly=True) as store:
        return {(a.annotator, a.item, a.showing): a for a in store.answers()}


def kinds(served: Labelled) -> list[str]:
    with Store.open(served.folder / "l.db", readonly=True) as store:
        assert store.check_chain() == []
        return [event.kind for event in store.events() if event.kind != "item"]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """(exit code, what is said) of `rlvr label` where it does not begin."""
    with pytest.raises(SystemExit) as caught:
        main(["label", *arguments])
    said = capsys.readouterr()
    assert said.out == ""
    assert isinstance(caught.value.code, int)
    return caught.value.code, said.err


# --- what is asked and answered


def test_every_mode_is_asked_blind_and_its_answer_is_kept_by_index(busy: Labelled) -> None:
    eve, shown = busy.person("eve Ω"), {}
    while (item := eve.next()["item"]) is not None:
        given = ANSWERS.get(item["id"], {"ranking": [[0], [1]]})
        shown[item["id"]] = item
        assert "secret-model" not in json.dumps(item) and "info" not in item
        if item["id"] == "spans" and item["completions"][1] != "😀bad":
            given = {"spans": []}
        sent = eve.send(item, **given, seconds=1.25, comment=" well ")
        assert sent.status_code == 200, sent.text
    assert (shown["rank"]["mode"], shown["rank"]["prompt"]) == ("rank", [{"role": "user", "content": "q"}])
    assert (shown["write"]["completions"], shown["write"]["draft"]) == ([], "almost")
    assert shown["rate"]["attributes"] == ["helpful", "correct", "polite", "safe"]
    assert shown["rate"]["rating"] == {"low": 1, "high": 7}
    assert shown["spans"]["labels"] == ["toxic", "rude"]
    kept = {item: answer for (name, item, _), answer in answers(busy).items() if name == "eve Ω"}
    compare, rank = kept["compare"], kept["rank"]
    assert [("aa", "bb")[k] for k in compare.shown] == shown["compare"]["completions"]
    first, second = compare.shown
    assert compare.judgement == Judgement(ranking=((second,), (first,)), ratings={str(first): {"kind": 2}})
    a, b, c = rank.shown
    assert rank.judgement == Judgement(ranking=((c,), tuple(sorted((a, b)))))
    assert [("a", "b", "c")[k] for k in rank.shown] == shown["rank"]["completions"]
    assert kept["thumbs"].judgement == Judgement(thumbs={"0": False})
    assert kept["write"].judgement == Judgement(text="done \x00 </script>")
    bad = (Span(completion=0, first=1, end=4),) if shown["spans"]["completions"][1] == "😀bad" else ()
    assert kept["spans"].judgement == Judgement(spans=bad)
    assert (compare.seconds, compare.comment, compare.source) == (1.25, "well", "page")
    orders = {kept[f"i{k}"].shown for k in range(40)}
    assert orders == {(0, 1), (1, 0)}


def test_the_same_event_twice_is_one_answer_and_answers_the_same(fresh: Labelled) -> None:
    ann = fresh.person("ann")
    item = ann.next()["item"]
    first = ann.send(item, ONE, ranking=[[0], [1]])
    again = ann.send(item, ONE.upper(), ranking=[[0], [1]])
    assert (first.status_code, first.json()) == (again.status_code, again.json())
    assert first.json() == {"ok": True, "done": 1, "total": 3, "can_undo": True}
    other = ann.send(item, ONE, ranking=[[1], [0]])
    assert (other.status_code, other.json()["error"]) == (422, "event: this UUID was used for something else")
    assert kinds(fresh) == ["answer"]


class _Counted(Writer):
    num = 0
    """Drafts that were given to it."""

    async def append(self, draft: Draft) -> tuple[Event, bool]:
        self.num += 1
        return await super().append(draft)


@pytest.mark.parametrize("kind", ["answer", "undo"])
def test_one_uuid_of_two_people_at_once_is_of_the_first_alone(tmp_path: Path, kind: str) -> None:
    """In one process, so that both are on their way before anything is written: the database is held meanwhile."""

    async def run(store: Store, reader: Store, writer: _Counted) -> None:
        board = Board(store.keyed("order"), Plan(per_item=1, repeat=0))
        fill_board(board, store)
        service = Service(store, reader, writer, board, Settings())
        transport, headers = httpx.ASGITransport(app=service), {"x-token": token_of(store)}
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers) as http:

            async def send(name: str, kind: str, event: str | None = None) -> httpx.Response:
                body: dict[str, Any] = {"event": event or str(uuid.uuid4()), "kind": "undo"}
                if kind == "answer":
                    asked = (await http.get("/api/next", headers={"x-annotator": name})).json()["item"]
                    body = answer_to(asked, event, ranking=[[0], [1]])
                return await http.post("/api/event", json=body, headers={"x-annotator": name})

            if kind == "undo":
                assert [(await send(name, "answer")).status_code for name in ("ann", "bob")] == [200, 200]
            writer.num = 0
            with store._mutex:
                both = [asyncio.create_task(send(name, kind, ONE)) for name in ("ann", "bob")]
                while writer.num < 2:
                    await asyncio.sleep(0.01)
            sent = await asyncio.gather(*both)
            first, second = (0, 1) if sent[0].status_code == 200 else (1, 0)
            assert sent[first].status_code == 200
            assert (sent[second].status_code, sent[second].json()["error"]) == (
                422, "event: this UUID was used for something else"
            )  # fmt: skip
            names = ("ann", "bob")
            assert [a.annotator for a in store.answers()] == [names[first if kind == "answer" else second]]
            assert [board.num_done(name) for name in names] == [
                int(name == names[first if kind == "answer" else second]) for name in names
            ]
            # and who was refused goes on as if nothing had been sent
            assert (await send(names[second], "undo")).status_code == (409 if kind == "answer" else 200)
            assert (await send(names[second], "answer")).status_code == 200

    with Store.open(tmp_path / "l.db", create=True) as store, Store.open(tmp_path / "l.db", readonly=True) as reader:
        store.add_items(load_items(PreferenceData(path=write_rows(tmp_path, pairs(4)))).rows)
        writer = _Counted(store)
        try:
            asyncio.run(asyncio.wait_for(run(store, reader, writer), 30))
        finally:
            writer.end()
        assert store.check_chain() == []


def test_a_second_answer_of_a_person_takes_the_place_of_the_first(fresh: Labelled) -> None:
    ann = fresh.person("ann")
    item = ann.next()["item"]
    assert ann.send(item, ranking=[[0], [1]]).json()["done"] == 1
    assert ann.send(item, ranking=[[0, 1]]).json()["done"] == 1  # from another tab
    assert [a.judgement for a in answers(fresh).values()] == [Judgement(ranking=((0, 1),))]
    assert kinds(fresh) == ["answer", "answer"]


def test_undo_gives_the_last_item_first_with_what_was_said(fresh: Labelled) -> None:
    ann = fresh.person("ann")
    assert ann.undo().status_code == 409
    item = ann.next()["item"]
    ann.send(item, ranking=[[1], [0]], comment="hm")
    waiting = ann.next()["item"]["id"]
    told = ann.undo(ONE)
    assert (told.status_code, told.json()) == (200, {"ok": True, "done": 0, "total": 3, "can_undo": False})
    assert ann.undo(ONE).json() == told.json()
    asked = ann.next()["item"]
    assert asked["previous"] == {"ranking": [[1], [0]], "comment": "hm"}
    assert {**asked, "previous": None} == item
    assert answers(fresh) == {}
    assert ann.send(asked, ranking=[[0], [1]]).json()["done"] == 1
    assert ann.next()["item"]["id"] == waiting
    assert kinds(fresh) == ["answer", "undo", "answer"]


def test_the_reasons_to_skip_fit_what_is_asked(busy: Labelled) -> None:
    person, reasons = busy.person("reasons"), {}
    while (item := person.next()["item"]) is not None:
        reasons[item["mode"]] = item["reasons"]
        assert person.send(item, skipped=item["reasons"][0]).status_code == 200
    assert {mode: words[0] for mode, words in reasons.items()} == {
        "compare": "I cannot tell which is better",
        "rank": "I cannot tell which is better",
        "rate": "I cannot rate this",
        "thumbs": "I cannot tell whether this is good",
        "write": "I cannot write a good answer",
        "spans": "I cannot tell what to mark",
    }
    assert all(len(words) == 5 == len(set(words)) for words in reasons.values())


def test_a_skip_with_a_reason_sends_the_item_to_somebody_else(fresh: Labelled) -> None:
    ann, bob = fresh.person("ann"), fresh.person("bob")
    skipped = {ann.next()["item"]["id"]: ann.send(ann.next()["item"], skipped=" too hard ") for _ in range(3)}
    assert [sent.status_code for sent in skipped.values()] == [200] * 3
    assert (len(skipped), ann.next()["item"]) == (3, None)
    assert bob.next()["item"]["id"] in skipped
    assert [a.judgement.skipped for a in answers(fresh).values()] == ["too hard"] * 3


@pytest.mark.slow
def test_a_submit_after_the_lease_lapsed_counts_where_there_is_room_and_else_is_kept(tmp_path: Path) -> None:
    rows = write_rows(tmp_path, pairs(2))
    with Labelled(tmp_path, rows, "--lease-minutes", "0.005") as served:
        ann, bob = served.person("ann"), served.person("bob")
        mine = ann.next()["item"]
        taken: dict[str, Any] = {}
        while mine["id"] not in taken:
            other = bob.next()["item"]  # once ann's has lapsed, bob gets it too
            if other is not None and bob.send(other, ranking=[[0], [1]]).status_code == 200:
                taken[other["id"]] = other
        late = ann.send(mine, ONE, ranking=[[1], [0]])
        assert (late.status_code, late.json()["ok"]) == (409, False)
        assert late.json()["error"] == "others have answered this meanwhile; yours is kept, but does not count"
        assert ann.send(mine, ONE, ranking=[[1], [0]]).json() == late.json()
        assert ann.next()["item"] is None or ann.next()["item"]["id"] != mine["id"]
        assert {(name, item) for name, item, _ in answers(served)} == {("bob", item) for item in taken}
        assert kinds(served).count("late") == 1


def test_an_item_that_was_not_given_cannot_be_answered(fresh: Labelled) -> None:
    ann, bob = fresh.person("ann"), fresh.person("bob")
    item = ann.next()["item"]
    for changed in ({"id": "i9"}, {"showing": 1}, {"lease": "0" * 32}, {"lease": "é"}):
        sent = ann.send({**item, **changed}, ranking=[[0], [1]])
        assert (sent.status_code, sent.json()["error"]) == (422, "lease: that item was not given to you")
    assert bob.send(item, ranking=[[0], [1]]).status_code == 422
    assert kinds(fresh) == []


@pytest.mark.slow
def test_items_and_leases_outlive_a_new_start(tmp_path: Path) -> None:
    rows = write_rows(tmp_path, pairs(3))
    with Labelled(tmp_path, rows) as served:
        ann, token = served.person("ann"), served.token
        done = ann.next()["item"]
        ann.send(done, ranking=[[0], [1]])
        item = ann.next()["item"]
        assert served.end(signal.SIGTERM) == 0
    with Labelled(tmp_path) as served:
        assert (served.token, served.ready["items"]) == (token, 3)
        ann = served.person("ann")
        assert ann.get("/api/me").json()["done"] == 1
        assert ann.send(item, ranking=[[1], [0]]).json()["done"] == 2
        assert ann.undo().status_code == 200
        assert served.end(signal.SIGINT) == 0
    with Labelled(tmp_path, rows) as served:  # the same rows again are the same items
        asked = served.person("ann").next()
        assert (served.ready["items"], asked["done"], asked["item"]["id"]) == (3, 1, item["id"])
        assert asked["item"]["previous"] == {"ranking": [[1], [0]]}


@pytest.mark.slow
def test_twenty_people_at_once_get_each_item_to_so_many(tmp_path: Path) -> None:
    rows = write_rows(tmp_path, pairs(60))
    with Labelled(tmp_path, rows, "--per-item", "3", "--repeat", "0") as served:

        def work(k: int) -> int:
            person, num = served.person(f"p{k}"), 0
            while (item := person.next()["item"]) is not None:
                assert person.send(item, ranking=[[0], [1]]).status_code == 200
                num += 1
            return num

        with ThreadPoolExecutor(20) as pool:
            done = list(pool.map(work, range(20)))
        stood = answers(served)
        assert sum(done) == len(stood) == 180
        assert {sum(item == f"i{k}" for _, item, _ in stood) for k in range(60)} == {3}


@pytest.mark.slow
def test_golds_are_asked_of_everybody_and_nobody_is_told(tmp_path: Path) -> None:
    rows = write_rows(tmp_path, pairs(4))
    golds = write_rows(
        tmp_path, [{"id": "i1", "gold": {"best": 0}}, {**MODES[1], "gold": {"order": [[2], [1], [0]]}}], "golds.jsonl"
    )
    with Labelled(tmp_path, rows, "--gold", golds, "--repeat", "0") as served:
        asked: dict[str, list[str]] = {"ann": [], "bob": []}
        for name, ids in asked.items():
            person = served.person(name)
            while (item := person.next()["item"]) is not None:
                assert "gold" not in json.dumps(item)
                ids.append(item["id"])
                ranking = [[k] for k in range(len(item["completions"]))]
                assert person.send(item, ranking=ranking).status_code == 200
        assert set(asked["ann"]) == {"i0", "i1", "i2", "i3", "rank"}
        assert set(asked["bob"]) == {"i1", "rank"}
        with Store.open(tmp_path / "l.db", readonly=True) as store:
            assert store.item("i1").gold == Judgement(ranking=((0,), (1,)))


# --- people


@pytest.mark.slow
def test_each_has_a_link_of_their_own_and_the_token_says_who_it_is(tmp_path: Path) -> None:
    people = tmp_path / "people.csv"
    people.write_text("ann, nurses\n\nbob\n")
    guideline = tmp_path / "guide.md"
    guideline.write_text("# Be fair\n")
    rows = write_rows(tmp_path, pairs(3))
    with Labelled(tmp_path, rows, "--annotators", str(people), "--guideline", str(guideline)) as served:
        assert list(served.ready["links"]) == ["ann", "bob"]
        token = served.ready["links"]["ann"].partition("#")[2]
        ann = served.person("bob", token)  # what x-annotator says does not count
        me = ann.get("/api/me").json()
        assert (me["annotator"], me["is_shared"], me["guideline"]) == ("ann", False, "# Be fair\n")
        assert ann.send(ann.next()["item"], ranking=[[0], [1]]).status_code == 200
        assert [name for name, _, _ in answers(served)] == ["ann"]
        assert ann.get("/api/stats").status_code == 403
        forged = {"prompt": "p", "completion": "c", "thumb": True, "user": "bob"}
        told = served.post("/feedback", forged, **{"x-token": token})
        assert (told.status_code, "token of the database" in told.json()["error"]) == (403, True)
        assert [name for name, _, _ in answers(served)] == ["ann"]
        owner = served.person("ann")
        assert owner.get("/api/next").status_code == 403
        assert owner.get("/api/stats").status_code == 200
        with Store.open(tmp_path / "l.db", readonly=True) as store:
            assert store.groups() == {"ann": "nurses"}
            noted = [event for event in store.events() if event.kind == "guideline"]
            [answer] = [event for event in store.events() if event.kind == "answer"]
            assert [event.body["text"] for event in noted] == ["# Be fair\n"]
            assert answer.guideline == noted[0].guideline
        assert served.post("/feedback", {**forged, "user": "u7"}).json() == {"added": 1, "repeated": 0}
    with Labelled(tmp_path, "--annotators", "ann") as served:
        assert served.ready["links"]["ann"].partition("#")[2] == token


def test_who_shares_a_link_says_who_they_are(busy: Labelled) -> None:
    me = busy.person("Zoë, ℵ₀").get("/api/me").json()
    assert (me["annotator"], me["is_shared"], me["guideline"], me["done"]) == ("Zoë, ℵ₀", True, None, 0)
    assert me["app_version"]
    assert busy.http.get("/api/me", headers={"x-token": busy.token}).json()["annotator"] == "anonymous"
    for name, status in (("%ff", 400), ("a%00b", 400), ("x" * 101, 400), ("%20", 400)):
        told = busy.http.get("/api/me", headers={"x-token": busy.token, "x-annotator": name})
        assert told.status_code == status, name


# --- who may ask


@pytest.mark.parametrize("token", [None, "", "x", "0" * 43, "é"])
def test_without_the_token_nothing_is_told(busy: Labelled, token: str | None) -> None:
    headers = {"x-token": token.encode()} if token is not None else {}
    for method, path in (("GET", "/api/me"), ("GET", "/api/next"), ("GET", "/api/stats")):
        told = busy.http.request(method, path, headers=headers)
        assert (told.status_code, list(told.json())) == (401, ["error"])
    for path in ("/api/event", "/feedback"):
        told = busy.http.post(path, json={}, headers=headers)
        assert (told.status_code, list(told.json())) == (401, ["error"])


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "8.8.8.8", ""])
def test_a_foreign_host_is_refused_everywhere(busy: Labelled, host: str) -> None:
    for path in ("/", "/api/me", "/nothing"):
        told = busy.http.get(path, headers={"host": host, "x-token": busy.token})
        assert told.status_code == 400, path
    assert busy.http.get("/api/me", headers={"host": "localhost:9", "x-token": busy.token}).status_code == 200


def test_every_answer_bears_the_headers_that_keep_hostile_text_inert(busy: Labelled) -> None:
    policy = "default-src 'self'; img-src 'none'; object-src 'none'; base-uri 'none'; form-action 'none'; "
    for path, host in (
        ("/", "localhost"),
        ("/nothing", "localhost"),
        ("/api/next", "localhost"),
        ("/", "evil.example"),
    ):
        headers = busy.http.get(path, headers={"host": host}).headers
        assert headers["content-security-policy"] == policy + "frame-ancestors 'none'"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert headers["referrer-policy"] == "no-referrer"
        assert "server" not in headers and "access-control-allow-origin" not in headers


def test_the_page_is_served_without_a_token_and_nothing_else_is(busy: Labelled) -> None:
    page = busy.http.get("/")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert busy.http.get("/page.css").headers["content-type"] == "text/css; charset=utf-8"
    assert busy.http.head("/").status_code == 200
    for path in (
        "/../app.py",
        "/%2e%2e/app.py",
        "/app.py",
        "/page/index.html",
        "//etc/passwd",
        "/l.db",
        "/index.html%00",
    ):
        with socket.create_connection(("127.0.0.1", busy.port), timeout=10) as raw:
            raw.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            assert raw.makefile("rb").readline() == b"HTTP/1.1 404 Not Found\r\n", path
    assert busy.http.options("/api/event").status_code == 405
    assert busy.http.post("/api/next").status_code == 405


def test_only_json_of_a_sensible_size_is_read(busy: Labelled) -> None:
    for media in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        assert busy.post("/api/event", b"{}", **{"content-type": media}).status_code == 415
    assert busy.post("/api/event", b" " * (4 << 20) + b"{}").status_code == 413
    for body in (b"", b"{", b"\xff", b"[" * 1000, b'{"a": NaN}', b'{"a": 1e999}', b'{"event": "x", "event": "y"}'):
        told = busy.post("/api/event", body)
        assert (told.status_code, "\n" in told.json()["error"]) == (400, False), body


@pytest.mark.parametrize(
    ("judged", "why"),
    [
        ({}, "mode compare needs ranking"),
        ({"ranking": [[0], [0]]}, "ranking names completion 0 twice"),
        ({"ranking": [[0]]}, "does not name completion 1"),
        ({"ranking": [[0], [1], [2]]}, "names completion 2, and there are 2"),
        ({"ranking": [[0], [1.0]]}, "names completion 1.0"),
        ({"ranking": [[0], [True]]}, "names completion True"),
        ({"ranking": [[0], [-1]]}, "names completion -1"),
        ({"ranking": [[0], [[1]]]}, "names completion [1]"),
        ({"ranking": [[0], ["1"]]}, "names completion 1"),
        ({"ranking": [[], [0, 1]]}, "empty place"),
        ({"ranking": "0"}, "ranking must be a list of places"),
        ({"ranking": [0, 1]}, "ranking must be a list of places"),
        ({"ranking": [[10**400], [0]]}, "names completion 1000000"),
        ({"ranking": [[0, 1]], "text": "x"}, "mode compare has no text"),
        ({"ranking": [[0, 1]], "thumbs": {"0": True}}, "mode compare has no thumbs"),
        ({"ranking": [[0, 1]], "skipped": "x"}, "skipped, and ranking beside it"),
        ({"ranking": [[0, 1]], "ratings": {"0": {"kind": 8}}}, "must be a number from 1 to 7"),
        ({"ranking": [[0, 1]], "ratings": {"0": {"kind": True}}}, "must be a number from 1 to 7"),
        ({"ranking": [[0, 1]], "ratings": {"9": {"kind": 1}}}, "no completion '9'"),
        ({"ranking": [[0, 1]], "ratings": []}, "ratings must be an object"),
        ({"ranking": [[0, 1]], "ratings": {"0": 3}}, "ratings must be as"),
        ({"skipped": ""}, "skipped needs a reason"),
        ({"skipped": 3}, "skipped must be text"),
        ({"skipped": "x" * 2001}, "at most 2000"),
        ({"ranking": [[0, 1]], "seconds": -1}, "seconds must be a number from 0"),
        ({"ranking": [[0, 1]], "seconds": "1"}, "seconds must be a number"),
        ({"ranking": [[0, 1]], "seconds": 10**400}, "seconds must be a number"),
        ({"ranking": [[0, 1]], "comment": "\ud83d"}, "half a surrogate pair"),
        ({"ranking": [[0, 1]], "comment": None}, "comment must be text"),
        ({"ranking": [[0, 1]], "rankings": 1}, "has no field 'rankings'; did you mean 'ranking'?"),
        ({"ranking": [[0, 1]], "event": "1"}, "event must be a UUID"),
        ({"ranking": [[0, 1]], "kind": "delete"}, 'kind must be "answer" or "undo"'),
        ({"ranking": [[0, 1]], "showing": 2}, "item and lease must be the texts"),
        ({"ranking": [[0, 1]], "showing": True}, "item and lease must be the texts"),
        ({"ranking": [[0, 1]], "item": 3}, "item and lease must be the texts"),
    ],
)
def test_what_is_no_judgement_is_refused_in_one_line(busy: Labelled, judged: dict[str, Any], why: str) -> None:
    mal = busy.person("mal")
    while (item := mal.next()["item"])["id"] != "compare":
        assert mal.send(item, skipped="no").status_code == 200
    told = busy.post("/api/event", {**answer_to(item), **judged}, **{"x-annotator": "mal"})
    assert told.status_code == 422 and why in told.json()["error"] and "\n" not in told.json()["error"]


def test_all_there_is_to_say_has_to_be_said(busy: Labelled) -> None:
    pia = busy.person("pia")
    bad: dict[str, dict[str, Any]] = {
        "rate": {"ratings": {"0": {"helpful": 7, "correct": 1, "polite": 3, "safe": 4}}},
        "thumbs": {"thumbs": {"0": 1}},
        "write": {"text": "  "},
        "spans": {"spans": [{"completion": 0, "first": 0, "end": 1, "label": "vile"}]},
        "rank": {"ranking": [[0], [1]]},
    }
    refused = set()
    while (item := pia.next()["item"]) is not None:
        if item["id"] in bad:
            assert pia.send(item, **bad[item["id"]]).status_code == 422, item["id"]
            refused.add(item["id"])
        assert pia.send(item, skipped="no").status_code == 200
    assert refused == set(bad)


# --- from a deployed model


def test_feedback_of_a_deployed_model_comes_in_once(fresh: Labelled) -> None:
    rows = [
        {"id": "t1", "prompt": "p", "completion": "c", "thumb": True, "user": "u7", "model": "m", "time": "12:00"},
        {"prompt": [{"role": "user", "content": "hi"}], "completion": "c", "edit": "better", "checkpoint": 120},
        {"prompt": "p", "chosen": "good", "rejected": "bad", "rollout": "12/t/3"},
    ]
    assert fresh.post("/feedback", rows).json() == {"added": 3, "repeated": 0}
    again = [{**rows[0], "time": "12:01"}, *rows[1:], rows[0]]
    assert fresh.post("/feedback", again).json() == {"added": 0, "repeated": 4}
    assert fresh.post("/feedback", {**rows[0], "thumb": False}).json() == {"added": 1, "repeated": 0}
    clash = fresh.post(
        "/feedback", [{"prompt": "new", "completion": "c", "thumb": True}, {**rows[0], "completion": "d"}]
    )
    assert (clash.status_code, clash.json()["error"]) == (409, "id 't1' is there with another completions")
    stood = {item: answer for (_, item, _), answer in answers(fresh).items()}
    assert len(stood) == 3 and {a.source for a in stood.values()} == {"api"}
    assert (stood["api/t1"].annotator, stood["api/t1"].judgement) == ("u7", Judgement(thumbs={"0": False}))
    with Store.open(fresh.folder / "l.db", readonly=True) as store:
        items = [store.item(id) for id in stood]
        assert sorted((i.mode, i.completions) for i in items) == [
            ("compare", ("good", "bad")),
            ("thumbs", ("c",)),
            ("write", ("c",)),
        ]
        assert store.item("api/t1").info == {"user": "u7", "model": "m", "time": "12:00"}
        assert store.check_chain() == []
    assert fresh.person("u7").get("/api/me").json()["total"] == 3, "nobody is asked what came in answered"


def test_a_deployed_models_user_may_change_their_mind_and_back(fresh: Labelled) -> None:
    row = {"prompt": "p", "completion": "c", "user": 42}
    for thumb, added in ((True, 1), (False, 1), (False, 0), (True, 1)):
        told = fresh.post("/feedback", {**row, "thumb": thumb, "time": f"12:0{added}"}).json()
        assert told == {"added": added, "repeated": 1 - added}
    assert fresh.post("/feedback", {**row, "edit": "better"}).json()["added"] == 1
    assert fresh.post("/feedback", {**row, "thumb": True, "user": "43"}).json()["added"] == 1
    nobodys = [{"prompt": "p", "completion": "c", "thumb": thumb} for thumb in (True, False, True)]
    assert fresh.post("/feedback", nobodys).json() == {"added": 2, "repeated": 1}, "may be two people"
    stood = [(a.annotator, a.judgement.thumbs, a.judgement.text) for a in answers(fresh).values()]
    assert sorted(stood, key=str) == sorted(
        [
            ("42", {"0": True}, None),
            ("42", {}, "better"),
            ("43", {"0": True}, None),
            ("deployed", {"0": True}, None),
            ("deployed", {"0": False}, None),
        ],
        key=str,
    )
    with Store.open(fresh.folder / "l.db", readonly=True) as store:
        told = [item.info["user"] for item in store.items() if "user" in item.info]
    assert told == ["42", "42", "43"], "as the annotator is called, so that an export hashes it"


def test_a_deployed_models_choices_say_nothing_of_what_was_shown_first(fresh: Labelled) -> None:
    rows = [{"prompt": f"p{k}", "chosen": "good", "rejected": "bad", "user": "u"} for k in range(20)]
    assert fresh.post("/feedback", rows).json()["added"] == 20
    with Store.open(fresh.folder / "l.db", readonly=True) as store:
        found = list(store.answers())
        (person,) = statistics(list(store.items()), found)["people"]
    assert {a.shown for a in found} == {()}
    assert person["position"] is None and person["flags"] == []


@pytest.mark.parametrize(
    ("row", "status"),
    [
        ([], 422),
        ({"prompt": "p", "completion": "c"}, 422),
        ({"prompt": "p", "completion": "c", "thumb": 1}, 422),
        ({"prompt": "p", "completion": "c", "thumb": True, "edit": "x"}, 422),
        ({"prompt": "p", "chosen": "a", "rejected": "a"}, 422),
        ({"prompt": "p", "chosen": "a", "rejected": "b", "completion": "c"}, 422),
        ({"prompt": 3, "completion": "c", "thumb": True}, 422),
        ({"prompt": "p", "completion": "\ud83d", "thumb": True}, 422),
        ({"prompt": "p", "completion": "c", "thumb": True, "user": "a\nb"}, 422),
        ({"prompt": "p", "completion": "c", "thumb": True, "info": {}}, 422),
        ({"prompt": "p", "completion": "c", "thumb": True, "id": 1.5}, 422),
        ({"prompt": "p", "completion": "c", "edit": " "}, 422),
        ("text", 422),
        ([{"prompt": "p", "completion": "c", "thumb": True}] * 1001, 413),
    ],
)
def test_feedback_that_cannot_be_used_is_refused_in_one_line(busy: Labelled, row: Any, status: int) -> None:
    told = busy.post("/feedback", row)
    assert told.status_code == status and "\n" not in told.json()["error"]


# --- beginning and end


def test_what_cannot_begin_says_why_in_one_line(
    tmp_path: Path, fresh: Labelled, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = socket.getaddrinfo

    def no_network(host: str, *given: Any, **more: Any) -> Any:
        if host.endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return asked(host, *given, **more)

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    rows = str(tmp_path / "rows.jsonl")
    (tmp_path / "one.jsonl").write_text('{"prompt": "p", "completions": ["a"], "mode": "compare"}\n')
    new = str(tmp_path / "new.db")
    deep = "[" * 900 + "]" * 900
    (tmp_path / "deep.jsonl").write_text(f'{{"prompt": "p", "completions": ["a", "b"], "more": {deep}}}\n')
    (tmp_path / "deep.json").write_text("[" * 90_000)
    for arguments, code, why in (
        ([rows], 2, "label needs --db DB"),
        (["--db", new], 3, "no such database"),
        ([rows, "--db", str(tmp_path / "l.db"), "--port", "0"], 3, "is in use by another rlvr (process"),
        ([rows, "--db", new, "--port", str(fresh.port)], 2, "Address already in use; --port 0 takes a free port"),
        ([rows, "--db", new, "--host", "0.0.0.0", "--port", "0"], 2, "give --allow-remote where that is meant"),
        ([rows, "--db", new, "--annotators", "a,a"], 2, "must be different names"),
        (["--db", new, "--annotators", str(tmp_path)], 2, "is a folder; give a file of names"),
        (["--db", new, "--annotators", "people.csv"], 2, "--annotators people.csv: no such file"),
        (["--db", new, "--annotators", str(tmp_path / "people")], 2, "/people: no such file"),
        ([rows, "--db", new, "--host", "x" * 300], 2, "(300 characters) is no name or address of a machine"),
        ([rows, "--db", new, "--host", "a b"], 2, "--host 'a b' (3 characters) is no name"),
        ([rows, "--db", new, "--host", "a\x1b[31m\n"], 2, "is no name or address"),
        ([rows, "--db", new, "--host", "x" * 100], 2, "label"),
        (
            [rows, "--db", new, "--host", "127.0.0.1.example.invalid"],
            2,
            "--host 127.0.0.1.example.invalid --port 8765: Name or service not known",
        ),
        (
            [rows, "--db", new, "--port", "65536"],
            2,
            "Invalid value for '--port': Input should be less than or equal to 65535",
        ),
        ([rows, "--db", new, "--port", "-1"], 2, "'--port': Input should be greater than or equal to 0"),
        (
            [str(tmp_path / "deep.jsonl"), "--db", new],
            3,
            "deep.jsonl:1: column 'more' is nested deeper than 100 levels",
        ),
        ([str(tmp_path / "deep.json"), "--db", new], 3, "FILE: cannot read"),
        (["--db", new, "--annotators", ",".join(f"ann{k}@example.com" for k in range(20))], 3, "no such database"),
        ([rows, "--db", str(tmp_path / ("x" * 256)), "--port", "0"], 3, "File name too long"),
        ([str(tmp_path / ("x" * 256)), "--db", new], 3, "File name too long"),
        ([rows, "--db", new, "--gold", str(tmp_path / ("x" * 256))], 3, "File name too long"),
        ([rows, "--db", new, "--guideline", str(tmp_path / ("x" * 256))], 2, "File name too long"),
        ([rows, "--db", new, "--mode", "rnak"], 2, "did you mean 'rank'?"),
        ([rows, "--db", new, "--repeat", "nan"], 2, "--repeat must be from 0 to 0.5"),
        ([str(tmp_path / "one.jsonl"), "--db", new], 3, "mode compare needs 2 to 9 completions, got 1"),
        ([str(tmp_path / "none.jsonl"), "--db", new], 3, "no file or folder"),
        ([rows, "--db", str(tmp_path / "no" / "x.db"), "--port", "0"], 4, "No such file or directory"),
    ):
        found, said = refused(capsys, *arguments)
        assert found == code and why in said, (arguments, said)
        assert "Traceback" not in said and max(map(len, said.splitlines())) < 800, said


def test_a_changed_row_under_the_same_id_is_refused_and_the_database_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Store.open(tmp_path / "l.db", create=True) as store:
        store.add_items(load_items(PreferenceData(path=write_rows(tmp_path, pairs(2)))).rows)
    changed = [{**row, "completions": ["yes", "maybe"]} for row in pairs(2)]
    code, said = refused(capsys, write_rows(tmp_path, changed), "--db", str(tmp_path / "l.db"), "--port", "0")
    assert code == 3 and "item 'i0' is there with another completions" in said
    with Store.open(tmp_path / "l.db") as store:
        assert store.check_chain() == [] and len(list(store.items())) == 2


@pytest.mark.slow
def test_others_may_reach_it_only_where_that_was_said(tmp_path: Path) -> None:
    rows = write_rows(tmp_path, pairs(1))
    with Labelled(tmp_path, rows, "--host", "0.0.0.0", "--allow-remote", "--allow-host", "label.example") as served:
        assert socket.gethostname() in served.url
        with socket.create_connection(("127.0.0.1", served.port)) as raw:
            raw.sendall(b"GET /api/me HTTP/1.1\r\nHost: label.example\r\nConnection: close\r\n\r\n")
            assert raw.makefile("rb").readline().startswith(b"HTTP/1.1 401")
        with socket.create_connection(("127.0.0.1", served.port)) as raw:
            raw.sendall(b"GET /api/me HTTP/1.1\r\nHost: other.example\r\nConnection: close\r\n\r\n")
            assert raw.makefile("rb").readline().startswith(b"HTTP/1.1 400")


@pytest.mark.slow
def test_a_full_disk_is_told_and_answers_go_on_when_there_is_space(tmp_path: Path) -> None:
    """The server may write files of so many bytes: what is beyond them is a disk that is full."""
    import resource

    rows = write_rows(tmp_path, pairs(3))
    with Labelled(tmp_path, rows, "--repeat", "0") as served:
        ann = served.person("ann")
        item = ann.next()["item"]
        most = (tmp_path / "l.db-wal").stat().st_size + 1000
        resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
        full = ann.send(item, ONE, ranking=[[0], [1]])
        assert full.status_code == 503, full.text
        assert full.json()["error"] == (
            f"{tmp_path / 'l.db'}: could not be written: no file may have more than {most} bytes here (ulimit -f); "
            "nothing was written; try again when there is space"
        )
        assert ann.next()["item"] == item and ann.next()["done"] == 0
        assert served.process.poll() is None
        resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert ann.send(item, ONE, ranking=[[0], [1]]).json()["done"] == 1
        assert kinds(served) == ["answer"]
        assert served.log.read_text().count("\n") <= 2


@pytest.mark.slow
def test_a_disk_without_space_is_told_in_one_line_and_nothing_is_half_written(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this account cannot mount a disk of its own")
    try:
        rows = write_rows(tmp_path, pairs(300))
        with Labelled(disk, rows, "--repeat", "0", log=tmp_path / "log") as served:
            ann, sent = served.person("ann"), 0
            filler = disk / "filler"
            filler.write_bytes(b"x" * (shutil.disk_usage(disk).free - 60_000))
            while (told := ann.send(item := ann.next()["item"], ranking=[[0], [1]])).status_code == 200:
                sent += 1
            assert told.status_code == 503 and told.headers["retry-after"] == "5"
            assert told.json()["error"].endswith(
                "no space left on the disk; nothing was written; try again when there is space"
            )
            assert ann.next()["done"] == sent
            filler.unlink()
            assert ann.send(item, ranking=[[0], [1]]).json()["done"] == sent + 1
            assert kinds(served) == ["answer"] * (sent + 1)
        with Labelled(disk, log=tmp_path / "log") as served:
            assert served.person("ann").next()["done"] == sent + 1
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
def test_a_clock_that_jumps_changes_nothing(tmp_path: Path) -> None:
    """libfaketime is not here: sitecustomize makes time.time() and datetime.now() jump back and forth."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import time, datetime, itertools\n"
        "jumps = itertools.cycle([0, -10**8, 10**8, -10**9])\n"
        "real = time.time\n"
        "time.time = lambda: real() + next(jumps)\n"
        "class Now(datetime.datetime):\n"
        "    @classmethod\n"
        "    def now(cls, tz=None):\n"
        "        return cls.fromtimestamp(time.time(), tz)\n"
        "datetime.datetime = Now\n"
    )
    rows = write_rows(tmp_path, pairs(8))
    with Labelled(tmp_path, rows, "--repeat", "0", env={"PYTHONPATH": str(tmp_path / "site")}) as served:
        ann, bob = served.person("ann"), served.person("bob")
        for _ in range(4):
            for person in (ann, bob):
                assert person.send(person.next()["item"], ranking=[[0], [1]]).status_code == 200
        with Store.open(tmp_path / "l.db", readonly=True) as store:
            events = [event for event in store.events() if event.kind == "answer"]
        assert [event.annotator for event in events] == ["ann", "bob"] * 4
        assert sorted(event.at for event in events) != [event.at for event in events], "the clock did not jump"
        assert len(answers(served)) == 8 and kinds(served) == ["answer"] * 8


def test_statistics_are_told(fresh: Labelled) -> None:
    ann = fresh.person("ann")
    ann.send(ann.next()["item"], ranking=[[0], [1]])
    told = ann.get("/api/stats")
    assert told.status_code == 200, (told.text, fresh.log.read_text())
    assert isinstance(told.json(), dict) and told.json()


@pytest.mark.slow
def test_a_kill_in_the_middle_of_a_commit_loses_the_answer_and_one_after_it_does_not(tmp_path: Path) -> None:
    rows = write_rows(tmp_path, pairs(3))
    stood = []
    for place in ("feedback.commit", "feedback.committed"):
        Labelled(tmp_path, rows).end(signal.SIGTERM)  # so that the next start has nothing to write
        served = Labelled(tmp_path, env={"RLVR_FAILPOINT": f"{place}:kill"})
        ann = served.person("ann")
        item = ann.next()["item"]
        event = str(uuid.uuid4())
        with pytest.raises(Exception, match=r"(?i)disconnect|reset|closed"):
            ann.send(item, event, ranking=[[0], [1]])
        assert served.end(signal.SIGKILL) == -signal.SIGKILL
        stood.append(len(answers(served)))
        with Labelled(tmp_path) as again:
            assert again.person("ann").send(item, event, ranking=[[0], [1]]).status_code == 200
            stood.append(len(answers(again)))
            assert set(kinds(again)) == {"answer"}
    assert stood == [0, 1, 2, 2]


@pytest.mark.slow
def test_the_links_are_printed_for_people_too(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "rlvr", "label", write_rows(tmp_path, pairs(2)), "--db", str(tmp_path / "l.db")]
    process = subprocess.Popen(
        [*words, "--port", "0", "--annotators", "ann"], cwd=ROOT, stdout=subprocess.PIPE, text=True, env=os.environ
    )
    assert process.stdout is not None
    lines = [process.stdout.readline().split() for _ in range(3)]
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    process.stdout.close()
    assert lines[0][:6] == ["rlvr", "label:", "2", "items,", "0", "answers"]
    assert lines[1][0] == "ann" and lines[1][1].startswith("http://127.0.0.1:")
    assert lines[2][0] == "statistics" and "/stats#" in lines[2][1]
