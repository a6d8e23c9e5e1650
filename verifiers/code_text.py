r"""Finds the program that a response commits to.

Thinking is never looked at: what counts stands behind the last `</think>`, and there is nothing while a `<think>` is
open. Then, by `extract`:

    fence      the last complete fence whose tag is python, py, python3 or none and whose content parses; where the
               tests ask for names, the last of those that defines one of them
    whole      the response itself is the program
    continue   the task's prompt is the beginning of the program, the response its rest

Fences are CommonMark's: a line of at least three backticks or tildes and a tag opens one; a line of at least as many of
the same sign alone closes it; what stands between is text, other fences too. Both may be indented by any number of
blanks (an answer within a list), which are taken off the lines between. A fence that is not closed is not complete.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from rlvr.types import Message, Outcome
from rlvr.verifiers.answer_text import after_thinking

Extract = Literal["fence", "whole", "continue"]

MOST_BYTES = 64 << 10
"""UTF-8 bytes of a program."""
TAGS = frozenset({"", "python", "py", "python3"})
"""In upper or lower case."""
_MOST_FENCES = 16
"""Of the allowed tags, counted from the end, that are looked at: to parse hostile text is not linear."""
_OPENS = re.compile(r"([ \t]*)(`{3,}(?=[^`]*\Z)|~{3,})[ \t]*\{?\.?([^\s{},:;]*)")
_CLOSES = re.compile(r"[ \t]*(`{3,}|~{3,})[ \t\r]*\Z")


@dataclass(frozen=True, slots=True)
class Program:
    """Program("def f(x):\\n    return x\\n", "fence")"""

    source: str
    how: Extract


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a response holds no program: Refused("no_answer", "the response has no complete code fence")"""

    outcome: Outcome
    """no_answer, malformed, too_complex; error where the task is not one that can be asked that way."""
    reason: str


def extract_code(
    response: str,
    extract: Extract = "fence",
    *,
    names: Collection[str] = (),
    prompt: str | Sequence[Message] = "",
) -> Program | Refused:
    """The program of a response. `names` are those the tests ask for, `prompt` is the task's (extract: continue)."""
    text = after_thinking(response)
    if text is None:
        return Refused("no_answer", "the response is still thinking when it ends")
    if extract == "fence":
        return _from_fences(text, names)
    if not text.strip():
        return Refused("no_answer", "the response is empty")
    if extract == "continue":
        if not isinstance(prompt, str):
            return Refused("error", "extract: continue needs a prompt of plain text, and this task's is a conversation")
        text = prompt + text
    problem = _problem(text)
    return problem if isinstance(problem, Refused) else Program(text, extract)


def parsed(source: str) -> ast.Module | str:
    """The module as the interpreter reads it, or one sentence on why it cannot. Time is bounded by its caller."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except (RecursionError, MemoryError):
        return "it is nested too deeply"
    except UnicodeEncodeError:
        return "it holds half a surrogate pair, which is no valid text"
    except SyntaxError as error:
        return f"{error.msg} (line {error.lineno})" if error.lineno else str(error.msg)
    except ValueError as error:  # NUL bytes, in some versions
        return str(error)


def defined_names(module: ast.Module) -> set[str]:
    """Names that the module's own statements define: functions, classes, imports, variables; under if and try too."""
    found: set[str] = set()
    waiting: list[ast.AST] = [module]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)  # what is inside is not the module's
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.alias):
            found.add((node.asname or node.name).partition(".")[0])
        if not isinstance(node, ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
            waiting.extend(ast.iter_child_nodes(node))
    return found


def fences(text: str) -> Iterator[tuple[str, str]]:
    """(tag, content) of the complete fences, in order. One pass: hostile text costs its length."""
    mark, tag, indent = "", "", ""
    lines: list[str] = []
    for line in text.split("\n"):
        if not mark:
            # the search for the end of a line of blanks must not start again from each of them
            opening = _OPENS.match(line) if "```" in line or "~~~" in line else None
            if opening is not None:
                indent, mark, tag = opening[1], opening[2], opening[3].lower()
                lines = []
            continue
        closing = _CLOSES.match(line) if mark[:3] in line else None
        if closing is not None and closing[1].startswith(mark):
            yield tag, "".join(f"{held}\n" for held in lines)
            mark = ""
        else:
            lines.append(_less(line, indent))


def _less(line: str, indent: str) -> str:
    """The line without as many of its leading blanks as stood before the fence."""
    start = 0
    while start < len(indent) and line[start : start + 1] in (" ", "\t"):
        start += 1
    return line[start:]


def _from_fences(text: str, names: Collection[str]) -> Program | Refused:
    allowed = [content for tag, content in fences(text) if tag in TAGS]
    if not allowed:
        return Refused("no_answer", "the response has no complete code fence that is tagged python or not at all")
    first_problem: Refused | None = None
    fallback: str | None = None
    for content in reversed(allowed[-_MOST_FENCES:]):
        module = _problem(content)
        if isinstance(module, Refused):
            first_problem = first_problem or module
        elif not module.body:  # nothing but comments and blanks parses too
            first_problem = first_problem or Refused("malformed", "the code fence is empty")
        elif not names or not defined_names(module).isdisjoint(names):
            return Program(content, "fence")
        elif fallback is None:
            fallback = content
    if fallback is not None:
        return Program(fallback, "fence")
    assert first_problem is not None
    return first_problem


def _problem(source: str) -> ast.Module | Refused:
    size = len(source.encode("utf-8", "surrogatepass"))
    if size > MOST_BYTES:
        return Refused("too_complex", f"the program has {size} bytes, and at most {MOST_BYTES} are read")
    module = parsed(source)
    return Refused("malformed", f"the program does not parse: {module}") if isinstance(module, str) else module
