"""A logits processor for a vLLM that was not tested: it changes nothing, and refuses what asks for steering."""

import pkgutil
from typing import Any

from adaptvis_plugin.vllm.steering import ALPHA, PREFIX

INTERFACES = (
    "vllm.v1.sample.logits_processor:LogitsProcessor",
    "vllm.v1.worker.gpu.sample.logits_processor:LogitsProcessor",
)
"""What vLLM asks of a logits processor, for each of its model runners; of these, a version has those that it has."""


def refusing(reason: str) -> type:
    """Return the logits processor.

    Args:
        reason: Why nothing can be steered, with the way out.
    """

    def refuse(params: Any) -> None:
        for name, value in (getattr(params, "extra_args", None) or {}).items():
            if name.startswith(PREFIX) and (name, value) != (ALPHA, 1):
                raise ValueError(f"{name}={value!r}: {reason}")

    class Refusing(*filter(None, map(_found, INTERFACES))):  # type: ignore[misc]
        """Refuses requests when they come or, in versions that do not ask then, when they run."""

        def __init__(self, *_: Any, **__: Any) -> None:
            """Need nothing."""

        @classmethod
        def validate_params(cls, sampling_params: Any) -> None:
            refuse(sampling_params)

        def is_argmax_invariant(self) -> bool:
            return True

        def update_state(self, batch_update: Any) -> None:
            for _, params, *_ in batch_update.added if batch_update else ():
                refuse(params)

        def add_request(self, req_idx: int, sampling_params: Any) -> bool:
            refuse(sampling_params)
            return False

        def apply(self, logits: Any, *_: Any) -> Any:
            return logits

    return Refusing


def _found(name: str) -> Any:
    """Return what a name of vLLM stands for; None if this version has none."""
    try:
        return pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return None
