"""The figures of a study that several parts of its report show: scores and image shares of the runs, with intervals."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from adaptvis_plugin.analysis.statistics import Estimate
from adaptvis_plugin.attention.familiarity.calibration import mean, mean_difference
from adaptvis_plugin.attention.study import AttentionRun, Study

LEVEL = 0.05
"""A p-value below this says that something is not by chance."""


@dataclass(frozen=True)
class RunFigures:
    """What a run scores, and how much attention the image has in it.

    Attributes:
        run: The run.
        score: The mean of the task's metric over its rows; None if no row has one.
        gain: What it differs from the unsteered run's; None for that run itself.
        image: The share of the attention that is on the image, the mean over layers and heads; None without images.
        more: What that differs from the unsteered run's; None for that run itself.
    """

    run: AttentionRun
    score: Estimate | None
    gain: Estimate | None
    image: Estimate | None
    more: Estimate | None

    @property
    def control(self) -> bool:
        """Whether it is a run with a constant."""
        return self.run.name.startswith("constant ")


@lru_cache(maxsize=8)  # tables, sentences and a picture ask for them
def run_figures(study: Study) -> list[RunFigures]:
    """Return the figures of each run, the unsteered one first."""
    _, groups = np.unique(np.asarray(study.trace.groups), return_inverse=True)
    plain = study.runs[0]
    shares = [_image_share(study, run) for run in study.runs]
    found = []
    for run, share in zip(study.runs, shares, strict=True):
        scored = ~np.isnan(run.right) & ~np.isnan(plain.right)
        seen = ~np.isnan(share) & ~np.isnan(shares[0])
        other = run is not plain
        found.append(
            RunFigures(
                run,
                mean(run.right[scored], groups[scored]) if scored.any() else None,
                mean_difference(run.right[scored], plain.right[scored], groups[scored])
                if other and scored.any()
                else None,
                mean(share[seen], groups[seen]) if seen.any() else None,
                mean_difference(share[seen], shares[0][seen], groups[seen]) if other and seen.any() else None,
            )
        )
    return found


def _image_share(study: Study, run: AttentionRun) -> NDArray[np.float64]:
    """Return each row's share of attention on the image, the mean over layers and heads; NaN without an image."""
    values = study.measures.by_layer["image_share"].astype(float)
    share: NDArray[np.float64] = values[np.arange(len(values)), run.conditions].mean(1)
    return np.where(np.array(study.measures.token_share) > 0, share, np.nan)
