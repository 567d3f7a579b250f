"""`adaptvis tune` as a user runs it: on trace files, with its table, sentences, preset, JSON and report."""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner, Result

from adaptvis_plugin.cli import app
from adaptvis_plugin.methods import METHODS
from adaptvis_plugin.models import load_preset
from adaptvis_plugin.traces import Row
from tests.tune_helpers import ALPHAS, REFERENCE, simulated, write_trace

STEERING_HELPS = {1.0: 0.0, 0.5: 3.0, 2.0: 0.0}
recorded = pytest.mark.skipif(not REFERENCE.is_dir(), reason="needs the recorded runs")


def tune(*arguments: Any) -> Result:
    done = CliRunner().invoke(app, ["tune", *map(str, arguments)], env={"COLUMNS": "200"}, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


def refused(*arguments: Any) -> str:
    done = CliRunner().invoke(app, ["tune", *map(str, arguments)], env={"COLUMNS": "200"}, catch_exceptions=False)
    assert done.exit_code == 1, done.output
    assert done.stderr.startswith("error: ")
    return done.stderr


def said(done: Result) -> str:
    """Its output with single spaces, because the terminal breaks lines."""
    return " ".join(done.stdout.split())


# --- the settings and the estimate


def test_steering_that_helps_becomes_the_preset(tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "toy.jsonl", simulated(40, STEERING_HELPS), model="some/model", prompt="chat")
    preset = tmp_path / "new folder" / "mine.yaml"
    done = tune(trace, "-o", preset)
    assert re.search(r"ScalingVis  +0\.5  ", done.stdout)
    assert "ScalingVis beats the plain model" in said(done) and "AdaptVis beats the plain model" in said(done)
    found = load_preset(preset)
    assert found.pretrained == ("some/model",) and found.prompt == "chat"
    assert found.values("whatsup_toy_test", "scalingvis") == {"alpha": 0.5}
    assert found.values("whatsup_toy", "adaptvis")["alpha_low"] == 0.5
    assert ("calibrated" in found.settings["whatsup_toy"]) == ("calibrated" in METHODS)
    assert "toy.jsonl, 160 rows, individual_acc: plain" in found.description
    assert re.search(r"ScalingVis 0\.5, cross-validated \d\d\.\d, \+\d\d\.\d \[\+", found.description)


def test_steering_that_only_changes_answers_at_random_keeps_alpha_1(tmp_path: Path) -> None:
    rows = simulated(20, {1.0: 1.0, 0.5: 1.00001, 2.0: 1.00002})  # not equal, so each has noise of its own
    preset, output = tmp_path / "mine.yaml", tmp_path / "found.json"
    done = tune(write_trace(tmp_path / "toy.jsonl", rows), "-o", preset, "--json", output)
    (found,) = json.loads(output.read_text())
    adaptvis = found["methods"]["adaptvis"]
    optimistic = adaptvis["on_all_rows"]["individual_acc"]
    assert optimistic > found["methods"]["plain"]["on_all_rows"]["individual_acc"]
    assert optimistic > adaptvis["cross_validated"]["individual_acc"]
    assert not any(found["beats_plain"].values())
    assert "AdaptVis does not beat the plain model" in said(done) and "so the preset keeps alpha 1" in said(done)
    kept = {"alpha_low": 1.0, "alpha_high": 1.0, "threshold": 0.0}
    assert load_preset(preset).settings["whatsup_toy"]["adaptvis"] == kept
    assert load_preset(preset).settings["whatsup_toy"]["scalingvis"] == {"alpha": 1.0}


def test_several_traces_get_a_setting_each_or_share_one(tmp_path: Path) -> None:
    write_trace(tmp_path / "a.jsonl", simulated(20, {1.0: 0.0, 0.5: 3.0, 2.0: 2.0}), task="one_val")
    write_trace(tmp_path / "b.jsonl", simulated(20, {1.0: 0.0, 0.5: 0.0, 2.0: 3.0}, seed=1), task="two_val")
    preset = tmp_path / "mine.yaml"
    tune(tmp_path, "-o", preset, "--repeats", 1)
    settings = yaml.safe_load(preset.read_text())["settings"]
    assert {task: methods["scalingvis"]["alpha"] for task, methods in settings.items()} == {"one": 0.5, "two": 2.0}
    done = tune(tmp_path, "-o", preset, "--shared", "--repeats", 1)
    settings = yaml.safe_load(preset.read_text())["settings"]
    assert {task: methods["scalingvis"]["alpha"] for task, methods in settings.items()} == {"one": 2.0, "two": 2.0}
    assert settings["one"]["adaptvis"] == settings["two"]["adaptvis"]
    assert "one setting for 2 traces" in said(done)


def test_the_objective_decides(tmp_path: Path) -> None:
    """Under 0.5 every second set is right; under 2 three rows of each set are."""
    rows = [
        Row(
            doc_id=number,
            question="?",
            gold=gold,
            set_id=number // 4,
            pair_id=number // 2,
            confidence=0.5 + number / 1000,
            generations={1.0: "", 0.5: gold * (number // 4 % 2), 2.0: gold * (gold != "Under")},
        )
        for number, gold in enumerate(["Left", "Right", "On", "Under"] * 20)
    ]
    trace, output = write_trace(tmp_path / "toy.jsonl", rows), tmp_path / "found.json"

    def chosen(objective: str) -> float:
        tune(trace, "--objective", objective, "--json", output, "--repeats", 1)
        (found,) = json.loads(output.read_text())
        assert found["objective"] == objective
        return float(found["methods"]["scalingvis"]["setting"]["alpha"])

    assert [chosen(name) for name in ("individual_acc", "strict_acc", "pair_acc", "set_acc")] == [2.0, 2.0, 0.5, 0.5]


def test_yes_and_no_work_the_same(tmp_path: Path) -> None:
    rows = simulated(100, STEERING_HELPS, bias=(0, 1), options=("yes", "no"))
    preset = tmp_path / "mine.yaml"
    trace = write_trace(tmp_path / "vsr.jsonl", rows, task="vsr_val", scoring="vsr", model="llava-hf/llava-1.5-7b-hf")
    done = tune(trace, "--objective", "standard_f1", "-o", preset, "--repeats", 1)
    assert load_preset(preset).values("vsr", "scalingvis") == {"alpha": 0.5}
    assert re.search(r"ScalingVis, published +0\.5 ", done.stdout)
    assert "The published setting of AdaptVis, 0.5 / 1.2 / 0.64, is not scored" in said(done)
    assert "one offset per option" in done.stdout


def test_another_tasks_own_metrics_are_tuned_without_controls(tmp_path: Path) -> None:
    def with_metrics(row: Row) -> Row:
        overlap = {1.0: 0.5, 0.5: row.confidence / 2, 2.0: 0.9}
        return row.model_copy(update={"metrics": {alpha: {"iou": value} for alpha, value in overlap.items()}})

    rows = list(map(with_metrics, simulated(10)))
    done = tune(write_trace(tmp_path / "other.jsonl", rows, task="other", scoring=None), "--repeats", 1)
    assert "other: 40 rows; iou, percent" in done.stdout
    assert re.search(r"ScalingVis +2 +90\.00", done.stdout)
    assert "The controls are left out: the task judges answers by a rule of its own" in said(done)


def test_own_metrics_that_are_no_shares_are_shown_as_they_are(tmp_path: Path) -> None:
    """As of a task with free answers, which has no right answer to name, and counts from 0 to 100."""
    rows = [
        row.model_copy(update={"gold": "", "options": {}, "metrics": {a: {"score": 40 + a} for a in ALPHAS}})
        for row in simulated(10)
    ]
    trace, folder = write_trace(tmp_path / "free.jsonl", rows, task="free", scoring=None), tmp_path / "report"
    done = tune(trace, "--repeats", 1, "--report", folder)
    assert re.search(r"free: 40 rows; score *\n", done.stdout)
    assert re.search(r"ScalingVis +2 +42\.000 +42\.00 \[42\.00, 42\.00\]", done.stdout)
    assert "42.00 against 41.00, a difference of +1.00 [+1.00, +1.00]." in said(done)


def test_an_own_metric_that_repeats_another_is_left_out(tmp_path: Path) -> None:
    """POPE's process_results gives whether an answer is right under the name of an F1, of which it is not the mean."""

    def with_metrics(row: Row) -> Row:
        right = {alpha: float(answer == row.gold) for alpha, answer in row.generations.items()}
        return row.model_copy(
            update={"metrics": {alpha: {"pope_accuracy": r, "pope_f1_score": r} for alpha, r in right.items()}}
        )

    rows = list(map(with_metrics, simulated(20, options=("yes", "no"))))
    trace = write_trace(tmp_path / "pope.jsonl", rows, task="pope", scoring=None)
    assert "pope has pope_accuracy\n" in refused(trace, "--objective", "pope_f1_score")
    assert "The task's own metrics are means of what it says of each row." in said(tune(trace, "--repeats", 1))


def test_tasks_with_different_metrics_share_a_setting_by_the_mean_of_the_first_of_each(tmp_path: Path) -> None:
    write_trace(tmp_path / "toy.jsonl", simulated(20, {1.0: 0.0, 0.5: 3.0, 2.0: 2.0}), task="toy_val")
    yes = simulated(40, {1.0: 0.0, 0.5: 0.0, 2.0: 3.0}, options=("yes", "no"))
    write_trace(tmp_path / "vsr.jsonl", yes, task="vsr_val", scoring="vsr")
    preset, output = tmp_path / "mine.yaml", tmp_path / "found.json"
    tune(tmp_path, "--shared", "--repeats", 1, "-o", preset, "--json", output)
    found = json.loads(output.read_text())
    assert [one["objective"] for one in found] == ["individual_acc", "accuracy"]
    gains = [one["methods"]["scalingvis"]["gain"]["value"] for one in found]
    assert found[0]["gain_over_traces"]["scalingvis"]["value"] == pytest.approx(sum(gains) / 2)
    assert load_preset(preset).values("vsr", "scalingvis") == {"alpha": 2.0}


def test_the_json_has_settings_as_models_take_them(tmp_path: Path) -> None:
    output = tmp_path / "found.json"
    tune(write_trace(tmp_path / "toy.jsonl", simulated(20, STEERING_HELPS)), "--json", output, "--repeats", 1)
    (found,) = json.loads(output.read_text())
    scaling, adaptvis = (found["methods"][name] for name in ("scalingvis", "adaptvis"))
    assert scaling["setting"] == found["preset"]["scalingvis"] == {"alpha": 0.5}
    assert scaling["chosen"] == [{"setting": {"alpha": 0.5}, "folds": 5}]
    assert set(adaptvis["setting"]) == {"alpha_low", "alpha_high", "threshold"}
    assert found["rows_needed"]["scalingvis"] < 80 < 1000 * found["smallest_gain_shown"]["scalingvis"]


@pytest.mark.parametrize("width", [80, 100, 140])
def test_no_figure_is_broken_in_a_narrow_terminal(width: int, tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "toy.jsonl", simulated(20, STEERING_HELPS))
    arguments = ["tune", str(trace), "--repeats", "1"]
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": str(width)}, catch_exceptions=False)
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= width
    (line,) = [line for line in lines if line.strip().startswith("plain ")]
    assert re.search(r"plain +\d\d\.\d\d +\d\d\.\d \[\d\d\.\d, \d\d\.\d\]", line)
    assert any("optimistic" in line and "cross-validated" in line for line in lines)


def test_traces_without_option_probabilities_are_tuned_without_controls(tmp_path: Path) -> None:
    rows = [row.model_copy(update={"options": {}}) for row in simulated(10)]
    done = tune(write_trace(tmp_path / "toy.jsonl", rows), "--repeats", 1)
    assert "The controls are left out: the trace holds no probabilities of offered options." in said(done)
    assert "batch calibration" not in done.stdout


def test_a_partial_trace_is_usable_and_called_partial(tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "toy.jsonl", simulated(10), total=400)
    preset = tmp_path / "mine.yaml"
    done = tune(trace, "-o", preset, "--repeats", 1)
    assert "partial: 40 of 400 rows" in done.stdout
    assert "partial: 40 of 400 rows" in load_preset(preset).description


def test_what_cannot_differ_is_said(tmp_path: Path) -> None:
    same = dict.fromkeys(ALPHAS, "Left")
    rows = [row.model_copy(update={"confidence": 0.501, "generations": same}) for row in simulated(10)]
    preset = tmp_path / "mine.yaml"
    done = said(tune(write_trace(tmp_path / "toy.jsonl", rows), "-o", preset, "--repeats", 1))
    assert "No answer is different under any of the recorded coefficients, so there is nothing to tune." in done
    assert "The confidence of every row is 0.5, so no threshold can tell rows apart" in done
    assert "validation rows" not in done  # how many a gain would take cannot be said
    assert load_preset(preset).values("whatsup_toy", "scalingvis") == {"alpha": 1.0}


def test_the_report_has_tables_and_plots(tmp_path: Path) -> None:
    trace, folder = write_trace(tmp_path / "toy.jsonl", simulated(20, STEERING_HELPS)), tmp_path / "report"
    tune(trace, "--report", folder, "--repeats", 1)
    for name in ("surface", "confidence"):
        assert (folder / f"whatsup_toy-{name}.png").read_bytes()[:4] == b"\x89PNG"
        assert "<svg" in (folder / f"whatsup_toy-{name}.svg").read_text()
    text = (folder / "report.md").read_text()
    assert "| ScalingVis | 0.5 |" in text and "- ScalingVis beats the plain model" in text
    assert all((folder / name).is_file() for name in re.findall(r"\]\((.+?)\)", text))
    settings = pd.read_csv(folder / "whatsup_toy-settings.csv")
    assert set(settings["alpha_low"]) == set(ALPHAS) and settings["individual_acc"].max() > 0.9
    summary = pd.read_csv(folder / "summary.csv").query("method == 'adaptvis' and metric == 'individual_acc'")
    assert summary["gain_low"].item() > 0


# --- what is refused


def test_bad_input_is_a_clear_error(tmp_path: Path) -> None:
    rows = simulated(10)
    toy = write_trace(tmp_path / "toy.jsonl", rows)
    assert "objective 'bleu': whatsup_toy_val has individual_acc, strict_acc, pair_acc, set_acc" in refused(
        toy, "--objective", "bleu"
    )
    vsr = write_trace(tmp_path / "vsr.jsonl", simulated(9, options=("yes", "no")), task="vsr", scoring="vsr")
    assert "accuracy, precision, recall, standard_f1, authors_acc, authors_f1\n" in refused(
        vsr, "--objective", "neither"
    )
    assert "vsr has accuracy, precision" in refused(toy, vsr, "--shared", "--objective", "set_acc")
    broken = [row for row in rows if row.doc_id and row.doc_id % 4]
    assert "no row's whole set is among these 30, so set_acc is 0 whatever is answered" in refused(
        write_trace(tmp_path / "broken.jsonl", broken), "--objective", "set_acc"
    )
    left = write_trace(tmp_path / "left.jsonl", [row for row in rows if row.gold == "Left"])
    assert "all 10 rows have the right answer 'Left'" in refused(left)
    few = write_trace(tmp_path / "few.jsonl", rows[:12])
    assert "12 rows form 3 groups" in refused(few)
    ordinary = write_trace(tmp_path / "run.jsonl", rows, method="baseline", alphas=())
    assert "answers under one coefficient per row" in refused(ordinary)
    bare = [row.model_copy(update={"metrics": {}}) for row in rows]
    assert "none of them has a number for each row" in refused(write_trace(tmp_path / "bare.jsonl", bare, scoring=None))
    same_set = [row.model_copy(update={"set_id": 0}) for row in rows]
    assert "a set_id is shared by 40 rows" in refused(write_trace(tmp_path / "sets.jsonl", same_set))
    assert "maybe" in refused(
        write_trace(tmp_path / "maybe.jsonl", [rows[0].model_copy(update={"gold": "maybe"}), *rows[1:]], scoring="vsr")
    )


def test_traces_that_one_preset_cannot_hold_are_refused(tmp_path: Path) -> None:
    first = write_trace(tmp_path / "first.jsonl", simulated(10))
    test = write_trace(tmp_path / "test.jsonl", simulated(10), task="whatsup_toy_test")
    assert "one of several traces of the task whatsup_toy" in refused(first, test)
    other = write_trace(tmp_path / "other.jsonl", simulated(10), task="other", model="another/model")
    assert "has model 'some/model' and" in refused(first, other)
    half = write_trace(tmp_path / "half.jsonl", simulated(10), task="other", dtype="bfloat16")
    assert "has dtype 'float32' and" in refused(first, half)


def test_places_that_cannot_be_written_are_refused_before_any_work(tmp_path: Path) -> None:
    missing = tmp_path / "missing.jsonl"
    assert "mine.txt: a preset is found by the ending" in refused(missing, "-o", tmp_path / "mine.txt")
    assert "is a folder; give a file" in refused(missing, "--json", tmp_path)
    (tmp_path / "file").touch()
    assert "is a file; give a folder" in refused(missing, "--report", tmp_path / "file")
    assert "there is no such file or folder" in refused(missing)


# --- the recorded runs


@recorded
@pytest.mark.parametrize(
    ("name", "plain", "scalingvis", "adaptvis", "published"),
    [
        ("Controlled_Images_A", "60.30", "64.55", "86.36", "84.85"),
        ("COCO_QA_two_obj", "58.24", "59.09", "59.94", "59.94"),
        ("VG_QA_one_obj", "35.88", "42.67", "43.00", "42.67"),
    ],
)
def test_the_recorded_runs(
    tmp_path: Path, name: str, plain: str, scalingvis: str, adaptvis: str, published: str
) -> None:
    output = tmp_path / "found.json"
    done = tune(REFERENCE / f"{name}.jsonl", "--json", output, "--repeats", 1)
    (found,) = json.loads(output.read_text())

    def optimistic(method: str) -> str:
        return f"{100 * found['methods'][method]['on_all_rows']['individual_acc']:.2f}"

    assert optimistic("plain") == plain
    assert optimistic("scalingvis") == scalingvis
    assert optimistic("adaptvis") == adaptvis
    assert optimistic("published_adaptvis") == published
    assert found["beats_plain"] == dict.fromkeys(("scalingvis", "adaptvis"), name != "COCO_QA_two_obj")
    if name == "Controlled_Images_A":
        # Without rounding the confidence, which AdaptVis and the authors do, 86.67 would be reached.
        assert "Compared unrounded, 0.5 / 1 / 0.407 would reach 86.67 on all rows." in said(done)
        methods = found["methods"]
        assert round(100 * methods["steered_options"]["on_all_rows"]["individual_acc"], 2) == 66.67
        assert round(100 * methods["batch"]["on_all_rows"]["individual_acc"], 2) == 82.73
        assert round(100 * methods["published_adaptvis"]["on_all_rows"]["set_acc"], 1) == 30.3
        assert "not told apart from a correction of label bias" in said(done)
    if name == "VG_QA_one_obj":
        assert "the correction brings more than steering" in said(done)
