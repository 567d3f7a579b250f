"""What the figures of a trace mean, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from adaptvis_plugin.attention.familiarity.calibration import Separation
from adaptvis_plugin.attention.familiarity.figures import Familiarity, Steered
from adaptvis_plugin.attention.familiarity.tables import area, in_percent, number, score

CHANCE, WEAK = 0.5, 0.6
"""The AUROC of a confidence that tells nothing, and that up to which it tells little."""

FEW = 10
"""Of relations with fewer rows it is not said how sure the model is."""


def sentences(found: Familiarity) -> list[str]:
    """Return what the figures of a trace mean."""
    return [*found.notes, *_about_confidence(found), *_about_words(found), *_about_steering(found)]


def _about_confidence(found: Familiarity) -> Iterator[str]:
    overall = found.overall
    if overall.separation is not None:
        yield _separates(overall.separation)
    if found.steering is not None and overall.smoothed and overall.sharpened:
        yield _chooses(found.steering, overall.smoothed.alpha, overall.sharpened.alpha)
    if found.reliability is not None and overall.confidence and overall.plain:
        width = found.reliability[0]
        yield (
            f"The mean confidence is {in_percent(overall.confidence)} and the accuracy {in_percent(overall.plain)} "
            f"percent; the expected calibration error is {number(width.error)}, where a perfectly calibrated model "
            f"would show about {width.by_chance:.3f}."
        )


def _separates(one: Separation) -> str:
    if one.auroc is None:
        kind = "wrong" if not one.higher else "right"
        return (
            f"All {one.higher + one.lower} unsteered answers are {kind}, so there is nothing that confidence separates."
        )
    verdict = _verdict(
        one,
        "Confidence separates right from wrong" + (", but weakly" if one.auroc.value < WEAK else ""),
        "Confidence is higher where the unsteered model is wrong",
        "That confidence separates right from wrong is not shown",
    )
    return f"{verdict}: AUROC {area(one)}. AdaptVis stands on this."


def _chooses(one: Separation, low: float, high: float) -> str:
    rows = one.higher + one.lower
    if not rows:
        return f"Alpha {low:g} and alpha {high:g} are right in the same rows, so a threshold has nothing to choose."
    start = f"In {rows} rows just one of alpha {low:g} and alpha {high:g} is right"
    if one.auroc is None:
        return f"{start}, and it is always alpha {high if one.higher else low:g}: no threshold is needed for that."
    verdict = _verdict(
        one,
        f"confidence is higher where that is alpha {high:g}, as AdaptVis supposes",
        f"confidence is higher where that is alpha {low:g}, the reverse of what AdaptVis supposes",
        "that confidence tells which is not shown",
    )
    return f"{start}; {verdict}: AUROC {area(one)}."


def _verdict(one: Separation, yes: str, reverse: str, open_: str) -> str:
    assert one.auroc is not None
    low, high = one.auroc.interval
    return yes if low > CHANCE else reverse if high < CHANCE else open_


def _about_words(found: Familiarity) -> Iterator[str]:
    if found.trace.scoring != "whatsup":
        return
    counted = [(one, one.said, one.right) for one in found.relations if one.said is not None and one.right is not None]
    most = max(counted, key=lambda each: each[1])
    least = min(counted, key=lambda each: each[1] - each[2])
    said = f"The unsteered model says {most[0].name!r} most often: in {_share(most[1], found)}% of the rows"
    yield f"{said}, and it is right in {_share(most[2], found)}%." + (
        f" It says {least[0].name!r} in {_share(least[1], found)}%, and that is right in {_share(least[2], found)}%."
        if least[1] < least[2]
        else ""
    )
    tested = [(one, one.confidence.value) for one in found.relations if one.confidence and one.rows >= FEW]
    if len(tested) > 1:
        surest, least_sure = (choose(tested, key=lambda each: each[1])[0] for choose in (max, min))
        yield (
            f"It is surest where {surest.name!r} is right (mean confidence {in_percent(surest.confidence)}) and least "
            f"sure where {least_sure.name!r} is right ({in_percent(least_sure.confidence)})."
        )


def _share(count: int, found: Familiarity) -> str:
    return f"{100 * count / found.rows:.1f}"


def _about_steering(found: Familiarity) -> Iterator[str]:
    each = [(one.name, one.smoothed, one.sharpened) for one in found.relations if one.rows]
    if len(each) > 1:
        yield from _by_relation(found, "smoothing", found.overall.smoothed, {name: low for name, low, _ in each})
        yield from _by_relation(found, "sharpening", found.overall.sharpened, {name: high for name, _, high in each})
    split = found.split
    if split is not None and split.both.gain is not None:
        sides = [
            f"{score(side.gain, found, '+')} in the {side.rows} rows {side.name}"
            for side in (split.below, split.above)
            if side.gain
        ]
        yield (
            f"The threshold {split.threshold:g} puts {_share(split.below.rows, found)}% of the rows below it. AdaptVis "
            f"gains {' and '.join(sides)}"
            + ("." if len(sides) < 2 else f": {score(split.both.gain, found, '+')} in all.")
        )


def _by_relation(
    found: Familiarity, what: str, overall: Steered | None, each: Mapping[str, Steered | None]
) -> Iterator[str]:
    if overall is None:
        return
    gains = {name: steered.gain for name, steered in each.items() if steered}
    parts = [
        f"{verb} in " + ", ".join(f"{name} ({score(gains[name], found, '+')})" for name in names)
        for verb, names in (
            ("higher", [name for name, gain in gains.items() if gain.interval.low > 0]),
            ("lower", [name for name, gain in gains.items() if gain.interval.high < 0]),
        )
        if names
    ]
    yield (
        f"Under alpha {overall.alpha:g} ({what}) {found.metric.title} is "
        + (", and ".join(parts) if parts else "shown to be different in no relation")
        + f"; in all rows it changes by {score(overall.gain, found, '+')}."
    )
