"""The verifiers that may be asked for, and with which options."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from rlvr.errors import SettingsError
from rlvr.rewards.bound import lookup, option_problems, option_value, start_problem, trusted_gold, trusted_options

_PERMISSION = "allow_"
"""Options that begin so say what may be done to this machine."""
_UNITS = ("_seconds", "_mib", "_bytes")
"""Options that end so say how much of this machine may be used."""
_MOST_TOLD = 500
"""Characters of a message: a value may be as large as a body."""


class Offer:
    """What was named when the service was started. Nothing else can be asked for, and so nothing else is imported."""

    def __init__(self, verifiers: Sequence[str], options: Sequence[str] = (), *, leave_out: bool = False) -> None:
        """`options` are texts such as "python_tests.wall_seconds=30". SettingsError names those that are not right.

        So it does where a verifier cannot judge on this machine; with leave_out it is left out instead, and so is one
        whose golds are not a stranger's to give.
        """
        self._given: dict[str, dict[str, Any]] = {name: {} for name in verifiers}
        for text in options:
            left, _, value = text.partition("=")
            verifier, _, option = left.rpartition(".")
            if verifier not in self._given:
                raise SettingsError(f"--option {text}: must be VERIFIER.NAME=VALUE, of {', '.join(self._given)}")
            self._given[verifier][option] = option_value(value)
        problems = [
            problem
            for name, given in self._given.items()
            for problem in option_problems(name, given, f"--option {name}")
        ]
        self.left_out = (
            {}
            if problems
            else {
                name: told
                for name, given in self._given.items()
                if (told := start_problem(name, given) or (leave_out and trusted_gold(lookup(name))))
            }
        )
        """Why, by the name of each verifier that cannot be asked for here."""
        if problems or (self.left_out and not leave_out):
            raise SettingsError("\n".join(problems or self.left_out.values()))
        self.names = tuple(name for name in self._given if name not in self.left_out)
        self.defaults = {name: {**_defaults(name), **self._given[name]} for name in self.names}
        """Verifier -> all its options, as they are where a request says nothing."""

    def __contains__(self, verifier: object) -> bool:
        return verifier in self.defaults

    def options(self, verifier: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        """What the verifier is called with. SettingsError names, in one line, an option that cannot be asked for."""
        # these first: what an option names may be imported to be checked
        trusted = [name for name in asked if name.startswith(_PERMISSION) or name in trusted_options(lookup(verifier))]
        problems = [
            f"options.{name}: is not a request's to set, but of who runs the service (--option)" for name in trusted
        ]
        chosen = {**self._given[verifier], **asked}
        problems = problems or option_problems(verifier, chosen, "options")
        problems = problems or [text for name, value in asked.items() if (text := self._excess(verifier, name, value))]
        if problems:
            told = " ".join(problems[0].split())
            raise SettingsError(told if len(told) <= _MOST_TOLD else told[: _MOST_TOLD - 3] + "...")
        return chosen

    def _excess(self, verifier: str, name: str, value: Any) -> str:
        """Why a request may not have so much of it, though the verifier would take it."""
        most = self.defaults[verifier][name]
        if not (name.endswith(_UNITS) and isinstance(most, int | float)):
            return ""
        if isinstance(value, int | float) and value <= most:
            return ""
        return f"options.{name}: at most {most} here, got {value!r}; who runs the service can raise it (--option)"


def _defaults(verifier: str) -> dict[str, Any]:
    bound = lookup(verifier)
    parameters = inspect.signature(bound.function).parameters
    return {name: parameters[name].default for name in bound.options}
