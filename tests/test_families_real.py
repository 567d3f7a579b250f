"""Every family's real processor and a random model, as a checkpoint folder, in both frameworks' adapters."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.families import FAMILIES, PROCESSORS
from tests.families.adapters import (
    ALPHA,
    ONE_EACH,
    ONE_TWO_NONE,
    Alone,
    Reply,
    through_lmms_eval,
    through_vlmevalkit,
)
from tests.families.checkpoint import write

ROWS = {"chat": ONE_TWO_NONE, "paper": ONE_EACH}
Checkpoint = Callable[[str], tuple[Path, Alone]]
Expected = Callable[[str, str, str, int], list[Reply]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Return the folder of a family's checkpoint, written once, and its model under transformers alone."""

    @cache
    def written(name: str) -> tuple[Path, Alone]:
        folder = tmp_path_factory.mktemp("checkpoint")
        write(FAMILIES[name], PROCESSORS[name], folder)
        return folder, Alone(folder, FAMILIES[name], PROCESSORS[name])

    return written


@pytest.fixture(scope="module")
def expected(checkpoint: Checkpoint) -> Expected:
    """Return what transformers and the oracle reply, in batches of a size; each is asked once."""

    @cache
    def replies(name: str, style: str, method: str, size: int) -> list[Reply]:
        return checkpoint(name)[1].replies(ROWS[style], style, method, size)

    return replies


@pytest.mark.parametrize("style", ROWS)
@pytest.mark.parametrize("name", PROCESSORS)
def test_both_adapters_answer_as_transformers_and_as_the_oracle(
    name: str, style: str, checkpoint: Checkpoint, expected: Expected, tmp_path: Path
) -> None:
    folder, _ = checkpoint(name)
    arguments: dict[str, Any] = {"pretrained": str(folder), "prompt": style}
    rows, sizes = ROWS[style], [3, 1]
    if PROCESSORS[name].needs_image and not all(row.pictures for row in rows):
        sizes = [3]  # the row without a picture is refused if it is alone: see below
    plain, steered = ([expected(name, style, method, size) for size in sizes] for method in ("baseline", "scalingvis"))
    assert texts(steered) != texts(plain), "steering must be visible for the comparison to mean anything"
    for method, own, alone in (("baseline", {}, plain), ("scalingvis", {"alpha": ALPHA}, steered)):
        same(list(through_lmms_eval(rows, method, sizes, **arguments, **own)), alone)
        same(list(through_vlmevalkit(rows, method, sizes, folder=tmp_path, **arguments, **own)), alone)


@pytest.mark.parametrize("style", ROWS)
@pytest.mark.parametrize("name", PROCESSORS)
def test_a_sweep_over_what_the_processor_gives_answers_as_transformers_and_as_the_oracle(
    name: str, style: str, checkpoint: Checkpoint, expected: Expected
) -> None:
    _, alone = checkpoint(name)
    rows = ROWS[style]
    swept = alone.swept(rows, style, [0.5, ALPHA])
    for alpha, method in ((1.0, "baseline"), (ALPHA, "scalingvis")):
        same([swept[alpha]], [expected(name, style, method, len(rows))])


@pytest.mark.parametrize("name", [name for name, declared in PROCESSORS.items() if declared.needs_image])
def test_a_batch_without_any_picture_is_refused_if_transformers_refuses_it(
    name: str, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    folder, alone = checkpoint(name)
    arguments: dict[str, Any] = {"pretrained": str(folder), "prompt": "chat"}
    rows = [row for row in ONE_TWO_NONE if not row.pictures]
    with pytest.raises(ValueError, match=PROCESSORS[name].needs_image):
        alone.replies(rows, "chat", "baseline", 1)
    with pytest.raises(ValueError, match=f"^some_task, document 0: .*{PROCESSORS[name].needs_image}"):
        list(through_lmms_eval(rows, "baseline", [1], **arguments))
    with pytest.raises(ValueError, match=PROCESSORS[name].needs_image):
        list(through_vlmevalkit(rows, "baseline", [1], folder=tmp_path, **arguments))


def test_every_family_runs_with_its_real_processor() -> None:
    assert set(PROCESSORS) == set(FAMILIES)


def texts(runs: list[list[Reply]]) -> list[list[str]]:
    return [[reply.text for reply in run] for run in runs]


def same(runs: list[list[Reply]], expected: list[list[Reply]]) -> None:
    assert texts(runs) == texts(expected)
    for run, other in zip(runs, expected, strict=True):
        assert [reply.prompt for reply in run] == [reply.prompt for reply in other]
        assert [reply.confidence for reply in run] == pytest.approx([reply.confidence for reply in other], rel=1e-4)
