"""The engine's cache: prompts in chunks, requests that lose their place, and blocks that are used again.

Answers must be this project's own decoder's throughout. A block that depends on the steering is used again only under
the same.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from adaptvis_plugin.models.runner import Runner
from tests.vllm.core.engines import Row, answers, check, counted, differences, engine, expected, rows

SIZE = 32
"""Tokens per block."""


@pytest.fixture(scope="module")
def llm() -> Iterator[Any]:
    with engine(block_size=SIZE) as made:
        yield made


def filled(runner: Runner, row: Row, length: int, name: str = "") -> Row:
    """Return a row whose prompt is of a length in tokens. Its question begins as no other test's does."""
    place = row.text.index("\n") + 1  # after the image
    for words in range(200):
        for short in ("", " a"):
            text = f"{row.text[:place]}{name}{' on' * words}{short}{row.text[place:]}"
            found = Row(text, row.images, row.steering)
            if len(expected(runner, found, 1).prompt) == length:
                return found
    raise AssertionError(f"no prompt of {length} tokens")


@pytest.mark.parametrize("chunk", [16, 33, 50])
def test_prompts_in_chunks(runner: Runner, chunk: int) -> None:
    """The last prompt token comes in a later step than the image."""
    asks = [row.under(alpha) for row, alpha in zip(rows(runner, 5, " Look"), (0, 0.5, 1, 2, 3), strict=True)]
    with engine(max_num_batched_tokens=chunk, max_num_seqs=5) as llm:
        check(runner, llm, asks, tokens=4)


@pytest.mark.parametrize("over", [-1, 0, 1])
def test_the_last_token_at_a_border_of_chunks(runner: Runner, over: int) -> None:
    """With a chunk less, the prompt's last token is a chunk of its own."""
    row = rows(runner, 1)[0].under(0.25)
    chunk = (len(expected(runner, row, 6).prompt) + over) // 2
    with engine(max_num_batched_tokens=chunk, max_num_seqs=2, enable_prefix_caching=False) as llm:
        check(runner, llm, [row], tokens=6)
        check(runner, llm, [row.under(2), row], tokens=6)


@pytest.mark.parametrize("caching", [False, True])
def test_requests_that_lose_their_place_and_come_back(runner: Runner, caching: bool) -> None:
    """A resumed request computes its prompt's last token once more, or finds the block that it had itself written."""
    alphas = (0, 0.5, 1, 1.5, 2, 3, 0.5, 8)
    asks = [row.under(alpha) for row, alpha in zip(rows(runner, 8), alphas, strict=True)]
    with engine(num_gpu_blocks_override=24, max_num_seqs=8, enable_prefix_caching=caching) as llm:
        before = counted(llm, "num_preemptions")
        check(runner, llm, asks, tokens=60)
        assert counted(llm, "num_preemptions") > before


@pytest.mark.parametrize("length", [4 * SIZE - 1, 4 * SIZE, 4 * SIZE + 1])
def test_the_prefix_cache_is_never_polluted(runner: Runner, llm: Any, length: int) -> None:
    """Each request finds what the ones before have left, and answers as if it were the first."""
    plain = filled(runner, rows(runner, 1)[0], length, f"{length}")
    steered = plain.under(0.25)
    (first,) = check(runner, llm, [steered], 40)  # the answer fills a block too
    answer = runner.processor.tokenizer.decode(first.tokens[:36])
    longer = plain.longer(" Where is it then?")
    after: Sequence[Row] = (
        plain,
        longer,
        longer.under(0.25),
        longer.under(4),
        plain.under(4),
        plain.under(0.25, layers=0),
        plain.under(0.25, heads="L0H0+L2H1"),
        plain.under(0.25, heads="L0H1"),
        plain.longer(answer),
        plain.longer(answer).under(0.25),
        plain.longer(answer).under(0.25, layers="0-2"),
        steered,
    )
    for row in after:
        (found,) = check(runner, llm, [row], 4)
        assert found.cached >= (length - 1) // SIZE * SIZE, "blocks before the last prompt token are shared by all"
        assert len(found.prompt) > len(first.prompt) or len(found.prompt) - found.cached <= SIZE
    llm.reset_prefix_cache()
    check(runner, llm, [plain, *after, plain], 4)  # and all in one batch


def test_a_prefix_is_computed_once_for_all_coefficients(runner: Runner, llm: Any) -> None:
    own = [row.longer(" once") for row in rows(runner, 6)[1:]]  # no other test has asked about these pictures
    computed = [len(answer.prompt) - answer.cached for answer in answers(llm, own, 1)]
    assert min(computed) > SIZE, "nothing was there before"
    for alpha in (0, 0.5, 1.5, 2):
        for answer in check(runner, llm, [row.under(alpha) for row in own], 3):
            assert 1 <= len(answer.prompt) - answer.cached <= SIZE


def test_the_cache_would_be_polluted_without_the_hash(
    runner: Runner, llm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the tests above can fail."""
    from vllm.v1.core import kv_cache_utils

    ours: Any = kv_cache_utils.generate_block_hash_extra_keys
    monkeypatch.setattr(kv_cache_utils, "generate_block_hash_extra_keys", ours.__wrapped__)
    plain = filled(runner, rows(runner, 1)[0], 4 * SIZE, "without")
    check(runner, llm, [plain.under(0.25)], 1)
    longer = plain.longer(" now")
    (found,) = answers(llm, [longer], 1)
    (off,) = differences(found, expected(runner, longer, 1))
    print(f"a longer plain prompt is {off:.1e} off")
    assert off > 1e-3


def test_which_token_was_the_last_of_the_prompt_counts_too() -> None:
    """The same tokens, with another one steered: a request that comes back could find the block of the other."""
    from vllm import SamplingParams
    from vllm.utils.hashing import sha256
    from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
    from vllm.v1.request import Request

    init_none_hash(sha256)

    def hashes(prompt: int, **asked: Any) -> list[bytes]:
        params = SamplingParams(max_tokens=64, extra_args=asked or None)
        made = Request("one", list(range(prompt)), params, None, block_hasher=get_request_block_hasher(SIZE, sha256))
        made.append_output_token_ids(list(range(prompt, 3 * SIZE)))
        return list(made.block_hashes)

    steered, later, plain = hashes(50, adaptvis_alpha=0.5), hashes(51, adaptvis_alpha=0.5), hashes(50)
    assert len(steered) == 3 and steered[0] == later[0] == plain[0]
    assert not {*steered[1:]} & {*later, *plain} and plain == hashes(51) == hashes(50, adaptvis_alpha=1)
    assert steered == hashes(50, adaptvis_alpha=0.5, adaptvis_layers=None)
    assert len({hashes(50, adaptvis_alpha=0.5, **other)[1] for other in PLACES}) == len(PLACES)


PLACES: list[dict[str, Any]] = [
    {},
    {"adaptvis_layers": 1},
    {"adaptvis_layers": "1-2"},
    {"adaptvis_heads": "L1H0"},
    {"adaptvis_heads": "L1H1"},
]
