"""Familiarity of relations and the worth of the confidence, from trace files, against slow computations."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, roc_auc_score

from adaptvis_plugin.attention.familiarity import Familiarity, Setting, familiarity
from adaptvis_plugin.attention.familiarity.figures import Relation
from adaptvis_plugin.attention.familiarity.files import as_json
from adaptvis_plugin.attention.familiarity.sentences import sentences
from adaptvis_plugin.attention.familiarity.tables import grids, heading
from adaptvis_plugin.attention.record import AttentionError
from adaptvis_plugin.attention.report import write
from adaptvis_plugin.cli.tables import Fitted
from adaptvis_plugin.decoding import AdaptVis
from adaptvis_plugin.decoding.first_token import Recorded
from adaptvis_plugin.traces import Row, read_traces
from tests.test_recorded_runs import REFERENCE, TRACES
from tests.tune_helpers import simulated, write_trace

recorded = pytest.mark.skipif(not REFERENCE.is_dir(), reason="needs the recorded runs")
BASELINE: dict[str, Any] = {"method": "baseline", "alphas": ()}


def of(path: Path, setting: Setting | None = None) -> Familiarity:
    [trace] = read_traces([path])
    return familiarity(trace, setting)


def written(folder: Path, rows: Sequence[Row], setting: Setting | None = None, **header: Any) -> Familiarity:
    path = folder / f"toy-{len(list(folder.glob('*.jsonl')))}.jsonl"
    return of(write_trace(path, rows, **header), setting)


@cache
def recorded_run(name: str) -> Familiarity:
    return of(REFERENCE / "traces" / f"{name}.jsonl", AdaptVis(*TRACES[name][1]))


def shown(found: Familiarity) -> str:
    return "\n".join([*sentences(found), *map(str, grids(found))])


def relation(found: Familiarity, name: str) -> Relation:
    [one] = [one for one in found.relations if one.name == name]
    return one


def unsteered(rows: Sequence[Row]) -> list[Row]:
    return [row.model_copy(update={"generations": {1.0: row.generations[1.0]}}) for row in rows]


def yes_or_no(golds: Sequence[str], answers: Sequence[str], relations: Sequence[str | None]) -> list[Row]:
    return [
        Row(doc_id=i, question="Is it?", gold=gold, relation=name, confidence=0.6, generations={1.0: said, 0.5: "Yes"})
        for i, (gold, said, name) in enumerate(zip(golds, answers, relations, strict=True))
    ]


def judged_by_its_task(metrics: Sequence[Mapping[str, float | None]]) -> list[Row]:
    return [
        Row(doc_id=i, question="?", gold="a cat", confidence=0.1 + 0.8 * i / len(metrics), generations={1.0: "cat"},
            metrics={1.0: dict(one)})
        for i, one in enumerate(metrics)
    ]  # fmt: skip


# --- the authors' recorded answers


@recorded
@pytest.mark.parametrize(
    ("name", "plain", "smoothed", "sharpened", "adaptvis"),
    [
        ("Controlled_Images_A", 60.30, 58.18, 56.06, 84.85),
        ("COCO_QA_two_obj", 58.24, 29.26, 59.09, 59.94),
        ("VG_QA_one_obj", 35.88, 16.59, 42.67, 42.67),
    ],
)
def test_recorded_answers_have_the_published_scores(
    name: str, plain: float, smoothed: float, sharpened: float, adaptvis: float
) -> None:
    found = recorded_run(name)
    one, split = found.overall, found.split
    assert one.plain and one.smoothed and one.sharpened and split and split.both.steered
    scores = (one.plain, one.smoothed.accuracy, one.sharpened.accuracy, split.both.steered)
    assert [round(100 * score.value, 2) for score in scores] == [plain, smoothed, sharpened, adaptvis]
    assert split.below.rows + split.above.rows == found.rows


@recorded
def test_what_the_recorded_answers_say_of_familiarity() -> None:
    found = recorded_run("Controlled_Images_A")
    on, left = relation(found, "on"), relation(found, "left")
    assert (on.rows, on.said, left.rows, left.said) == (83, 0, 81, 175)
    assert on.separation and on.separation.auroc is None  # it is never right there
    assert on.smoothed and on.smoothed.gain.interval.low > 0.8
    assert on.confidence and left.confidence and on.confidence.interval.high < left.confidence.interval.low
    assert found.split and (found.split.below.rows, found.split.above.rows) == (135, 195)
    text = " ".join(sentences(found))
    assert "Confidence separates right from wrong: AUROC 0.89 [0.86, 0.92]. AdaptVis stands on this." in text
    assert "It says 'on' in 0.0%, and that is right in 25.2%." in text

    never_right = relation(recorded_run("VG_QA_one_obj"), "front")
    assert (never_right.rows, never_right.right, never_right.said, never_right.plain) == (0, 0, 296, None)


# --- against slow computations


def test_calibration_is_that_of_a_slow_computation(tmp_path: Path) -> None:
    rows = simulated(30)
    found = written(tmp_path, rows)
    confidence = [float(np.float32(row.confidence)) for row in rows]
    right = [row.gold.lower() in row.generations[1.0].lower() for row in rows]
    assert found.brier and found.brier.value == pytest.approx(brier_score_loss(right, confidence))
    assert found.reliability
    for one, strategy in zip(found.reliability, ("uniform", "quantile"), strict=True):
        shares, means = calibration_curve(right, confidence, n_bins=10, strategy=strategy)
        assert [part.accuracy.value for part in one.bins] == pytest.approx(shares)
        assert [part.confidence for part in one.bins] == pytest.approx(means)
        inside = [
            [
                i
                for i, c in enumerate(confidence)
                if part.low < c <= part.high or (part is one.bins[0] and c == part.low)
            ]
            for part in one.bins
        ]
        assert [part.rows for part in one.bins] == [len(each) for each in inside]
        gaps = [abs(sum(right[i] - confidence[i] for i in each)) for each in inside]
        assert one.error.value == pytest.approx(sum(gaps) / len(rows))
        assert 0 <= one.error.interval.low < one.error.value < one.error.interval.high  # that of the draws would not be
        assert abs(one.largest.gap) == pytest.approx(max(abs(shares - means)))


def test_the_error_of_a_perfectly_calibrated_model_is_what_chance_makes_it() -> None:
    from adaptvis_plugin.attention.familiarity.calibration import reliabilities

    random = np.random.default_rng(0)
    confidence = random.random(300)
    groups = np.zeros(300, np.intp)  # one, so that no interval is computed
    found = [reliabilities(confidence, (random.random(300) < confidence).astype(float), groups) for _ in range(100)]
    for kind in (0, 1):
        errors = [one[kind].error.value for one in found]
        assert np.mean(errors) == pytest.approx(found[0][kind].by_chance, rel=0.1)


def test_each_relation_has_the_figures_of_its_rows(tmp_path: Path) -> None:
    rows = simulated(30, {1.0: 1.0, 0.5: 3.0, 2.0: 0.5}, bias=(1.5, 0, 0, -1))
    found = written(tmp_path, rows)
    assert found.alphas == (0.5, 2.0)
    for one in (found.overall, *found.relations):
        own = [row for row in rows if one.name in ("all rows", row.gold.lower())]
        right = {a: [row.gold == row.generations[a] for row in own] for a in (1.0, 0.5, 2.0)}
        assert one.rows == len(own)
        assert one.confidence and one.plain and one.smoothed and one.sharpened and one.separation
        assert one.confidence.value == pytest.approx(np.mean([row.confidence for row in own]))
        assert one.plain.value == pytest.approx(np.mean(right[1.0]))
        assert one.smoothed.gain.value == pytest.approx(np.mean(right[0.5]) - np.mean(right[1.0]))
        assert one.sharpened.accuracy.value == pytest.approx(np.mean(right[2.0]))
        assert one.separation.auroc
        area = roc_auc_score(right[1.0], [row.confidence for row in own])
        assert one.separation.auroc.value == pytest.approx(area)
    answers = [row.generations[1.0].lower() for row in rows]
    assert {one.name: one.said for one in found.relations} == {name: answers.count(name) for name in set(answers)}
    assert relation(found, "left").probability == pytest.approx(np.mean([row.options[1.0]["left"] for row in rows]))
    differ = [row for row in rows if (row.gold == row.generations[0.5]) != (row.gold == row.generations[2.0])]
    sharper = [row.gold == row.generations[2.0] for row in differ]
    assert found.steering and found.steering.auroc
    area = roc_auc_score(sharper, [row.confidence for row in differ])
    assert found.steering.auroc.value == pytest.approx(area)


def test_rows_on_the_threshold_are_split_as_adaptvis_does(tmp_path: Path) -> None:
    confidences = [0.3449, 0.345, 0.35, 0.3501, 0.354999, 0.355, 0.36, 0.8]
    rows = [row.model_copy(update={"confidence": c}) for row, c in zip(simulated(2), confidences, strict=True)]
    method = AdaptVis(0.5, 2.0, 0.35)
    found = written(tmp_path, rows, method)
    chosen = method.choose(Recorded(confidence=torch.tensor(confidences))).tolist()
    right = [row.gold == row.generations[alpha] for row, alpha in zip(rows, chosen, strict=True)]
    assert found.split and found.split.both.steered
    assert found.split.below.rows == chosen.count(0.5) > 0
    assert found.split.both.steered.value == pytest.approx(np.mean(right))


# --- which coefficients


def test_the_coefficients_are_chosen_by_rule_and_not_by_the_answers(tmp_path: Path) -> None:
    alphas = (1.0, 0.2, 0.6, 0.8, 1.2, 3.0)
    rows = simulated(5, dict.fromkeys(alphas, 1.0))
    assert written(tmp_path, rows, alphas=alphas).alphas == (0.6, 3.0)
    assert written(tmp_path, rows, AdaptVis(0.8, 1.2, 0.5), alphas=alphas).alphas == (0.8, 1.2)
    assert written(tmp_path, rows, AdaptVis(1.0, 1.2, 0.5), alphas=alphas).alphas == (0.6, 1.2)
    found = written(tmp_path, rows, AdaptVis(0.5, 1.2, 0.5), alphas=alphas)
    assert found.alphas == (0.6, 1.2)
    assert found.split and found.split.both.plain and found.split.both.steered is None
    assert "Alpha 0.5 of the setting was not recorded, so what AdaptVis would answer is not known." in found.notes


# --- what a trace lacks


def test_a_run_with_unsteered_answers_has_no_smoothed_and_sharpened(tmp_path: Path) -> None:
    found = written(tmp_path, unsteered(simulated(10)), **BASELINE)
    assert found.alphas == (None, None) and found.overall.smoothed is None and found.steering is None
    assert found.reliability and found.overall.separation and found.overall.separation.auroc
    assert any("does not show what smoothing and sharpening do" in note for note in found.notes)
    assert "smoothed" not in shown(found).replace("Plain, smoothed, sharpened", "")


def test_steered_answers_say_nothing_about_the_confidence(tmp_path: Path) -> None:
    rows = [row.model_copy(update={"generations": {0.5 if i else 1.0: "Left"}}) for i, row in enumerate(simulated(2))]
    with pytest.raises(AttentionError, match="run of adaptvis, and 7 of 8 rows have no answer of the unsteered"):
        written(tmp_path, rows, method="adaptvis", alphas=())
    with pytest.raises(AttentionError, match="of calibrated, and its answers are not the model's own"):
        written(tmp_path, unsteered(simulated(2)), method="calibrated", alphas=())


def test_a_partial_trace_is_used_and_called_partial(tmp_path: Path) -> None:
    found = written(tmp_path, simulated(5), total=400)
    assert sentences(found)[0] == "The trace is partial: 20 of 400 rows."
    assert heading(found) == "whatsup_toy_val: 20 rows, partial: 20 of 400 rows"


def test_an_undefined_auroc_is_said_and_not_a_number(tmp_path: Path) -> None:
    rows = [row.model_copy(update={"generations": dict.fromkeys((1.0, 0.5, 2.0), row.gold)}) for row in simulated(5)]
    found = written(tmp_path, rows)
    [content] = as_json([found])
    assert content["overall"]["separation"] == {"higher": 20, "lower": 0, "auroc": None}
    assert "All 20 unsteered answers are right, so there is nothing that confidence separates." in content["sentences"]
    assert "Alpha 0.5 and alpha 2 are right in the same rows" in " ".join(content["sentences"])
    json.dumps(content, allow_nan=False)
    assert "undefined" in shown(found) and "nan" not in shown(found)
    write([found], tmp_path / "out", 0)  # the ROC curve is left out of the picture


def test_intervals_of_one_group_are_absent(tmp_path: Path) -> None:
    found = written(tmp_path, simulated(1))
    [content] = as_json([found])
    assert content["groups"] == 1 and content["overall"]["plain"]["low"] is None
    json.dumps(content, allow_nan=False)
    assert "nan" not in shown(found)
    write([found], tmp_path / "out", 0)


# --- other tasks


def test_in_yes_or_no_tasks_a_relation_is_said_by_a_yes(tmp_path: Path) -> None:
    rows = yes_or_no(["Yes", "No", "No", "Yes"], ["Yes", "yes.", "No", "perhaps"], ["left of", "left of", "on", None])
    found = written(tmp_path, rows, scoring="vsr", alphas=(1.0, 0.5))
    assert [(one.name, one.rows, one.right, one.said) for one in found.relations] == [
        ("left of", 2, 1, 2),
        ("on", 1, 0, 0),
        ("(no relation)", 1, 1, 0),
    ]
    assert found.unclear == 1
    assert found.notes == ("No coefficient above 1 was recorded.",)


def test_a_task_with_metrics_of_its_own_is_judged_by_the_first_that_says_right_or_wrong(tmp_path: Path) -> None:
    wrong, right = {"anls": 0.5, "exact": 0.0}, {"anls": 1.0, "exact": 1.0}
    found = written(tmp_path, judged_by_its_task([*[wrong] * 3, *[right] * 5, {"anls": 0.1}]), scoring=None, **BASELINE)
    assert (found.metric.name, found.rows, found.left_out) == ("exact", 8, 1)
    assert "1 of 9 rows are left out, since they have no number of exact." in found.notes
    assert found.overall.plain and found.overall.plain.value == pytest.approx(5 / 8)
    assert [(one.name, one.rows, one.said) for one in found.relations] == [("(no relation)", 8, None)]


def test_a_metric_in_degrees_has_no_calibration(tmp_path: Path) -> None:
    found = written(tmp_path, judged_by_its_task([{"anls": 0.5}, {"anls": 1.0}]), scoring=None, **BASELINE)
    assert found.overall.plain and found.overall.plain.value == 0.75
    assert found.reliability is None and found.brier is None and found.overall.separation is None
    assert any("anls does not say right or wrong" in note for note in found.notes)
    assert [grid.name for grid in grids(found)] == ["relations"]
    write([found], tmp_path / "out", 0)


def test_rows_without_any_number_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(AttentionError, match="none of them has a number for each row"):
        written(tmp_path, judged_by_its_task([{}, {}]), scoring=None, **BASELINE)
    with pytest.raises(AttentionError, match="no row has a number of anls"):
        written(tmp_path, judged_by_its_task([{"anls": None}]), scoring=None, **BASELINE)


def test_a_right_answer_that_cannot_be_judged_is_an_error(tmp_path: Path) -> None:
    rows = [row.model_copy(update={"gold": ""}) for row in simulated(1)]
    with pytest.raises(AttentionError, match=r"toy-0\.jsonl: a right answer cannot be judged: The label is empty"):
        written(tmp_path, rows)


# --- files


def test_the_report_has_tables_and_pictures_of_every_trace(tmp_path: Path) -> None:
    first = written(tmp_path, simulated(10), AdaptVis(0.5, 2.0, 0.5))
    rows = yes_or_no(["Yes", "No"] * 4, ["Yes"] * 8, ["=1+1", "left|right $x"] * 4)
    other = of(write_trace(tmp_path / "other.jsonl", rows, task="../my task", scoring="vsr", alphas=(1.0, 0.5)))
    files = write([first, other], tmp_path / "out", 0)
    pictures = [path for path in files if path.suffix == ".png"]
    assert sorted(path.name for path in pictures) == [
        f"{stem}-{name}.png"
        for stem in ("1-whatsup_toy_val", "2-my_task")
        for name in ("confidence", "relations", "reliability")
    ]
    for path in pictures:
        assert path.read_bytes().startswith(b"\x89PNG") and "<svg" in path.with_suffix(".svg").read_text()
    text = (tmp_path / "out" / "attention.md").read_text()
    assert "![Reliability of the confidence](2-my_task-reliability.png)" in text
    assert "left\\|right $x" in text
    table = pd.read_csv(tmp_path / "out" / "familiarity.csv")
    assert "'=1+1" in set(table["relation"])  # no formula to a spreadsheet
    [plain] = table.query(
        "trace == 'whatsup_toy_val' and relation == 'left' and figure == 'individual_acc' and alpha == 1"
    )["value"]
    one = relation(first, "left").plain
    assert one and plain == pytest.approx(one.value)
    bins = pd.read_csv(tmp_path / "out" / "reliability.csv")
    assert bins[bins["trace"] == "whatsup_toy_val"].groupby("bins")["rows"].sum().tolist() == [40, 40]


@pytest.mark.parametrize("width", [60, 200])
def test_the_tables_fit_a_terminal(tmp_path: Path, width: int) -> None:
    console = Console(width=width, record=True, file=StringIO())
    for grid in grids(written(tmp_path, simulated(10), AdaptVis(0.5, 2.0, 0.5))):
        console.print(Fitted(grid.head, grid.rows, range(grid.texts), grid.title, grid.note))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    assert "left" in text and "Brier score" in text


def test_nothing_of_it_imports_torch() -> None:
    modules = "".join(f", adaptvis_plugin.attention.familiarity.{name}" for name in ("files", "plots"))
    code = f"import sys{modules}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
