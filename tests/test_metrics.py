"""Metrics as functions of sums, held against the scoring of single runs; intervals and tests, against scipy."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binomtest, bootstrap
from sklearn.metrics import roc_auc_score

from adaptvis_plugin.analysis.metrics import Metric, judge, metrics_of, sums_by_group, whole_groups_right
from adaptvis_plugin.analysis.statistics import auroc, estimate, holm, paired_test
from adaptvis_plugin.scoring import vsr, whatsup
from adaptvis_plugin.scoring.whatsup import Group

LABELS = ("Left", "Right", "On", "Under")
ANSWERS = (
    "Left",
    "right",
    "on",
    "The cap is on the floor, under the table.",
    "in front of it",
    "Under.",
    "",
    "no idea",
)


def value(metric: Metric, columns: Any, groups: Sequence[int], ids: dict[Group, list[int | None]]) -> float:
    return float(metric.value(sums_by_group(metric, columns, groups, ids).sum(0)))


@settings(deadline=None)  # the first example compiles the rules
@given(st.data(), st.integers(1, 40), st.randoms(use_true_random=False))
def test_whatsup_metrics_are_those_of_the_scoring(data: st.DataObject, count: int, random: Any) -> None:
    rows: list[dict[str, Any]] = [
        {
            "answer": LABELS[place % 4],
            "generation": data.draw(st.sampled_from(ANSWERS)),
            "set_id": place // 4,
            "pair_id": place // 2,
            "options": list(LABELS),
        }
        for place in range(count + 4)
    ]
    random.shuffle(rows)
    rows = rows[:count]  # like a split, which breaks sets
    columns = judge(
        "whatsup", [r["generation"] for r in rows], [r["answer"] for r in rows], [r["options"] for r in rows]
    )
    ids: dict[Group, list[int | None]] = {
        "pair_id": [r["pair_id"] for r in rows],
        "set_id": [r["set_id"] for r in rows],
    }
    found = {m.name: value(m, columns, [r["set_id"] for r in rows], ids) for m in metrics_of("whatsup")}
    judged, strict = whatsup.outcomes(rows), whatsup.outcomes(rows, "strict")
    assert found == {
        "individual_acc": pytest.approx(whatsup.accuracy(judged)),
        "strict_acc": pytest.approx(whatsup.accuracy(strict)),
        "pair_acc": pytest.approx(whatsup.group_accuracy(judged, "pair_id", "authors")),
        "set_acc": pytest.approx(whatsup.group_accuracy(judged, "set_id", "authors")),
    }


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["Yes", "No"]), st.sampled_from(["Yes", "yes.", "No", "None", "?", ""])), min_size=1
    )
)
def test_vsr_metrics_are_those_of_the_scoring(rows: list[tuple[str, str]]) -> None:
    golds, answers = zip(*rows, strict=True)
    columns = judge("vsr", answers, golds, [None] * len(rows))
    scores = vsr.score({"answer": gold, "generation": answer, "relation": "on"} for gold, answer in rows)
    metrics = metrics_of("vsr")
    assert {m.name: value(m, columns, range(len(rows)), {}) for m in metrics} == pytest.approx(dict(scores))
    assert [m.name for m in metrics if not m.higher_is_better] == ["neither"]


def test_metrics_of_another_task_are_means_over_the_rows_that_have_them() -> None:
    recorded: list[dict[str, float | None]] = [{"f1": 0.5, "seen": None}, {"f1": 1.0, "seen": 1.0}, {"f1": 0.0}]
    columns = judge(None, ["a", "b", "c"], ["a", "a", "a"], [None] * 3, recorded)
    metrics = metrics_of(None, ["f1", "seen"])
    assert {m.name: value(m, columns, [0, 1, 2], {}) for m in metrics} == {"f1": 0.5, "seen": 1.0}


def test_pairs_and_sets_are_metrics_only_where_the_rows_have_them() -> None:
    assert [m.name for m in metrics_of("whatsup", pair_ids=False, set_ids=False)] == ["individual_acc", "strict_acc"]


def test_a_pair_counts_once_and_only_if_it_is_complete() -> None:
    correct = np.array([[1.0, 1.0, 1.0, 0.0, 1.0], [0.0, 1.0, 1.0, 1.0, 1.0]])
    found = whole_groups_right(correct, [0, 1, 0, 1, 2], "pair_id")
    assert found.tolist() == [[0, 0, 1, 0, 0], [0, 0, 0, 1, 0]]
    with pytest.raises(ValueError, match="shared by 3 rows, and at most 2"):
        whole_groups_right(correct, [0, 0, 0, 1, 1], "pair_id")


# --- intervals and tests


def mean(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    shares: NDArray[np.float64] = sums[..., 0] / sums[..., 1]
    return shares


def test_an_interval_is_scipys_over_whole_groups() -> None:
    right = np.random.default_rng(1).integers(0, 5, 60).astype(float)
    sums = np.stack([right, np.full(60, 4.0)], axis=1)
    found = estimate(sums, mean)
    theirs = bootstrap(
        (right, sums[:, 1]), lambda a, b, axis: a.sum(axis) / b.sum(axis), paired=True, vectorized=True,
        n_resamples=2000, batch=200, method="percentile", rng=np.random.default_rng(0),
    )  # fmt: skip
    assert found.interval == pytest.approx(tuple(theirs.confidence_interval))
    assert found.error == pytest.approx(theirs.standard_error)
    assert found.value == pytest.approx(right.sum() / 240)
    assert estimate(sums, mean).interval == found.interval


def test_rows_that_are_alike_within_groups_make_the_interval_wider() -> None:
    right = np.random.default_rng(0).integers(0, 2, 50).repeat(4).astype(float)
    by_row = np.stack([right, np.ones(200)], axis=1)
    by_set = by_row.reshape(50, 4, 2).sum(1)
    (low, high), (lower, higher) = estimate(by_row, mean).interval, estimate(by_set, mean).interval
    assert higher - lower > 1.7 * (high - low)


def test_intervals_of_one_group_and_of_equal_groups() -> None:
    assert np.isnan(estimate(np.array([[1.0, 2.0]]), mean).interval).all()
    assert estimate(np.array([[1.0, 2.0]] * 3), mean).interval == (0.5, 0.5)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1))
def test_mcnemar_is_the_binomial_test_of_the_rows_that_differ(rows: list[tuple[bool, bool]]) -> None:
    first, second = zip(*rows, strict=True)
    found = paired_test(first, second)
    only = rows.count((True, False)), rows.count((False, True))
    assert found[:2] == only
    assert found.p_value == pytest.approx(binomtest(only[0], sum(only)).pvalue if sum(only) else 1.0)


def test_runs_over_different_rows_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="2 and 1 rows"):
        paired_test([True, False], [True])


def test_holm_multiplies_the_smallest_by_the_number_of_tests() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


@settings(deadline=None)  # scikit-learn checks its input anew for each example
@given(st.lists(st.tuples(st.sampled_from([0.2, 0.25, 0.5, 0.9]), st.booleans()), min_size=1, max_size=30))
def test_auroc_is_scikit_learns(rows: list[tuple[float, bool]]) -> None:
    scores, positive = zip(*rows, strict=True)
    found = auroc(scores, positive, [0] * len(rows))  # one group, so nothing is drawn
    if len(set(positive)) < 2:
        assert found is None
    else:
        assert found is not None and found.value == pytest.approx(roc_auc_score(positive, scores))
        assert np.isnan(found.interval).all()


def test_the_interval_of_an_auroc_is_scipys_over_whole_groups() -> None:
    random = np.random.default_rng(1)
    groups = random.integers(0, 40, 200)
    scores = random.random(200).round(2)
    positive = random.random(200) < scores
    members = [np.flatnonzero(groups == group) for group in range(40)]

    def area(drawn: NDArray[np.intp]) -> float:
        rows = np.concatenate([members[group] for group in drawn])
        return float(roc_auc_score(positive[rows], scores[rows]))

    slow = bootstrap(
        (np.arange(40),), area, vectorized=False, n_resamples=200, method="percentile", rng=np.random.default_rng(0)
    )
    found = auroc(scores, positive, groups, resamples=200)
    assert found is not None
    assert found.interval == pytest.approx(slow.confidence_interval)
    assert found.error == pytest.approx(slow.standard_error)


def test_an_auroc_has_no_interval_where_a_draw_may_lack_one_kind_of_rows() -> None:
    found = auroc([0.1, 0.2, 0.3, 0.4], [False, False, True, False], range(4))
    assert found is not None and found.value == pytest.approx(2 / 3)
    assert np.isnan(found.interval).all()
