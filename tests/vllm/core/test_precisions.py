"""Types and block sizes: each lays out the KV cache of a CPU in its own way."""

import pytest
import torch

from adaptvis_plugin.models.arguments import ModelArguments
from adaptvis_plugin.models.runner import Runner
from tests.vllm.core.engines import DEMO, answers, differences, engine, expected, rows

ALPHAS = (0, 0.5, 1, 1.5, 2, 3)


@pytest.mark.parametrize(
    ("dtype", "size", "near"),
    [
        ("float32", 64, 5e-5),
        ("float32", 128, 5e-5),
        ("float16", 32, 0.03),
        ("bfloat16", 32, 0.2),
        ("bfloat16", 128, 0.2),
    ],
)
def test_answers_in_a_type(dtype: str, size: int, near: float) -> None:
    """In half precision two programs round differently; alpha moves log-probabilities by much more.

    bfloat16 lies in tiles where the processor has AMX, float16 and float32 in columns.
    """
    given = {"method": "scalingvis", "pretrained": DEMO, "dtype": dtype, "prompt": "paper", "alpha": 1.0}
    runner = Runner(ModelArguments(**given))
    asks = [row.under(alpha) for row, alpha in zip(rows(runner, 6, " Look"), ALPHAS, strict=True)]
    with engine(dtype=dtype, block_size=size, num_gpu_blocks_override=100) as llm:
        found = answers(llm, asks, 1)
    off = [max(differences(answer, expected(runner, row, 1))) for row, answer in zip(asks, found, strict=True)]
    moved = [
        max(differences(expected(runner, row, 1), expected(runner, row.under(1), 1)))
        for row in asks
        if row.steering.alpha != 1
    ]
    assert max(off) < near, off
    assert min(moved) > 2 * near, moved


@pytest.mark.parametrize(
    ("isa", "dtype"),
    [("vec", torch.float32), ("vec", torch.float16), ("vec16", torch.float32), ("amx", torch.bfloat16)],
)
@pytest.mark.parametrize(("size", "dim"), [(32, 32), (128, 64), (32, 80), (64, 112)])
def test_blocks_are_read_as_the_engine_writes_them(isa: str, dtype: torch.dtype, size: int, dim: int) -> None:
    from vllm import _custom_ops as ops

    from adaptvis_plugin.vllm.backends.cpu import interior, read

    if isa == "amx" and not torch.cpu._is_amx_tile_supported():
        pytest.skip("this processor has no AMX")
    blocks, heads, tokens = 5, 3, 3 * size - 7
    key, value = torch.randn(2, tokens, heads, dim).to(dtype)
    table = torch.tensor([4, 0, 2])
    cache = torch.full((blocks, heads, size, 2 * dim), torch.nan, dtype=dtype)
    keys, values = cache.view(blocks, heads, 2 * size, dim).chunk(2, dim=2)
    slots = torch.cat([torch.arange(size) + block * size for block in table])[:tokens]
    ops.cpu_attn_reshape_and_cache(key, value, keys, values, slots, isa, 1.0, 1.0, "auto")
    halves = cache.view(blocks, heads, 2, size * dim)[table[None]].transpose(1, 2).unbind(3)
    for half, strides, wanted in zip(halves, interior(isa, dtype, size, dim), (key, value), strict=True):
        assert torch.equal(read(half, size, strides)[0, :, :tokens].transpose(0, 1), wanted)


def test_a_layout_without_strides_is_not_guessed() -> None:
    from adaptvis_plugin.vllm.backends.cpu import _parts, _strides

    places = torch.arange(32 * 32).view(_parts(32, 32))
    assert _strides(places) == (512, 64, 32, 16, 2, 1)
    assert _strides(places.flatten().roll(1).view_as(places)) is None
