"""Which attention heads are steered: all of them, those of some layers, or single ones."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch

_LAYERS = re.compile(r"(\d{1,4})(?:-(\d{1,4}))?")
_HEAD = re.compile(r"L(\d{1,4})H(\d{1,4})")


@dataclass(frozen=True)
class Heads:
    """The heads that are steered. Without layers and heads, all of them.

    Layers and heads are numbered from 0, as in the paper. The number of a layer is that in the model: in a model that
    has attention in every fourth layer only, the first of them may be layer 3.

    Attributes:
        layers: The layers of which every head is steered.
        heads: Single heads, each as its layer and its number there.
        depth: Of published layers: the number of layers of the model they were published for. In a model with another
            number, they stand for the same share of its depth (see `for_depth`).
    """

    layers: frozenset[int] = frozenset()
    heads: frozenset[tuple[int, int]] = frozenset()
    depth: int | None = None

    @classmethod
    def of(cls, layers: Any, heads: Any) -> "Heads":
        """Return the heads that two hyper-parameters name; see `layer_numbers` and `head_names`.

        Raises:
            ValueError: If one is not of its form, or both are given.
        """
        if layers is not None and heads is not None:
            raise ValueError(f"layers={layers!r} and heads={heads!r} both say what is steered; give one")
        named = () if heads is None else head_names("heads", heads)
        return cls(
            frozenset(() if layers is None else layer_numbers("layers", layers)),
            frozenset((int(layer), int(head)) for layer, head in (_HEAD.fullmatch(n).groups() for n in named)),  # type: ignore[union-attr]
        )

    @property
    def all(self) -> bool:
        """Whether every head of every layer is steered."""
        return not self.layers and not self.heads

    def check(self, layers: Sequence[int], heads: int) -> None:
        """Raise ValueError if a model lacks one of these layers or heads.

        Args:
            layers: The numbers of the model's attention layers.
            heads: The number of heads in each.
        """
        have = f"{layers[0]} to {layers[-1]}" if len(layers) > layers[-1] - layers[0] else ", ".join(map(str, layers))
        if lacking := sorted(({layer for layer, _ in self.heads} | self.layers) - {*layers}):
            raise ValueError(f"layer {lacking[0]}: the model has attention in the layers {have}; name some of these")
        if lacking_heads := sorted(head for head in self.heads if head[1] >= heads):
            layer, head = lacking_heads[0]
            raise ValueError(f"head L{layer}H{head}: the model's layers have the heads 0 to {heads - 1}")

    def for_depth(self, layers: Sequence[int], depth: int) -> "Heads":
        """Return the heads in a model; published layers become those at the same share of its depth.

        Args:
            layers: The numbers of the model's attention layers.
            depth: The number of its layers of any kind.

        Raises:
            ValueError: If none of those has attention.
        """
        if self.depth is None:
            return self
        own = scaled(self.layers, self.depth, depth)
        if not {*own} & {*layers}:
            raise ValueError(
                f"the published layers {written(sorted(self.layers))} of {self.depth} stand for the layers "
                f"{written(own)} of this model, which have no attention; name some of {written(layers)} (layers=...)"
            )
        return Heads(frozenset(own) & {*layers})

    def of_layer(self, layer: int) -> torch.Tensor | bool:
        """Return which heads of a layer are steered: all, none, or by number up to the last one; shape (heads,)."""
        if self.all or layer in self.layers:
            return True
        chosen = [head for of, head in self.heads if of == layer]
        if not chosen:
            return False
        steered = torch.zeros(max(chosen) + 1, dtype=torch.bool)
        steered[chosen] = True
        return steered


def scaled(layers: Iterable[int], published: int, depth: int) -> list[int]:
    """Return layers of a model with `published` layers as those at the same share of the depth of another."""
    return sorted({layer * depth // published for layer in layers})


def layer_numbers(name: str, value: Any) -> tuple[int, ...]:
    """Return the layers that a value names, in order: a number, a text such as `14-18+22`, or a list of such.

    Raises:
        ValueError: If it is none of these.
    """
    numbers: set[int] = set()
    for part in _parts(value):
        found = _LAYERS.fullmatch(part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if first > last:
            raise ValueError(f"{name}={value!r}: name layers as 14, 14-18 or 14-18+22 (in a preset also as a list)")
        numbers.update(range(first, last + 1))
    return tuple(sorted(numbers))


def head_names(name: str, value: Any) -> tuple[str, ...]:
    """Return the heads that a value names, in order: a text such as `L17H3+L17H5`, or a list of such.

    Raises:
        ValueError: If it is none of these.
    """
    parts = _parts(value)
    if not all(_HEAD.fullmatch(part) for part in parts):
        raise ValueError(f"{name}={value!r}: name heads as L17H3 or L17H3+L17H5 (in a preset also as a list)")
    return tuple(sorted({*parts}, key=lambda part: [int(number) for number in re.findall(r"\d+", part)]))


def written(named: Sequence[Any]) -> str:
    """Return layers or heads as the one text that stands for them: `14-18+22`, or `L17H3+L17H5`."""
    runs = [[one for _, one in run] for _, run in groupby(enumerate(named), _less_its_place)]
    return "+".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _less_its_place(numbered: tuple[int, Any]) -> Any:
    """Return what is the same for layers that follow each other, and different for any two heads."""
    place, one = numbered
    return one - place if isinstance(one, int) else one


def _parts(value: Any) -> list[str]:
    """Return the parts of a value; one part that is nothing's name if it has none."""
    values = value if isinstance(value, (list, tuple)) else [value]
    return [part for one in values for part in str(one).split("+")] or [""]
