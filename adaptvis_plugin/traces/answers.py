"""What a method answers, from the rows of a sweep and without the model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch

from adaptvis_plugin.decoding import Calibrated, Method
from adaptvis_plugin.traces.reading import TraceError
from adaptvis_plugin.traces.schema import Row


class Recorded(NamedTuple):
    """A row's answer under a method, and the coefficient it was decoded with."""

    alpha: float
    text: str


def answers_under(method: Method, rows: Sequence[Row], where: str) -> list[Recorded]:
    """Return the answers that the real run would give.

    Args:
        method: The method.
        rows: Rows of a sweep.
        where: What to call them in an error.

    Raises:
        TraceError: If a coefficient was not recorded.
        ValueError: If the method chooses among options, and a row has none or others.
    """
    if isinstance(method, Calibrated):
        for row in rows:
            method.check_offered(f"{where}: document {row.doc_id}", row.options.get(1.0, {}))
        return [Recorded(1.0, method.answer(row.options[1.0])) for row in rows]
    chosen = method.choose(torch.tensor([row.confidence for row in rows], dtype=torch.float32)).tolist()
    # As in the real run: the nearest fp32 number to 0.8 is 0.800000012.
    alphas = [round(alpha, 6) for alpha in chosen]
    if rows:
        check_recorded(where, alphas, rows[0].generations)
    return [Recorded(alpha, row.generations[alpha]) for alpha, row in zip(alphas, rows, strict=True)]


def check_recorded(where: str, wanted: Iterable[float], recorded: Iterable[float]) -> None:
    """Check that coefficients were recorded.

    Raises:
        TraceError: If one was not.
    """
    there = list(recorded)
    if lacking := [alpha for alpha in wanted if alpha not in there]:
        together = ",".join(f"{alpha:g}" for alpha in sorted({*there, *lacking} - {1.0}))
        raise TraceError(
            f"{where}: alpha {lacking[0]:g} was not recorded, only {', '.join(f'{alpha:g}' for alpha in there)}; "
            f"sweep again into another folder, with --alphas {together}"
        )
