"""People who label by the keyboard alone, in a real Chromium against the real server; answers are compared by value."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser_case import Labelled, Person, browsing, labelling, person

from rlvr.feedback.records import Judgement, Span

pytestmark = pytest.mark.slow
ONCE = ("--repeat", "0")


@pytest.fixture(scope="module", autouse=True)
def browser() -> Iterator[Any]:
    # not for the whole session: Playwright's loop runs in this thread until it ends, and other tests want theirs
    with browsing() as browser:
        yield browser


@pytest.fixture
def somebody(browser: Any) -> Iterator[Person]:
    with person(browser) as somebody:
        yield somebody


@pytest.fixture
def label(tmp_path: Path) -> Iterator[Callable[..., Labelled]]:
    with labelling(tmp_path) as start:
        yield start


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Labelled]:
    """Two items of four answers for each test that asks for nothing more, which is a person of its own."""
    with labelling(tmp_path_factory.mktemp("served")) as start:
        yield start([rank_row("q1"), rank_row("q2")], *ONCE, "--annotators", "p0,p1,p2,p3,p4", "--per-item", "9")


def rank_row(id: str, num: int = 4, **more: Any) -> dict[str, Any]:
    """Completion k deserves place num - k."""
    return {"id": id, "prompt": f"Question {id}", "completions": [f"worth {k}" for k in range(num)], **more}


def best_first(somebody: Person) -> list[str]:
    """The keys that rank what stands on the page by its worth."""
    worth = [int(text.split()[1]) for text in somebody.shown()]
    return [str(position + 1) for position in sorted(range(len(worth)), key=lambda position: -worth[position])]


def judgements(labelled: Labelled) -> dict[str, Judgement]:
    return {answer.item: answer.judgement for answer in labelled.answers()}


def test_a_person_without_a_mouse_ranks_twenty_items_of_four_answers(
    label: Callable[..., Labelled], somebody: Person
) -> None:
    labelled = label([rank_row(f"q{k}") for k in range(20)], *ONCE)
    somebody.open(labelled.link())
    orders = set()
    for num in range(20):
        assert somebody.text("#count") == f"{num} of 20 done, {20 - num} left"
        orders.add(tuple(somebody.shown()))
        somebody.submit(*best_first(somebody))
    assert "All 20 are done" in somebody.text("#done")
    answers = labelled.answers()
    assert sorted(answer.item for answer in answers) == sorted(f"q{k}" for k in range(20))
    assert all(answer.judgement == Judgement(ranking=((3,), (2,), (1,), (0,))) for answer in answers)
    assert {answer.annotator for answer in answers} == {"tester"}
    assert len(orders) > 5, "the order on the page is that of the file"
    assert all(0 < answer.seconds < 20 for answer in answers)
    assert somebody.problems == []


def test_each_mode_is_answered_by_keys_and_stored_as_meant(label: Callable[..., Labelled], somebody: Person) -> None:
    text = "You \N{GRINNING FACE} are a fool and a crook"
    rows = [
        {"id": "compare", "prompt": "1", "completions": ["yes", "no"], "mode": "compare"},
        {"id": "rank", "prompt": "2", "completions": ["a", "b", "c"], "mode": "rank"},
        {"id": "rate", "prompt": "3", "completions": ["a", "b"], "mode": "rate", "attributes": ["helpful", "witty"]},
        {"id": "both", "prompt": "4", "completions": ["a", "b"], "mode": "compare", "attributes": ["safe"]},
        {"id": "thumbs", "prompt": "5", "completions": ["a", "b"], "mode": "thumbs"},
        {"id": "write", "prompt": "6", "completions": [], "mode": "write"},
        {"id": "edit", "prompt": "7", "completions": ["A draught"], "mode": "write"},
        {"id": "spans", "prompt": "8", "completions": [text], "mode": "spans"},
        {"id": "skip", "prompt": "9", "completions": ["x", "y"], "mode": "compare"},
    ]
    labelled = label(rows, *ONCE)
    somebody.open(labelled.link())
    deeds = {str(k + 1): row["id"] for k, row in enumerate(rows)}
    for _ in rows:
        _answer(somebody, deeds[somebody.text("#prompt .text")])
    assert somebody.problems == []
    stored = judgements(labelled)
    reason = stored.pop("skip").skipped
    assert reason
    assert stored == {
        "compare": Judgement(ranking=((1,), (0,))),
        "rank": Judgement(ranking=((2,), (0, 1))),
        "rate": Judgement(ratings={"0": {"helpful": 7, "witty": 1}, "1": {"helpful": 2, "witty": 6}}),
        "both": Judgement(ranking=((0, 1),), ratings={"0": {"safe": 5}, "1": {"safe": 3}}),
        "thumbs": Judgement(thumbs={"0": True, "1": False}),
        "write": Judgement(text="Two lines:\nt u s 1"),
        "edit": Judgement(text="A draught, edited"),
        # places are counted in characters as Python counts them: the face is one
        "spans": Judgement(spans=(Span(completion=0, first=12, end=16), Span(completion=0, first=23, end=28))),
    }
    assert text[12:16] == "fool"
    assert text[23:28] == "crook"


def _answer(somebody: Person, id: str) -> None:
    shown = somebody.shown()
    key = {text: str(position + 1) for position, text in enumerate(shown)}
    if id == "compare":
        somebody.submit(key["no"])
    elif id == "rank":
        somebody.submit(key["c"], key["a"], "t")  # b is placed by itself, then ties with a
    elif id == "rate":
        somebody.submit(*"71" * (shown[0] == "a"), *"26", *"71" * (shown[0] == "b"))
    elif id == "both":
        somebody.submit("t", "r", *("53" if shown[0] == "a" else "35"))
    elif id == "thumbs":
        somebody.submit(*("yn" if shown[0] == "a" else "ny"))
    elif id in ("write", "edit"):
        before = somebody.done()
        if id == "write":
            somebody.page.keyboard.type("Two lines:\nt u s 1")
        else:
            somebody.press("Control+End")
            somebody.page.keyboard.type(", edited")
        somebody.press("Control+Enter")
        somebody.wait_done(before + 1)
    elif id == "spans":
        somebody.press("Home", *["ArrowRight"] * 12, *["Shift+ArrowRight"] * 4, "m")
        somebody.press("Control+End", "Control+ArrowLeft")
        somebody.submit("m")  # nothing is selected: the word at the cursor
    else:
        before = somebody.done()
        somebody.press("s", "1")
        somebody.wait_done(before + 1)


def test_in_a_text_field_the_line_of_keys_says_how_to_leave_it(
    label: Callable[..., Labelled], somebody: Person
) -> None:
    labelled = label([{"id": "w", "prompt": "W", "mode": "write"}], *ONCE)
    somebody.open(labelled.link())
    typing = "You are in the text field: Esc leaves it, so that keys act; Ctrl Enter submits."
    assert somebody.wait_text("#keys", "text field:") == typing
    somebody.page.keyboard.type("w")
    assert somebody.page.input_value("#text") == "w", "a key acts while one types"
    somebody.press("Escape")
    assert (
        somebody.wait_text("#keys", "Keys:") == "Keys: w into the text field, u undo, s skip, Enter submit, ? all keys."
    )
    somebody.press("w")
    assert somebody.wait_text("#keys", "You are") == typing
    somebody.page.keyboard.type("ell")
    assert somebody.page.input_value("#text") == "well"
    somebody.press("Escape", "c")
    assert somebody.wait_text("#keys", "You are") == typing
    somebody.press("Escape")
    somebody.wait_text("#keys", "Keys: w")
    somebody.submit()
    assert judgements(labelled) == {"w": Judgement(text="well")}
    assert somebody.problems == []


def test_an_empty_answer_is_said_to_be_empty_beside_its_text(label: Callable[..., Labelled], somebody: Person) -> None:
    rows = [
        {"id": "q", "prompt": "P", "completions": ["(empty)", ""], "mode": "compare"},
        {"id": "s", "prompt": "P", "completions": [" \n", "a"], "mode": "spans"},
    ]
    labelled = label(rows, *ONCE)
    somebody.open(labelled.link())
    for _ in rows:
        notes = somebody.page.eval_on_selector_all(
            ".answer",
            "all => all.map(one => ['.text', '.empty'].map(part => one.querySelector(part)?.innerText.trim() ?? ''))",
        )
        if somebody.text("#what").startswith("Which"):
            assert sorted(notes) == [["", "(empty: the model wrote nothing)"], ["(empty)", ""]]
            somebody.submit(str(1 + notes.index(["(empty)", ""])))
        else:
            assert sorted(notes) == [["", "(blanks alone: the model wrote no words)"], ["a", ""]]
            somebody.submit()
    assert judgements(labelled) == {"q": Judgement(ranking=((0,), (1,))), "s": Judgement(spans=())}
    assert somebody.problems == []


def test_undo_takes_back_choices_one_by_one_and_then_the_last_answer(served: Labelled, somebody: Person) -> None:
    somebody.open(served.link("p0"))
    first, keys = somebody.item(), best_first(somebody)
    somebody.press(*keys[:2])
    assert "third" not in somebody.text("#status")
    somebody.press("u")
    assert somebody.text("#status").endswith(f"Answer {'ABCD'[int(keys[0]) - 1]} is first.")
    somebody.submit(*keys[1:])
    somebody.press("u")  # nothing is chosen in the second item: the first comes back, as it was answered
    somebody.wait_done(0)
    assert somebody.item() == first
    assert somebody.text("#status").endswith(f"Answer {'ABCD'[int(keys[3]) - 1]} is fourth.")
    assert served.answers("p0") == []
    somebody.submit("u", *reversed(keys))
    assert [answer.judgement.ranking for answer in served.answers("p0")] == [((0,), (1,), (2,), (3,))]
    somebody.submit(*best_first(somebody))
    somebody.press("u")  # also from the last page
    somebody.wait_done(1)
    somebody.submit()
    assert sorted(answer.judgement.ranking[0] for answer in served.answers("p0") if answer.judgement.ranking) == [
        (0,),
        (3,),
    ]
    assert (served.num_events("undo", "p0"), served.num_events("answer", "p0")) == (2, 4)
    assert somebody.problems == []


def test_a_reload_in_the_middle_keeps_what_was_chosen_written_and_timed(
    label: Callable[..., Labelled], somebody: Person
) -> None:
    labelled = label([rank_row("q1"), {"id": "w", "prompt": "W", "completions": [], "mode": "write"}], *ONCE)
    somebody.open(labelled.link())
    for _ in range(2):
        if "W" in somebody.item():
            somebody.page.keyboard.type("half a sen")
            somebody.page.reload()
            somebody.wait_text("#status", "10 characters")
            somebody.press("Control+End")
            somebody.page.keyboard.type("tence")
            somebody.press("Control+Enter")
            somebody.wait_done(somebody.done() + 1)
            continue
        keys, shown = best_first(somebody), somebody.shown()
        somebody.press(keys[0], "t", keys[1])
        somebody.press("c")
        somebody.page.keyboard.type("close call")
        time.sleep(0.6)
        somebody.page.reload()
        somebody.wait_text("#status", "tie for first")
        assert somebody.shown() == shown
        assert somebody.page.input_value("#comment") == "close call"
        somebody.submit(keys[2])
    [ranked] = [answer for answer in labelled.answers() if answer.item == "q1"]
    assert (ranked.judgement, ranked.comment) == (Judgement(ranking=((2, 3), (1,), (0,))), "close call")
    assert ranked.seconds > 0.6
    assert judgements(labelled)["w"] == Judgement(text="half a sentence")
    assert somebody.problems == []


def test_what_is_being_written_stays_when_an_earlier_answer_is_taken_back(
    label: Callable[..., Labelled], somebody: Person
) -> None:
    labelled = label([{"id": id, "prompt": id, "completions": [], "mode": "write"} for id in ("w1", "w2")], *ONCE)
    somebody.open(labelled.link())
    somebody.page.keyboard.type("first")
    somebody.press("Control+Enter")
    somebody.wait_done(1)
    second = somebody.item()
    somebody.page.keyboard.type("half a sen")
    somebody.press("Escape", "u")
    somebody.wait_done(0)
    assert somebody.item() != second
    assert somebody.page.input_value("#text") == "first"
    somebody.press("Control+Enter")
    somebody.wait_done(1)
    assert somebody.item() == second
    assert somebody.page.input_value("#text") == "half a sen"
    assert somebody.problems == []


def test_an_answer_goes_out_as_who_gave_it_also_under_the_next_link(
    label: Callable[..., Labelled], somebody: Person
) -> None:
    labelled = label([rank_row("q1")], *ONCE, "--annotators", "alice,bob", "--per-item", "2")
    somebody.open(labelled.link("alice"))
    labelled.end()
    somebody.press(*best_first(somebody), "Enter")
    somebody.wait_text("#message", "nothing is lost")
    labelled.start()
    somebody.page.goto("about:blank")  # the same tab, and what it has stored
    somebody.open(labelled.link("bob"))
    somebody.submit(*reversed(best_first(somebody)))
    stored = {answer.annotator: answer.judgement.ranking for answer in labelled.answers()}
    assert stored == {"alice": ((3,), (2,), (1,), (0,)), "bob": ((0,), (1,), (2,), (3,))}


@pytest.mark.parametrize("place", ["feedback.commit", "feedback.committed"])
def test_a_server_that_is_killed_in_the_middle_of_a_submit_gets_the_answer_once(
    place: str, label: Callable[..., Labelled], somebody: Person
) -> None:
    labelled = label([rank_row("q1"), rank_row("q2")], *ONCE)
    somebody.open(labelled.link())
    keys = best_first(somebody)
    labelled.end()
    labelled.start({"RLVR_FAILPOINT": f"{place}:kill@2"})  # the first time it reads the file
    somebody.press(*keys, "Enter")
    assert labelled.process is not None
    assert labelled.process.wait(20) == -signal.SIGKILL
    somebody.wait_text("#message", "nothing is lost")
    stood = [answer.item for answer in labelled.answers()]
    assert len(stood) == (place == "feedback.committed")
    labelled.end()
    labelled.start()
    if place == "feedback.commit":
        somebody.page.reload()
    else:
        somebody.press("Enter")  # the page would try again by itself, some seconds later
    somebody.wait_done(1)
    [answer] = labelled.answers()
    assert answer.judgement == Judgement(ranking=((3,), (2,), (1,), (0,)))
    assert labelled.num_events("answer") == 1
    somebody.submit(*best_first(somebody))
    assert len(labelled.answers()) == 2


def test_two_people_with_links_of_their_own_answer_the_same_items(label: Callable[..., Labelled], browser: Any) -> None:
    rows = [rank_row(f"q{k}") for k in range(6)]
    labelled = label(rows, *ONCE, "--annotators", "alice,bob", "--per-item", "2")
    orders: dict[str, dict[str, list[str]]] = {"alice": {}, "bob": {}}
    with person(browser) as alice, person(browser) as bob:
        people = {"alice": alice.open(labelled.link("alice")), "bob": bob.open(labelled.link("bob"))}
        for _ in rows:
            for name, somebody in people.items():
                orders[name][somebody.item()] = somebody.shown()
                keys = best_first(somebody)
                somebody.submit(*(keys if name == "alice" else reversed(keys)))
        assert alice.problems + bob.problems == []
    stored = {(answer.annotator, answer.item): answer.judgement.ranking for answer in labelled.answers()}
    assert stored == {(name, f"q{k}"): order for k in range(6) for name, order in (
        ("alice", ((3,), (2,), (1,), (0,))), ("bob", ((0,), (1,), (2,), (3,))))}  # fmt: skip
    assert orders["alice"].keys() == orders["bob"].keys()
    assert orders["alice"] != orders["bob"], "each person has an order of his own"


def test_two_tabs_of_one_person_lose_nothing_and_count_nothing_twice(
    label: Callable[..., Labelled], somebody: Person
) -> None:
    labelled = label([rank_row(f"q{k}") for k in range(4)], *ONCE)
    somebody.open(labelled.link())
    other = Person(somebody.context, somebody.context.new_page()).open(labelled.link())
    for tab in (somebody, other, somebody, other, somebody, other, somebody, other):
        tab.page.bring_to_front()
        if tab.page.is_visible("#task"):
            item = tab.item()
            tab.press(*best_first(tab), "Enter")
            tab.wait(
                "(item) => document.querySelector('#prompt').innerText !== item || "
                "!document.getElementById('done').hidden",
                item,
            )
    assert sorted(answer.item for answer in labelled.answers()) == ["q0", "q1", "q2", "q3"]
    assert {answer.judgement.ranking for answer in labelled.answers()} == {((3,), (2,), (1,), (0,))}
    assert somebody.problems + other.problems == []


def test_no_key_acts_while_one_types_and_a_held_key_acts_once(served: Labelled, somebody: Person) -> None:
    somebody.open(served.link("p1"))
    somebody.press("c")
    somebody.page.keyboard.type("12t s?gu")
    somebody.press("Enter")
    assert somebody.text("#status").endswith("Nothing is chosen yet.")
    assert somebody.page.input_value("#comment") == "12t s?gu\n"
    somebody.press("Escape", "t")
    assert somebody.text("#status").endswith("All answers tie.")
    somebody.page.keyboard.down("Enter")
    somebody.wait_done(1)
    for _ in range(5):
        somebody.page.keyboard.down("Enter")  # a key that is held comes again and again
    somebody.page.keyboard.up("Enter")
    assert somebody.text("#status").endswith("Nothing is chosen yet.")
    assert [answer.judgement.ranking for answer in served.answers("p1")] == [((0, 1, 2, 3),)]


def test_an_incomplete_judgement_is_told_and_not_sent(served: Labelled, somebody: Person) -> None:
    somebody.open(served.link("p2"))
    somebody.press("2", "Enter")
    assert somebody.text("#message") == "Answers A, C and D have no place yet: press 1, 3 and 4, or s to skip."
    somebody.press("2")
    assert somebody.text("#message") == "Answer B has its place already; u takes the last choice back."
    assert served.answers("p2") == []


def test_time_away_from_the_page_is_not_counted(served: Labelled, somebody: Person) -> None:
    begun = time.monotonic()
    somebody.open(served.link("p4"))
    # a headless Chromium hides no tab: say that it is hidden, as the browser would
    state = "(state) => { Object.defineProperty(document, 'visibilityState', {value: state, configurable: true}); "
    state += "document.dispatchEvent(new Event('visibilitychange')); }"
    somebody.page.evaluate(state, "hidden")
    time.sleep(1.5)
    somebody.page.evaluate(state, "visible")
    somebody.submit(*best_first(somebody))
    [answer] = served.answers("p4")
    assert 0 < answer.seconds < time.monotonic() - begun - 1.4


def test_a_token_that_the_server_does_not_know_is_told_and_a_right_one_in_the_same_tab_goes_on(
    served: Labelled, somebody: Person
) -> None:
    somebody.open(served.url + "/#wrong-token")
    assert somebody.page.url == served.url + "/", "the token stays in the address"
    assert "open the newest link that `rlvr label` printed" in somebody.text("#message")
    assert not somebody.page.is_visible("#task")
    somebody.page.evaluate("sessionStorage.clear()")
    somebody.open(served.url + "/")
    assert "lacks its token" in somebody.text("#message")
    somebody.page.goto(served.link("p3"))  # only what stands behind the # differs: nothing is loaded anew
    somebody.page.wait_for_selector("#task:not([hidden])")
    assert somebody.text("#message") == ""
    assert "#" not in somebody.page.url
