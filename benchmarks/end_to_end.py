"""lmms-eval's own command on the demo, in batches of 16 and of 1."""

import json
import tempfile
from pathlib import Path
from typing import Any

from tqdm import tqdm

from adaptvis_plugin.lmms_eval.results import newest, run_lmms_eval
from benchmarks.measure import Settings

ARGUMENTS = ["--model", "llava_adaptvis", "--tasks", "whatsup_demo", "--model_args", "pretrained=demo"]


def measure(settings: Settings) -> dict[str, Any]:
    """Measure rows per second at both batch sizes. The demo has its own model, so no setting matters."""
    many, one = (rows_per_second(size) for size in tqdm((16, 1), desc="end to end", unit="run"))
    return {"batch 16": many, "batch 1": one, "ratio": many / one}


def rows_per_second(batch_size: int) -> float:
    """Run lmms-eval once, and read the rate from its results."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        run_lmms_eval([*ARGUMENTS, "--batch_size", str(batch_size), "--output_path", folder], log)
        results = newest(Path(folder), "*_results.json").read_text(encoding="utf-8")
        return float(json.loads(results)["throughput"]["avg_rows_per_second"])


def markdown(report: dict[str, Any]) -> str:
    """Return the figures as a sentence."""
    return (
        f"`lmms-eval --model llava_adaptvis --tasks whatsup_demo` decodes {report['batch 16']:.0f} rows per second at "
        f"batch 16 and {report['batch 1']:.0f} at batch 1: a ratio of {report['ratio']:.1f}.\n"
    )
