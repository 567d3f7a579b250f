"""Attention on boxes and laid over pixels, held against counting pixels; and what it says of the answers."""

from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from adaptvis_plugin.attention.areas import inside, pixel_map
from adaptvis_plugin.attention.overlap import Overlaps, overlap
from adaptvis_plugin.attention.prediction import Prediction, auroc, drawn_auroc, predict, shuffled_auroc
from adaptvis_plugin.attention.record import Places
from adaptvis_plugin.attention.resampling import draw, grouped
from adaptvis_plugin.attention.store import AttentionStore
from tests.attention_rows import BEFORE, begun, grid, header, image_columns, logits, record, softmax


class Rectangle(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float


def columns(*boxes: tuple[float, float, float, float]) -> Places:
    return Places(np.zeros(len(boxes), np.int32), np.array(boxes, np.float32).reshape(-1, 4))


# Areas. Sides are quarters of pixels, so that counting in a picture of four times the size is exact.

quarters = st.integers(-8, 56).map(lambda number: number / 4)
sides = st.tuples(quarters, quarters).map(sorted)
rectangles = st.builds(lambda x, y: Rectangle(x[0], y[0], x[1], y[1]), sides, sides)
areas = rectangles.filter(lambda box: box.left < box.right and box.top < box.bottom)


def painted(box: Rectangle) -> NDArray[np.bool_]:
    """Paint a box into a canvas of quarter pixels that begins at -2."""
    canvas = np.zeros((64, 64), bool)
    left, top, right, bottom = (int(4 * side) + 8 for side in box)
    canvas[top:bottom, left:right] = True
    return canvas


@settings(deadline=None)
@given(st.lists(areas, max_size=5), st.lists(rectangles, max_size=5))
def test_the_part_of_a_column_inside_of_boxes_is_what_counting_gives(
    own: list[Rectangle], boxes: list[Rectangle]
) -> None:
    union = np.any([painted(box) for box in boxes], axis=0) if boxes else np.zeros((64, 64), bool)
    counted = [(painted(one) & union).sum() / painted(one).sum() for one in own]
    assert inside(columns(*own), boxes) == pytest.approx(counted, abs=1e-12)


@settings(deadline=None)
@given(st.lists(st.tuples(areas, st.floats(0, 1, width=16)), max_size=5))
def test_a_map_has_in_each_pixel_what_counting_gives(own: list[tuple[Rectangle, float]]) -> None:
    places, weights = columns(*(box for box, _ in own)), np.array([weight for _, weight in own])
    found = pixel_map(places, weights, (12, 10))
    fine = sum((painted(box) * (weight / painted(box).sum()) for box, weight in own), np.zeros((64, 64)))
    counted = fine[8 : 8 + 40, 8 : 8 + 48].reshape(10, 4, 12, 4).sum((1, 3))
    assert found.shape == (10, 12) and found.dtype == np.float32 and (found >= 0).all()
    assert found == pytest.approx(counted, abs=1e-6)


def test_a_map_of_columns_of_any_size_adds_up_to_their_weight() -> None:
    edges = np.linspace(0, 101, 25)
    boxes = [(a, b, c, d) for a, c in pairwise(edges) for b, d in pairwise(edges)]
    weights = np.random.default_rng(0).random(576)
    assert pixel_map(columns(*boxes), weights, (101, 101)).sum() == pytest.approx(weights.sum(), rel=1e-5)
    assert pixel_map(columns(), np.zeros(0), (3, 2)).tolist() == [[0, 0, 0], [0, 0, 0]]


def test_columns_without_a_place_or_of_another_picture_have_no_part_in_it() -> None:
    places = Places(np.array([0, -1, 1], np.int32), np.array([[0, 0, 2, 2], [np.nan] * 4, [0, 0, 1, 1]], np.float32))
    everything = [Rectangle(0, 0, 9, 9)]
    assert inside(places, everything).tolist() == [1, 0, 0] and inside(places, everything, 1).tolist() == [0, 0, 1]
    assert pixel_map(places, np.ones(3), (2, 2)).tolist() == [[0.25, 0.25], [0.25, 0.25]]
    assert pixel_map(places, np.ones(3), (2, 2), 1).tolist() == [[1, 0], [0, 0]]


# Overlap

LEFT_HALF = [Rectangle(0, 0, 6, 12)]
"""Half of the picture of three columns by three: the left ones, and half of the middle ones."""


def test_overlap_is_the_attention_inside_the_boxes_over_that_of_all_columns_with_a_place() -> None:
    row = record(0)
    found = overlap(row, LEFT_HALF)
    assert not isinstance(found, str) and found.even == pytest.approx(0.5)
    own = row.weights[..., row.image].astype(float)
    part = np.array([1, 0.5, 0] * 3)
    assert found.heads == pytest.approx((own @ part) / own.sum(-1), rel=1e-5)
    assert found.layers == pytest.approx((own.mean(2) @ part) / own.mean(2).sum(-1), rel=1e-5)
    twice = overlap(row, [*LEFT_HALF, Rectangle(1, 1, 3, 3)])
    assert not isinstance(twice, str) and (twice.heads == found.heads).all()


def test_overlap_without_sinks_and_with_columns_over_the_same_pixels() -> None:
    """Half of the columns are an overview of one column, the others its four tiles; one is a newline."""
    box = [[0, 0, 8, 8], [0, 0, 4, 4], [4, 0, 8, 4], [np.nan] * 4, [0, 4, 4, 8], [4, 4, 8, 8]]
    image = np.array([False, True, True, True, True, True, True])
    weights = np.tile(np.array([0.5, 0.0625, 0.25, 0.0625, 0.0625, 0.03125, 0.03125], np.float16), (2, 2, 2, 1))
    places = Places(np.array([0, 0, 0, -1, 0, 0], np.int32), np.array(box, np.float32))
    row = record(0, weights=weights, ids=np.arange(7, dtype=np.int32), image=image, places=places)
    found, kept = (overlap(row, [Rectangle(0, 0, 4, 4)], sinks) for sinks in (None, np.arange(7) == 2))
    assert not isinstance(found, str) and not isinstance(kept, str)
    assert np.unique(found.heads) == pytest.approx((0.0625 / 4 + 0.25) / 0.4375)
    assert found.even == pytest.approx((0.25 + 1) / 5)
    assert np.unique(kept.layers) == pytest.approx((0.0625 / 4) / 0.1875) and kept.even == pytest.approx(0.25 / 4)


def test_rows_without_an_overlap_are_left_out_with_the_reason() -> None:
    found = Overlaps(header(), {0: LEFT_HALF, 2: LEFT_HALF, 3: [Rectangle(50, 50, 60, 60)], 4: LEFT_HALF, 5: LEFT_HALF})
    assert found.all().heads.shape == (0, 2, 2, 2) and found.all().layers.shape == (0, 2, 2)
    nowhere = Places(np.full(9, -1, np.int32), np.full((9, 4), np.nan, np.float32))
    blind = record(5)
    blind.weights[0, 1, 1, blind.image] = 0
    for row in (record(0), record(1), record(2, places=None), record(3), record(4, places=nowhere), blind):
        found.add(row)
    assert found.doc_ids == [0, 5] and {number: reason.split()[0:3] for number, reason in found.left_out.items()} == {
        1: ["it", "has", "no"],
        2: ["its", "image", "columns"],
        3: ["its", "boxes", "hold"],
        4: ["none", "of", "its"],
    }
    assert found.all().heads[1, 0, 1, 1] == found.all().even[1] == 0.5  # no attention prefers no place
    layers, heads = found.all().under([0, 1])
    assert (heads[1] == found.all().heads[1, 1]).all() and (layers[0] == found.all().layers[0, 0]).all()


# AUROC


class Drawn(NamedTuple):
    numbers: NDArray[np.float32]
    right: NDArray[np.bool_]
    groups: list[str]


def answers(seed: int, rows: int = 60, kinds: int = 12, ties: bool = False) -> Drawn:
    """Draw numbers of four columns and answers, in groups of different sizes; the first column says something."""
    rng = np.random.default_rng(seed)
    right = rng.random(rows) < 0.6
    numbers = rng.normal(size=(rows, 4)).astype(np.float32)
    numbers[:, 0] += right
    return Drawn(numbers.round() if ties else numbers, right, [f"set {kind}" for kind in rng.integers(0, kinds, rows)])


@pytest.mark.parametrize("ties", [False, True])
def test_auroc_and_its_draws_equal_scikit_learn_s(ties: bool) -> None:
    numbers, right, groups = answers(0, ties=ties)
    assert auroc(numbers, right) == pytest.approx([roc_auc_score(right, column) for column in numbers.T])
    members = grouped(groups, len(right))
    drawn = drawn_auroc(numbers, right, members, 50)
    for found, times in zip(drawn, draw(members.number, 50), strict=True):
        weights = times[members.of_row]
        assert found == pytest.approx([roc_auc_score(right, column, sample_weight=weights) for column in numbers.T])


def test_the_bands_are_those_of_drawn_groups() -> None:
    numbers, right, groups = answers(1)
    found = predict(numbers, right, groups, header(layers=(0, 1, 2, 3)))
    assert isinstance(found, Prediction) and (found.rows, found.right) == (60, right.sum())
    members = [np.flatnonzero(np.array(groups) == name) for name in sorted(set(groups))]
    values = []
    for times in draw(len(members)).astype(int):
        rows = np.concatenate([own for own, count in zip(members, times, strict=True) for _ in range(count)])
        values.append(auroc(numbers[rows], right[rows]))
    low, high = np.quantile(values, [0.025, 0.975], axis=0)
    assert found.table["low"].to_numpy() == pytest.approx(low) and found.table["high"].to_numpy() == pytest.approx(high)
    peaks = np.bincount(np.argmax(values, axis=1), minlength=4) / 1000
    assert found.table["peak"].to_numpy() == pytest.approx(peaks) and found.draws == 1000


def test_draws_without_both_kinds_of_answers_do_not_count() -> None:
    numbers, right = np.arange(6, dtype=np.float32)[:, None], np.arange(6) > 2
    found = predict(numbers, right, ["a", "a", "a", "b", "b", "b"], header(layers=(0,)))
    assert isinstance(found, Prediction) and 400 < found.draws < 600  # half of the draws take one group twice
    assert found.table.to_dict("records")[0] == pytest.approx(
        {"layer": 0, "auroc": 1, "low": 1, "high": 1, "p_value": found.table["p_value"][0], "peak": 1}
    )
    assert 0.4 < found.table["p_value"][0] < 0.6  # two groups that exchange their answers, or not


def test_shuffled_answers_stay_in_groups_of_the_same_size() -> None:
    """The numbers tell the row, so that the shuffled answers can be read from them."""
    sizes = [1, 1, 1, 3, 3, 2]
    members = grouped([str(group) for group, size in enumerate(sizes) for _ in range(size)], 11)
    right = np.array([True, False, False, True, True, False, False, False, False, True, False])
    one_hot = np.eye(11, dtype=np.float32)
    # The AUROC of a column that is 1 in a single row says whether that row is right.
    shuffled = shuffled_auroc(one_hot, right, members, 300) > 0.5
    assert (shuffled[:, :3].sum(1) == 1).all() and (shuffled[:, 9:].sum(1) == 1).all()
    triples = np.sort(shuffled[:, 3:9].reshape(-1, 2, 3).sum(2), axis=1)
    assert (triples == [0, 2]).all()
    assert shuffled.mean(0) == pytest.approx([1 / 3] * 9 + [1 / 2] * 2, abs=0.1)


@pytest.mark.parametrize(
    ("right", "groups", "reason"),
    [
        ([True] * 3, "abc", "all 3 answers are right"),
        ([False] * 3, "abc", "all 3 answers are wrong"),
        ([True, False, True], "aaa", "all 3 rows belong to one group"),
        ([], "", "there are no rows"),
    ],
)
def test_what_has_no_auroc_says_why(right: list[bool], groups: str, reason: str) -> None:
    assert predict(np.zeros((len(right), 2)), right, list(groups), header()) == reason


def test_as_many_answers_as_rows() -> None:
    with pytest.raises(ValueError, match="3 rows and 2 answers"):
        predict(np.zeros((3, 2)), [True, False], list("abc"), header())
    with pytest.raises(ValueError, match="3 rows and 2 groups"):
        predict(np.zeros((3, 2)), [True, False, True], list("ab"), header())


# From captured attention to the finding


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[AttentionStore, NDArray[np.bool_], list[str]]:
    """A folder in which head 1 of layer 5 looks at the object if the answer is right, and no other does."""
    about = header(layers=(1, 3, 5, 7), heads=3, rows=120)
    rng = np.random.default_rng(0)
    right = np.repeat(rng.random(40) < 0.5, 3) ^ (rng.random(120) < 0.2)  # rows of a set are alike
    store = begun(tmp_path_factory.mktemp("planted"), about)
    for first in range(0, 120, 8):
        batch = []
        for number in range(first, first + 8):
            drawn = logits(number, about, 6)
            drawn[0, 2, 1, BEFORE : BEFORE + 6] += 1.5 * right[number]  # the upper row of columns, unsteered
            batch.append(record(number, about, 6, weights=softmax(drawn)))
        store.add(batch)
    return store, right, [f"set {number // 3}" for number in range(120)]


def test_a_planted_signal_is_found_where_it_is_and_only_there(planted: Any) -> None:
    store, right, groups = planted
    found = Overlaps(store.header, {number: [Rectangle(0, 0, 24, 4)] for number in range(120)})
    for row in store.rows():
        found.add(row)
    plain, steered = ([place] * 120 for place in (0, 1))
    layers, heads = (predict(own, right, groups, store.header) for own in found.all().under(plain))
    assert isinstance(layers, Prediction) and isinstance(heads, Prediction)
    best = layers.best.iloc[0]
    assert best["layer"] == 5 and best["peak"] > 0.95 and best["low"] > layers.chance and best["p_value"] < 0.01
    top = heads.best
    assert (top["layer"][0], top["head"][0]) == (5, 1) and top["auroc"][0] > heads.chance > top["auroc"][1]
    assert top["p_value"][0] < 0.01 < 0.05 < top["p_value"][1] and 0.5 < layers.chance < heads.chance < 0.8
    others = [predict(own, right, groups, store.header) for own in found.all().under(steered)]
    assert all(isinstance(one, Prediction) and one.best["auroc"][0] < one.chance for one in others)


def test_the_map_of_a_column_is_lit_where_the_column_is(tmp_path: Path) -> None:
    weights = np.zeros((2, 2, 2, len(image_columns(3))), np.float16)
    weights[..., BEFORE + 5] = 1
    store = begun(tmp_path)
    store.add([record(0, weights=weights)])
    row = store.read(0)
    assert row.places is not None
    lit = pixel_map(row.places, row.weights[0].mean((0, 1))[row.image], row.sizes[0])
    expected = np.zeros((12, 12))
    expected[4:8, 8:12] = 1 / 16
    assert lit == pytest.approx(expected) and grid(3).box[5].tolist() == [8, 4, 12, 8]
