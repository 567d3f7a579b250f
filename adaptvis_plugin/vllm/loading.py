"""A checkpoint in a vLLM engine, asked and described as the models without one are."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from transformers import PreTrainedConfig

from adaptvis_plugin.decoding import Baseline, Method, Statistics
from adaptvis_plugin.methods import method_class
from adaptvis_plugin.models.answers import Prompt
from adaptvis_plugin.models.arguments import ModelArguments
from adaptvis_plugin.models.asked import AskedModel
from adaptvis_plugin.models.loading import load_config, load_processor, naming, source
from adaptvis_plugin.models.prompts import check_images
from adaptvis_plugin.vllm.engine import Engine, Row
from adaptvis_plugin.vllm.generation import Generation
from adaptvis_plugin.vllm.options import SPEED
from adaptvis_plugin.vllm.support import refusal

START = (
    "It prints the cause above. If that is memory: gpu_memory_utilization=0.8, max_model_len=4096 and max_num_seqs=32 "
    "ask for less"
)


class EngineModel(AskedModel):
    """A checkpoint in an engine of its own.

    Args:
        arguments: The model's arguments.
        options: The engine's options, as `options.split` returns them.

    Attributes:
        engine: The engine.

    Raises:
        ImportError: If the checkpoint needs a package that is not installed.
        ValueError: If the checkpoint or an option is unusable, or the engine could not steer; before weights are read.
        OSError: If the checkpoint cannot be found or fetched.
        RuntimeError: If the engine does not start.
    """

    code: ClassVar[tuple[str, ...]] = ("vllm", "lmms_eval/vllm_models.py")

    def __init__(self, arguments: ModelArguments, options: Mapping[str, Any]) -> None:
        super().__init__(arguments)
        config = load_config(arguments)
        self.processor = load_processor(arguments)
        self.decisive = {name: value for name, value in sorted(options.items()) if name not in SPEED}
        from vllm import LLM, EngineArgs

        own = {
            "model": source(arguments),
            "dtype": dtype_of(arguments, config),
            "revision": arguments.revision,
            "trust_remote_code": arguments.trust_remote_code,
        }
        with naming(arguments, "vLLM does not take it"):
            planned = EngineArgs(**own, **options).create_engine_config()
        if method_class(arguments.method) is not Baseline and (reason := refusal(planned)) is not None:
            raise ValueError(reason)
        with naming(arguments, "vLLM's engine does not start", START):
            self.engine = Engine(LLM(**own, **options))
        self._config = self.engine.llm.llm_engine.vllm_config

    @property
    def versions(self) -> dict[str, str]:
        """The versions of the packages that compute answers."""
        import vllm

        return {**super().versions, "vllm": vllm.__version__}  # other builds of it have other names

    @property
    def stats(self) -> Statistics:
        """What was decoded so far."""
        return self.engine.stats

    @property
    def computed(self) -> Sequence[Any]:
        """The type of the weights and the kind of device."""
        return [self._dtype, self._config.device_config.device_type]

    @property
    def _commit(self) -> str | None:
        return getattr(self._config.model_config.hf_config, "_commit_hash", None)

    @property
    def _dtype(self) -> torch.dtype:
        found: torch.dtype = self._config.model_config.dtype
        return found

    def check(self, method: Method) -> None:
        """Check that the engine can decode under a method; see `Engine.check`.

        Raises:
            ValueError: If not.
        """
        self.engine.check(method)

    def row(self, prompt: Prompt, method: Method, generation: Generation) -> Row:
        """Return a prompt as the engine takes it.

        Raises:
            ValueError: If its image tokens and images differ in number.
        """
        try:
            check_images(self.processor, prompt.text, prompt.images)
        except ValueError as error:
            raise ValueError(f"{prompt.name}: {error}") from error
        images = {"multi_modal_data": {"image": list(prompt.images)}} if prompt.images else {}
        return Row({"prompt": prompt.text, **images}, method, generation, prompt.name)


def dtype_of(arguments: ModelArguments, config: PreTrainedConfig) -> str:
    """Return the type of the weights as vLLM takes it; its own `auto` is not float32 where the checkpoint's is."""
    own = getattr(config, "dtype", None)
    if arguments.dtype != "auto" or own is None:
        return arguments.dtype
    return str(own).removeprefix("torch.")
