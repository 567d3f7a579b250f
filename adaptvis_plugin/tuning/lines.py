"""The ways of answering that a study compares, and what they are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from adaptvis_plugin.analysis.statistics import Estimate
from adaptvis_plugin.methods import method_class
from adaptvis_plugin.tuning.controls import CONTROLS
from adaptvis_plugin.tuning.search import Setting

PUBLISHED = "published_"
"""What the name of a method's published setting begins with."""

CORRECTIONS = tuple(name for name, control in CONTROLS.items() if control.corrects_bias)
"""The controls that correct label bias without steering."""

NOTHING_CHOSEN = ("plain", "first_token")
"""The ways of answering that are the same on whatever rows, as published settings are."""


def title_of(method: str) -> str:
    """Return what a method is called: the name of its class."""
    return method_class(method).__name__


def titles(methods: Sequence[str]) -> dict[str, str]:
    """Return what every way of answering is called, in the order of the tables.

    Args:
        methods: See `Outcomes.methods`.
    """
    return {
        "plain": "plain",
        **{name: title_of(name) for name in methods},
        **{f"{PUBLISHED}{name}": f"{title_of(name)}, published" for name in methods},
        **{name: control.title for name, control in CONTROLS.items()},
        "steered_options": f"choice among the options, {title_of(methods[-1])}",
    }


@dataclass(frozen=True)
class Line:
    """One way of answering.

    Attributes:
        name: Its name, a key of `titles`.
        title: What it is called.
        setting: Its setting, if it is a method's.
        on_all_rows: Each metric on all rows, fitted to the same rows: optimistic where something was chosen.
        held_out: Each metric of the answers to rows that the choice did not see, averaged over the repetitions.
        estimate: The objective of these, with its interval.
        gain: The difference of the objective to the plain model on the same rows; None for the plain model itself.
        chosen: How often each setting was chosen over the folds, most often first.
    """

    name: str
    title: str
    setting: Setting | None
    on_all_rows: Mapping[str, float]
    held_out: Mapping[str, float]
    estimate: Estimate
    gain: Estimate | None
    chosen: Mapping[Setting, int]

    @property
    def method(self) -> str:
        """The name of the method whose setting it is."""
        return self.name.removeprefix(PUBLISHED)

    @property
    def setting_text(self) -> str:
        """Its setting as the tables show it."""
        return "" if self.setting is None else self.setting.shown(self.method)
