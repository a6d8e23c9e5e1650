"""Names lead to objects, or to a message that says what would be right."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from rlvr import plugins
from rlvr.errors import PluginError
from rlvr.plugins import find, known, load, register, verifier


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Names claimed here are gone afterwards; those of modules of ours stay, which register once, when imported."""
    registered = dict(plugins._registered)
    monkeypatch.setattr(plugins, "_registered", registered)
    yield
    ours = {key: registered[key] for key in registered if key[0] == "verifier" and key[1] in plugins._BUILT_IN[key[0]]}
    monkeypatch.undo()
    plugins._registered.update(ours)


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """plugin(text) writes mine.py into an empty current directory."""
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> str:
        Path("mine.py").write_text(text)
        return "mine.py"

    return write


def test_a_verifier_is_found_by_its_name_with_version_and_timeout() -> None:
    @verifier("roman", version="7", timeout=0.5)
    def roman(response: str) -> bool:
        return response == "XIV"

    assert find("verifier", "roman") is roman
    assert (roman.verifier_name, roman.verifier_version, roman.verifier_timeout) == ("roman", "7", 0.5)
    assert (roman.verifier_wall_seconds, roman.verifier_isolation) == (None, "worker")
    assert "roman" in known("verifier")
    assert roman("XIV") is True


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"timeout": 0}, "timeout must be a number of seconds above 0, got 0"),
        ({"timeout": "1"}, "timeout must be a number of seconds above 0, got '1'"),
        ({"timeout": True}, "timeout must be a number of seconds above 0, got True"),
        ({"timeout": float("nan")}, "timeout must be a number of seconds above 0, got nan"),
        ({"wall_seconds": -1.0}, "wall_seconds must be a number of seconds above 0, got -1.0"),
        ({"wall_seconds": float("inf")}, "wall_seconds must be a number of seconds above 0, got inf"),
        ({"isolation": "threads"}, "isolation must be one of worker, thread; did you mean 'thread'? got 'threads'"),
        ({"isolation": None}, "isolation must be one of worker, thread; got None"),
        ({"version": 2}, 'version must be text, such as "1", got 2'),
        ({"version": ""}, "version must be text, such as \"1\", got ''"),
    ],
)
def test_a_declaration_that_is_not_right_is_told_in_one_line(declared: dict[str, Any], message: str) -> None:
    with pytest.raises(PluginError) as caught:
        verifier("roman", **declared)
    assert str(caught.value) == f"verifier 'roman': {message}"


def test_a_file_whose_declaration_is_not_right_says_so(plugin: Callable[[str], str]) -> None:
    plugin("from rlvr import verifier\n@verifier('late', timeout=-1)\ndef f(response): ...\n")
    with pytest.raises(PluginError) as caught:
        find("verifier", "mine.py:f")
    assert str(caught.value) == "verifier 'late': timeout must be a number of seconds above 0, got -1"


def test_built_in_verifiers_are_known_before_they_are_loaded() -> None:
    assert {"math", "boxed", "exact"} <= set(known("verifier"))
    assert find("verifier", "boxed").verifier_name == "boxed"


@pytest.mark.parametrize("name", list(plugins._BUILT_IN["verifier"]))
def test_every_built_in_module_registers_its_name(name: str) -> None:
    assert find("verifier", name).verifier_name == name


def test_an_unknown_name_is_answered_with_the_nearest_and_all_known() -> None:
    with pytest.raises(PluginError) as caught:
        find("verifier", "boxd")
    assert str(caught.value).startswith("no verifier named 'boxd'; did you mean 'boxed'? known: boxed, ")
    with pytest.raises(PluginError) as caught:
        find("verifier", "zzz")
    assert str(caught.value).startswith("no verifier named 'zzz'; known: boxed, ")
    assert str(caught.value).endswith(" (or package.module:name, or file.py:name)")
    assert caught.value.exit_code == 2


def test_two_objects_cannot_have_one_name() -> None:
    def one() -> None: ...

    def two() -> None: ...

    register("verifier", "mine", one)
    register("verifier", "mine", one)  # a module that is imported twice claims the same
    with pytest.raises(
        PluginError, match=r"^verifier 'mine' is already taken by .*<locals>\.one .*two .* another name$"
    ):
        register("verifier", "mine", two)
    assert find("verifier", "mine") is one


def test_names_of_different_kinds_do_not_meet() -> None:
    register("verifier", "same", len)
    register("tracker", "same", max)
    assert (find("verifier", "same"), find("tracker", "same")) == (len, max)
    assert known("tracker") == ["same"]


def test_a_path_leads_into_a_module_or_a_file(plugin: Callable[[str], str]) -> None:
    assert load("json:dumps", what="x").__name__ == "dumps"
    assert load("os.path:join", what="x")("a", "b") == "a/b"
    plugin("from dataclasses import dataclass\n@dataclass\nclass A:\n    x: int = 3\n")
    assert load("mine.py:A", what="x")().x == 3
    assert find("verifier", "./mine.py:A") is load("mine.py:A", what="x")  # one file is one module


def test_files_of_the_same_name_are_two_modules(plugin: Callable[[str], str]) -> None:
    plugin("X = 1\n")
    Path("other").mkdir()
    Path("other/mine.py").write_text("X = 2\n")
    assert (load("mine.py:X", what="x"), load("other/mine.py:X", what="x")) == (1, 2)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nothing", "data 'nothing' must be package.module:name or file.py:name"),
        (":name", "data ':name' must be package.module:name or file.py:name"),
        ("mine.py:", "data 'mine.py:' must be package.module:name or file.py:name"),
        ("mine.py:taks", "data 'mine.py:taks': mine.py has no 'taks'; did you mean 'tasks'?"),
        ("mine.py:zzz", "data 'mine.py:zzz': mine.py has no 'zzz'"),
        ("json:decoderr", "data 'json:decoderr': json has no 'decoderr'; did you mean 'decoder'?"),
        ("no_such_package.x:y", "data: cannot import 'no_such_package.x': ModuleNotFoundError: "
         "No module named 'no_such_package'"),
        (".x:y", "data: cannot import '.x': TypeError: the 'package' argument is required to perform a relative "
         "import for '.x'"),
    ],
)  # fmt: skip
def test_a_path_that_leads_nowhere_says_why(plugin: Callable[[str], str], path: str, message: str) -> None:
    plugin("def tasks(): ...\n")
    with pytest.raises(PluginError) as caught:
        load(path, what="data")
    assert str(caught.value) == message


def test_a_missing_file_is_told_with_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PluginError) as caught:
        load("mine.py:f", what="data")
    assert str(caught.value) == f"data: no file mine.py (seen from {tmp_path})"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1/0\n", "verifier: cannot import mine.py: ZeroDivisionError: division by zero"),
        ("import no_such\n", "verifier: cannot import mine.py: ModuleNotFoundError: No module named 'no_such'"),
        ("def (:\n", "verifier: cannot import mine.py: SyntaxError: "),
    ],
)
def test_a_file_that_fails_is_told_in_one_line_and_tried_anew(
    plugin: Callable[[str], str], text: str, message: str
) -> None:
    plugin(text)
    before = set(sys.modules)
    with pytest.raises(PluginError) as caught:
        find("verifier", "mine.py:f")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is not None
    assert not any(name.startswith("rlvr_plugin_mine") for name in set(sys.modules) - before)
    plugin("def f(): return 5  # mended\n")
    assert find("verifier", "mine.py:f")() == 5


def test_packages_offer_verifiers_by_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [
        metadata.EntryPoint("theirs", "json:dumps", "rlvr.verifiers"),
        metadata.EntryPoint("broken", "no_such_package:f", "rlvr.verifiers"),
    ]

    def entry_points(*, group: str, name: str | None = None) -> list[metadata.EntryPoint]:
        return [e for e in entries if e.group == group and name in (None, e.name)]

    monkeypatch.setattr(metadata, "entry_points", entry_points)
    assert {"theirs", "broken", "math"} <= set(known("verifier"))
    assert find("verifier", "theirs").__name__ == "dumps"
    with pytest.raises(
        PluginError, match=r"^verifier 'broken': cannot import 'no_such_package:f': ModuleNotFoundError: "
    ):
        find("verifier", "broken")
