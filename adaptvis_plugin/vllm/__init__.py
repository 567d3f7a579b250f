"""ScalingVis and AdaptVis inside vLLM: attention steered per request, with its batching, prefix cache and server.

vLLM finds this package by its entry points (`vllm.general_plugins`, `vllm.logits_processors`), in every process. A
request says what it wants by `SamplingParams.extra_args`, over HTTP by `vllm_xargs`; see `steering`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adaptvis_plugin.vllm.prompts import generate

__all__ = ["generate"]


def __getattr__(name: str) -> Any:
    # vLLM's processes import this package, and not what is done with an engine.
    if name != "generate":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from adaptvis_plugin.vllm.prompts import generate

    return generate
