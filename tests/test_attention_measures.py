"""How much attention goes to the image and how it is spread, against plain loops in float64."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import entropy

from adaptvis_plugin.attention.form import Header
from adaptvis_plugin.attention.measures import MEASURES, Measures, find_sinks, measure
from adaptvis_plugin.attention.record import AttentionError, Record
from adaptvis_plugin.attention.resampling import draw
from tests.attention_rows import BEFORE, header, image_columns, logits, record, softmax

SIDE = 6
ALL_LAYERS = header(layers=(0, 1, 2, 3), heads=3)


def with_sinks(number: int, about: Header = ALL_LAYERS, image_sink: int = 20, layers: int = 4) -> Record:
    """Draw a row whose first token and one image token get much attention in the first of the layers."""
    drawn = logits(number, about, SIDE)
    drawn[:, :layers, :, BEFORE + image_sink] += 6
    drawn[:, :layers, :, 0] += 8
    return record(number, about, SIDE, weights=softmax(drawn))


def of(table: pd.DataFrame, column: str = "value", **own: Any) -> NDArray[Any]:
    """Return a column of the table's lines that have the given values."""
    chosen = np.logical_and.reduce([table[name].to_numpy() == value for name, value in own.items()])
    return table[column].to_numpy()[chosen]


def plain(weights: Any, image: Any, sinks: Any) -> dict[str, float]:
    """Measure one head the way the definitions read."""
    weights = weights.astype(float)

    def spread(own: Any) -> list[float]:
        top = sorted(own)[-max(1, int(np.ceil(0.05 * len(own)))) :]
        return [entropy(own), entropy(own) / np.log(len(own)), sum(top) / sum(own)]

    kept = ~sinks
    with_, without = spread(weights[image]), spread(weights[image & kept])
    return {
        "image_share": weights[image].sum() / weights.sum(),
        "image_share_no_sinks": weights[image & kept].sum() / weights[kept].sum(),
        "sink_share": weights[sinks].sum() / weights.sum(),
        "image_sink_share": weights[image & sinks].sum() / weights[image].sum(),
        **dict(zip(("entropy", "relative_entropy", "top_share"), with_, strict=True)),
        **dict(zip(("entropy_no_sinks", "relative_entropy_no_sinks", "top_share_no_sinks"), without, strict=True)),
    }


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_measures_are_what_their_definitions_say(number: int, sinks: bool) -> None:
    row = with_sinks(number) if sinks else record(number, ALL_LAYERS, SIDE)
    found = find_sinks(row) if sinks else np.zeros(len(row.image), bool)
    measured = measure(row, found)
    assert set(measured) == set(MEASURES) and found.any() == sinks
    for place in np.ndindex(row.weights.shape[:3]):
        for name, value in plain(row.weights[place], row.image, found).items():
            assert measured[name][place] == pytest.approx(value, rel=1e-4, abs=1e-5), (name, place)


def test_even_attention_and_attention_on_one_patch() -> None:
    image = image_columns(SIDE)
    weights = np.full((2, 2, 2, len(image)), 1 / len(image), np.float16)
    weights[1], weights[1, ..., BEFORE + 3] = 0, 1
    found = {name: values[:, 0, 0] for name, values in measure(record(0, side=SIDE, weights=weights), ~image).items()}
    assert found["relative_entropy"] == pytest.approx([1, 0]) and found["entropy"] == pytest.approx([np.log(36), 0])
    assert found["top_share"] == pytest.approx([2 / 36, 1]) and found["image_share"] == pytest.approx([36 / 42, 1])


def test_a_sink_is_a_column_that_stands_out_in_half_of_the_layers_of_the_unsteered_model() -> None:
    for layers, expected in ((4, [0, BEFORE + 20]), (2, [0, BEFORE + 20]), (1, [])):
        # Of six text columns none can have ten times their mean: a factor of 5 finds the first.
        assert np.flatnonzero(find_sinks(with_sinks(0, layers=layers), factor=5)).tolist() == expected
    assert np.flatnonzero(find_sinks(with_sinks(0))).tolist() == [BEFORE + 20]
    steered = with_sinks(0)
    steered.weights[0] = record(0, ALL_LAYERS, SIDE).weights[0]
    assert not find_sinks(steered, factor=5).any()


def test_what_has_no_meaning_is_not_counted() -> None:
    text = record(0, ALL_LAYERS, SIDE, image=np.zeros(BEFORE + SIDE**2 + 4, bool), places=None)
    blind = with_sinks(1)
    blind.weights[1, 2, 0, blind.image] = 0
    measures = Measures(ALL_LAYERS, 3)
    for row in (text, blind, with_sinks(2)):
        measures.add(row)
    heads = measures.heads()
    assert of(heads, "rows", measure="image_share").tolist() == [3] * 24 and heads["value"].notna().all()
    assert of(heads, "rows", measure="entropy", run="0.5", layer=2).tolist() == [1, 2, 2]
    assert np.isnan(measures.by_layer["entropy"][0]).all() and not np.isnan(measures.by_layer["entropy"][1:]).any()
    layers = measures.layers(["a", "b", "c"])
    assert layers.notna().all(axis=None) and set(layers.query("measure == 'entropy'")["rows"]) == {2}

    only = Measures(ALL_LAYERS, 1)
    only.add(text)
    assert set(only.heads()["measure"]) == set(only.layers(["a"])["measure"]) == {"image_share", "image_share_no_sinks",
                                                                                 "sink_share"}  # fmt: skip


# Many rows

RUNS = {"plain": [0] * 12, "AdaptVis": [0, 1, 1] * 4}
GROUPS = [f"set {number // 3}" for number in range(12)]


@pytest.fixture(scope="module")
def rows() -> list[Record]:
    """Rows whose attention on the image is halved under the second condition, before the softmax."""
    found = []
    for number in range(12):
        drawn = logits(number, ALL_LAYERS, SIDE)
        drawn[1] = drawn[0]
        drawn[1][..., image_columns(SIDE)] -= np.log(2)
        found.append(record(number, ALL_LAYERS, SIDE, weights=softmax(drawn)))
    return found


@pytest.fixture(scope="module")
def measured(rows: list[Record]) -> Measures:
    measures = Measures(ALL_LAYERS, len(rows), RUNS)
    for row in rows:
        measures.add(row)
    return measures


def test_means_over_the_rows_are_those_of_each_run_s_conditions(rows: list[Record], measured: Measures) -> None:
    heads, layers = measured.heads(), measured.layers(GROUPS)
    each = [measure(row, find_sinks(row)) for row in rows]
    for run, conditions in RUNS.items():
        for name in MEASURES:
            own = np.array([one[name][place] for one, place in zip(each, conditions, strict=True)], float)
            assert of(heads, run=run, measure=name) == pytest.approx(own.mean(0).ravel(), rel=1e-5)
            assert of(layers, run=run, measure=name) == pytest.approx(own.mean((0, 2)), rel=1e-5)
    assert measured.token_share == [36 / 42] * 12


def test_the_change_and_its_interval_are_those_of_drawn_groups(measured: Measures) -> None:
    layers = measured.layers(GROUPS)
    for end in ("change", "change_low", "change_high"):
        assert (of(layers, end, run="plain") == 0).all()
    values = measured.by_layer["image_share"]
    own = values[np.arange(12), RUNS["AdaptVis"]] - values[:, 0]
    drawn = [np.concatenate([own[3 * g : 3 * g + 3] for g in range(4) for _ in range(times[g])]).mean(0)
             for times in draw(4).astype(int)]  # fmt: skip
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    assert of(layers, "change_low", run="AdaptVis", measure="image_share") == pytest.approx(low, rel=1e-4)
    assert of(layers, "change_high", run="AdaptVis", measure="image_share") == pytest.approx(high, rel=1e-4)
    assert (low < high).all() and (high < 0).all()


def test_sinks_that_come_back_at_the_same_place_are_counted() -> None:
    measures = Measures(ALL_LAYERS, 4)
    for number, place in enumerate((20, 20, 20, 7)):
        measures.add(with_sinks(number, image_sink=place))
    assert measures.sink_columns().to_dict("records") == [
        {"kind": "image", "place": 20, "rows": 3, "share": 0.75},
        {"kind": "image", "place": 7, "rows": 1, "share": 0.25},
    ]
    assert [sinks.tolist() for sinks in measures.sinks] == [[BEFORE + 20]] * 3 + [[BEFORE + 7]]
    layers = measures.layers(list("abcd"))
    assert (of(layers, measure="image_sink_share") > 0.8).all()
    assert (of(layers, measure="relative_entropy") < 0.5).all()
    assert (of(layers, measure="relative_entropy_no_sinks") > 0.8).all()


@pytest.mark.parametrize(
    ("runs", "complaint"),
    [
        ({"AdaptVis": [0, 1]}, "the run 'AdaptVis' has 2 rows; 12 are captured"),
        ({"AdaptVis": [0, 2] * 6}, "the run 'AdaptVis' has condition number 2; the conditions are 1.0, 0.5"),
        ({"AdaptVis": [-1] * 12}, "has condition number -1"),
    ],
)
def test_runs_that_do_not_fit_are_refused(runs: dict[str, list[int]], complaint: str) -> None:
    with pytest.raises(AttentionError, match=complaint):
        Measures(ALL_LAYERS, 12, runs)
