"""What a sweep found, in a few numbers: the mean of the task's first metric under each coefficient."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptvis_plugin.traces.reading import TraceError, scan
from adaptvis_plugin.traces.schema import Header, Row, alpha_key


@dataclass(frozen=True)
class Summary:
    """A sweep of one task.

    Attributes:
        path: The trace.
        header: Its header.
        rows: How many rows it has.
        metric: The task's first metric that is a number for a single row; None if it has none.
        means: Its mean under each coefficient, over the rows that have it.
    """

    path: Path
    header: Header
    rows: int
    metric: str | None
    means: dict[float, float]

    @classmethod
    def of(cls, path: Path) -> Summary:
        """Read a trace, one row at a time.

        Raises:
            TraceError: If it is not one of a sweep.
        """
        lines = scan(path)
        header = next(lines, None)
        if not isinstance(header, Header):
            raise TraceError(f"{path}: it has no header, and so is not the trace of a sweep")
        metric: str | None = None
        sums: dict[float, list[float]] = defaultdict(lambda: [0.0, 0])
        rows = 0
        for row in lines:
            if not isinstance(row, Row):
                continue
            rows += 1
            for alpha, scores in row.metrics.items():
                metric = metric or next(iter(scores), None)
                if metric is not None and (score := scores.get(metric)) is not None:
                    sums[alpha][0] += score
                    sums[alpha][1] += 1
        return cls(path, header, rows, metric, {alpha: total / count for alpha, (total, count) in sums.items()})

    def as_json(self) -> dict[str, Any]:
        """Return it as what JSON can hold."""
        return {
            "task": self.header.task,
            "trace": str(self.path),
            "model": self.header.model,
            "method": self.header.swept,
            "rows": self.rows,
            "of": self.header.rows,
            "metric": self.metric,
            "mean": {alpha_key(alpha): self.means[alpha] for alpha in self.header.alphas if alpha in self.means},
        }
