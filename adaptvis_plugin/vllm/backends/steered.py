"""What the steered backends have in common."""

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from vllm.distributed.parallel_state import get_tensor_model_parallel_rank
from vllm.v1.attention.backend import AttentionCGSupport

from adaptvis_plugin.vllm.rows import Layer, Paged
from adaptvis_plugin.vllm.running import Steers, running

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.attention.backend import CommonAttentionMetadata
    from vllm.v1.kv_cache_interface import AttentionSpec

STEERED = "adaptvis_running"
"""The attribute of a step's metadata that holds the engine's `Running`, if the step has rows to steer."""


class SteeredBackend:
    """Mixed into a backend: names its two parts.

    Attributes:
        implementation: The implementation.
        builder: The builder of the metadata.
    """

    implementation: ClassVar[type]
    builder: ClassVar[type]

    @classmethod
    def get_impl_cls(cls) -> type:
        """Return the implementation."""
        return cls.implementation

    @classmethod
    def get_builder_cls(cls) -> type:
        """Return the builder of the metadata."""
        return cls.builder


class SteeredBuilder(Steers):
    """Mixed into a backend's metadata builder: says in the metadata which rows a step steers."""

    # A graph that is replayed as a whole would not call the layers' Python code.
    _cudagraph_support = AttentionCGSupport.NEVER

    def __init__(
        self, kv_cache_spec: "AttentionSpec", layer_names: list[str], vllm_config: "VllmConfig", device: torch.device
    ) -> None:
        super().__init__(kv_cache_spec, layer_names, vllm_config, device)  # type: ignore[call-arg]
        self._running = running(vllm_config)

    def build(
        self, common_prefix_len: int, common_attn_metadata: "CommonAttentionMetadata", fast_build: bool = False
    ) -> Any:
        """Return the backend's metadata, with the steered rows if there are any."""
        metadata = super().build(common_prefix_len, common_attn_metadata, fast_build)  # type: ignore[misc]
        if self._running.rows(common_attn_metadata) is not None:
            setattr(metadata, STEERED, self._running)
        return metadata


class SteeredImpl(Steers):
    """Mixed into a backend's implementation: computes the steered rows again after the stock kernel."""

    def forward(
        self,
        layer: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        attn_metadata: Any,
        output: torch.Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Attend as the backend does, and overwrite the rows that are steered."""
        out: torch.Tensor = super().forward(  # type: ignore[misc]
            layer, query, key, value, kv_cache, attn_metadata, output, *args, **kwargs
        )
        running = getattr(attn_metadata, STEERED, None)
        if running is not None:
            number = running.layers[layer.layer_name]
            running.step.overwrite(
                self.described(number, kv_cache), query, attn_metadata.block_table, self.paged(layer, kv_cache), output
            )
            running.seen.add(layer.layer_name)
        return out

    def described(self, number: int, kv_cache: torch.Tensor) -> Layer:
        """Return what the formula needs of the layer.

        Raises:
            RuntimeError: If its attention is more than the formula knows of.
        """
        own: Any = self
        for name in ("sinks", "alibi_slopes", "kv_sharing_target_layer_name"):
            if getattr(own, name, None) is not None:
                raise RuntimeError(
                    f"attention layer {number} has {name}, with which its rows cannot be steered; use "
                    "`lmms-eval --model vlm_...` for this model, or send requests without adaptvis_alpha"
                )
        _, heads, block_size, _ = kv_cache.shape
        return Layer(
            number,
            get_tensor_model_parallel_rank() * own.num_heads,
            block_size,
            heads * own.head_size,
            own.scale,
            own.logits_soft_cap or None,
            self.window(),
        )

    def window(self) -> int | None:
        """Return how many columns a row sees, itself included; None if all before it."""
        raise NotImplementedError

    def paged(self, layer: Any, kv_cache: torch.Tensor) -> Paged:
        """Return how keys and values are read from the layer's KV cache."""
        raise NotImplementedError
