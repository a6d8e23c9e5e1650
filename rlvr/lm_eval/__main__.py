"""`python -m rlvr.lm_eval` prints the folder of our task files, for lm_eval --include_path."""

from __future__ import annotations

import sys

from rlvr.lm_eval.task_file import FOLDER

sys.stdout.write(f"{FOLDER}\n")
