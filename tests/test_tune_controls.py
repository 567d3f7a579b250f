"""Folds and controls: what a correction of label bias brings, and that no row's label reaches its own answer."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.model_selection import GroupKFold
from typer.testing import CliRunner

from adaptvis_plugin.analysis.statistics import Estimate, Interval
from adaptvis_plugin.cli import app
from adaptvis_plugin.decoding import AdaptVis, Calibrated
from adaptvis_plugin.models import load_preset
from adaptvis_plugin.scoring import whatsup
from adaptvis_plugin.traces import Row, Sweep, read_traces
from adaptvis_plugin.traces.answers import answers_under
from adaptvis_plugin.tuning import controls
from adaptvis_plugin.tuning.folds import fit, hold_out, widening
from adaptvis_plugin.tuning.outcomes import Outcomes, outcomes_of
from adaptvis_plugin.tuning.preset import calibrated_settings, published_settings
from adaptvis_plugin.tuning.search import surface
from adaptvis_plugin.tuning.study import beats, rows_needed, smallest_gain, study
from tests.tune_helpers import OPTIONS, REFERENCE, simulated, write_trace


def judged(folder: Path, rows: list[Row], **header: Any) -> Outcomes:
    (trace,) = read_traces([write_trace(folder / "trace.jsonl", rows, **header)])
    return outcomes_of(trace)


def score(one: Outcomes, name: str) -> float:
    assert one.options is not None
    learned = np.arange(len(one.confidence))
    return one.score(one.objective, controls.CONTROLS[name].fit(one, one.options, learned))


def test_every_correction_finds_a_bias_and_none_harms_a_model_without_one(tmp_path: Path) -> None:
    evidence = {1.0: 2.0, 0.5: 2.0, 2.0: 2.0}
    fair = judged(tmp_path / "fair", simulated(100, evidence))
    biased = judged(tmp_path / "biased", simulated(100, evidence, bias=(3, 0, 0, -1)))
    plain = fair.score(fair.objective, fair.plain)
    lost = plain - biased.score(biased.objective, biased.plain)
    assert lost > 0.2
    for name in ("batch", "offsets", "regression", "regression_all"):
        assert score(biased, name) > plain - lost / 2, name
        assert score(fair, name) > plain - 0.02, name
    assert score(fair, "first_token") == plain
    assert score(fair, "most_frequent") == 0.25


def test_batch_calibration_uses_no_labels(tmp_path: Path) -> None:
    rows = simulated(20, bias=(2, 0, 0, 0))
    wrong = [row.model_copy(update={"gold": rows[(place + 1) % len(rows)].gold}) for place, row in enumerate(rows)]
    choices, priors = [], []
    for number, each in enumerate((rows, wrong)):
        one = judged(tmp_path / str(number), each)
        assert one.options is not None
        choices.append(controls.batch_calibrated(one, one.options, np.arange(40)))
        priors.append(controls.prior(one.options, np.arange(40)))
    assert (choices[0] == choices[1]).all()
    assert priors[0] == pytest.approx(np.mean([list(row.options[1.0].values()) for row in rows[:40]], axis=0))


def test_the_offsets_make_the_mean_probabilities_the_shares_of_the_labels(tmp_path: Path) -> None:
    one = judged(tmp_path, simulated(500, bias=(2, 0, -1, 0)))
    assert one.options is not None
    offsets = controls.fit_offsets(one.options, np.arange(2000))
    means = softmax(one.options.log_p[0] + offsets, axis=1).mean(0)
    assert means == pytest.approx([0.25] * 4, abs=0.01)


def test_an_option_that_a_row_does_not_offer_is_not_its_answer(tmp_path: Path) -> None:
    rows = simulated(30, bias=(0, 0, 4, 0))
    few = [
        row.model_copy(
            update={
                "options": {
                    alpha: {name: one[name] / (one["left"] + one["right"]) for name in ("left", "right")}
                    for alpha, one in row.options.items()
                }
            }
        )
        for row in rows
        if row.gold in ("Left", "Right")
    ]
    one = judged(tmp_path, [*few, *(row for row in rows if row.gold in ("On", "Under"))])
    assert one.options is not None and one.options.names == OPTIONS
    narrow = ~one.options.offered[:, 2]
    assert narrow.sum() == 60
    for control in controls.CONTROLS.values():
        choice = control.fit(one, one.options, np.arange(len(narrow))) - len(one.alphas)
        assert (choice[narrow] < 2).all(), control.title


def test_two_options_and_a_single_label_are_fitted_too(tmp_path: Path) -> None:
    evidence = {1.0: 2.0, 0.5: 2.0, 2.0: 2.0}
    one = judged(tmp_path, simulated(200, evidence, bias=(0, 3), options=("yes", "no")), scoring="vsr", task="vsr_val")
    assert one.options is not None
    assert score(one, "regression") > one.score(one.objective, one.plain) + 0.1
    only_no = np.flatnonzero(one.options.labels == 1)
    choice = controls.regression_plain(one, one.options, only_no) - len(one.alphas)
    assert (choice == 1).all()


@pytest.mark.parametrize("options", [OPTIONS, ("yes", "no")])
def test_the_calibrations_of_a_preset_answer_as_the_controls_do(tmp_path: Path, options: tuple[str, ...]) -> None:
    rows = simulated(50, bias=(2, 0, -1, 0)[: len(options)], options=options)
    scoring = "vsr" if "yes" in options else "whatsup"
    one = judged(tmp_path, rows, scoring=scoring)
    (found,) = study([one], [{}], folds=2, repeats=1)
    values = calibrated_settings(found)
    assert values is not None and values["calibration"] in ("batch", "fitted")
    assert one.options is not None
    everything = np.arange(len(rows))
    batch, fitted = (
        [one.options.names[place - len(one.alphas)] for place in control(one, one.options, everything)]
        for control in (controls.batch_calibrated, controls.regression_plain)
    )
    for row, by_batch, by_fit in zip(rows, batch, fitted, strict=True):
        log_p = {name: np.log(p) for name, p in row.options[1.0].items()}
        assert by_batch == max(options, key=lambda o: log_p[o] - np.log(values["prior"][o]))
        weights, offsets = values["weights"], values["offsets"]
        assert by_fit == max(options, key=lambda o: offsets[o] + sum(weights[o][j] * log_p[j] for j in options))


def test_an_option_that_only_other_rows_offer_is_answered_as_the_folds_answer_it(tmp_path: Path) -> None:
    """Tuned on three options, run on rows with a fourth: for batch calibration it is as likely as chance says."""

    def without_under(row: Row) -> Row:
        few = {
            alpha: {name: p / (1 - one["under"]) for name, p in one.items() if name != "under"}
            for alpha, one in row.options.items()
        }
        return row.model_copy(update={"options": few})

    seen = [without_under(row) for row in simulated(30, bias=(0, 1, 0, 0)) if row.gold != "Under"]
    rows = [
        row.model_copy(update={"doc_id": 200 + place, "set_id": None, "pair_id": None})
        for place, row in enumerate(simulated(30, bias=(0, 1, 0, 0), seed=1))
    ]
    preset = tmp_path / "mine.yaml"
    trace = write_trace(tmp_path / "toy_val.jsonl", seen)
    assert CliRunner().invoke(app, ["tune", str(trace), "-o", str(preset), "--repeats", "1"]).exit_code == 0
    values = load_preset(preset).values("whatsup_toy_test", "calibrated")
    assert values["prior"]["*"] == pytest.approx(1 / 3) and "under" not in values["prior"]
    # The fold's choice, if `under` is offered in tested rows only.
    one = judged(tmp_path / "both", [*seen, *rows])
    assert one.options is not None
    for calibration, control in (("batch", controls.batch_calibrated), ("fitted", controls.regression_plain)):
        choice = control(one, one.options, np.arange(len(seen)))[len(seen) :] - len(one.alphas)
        method = Calibrated(**{**values, "calibration": calibration})
        answers = [answer.text.lower() for answer in answers_under(method, rows, "a test", Sweep())]
        assert answers == [one.options.names[place] for place in choice]
        assert ("under" in answers) == (calibration == "batch")


# --- folds


def test_no_row_is_answered_by_a_choice_that_saw_its_group(tmp_path: Path) -> None:
    rows = simulated(12, {1.0: 0.5, 0.5: 0.5, 2.0: 0.6}, bias=(1, 0, 0, 0))
    one = judged(tmp_path / "one", rows)
    held = hold_out([one], folds=4, repeats=1)
    # The right answers of one whole set move on by one: nothing that answers this set may change.
    mine = range(20, 24)
    moved = list(rows)
    for place in mine:
        moved[place] = rows[place].model_copy(update={"gold": rows[20 + (place + 1) % 4].gold})
    other = hold_out([judged(tmp_path / "other", moved)], folds=4, repeats=1)
    for name, (choice,) in held.choices.items():
        assert (choice[:, mine] == other.choices[name][0][:, mine]).all(), name
    assert any((choice[0] != other.choices[name][0]).any() for name, choice in held.choices.items())


def test_held_out_answers_are_those_of_the_settings_that_the_folds_chose(tmp_path: Path) -> None:
    one = judged(tmp_path, simulated(20, {1.0: 0.0, 0.5: 3.0, 2.0: 0.0}))
    held = hold_out([one], folds=5, repeats=2)
    assert len(held.settings["adaptvis"]) == 10
    assert {setting.alpha_low for setting in held.settings["scalingvis"]} == {0.5}
    assert (held.choices["scalingvis"][0] == one.alphas.index(0.5)).all()
    everything = fit([one], [np.arange(80)])
    assert everything.settings["adaptvis"] == surface([one], [np.arange(80)]).best()


def test_an_estimate_is_the_mean_over_repeats_of_the_answers_scored_as_a_run(tmp_path: Path) -> None:
    rows = simulated(15, {1.0: 1.0, 0.5: 1.5, 2.0: 0.5}, bias=(1, 0, 0, 0))
    (trace,) = read_traces([write_trace(tmp_path / "trace.jsonl", rows)])
    one = outcomes_of(trace, "set_acc")
    (found,) = study([one], [{}], folds=3, repeats=2)
    scores = []
    for seed in range(2):
        answers: dict[int | None, str] = {}
        for learned, tested in GroupKFold(3, shuffle=True, random_state=seed).split(rows, groups=one.groups):
            best = AdaptVis(*surface([one], [learned]).best())
            mine = [rows[place] for place in tested]
            answers |= {
                row.doc_id: answer.text
                for row, answer in zip(mine, answers_under(best, mine, "", Sweep()), strict=True)
            }
        run: list[Any] = [
            {"answer": row.gold, "generation": answers[row.doc_id], "set_id": row.set_id, "options": OPTIONS}
            for row in rows
        ]
        scores.append(whatsup.group_accuracy(whatsup.outcomes(run), "set_id", "authors"))
    assert found.lines["adaptvis"].estimate.value == pytest.approx(np.mean(scores))


def test_steering_without_an_effect_is_seldom_called_better(tmp_path: Path) -> None:
    """Choices on folds err together: with the plain bootstrap's interval, every eighth of these would be."""
    count = 60
    called = {"scalingvis": 0, "adaptvis": 0}
    for seed in range(count):
        rows = simulated(8, {1.0: 1.0, 0.5: 1.00001, 2.0: 1.00002}, seed=seed)  # each has noise of its own
        bare = [row.model_copy(update={"options": {}}) for row in rows]
        (found,) = study([judged(tmp_path / str(seed), bare)], [{}], folds=5, repeats=2)
        for name in called:
            called[name] += beats(found.together[name])
    assert max(called.values()) <= 0.05 * count


def test_intervals_of_choices_on_folds_are_wider() -> None:
    assert widening(5, 10_000) == pytest.approx(1.5, abs=0.001)  # 1/5 + 1/4 in place of 1/5
    assert widening(2, 10_000) == pytest.approx(np.sqrt(3), abs=0.001)
    assert widening(5, 8) / widening(5, 10_000) == pytest.approx(2.365 / 1.96, abs=0.001)  # t with 7 degrees of freedom


def test_rows_needed_to_show_a_gain() -> None:
    def gain(value: float, error: float) -> Estimate:
        return Estimate(value, Interval(value - 2 * error, value + 2 * error), error)

    # The textbook: (1.96 + 0.84)^2 = 7.85 variances of a row, over the squared difference.
    assert rows_needed(gain(0.05, 0.02), 400) == pytest.approx(7.85 * (0.02 * 20 / 0.05) ** 2, rel=0.05)
    assert rows_needed(gain(0.1, 0.0), 400) == 2
    assert rows_needed(gain(0.0, 0.02), 400) is None
    assert rows_needed(gain(-0.1, 0.02), 400) is None
    # With as many rows as there are, the smallest gain that they show.
    smallest = smallest_gain(gain(-0.1, 0.02), 400)
    assert smallest is not None and rows_needed(gain(smallest, 0.02), 400) == pytest.approx(400, rel=0.03)
    assert smallest_gain(gain(0.0, 0.0), 400) is None


# --- the recorded runs

FINDINGS = {
    "Controlled_Images_A": {
        "plain": (60.1, 1.5), "scalingvis": (61.9, 3.6), "adaptvis": (84.7, 2.0), "batch": (82.4, 1.4),
        "offsets": (77.8, 5.1), "regression": (87.5, 2.3), "regression_all": (87.6, 2.3),
    },
    "COCO_QA_two_obj": {
        "plain": (58.0, 1.7), "scalingvis": (57.8, 2.7), "adaptvis": (57.7, 2.7), "batch": (53.9, 1.8),
        "offsets": (57.7, 2.6), "regression": (55.5, 2.2), "regression_all": (56.3, 2.5),
    },
    "VG_QA_one_obj": {
        "plain": (35.8, 0.9), "scalingvis": (42.0, 1.0), "adaptvis": (41.9, 1.2), "batch": (46.6, 1.6),
        "offsets": (65.3, 1.3), "regression": (72.1, 1.4), "regression_all": (72.4, 1.3),
    },
}  # fmt: skip
"""Fitted to 20% of the rows, drawn at random 40 times, and scored on the rest: mean and spread, computed by others."""


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="needs the recorded runs")
@pytest.mark.parametrize("name", FINDINGS)
def test_the_recorded_runs_give_what_others_found(name: str) -> None:
    (trace,) = read_traces([REFERENCE / f"{name}.jsonl"])
    one = outcomes_of(trace)
    count = len(trace.rows)
    scores: dict[str, list[float]] = {}
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(count)
        drawn, rest = order[: count // 5], order[count // 5 :]
        for way, (choice,) in fit([one], [drawn]).choices.items():
            scores.setdefault(way, []).append(100 * one.score(one.objective, choice, rest))
    for way, (mean, spread) in FINDINGS[name].items():
        assert np.mean(scores[way]) == pytest.approx(mean, abs=spread), way


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="needs the recorded runs")
def test_most_of_a_recorded_gain_is_a_change_of_the_answers_form() -> None:
    (trace,) = read_traces([REFERENCE / "Controlled_Images_A.jsonl"])
    (found,) = study([outcomes_of(trace)], [published_settings(trace)], folds=2, repeats=1)
    (form,) = [form for form in found.forms if form.setting == (0.5, 1.5, 0.4)]
    assert form.rows == 127  # 94% of the 135 rows that it smooths
    assert (round(100 * form.before, 1), round(100 * form.after, 1)) == (25.2, 85.8)
    assert form.first_token is not None and round(100 * form.first_token, 1) == 38.6
