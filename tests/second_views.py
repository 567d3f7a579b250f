"""Batches made of single rows, and the second views of their rows, made by hand."""

import torch
from torch.nn.functional import pad as padded

from tests.families.build import MARK, NOT_TEXT, PAD

Inputs = dict[str, torch.Tensor]
TYPES = ("mm_token_type_ids", "token_type_ids")


def joined(rows: list[Inputs]) -> Inputs:
    """Return single rows as one batch, padded on the left."""
    width = max(row["input_ids"].shape[1] for row in rows)
    names = list(dict.fromkeys(name for row in rows for name in row))

    def aligned(name: str, row: Inputs) -> torch.Tensor:
        of_tokens = row[name].shape == row["input_ids"].shape
        return padded(row[name], (width - row[name].shape[1], 0), value=PAD) if of_tokens else row[name]

    return {name: torch.cat([aligned(name, row) for row in rows if name in row]) for name in names}


def noised(inputs: Inputs, seed: int = 1) -> Inputs:
    """Return a batch with noise on its pixels, but not on the zeros that fill up a row with fewer images."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: value + 2 * torch.randn(value.shape, generator=generator) * (value != 0)
        if "pixel_values" in name
        else value
        for name, value in inputs.items()
    }


def without_image(inputs: Inputs) -> Inputs:
    """Return a batch without its images and their markers."""
    rows = []
    for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
        words = ids[mask.bool() & ~torch.isin(ids, torch.tensor(NOT_TEXT))][None]
        types = {name: torch.zeros_like(words) for name in TYPES if name in inputs}
        rows.append({"input_ids": words, "attention_mask": torch.ones_like(words), **types})
    return joined(rows)


def asked_otherwise(inputs: Inputs) -> Inputs:
    """Return a batch with more words behind each question."""
    words = torch.arange(MARK + 2, MARK + 9).expand(len(inputs["input_ids"]), -1)
    more = {"input_ids": words, "attention_mask": torch.ones_like(words)}
    more |= {name: torch.zeros_like(words) for name in TYPES if name in inputs}
    return {name: torch.cat([value, more[name]], 1) if name in more else value for name, value in inputs.items()}
