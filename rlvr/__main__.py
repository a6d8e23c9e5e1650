"""Where the command starts: an interrupt while modules are imported ends it as quietly as one later on."""

from __future__ import annotations

import sys


def main() -> None:
    """rlvr ..."""
    try:
        from rlvr.cli import main as command
    except KeyboardInterrupt:
        sys.exit(130)
    command()


if __name__ == "__main__":
    main()
