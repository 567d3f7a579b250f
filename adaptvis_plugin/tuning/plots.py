"""Plots of a study, as PNG and SVG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from adaptvis_plugin.tuning.search import Setting
from adaptvis_plugin.tuning.study import Study

RIGHT, WRONG = "#1b7837", "#b2182b"

MANY = 8
"""With more coefficients than this there is no room for the threshold of each pair."""

PLAIN, CHOSEN, PUBLISHED = "#555555", "#2166ac", "#e08214"


def draw_surface(study: Study, path: Path) -> None:
    """Draw the objective of every setting on all rows.

    On the left the best threshold for each pair of coefficients; on the right every threshold for the best pair. Of a
    method without a threshold, one curve over its strength.

    Args:
        study: What was found.
        path: The file's name without its ending.
    """
    if not study.outcomes.by_confidence:
        _save(_strengths(study), path)
        return
    figure = Figure(figsize=(12, 5), layout="constrained")
    pairs, curve = figure.subplots(1, 2, width_ratios=(1, 1.15))
    best = study.surface.best()
    _draw_pairs(figure, pairs, study, best)
    _draw_thresholds(curve, study, best)
    figure.suptitle(
        f"{study.outcomes.trace.name}: {study.outcomes.objective.title} of every AdaptVis setting on all "
        f"{len(study.outcomes.confidence)} rows" + (", mean over traces" if study.shared_with else "")
    )
    _save(figure, path)


def _strengths(study: Study) -> Figure:
    """Return the objective of every strength on all rows."""
    surface, sweep, best = study.surface, study.outcomes.trace.sweep, study.main
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    order, scores = np.argsort(surface.alphas), _percent(study) * surface.values.diagonal()[0]
    axes.plot(np.take(surface.alphas, order), scores[order], "o-", color=CHOSEN, label="on all rows")
    if best.setting:
        chosen = best.setting.alpha_low
        score = scores[surface.alphas.index(chosen)]
        axes.plot(chosen, score, "o", color=WRONG, label=f"chosen: {chosen:g}, optimistic")
    axes.axhline(scores[0], color=PLAIN, linestyle="--", label="plain")
    if not study.shared_with:
        _draw_estimate(axes, study)
    axes.set_xlabel(sweep.strength)
    axes.set_ylabel(_unit(study))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.suptitle(
        f"{study.outcomes.trace.name}: {study.outcomes.objective.title} of {sweep.title} on all "
        f"{len(study.outcomes.confidence)} rows" + (", mean over traces" if study.shared_with else "")
    )
    return figure


def _draw_estimate(axes: Axes, study: Study) -> None:
    """Draw what the main method reaches on rows that its choice did not see."""
    scale, line = _percent(study), study.main
    axes.axhline(scale * line.estimate.value, color=RIGHT, linestyle=":", label=f"{line.title}, cross-validated")
    axes.axhspan(*(scale * end for end in line.estimate.interval), color=RIGHT, alpha=0.12, linewidth=0)


def _draw_pairs(figure: Figure, axes: Axes, study: Study, best: Setting) -> None:
    surface = study.surface
    order = np.argsort(surface.alphas)
    names = [f"{surface.alphas[place]:g}" for place in order]
    splits = surface.values.argmax(-1)
    splits[surface.alphas.index(best.alpha_low), surface.alphas.index(best.alpha_high)] = surface.thresholds.index(
        best.threshold
    )
    splits = splits[np.ix_(order, order)]
    scores = _percent(study) * surface.values.max(-1)[np.ix_(order, order)]
    many = len(order) > MANY
    image = axes.imshow(scores, origin="lower", cmap="cividis")
    middle = (scores.min() + scores.max()) / 2
    for (low, high), score in np.ndenumerate(scores):
        threshold = "" if low == high or many else f"\nat {surface.thresholds[splits[low, high]]:g}"
        colour = "black" if score > middle else "white"
        axes.text(
            high, low, f"{score:.1f}{threshold}", ha="center", va="center", fontsize=7 if many else 8, color=colour
        )
    low, high = (names.index(f"{alpha:g}") for alpha in best[:2])
    axes.add_patch(Rectangle((high - 0.48, low - 0.48), 0.96, 0.96, fill=False, edgecolor=WRONG, linewidth=3))
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("alpha_high, for confidence at or above the threshold")
    axes.set_ylabel("alpha_low, for confidence below the threshold")
    axes.set_title("best threshold of each pair; diagonal: ScalingVis; red: chosen", fontsize=10)
    figure.colorbar(image, ax=axes, shrink=0.85, label=_unit(study))


def _draw_thresholds(axes: Axes, study: Study, best: Setting) -> None:
    surface = study.surface
    low, high = (surface.alphas.index(alpha) for alpha in best[:2])
    confidence = study.outcomes.rounded
    scale = _percent(study)
    axes.step(surface.thresholds, scale * surface.values[low, high], where="mid", color=CHOSEN,
              label=f"alphas {best.alpha_low:g} / {best.alpha_high:g}, on all rows")  # fmt: skip
    axes.plot(best.threshold, scale * surface.values.max(), "o", color=CHOSEN, label=f"chosen: {best}, optimistic")
    published = study.lines.get("published_adaptvis")
    if published and published.setting and not study.shared_with:
        score = scale * published.on_all_rows[study.outcomes.objective.name]
        mark: dict[str, Any] = {
            "markersize": 11,
            "markerfacecolor": "none",
            "markeredgewidth": 2,
        }  # hollow: it may be the chosen one
        axes.plot(
            published.setting.threshold, score, "D", color=PUBLISHED, label=f"published: {published.setting}", **mark
        )
    axes.axhline(scale * surface.values[0, 0, 0], color=PLAIN, linestyle="--", label="plain")
    if not study.shared_with:
        _draw_estimate(axes, study)
    axes.set_xlim(max(0.0, confidence.min() - 0.05), min(1.0, confidence.max() + 0.05))
    axes.set_xlabel("threshold")
    axes.set_ylabel(_unit(study))
    axes.set_title("every threshold of the chosen pair", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def draw_confidence(study: Study, path: Path) -> None:
    """Draw how confident the unsteered model is where it is right and where it is wrong.

    Args:
        study: What was found.
        path: The file's name without its ending.
    """
    one, by_confidence = study.outcomes, study.outcomes.by_confidence
    setting = study.surface.best(single=not by_confidence)
    worth = one.columns.get("correct", one.columns[one.objective.columns[0]])
    plain, steered = (worth[choice, np.arange(len(choice))] for choice in (one.plain, setting.choice(one)))
    right = plain > 0.5
    edges = np.linspace(0, 1, 41)
    middles = (edges[:-1] + edges[1:]) / 2
    bins = np.clip(np.digitize(one.confidence, edges) - 1, 0, len(middles) - 1)
    filled = np.unique(bins)
    figure = Figure(figsize=(9, 6), layout="constrained")
    counts, shares = figure.subplots(2, 1, sharex=True, height_ratios=(1.5, 1))
    counts.hist(
        [one.confidence[right], one.confidence[~right]], bins=list(edges), stacked=True, color=[RIGHT, WRONG],
        label=[f"right ({right.sum()})", f"wrong ({(~right).sum()})"],
    )  # fmt: skip
    counts.set_ylabel("rows")
    under = f"{study.main.title} {setting.shown(study.main.name)}"
    for name, values, colour, mark in (("plain", plain, PLAIN, "o--"), (under, steered, CHOSEN, "s-")):
        means = [100 * np.nanmean(values[bins == place]) for place in filled]
        shares.plot(middles[filled], means, mark, color=colour, markersize=4, linewidth=1, label=name)
    for axes in (counts, shares):
        if by_confidence:
            axes.axvline(setting.threshold, color="black", linewidth=1, label=f"threshold {setting.threshold:g}")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    margin = 0.05
    shares.set_xlim(max(0.0, one.confidence.min() - margin), min(1.0, one.confidence.max() + margin))
    shares.set_ylabel("right, percent")
    shares.set_ylim(-3, 103)
    shares.set_xlabel("confidence of the unsteered model")
    counts.set_title(f"{one.trace.name}: confidence of the unsteered model, and whether it is right")
    _save(figure, path)


def _percent(study: Study) -> float:
    return 100.0 if study.outcomes.objective.share else 1.0


def _unit(study: Study) -> str:
    return "percent" if study.outcomes.objective.share else study.outcomes.objective.title


def _save(figure: Figure, path: Path) -> None:
    for ending in ("png", "svg"):
        figure.savefig(path.with_name(f"{path.name}.{ending}"), dpi=120)
