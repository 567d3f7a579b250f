"""What a request asks of the attention, as its sampling parameters say it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adaptvis_plugin.decoding.heads import Heads, head_names, layer_numbers, written
from adaptvis_plugin.decoding.method import check_alpha

if TYPE_CHECKING:
    from vllm import SamplingParams

PREFIX = "adaptvis_"
"""What the names of all of this package's arguments begin with."""

ALPHA, LAYERS, HEADS = (PREFIX + name for name in ("alpha", "layers", "heads"))

MOST = 1e6
"""The largest coefficient. One past the range of fp32 would leave values in the engine's cache that are not numbers,
and other requests would meet them there: an engine reuses blocks without clearing them."""


@dataclass(frozen=True)
class Steering:
    """The attention logits of the last prompt token on the image are multiplied by a coefficient (see `ScalingVis`).

    Attributes:
        alpha: The coefficient.
        layers: The layers that are steered, as 14, `14-18+22` or a list; by default all.
        heads: Single heads that are steered, as `L17H3+L17H5` or a list; by default all.

    Raises:
        ValueError: If a value is unusable; the message names it as requests do.
    """

    alpha: float
    layers: Any = None
    heads: Any = None

    def __post_init__(self) -> None:
        check_alpha(ALPHA, self.alpha)
        if self.alpha > MOST:
            raise ValueError(f"{ALPHA}={self.alpha!r}: an engine takes coefficients up to {MOST:g}; give a smaller one")
        if self.layers is not None and self.heads is not None:
            raise ValueError(f"{LAYERS}={self.layers!r} and {HEADS}={self.heads!r} both say what is steered; give one")
        # One text for all ways to write the same places, so that equal requests are equal.
        if self.layers is not None:
            object.__setattr__(self, "layers", written(layer_numbers(LAYERS, self.layers)))
        if self.heads is not None:
            object.__setattr__(self, "heads", written(head_names(HEADS, self.heads)))

    @classmethod
    def of(cls, params: "SamplingParams") -> "Steering | None":
        """Return what a request asks; None if it asks for nothing, or for alpha 1, which changes nothing.

        Raises:
            ValueError: If an argument is unknown or unusable.
        """
        given: Mapping[str, Any] = getattr(params, "extra_args", None) or {}
        own = {name: value for name, value in given.items() if name.startswith(PREFIX)}
        if not own:
            return None
        if unknown := sorted({*own} - {ALPHA, LAYERS, HEADS}):
            raise ValueError(f"unknown argument {unknown[0]}={own[unknown[0]]!r}; there are {ALPHA}, {LAYERS}, {HEADS}")
        if own.get(ALPHA) is None:
            raise ValueError(f"{', '.join(own)} without {ALPHA}: give {ALPHA}, the coefficient (1 changes nothing)")
        asked = cls(own[ALPHA], own.get(LAYERS), own.get(HEADS))
        return None if asked.alpha == 1 else asked

    @property
    def places(self) -> Heads:
        """The heads that are steered."""
        return Heads.of(self.layers, self.heads)

    def extra_args(self) -> dict[str, Any]:
        """Return what `SamplingParams(extra_args=...)` takes, or an HTTP request as `vllm_xargs`; empty for alpha 1."""
        values = {ALPHA: self.alpha, LAYERS: self.layers, HEADS: self.heads}
        return {} if self.alpha == 1 else {name: value for name, value in values.items() if value is not None}

    @property
    def key(self) -> str:
        """A text that differs between any two that act differently, for the prefix cache."""
        return f"{float(self.alpha)!r} {self.layers or ''} {self.heads or ''}"
