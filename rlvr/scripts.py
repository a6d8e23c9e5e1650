"""What the scripts of recipes/ share: each chains stages, every stage a `rlvr` process of its own."""

from __future__ import annotations

import argparse
import subprocess
import sys


def arguments(description: str | None, *, has_quick: bool = False) -> argparse.Namespace:
    """The command line as .overrides ["key=value", ...], and .quick where has_quick; to be asked before anything is
    removed. Ends the process where a word is no setting, and for --help.

    description: the script's docstring.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if has_quick:
        parser.add_argument("--quick", action="store_true", help="a few steps of each stage")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings over the recipe's")
    given = parser.parse_args()
    wrong = [word for word in given.overrides if "=" not in word]
    if wrong:
        parser.error(f"{wrong[0]!r} is no setting: write key=value")
    return given


def rlvr(*words: str) -> None:
    """`rlvr WORDS...` in a process of its own; ends this one with its exit code where that is not 0."""
    code = subprocess.run([sys.executable, "-m", "rlvr", *words]).returncode
    if code:
        sys.exit(code)
