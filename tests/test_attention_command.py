"""`adaptvis attention` as a user runs it, and `attention()` in a script, on the demo model."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from adaptvis_plugin.analysis import attention
from adaptvis_plugin.attention.plan import read_captured
from adaptvis_plugin.attention.record import AttentionError
from adaptvis_plugin.attention.store import AttentionStore
from adaptvis_plugin.cli import app
from adaptvis_plugin.data.demo.rows import demo_boxes, demo_rows
from adaptvis_plugin.decoding import AdaptVis, ScalingVis
from adaptvis_plugin.models.arguments import ModelArguments
from adaptvis_plugin.models.loading import load_model
from adaptvis_plugin.traces import read_traces

TASK = "whatsup_demo"
ROWS = 16
RUN = ["--model-args", "pretrained=demo", "--tasks", TASK, "--batch-size", "4", "--limit", str(ROWS)]
SETTINGS = ["--setting", "scalingvis:0.8", "--setting", "adaptvis:0.5/1.5/0.7"]


def adaptvis(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, ["attention", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


def refusal(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, ["attention", *map(str, arguments)], env={"COLUMNS": "1000"})
    assert result.exit_code == 2, result.output
    return result.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed when it had written some rows, and finished by the same command."""
    folder = tmp_path_factory.mktemp("attention") / "out"
    command = [sys.executable, "-m", "adaptvis_plugin.cli", "attention", *RUN, *SETTINGS, "-o", str(folder)]
    trace = folder / f"{TASK}.jsonl"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as process:
        while process.poll() is None and (not trace.exists() or trace.read_text().count("\n") < 3):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert 0 < len(AttentionStore(folder / "attention" / TASK).doc_ids) < ROWS
    said = adaptvis(*RUN, *SETTINGS, "-o", folder, "--pictures", "3", "--json", folder / "found.json")
    assert f"The report: {folder / 'index.html'}" in said.replace("\n", "")
    return folder


def test_everything_is_there_once_after_a_run_was_killed(folder: Path) -> None:
    store = AttentionStore(folder / "attention" / TASK)
    assert store.doc_ids == tuple(range(ROWS))
    assert store.header.conditions == ("1.0", "0.5", "0.8", "1.5", "constant 1.0")
    sweep, control = ({t.header.method: t for t in read_traces([folder]) if t.header}[m] for m in ("sweep", "constant"))
    assert [row.doc_id for row in sweep.rows] == [row.doc_id for row in control.rows] == list(range(ROWS))
    for ending in ("index.html", "attention.md", "1-whatsup_demo-layers.csv", "1-whatsup_demo-image.svg", "found.json"):
        assert (folder / ending).stat().st_size > 0
    assert list((folder / "overlays").glob("*.png"))


def test_the_figures_are_those_of_the_weights(folder: Path) -> None:
    """The share on the image, and on the named objects' boxes, computed from the captured weights by hand."""
    [captured] = [one for one in read_captured([folder]) if one.store]
    assert captured.store is not None and [*captured.controls] == [1.0]
    records = list(captured.store.rows())
    shares = np.mean([r.weights[0].astype(float)[..., r.image].sum(-1).mean(-1) for r in records], 0)
    layers = pd.read_csv(folder / "1-whatsup_demo-layers.csv")
    own = layers[(layers.run == "plain") & (layers.measure == "image_share")].sort_values("layer")
    np.testing.assert_allclose(own.value, shares, atol=1e-3)

    overlap = pd.read_csv(folder / "1-whatsup_demo-overlap.csv")
    row = records[3]
    assert row.places is not None
    weights = row.weights[0, -1].astype(float).mean(0)[row.image]
    question = demo_rows()[3]["question"]
    boxes = np.array([box for name, box in demo_boxes()[3].items() if name in question])
    left, top, right, bottom = row.places.box.T
    middle = [(left + right) / 2, (top + bottom) / 2]
    within = np.any(
        [(b[0] < middle[0]) & (middle[0] < b[2]) & (b[1] < middle[1]) & (middle[1] < b[3]) for b in boxes], 0
    )
    found = overlap[
        (overlap.run == "plain") & (overlap.doc_id == 3) & (overlap.layer == captured.store.header.layers[-1])
    ]
    # Whole columns by their middle are near the exact areas.
    assert float(found.overlap.iloc[0]) == pytest.approx(weights[within].sum() / weights.sum(), abs=0.2)


def test_the_answers_are_those_of_a_sweep_and_every_run_is_scored(folder: Path) -> None:
    [found] = json.loads((folder / "found.json").read_text())
    assert found["runs"] == ["plain", "constant 1.0", "scalingvis 0.8", "adaptvis 0.5/1.5/0.7"]
    assert found["rows"] == ROWS and found["unmapped"] == 0
    assert {*found["objects"]["by_layer"]} == {*found["runs"]}
    sentences = " ".join(found["sentences"])
    for words in ("of the prompt's tokens", "attention sink", "the drawn scenes' own boxes", "only more attention?"):
        assert words in sentences


def test_a_folder_is_reported_again_without_a_model_and_a_trace_alone_shows_familiarity(
    folder: Path, tmp_path: Path
) -> None:
    said = adaptvis(folder, *SETTINGS, "-o", tmp_path / "again", "--boxes", "none", "--pictures", "2")
    assert "no boxes were given" in " ".join(said.split())
    assert (tmp_path / "again" / "index.html").exists()
    alone = tmp_path / "alone.jsonl"
    alone.write_bytes((folder / f"{TASK}.jsonl").read_bytes())
    said = " ".join(adaptvis(alone, "-o", tmp_path / "trace").split())
    assert "on the image" not in said and "Confidence" in said
    assert (tmp_path / "trace" / "familiarity.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["--model-args and --tasks", "folders and traces"]),
        (["--tasks", TASK], ["--model-args and --tasks"]),
        ([*RUN, "--constants", "0"], ["--constants 0", "none"]),
        ([*RUN, "--constants", "x"], ["--constants='x'", "finite number"]),
        ([*RUN, "--setting", "baseline"], ["baseline", "scalingvis or adaptvis"]),
        ([*RUN, "--setting", "scalingvis:x"], ["scalingvis:x"]),
        ([*RUN, "--boxes", "cocoa:x.json"], ["--boxes 'cocoa:x.json'", "coco:"]),
        ([*RUN, "--boxes", "yolo:/nowhere"], ["/nowhere"]),
        ([*RUN, "--layers", "9"], ["layer 9", "0 to 3"]),
        ([*RUN, "--layers", "x"], ["layers='x'"]),
        (["--model-args", "pretrained=demo", "--tasks", "whatsup_dmo"], ["whatsup_dmo", "whatsup_demo"]),
        (["/nowhere"], ["/nowhere"]),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_captured(
    arguments: list[str], words: list[str], tmp_path: Path
) -> None:
    said = refusal(*arguments, "-o", tmp_path / "out")
    assert all(word in said for word in words), said
    assert not (tmp_path / "out" / "attention").exists()


def test_other_settings_need_another_folder(folder: Path) -> None:
    said = refusal(*RUN, "--setting", "scalingvis:2", "-o", folder)
    assert "another folder" in said


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    return load_model(ModelArguments(method="baseline", pretrained="demo"))


def test_a_loaded_model_gives_arrays_a_table_and_maps_in_pixels(folder: Path, loaded: tuple[Any, Any]) -> None:
    rows = demo_rows()[:3]
    questions = [(row["image"], row["question"]) for row in rows]
    found = attention(*loaded, questions, batch_size=2)
    assert found.weights.shape == (3, 4, 4, found.image.shape[1]) and found.weights.dtype == np.float16
    np.testing.assert_allclose(found.weights.astype(float).sum(-1), 1, atol=5e-3)
    assert {*found.table.columns} >= {"row", "layer", "head", "image_share", "entropy", "top_share"}
    share = found.table.groupby(["row", "layer"]).image_share.mean().to_numpy().reshape(3, 4)
    for layer in found.layers:
        for row, one in enumerate(found.maps(layer)):
            assert one.shape == rows[row]["image"].size[::-1]
            assert one.sum() == pytest.approx(share[row, layer], abs=5e-3)
    steered = attention(*loaded, questions, ScalingVis(0.5))
    assert {*steered.alpha.tolist()} == {0.5} and not np.array_equal(steered.weights, found.weights)
    np.testing.assert_allclose(steered.confidence, found.confidence, atol=1e-5)


def test_a_loaded_model_refuses_what_is_not_there(loaded: tuple[Any, Any]) -> None:
    with pytest.raises(AttentionError, match="there is no question"):
        attention(*loaded, [])
    row = demo_rows()[0]
    found = attention(*loaded, [(row["image"], row["question"])], AdaptVis(0.5, 1.5, 0.4))
    with pytest.raises(AttentionError, match="layer 7: there is attention in the layers 0, 1, 2, 3"):
        found.maps(7)
    with pytest.raises(AttentionError, match="head 4: the layers have the heads 0 to 3"):
        found.maps(0, 4)
