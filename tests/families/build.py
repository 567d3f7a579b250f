"""Small random models of real families, and batches as their processors return them.

Every family has the same tiny text decoder shape where its config allows, images of 32 x 32 pixels in 8 x 8 patches,
and the vocabulary below. A row is a beginning, its images (each in the family's own frame of tokens), and a text.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from adaptvis_plugin.decoding.inspection import loses_softcap

PAD, BOS, EOS, OPEN, CLOSE, IMAGE, VIDEO, MARK = range(8)
VOCABULARY = 64
NOT_TEXT = [OPEN, CLOSE, IMAGE, VIDEO, MARK]  # never generated: a new image token would need a new image

TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}
VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}

# One image: its tokens, and the tensors that go with it, each to be concatenated over the batch's images.
Image = tuple[list[int], dict[str, torch.Tensor]]


@dataclass(frozen=True)
class Family:
    """A family under test.

    Attributes:
        name: The model type, and what is special about the configuration.
        architecture: The class in transformers.
        config: Arguments of its config.
        image: Draws one image of a batch, given the generator and a running number.
        images: Images in each row of the test batch; more than one if the family takes several.
        mode: The mode that the decoder must choose.
        columns: Which features the image columns hold, in words.
        types: Name of the tensor that marks image tokens, if the processor returns one.
        prefix_types: Values of that tensor on (image tokens, text tokens, answer tokens).
        own_positions: Whether positions depend on the images (M-RoPE).
        collect: Turns the images' tensors into the processor's layout, if that is not their concatenation.
        scale: Factor on the query and key projections; see `random_model`.
    """

    name: str
    architecture: str
    config: dict[str, Any]
    image: Callable[[torch.Generator, int], Image]
    images: tuple[int, ...] = (1, 2, 1)
    mode: str = "one pass"
    columns: str = "patch features"
    types: str | None = None
    prefix_types: tuple[int, int, int] = (1, 0, 0)
    own_positions: bool = False
    collect: Callable[[list[list[dict[str, torch.Tensor]]]], dict[str, torch.Tensor]] | None = None
    scale: float = 8.0


def random_model(family: Family, seed: int = 0) -> PreTrainedModel:
    """Return a random model of the family.

    Freshly initialised weights attend almost uniformly, so steering would change almost nothing. The query and key
    projections (or, if these are normalised, the norms' weights) are widened until attention is as peaked as a trained
    model's, and the embeddings until tokens differ.
    """
    torch.manual_seed(seed)
    cls: type[PreTrainedModel] = getattr(transformers, family.architecture)
    config_class: type[PreTrainedConfig] = cls.config_class  # type: ignore[assignment]
    model: PreTrainedModel = cls(config_class(**copy.deepcopy(family.config))).eval()
    if loses_softcap(model):
        model.set_attn_implementation("eager")
    with torch.no_grad():
        for name, weight in model.get_decoder().named_parameters():
            _widen(name, weight, family.scale)
        for module in (model.get_input_embeddings(), model.get_output_embeddings()):
            if isinstance(module, nn.Module) and isinstance(module.weight, torch.Tensor):
                module.weight.mul_(4)
    model.generation_config.eos_token_id = EOS
    model.generation_config.pad_token_id = PAD
    return model


def _widen(name: str, weight: torch.Tensor, scale: float) -> None:
    if any(part in name for part in ("q_norm", "k_norm", "query_norm", "key_norm", "q_layernorm", "k_layernorm")):
        if weight.ndim:
            weight.fill_(2.0)
    elif weight.ndim == 2 and any(
        part in name for part in ("q_proj", "k_proj", "qkv", "query_key_value", "q_b_proj", "kv_a_proj")
    ):
        weight.mul_(scale)
    elif weight.ndim == 2 and any(
        part in name for part in ("v_proj", "o_proj", "out_proj", "kv_b_proj", "attention.dense")
    ):
        weight.mul_(3.0)


def random_batch(family: Family, texts: list[int], images: list[int] | None = None, seed: int = 0) -> dict[str, Any]:
    """Return a left-padded batch: row i holds `images[i]` images and then `texts[i]` text tokens."""
    generator = torch.Generator().manual_seed(seed)
    rows, tensors = [], []
    for index, (text, count) in enumerate(zip(texts, images or list(family.images), strict=True)):
        drawn = [family.image(generator, 10 * index + k) for k in range(count)]
        words = torch.randint(MARK + 1, VOCABULARY, (text,), generator=generator).tolist()
        rows.append([BOS, *(token for tokens, _ in drawn for token in tokens), *words])
        tensors.append([pixels for _, pixels in drawn])
    width = max(map(len, rows))
    batch = {
        "input_ids": torch.tensor([[PAD] * (width - len(row)) + row for row in rows]),
        "attention_mask": torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows]),
    }
    if family.types is not None:
        on_image, on_text, _ = family.prefix_types
        is_image = batch["input_ids"] == IMAGE
        batch[family.types] = torch.where(is_image, on_image, on_text)
    return {**batch, **(family.collect or concatenated)(tensors)}


def concatenated(rows: list[list[dict[str, torch.Tensor]]]) -> dict[str, torch.Tensor]:
    """Concatenate all images' tensors, as most processors do."""
    flat = [image for row in rows for image in row]
    return {name: torch.cat([image[name] for image in flat]) for name in (flat[0] if flat else ())}


def stacked_per_row(rows: list[list[dict[str, torch.Tensor]]]) -> dict[str, torch.Tensor]:
    """Stack to shape (batch, most images of a row, ...), filled up with zeros, as Idefics' processors do."""
    names = next(image for row in rows for image in row)
    joined = [{name: torch.cat([image[name] for image in row]) for name in names} for row in rows]
    most = max(len(next(iter(row.values()))) for row in joined)
    return {
        name: torch.stack(
            [torch.cat([v[name], v[name].new_zeros(most - len(v[name]), *v[name].shape[1:])]) for v in joined]
        )
        for name in names
    }


def patches(generator: torch.Generator, *shape: int) -> torch.Tensor:
    """Return random pixels."""
    return torch.randn(*shape, generator=generator)


def frame(count: int, before: list[int] | None = None, after: list[int] | None = None) -> list[int]:
    """Return `count` image tokens between the family's markers."""
    return [*(before or []), *[IMAGE] * count, *(after or [])]
