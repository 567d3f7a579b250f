"""ScalingVis and AdaptVis inside vLLM: attention steered per request, with its batching, prefix cache and server.

vLLM finds this package by its entry points (`vllm.general_plugins`, `vllm.logits_processors`), in every process. A
request says what it wants by `SamplingParams.extra_args`, over HTTP by `vllm_xargs`; see `steering`.
"""
