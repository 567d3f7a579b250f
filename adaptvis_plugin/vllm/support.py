"""What this package needs of vLLM: the version, the names that it replaces or extends, and an engine's config."""

import importlib.util
import inspect
import pkgutil
from typing import TYPE_CHECKING, Any

from adaptvis_plugin.decoding.heads import Heads
from adaptvis_plugin.decoding.inspection import image_token_id
from adaptvis_plugin.vllm.steering import HEADS, LAYERS, Steering

if TYPE_CHECKING:
    from vllm.config import ModelConfig, VllmConfig

TESTED = "0.32"
"""The minor version that was tested. Others differ in what is replaced here."""

WAY_OUT = f'pip install "vllm>={TESTED},<0.{int(TESTED.split(".")[1]) + 1}"'

NEEDED = {
    "vllm.v1.core.kv_cache_utils:generate_block_hash_extra_keys": (
        "request",
        "start_token_idx",
        "end_token_idx",
        "start_mm_idx",
    ),
    "vllm.v1.engine.input_processor:InputProcessor.process_inputs": ("request_id", "prompt", "params"),
    "vllm.multimodal.cache:BaseMultiModalProcessorCache.invalidate": ("mm_hash",),
    "vllm.v1.attention.backends.registry:register_backend": ("backend", "class_path"),
    "vllm.v1.attention.backends.registry:AttentionBackendEnum.CPU_ATTN": (),
    "vllm.v1.attention.backends.registry:AttentionBackendEnum.FLASH_ATTN": (),
    "vllm.v1.sample.logits_processor.builtin:process_dict_updates": ("req_entries", "batch_update", "new_state"),
    "vllm.v1.worker.gpu.sample.logits_processor:LogitsProcessor.add_request": ("req_idx", "sampling_params"),
    "vllm.v1.attention.backend:AttentionMetadataBuilder.build": ("common_prefix_len", "common_attn_metadata"),
    "vllm.entrypoints.openai.chat_completion.protocol:ChatCompletionRequest.to_beam_search_params": (),
    "vllm.entrypoints.openai.completion.protocol:CompletionRequest.to_beam_search_params": (),
    "vllm.renderers.base:BaseRenderer.render_cmpl": ("prompts", "tok_params", "skip_mm_cache"),
    "vllm.renderers.inputs.preprocess:parse_model_prompt": ("model_config", "prompt"),
    "vllm.renderers.inputs.preprocess:prompt_to_seq": ("prompt_or_prompts",),
    "vllm.v1.engine.llm_engine:LLMEngine.add_request": ("request_id", "prompt", "params"),
    "vllm.v1.engine.llm_engine:LLMEngine.abort_request": ("request_ids",),
    "vllm.engine.arg_utils:EngineArgs.add_cli_args": ("parser",),
}
"""What is used of vLLM's insides -> the arguments it must have."""


def check_version() -> None:
    """Check that vLLM is there, and is what was tested.

    Raises:
        ImportError: If it is not; the message says what to install.
    """
    if importlib.util.find_spec("vllm") is None:
        raise ImportError('vLLM is not installed: pip install "adaptvis-plugin[vllm]"')
    if (reason := unsupported()) is not None:
        raise ImportError(reason)


def unsupported() -> str | None:
    """Return why nothing can be steered with the vLLM that is installed, with the way out; None if it can."""
    import vllm

    if not vllm.__version__.startswith(f"{TESTED}."):
        return f"vLLM {vllm.__version__}: steering was tested with vLLM {TESTED} and replaces parts of it; {WAY_OUT}"
    for name, arguments in NEEDED.items():
        try:
            found = pkgutil.resolve_name(name)
        except (ImportError, AttributeError):
            return f"vLLM {vllm.__version__} has no {name}, which steering needs; {WAY_OUT}"
        if lacking := {*arguments} - {*(inspect.signature(found).parameters if arguments else ())}:
            return f"{name} of vLLM {vllm.__version__} takes no {min(lacking)}, which steering needs; {WAY_OUT}"
    return None


def refusal(config: "VllmConfig") -> str | None:
    """Return why an engine cannot steer requests, with the way out; None if it can.

    Only what its config says. What only its layers say (attention sinks, ALiBi, another backend) ends the first steered
    request, and the engine with it.
    """
    found = [reason for reason, holds in reasons(config).items() if holds]
    return (
        f"requests to {config.model_config.model} cannot be steered here: the engine has {found[0]}" if found else None
    )


def reasons(config: "VllmConfig") -> dict[str, bool]:
    """Return all that keeps an engine from steering, each with its way out, and whether this one has it."""
    from vllm.platforms import current_platform
    from vllm.utils.torch_utils import is_quantized_kv_cache

    model, parallel, cache = config.model_config, config.parallel_config, config.cache_config
    backend: Any = config.attention_config.backend
    needed = "CPU_ATTN" if current_platform.is_cpu() else "FLASH_ATTN"
    return {
        f"this platform ({current_platform.device_name}); there are backends for CPU and CUDA": not (
            current_platform.is_cpu() or current_platform.is_cuda()
        ),
        "speculative decoding, which drafts tokens past the steered one; leave speculative_config out": (
            config.speculative_config is not None
        ),
        f"pipeline_parallel_size={parallel.pipeline_parallel_size}; use tensor_parallel_size": (
            parallel.pipeline_parallel_size > 1
        ),
        "context parallelism, which splits a row's columns; set decode_context_parallel_size and "
        "prefill_context_parallel_size to 1": max(
            parallel.decode_context_parallel_size, parallel.prefill_context_parallel_size
        )
        > 1,
        "micro-batches (enable_dbo), which split a step's rows; leave it out": parallel.use_ubatching,
        f"kv_cache_dtype={cache.cache_dtype}, whose keys are quantised; use kv_cache_dtype=auto": is_quantized_kv_cache(
            cache.cache_dtype
        ),
        "kv_transfer_config: the steered row may be computed by another engine; leave it out": (
            config.kv_transfer_config is not None
        ),
        "prompts given as embeddings, which do not say where the image is; leave enable_prompt_embeds out": (
            model.enable_prompt_embeds
        ),
        f"attention backend={backend and backend.name}; use {needed}": backend is not None and backend.name != needed,
        "multi-head latent attention (MLA), whose cache holds no keys; use another model": model.use_mla,
        "state-space or linear attention layers; use another model": model.is_hybrid or model.is_attention_free,
        "an encoder and a decoder of text; use another model": model.is_encoder_decoder,
        "a prefix LM, in which the image sees what comes after it; use another model": model.is_mm_prefix_lm,
        "attention in chunks; use another model": model.attention_chunk_size is not None,
        "no image token (its config names neither image_token_id nor image_token_index); use another model": (
            image_token_id(model.hf_config) is None
        ),
    }


def check_places(model: "ModelConfig", places: Heads) -> None:
    """Raise ValueError if a model lacks one of these layers or heads."""
    places.check(range(model.get_total_num_hidden_layers()), model.model_arch_config.total_num_attention_heads)


def lacking(model: "ModelConfig", steering: Steering) -> str | None:
    """Return what a request names that the model lacks, with the way out; None if it has all layers and heads."""
    try:
        check_places(model, steering.places)
    except ValueError as error:
        name = LAYERS if steering.layers else HEADS
        return f"{name}={steering.layers or steering.heads}: {error}"
    return None
