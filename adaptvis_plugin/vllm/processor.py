"""The logits processor by which vLLM tells which requests run; it leaves the logits as they are.

It is one class for both of vLLM's model runners. V1 tells the rows of the next batch before every step, with the
requests' prompts; V2 gives every request a slot, whose tokens are on the device.
"""

from typing import TYPE_CHECKING, Any

import torch
from vllm.v1.sample.logits_processor import LogitsProcessor as ProcessorV1
from vllm.v1.sample.logits_processor.builtin import process_dict_updates
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as ProcessorV2

from adaptvis_plugin.decoding.inspection import image_token_id
from adaptvis_plugin.vllm.plugin import registered
from adaptvis_plugin.vllm.running import Asked, running
from adaptvis_plugin.vllm.steering import ALPHA, Steering
from adaptvis_plugin.vllm.support import TESTED

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.sampling_params import SamplingParams
    from vllm.v1.sample.logits_processor import BatchUpdate
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcRequestState


class SteeredRequests(ProcessorV1, ProcessorV2):
    """Keeps the requests that ask for steering, and checks after every step that they were steered.

    Args:
        config: The engine's config.
        states: With model runner V2, the requests in their slots; with V1, the device.
        *_: What V1 gives besides.
    """

    def __init__(self, config: "VllmConfig", states: "LogitsProcRequestState | torch.device", *_: Any) -> None:
        self._running = running(config)
        self._states: Any = states
        image = image_token_id(config.model_config.hf_config)
        self._image = -1 if image is None else image  # a model of text alone, whose requests ask for nothing

    @classmethod
    def validate_params(cls, sampling_params: "SamplingParams") -> None:
        """Raise ValueError if a request's arguments are unusable, or nothing would act on them."""
        if (steering := Steering.of(sampling_params)) is not None and not registered():
            # vLLM loads its plugins and its logits processors apart, and only the first obey VLLM_PLUGINS.
            raise ValueError(
                f"{ALPHA}={steering.alpha}: this vLLM runs without the plugin adaptvis, and cannot steer requests; add "
                f"adaptvis to VLLM_PLUGINS, and see the start of the log (tested: vLLM {TESTED})"
            )

    def is_argmax_invariant(self) -> bool:
        """Say no, because otherwise a batch of greedy requests would not call `apply`, which checks."""
        return False

    def update_state(self, batch_update: "BatchUpdate | None") -> None:
        """Note which rows of the next batch are to be steered (model runner V1)."""
        self._running.begin()
        process_dict_updates(self._running.requests, batch_update, self._asked)

    def add_request(self, req_idx: int, sampling_params: "SamplingParams") -> bool:
        """Note whether a request in a slot is to be steered (model runner V2)."""
        steering = Steering.of(sampling_params)
        if steering is None:
            self._running.requests.pop(req_idx, None)
            return False
        self._running.requests[req_idx] = Asked(
            steering, int(self._states.prompt_len.np[req_idx]), lambda: self._prompt(req_idx)
        )
        return True

    def apply_staged_writes(self) -> None:
        """Begin a step (model runner V2)."""
        self._running.begin()

    def apply(self, logits: torch.Tensor, ctx: "LogitsContext | None" = None) -> torch.Tensor:
        """Return the logits as they are, after a check that the step's rows were steered in every layer.

        Raises:
            RuntimeError: If they were not; see `Running.check`.
        """
        self._running.check()
        return logits

    def _asked(self, params: "SamplingParams", prompt: list[int] | None, _: list[int]) -> Asked | None:
        steering = Steering.of(params)
        if steering is None:
            return None
        if prompt is None:
            raise RuntimeError("a request that asks for steering has no prompt tokens: they say where its image is")
        image = torch.eq(torch.tensor(prompt, device=self._states), self._image)
        return Asked(steering, len(prompt), lambda: image)

    def _prompt(self, slot: int) -> torch.Tensor:
        """Return which tokens of the prompt in a slot are image tokens."""
        tokens: torch.Tensor = self._states.all_token_ids.gpu[slot, : int(self._states.prompt_len.np[slot])]
        return torch.eq(tokens, self._image)
