"""What the backend for GPUs reads from its cache, on tensors of a CPU. Its kernel is not run: it needs a GPU."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from adaptvis_plugin.decoding.heads import Heads
from adaptvis_plugin.decoding.parts import Columns
from adaptvis_plugin.vllm.backends import flash
from adaptvis_plugin.vllm.rows import Layer, SteeredRows

BLOCKS, GROUPS, SIZE, DIM, HEADS = 9, 2, 16, 8, 4
LENGTHS = (37, 16, 49)
TABLE = torch.tensor([[3, 1, 7, 0], [5, 0, 0, 0], [2, 8, 4, 6]])


@pytest.mark.parametrize(("left", "window"), [(-1, None), (0, 1), (11, 12)])
def test_its_window_counts_the_columns_before(left: int, window: int | None) -> None:
    own: Any = SimpleNamespace(sliding_window=(left, -1 if left < 0 else 0))
    assert flash.Impl.window(own) == window


@pytest.mark.parametrize("window", [None, 1, 12, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_from_its_cache_against_a_plain_computation(window: int | None, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    cache = torch.randn(BLOCKS, GROUPS, SIZE, 2 * DIM, generator=generator).to(dtype)
    query = torch.randn(60, HEADS, DIM, generator=generator).to(dtype)
    images = [torch.rand(length, generator=generator) < 0.4 for length in LENGTHS]
    alphas, tokens = (0.5, 2.0, 0.0), (36, 40, 58)
    rows = SteeredRows(
        torch.tensor(tokens),
        torch.tensor([0, 1, 2]),
        torch.tensor(LENGTHS),
        torch.tensor(alphas)[:, None, None, None],
        columns(images),
        [Heads()] * 3,
    )
    output = torch.full((60, HEADS, DIM), torch.nan, dtype=dtype)
    own: Any = SimpleNamespace(head_size=DIM)
    layer = Layer(0, 0, SIZE, GROUPS * DIM, DIM**-0.5, None, window)
    rows.overwrite(layer, query, TABLE, flash.Impl.paged(own, None, cache), output)
    for row, (length, alpha, token) in enumerate(zip(LENGTHS, alphas, tokens, strict=True)):
        written = cache[TABLE[row]].transpose(0, 1).flatten(1, 2)[:, :length].float()  # (groups, columns, 2 x dim)
        for head in range(HEADS):
            key, value = written[head // (HEADS // GROUPS)].chunk(2, -1)
            logits = key @ query[token, head].float() / DIM**0.5
            logits = torch.where(images[row], alpha * logits, logits)
            if window is not None:
                logits[: max(0, length - window)] = -torch.inf
            torch.testing.assert_close(output[token, head], (logits.softmax(-1) @ value).to(dtype))
    assert output.isnan().all(-1).all(-1).sum() == 57, "no other token is touched"


def columns(images: list[torch.Tensor]) -> Columns:
    padded = torch.nn.utils.rnn.pad_sequence(images, batch_first=True)[:, None, None]
    return Columns(padded, torch.zeros_like(padded))
