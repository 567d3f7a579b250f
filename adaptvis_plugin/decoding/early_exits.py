"""Early exits: the logits of earlier layers, through the model's final norm and its head.

Only the last token's hidden state is read in each pass, so that an exit costs no more than one more use of the head.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from adaptvis_plugin.decoding.first_pass import in_this_thread
from adaptvis_plugin.decoding.inspection import TextDecoder
from adaptvis_plugin.decoding.mixing import MixedPass
from adaptvis_plugin.decoding.parts import EarlyExits


class ExitHead:
    """Maps hidden states of any layer to logits, as the model does with those of its last layer.

    Args:
        model: The model.
        text_decoder: Its text decoder.

    Attributes:
        layers: The layers, in order.

    Raises:
        ValueError: If the model's logits are not its head on the normed hidden states of its last layer, possibly
            scaled or squashed as its config says.
    """

    def __init__(self, model: PreTrainedModel, text_decoder: TextDecoder) -> None:
        self._model = model
        text = model.config.get_text_config(decoder=True)
        decoder = text_decoder.module
        stacks = [
            module
            for module in decoder.modules()
            if isinstance(module, nn.ModuleList) and len(module) == text.num_hidden_layers
        ]
        holder = next((one for one in decoder.modules() if stacks and stacks[0] in one.children()), decoder)
        norms = [child for name, child in holder.named_children() if "norm" in name.lower()]
        if len(stacks) != 1 or len(norms) != 1:
            raise self._refusal("one list of layers and one final norm are not to be found")
        self.layers: Sequence[nn.Module] = list(stacks[0])
        self._norm = norms[0]
        self._cap = getattr(text, "final_logit_softcapping", None)
        self._factor = getattr(text, "logit_scale", None) or 1 / (getattr(text, "logits_scaling", None) or 1)
        self._check(text_decoder)

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return logits, shape (..., hidden size) -> (..., vocabulary), fp32."""
        head: Any = self._model.get_output_embeddings()
        logits: torch.Tensor = head(self._norm(hidden)).float() * self._factor
        return logits if self._cap is None else self._cap * torch.tanh(logits / self._cap)

    @torch.inference_mode()
    def _check(self, text_decoder: TextDecoder) -> None:
        """Compare with the model's own logits of one token of text; without weights there are none."""
        if self._model.device.type == "meta":
            return
        token = next(i for i in range(len(text_decoder.placeholders) + 1) if i not in text_decoder.placeholders)
        ids = torch.full((1, 1), token, device=self._model.device)
        hidden: list[torch.Tensor] = []
        with reading(self.layers, [len(self.layers)], hidden):
            try:
                own = self._model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits.float()
            except Exception as error:
                raise self._refusal(f"a pass over one token of text failed ({error})") from error
        found = self(hidden[0])
        tolerance = 1e-4 if self._model.dtype in (torch.float32, torch.float64) else 2e-2
        if found.shape != own.shape or not torch.allclose(found, own, atol=tolerance * float(own.abs().max())):
            raise self._refusal("its logits are not its head on the normed hidden states of its last layer")

    def _refusal(self, reason: str) -> ValueError:
        return ValueError(
            f"{type(self._model).__name__}: earlier layers cannot be read through the final norm and the head: "
            f"{reason}; methods with early exits are refused for it"
        )


@contextmanager
def reading(layers: Sequence[nn.Module], after: Sequence[int], kept: list[torch.Tensor]) -> Iterator[None]:
    """Keep the last token's hidden state after so many layers, in every pass inside the block.

    Args:
        layers: The layers.
        after: After how many of them, in order; 0 is what the first one is given.
        kept: Filled in each pass, in the order of `after`; shape (batch, 1, hidden size) each. Empty it between passes.
    """

    def given(module: Any, arguments: Any, options: dict[str, Any]) -> None:
        hidden = arguments[0] if arguments else options["hidden_states"]
        kept.append(hidden[:, -1:])

    def returned(module: Any, arguments: Any, output: Any) -> None:
        kept.append((output[0] if isinstance(output, tuple) else output)[:, -1:])

    with ExitStack() as hooks:
        for count in after:
            if count == 0:
                hook = layers[0].register_forward_pre_hook(in_this_thread(given), with_kwargs=True)
            else:
                hook = layers[count - 1].register_forward_hook(in_this_thread(returned))
            hooks.callback(hook.remove)
        yield


class ExitsPass(MixedPass):
    """A `generate` call into whose logits those of earlier layers are mixed: see `passes.FirstPass`.

    Args:
        head: The model's head for them.
        part: The method's part, with exits that the model has.
        **options: See `MixedPass`.
    """

    def __init__(self, head: ExitHead, part: EarlyExits, **options: Any) -> None:
        super().__init__(**options)
        self._head = head
        self._part = part
        self._hidden: list[torch.Tensor] = []

    def mixed(self, logits: torch.Tensor, strength: torch.Tensor, step: int) -> torch.Tensor:
        """Mix those of the exits in."""
        hidden = torch.cat([one.to(self._hidden[-1].device) for one in self._hidden], 1)
        self._hidden.clear()
        return self._part.mix(logits, self._head(hidden).to(logits.device), strength)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Read the exits in every pass inside the block."""
        with super().inside(), reading(self._head.layers, self._part.layers, self._hidden):
            yield
