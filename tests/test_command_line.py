"""The real command lines, in processes of their own, as a user types them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from adaptvis_plugin.cli import app
from adaptvis_plugin.cli.errors import reported
from adaptvis_plugin.lmms_eval.results import RunError, newest, run_lmms_eval
from tests import forked

BIN = Path(sys.executable).parent
RECORDED = Path(__file__).parents[2] / "shared" / "reference" / "traces" / "Controlled_Images_A.jsonl"
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(BIN / command[0]), *map(str, command[1:])],
        env={**ENVIRONMENT, **environment},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def results(folder: Path, task: str = "whatsup_demo") -> dict[str, Any]:
    """The one results file: its absence is the only sign of failure that lmms-eval gives."""
    (file,) = folder.glob("*/*_results.json")
    scores: dict[str, Any] = json.loads(file.read_text())["results"][task]
    return scores


def samples(folder: Path) -> dict[int, dict[str, Any]]:
    (file,) = folder.glob("*/*_samples_whatsup_demo.jsonl")
    return {sample["doc_id"]: sample for sample in map(json.loads, file.read_text().splitlines())}


LMMS_EVAL: tuple[str | Path, ...] = ("--model", "llava_adaptvis", "--tasks", "whatsup_demo")
DEMO: tuple[str | Path, ...] = (
    "--model_args",
    "pretrained=demo",
    "--log_samples",
    "--limit",
    "32",
    "--batch_size",
    "8",
)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of lmms-eval, its answers cached."""
    folder = tmp_path_factory.mktemp("first")
    run("lmms-eval", *LMMS_EVAL, *DEMO, "--output_path", folder / "out", "--use_cache", folder / "cache")
    return folder


def test_lmms_eval_scores_the_demo(first: Path) -> None:
    scores = results(first / "out")
    for metric in ("individual_acc", "strict_acc", "pair_acc", "set_acc", "rel_left", "rel_on"):
        assert 0 <= scores[f"{metric},none"] <= 1
    assert scores["individual_acc_stderr,none"] not in (None, "N/A") or "individual_acc_stderr_clt,none" in scores
    for sample in samples(first / "out").values():
        counts = sample["token_counts"][0]
        assert sample["filtered_resps"] and 0 < counts["confidence"] <= 1 and counts["alpha"] in (0.5, 1.5)


def test_the_response_cache_answers_a_second_run(first: Path, tmp_path: Path) -> None:
    command = ["lmms-eval", *LMMS_EVAL, *DEMO, "--output_path", tmp_path / "out", "--use_cache", first / "cache"]
    done = forked.run(command, {**ENVIRONMENT, **forked.IMPORTED})
    assert results(tmp_path / "out") == results(first / "out")
    again = samples(tmp_path / "out")
    assert all(sample["token_counts"] == [None] for sample in again.values()), "a cache hit holds text only"
    assert "adaptvis decoding" not in done.stderr, "the model was asked although every answer was cached"


def test_the_models_are_listed() -> None:
    assert "llava_adaptvis" in run("lmms-eval", "models").stdout


def test_adaptvis_demo_tells_the_whole_story(tmp_path: Path) -> None:
    folder = tmp_path / "a folder [bold]"  # brackets are markup to the library that prints
    done = run("adaptvis", "demo", "--output-path", folder, COLUMNS="200")
    commands = [line for line in done.stdout.splitlines() if line.startswith("$ ")]
    assert [command.split()[1:3] for command in commands] == [
        ["adaptvis", "sweep"], ["adaptvis", "tune"], ["adaptvis", "compare"], ["lmms-eval", "--model"]
    ]  # fmt: skip
    assert all(f"'{folder}" in command for command in commands)
    assert "AdaptVis does not beat the plain model" in done.stdout and "so the preset keeps alpha 1" in done.stdout
    for shown in ("baseline", "adaptvis 0.5/1.5/0.4 (llava-1.5-7b)", "scalingvis 0.8 (llava-1.5-7b)",
                  "adaptvis 2/1/0.56", "calibrated batch (tuned)"):  # fmt: skip
        assert shown in done.stdout
    assert "adaptvis 1/1/0 (tuned): every row has alpha 1, so it is the baseline" in done.stderr
    assert (
        "So steering is not shown to change what this model gets right here, and the tuned preset keeps plain"
        in (done.stdout.splitlines()[-2])
    )
    score = results(folder / "llava_adaptvis", "whatsup_demo_test")["individual_acc,none"]
    assert f"lmms-eval's own run of it scores {100 * score:.2f}, as the sweep said." in done.stdout
    assert (folder / "report" / "report.html").is_file() and (folder / "tuned.yaml").is_file()
    assert f"The report: {folder}/report/report.html\n" in done.stdout


@pytest.mark.skipif(not RECORDED.is_file(), reason="needs the recorded runs")
def test_adaptvis_demo_on_a_recorded_trace(tmp_path: Path) -> None:
    done = run("adaptvis", "demo", "--trace", RECORDED, "--output-path", tmp_path, COLUMNS="200")
    assert "AdaptVis beats the plain model" in done.stdout and "84.85" in done.stdout and "86.36" in done.stdout
    assert "is not told apart from a correction of label bias" in " ".join(done.stdout.split())
    assert re.search(r"^adaptvis [\d./]+ \(tuned\)", done.stdout, re.M), "compare knows the task that tune wrote"
    assert (tmp_path / "report" / "report.html").is_file()


def test_the_demo_fails_where_one_of_its_commands_does(tmp_path: Path) -> None:
    (tmp_path / "broken.jsonl").write_text("nothing")
    done = CliRunner().invoke(app, ["demo", "--trace", str(tmp_path / "broken.jsonl"), "--output-path", str(tmp_path)])
    assert done.exit_code == 1 and "broken.jsonl" in done.stderr and "adaptvis compare" not in done.stdout


def test_a_run_that_fails_is_an_error_with_the_end_of_its_log(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"(?s)lmms-eval failed \(exit status 1\).*nothing") as caught:
        run_lmms_eval(["--model", "nothing", "--tasks", "whatsup_demo"], tmp_path / "log")
    assert str(tmp_path / "log") in str(caught.value)
    with pytest.raises(RunError, match=r"lmms-eval left no \*_results.json in"):
        newest(tmp_path, "*_results.json")


def test_an_error_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit), reported(ValueError):
        raise ValueError("there is no [bold] folder [/bold]")
    assert capsys.readouterr().err == "error: there is no [bold] folder [/bold]\n"
