"""Models that answer from a sweep's trace, against the runs that they stand for."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from adaptvis_plugin.cli import app
from adaptvis_plugin.models import loading
from adaptvis_plugin.traces import TraceError
from tests.test_lmms_eval import evaluate, rows

ROWS = 40
SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("baseline", {}),
    ("scalingvis", {"alpha": 0.8}),
    ("adaptvis", {"alpha_low": 0.5, "alpha_high": 2.0, "threshold": 0.7}),
    ("calibrated", {"calibration": "batch"}),
]
PRESET = """
description: mine
prompt: paper
settings:
  whatsup_demo:
    calibrated: {prior: {left: 0.1, right: 0.7, "on": 0.1, under: 0.1}}
"""


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("swept")
    command = ["sweep", "--model-args", "pretrained=demo", "--tasks", "whatsup_demo", "--limit", str(ROWS)]
    done = CliRunner().invoke(app, [*command, "--batch-size", "8", "-o", str(folder)])
    assert done.exit_code == 0, done.output
    return folder


def replay(method: str, trace: Path, **arguments: Any) -> dict[str, Any]:
    given = {"limit": ROWS, "pretrained": None, **arguments}
    return evaluate(f"replay_{method}", trace=trace, **given)


def scores(results: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = results["results"]["whatsup_demo"]
    return found


@pytest.mark.parametrize(("method", "settings"), SETTINGS)
def test_a_replay_is_the_real_run_row_by_row(
    method: str, settings: dict[str, Any], swept: Path, tmp_path: Path
) -> None:
    if method == "calibrated":
        (tmp_path / "mine.yaml").write_text(PRESET)
        settings = {**settings, "preset": tmp_path / "mine.yaml"}
    real = evaluate(f"vlm_{method}", limit=ROWS, **settings)
    found = replay(method, swept, **settings)
    assert scores(found) == scores(real)
    for mine, theirs in zip(rows(found), rows(real), strict=True):
        assert (mine[0], mine[2]) == (theirs[0], theirs[2]) and mine[1] == pytest.approx(theirs[1], abs=1e-4)
    if method == "adaptvis":
        assert {alpha for *_, alpha in rows(found)} == {0.5, 2.0}
    counts = [[s["token_counts"][0]["output_tokens"] for s in r["samples"]["whatsup_demo"]] for r in (found, real)]
    assert counts[0] == counts[1]


def test_the_threshold_of_a_replay_counts_as_in_the_real_run(swept: Path) -> None:
    """At the confidence of a row itself, rounded to two decimals: the method's own rule, not one like it."""
    confidence = sorted(confidence for _, confidence, _ in rows(replay("baseline", swept)))[ROWS // 2]
    for threshold in (round(confidence, 2), round(confidence, 2) + 0.01):
        settings: dict[str, Any] = {"alpha_low": 0.5, "alpha_high": 2.0, "threshold": threshold}
        found, real = replay("adaptvis", swept, **settings), evaluate("vlm_adaptvis", limit=ROWS, **settings)
        assert [row[2] for row in rows(found)] == [row[2] for row in rows(real)]


def test_no_model_is_loaded(swept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AutoModelForImageTextToText", "AutoProcessor"):
        monkeypatch.delattr(loading, name)
    with pytest.raises(ValueError, match="cannot be loaded"):
        evaluate("vlm_baseline", limit=8)
    assert len(rows(replay("scalingvis", swept, alpha=2.0, limit=8))) == 8


def test_settings_may_come_from_a_preset(swept: Path, tmp_path: Path) -> None:
    preset = tmp_path / "mine.yaml"
    preset.write_text("description: mine\nprompt: paper\nsettings:\n  whatsup_demo: {scalingvis: {alpha: 2.0}}\n")
    assert rows(replay("scalingvis", swept, preset=preset)) == rows(replay("scalingvis", swept, alpha=2.0))
    preset.write_text(preset.read_text().replace("paper", "chat"))
    with pytest.raises(ValueError, match=r"recorded with prompt=paper.*for prompt=chat; give prompt=paper, or sweep"):
        replay("scalingvis", swept, preset=preset)
    assert rows(replay("scalingvis", swept, preset=preset, prompt="paper"))


@pytest.mark.parametrize(
    ("method", "arguments", "complaint"),
    [
        ("scalingvis", {"alpha": 0.6}, r"alpha 0.6 was not recorded, only 1, 0.5, .*--alphas 0.5,0.6,0.8,1.2,1.5,2$"),
        ("adaptvis", {"alpha_low": 0.5, "alpha_high": 3.0, "threshold": 0.0}, "alpha 3 was not recorded"),
        ("baseline", {"limit": ROWS + 1}, rf"document {ROWS} is not in it \({ROWS} rows are\); go on with the sweep"),
        ("baseline", {"tasks": ["whatsup_demo_val"]}, "no sweep of whatsup_demo_val, but of whatsup_demo; make one"),
        ("baseline", {"gen_kwargs": "max_new_tokens=1"}, r"made with .*100.*asks for .*'max_new_tokens': 1}; sweep"),
        ("baseline", {"dtype": "float16"}, "dtype='float16': a replay loads no model, and takes trace, pretrained"),
        (
            "baseline",
            {"pretrained": "mine"},
            "recorded with pretrained=demo, .*for pretrained=mine; give pretrained=demo",
        ),
        ("scalingvis", {"alhpa": 2}, r"alhpa=2: .*Did you mean alpha\?"),
        ("scalingvis", {"alpha": -1}, "alpha=-1.*finite number >= 0"),
    ],
)
def test_what_was_not_recorded_is_an_error_and_never_a_guess(
    method: str, arguments: dict[str, Any], complaint: str, swept: Path
) -> None:
    tasks = arguments.pop("tasks", None)
    with pytest.raises(ValueError, match=complaint):
        replay(method, swept, **arguments, **({"tasks": tasks} if tasks else {}))


def test_a_trace_that_is_not_one_of_a_sweep(swept: Path, tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="there is no such file or folder"):
        replay("baseline", tmp_path / "nowhere")
    with pytest.raises(TraceError, match="holds no trace of a sweep; make one: adaptvis sweep"):
        replay("baseline", tmp_path)
    with pytest.raises(ValueError, match="give the sweep's trace"):
        evaluate("replay_baseline", pretrained=None)
    text = (swept / "whatsup_demo.jsonl").read_text()
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(text)
    with pytest.raises(TraceError, match=r"a\.jsonl and .*b\.jsonl are both sweeps of whatsup_demo; give one"):
        replay("baseline", tmp_path)
    assert scores(replay("baseline", tmp_path / "b.jsonl")) == scores(replay("baseline", swept))


def test_a_question_or_a_picture_that_has_changed_since_is_noticed(swept: Path, tmp_path: Path) -> None:
    lines = (swept / "whatsup_demo.jsonl").read_text().splitlines()
    asked = json.loads(lines[5])["asked"]
    changed = tmp_path / "whatsup_demo.jsonl"
    changed.write_text("\n".join(lines).replace(asked, "0" * 16) + "\n")
    with pytest.raises(TraceError, match=r"document \d+ was asked something else when it was swept"):
        replay("baseline", changed)


def test_a_cache_of_answers_never_stands_in_for_the_trace(swept: Path, tmp_path: Path) -> None:
    trace = tmp_path / "whatsup_demo.jsonl"
    text = (swept / "whatsup_demo.jsonl").read_text()
    trace.write_text(text)
    before = rows(replay("baseline", trace, limit=8, use_cache=str(tmp_path / "cache")))
    trace.write_text(text.replace('"1.0":"', '"1.0":"Never '))
    after = rows(replay("baseline", trace, limit=8, use_cache=str(tmp_path / "cache")))
    assert [answer for answer, *_ in after] == [f"Never {answer}" for answer, *_ in before]
