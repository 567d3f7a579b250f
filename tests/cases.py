"""A random model and a batch with all that is needed to compare them with the oracle, on any device and in any type."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from adaptvis_plugin.decoding import Decoder, ScalingVis
from tests import oracle
from tests.families import FAMILIES
from tests.families.build import IMAGE, NOT_TEXT, TEXT, Family, random_batch, random_model
from tests.families.check import on
from tests.families.standard import CLIP, Square

NEW_TOKENS = 5
GEMMA2 = {"model_type": "gemma2", "sliding_window": 12, "attn_logit_softcapping": 5.0, "query_pre_attn_scalar": 8}
SOFTCAP = Family(
    "llava (Gemma 2)",
    "LlavaForConditionalGeneration",
    {"vision_config": CLIP, "text_config": {**TEXT, **GEMMA2}, "image_token_index": IMAGE, "vision_feature_layer": -2},
    Square(),
)
# All have heads that share keys and values. The prompts of the largest batch are longer than every window.
MODELS = {
    "llava": FAMILIES["llava"],
    "qwen2_vl": FAMILIES["qwen2_vl"],  # positions depend on the image
    "mistral3": FAMILIES["mistral3"],  # a sliding window in every layer
    "aya_vision": FAMILIES["aya_vision"],  # in some layers
    "softcap": SOFTCAP,  # in some layers, with a softcap
}


@dataclass(frozen=True)
class Case:
    """A model and a batch, and what the oracle and `generate` need to know about them."""

    model: Any
    inputs: dict[str, Any]
    image: int
    oracle_options: dict[str, Any] = field(default_factory=dict)
    generation: dict[str, Any] = field(default_factory=dict)

    @property
    def prompts(self) -> list[int]:
        """The number of tokens of each prompt."""
        lengths: list[int] = self.inputs["attention_mask"].sum(1).tolist()
        return lengths

    @property
    def layers(self) -> int:
        layers: int = self.model.config.get_text_config().num_hidden_layers
        return layers

    def on(self, device: str, dtype: torch.dtype = torch.float32) -> "Case":
        """Move the model, which stays the same one, and return the case with the batch moved too."""
        return replace(self, model=self.model.to(device, dtype), inputs=on(device, self.inputs, dtype))

    def expected(self, alpha: float | torch.Tensor, tokens: int = NEW_TOKENS) -> oracle.OracleResult:
        """Return what the oracle gives under a coefficient for all rows, or one for each."""
        ids = self.inputs["input_ids"]
        by_row = alpha if isinstance(alpha, torch.Tensor) else torch.full((len(ids),), alpha, device=ids.device)
        return oracle.scaling_vis(self.model, self.inputs, self.image, by_row, tokens, **self.oracle_options)

    def generate(self) -> Any:
        options = {"max_new_tokens": NEW_TOKENS, "do_sample": False, **self.generation}
        return self.model.generate(**self.inputs, **options, output_logits=True, return_dict_in_generate=True)


def build(name: str, texts: list[int], seed: int = 0) -> Case:
    """Return a random model and a batch with one image in each row, padded on the left if the texts differ.

    A row does not depend on the ones after it.
    """
    family = MODELS[name]
    inputs = random_batch(family, texts, [1] * len(texts), seed=seed)
    oracle_options = {"own_positions": family.own_positions, "forbidden": NOT_TEXT}
    return Case(random_model(family, seed), inputs, IMAGE, oracle_options, {"suppress_tokens": NOT_TEXT})


def losses(
    cases: Iterable[Case], dtype: torch.dtype, alpha: float, device: str = "cpu", attention: str = "sdpa"
) -> tuple[float, float]:
    """Return the mean difference from the fp32 oracle: of the decoder, and of two complete eager passes in a type."""
    ours, eager = [], []
    for case in cases:
        exact = case.on(device).expected(alpha, tokens=1).first_logits
        half = case.on(device, dtype)
        half.model.set_attn_implementation(attention)
        complete = half.expected(alpha, tokens=1).first_logits.float()
        found = Decoder(half.model).generate(half.inputs, ScalingVis(alpha), max_new_tokens=2).first_logits
        ours.append(float((found - exact).abs().mean()))
        eager.append(float((complete - exact).abs().mean()))
    return sum(ours) / len(ours), sum(eager) / len(eager)
