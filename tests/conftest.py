"""Settings of the whole suite."""

import gc
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator

import pytest
import torch

# The models are tiny: a second thread costs more time than it saves. The processes that tests start have one too.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

HAS_VLLM = importlib.util.find_spec("vllm") is not None
collect_ignore = [] if HAS_VLLM else ["vllm"]

SLOW = [
    "readme",
    "families_real",
    "vlmevalkit",
    "vlmevalkit_input",
    "compare_frameworks",
    "command_line",
    "sweep",
    "leaderboard",
    "benchmarks",
    "new_data_set",
    "packaging",
    "calibrated",
    "families",
    "flash_attention",
    "attention_command",
    "capture",
    "columns",
    "decoders",
    "decoders_families",
    "decoders_parts",
    "second_streams",
    "sweep_methods",
]
"""The files that take longest. They begin first, so that no process is alone with one of them at the end."""


def pytest_report_header() -> list[str]:
    return [] if HAS_VLLM else ["tests/vllm is left out: vLLM is not installed here; run it by make test-vllm"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem.removeprefix("test_") not in SLOW)
    if families := sys.modules.get("tests.families"):
        for item in items:
            for value in item.callspec.params.values() if hasattr(item, "callspec") else ():
                if isinstance(value, str) and value in families.LACKING:
                    item.add_marker(pytest.mark.skip(reason=families.LACKING[value]))


@pytest.fixture(scope="session", autouse=True)
def imported() -> Iterator[None]:
    """Take what the tests have imported out of the garbage collector, which lmms-eval calls in every run."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def pytest_configure(config: pytest.Config) -> None:
    """Keep the developer's caches and settings out of the tests, and what the tests write out of the caches."""
    if hasattr(config, "workerinput"):
        return  # a parallel process of pytest-xdist: it shares the folder of the process that started it
    home = tempfile.TemporaryDirectory(prefix="adaptvis-tests-")
    config.add_cleanup(home.cleanup)
    os.environ["HF_HOME"] = home.name
    for name in ("ADAPTVIS_CACHE", "ADAPTVIS_SOURCES", "VLMEVALKIT_ROOT"):
        os.environ.pop(name, None)
