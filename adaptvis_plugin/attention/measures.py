"""How much of the attention goes to the image, and how it is spread there: by layer, head and condition.

Attention sinks. Models give much attention to a few columns that say little: to the first token (Xiao et al. 2024,
"Efficient Streaming Language Models with Attention Sinks"), and to some image tokens whatever the question (Kang et
al. 2025, "See What You Are Told: Visual Attention Sink in Large Multimodal Models"). Kang et al. find the latter from
hidden states. Here only attention is known, so a column counts as a sink of its row if its weight, averaged over the
heads, is more than `SINK_FACTOR` times the mean of the columns of its kind (image or text), in at least half of the
layers, without steering. Among `SINK_FACTOR` columns of a kind or fewer there can be none.

This cannot tell a sink from a patch that a sharply focused model looks at for what it shows. So everything is measured
with and without sinks, and `Measures.sink_columns` says where they are: sinks come back at the same places.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from adaptvis_plugin.attention.form import Header
from adaptvis_plugin.attention.record import AttentionError, Record
from adaptvis_plugin.attention.resampling import band, draw, grouped

SINK_FACTOR = 10
TOP = 0.05
"""The share of the image columns whose part in the image's attention is measured."""

MEASURES = {
    "image_share": "share of the attention that is on the image",
    "image_share_no_sinks": "the same without sinks: they are left out, and the rest divided by its sum",
    "entropy": "entropy over the image columns, in nats",
    "entropy_no_sinks": "the same without sinks",
    "relative_entropy": "entropy divided by the logarithm of the number of image columns: 1 if spread evenly",
    "relative_entropy_no_sinks": "the same without sinks",
    "top_share": "share of the image's attention that is on its 5% of columns with the most",
    "top_share_no_sinks": "the same without sinks",
    "sink_share": "share of the attention that is on sinks, of the image or the text",
    "image_sink_share": "share of the image's attention that is on sinks",
}
"""What is measured of a row, by name. Only shares of the whole attention have a meaning without an image."""

Values = dict[str, NDArray[np.float32]]


def find_sinks(record: Record, factor: float = SINK_FACTOR) -> NDArray[np.bool_]:
    """Return which columns of a row are attention sinks, shape (columns,); see above."""
    weights = record.weights[0].astype(np.float32).mean(1)  # (layers, columns), unsteered
    found = np.zeros(len(record.image), bool)
    for kind in (record.image, ~record.image):
        if kind.any():
            own = weights[:, kind]
            found[kind] = (own > factor * own.mean(1, keepdims=True)).mean(0) >= 0.5
    return found


def measure(record: Record, sinks: NDArray[np.bool_]) -> Values:
    """Measure a row.

    Args:
        record: The row.
        sinks: Which of its columns are sinks; see `find_sinks`.

    Returns:
        Every one of `MEASURES`, shape (conditions, layers, heads); NaN where it has no meaning: without an image, or
        without any attention on it.
    """
    # One condition at a time: the numbers stay in the processor's cache, and the memory small.
    each = [_measure(weights.astype(np.float32), record.image, sinks) for weights in record.weights]
    return {name: np.stack([one[name] for one in each]) for name in MEASURES}


def _measure(weights: NDArray[np.float32], image: NDArray[np.bool_], sinks: NDArray[np.bool_]) -> Values:
    """Measure the attention of one condition, shape (layers, heads, columns)."""
    of_sinks = weights[..., sinks].sum(-1)
    total = weights.sum(-1)
    own, kept = weights[..., image], ~sinks[image]
    on_image = own.sum(-1)
    found = {"sink_share": _ratio(of_sinks, total), "image_share": _ratio(on_image, total)}
    found["image_sink_share"] = _ratio(own[..., ~kept].sum(-1), on_image)
    found |= _spread(own, "")
    if kept.all():
        found |= {f"{name}_no_sinks": found[name] for name in ("entropy", "relative_entropy", "top_share")}
    else:
        found |= _spread(own[..., kept], "_no_sinks")
    found["image_share_no_sinks"] = _ratio(own[..., kept].sum(-1), weights[..., ~sinks].sum(-1))
    return found


def _spread(weights: NDArray[np.float32], ending: str) -> Values:
    """Return how the attention is spread over the given columns, whatever its sum."""
    columns = weights.shape[-1]
    total = weights.sum(-1)
    top = int(np.ceil(TOP * columns))
    most = np.partition(weights, columns - top, axis=-1)[..., columns - top :] if columns else weights
    # With p = w / total, the sum of -p log p is log total - (sum of w log w) / total. Where w is 0, so is w log w.
    logs = (weights * np.log(np.maximum(weights, np.finfo(np.float32).tiny))).sum(-1)
    entropy = np.log(np.where(total > 0, total, np.nan)) - _ratio(logs, total)
    entropy = np.maximum(entropy, 0)  # rounding may leave a little less
    even = np.float32(np.log(columns)) if columns > 1 else np.float32(np.nan)
    found = {"entropy": entropy, "relative_entropy": entropy / even, "top_share": _ratio(most.sum(-1), total)}
    return {name + ending: values for name, values in found.items()}


def _ratio(part: NDArray[np.float32], whole: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return part / whole, and NaN where the whole is 0."""
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)


def chosen(runs: Mapping[str, Sequence[int]] | None, header: Header, rows: int) -> dict[str, NDArray[np.intp]]:
    """Return the condition that each run has in each row, as numbers.

    Args:
        runs: They, by the run's name, in the order of the rows; None for one run per condition.
        header: The header of the captured attention.
        rows: How many rows there are.

    Raises:
        AttentionError: If a run has another number of rows, or a condition that is not there.
    """
    if runs is None:
        return {name: np.full(rows, place, np.intp) for place, name in enumerate(header.conditions)}
    found = {name: np.asarray(places, np.intp) for name, places in runs.items()}
    for name, places in found.items():
        if len(places) != rows:
            raise AttentionError(f"the run {name!r} has {len(places)} rows; {rows} are captured")
        if wrong := {int(place) for place in places} - set(range(len(header.conditions))):
            raise AttentionError(
                f"the run {name!r} has condition number {min(wrong)}; the conditions are {', '.join(header.conditions)}"
            )
    return found


class Measures:
    """The measures of many rows, which are added one at a time and not kept.

    Kept of a row are a few numbers per condition and layer: each measure's mean over the heads.

    Args:
        header: The header of the captured attention.
        rows: How many rows will be added.
        runs: See `chosen`.
        factor: See `find_sinks`.

    Attributes:
        sinks: The columns of each row that are sinks.
        token_share: The share of each row's columns that hold the image.
    """

    def __init__(
        self,
        header: Header,
        rows: int,
        runs: Mapping[str, Sequence[int]] | None = None,
        factor: float = SINK_FACTOR,
    ) -> None:
        self._header = header
        self._runs = chosen(runs, header, rows)
        self._factor = factor
        self._added = 0
        self._by_layer = np.full((len(MEASURES), rows, len(header.conditions), len(header.layers)), np.nan, np.float32)
        shape = (len(MEASURES), len(self._runs), len(header.layers), header.heads)
        self._sums, self._counts = np.zeros(shape), np.zeros(shape, np.int64)
        self._sink_columns: Counter[tuple[str, int]] = Counter()
        self.sinks: list[NDArray[np.intp]] = []
        self.token_share: list[float] = []

    def add(self, record: Record) -> None:
        """Measure one more row; rows come in the order of the runs."""
        sinks = find_sinks(record, self._factor)
        values = np.stack(list(measure(record, sinks).values()))  # (measures, conditions, layers, heads)
        known = ~np.isnan(values)
        heads, zeroed = known.sum(-1), np.where(known, values, 0)
        np.divide(zeroed.sum(-1), heads, out=self._by_layer[:, self._added], where=heads > 0)
        now = [places[self._added] for places in self._runs.values()]
        self._sums += zeroed[:, now]
        self._counts += known[:, now]
        self._added += 1
        self.sinks.append(np.flatnonzero(sinks))
        self.token_share.append(float(record.image.mean()))
        for kind, columns in (("image", record.image), ("text", ~record.image)):
            self._sink_columns.update((kind, int(place)) for place in np.flatnonzero(sinks[columns]))

    @property
    def by_layer(self) -> Values:
        """Each measure's mean over the heads, shape (rows, conditions, layers); NaN where it has no meaning."""
        return dict(zip(MEASURES, self._by_layer[:, : self._added], strict=True))

    def heads(self) -> pd.DataFrame:
        """Return the mean over the rows for each run, layer and head.

        Returns:
            The columns run, layer, head, measure, value, and the number of rows that it is the mean of. What no row
            has is left out.
        """
        names = [list(MEASURES), list(self._runs), self._header.layers, range(self._header.heads)]
        table = pd.MultiIndex.from_product(names, names=["measure", "run", "layer", "head"]).to_frame(index=False)
        table["rows"] = self._counts.ravel()
        table["value"] = np.divide(self._sums, self._counts, where=self._counts > 0, out=self._sums * 0).ravel()
        return table.loc[table["rows"] > 0, ["run", "layer", "head", "measure", "value", "rows"]].reset_index(drop=True)

    def layers(self, groups: Sequence[str]) -> pd.DataFrame:
        """Return the mean over heads and rows for each run and layer, and what it differs from the unsteered model's.

        Args:
            groups: The group of each row; whole groups are drawn for the intervals.

        Returns:
            The columns run, layer, measure, value, low, high, change, change_low, change_high, rows. What no row has is
            left out. A single group gives no intervals: their ends are equal.
        """
        of_row, number = grouped(groups, self._added)
        draws = draw(number)
        names = pd.MultiIndex.from_product([list(self._runs), self._header.layers], names=["run", "layer"])
        # First the unsteered model, from which the others differ.
        places = [np.zeros(self._added, np.intp), *self._runs.values()]
        tables = []
        for name, values in self.by_layer.items():
            own = np.stack([values[np.arange(self._added), one[: self._added]] for one in places], 1)
            sums, rows = np.zeros((2, number, *own.shape[1:]))
            np.add.at(sums, of_row, np.nan_to_num(own))
            np.add.at(rows, of_row, ~np.isnan(own))
            mean = _mean(sums.sum(0), rows.sum(0))
            drawn = _mean(np.tensordot(draws, sums, 1), np.tensordot(draws, rows, 1))
            columns = {"value": mean[1:], "change": mean[1:] - mean[0], "rows": rows.sum(0)[1:].astype(int)}
            columns["low"], columns["high"] = band(drawn[:, 1:])
            columns["change_low"], columns["change_high"] = band(drawn[:, 1:] - drawn[:, :1])
            table = pd.DataFrame({key: column.ravel() for key, column in columns.items()}, index=names).reset_index()
            tables.append(table[table["rows"] > 0].assign(measure=name))
        order = ["run", "layer", "measure", "value", "low", "high", "change", "change_low", "change_high", "rows"]
        return pd.concat(tables, ignore_index=True)[order]

    def sink_columns(self) -> pd.DataFrame:
        """Return where sinks are.

        Returns:
            The columns kind (`image` or `text`), place among the columns of this kind, rows with a sink there, and
            their share of all rows; the most frequent first.
        """
        found = [(kind, place, rows, rows / self._added) for (kind, place), rows in self._sink_columns.most_common()]
        return pd.DataFrame(found, columns=["kind", "place", "rows", "share"])


def _mean(sums: NDArray[np.float64], rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(sums, rows, out=np.full_like(sums, np.nan), where=rows > 0)
