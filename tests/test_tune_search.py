"""The search over all settings, held against the slow and obvious loop with the methods' own rule."""

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from adaptvis_plugin.decoding import AdaptVis, ScalingVis
from adaptvis_plugin.decoding.first_token import Recorded
from adaptvis_plugin.scoring import vsr, whatsup
from adaptvis_plugin.traces import Row, Trace, read_traces
from adaptvis_plugin.tuning import search
from adaptvis_plugin.tuning.outcomes import outcomes_of
from adaptvis_plugin.tuning.search import Setting, short_number, surface
from tests.tune_helpers import ALPHAS, OPTIONS, REFERENCE, write_trace

SAID = {
    "whatsup": ("Left", "right", "on", "The cap is on the floor, under the table.", "under", ""),
    "vsr": ("Yes", "yes", "No", "None of it", "?"),
}
GOLDS = {"whatsup": ("Left", "Right", "On", "Under"), "vsr": ("Yes", "No")}


def all_rows(trace: Trace) -> NDArray[np.intp]:
    return np.arange(len(trace.rows))


def slow_score(trace: Trace, method: AdaptVis | ScalingVis, metric: str) -> float:
    """Answer each row as the decoder would, and score the answers as a run is scored."""
    alphas = method.choose(Recorded(confidence=torch.tensor([row.confidence for row in trace.rows]))).double()
    rows: list[dict[str, Any]] = [
        {
            "answer": row.gold,
            "generation": row.generations[round(float(alpha), 6)],
            "relation": "on",
            "set_id": row.set_id,
            "pair_id": row.pair_id,
            "options": OPTIONS,
        }
        for row, alpha in zip(trace.rows, alphas, strict=True)
    ]
    if trace.scoring == "vsr":
        return float(vsr.score(rows)[metric])  # type: ignore[literal-required]
    judged = whatsup.outcomes(rows, "strict" if metric == "strict_acc" else "authors")
    if metric in ("pair_acc", "set_acc"):
        return whatsup.group_accuracy(judged, "pair_id" if metric == "pair_acc" else "set_id", "authors")
    return whatsup.accuracy(judged)


@st.composite
def any_rows(draw: st.DrawFn, scoring: str) -> list[Row]:
    count = draw(st.integers(4, 16))
    confidence = st.one_of(st.floats(0.25, 1, width=32), st.sampled_from([0.3, 0.345, 0.355, 0.5, 1.0]))
    return [
        Row(
            doc_id=number,
            question="?",
            gold=GOLDS[scoring][number % len(GOLDS[scoring])],
            set_id=number // 4 if scoring == "whatsup" else None,
            pair_id=number // 2 if scoring == "whatsup" else None,
            confidence=draw(confidence),
            generations={alpha: draw(st.sampled_from(SAID[scoring])) for alpha in ALPHAS},
            options={alpha: dict.fromkeys(OPTIONS, 0.25) for alpha in ALPHAS} if scoring == "whatsup" else {},
        )
        for number in range(count)
    ]


@pytest.fixture(autouse=True, scope="module")
def in_parts() -> Iterator[None]:
    """So few thresholds at once that even a small trace has several parts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "AT_ONCE", 3)
        yield


@pytest.mark.parametrize(
    "metric",
    ["individual_acc", "strict_acc", "pair_acc", "set_acc", "accuracy", "precision", "standard_f1", "authors_f1"],
)
@settings(max_examples=8, deadline=None)
@given(st.data())
def test_the_search_is_the_slow_loop(
    tmp_path_factory: pytest.TempPathFactory, metric: str, data: st.DataObject
) -> None:
    scoring = "whatsup" if metric.endswith("_acc") else "vsr"
    file = write_trace(
        tmp_path_factory.mktemp("traces") / "t.jsonl", data.draw(any_rows(scoring)), task="t", scoring=scoring
    )
    (trace,) = read_traces([file])
    one = outcomes_of(trace, metric)
    found = surface([one], [all_rows(trace)])
    for (i, low), (j, high) in itertools.product(enumerate(found.alphas), repeat=2):
        for k, threshold in enumerate(found.thresholds):
            assert found.values[i, j, k] == pytest.approx(slow_score(trace, AdaptVis(low, high, threshold), metric))
    # No threshold that a user could write does better.
    every = [
        slow_score(trace, AdaptVis(low, high, threshold / 100), metric)
        for low, high in itertools.product(found.alphas, repeat=2)
        for threshold in range(0, 101, 3)
    ]
    best = found.best()
    assert slow_score(trace, AdaptVis(*best), metric) == pytest.approx(found.values.max())
    assert one.score(one.objective, best.choice(one)) == pytest.approx(found.values.max())
    assert found.values.max() >= max(every) - 1e-9
    scaling = found.best(single=True)
    assert scaling.alpha_low == scaling.alpha_high
    assert slow_score(trace, ScalingVis(scaling.alpha_low), metric) == pytest.approx(
        max(slow_score(trace, ScalingVis(alpha), metric) for alpha in found.alphas)
    )


def rows_of(answers: dict[float, str], gold: str = "Left", **values: Any) -> Row:
    return Row(question="?", gold=gold, generations=answers, **values)


def test_of_equal_settings_the_one_nearest_to_the_plain_model_is_chosen(tmp_path: Path) -> None:
    same = {alpha: "Left" for alpha in ALPHAS}
    rows = [
        rows_of(same, doc_id=0, confidence=0.4),
        rows_of(same, "Right", doc_id=1, confidence=0.6),
    ]
    (trace,) = read_traces([write_trace(tmp_path / "equal.jsonl", rows)])
    assert surface([outcomes_of(trace)], [all_rows(trace)]).best() == Setting.single(1.0)
    # Only the least sure row gains, under 0.5 and 2 alike: it alone is steered, and 0.5 is as near to 1 as 2 is.
    rows[0] = rows_of({1.0: "", 0.5: "Left", 2.0: "Left"}, doc_id=0, confidence=0.4)
    (trace,) = read_traces([write_trace(tmp_path / "one.jsonl", rows)])
    assert surface([outcomes_of(trace)], [all_rows(trace)]).best() == (0.5, 1.0, 0.5)


def test_settings_that_traces_share_are_the_best_in_the_mean(tmp_path: Path) -> None:
    traces = []
    for name, better in (("a", 0.5), ("b", 2.0)):
        rows = [
            rows_of({alpha: "Left" if alpha == better else "" for alpha in ALPHAS}, doc_id=0, confidence=0.4),
            rows_of({alpha: "" if alpha == 1 else "Right" for alpha in ALPHAS}, "Right", doc_id=1, confidence=0.6),
        ]
        traces += read_traces([write_trace(tmp_path / f"{name}.jsonl", rows, task=name)])
    outcomes = [outcomes_of(trace) for trace in traces]
    alone = [surface([one], [np.arange(2)]) for one in outcomes]
    both = surface(outcomes, [np.arange(2)] * 2)
    assert np.allclose(both.values, (alone[0].values + alone[1].values) / 2)
    assert (both.steered == alone[0].steered + alone[1].steered).all()
    assert [one.best(True).alpha_low for one in alone] == [0.5, 2.0]


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_threshold_is_a_short_number_that_splits_the_same_rows(one: float, other: float) -> None:
    above, upto = sorted((one, other))
    if above < upto:
        found = short_number(above, upto)
        assert above < found <= upto
        assert len(repr(found)) <= max(len(repr(upto)), 4)


@pytest.mark.parametrize(("above", "upto", "short"), [(0.43, 0.44, 0.44), (0.4, 0.46, 0.43), (0.38, 0.62, 0.5)])
def test_the_shortest_number_nearest_to_the_middle(above: float, upto: float, short: float) -> None:
    assert short_number(above, upto) == short


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="needs the recorded runs")
def test_the_largest_recorded_trace_takes_less_than_a_second() -> None:
    (trace,) = read_traces([REFERENCE / "VG_QA_one_obj.jsonl"])
    start = time.perf_counter()
    found = surface([outcomes_of(trace)], [all_rows(trace)])
    assert time.perf_counter() - start < 1
    assert len(trace.rows) == 928 and found.values.shape[:2] == (6, 6) and len(found.thresholds) > 40
