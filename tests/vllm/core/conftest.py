"""Settings of the tests of what happens inside vLLM."""

import importlib.util
from collections.abc import Iterator

import pytest
import torch

from adaptvis_plugin.models.arguments import ModelArguments
from adaptvis_plugin.models.runner import Runner
from adaptvis_plugin.paths import DEMO_MODEL

if importlib.util.find_spec("vllm") is None:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="package", autouse=True)
def in_this_process() -> Iterator[None]:
    # Even an eager engine compiles a part of its sampling, anew for sizes of the batch: seconds each.
    with pytest.MonkeyPatch.context() as patch, torch._dynamo.config.patch(disable=True):
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        yield


@pytest.fixture(scope="session")
def runner() -> Runner:
    """The reference: the embedded model in fp32, by Hugging Face's transformers and this project's decoder."""
    return Runner(
        ModelArguments(method="scalingvis", pretrained=str(DEMO_MODEL), dtype="float32", prompt="paper", alpha=1.0)
    )
