"""How well a number of a layer or a head, such as its overlap, tells right answers from wrong ones: the AUROC.

The AUROC is the chance that a row with a right answer has a larger number than a row with a wrong one, ties counted
half: 0.5 if the number says nothing. Its bands are percentile intervals over draws of whole groups of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from adaptvis_plugin.analysis.statistics import LEVEL, SEED
from adaptvis_plugin.attention.form import Header
from adaptvis_plugin.attention.resampling import DRAWS, Groups, band, draw, grouped

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Prediction:
    """How well numbers of layers or heads predict that an answer is right.

    Attributes:
        table: For each layer, or layer and head, the columns layer, (head,) auroc, low, high, p_value, and for layers
            peak, the share of the draws in which it has the largest AUROC. `p_value` is corrected for the choice among
            all of them: how often the largest AUROC of all is at least as large if the answers are shuffled.
        chance: What the largest AUROC stays below in 95% of the shuffles. Among 1,024 heads some have a large AUROC by
            chance: only one above this says something.
        rows: The number of rows.
        right: How many of them have a right answer.
        groups: The number of groups.
        draws: How many draws have both right and wrong answers, and so count.
    """

    table: pd.DataFrame
    chance: float
    rows: int
    right: int
    groups: int
    draws: int

    @property
    def best(self) -> pd.DataFrame:
        """The table, the largest AUROC first."""
        return self.table.sort_values("auroc", ascending=False, kind="stable").reset_index(drop=True)


def predict(
    numbers: Floats, right: Sequence[bool] | NDArray[np.bool_], groups: Sequence[str], header: Header
) -> Prediction | str:
    """Measure how well numbers predict that an answer is right, or say why that cannot be measured.

    Args:
        numbers: Of each row and layer, shape (rows, layers), or of each row, layer and head, (rows, layers, heads).
        right: Whether each row's answer is right.
        groups: Each row's group.
        header: The header of the captured attention.

    Raises:
        ValueError: If there are not as many answers or groups as rows.
    """
    correct = np.asarray(right, bool)
    rows = len(numbers)
    if len(correct) != rows:
        raise ValueError(f"there are {rows} rows and {len(correct)} answers; give the answer of each row")
    members = grouped(groups, rows)
    if correct.all() or not correct.any():
        return f"all {rows} answers are {'right' if rows and correct[0] else 'wrong'}" if rows else "there are no rows"
    if members.number < 2:
        return f"all {rows} rows belong to one group"
    flat = numbers.reshape(rows, -1)
    value = auroc(flat, correct)
    drawn = drawn_auroc(flat, correct, members)
    both = ~np.isnan(drawn[:, 0])
    largest = shuffled_auroc(flat, correct, members).max(1)
    names: dict[str, Sequence[int]] = {"layer": header.layers}
    if numbers.ndim == 3:
        names["head"] = range(header.heads)
    table = pd.MultiIndex.from_product([*names.values()], names=list(names)).to_frame(index=False)
    table["auroc"] = value
    table["low"], table["high"] = band(drawn)
    table["p_value"] = (1 + (largest[:, None] >= value - 1e-9).sum(0)) / (1 + len(largest))
    if numbers.ndim == 2:
        peaks = drawn[both].argmax(1)
        table["peak"] = np.bincount(peaks, minlength=len(table)) / max(1, len(peaks))
    chance = float(np.quantile(largest, LEVEL))
    return Prediction(table, chance, rows, int(correct.sum()), members.number, int(both.sum()))


def auroc(numbers: Floats, right: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the AUROC of each column.

    Args:
        numbers: Shape (rows, columns).
        right: Shape (rows,), or (..., rows) for several outcomes at once; both kinds are there.

    Returns:
        Shape (columns,), or (..., columns).
    """
    # Mann and Whitney: the ranks' sum over the right rows, less the least that it can be.
    ranks = rankdata(numbers, axis=0)
    yes = right.sum(-1, keepdims=True)
    found: NDArray[np.float64] = (right.astype(float) @ ranks - yes * (yes + 1) / 2) / (yes * (right.shape[-1] - yes))
    return found


def drawn_auroc(numbers: Floats, right: NDArray[np.bool_], members: Groups, draws: int = DRAWS) -> NDArray[np.float64]:
    """Return the AUROC of each column in each draw of the groups.

    Returns:
        Shape (draws, columns); NaN for a draw without right or without wrong answers.
    """
    # How often each row is drawn, shape (rows, draws): integers, whose sums float32 holds exactly up to 2^24.
    times = np.ascontiguousarray(draw(members.number, draws).T[members.of_row])
    of_right, of_wrong = times[right], times[~right]
    pairs = of_right.sum(0, dtype=float) * of_wrong.sum(0, dtype=float)
    found = np.empty((draws, numbers.shape[1]))
    below = np.zeros((len(of_wrong) + 1, draws), np.float32)
    for place, column in enumerate(numbers.T):
        order = np.argsort(column[~right])
        wrong, own = column[~right][order], column[right]
        # For each number of wrong rows, smallest first: how often they are drawn together.
        np.cumsum(of_wrong[order], 0, out=below[1:])
        first, last = np.searchsorted(wrong, own, "left"), np.searchsorted(wrong, own, "right")
        smaller = np.einsum("rd,rd->d", of_right, below[first])
        if (first < last).any():  # ties count half
            smaller = (smaller + np.einsum("rd,rd->d", of_right, below[last])) / 2
        found[:, place] = np.divide(smaller, pairs, out=np.full(draws, np.nan), where=pairs > 0)
    return found


def shuffled_auroc(
    numbers: Floats, right: NDArray[np.bool_], members: Groups, draws: int = DRAWS
) -> NDArray[np.float64]:
    """Return the AUROC of each column after the answers were shuffled.

    Groups of the same size exchange their answers, and the answers of a group are shuffled among its rows: what the
    rows of a group have in common stays together.

    Returns:
        Shape (draws, columns).
    """
    rng = np.random.default_rng(SEED)
    order = np.argsort(members.of_row, kind="stable")
    starts = np.searchsorted(members.of_row[order], np.arange(members.number))
    sizes = np.bincount(members.of_row, minlength=members.number)
    shuffled = np.empty((draws, len(right)), bool)
    for size in np.unique(sizes):
        rows = order[starts[sizes == size][:, None] + np.arange(size)]  # (groups of this size, size)
        answers = np.broadcast_to(right[rows], (draws, *rows.shape))
        answers = rng.permuted(answers, axis=2)
        places = rng.permuted(np.tile(np.arange(len(rows)), (draws, 1)), axis=1)
        shuffled[:, rows] = np.take_along_axis(answers, places[:, :, None], 1)
    return auroc(numbers, shuffled)
