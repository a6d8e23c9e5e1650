"""Python processes of ours."""

from __future__ import annotations

import os
from pathlib import Path

import rlvr


def surroundings(**more: str) -> dict[str, str]:
    """This process's environment variables and `more`, such that `python -m rlvr...` finds this very package."""
    home = str(Path(rlvr.__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, **more}
