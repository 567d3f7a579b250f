"""vLLM answers as this project's own decoder does, row by row: all tokens, and their log-probabilities."""

import os
from collections.abc import Iterator
from typing import Any

import pytest

from adaptvis_plugin.decoding.rows import attend
from adaptvis_plugin.models.runner import Runner
from adaptvis_plugin.vllm import rows as steered_rows
from tests.vllm.core.engines import Row, answers, check, differences, engine, expected, rows, uses_v2

MIXED: list[dict[str, Any]] = [
    {"alpha": 0},
    {"alpha": 0.5},
    {"alpha": 1},
    {"alpha": 1.5, "layers": "1-2"},
    {"alpha": 2},
    {"alpha": 3, "heads": "L0H1+L3H2"},
    {"alpha": 0.5, "layers": 3},
    {"alpha": 1},
    {"alpha": 8, "heads": "L2H0"},
    {"alpha": 1.5},
]


@pytest.fixture(scope="module")
def llm() -> Iterator[Any]:
    with engine() as made:
        yield made


def test_which_model_runner_it_is(llm: Any) -> None:
    assert uses_v2(llm) == (os.environ.get("VLLM_USE_V2_MODEL_RUNNER") == "1")


def test_any_mix_of_coefficients_layers_heads_and_plain_rows(runner: Runner, llm: Any) -> None:
    asks = [row.under(**steering) for row, steering in zip(rows(runner, 10, " Look"), MIXED, strict=True)]
    found = check(runner, llm, asks, tokens=12)
    assert len({len(answer.prompt) for answer in found}) > 5, "rows of different lengths"


def test_the_steering_is_seen_in_every_token(runner: Runner, llm: Any) -> None:
    """The last prompt token's keys and values stay steered, so later tokens depend on alpha too."""
    row = rows(runner, 1)[0]
    (plain,) = answers(llm, [row])
    # Of the last layer, nothing is left in the cache.
    for steering in ({"alpha": 0}, {"alpha": 2}, {"alpha": 1.5, "layers": "1-2"}, {"alpha": 3, "heads": "L0H1+L3H2"}):
        (steered,) = answers(llm, [row.under(**steering)])
        for place, (ours, other) in enumerate(zip(steered.logprobs, plain.logprobs, strict=True)):
            if steered.tokens[:place] == plain.tokens[:place]:
                common = {*ours} & {*other}
                assert max(abs(ours[token] - other[token]) for token in common) > 1e-4, (steering, place)


def test_several_images_and_none(runner: Runner, llm: Any) -> None:
    two, other = rows(runner, 2)
    pair = Row(two.text.replace("<image>", "<image>\n<image>"), two.images + other.images)
    alone = Row(two.text.replace("<image>\n", "").replace("<image>", ""), ())
    check(runner, llm, [pair, pair.under(0.5), alone, alone.under(2), two.under(2)])


def test_all_requests_of_a_batch_may_be_the_same_prompt(runner: Runner, llm: Any) -> None:
    row = rows(runner, 1)[0]
    check(runner, llm, [row.under(alpha) for alpha in (0, 0.25, 0.5, 1, 1.5, 2, 4, 1, 0.5)])


def test_the_reference_is_not_vacuous(runner: Runner) -> None:
    row = rows(runner, 1)[0]
    assert max(differences(expected(runner, row), expected(runner, row.under(3)))) > 0.1


def test_one_gather_per_layer_and_the_same_in_parts(runner: Runner, llm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """All steered rows of a step are computed at once, unless their keys take too much memory."""
    asks = [row.under(alpha) for row, alpha in zip(rows(runner, 6, " Look"), (0, 0.5, 1, 1.5, 2, 3), strict=True)]
    gathered: list[int] = []

    def counting(query: Any, *args: Any, **kwargs: Any) -> Any:
        gathered.append(len(query))
        return attend(query, *args, **kwargs)

    monkeypatch.setattr(steered_rows, "attend", counting)
    layers = 4
    for most, parts in ((steered_rows.MOST, [5]), (2 * 4 * 32 * 160, [2, 2, 1]), (1, [1] * 5)):
        monkeypatch.setattr(steered_rows, "MOST", most)
        gathered.clear()
        llm.reset_prefix_cache()
        check(runner, llm, asks, 2)
        assert gathered == parts * layers, most


def test_more_requests_than_fit_into_a_step(runner: Runner) -> None:
    """Rows of the batch are moved and filled again as requests come and go."""
    own = rows(runner, 24, " Look")
    asks = [row.under(**MIXED[place % 10]) for place, row in enumerate(own)]
    with engine(max_num_seqs=3) as llm:
        from vllm import SamplingParams

        from tests.vllm.core.engines import asked

        lengths = [1 + place % 5 for place in range(len(asks))]
        params = [
            SamplingParams(temperature=0, max_tokens=length, ignore_eos=True, extra_args=row.steering.extra_args())
            for row, length in zip(asks, lengths, strict=True)
        ]
        found = llm.generate([asked(row) for row in asks], params, use_tqdm=False)
    for row, length, out in zip(asks, lengths, found, strict=True):
        assert list(out.outputs[0].token_ids) == expected(runner, row, 8).tokens[:length]
