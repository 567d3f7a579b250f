"""The options of vLLM's engine among the arguments of a model: every one that `vllm serve` takes, by its name."""

import dataclasses
import json
from argparse import Action, ArgumentError, BooleanOptionalAction
from collections.abc import Mapping
from functools import cache
from typing import Any

from adaptvis_plugin.methods import hyper_parameters
from adaptvis_plugin.models.arguments import ModelArguments
from adaptvis_plugin.models.validation import did_you_mean

SPEED = (
    "block_size", "disable_log_stats", "distributed_executor_backend", "enable_chunked_prefill",
    "enable_prefix_caching", "enforce_eager", "gpu_memory_utilization", "kv_cache_memory_bytes", "limit_mm_per_prompt",
    "max_model_len", "max_num_batched_tokens", "max_num_seqs", "mm_processor_cache_gb", "tensor_parallel_size",
)  # fmt: skip
"""Options that say how fast answers come and in how much memory, and not which. A run that was interrupted may go on
under others, for example with less memory."""

ELSEWHERE = {
    "device": "the engine runs on the device that vLLM was built for; choose a GPU by CUDA_VISIBLE_DEVICES",
    "device_map": "the engine spreads a model by tensor_parallel_size=N",
    "attn_implementation": "the engine has attention kernels of its own, of which FLASH_ATTN (on a CPU CPU_ATTN) can "
    "be steered",
    "model": "give the checkpoint as pretrained=NAME_OR_FOLDER",
}
"""Arguments that have no meaning here -> what does it instead."""


def split(method: str, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arguments that are this package's, and the engine's options as vLLM declares them.

    Args:
        method: The method.
        given: Both, as `--model_args` has them; None counts as not given.

    Raises:
        ValueError: If one is unknown, or unusable for the engine; those of this package are not checked.
    """
    values = {name: value for name, value in given.items() if value is not None}
    if elsewhere := [name for name in values if name in ELSEWHERE]:
        raise ValueError(f"{elsewhere[0]}={values[elsewhere[0]]!r}: {ELSEWHERE[elsewhere[0]]}; leave it out")
    own, theirs = [*ModelArguments.model_fields, *hyper_parameters(method)], _actions()
    for name, value in values.items():
        if name not in own and name not in theirs:
            known = [one for one in (*own, *theirs) if one not in ELSEWHERE]
            raise ValueError(
                f"unknown model_args {name}={value!r}: it is neither one of this package's nor one of the options of "
                f"`vllm serve`{did_you_mean(name, known)}"
            )
    options = {name: _read(theirs[name], value) for name, value in values.items() if name not in own}
    return {name: value for name, value in values.items() if name in own}, options


def _read(action: Action, value: Any) -> Any:
    """Return a value as the command line of vLLM would read it.

    Raises:
        ValueError: If that refuses it.
    """
    name = action.option_strings[0]
    if isinstance(action, BooleanOptionalAction):
        if str(value).lower() not in ("true", "false"):
            raise ValueError(f"{action.dest}={value!r}: give true or false")
        words = [name if str(value).lower() == "true" else f"--no-{name.removeprefix('--')}"]
    else:
        text = value if isinstance(value, str) else json.dumps(value)
        words = [f"{name}={text}"]
    try:
        found = _parser().parse_args(words)
    except (ArgumentError, ValueError, SystemExit) as error:
        reason = getattr(error, "message", None) or str(error)
        raise ValueError(f"{action.dest}={value!r}: vLLM refuses it: {reason}") from None
    return getattr(found, action.dest)


@cache
def _parser() -> Any:
    from vllm.engine.arg_utils import EngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    return EngineArgs.add_cli_args(FlexibleArgumentParser(exit_on_error=False))


@cache
def _actions() -> Mapping[str, Action]:
    from vllm.engine.arg_utils import EngineArgs

    fields = {field.name for field in dataclasses.fields(EngineArgs)}
    return {action.dest: action for action in _parser()._actions if action.dest in fields}
