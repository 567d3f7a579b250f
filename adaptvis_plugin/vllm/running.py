"""The requests that an engine is running and that ask for steering, and which of their rows a step computes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.models.utils import extract_layer_index
from vllm.v1.attention.backend import AttentionType

from adaptvis_plugin.vllm.rows import SteeredRows
from adaptvis_plugin.vllm.steering import Steering

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.attention.backend import CommonAttentionMetadata

WAY_OUT = (
    "choose the backend FLASH_ATTN (on CUDA), leave out other plugins that replace it, or send requests without "
    "adaptvis_alpha"
)


class Steers:
    """What can steer: a backend's implementation of attention, and the builder of its metadata."""


@dataclass(frozen=True)
class Asked:
    """A running request that is to be steered.

    Attributes:
        steering: What it asks.
        length: The number of its prompt's tokens.
        image: Returns which of them are image tokens, shape (prompt tokens,).
    """

    steering: Steering
    length: int
    image: Callable[[], torch.Tensor]


@dataclass
class Running:
    """What the two sides of one engine share: the logits processor, which knows the requests, and the attention.

    Attributes:
        registry: The engine's layers by name, which it fills when it builds the model.
        requests: The requests to be steered, by what the metadata of a batch calls their rows: the row itself with
            model runner V1, and the request's slot with V2.
        step: The rows that the current step steers; None if it steers none.
        seen: The layers that have steered them.
    """

    registry: Mapping[str, Any]
    requests: dict[int, Asked] = field(default_factory=dict)
    step: SteeredRows | None = None
    seen: set[str] = field(default_factory=set)

    @cached_property
    def layers(self) -> Mapping[str, int]:
        """The attention layers of the text decoder: their numbers by name.

        Raises:
            RuntimeError: If one has another backend, which would leave rows as they are and would not say so.
        """
        layers = {
            name: layer
            for name, layer in self.registry.items()
            if isinstance(layer, Attention) and layer.attn_type == AttentionType.DECODER
        }
        for name, layer in layers.items():
            backend = layer.get_attn_backend()
            if not (isinstance(layer.impl, Steers) and issubclass(backend.get_builder_cls(), Steers)):
                raise RuntimeError(
                    f"{name} has the attention backend {backend.__module__}.{backend.__qualname__}, which cannot "
                    f"steer rows; {WAY_OUT}"
                )
        return {name: extract_layer_index(name) for name in layers}

    def begin(self) -> None:
        """Begin a step: nothing is steered yet."""
        self.step = None
        self.seen.clear()

    def rows(self, batch: "CommonAttentionMetadata") -> SteeredRows | None:
        """Return the rows of a step that are steered: last prompt tokens that it computes; None if there are none.

        The last prompt token may come in any step: after chunks of the prompt, after a hit in the prefix cache, or
        once more after a preemption.
        """
        if not self.requests:
            return None
        if self.step is None:  # once for all groups of layers
            self.step = self._rows(batch)
        return self.step

    def _rows(self, batch: "CommonAttentionMetadata") -> SteeredRows | None:
        called: Sequence[int] = range(batch.num_reqs) if batch.req_idx is None else batch.req_idx.tolist()
        found: list[tuple[int, int, Asked]] = []
        starts = batch.query_start_loc_cpu.tolist()
        known = batch.seq_lens_cpu_upper_bound  # exact without speculative decoding, and on the host
        lengths = (batch.seq_lens if known is None else known).tolist()
        for row, name in enumerate(called):
            asked = self.requests.get(name)
            if asked is None:
                continue
            last, first = asked.length - 1, lengths[row] - (starts[row + 1] - starts[row])
            if first <= last < lengths[row]:
                found.append((starts[row] + last - first, row, asked))
        if not found:
            return None
        tokens, rows, requests = zip(*found, strict=True)
        return SteeredRows.of(
            tokens,
            rows,
            [asked.image() for asked in requests],
            [asked.steering for asked in requests],
            batch.query_start_loc.device,
        )

    def check(self) -> None:
        """Check, after a step, that every layer has steered its rows.

        Raises:
            RuntimeError: If one has not, or cannot. The engine ends then: no answer may come from a row that is steered
                in part, or not at all.
        """
        if not self.requests:
            return
        layers = self.layers
        if self.step is not None and (left := {*layers} - self.seen):
            raise RuntimeError(
                f"{len(left)} of {len(layers)} attention layers did not steer the rows that ask for it, for "
                f"example {min(left)}: their attention does not go through this package's backend; {WAY_OUT}"
            )


def running(config: "VllmConfig") -> Running:
    """Return what the parts of one engine share, in this process; a process may hold several engines."""
    # All copies of an engine's config have this part in common, and it is gone when the engine is.
    shared = config.compilation_config
    found: Running = vars(shared).setdefault("_adaptvis", Running(shared.static_forward_context))
    return found
