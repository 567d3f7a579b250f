"""The VLMEvalKit adapter through the real command lines, on the embedded model and demo scenes."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.forked import IMPORTED, Forked, run

BIN = Path(sys.executable).parent
ROWS = 16
DATA = "WhatsUp_Demo"

KILLED_AFTER_THREE_ROWS = """
import os, signal
from adaptvis_plugin.cli import app
from adaptvis_plugin.vlmevalkit.trace import Trace

rows, add = 0, Trace.add

def add_and_count(self, lines):
    global rows
    add(self, lines)
    rows += len(lines)
    if rows == 3:
        os.kill(os.getpid(), signal.SIGKILL)

Trace.add = add_and_count
app()
"""
"""The command `adaptvis` in a process that is killed as soon as its third answer is on disk."""


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A home of its own: VLMEvalKit writes into it."""
    home = tmp_path_factory.mktemp("home")
    data = home / "LMUData"
    data.mkdir()
    own = {"HOME": str(home), "LMUData": str(data), "ADAPTVIS_CACHE": str(home / "tables")}
    return {**os.environ, **own, **IMPORTED}


def vlmeval(environment: dict[str, str], work_dir: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / "adaptvis"), "vlmeval", *arguments, "--work-dir", str(work_dir)]
    return run(command, environment)


def trace(work_dir: Path, model: str) -> list[dict[str, Any]]:
    path = work_dir / model / f"{model}_{DATA}_trace.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def metrics(work_dir: Path, model: str) -> dict[str, float]:
    status = json.loads((work_dir / model / "status.json").read_text())
    found: dict[str, float] = status["datasets"][DATA]["metrics"]
    return found


@pytest.fixture(scope="module")
def lmms_eval(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Forked, Path]:
    """The same model and data under lmms-eval, running beside the fixture `scored`, and its folder."""
    folder = tmp_path_factory.mktemp("lmms_eval")
    command: list[str | Path] = [BIN / "lmms-eval", "--model", "llava_adaptvis", "--tasks", "whatsup_demo"]
    command += ["--limit", str(ROWS), "--batch_size", "1", "--log_samples", "--output_path", folder]
    command += ["--model_args", "pretrained=demo"]
    return Forked(command, environment), folder


@pytest.fixture(scope="module")
def scored(
    environment: dict[str, str], lmms_eval: object, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """The three methods in one run: the folder, and what was printed."""
    folder = tmp_path_factory.mktemp("scored")
    models = ("demo_baseline", "demo_scalingvis", "demo_adaptvis")
    done = vlmeval(environment, folder, "--data", DATA, "--model", *models, "--limit", str(ROWS))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder, done.stdout + done.stderr


def test_every_method_is_scored_without_a_judge(scored: tuple[Path, str]) -> None:
    folder, printed = scored
    assert "VLMEvalKit ms-vlmeval" in printed
    summary = printed[printed.rindex("Run Summary Report") :]
    assert all(name in summary for name in ("Overall", "pair_acc", "set_acc", "strict_acc"))
    for model in ("demo_baseline", "demo_scalingvis", "demo_adaptvis"):
        (table,) = pd.read_csv(folder / model / f"{model}_{DATA}_acc.csv").to_dict("records")
        found = metrics(folder, model)
        assert table == pytest.approx(found)
        assert {"Overall", "pair_acc", "set_acc", "strict_acc", "rel_left", "rel_under", "test_strict_acc"} <= set(
            found
        )
        assert all(0 <= value <= 100 for value in found.values())
        assert len(pd.read_excel(folder / model / f"{model}_{DATA}.xlsx")) == ROWS


def test_importing_the_plugin_has_no_effect_and_the_summary_needs_none(
    scored: tuple[Path, str], environment: dict[str, str], tmp_path: Path
) -> None:
    code = """
import json, ssl, sys, torch
import adaptvis_plugin.cli, adaptvis_plugin.vlmevalkit.framework, adaptvis_plugin.vlmevalkit.registration
imported = [name for name in sys.modules if name.split(".")[0] == "vlmeval"]
effects = [not torch.is_grad_enabled(), ssl._create_default_https_context is ssl._create_unverified_context]
print(json.dumps([imported, effects]))
from vlmeval.smp import collect_run_benchmark_report
print(json.dumps(collect_run_benchmark_report(sys.argv[1])))
"""
    own = {**environment, "HOME": str(tmp_path)}
    command = [sys.executable, "-c", code, str(scored[0] / "demo_adaptvis")]
    done = run(command, own)
    assert done.returncode == 0, done.stderr[-3000:]
    before, report = map(json.loads, [line for line in done.stdout.splitlines() if line.startswith("[")])
    assert before == [[], [False, False]]
    (row,) = report
    assert row["primary_metric"] == "Overall"
    assert row["primary_metric_value"] == metrics(scored[0], "demo_adaptvis")["Overall"]


def test_confidence_and_alpha_of_every_row_are_kept(scored: tuple[Path, str]) -> None:
    folder, _ = scored
    alphas = {"demo_baseline": {1.0}, "demo_scalingvis": {0.8}, "demo_adaptvis": {0.5, 1.5}}
    plain = [row["confidence"] for row in trace(folder, "demo_baseline")]
    for model, allowed in alphas.items():
        rows = trace(folder, model)
        assert [row["index"] for row in rows] == list(range(ROWS))
        assert {row["alpha"] for row in rows} <= allowed
        assert [row["confidence"] for row in rows] == pytest.approx(plain, abs=1e-5)
    for row in trace(folder, "demo_adaptvis"):
        assert row["alpha"] == (0.5 if round(row["confidence"], 2) < 0.4 else 1.5)


def test_lmms_eval_gives_the_same_answers_and_scores(scored: tuple[Path, str], lmms_eval: tuple[Forked, Path]) -> None:
    process, folder = lmms_eval
    done = process.wait(timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    (results,) = folder.glob("*/*_results.json")
    (samples,) = folder.glob("*/*_samples_whatsup_demo.jsonl")
    other = sorted(map(json.loads, samples.read_text().splitlines()), key=lambda sample: sample["doc_id"])
    rows = trace(scored[0], "demo_adaptvis")
    assert [row["prediction"] for row in rows] == [sample["filtered_resps"] for sample in other]
    for row, sample in zip(rows, other, strict=True):
        counts = sample["token_counts"][0]
        assert row["confidence"] == pytest.approx(counts["confidence"], abs=1e-5)
        assert (row["alpha"], row["input_tokens"], row["output_tokens"]) == (
            counts["alpha"],
            counts["input_tokens"],
            counts["output_tokens"],
        )
    scores = json.loads(results.read_text())["results"]["whatsup_demo"]
    found = metrics(scored[0], "demo_adaptvis")
    names = {"Overall": "individual_acc"} | {n: n for n in found if n != "Overall" and not n.startswith("test_")}
    assert len(names) == 8
    assert {name: found[name] for name in names} == pytest.approx(
        {name: 100 * scores[f"{theirs},none"] for name, theirs in names.items()}
    )


def test_a_killed_run_goes_on_where_it_stopped(
    scored: tuple[Path, str], environment: dict[str, str], tmp_path: Path
) -> None:
    arguments = ["--data", DATA, "--model", "demo_adaptvis", "--limit", str(ROWS)]
    rows = tmp_path / "out" / "demo_adaptvis" / f"demo_adaptvis_{DATA}_trace.jsonl"
    command = [
        sys.executable,
        "-c",
        KILLED_AFTER_THREE_ROWS,
        "vlmeval",
        *arguments,
        "--work-dir",
        str(tmp_path / "out"),
    ]
    done = run(command, environment)
    assert done.returncode == -signal.SIGKILL, done.stdout[-3000:] + done.stderr[-3000:]
    before = rows.read_bytes()
    assert before.count(b"\n") == 3
    rows.write_bytes(before + b'{"index": 15, "predi')  # a kill may also come in the middle of a line

    # The second half under a source checkout, which has the runner at its top.
    spec = importlib.util.find_spec("vlmeval")
    assert spec is not None and spec.origin is not None
    package = Path(spec.origin).parent
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    (checkout / "vlmeval").symlink_to(package)
    (checkout / "run.py").write_bytes((package / "run.py").read_bytes())
    done = vlmeval({**environment, "VLMEVALKIT_ROOT": str(checkout)}, tmp_path / "out", *arguments)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert str(checkout) in done.stderr
    assert rows.read_bytes().startswith(before), "what was answered before the kill is not asked again"
    assert trace(tmp_path / "out", "demo_adaptvis") == trace(scored[0], "demo_adaptvis")
    assert metrics(tmp_path / "out", "demo_adaptvis") == metrics(scored[0], "demo_adaptvis")
