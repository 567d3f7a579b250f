"""`adaptvis compare` on traces: figures, tests, and what is refused."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from adaptvis_plugin.comparison.answers import form_of, said
from tests.framework_runs import adaptvis
from tests.trace_files import begin, write_sweep

REFERENCE = Path(__file__).parents[2] / "shared" / "reference" / "traces"
recorded = pytest.mark.skipif(not REFERENCE.is_dir(), reason="needs the recorded runs")
FOUR = ("left", "right", "on", "under")


def compare(*arguments: object, folder: Path) -> dict[str, Any]:
    done = adaptvis("compare", *arguments, "--json", folder / "found.json")
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return found


def runs_of(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {run["name"]: run for task in found["tasks"] for run in task["runs"]}


def value(run: dict[str, Any], metric: str) -> float:
    return float(next(one["value"] for one in run["metrics"] if one["name"] == metric))


def refused(*arguments: object) -> str:
    done = adaptvis("compare", *arguments)
    assert done.exit_code == 1, done.output
    return " ".join(done.output.split())


def mostly_left(doc: Mapping[str, Any], alpha: float) -> str:
    return "Left" if alpha == 1 else str(doc["answer"])


@recorded
def test_the_recorded_run_shows_that_the_gain_is_a_change_of_form(tmp_path: Path) -> None:
    trace = REFERENCE / "Controlled_Images_A.jsonl"
    runs = runs_of(compare(trace, "--setting", "adaptvis:0.5/1.5/0.4", folder=tmp_path))
    plain, steered = runs["baseline"], runs["adaptvis 0.5/1.5/0.4"]
    shown = {
        m: (round(100 * value(plain, m), 2), round(100 * value(steered, m), 2))
        for m in ("individual_acc", "strict_acc")
    }
    assert shown == {"individual_acc": (60.30, 84.85), "strict_acc": (60.30, 84.85)}
    assert [round(100 * value(steered, m), 1) for m in ("pair_acc", "set_acc")] == [61.2, 30.3]
    assert round(100 * steered["choice"]["accuracy"], 2) == 66.67
    origins = {(one["kind"], one["name"]): one for one in steered["against"]["origins"]}
    smoothed = origins["steering", "smoothed (alpha < 1)"]
    assert smoothed["rows"] == 135
    assert [round(100 * smoothed[name], 1) for name in ("before", "after", "choice")] == [24.4, 84.4, 40.0]
    assert origins["form", "one word → sentence"]["rows"] == 127
    assert plain["forms"] == [{"name": "one word", "rows": 330, "accuracy": pytest.approx(0.60303, abs=1e-5)}]
    on = plain["confusion"]["said"].index("on")
    assert sum(row[on] for row in plain["confusion"]["counts"]) == 0, "plain never says On"
    test = steered["against"]["test"]
    assert (test["only_first"], test["only_second"]) == (12, 93) and steered["against"]["p_holm"] < 1e-6
    assert list(runs) == ["baseline", "adaptvis 0.5/1.5/0.4"]


@recorded
def test_a_recorded_run_is_read_under_the_presets_settings_for_its_task(tmp_path: Path) -> None:
    runs = runs_of(compare(REFERENCE / "COCO_QA_two_obj.jsonl", "--preset", "llava-1.5-7b", folder=tmp_path))
    assert list(runs) == ["baseline", "scalingvis 1.2 (llava-1.5-7b)", "adaptvis 0.5/1.2/0.3 (llava-1.5-7b)"]


@recorded
def test_all_recorded_runs_reproduce_the_published_numbers(tmp_path: Path) -> None:
    found = compare(*sorted(REFERENCE.glob("*.jsonl")), "-o", tmp_path / "report", folder=tmp_path)
    plain = {task["task"]: round(100 * value(task["runs"][0], "individual_acc"), 2) for task in found["tasks"]}
    assert plain == {"Controlled_Images_A": 60.30, "COCO_QA_two_obj": 58.24, "VG_QA_one_obj": 35.88}
    figures = pd.read_csv(tmp_path / "report" / "figures.csv")
    assert (figures["figure"] == "p (Holm)").sum() == 15, "one test for each steered run, all corrected together"


def test_a_sweep_is_read_under_a_setting_and_a_preset(tmp_path: Path) -> None:
    trace = write_sweep(tmp_path / "t.jsonl", mostly_left)
    preset = tmp_path / "mine.yaml"
    preset.write_text(
        "description: x\nsettings: {whatsup_demo: {adaptvis: {alpha_low: 0.5, alpha_high: 1.0, threshold: 0.4}}}\n"
    )
    runs = runs_of(compare(trace, "--setting", "adaptvis:0.5/1.5/0.4", "--preset", preset, folder=tmp_path))
    assert list(runs) == ["baseline", "adaptvis 0.5/1.5/0.4", "adaptvis 0.5/1/0.4 (mine)"]
    assert value(runs["baseline"], "individual_acc") == 0.25 and value(runs["adaptvis 0.5/1.5/0.4"], "set_acc") == 1
    mixed = runs["adaptvis 0.5/1/0.4 (mine)"]
    # Every second row is unsure: those are smoothed and right; of the others, the left ones are right.
    assert value(mixed, "individual_acc") == pytest.approx(0.5 + 0.25)
    assert (mixed["smoothed"], mixed["sharpened"]) == (0.5, 0)
    assert mixed["against"]["test"] == {"only_first": 0, "only_second": 20, "p_value": pytest.approx(2 * 0.5**20)}


def test_holms_correction_counts_every_test_of_the_report(tmp_path: Path) -> None:
    def answer(doc: Mapping[str, Any], alpha: float) -> str:
        return str(doc["answer"]) if alpha == 1 or doc["id"] >= (6 if alpha == 0.5 else 5) else "nothing"

    runs = runs_of(compare(write_sweep(tmp_path / "t.jsonl", answer), folder=tmp_path))
    small, large = runs["scalingvis 0.5"]["against"], runs["scalingvis 1.5"]["against"]
    assert small["test"]["p_value"] == pytest.approx(2 / 64) and large["test"]["p_value"] == pytest.approx(2 / 32)
    assert small["p_holm"] == pytest.approx(2 * 2 / 64) and large["p_holm"] == pytest.approx(2 / 32)
    assert runs["scalingvis 0.5"]["unclear"] == pytest.approx(6 / 40)


def test_intervals_are_drawn_over_sets(tmp_path: Path) -> None:
    def answer(doc: Mapping[str, Any], alpha: float) -> str:
        return str(doc["answer"]) if doc["set_id"] % 2 else "nothing"

    found = compare(write_sweep(tmp_path / "t.jsonl", answer), folder=tmp_path)
    assert (found["tasks"][0]["groups"], found["tasks"][0]["grouped_by"]) == (10, "sets of pictures")
    accuracy = next(one for one in found["tasks"][0]["runs"][0]["metrics"] if one["name"] == "individual_acc")
    # Ten sets, half of them all right: the interval of five in ten, not of twenty in forty (0.35 to 0.65).
    assert accuracy["low"] <= 0.2 and accuracy["high"] >= 0.8


def test_a_task_of_others_is_compared_by_its_own_numbers(tmp_path: Path) -> None:
    from adaptvis_plugin.traces import Header, Row, TraceFile

    trace = TraceFile(tmp_path / "pope.jsonl")
    begin(
        trace, Header(task="pope", rows=8, model="m", dtype="float32", prompt="chat", alphas=(1, 2), max_new_tokens=9)
    )
    trace.add(
        Row(doc_id=n, question="q", gold="yes", confidence=0.5, generations={1: "yes", 2: "no"},
            metrics={1: {"pope_accuracy": 1.0}, 2: {"pope_accuracy": float(n < 2)}})
        for n in range(8)
    )  # fmt: skip
    runs = runs_of(compare(trace.path, folder=tmp_path))
    assert value(runs["scalingvis 2"], "pope_accuracy") == 0.25 and runs["scalingvis 2"]["confusion"] is None
    assert runs["scalingvis 2"]["against"]["test"]["only_first"] == 6


def test_a_trace_and_another_with_other_precision_are_compared_with_a_note(tmp_path: Path) -> None:
    one = write_sweep(tmp_path / "one.jsonl", mostly_left)
    other = write_sweep(tmp_path / "other.jsonl", mostly_left, dtype="bfloat16", model="demo2")
    found = compare(one, other, folder=tmp_path)
    names = list(runs_of(found))
    assert len(set(names)) == 6 and "baseline demo" in names and "baseline demo2" in names
    notes = " ".join(found["tasks"][0]["notes"])
    assert "the runs differ in dtype: float32" in notes and "the runs differ in model: demo" in notes
    assert "only 40 of 400 rows were answered" in notes


def test_what_is_plain_decoding_under_a_setting_is_not_listed_again(tmp_path: Path) -> None:
    trace = write_sweep(tmp_path / "t.jsonl", mostly_left)
    done = adaptvis("compare", trace, "--setting", "adaptvis:1/1/0", "--setting", "scalingvis:0.5")
    assert "whatsup_demo, adaptvis 1/1/0: every row has alpha 1, so it is the baseline, and not listed" in done.output
    runs = runs_of(compare(trace, "--setting", "adaptvis:1/1/0", "--setting", "scalingvis:0.5", folder=tmp_path))
    assert list(runs) == ["baseline", "scalingvis 0.5"]


def test_plain_decoding_is_tested_against_a_baseline_that_is_steered(tmp_path: Path) -> None:
    trace = write_sweep(tmp_path / "t.jsonl", mostly_left)
    plain = runs_of(compare(trace, "--baseline", "scalingvis 0.5", folder=tmp_path))["baseline"]["against"]
    assert (plain["test"]["only_first"], plain["test"]["only_second"]) == (30, 0)
    assert plain["p_holm"] == pytest.approx(2 * 2 * 0.5**30, rel=1e-6), "one of two tests"


def test_a_baseline_that_a_task_lacks_is_noted(tmp_path: Path) -> None:
    one = write_sweep(tmp_path / "one.jsonl", mostly_left)
    other = write_sweep(tmp_path / "other.jsonl", mostly_left, task="my_task", alphas=(1.0, 0.5))
    found = compare(one, other, "--baseline", "scalingvis 1.5", folder=tmp_path)
    assert found["tasks"][0]["baseline"] == "scalingvis 1.5" and found["tasks"][1]["baseline"] == "baseline"
    assert "no run of this task is called scalingvis 1.5, so baseline is the baseline" in found["tasks"][1]["notes"]


def test_it_is_said_what_pairs_and_sets_are_divided_by(tmp_path: Path) -> None:
    found = compare(write_sweep(tmp_path / "t.jsonl", mostly_left, rows=6), folder=tmp_path)
    sets = (
        "Sets of four all right: divided by 6 / 4 as the authors do, but only 1 are complete, so the most that can be"
    )
    assert found["tasks"][0]["remarks"] == [f"{sets} reached is 66.7."]
    assert value(runs_of(found)["scalingvis 0.5"], "set_acc") == pytest.approx(4 / 6)
    assert compare(write_sweep(tmp_path / "w.jsonl", mostly_left), folder=tmp_path)["tasks"][0]["remarks"] == []


def test_numbers_that_one_run_lacks_are_left_out_of_all(tmp_path: Path) -> None:
    from adaptvis_plugin.traces import Header, Row, TraceFile

    trace = TraceFile(tmp_path / "own.jsonl")
    begin(trace, Header(task="own", rows=4, model="m", dtype="float32", prompt="chat", alphas=(1, 2), max_new_tokens=9))
    plain: list[dict[str, float]] = [{}, {"hit": 1.0}, {"hit": 1.0}, {"hit": 0.0}]
    steered: list[dict[str, float]] = [{"hit": 1.0}, {"hit": 0.0}, {}, {"hit": 0.0}]
    trace.add(
        Row(doc_id=n, question="q", gold="yes", confidence=0.5, generations={1: "yes", 2: "no"},
            metrics={1: {**plain[n], "copy": 1.0 - n % 2}, 2: {**steered[n], "copy": 1.0 - n % 2}})
        for n in range(4)
    )  # fmt: skip
    found = compare(trace.path, folder=tmp_path)
    runs = runs_of(found)
    assert (value(runs["baseline"], "hit"), value(runs["scalingvis 2"], "hit")) == (0.5, 0.0)
    assert "hit: over the 2 of 4 rows with it in every run." in found["tasks"][0]["remarks"]
    test = runs["scalingvis 2"]["against"]["test"]
    assert (test["only_first"], test["only_second"]) == (1, 0) and runs["scalingvis 2"]["against"]["broken"] == [1]


def test_no_text_is_a_formula_to_a_spreadsheet_and_none_is_obeyed_by_a_terminal(tmp_path: Path) -> None:
    formula = '=HYPERLINK("http://x")'
    trace = write_sweep(
        tmp_path / "t.jsonl", lambda doc, alpha: formula, task="\x1b[2Jtask [red]", model="@m\x1b]0;x\x07"
    )
    done = adaptvis("compare", trace, "-o", tmp_path / "report")
    assert done.exit_code == 0 and "\x1b[2J" not in done.output and "[2Jtask [red]" in done.output
    rows = pd.read_csv(tmp_path / "report" / "rows.csv")
    assert set(rows["answer"]) == {f"'{formula}"} and rows["right"].dtype == float
    assert set(pd.read_csv(tmp_path / "report" / "figures.csv")["model"].str[:2]) == {"'@"}
    assert "\x1b" not in (tmp_path / "report" / "report.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--setting", "magic:1"], "--setting 'magic:1': 'magic' is not a method; write one of baseline"),
        (["--setting", "adaptvis:0.5"], "write adaptvis:alpha_low/alpha_high/threshold"),
        (["--setting", "scalingvis:x"], "--setting 'scalingvis:x': alpha='x'"),
        (
            ["--setting", "scalingvis:0.7"],
            "under scalingvis 0.7: alpha 0.7 was not recorded, only 1, 0.5, 1.5; sweep again",
        ),
        (["--preset", "nowhere.yaml"], "--preset: unknown preset 'nowhere.yaml'"),
        (["--baseline", "nobody"], "--baseline nobody: no run has this name; there are baseline, scalingvis 0.5"),
    ],
)
def test_wrong_options_are_named(arguments: list[str], complaint: str, tmp_path: Path) -> None:
    assert complaint in refused(write_sweep(tmp_path / "t.jsonl", mostly_left, rows=8), *arguments)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("x_samples_t.jsonl", "", "holds no rows: the run has only begun, or failed"),
        ("x_samples_t.jsonl", '{"a": 1}\n', "its rows have no doc_id and filtered_resps"),
        ("x_samples_t.jsonl", '{"doc_id": 0\n{"doc_id": 1}\n', "line 1, is not JSON"),
        ("x_samples_t.jsonl", "[1]\n", "line 1, is not a JSON object"),
        ("x_samples_t.jsonl", '{"doc_id": 0, "filtered_resps": "a"}\n' * 2, "row 0 is there 2 times"),
        ("x_samples_t.jsonl", '{"doc_id": 0, "filtered_resps": "a"}\n', "no number for each of them"),
        ("x_samples_whatsup_demo.jsonl", '{"doc_id": 0, "filtered_resps": "a"}\n', "made by an older version"),
        ("x_results.json", "{", "cannot be read"),
        ("x_results.json", "[]", "does not hold a JSON object"),
        ("x_results.json", "{}", "names no task"),
        ("x_results.json", '{"results": {"t": {"acc,none": 1}}}', "run lmms-eval with --log_samples"),
        ("status.json", '{"model_name": "m", "datasets": {"d": {"status": "infer"}}}', "holds no answers of m"),
        ("m_d.xlsx", "no spreadsheet", "cannot be read"),
        ("t.jsonl", '{"adaptvis_trace": 9}\n', "this version reads form 1"),
        ("readme.txt", "hello", "is no file of a run"),
    ],
)
def test_an_unusable_file_is_named(name: str, content: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    assert complaint in refused(tmp_path / name)
    if name != "readme.txt":
        message = refused(tmp_path)  # the same as a folder
        assert complaint in message or "holds no run" in message


def test_an_empty_folder_and_a_missing_one(tmp_path: Path) -> None:
    assert "holds no run: give an output folder of lmms-eval" in refused(tmp_path)
    assert "there is no such file or folder" in refused(tmp_path / "nowhere")


def test_a_file_given_twice(tmp_path: Path) -> None:
    trace = write_sweep(tmp_path / "t.jsonl", mostly_left, rows=8)
    assert "is given twice" in refused(trace, tmp_path / "t.jsonl")


@pytest.mark.parametrize(
    ("answer", "option", "form"),
    [
        ("Left", "left", "one word"),
        ("The mug is on the table.", "on", "sentence"),
        ("left or right", "several", "sentence"),
        ("next to it", "none", "sentence"),
        ("on the floor, under the table", "under", "sentence"),
        ("", "none", "empty"),
    ],
)
def test_what_an_answer_names_and_its_form(answer: str, option: str, form: str) -> None:
    assert (said(answer, FOUR, "whatsup"), form_of(answer)) == (option, form)
    assert said("No.", (), "vsr") == "no" and said("a cat", (), "vsr") == "neither"
