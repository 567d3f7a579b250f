"""What a method answers, from the rows of a sweep and without the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from adaptvis_plugin.decoding import AdaptVis, Calibrated, Method
from adaptvis_plugin.decoding.first_token import Recorded
from adaptvis_plugin.methods import name_of, without_strength
from adaptvis_plugin.traces.reading import TraceError
from adaptvis_plugin.traces.schema import Row, Sweep


class RecordedAnswer(NamedTuple):
    """A row's answer under a method.

    Attributes:
        alpha: The strength that the real run would report.
        text: The answer.
        recorded: The coefficient under which the row has what belongs to the answer.
    """

    alpha: float
    text: str
    recorded: float


def answers_under(method: Method, rows: Sequence[Row], where: str, sweep: Sweep) -> list[RecordedAnswer]:
    """Return the answers that the real run would give.

    Args:
        method: The method.
        rows: Rows of a sweep.
        where: What to call them in an error.
        sweep: What was varied.

    Raises:
        TraceError: If a coefficient was not recorded, or what the method chooses by; see also `check_swept`.
        ValueError: If the method chooses among options, or by them, and a row has none or others.
    """
    check_swept(where, method, sweep)
    for row in rows:
        method.check_offered(f"{where}: document {row.doc_id}", row.options.get(sweep.plain, {}))
    if isinstance(method, Calibrated):
        return [RecordedAnswer(method.neutral, method.answer(row.options[sweep.plain]), sweep.plain) for row in rows]
    try:
        chosen = method.choose(recorded(rows, sweep.plain)).tolist()
    except ValueError as error:
        known = "their confidence, their entropy and the probabilities of offered options"
        raise TraceError(
            f"{where}: {error}; a trace has {known}. Choose by one of these, or run the method itself"
        ) from error
    # As in the real run: the nearest fp32 number to 0.8 is 0.800000012.
    alphas = [round(alpha, 6) for alpha in chosen]
    keys = _keys(method, alphas, sweep)
    if rows:
        check_recorded(where, keys, rows[0].generations, sweep)
    return [
        RecordedAnswer(alpha if row.alpha is None else method.neutral, row.generations[key], key)
        for alpha, key, row in zip(alphas, keys, rows, strict=True)
    ]


def recorded(rows: Sequence[Row], plain: float) -> Recorded:
    """Return what rows of a sweep say about the unsteered model's first tokens.

    Args:
        rows: The rows.
        plain: See `Sweep`.
    """
    measures: dict[str, list[float | None]] = {
        "confidence": [row.confidence for row in rows],
        "entropy": [row.entropy for row in rows],
        "option_probability": [max(row.options.get(plain, {}).values(), default=None) for row in rows],
    }
    return Recorded(
        **{
            name: torch.tensor(values, dtype=torch.float32)
            for name, values in measures.items()
            if not any(value is None for value in values)
        }
    )


def check_answers(where: str, method: Method, sweep: Sweep, alphas: Sequence[float]) -> None:
    """Check that a sweep has a method's answers, before its rows are read.

    Args:
        where: What to call the sweep in an error.
        method: The method.
        sweep: What was varied.
        alphas: The recorded coefficients.

    Raises:
        TraceError: If it has not.
    """
    check_swept(where, method, sweep)
    check_recorded(where, _keys(method, method.alphas or (), sweep), alphas, sweep)


def check_swept(where: str, method: Method, sweep: Sweep) -> None:
    """Check that a sweep did what a method does, whatever the strengths.

    Args:
        where: What to call the sweep in an error.
        method: The method.
        sweep: What was varied.

    Raises:
        TraceError: If it did not.
    """
    if _plain(method):
        return
    name = name_of(method)
    if name != sweep.method and not (sweep.method == Sweep.method and method.of_coefficients):
        raise TraceError(f"{where}: it is a sweep of {sweep.method} and has no answers of {name}; {_way_out(method)}")
    asked = fixed(method)
    if asked != sweep.settings:
        raise TraceError(f"{where}: {_other_settings(sweep, asked)}")
    if method.neutral in (method.alphas or ()) and _guided(method):
        raise TraceError(
            f"{where}: {sweep.strength} {method.neutral:g} stands for the unsteered model in it, and {name} changes "
            f"that all the same with {_listed(asked)}; run the method itself (vlm_{name})"
        )


def fixed(method: Method) -> dict[str, Any]:
    """Return the hyper-parameters of a method that must be those of a sweep with its answers; see `Sweep.settings`."""
    if method.of_coefficients:
        return dict(method.places)
    return {name: value for name, value in method.settings.items() if name != method.strength}


def _plain(method: Method) -> bool:
    """Return whether a method's answers are those of the unsteered model, or a choice among its options."""
    neutral = method.alphas is not None and {*method.alphas} == {method.neutral}
    return neutral and type(method).asked is Method.asked and not _guided(method)


def _guided(method: Method) -> bool:
    """Return whether a method that edits attention also changes logits, which it does under any strength."""
    return method.attention is not None and method.changes_logits


def _way_out(method: Method) -> str:
    name = name_of(method)
    swept = Sweep.method if isinstance(method, AdaptVis) else name
    if name == swept and without_strength(name):
        return f"run the method itself (vlm_{name} in lmms-eval, <model>_{name} in VLMEvalKit) and compare that run"
    option = "" if swept == Sweep.method else f" --method {swept}"
    return f"sweep {swept} into another folder (adaptvis sweep{option}), or run the method itself (vlm_{name})"


def _other_settings(sweep: Sweep, asked: Mapping[str, Any]) -> str:
    if sweep.method != Sweep.method:
        names = [name for name in {**sweep.settings, **asked} if sweep.settings.get(name) != asked.get(name)]
        had, has = (_listed({name: each.get(name) for name in names}) for each in (sweep.settings, asked))
        return (
            f"the sweep of {sweep.method} had {had}, and this setting has {has}; ask for what was swept, or sweep "
            "again into another folder with these --model-args"
        )
    options = "".join(f" --{name} {value}" for name, value in asked.items())
    everywhere = "all layers and heads"
    return (
        f"the sweep steered {_listed(sweep.settings) or everywhere}, and this setting steers "
        f"{_listed(asked) or everywhere}; sweep again into another folder "
        f"{f'with{options}' if options else 'without --layers and --heads'}, or ask for what was swept"
    )


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())


def _keys(method: Method, alphas: Iterable[float], sweep: Sweep) -> list[float]:
    """Return under which coefficients a sweep has a method's strengths: the unsteered model's may be another."""
    return [sweep.plain if alpha == method.neutral else alpha for alpha in alphas]


def check_recorded(where: str, wanted: Iterable[float], recorded: Iterable[float], sweep: Sweep) -> None:
    """Check that coefficients were recorded.

    Raises:
        TraceError: If one was not.
    """
    there = list(recorded)
    if lacking := [alpha for alpha in wanted if alpha not in there]:
        together = ",".join(f"{alpha:g}" for alpha in sorted({*there, *lacking} - {sweep.plain}))
        option = "" if sweep.method == Sweep.method else f"--method {sweep.method} "
        raise TraceError(
            f"{where}: {sweep.strength} {lacking[0]:g} was not recorded, only "
            f"{', '.join(f'{alpha:g}' for alpha in there)}; sweep again into another folder, with {option}--alphas "
            f"{together}"
        )
