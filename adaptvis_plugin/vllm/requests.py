"""The entry point `vllm.logits_processors`: vLLM loads it in every process, and stops if that fails.

So with a vLLM that was not tested, which may lack what the steering needs, it only refuses what asks for steering.
"""

from adaptvis_plugin.vllm.support import unsupported

if (reason := unsupported()) is None:
    from adaptvis_plugin.vllm.processor import SteeredRequests
else:
    from adaptvis_plugin.vllm.refusing import refusing

    SteeredRequests = refusing(reason)  # type: ignore[misc,assignment]

__all__ = ["SteeredRequests"]
