"""lmms-eval's own command on the demo, in batches of 16 and one by one."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

COMMAND = ["-m", "lmms_eval", "--model", "llava_adaptvis", "--tasks", "whatsup_demo", "--verbosity", "DEBUG"]


def measure(rounds: int) -> dict[str, Any]:
    """Rows per second at both batch sizes, in turn."""
    rates = [(rows_per_second(16), rows_per_second(1)) for _ in range(rounds)]
    return {
        "batch 16": statistics.median(many for many, _ in rates),
        "batch 1": statistics.median(one for _, one in rates),
        "ratio": statistics.median(many / one for many, one in rates),
    }


def rows_per_second(batch_size: int) -> float:
    """What lmms-eval's results say of one run."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["--model_args", "pretrained=demo", "--batch_size", str(batch_size), "--output_path", folder]
        subprocess.run(
            [sys.executable, *COMMAND, *options],
            check=True,
            capture_output=True,
            env={"HF_HUB_OFFLINE": "1", **os.environ},
        )
        (results,) = Path(folder).glob("*/*_results.json")
        return float(json.loads(results.read_text(encoding="utf-8"))["throughput"]["avg_rows_per_second"])


def markdown(report: dict[str, Any]) -> str:
    """The report in a sentence."""
    return (
        f"`lmms-eval --model llava_adaptvis --tasks whatsup_demo` decodes {report['batch 16']:.0f} rows per second at "
        f"batch 16 and {report['batch 1']:.0f} at batch 1: a ratio of {report['ratio']:.1f}.\n"
    )
