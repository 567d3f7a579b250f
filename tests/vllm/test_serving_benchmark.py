"""The benchmark of the engine runs, and compares what it says."""

import json
import re
import subprocess
import sys
from pathlib import Path


def test_it_compares_both_ways_with_more_and_more_rows(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "serving", "--shape", "small", "--rounds", "1"]
    done = subprocess.run([*command, "--output", str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads((tmp_path / "benchmarks.json").read_text())["serving"]
    assert list(report["rows"]) == ["1", "2", "4", "8", "16"]
    for found in report["rows"].values():
        assert list(found) == ["vllm_baseline", "vllm_adaptvis", "vlm_adaptvis"]
        assert found["vllm_baseline"]["time / vllm_baseline"] == 1
        assert all(figure > 0 for figures in found.values() for figure in figures.values())
    written = (tmp_path / "benchmarks.md").read_text()
    assert len(re.findall(r"^\| vllm_adaptvis \|", written, re.MULTILINE)) == 3, "a line in each table"
