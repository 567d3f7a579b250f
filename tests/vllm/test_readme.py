"""The README's command for vLLM, as a user starts it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")


def scores(line: str, folder: Path) -> dict[str, Any]:
    folder.mkdir()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    done = subprocess.run(
        ["bash", "-c", line], cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    found = [*folder.glob("out/**/*_results.json")]
    assert len(found) == 1, done.stderr[-2000:]
    results: dict[str, Any] = json.loads(found[0].read_text())["results"]["whatsup_demo"]
    return results


def test_its_scores_are_those_without_the_engine(tmp_path: Path) -> None:
    (line,) = re.findall(r"^lmms-eval --model vllm.*$", README, re.MULTILINE)
    without = re.sub(r",gpu_memory\S+", " --batch_size 16", line.replace("--model vllm", "--model vlm"))
    assert scores(line, tmp_path / "engine") == scores(without, tmp_path / "without")
