"""Layers, heads and the constant on every surface: lmms-eval, sweeps and their traces, `tune` and `compare`."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from adaptvis_plugin.comparison.sources.traced import read_trace_runs
from adaptvis_plugin.traces import TraceError
from adaptvis_plugin.traces.reading import read_trace
from tests.framework_runs import adaptvis
from tests.test_compare import mostly_left, runs_of
from tests.test_compare import refused as compare_refuses
from tests.test_lmms_eval import evaluate, rows
from tests.test_sweep import DEMO, sweep
from tests.trace_files import write_sweep
from tests.tune_helpers import simulated, write_trace

ROWS = 16
PLACES = {"layers": "1-2"}
FILE = "whatsup_demo.jsonl"


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two layers."""
    folder = tmp_path_factory.mktemp("swept")
    done = sweep(*DEMO, "--limit", ROWS, "--alphas", "0.5,2", "--layers", "1-2", "-o", folder)
    assert done.exit_code == 0, done.output
    return folder


def test_a_sweep_goes_on_only_with_the_layers_that_its_header_names(swept: Path) -> None:
    before = (swept / FILE).read_bytes()
    found = read_trace(swept / FILE)
    assert found.header is not None and found.header.settings == found.sweep.settings == PLACES
    again = (*DEMO, "--limit", ROWS, "--alphas", "2,0.5", "-o", swept)
    assert sweep(*again, "--layers", "2+1").exit_code == 0, "the same layers, however they are written"
    done = sweep(*again, "--heads", "L1H0")
    assert done.exit_code == 2
    asked = "this run asks for settings={'heads': 'L1H0'}. Use another folder"
    assert f"made with settings={{'layers': '1-2'}}; {asked}" in done.stderr
    assert (swept / FILE).read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--layers", "2-4"), "layer 4: the model has attention in the layers 0 to 3"),
        (("--heads", "L1H4"), "head L1H4: the model's layers have the heads 0 to 3"),
        (("--layers", "all"), "layers='all': name layers as 14, 14-18 or 14-18+22"),
        (("--layers", "1", "--model-args", "pretrained=demo,layers=1"), "give layers by the option --layers"),
        (("--layers", "1", "--heads", "L1H0"), "layers='1' and heads='L1H0' both say what is steered; give one"),
    ],
)
def test_a_sweep_of_what_the_model_lacks_is_refused(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    done = sweep(*DEMO, "-o", tmp_path / "new", *arguments)
    assert done.exit_code == 2 and words in done.stderr and not (tmp_path / "new").exists()


def test_a_replay_of_layers_is_the_real_run_row_by_row(swept: Path, tmp_path: Path) -> None:
    real = evaluate("vlm_scalingvis", alpha=2, layers="1+2", limit=ROWS, trace=tmp_path)
    replay: dict[str, Any] = {"alpha": 2, "trace": swept, "pretrained": None, "limit": ROWS}
    found = evaluate("replay_scalingvis", layers="1-2", **replay)
    assert [(answer, alpha) for answer, _, alpha in rows(found)] == [(answer, alpha) for answer, _, alpha in rows(real)]
    assert {alpha for *_, alpha in rows(real)} == {2.0}
    header = read_trace(tmp_path / f"vlm_scalingvis_{FILE}").header
    assert header is not None and header.settings == {"alpha": 2, **PLACES}
    with pytest.raises(TraceError, match=r"steered layers=1-2, and this setting steers all .*without --layers and --h"):
        evaluate("replay_scalingvis", **replay)


def test_heads_and_a_constant_in_lmms_eval(tmp_path: Path) -> None:
    evaluate("llava_scalingvis", alpha=0.0, heads="L2H3+L1H0", limit=4, trace=tmp_path)
    evaluate("llava_constant", constant=2.5, limit=4, trace=tmp_path)
    headers = [read_trace(path).header for path in sorted(tmp_path.glob("*.jsonl"))]
    assert [header.settings for header in headers if header] == [
        {"constant": 2.5},
        {"alpha": 0.0, "heads": "L1H0+L2H3"},
    ]
    constant, heads = read_trace_runs(tmp_path / f"llava_constant_{FILE}") + read_trace_runs(
        tmp_path / f"llava_scalingvis_{FILE}"
    )
    assert (constant.name, heads.name) == ("constant 2.5", "scalingvis 0/L1H0+L2H3")
    assert not constant.plain and set(constant.rows["alpha"]) == {1}, "its answers are not those of plain decoding"


@pytest.fixture
def written(tmp_path: Path) -> Path:
    return write_sweep(tmp_path / "t.jsonl", mostly_left, settings=PLACES)


def test_compare_reads_a_sweep_of_layers_as_what_it_is(written: Path, tmp_path: Path) -> None:
    def names(*arguments: object) -> list[str]:
        done = adaptvis("compare", written, *arguments, "--json", tmp_path / "found.json")
        assert done.exit_code == 0, done.output
        return list(runs_of(json.loads((tmp_path / "found.json").read_text())))

    assert names() == ["baseline", "scalingvis 0.5/1-2", "scalingvis 1.5/1-2"]
    preset = tmp_path / "mine.yaml"
    preset.write_text("description: x\nsettings: {whatsup_demo: {scalingvis: {alpha: 1.5, layers: [1, 2]}}}\n")
    given = ("--setting", "scalingvis:0.5/1+2", "--setting", "adaptvis:0.5/1.5/0.4/1-2", "--preset", preset)
    assert names(*given) == [
        "baseline",
        "scalingvis 0.5/1-2",
        "adaptvis 0.5/1.5/0.4/1-2",
        "scalingvis 1.5/1-2 (mine)",
    ]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("scalingvis:0.5", "the sweep steered layers=1-2, and this setting steers all layers and heads"),
        ("scalingvis:0.5/L1H0", "this setting steers heads=L1H0; sweep again into another folder with --heads L1H0"),
        ("constant:1", "it is a sweep of scalingvis and has no answers of constant; run the method itself"),
        ("scalingvis:0.5/x", "layers='x': name layers as"),
        ("scalingvis:0.5/1/L1H0", "both say what is steered"),
        ("scalingvis", "write scalingvis:alpha[/layers][/heads], for example adaptvis:0.5/1.5/0.4"),
        ("adaptvis:0.5/1.5/0.4/1/L1H0/options/2", "adaptvis:alpha_low/alpha_high/threshold[/layers][/heads][/gate]"),
        ("calibrated:batch", "it has a value for each option, which only a preset can hold"),
    ],
)
def test_a_setting_that_the_sweep_does_not_answer_is_refused(setting: str, words: str, written: Path) -> None:
    assert words in compare_refuses(written, "--setting", setting)


def test_tune_writes_the_layers_of_its_trace_and_says_so(tmp_path: Path) -> None:
    answers = simulated(20, {1.0: 0.0, 0.5: 9.0, 2.0: 0.0}, options=("yes", "no"))
    preset, output = tmp_path / "mine.yaml", tmp_path / "found.json"
    about: dict[str, Any] = {"scoring": "vsr", "model": "llava-hf/llava-1.5-7b-hf"}
    some = write_trace(tmp_path / "some.jsonl", answers, task="vsr_val", settings=PLACES, **about)
    done = adaptvis("tune", some, "-o", preset, "--json", output, "--repeats", 1, "--folds", 2)
    assert done.exit_code == 0 and "The sweep steered layers 1-2 alone, and so does the preset" in done.output
    assert "ScalingVis, published" not in done.output, "that is a setting for all layers"
    settings = yaml.safe_load(preset.read_text())["settings"]["vsr"]
    assert settings["scalingvis"] == {"alpha": 0.5, **PLACES} and settings["adaptvis"]["layers"] == "1-2"
    (found,) = json.loads(output.read_text())
    assert found["methods"]["scalingvis"]["setting"] == found["preset"]["scalingvis"] == settings["scalingvis"]
    every = write_trace(tmp_path / "every.jsonl", answers, task="other_val", **about)
    shared = adaptvis("tune", some, every, "--shared")
    assert shared.exit_code == 1 and "were swept with other layers or heads" in shared.output
