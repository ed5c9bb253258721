"""How long does a user wait? `python -m benchmarks.speed.end_to_end` runs the main job as a user would, and times it.

First from an empty cache, then with another method and the bank cached; all in a temporary folder. The overhead is the
time that the second job took beyond the runs themselves, which the workers share.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent


def timed_grading(method: str, folder: str) -> tuple[float, dict[str, Any]]:
    """Seconds of `python main.py -m METHOD`, and its report."""
    environment = dict(os.environ)
    for name in ("BANK", "RESULTS", "CACHE"):
        environment[f"UNLEARNING_{name}"] = f"{folder}/{name.lower()}"
    command = [sys.executable, str(ROOT / "main.py"), "-m", method, "--json"]
    began = time.perf_counter()
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return time.perf_counter() - began, json.loads(done.stdout)


def main() -> None:
    """Print a table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        first, report = timed_grading("my_method", folder)
        second, other = timed_grading("noisy_finetune", folder)
    runs = other["grading"]["models"] * other["grading"]["originals"]
    inside = other["cost"]["runs_seconds_mean"] * runs / other["provenance"]["workers"]
    about = report["grading"]
    print(f"digits, N = {about['models']}, K = {about['originals']}, {report['provenance']['workers']} workers")
    print(f"my_method from an empty cache          {first:6.1f} s   (target: 16)")
    print(f"noisy_finetune, bank cached            {second:6.1f} s   (target: 6)")
    print(f"  of which {runs} runs                   {inside:6.1f} s")
    print(f"  overhead                             {second - inside:6.1f} s")


if __name__ == "__main__":
    main()
