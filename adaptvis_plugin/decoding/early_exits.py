"""Early exits: the logits of earlier layers, through the model's final norm and its head.

Only the last token's hidden state is read in each pass, so that an exit costs no more than one more use of the head.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import product
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

    How the model does it is found in a pass over a few words: the final norm is the module that is given what the last
    layer returns. Logits are scaled or squashed as the config of the text decoder says only if that gives the model's
    own: some models around such a text decoder do neither.

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
        depth = model.config.get_text_config(decoder=True).num_hidden_layers
        modules = list(text_decoder.module.modules())
        stacks = [module for module in modules if isinstance(module, nn.ModuleList) and len(module) == depth]
        if len(stacks) != 1:
            raise self._refusal("one list of its layers is not to be found")
        self.layers: Sequence[nn.Module] = list(stacks[0])
        self._norm, self._factor, self._cap = self._found(modules, text_decoder)

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return logits, shape (..., hidden size) -> (..., vocabulary), fp32."""
        head: Any = self._model.get_output_embeddings()
        return _squashed(head(self._norm(hidden)).float() * self._factor, self._cap)

    @torch.inference_mode()
    def _found(self, modules: Sequence[nn.Module], text_decoder: TextDecoder) -> tuple[nn.Module, float, float | None]:
        """Return the final norm, and the factor and the cap of the logits."""
        ids = self._words(text_decoder)
        last: list[torch.Tensor] = []
        normed: list[tuple[nn.Module, torch.Tensor]] = []

        def called(module: Any, arguments: Any, output: Any) -> None:
            if module is self.layers[-1]:
                last.append(_states(output))
            elif last and arguments and arguments[0] is last[-1]:
                normed.append((module, output))

        with ExitStack() as hooks:
            for module in modules:
                hooks.callback(module.register_forward_hook(in_this_thread(called)).remove)
            try:
                own = self._model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits.float()
            except Exception as error:
                raise self._refusal(f"a pass over words without an image failed ({error})") from error
        if len(normed) != 1:
            raise self._refusal("one final norm is not to be found")
        norm, states = normed[0]
        head: Any = self._model.get_output_embeddings()
        logits = head(states).float()
        text: Any = self._model.config.get_text_config(decoder=True)
        factor = getattr(text, "logit_scale", None) or 1 / (getattr(text, "logits_scaling", None) or 1)
        ways = list(product((1.0, factor), (None, getattr(text, "final_logit_softcapping", None))))
        if own.device.type == "meta":  # a model without weights, as `adaptvis inspect` builds it
            return norm, *ways[0]
        off = [float((_squashed(logits * factor, cap) - own).abs().max()) for factor, cap in ways]
        tolerance = 1e-4 if self._model.dtype in (torch.float32, torch.float64) else 2e-2
        if not min(off) <= tolerance * float(own.abs().max()):
            raise self._refusal("its logits are not its head on the normed hidden states of its last layer")
        return norm, *ways[off.index(min(off))]

    def _words(self, text_decoder: TextDecoder) -> torch.Tensor:
        """Return a few tokens of text, shape (1, tokens), none of them padding, of which the embedding may be 0."""
        head: Any = self._model.get_output_embeddings()
        none = {*text_decoder.placeholders, self._model.config.get_text_config(decoder=True).pad_token_id}
        ids = [token for token in range(len(head.weight) // 2, len(head.weight)) if token not in none][:4]
        return torch.tensor([ids], device=self._model.device)

    def _refusal(self, reason: str) -> ValueError:
        return ValueError(
            f"{type(self._model).__name__}: earlier layers cannot be read through the final norm and the head: "
            f"{reason}; methods with early exits are refused for it"
        )


def _squashed(logits: torch.Tensor, cap: float | None) -> torch.Tensor:
    return logits if cap is None else cap * torch.tanh(logits / cap)


def _states(output: Any) -> torch.Tensor:
    """Return the hidden states of what a layer returned."""
    states: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return states


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
        kept.append(_states(output)[:, -1:])

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
