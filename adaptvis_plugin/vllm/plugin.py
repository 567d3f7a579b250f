"""The entry point `vllm.general_plugins`: vLLM calls it at its start, in every process.

It must not harm an engine that steers nothing: with a vLLM that was not tested, it changes nothing and says so.
"""

import logging
import sys
from functools import wraps
from typing import Any

log = logging.getLogger(__name__)

_done = False

BACKENDS = {"CPU_ATTN": "cpu", "FLASH_ATTN": "flash"}
"""vLLM's backends that are replaced -> the module that does it."""


def register() -> None:
    """Replace vLLM's attention backends by those that can steer, keep its prefix cache clean, and check requests."""
    global _done
    if _done:
        return
    from adaptvis_plugin.vllm.support import unsupported

    if (reason := unsupported()) is not None:
        log.warning("Requests cannot be steered: %s", reason)
        return
    from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend

    for name, module in BACKENDS.items():
        register_backend(AttentionBackendEnum[name], f"adaptvis_plugin.vllm.backends.{module}.Backend")
    _tell_steered_blocks_apart()
    _check_requests()
    _refuse_beam_search()
    _done = True


def registered() -> bool:
    """Return whether `register` has done its work in this process."""
    return _done


def _tell_steered_blocks_apart() -> None:
    """Give blocks of the prefix cache that depend on the steering other hashes.

    From layer 1 on, a block that holds the last prompt token or a later one depends on it; the blocks before do not,
    and are shared. Which token was the prompt's last counts too: a request that comes back after a preemption also
    looks for blocks of its answer, and another one may have had the same tokens in its prompt.
    """
    from vllm.v1.core import kv_cache_utils

    from adaptvis_plugin.vllm.steering import Steering

    name = "generate_block_hash_extra_keys"
    own = getattr(kv_cache_utils, name)

    @wraps(own)
    def keys(request: Any, start_token_idx: int, end_token_idx: int, start_mm_idx: int) -> tuple[Any, int]:
        found, image = own(request, start_token_idx, end_token_idx, start_mm_idx)
        if end_token_idx >= request.num_prompt_tokens and (steering := Steering.of(request.sampling_params)):
            found = (*(found or ()), ("adaptvis", steering.key, request.num_prompt_tokens))
        return found, image

    # Several modules have imported it by name.
    for module in [module for module in list(sys.modules.values()) if getattr(module, name, None) is own]:
        setattr(module, name, keys)


def _check_requests() -> None:
    """Refuse a request that asks for steering where the engine cannot do it; over HTTP, that is a status of 400."""
    from vllm.exceptions import VLLMValidationError
    from vllm.v1.engine.input_processor import InputProcessor

    from adaptvis_plugin.decoding.inspection import image_token_id
    from adaptvis_plugin.vllm.steering import ALPHA, Steering
    from adaptvis_plugin.vllm.support import lacking, refusal

    kind: Any = InputProcessor
    own = kind.process_inputs

    def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
        request = own(self, *args, **kwargs)
        steering = Steering.of(request.sampling_params)
        if steering is None:
            return request
        config = self.vllm_config
        reason, image = refusal(config), image_token_id(config.model_config.hf_config)
        if reason is None and request.mm_features and image not in request.prompt_token_ids:
            reason = "the prompt has images, but none of the tokens by which the model's config names them"
        if reason is None and request.resumable:
            reason = "the prompt may still grow, and its last token is not known; send the whole prompt as one request"
        if reason is not None:
            raise VLLMValidationError(f"{ALPHA}={steering.alpha}: {reason}", parameter=ALPHA, value=steering.alpha)
        if (reason := lacking(config.model_config, steering)) is not None:
            raise VLLMValidationError(reason)
        return request

    @wraps(own)
    def process_inputs(self: Any, request_id: str, prompt: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return checked(self, request_id, prompt, *args, **kwargs)
        except VLLMValidationError:
            # vLLM has noted that the engine has the images by now. It never got them, and would fail the next request.
            cache = self.renderer.mm_processor_cache
            hashes = prompt.get("mm_hashes", {}) if isinstance(prompt, dict) and cache is not None else {}
            for one in (one for of_kind in hashes.values() for one in of_kind):
                cache.invalidate(one)
            raise

    kind.process_inputs = process_inputs


def _refuse_beam_search() -> None:
    """Refuse an HTTP request that asks for steering and beam search, whose own requests vLLM makes without it."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest
    from vllm.exceptions import VLLMValidationError

    from adaptvis_plugin.vllm.steering import PREFIX

    def refusing(own: Any) -> Any:
        @wraps(own)
        def to_beam_search_params(self: Any, *args: Any, **kwargs: Any) -> Any:
            for name, value in (self.vllm_xargs or {}).items():
                if name.startswith(PREFIX):
                    raise VLLMValidationError(
                        f"{name}={value!r}: beam search cannot be steered; leave out use_beam_search, or {name}"
                    )
            return own(self, *args, **kwargs)

        return to_beam_search_params

    for kind in (ChatCompletionRequest, CompletionRequest):
        own: Any = kind.to_beam_search_params
        setattr(kind, own.__name__, refusing(own))
