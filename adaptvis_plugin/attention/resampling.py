"""Draws of whole groups of rows: rows about one picture, or of one set, are not independent."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from adaptvis_plugin.analysis.statistics import LEVEL, SEED

DRAWS = 1000
"""How many times the groups are drawn, and the labels shuffled."""


class Groups(NamedTuple):
    """Which rows belong together.

    Attributes:
        of_row: The number of each row's group, shape (rows,).
        number: How many groups there are.
    """

    of_row: NDArray[np.intp]
    number: int


def grouped(groups: Sequence[str], rows: int) -> Groups:
    """Give each group a number.

    Args:
        groups: The group of each row; see `traces.schema.group_of`.
        rows: How many rows there are.

    Raises:
        ValueError: If there are not as many.
    """
    if len(groups) != rows:
        raise ValueError(f"there are {rows} rows and {len(groups)} groups; give the group of each row")
    names, of_row = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    return Groups(of_row, len(names))


def draw(groups: int, draws: int = DRAWS) -> NDArray[np.float32]:
    """Return how often each draw takes each group, with replacement, shape (draws, groups)."""
    return np.random.default_rng(SEED).multinomial(groups, np.full(groups, 1 / groups), draws).astype(np.float32)


def band(drawn: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the ends of the percentile interval at the level `LEVEL` over the first axis, shape (2, ...).

    NaN, of draws that leave a number undefined, is left out; where there is nothing else, or all draws are the same
    because there is but one group, the ends are NaN or equal.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice encountered", RuntimeWarning)
        ends: NDArray[np.float64] = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return ends
