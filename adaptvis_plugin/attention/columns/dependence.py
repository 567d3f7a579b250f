"""Which pixel values each image column is made from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse

from adaptvis_plugin.attention.record import UnmappedError

# Into how many groups the columns are cut, in turn. Rows of columns have lengths with many divisors, primes have none.
_GROUPS = (1, 2, 3, 5, 7, 11, 13, 17, 23, 31, 41, 53, 71, 97, 127, 163, 211, 257)
_WIDEST = 0.25  # share of the pixel values that one column may be made from, if it shares them with others
_MOST_SHARED = 32  # columns that may be made from the same pixel value
_NOISE = 1e-3  # gradients below this share of the largest one count as none
_SAME = 0.1  # relative difference of two gradients that should be equal
_CLASHES = 1e-3  # share of values that may seem to have several columns, by rounding
_TAIL = 0.05

_SHARED = "many of them are made from the same pixels (a resampler, or wide convolutions)"

_Probe = Callable[[torch.Tensor], torch.Tensor]
_Owned = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Dependence:
    """What the image columns are made from.

    Attributes:
        weights: How much a column depends on a pixel value, shape (columns, values).
        overlapping: Whether some values reach several columns.
    """

    weights: sparse.csr_array
    overlapping: bool


def find_dependence(features: torch.Tensor, pixels: list[torch.Tensor]) -> Dependence:
    """Find the pixel values that each column depends on, by gradients.

    A gradient of the sum of all columns does not say which column a value belongs to. But with some columns' signs
    turned, the gradient turns its sign at the values of these columns. So the columns are numbered, and one gradient
    for each binary digit of the numbers is enough. Where a value belongs to several columns (features that were
    interpolated or convolved), gradients also change in size. Then the same is done with every second column alone,
    every third, and so on, until columns do not meet.

    Args:
        features: What the text decoder is given at the image columns, shape (columns, hidden size).
        pixels: The tensors of pixels that they were computed from.

    Raises:
        UnmappedError: If too many columns depend on the same values.
    """
    count, hidden = features.shape
    # All directions of a feature at once, so that none that a column does not have decides.
    direction = torch.randn(hidden, generator=torch.Generator().manual_seed(0)).to(features.device)
    sums = features.float() @ direction

    def probe(signs: torch.Tensor) -> torch.Tensor:
        found = torch.autograd.grad(sums, pixels, signs.to(sums), retain_graph=True, allow_unused=True)
        parts = [torch.zeros_like(given) if part is None else part for part, given in zip(found, pixels, strict=True)]
        return torch.cat([part.detach().float().flatten() for part in parts])

    if not sums.requires_grad:
        raise UnmappedError("they do not depend on the pixels in a way that can be followed (a gradient)")
    for groups in _GROUPS:
        if groups == 2:
            _check_width(probe, count)
        found = []
        for start in range(min(groups, count)):
            owned = _columns_of(probe, torch.arange(start, count, groups), count)
            if owned is None:
                break
            found.append(owned)
        else:
            shape = count, sum(part.numel() for part in pixels)
            return _joined(found, shape, overlapping=groups > 1)
    raise UnmappedError(_SHARED)


def _check_width(probe: _Probe, count: int) -> None:
    """Check that single columns are made from a part of the pixels."""
    for column in {0, count // 2, count - 1}:
        signs = torch.zeros(count)
        signs[column] = 1
        size = probe(signs).abs()
        share = float((size > _TAIL * size.max()).float().mean())
        if share > _WIDEST or share * count > _MOST_SHARED:
            raise UnmappedError(_SHARED)


def _columns_of(probe: _Probe, members: torch.Tensor, count: int) -> _Owned | None:
    """Return values, their columns and gradients; None if a value belongs to several of these columns."""
    signs = torch.zeros(count)
    signs[members] = 1
    plain = probe(signs)
    size = plain.abs()
    if not torch.isfinite(size).all():
        raise UnmappedError("their gradients are not finite")
    alive = torch.nonzero(size > _NOISE * size.max()).flatten()
    plain, size = plain[alive], size[alive]
    number = torch.zeros(len(alive), dtype=torch.long, device=alive.device)
    clash = torch.zeros(len(alive), dtype=torch.bool, device=alive.device)
    for digit in range((len(members) - 1).bit_length()):
        signs[members] = 1.0 - 2.0 * ((torch.arange(len(members)) >> digit) & 1)
        turned = probe(signs)[alive]
        clash |= (turned.abs() - size).abs() > _SAME * size
        if clash.sum() > _CLASHES * len(alive):
            return None
        number |= (turned * plain < 0).long() << digit
    kept = ~clash & (number < len(members))
    return alive[kept].cpu(), members[number[kept].cpu()], size[kept].cpu()


def _joined(parts: list[_Owned], shape: tuple[int, int], *, overlapping: bool) -> Dependence:
    values, columns, sizes = (torch.cat(each).numpy() for each in zip(*parts, strict=True))
    if overlapping:
        largest = np.zeros(shape[0], np.float32)
        np.maximum.at(largest, columns, sizes)
        kept = sizes > _TAIL * largest[columns]
        values, columns, sizes = values[kept], columns[kept], sizes[kept]
    else:
        sizes = np.ones_like(sizes)
    return Dependence(sparse.csr_array((sizes, (columns, values)), shape=shape), overlapping)
