"""The models that answer through vLLM where it is not installed."""

import importlib.util
from typing import Any

import lmms_eval.models
import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")


@pytest.mark.parametrize("method", ["baseline", "scalingvis", "adaptvis"])
def test_the_names_are_there_and_say_what_to_install(method: str) -> None:
    model: Any = lmms_eval.models.get_model(f"vllm_{method}")
    with pytest.raises(ImportError, match=r'pip install "adaptvis-plugin\[vllm\]"'):
        model.create_from_arg_string("pretrained=demo", {"batch_size": 1, "device": None})


def test_generate_says_it_too() -> None:
    from adaptvis_plugin.decoding import Baseline
    from adaptvis_plugin.vllm import generate

    llm: Any = None
    with pytest.raises(ImportError, match=r'pip install "adaptvis-plugin\[vllm\]"'):
        generate(llm, ["Where?"], Baseline())
