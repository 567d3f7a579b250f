"""What a method answers, from the rows of a sweep and without the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch

from adaptvis_plugin.decoding import Calibrated, Method
from adaptvis_plugin.decoding.first_token import Recorded
from adaptvis_plugin.traces.reading import TraceError
from adaptvis_plugin.traces.schema import Row


class RecordedAnswer(NamedTuple):
    """A row's answer under a method, and the coefficient it was decoded with."""

    alpha: float
    text: str


def answers_under(method: Method, rows: Sequence[Row], where: str, places: Mapping[str, str]) -> list[RecordedAnswer]:
    """Return the answers that the real run would give.

    Args:
        method: The method.
        rows: Rows of a sweep.
        where: What to call them in an error.
        places: The layers or heads that the sweep steered; see `Trace.places`.

    Raises:
        TraceError: If a coefficient was not recorded; see also `check_steered`.
        ValueError: If the method chooses among options, and a row has none or others.
    """
    check_steered(where, method, places)
    if isinstance(method, Calibrated):
        for row in rows:
            method.check_offered(f"{where}: document {row.doc_id}", row.options.get(1.0, {}))
        return [RecordedAnswer(1.0, method.answer(row.options[1.0])) for row in rows]
    chosen = method.choose(recorded(rows)).tolist()
    # As in the real run: the nearest fp32 number to 0.8 is 0.800000012.
    alphas = [round(alpha, 6) for alpha in chosen]
    if rows:
        check_recorded(where, alphas, rows[0].generations)
    return [RecordedAnswer(alpha, row.generations[alpha]) for alpha, row in zip(alphas, rows, strict=True)]


def recorded(rows: Sequence[Row]) -> Recorded:
    """Return what rows of a sweep say about the unsteered model's first tokens."""
    measures: dict[str, list[float | None]] = {
        "confidence": [row.confidence for row in rows],
        "entropy": [row.entropy for row in rows],
        "option_probability": [max(row.options.get(1.0, {}).values(), default=None) for row in rows],
    }
    return Recorded(
        **{
            name: torch.tensor(values, dtype=torch.float32)
            for name, values in measures.items()
            if not any(value is None for value in values)
        }
    )


def check_steered(where: str, method: Method, places: Mapping[str, str]) -> None:
    """Check that a sweep steered as a method does, whatever the coefficients.

    Args:
        where: What to call the sweep in an error.
        method: The method.
        places: See `answers_under`.

    Raises:
        TraceError: If it did not.
    """
    if not method.of_coefficients:
        raise TraceError(
            f"{where}: a sweep has no answers with a constant added, only under coefficients; run the method itself "
            "(vlm_constant in lmms-eval, <model>_constant in VLMEvalKit) and compare that run"
        )
    steers = method.alphas is None or any(alpha != 1 for alpha in method.alphas)
    if steers and method.places != places:
        options = "".join(f" --{name} {value}" for name, value in method.places.items())
        raise TraceError(
            f"{where}: the sweep steered {_listed(places)}, and this setting steers {_listed(method.places)}; sweep "
            f"again into another folder {f'with{options}' if options else 'without --layers and --heads'}, or ask for "
            "what was swept"
        )


def _listed(places: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in places.items()) or "all layers and heads"


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
