"""The Prefect server that a command brings along."""

import os
import subprocess
import sys

START = """
import sys
from pathlib import Path
from flows.prefect_api import temporary_api
with temporary_api(Path(sys.argv[1])) as api:
    api.ready()
"""


def test_two_that_start_at_once_in_a_new_folder_both_answer(tmp_path):
    env = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    both = [subprocess.Popen([sys.executable, "-c", START, tmp_path / "new"], env=env) for _ in range(2)]
    assert [process.wait(300) for process in both] == [0, 0]
