"""Every family's real processor and a random model, as a checkpoint folder, through both frameworks' adapters."""

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


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's checkpoint, written once."""

    @cache
    def written(name: str) -> Path:
        folder = tmp_path_factory.mktemp("checkpoint")
        write(FAMILIES[name], PROCESSORS[name], folder)
        return folder

    return written


@pytest.mark.filterwarnings("ignore:rows .* hold no image token and are decoded plainly")
@pytest.mark.parametrize("style", ROWS)
@pytest.mark.parametrize("name", PROCESSORS)
def test_both_adapters_answer_as_transformers_and_as_the_oracle(
    name: str, style: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder, rows = checkpoint(name), ROWS[style]
    alone = Alone(folder, FAMILIES[name], PROCESSORS[name])
    for batch_size in (1, len(rows)):
        arguments: dict[str, Any] = {"pretrained": str(folder), "prompt": style}
        plain = alone.replies(rows, style, "baseline", batch_size)
        steered = alone.replies(rows, style, "scalingvis", batch_size)
        assert [reply.text for reply in steered] != [reply.text for reply in plain], "steering must be visible"
        for method, expected in (("baseline", plain), ("scalingvis", steered)):
            if method == "scalingvis":
                arguments["alpha"] = ALPHA
            same(through_lmms_eval(rows, method, batch_size, **arguments), expected)
            same(through_vlmevalkit(rows, method, batch_size, folder=tmp_path, **arguments), expected)


def same(replies: list[Reply], expected: list[Reply]) -> None:
    assert [reply.text for reply in replies] == [reply.text for reply in expected]
    assert [reply.confidence for reply in replies] == pytest.approx([reply.confidence for reply in expected], abs=1e-4)
