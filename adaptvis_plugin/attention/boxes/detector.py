"""Boxes from an open-vocabulary detector of transformers, such as OWLv2 or Grounding DINO, asked for each object."""

from __future__ import annotations

import inspect
from functools import cached_property
from typing import TYPE_CHECKING, Any

from adaptvis_plugin.attention.boxes.box import Asked, Box, Found, Reason
from adaptvis_plugin.attention.boxes.names import named_objects
from adaptvis_plugin.attention.record import AttentionError

if TYPE_CHECKING:
    import torch

CAUSE = 300
"""Characters of another package's error that are quoted."""

WAY_OUT = "Give the name or folder of one, for example detector:google/owlv2-base-patch16-ensemble"


class Detector:
    """A source of boxes that looks for them in the picture: of each object the likeliest box.

    Its config is read when it is made, its weights when the first row is asked for. No code of a checkpoint is run.

    Args:
        checkpoint: The detector's name on the hub, or its folder.
        threshold: The lowest score of a box; None for the default of the detector's processor.
        device: The device that it runs on.

    Raises:
        AttentionError: If it is not a detector of transformers, or cannot be found.
    """

    def __init__(self, checkpoint: str, threshold: float | None = None, device: str = "cpu") -> None:
        from transformers import AutoConfig
        from transformers.models.auto.modeling_auto import MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING_NAMES as KINDS

        self.name = f"the detector {checkpoint}"
        self._checkpoint, self._threshold, self._device = checkpoint, threshold, device
        kind = getattr(self._loaded(AutoConfig), "model_type", None)
        if kind not in KINDS:
            raise AttentionError(
                f"detector:{checkpoint}: it is a {kind}, but detectors that are asked for any object are "
                f"{', '.join(KINDS)}. {WAY_OUT}."
            )

    def of(self, asked: Asked) -> Found:
        """Return the boxes of the objects that a row's question names.

        Raises:
            AttentionError: If the row has no way to get the picture, or the detector cannot be loaded.
        """
        if len(asked.sizes) != 1:
            return Found(reason=Reason.PICTURES, detail=f"it has {len(asked.sizes)}")
        objects = named_objects(asked.question, asked.relation)
        if not objects:
            return Found(reason=Reason.NO_OBJECT)
        if asked.picture is None:
            raise AttentionError(f"{self.name} needs the picture of row {asked.doc_id}, which is not at hand.")
        image = asked.picture()
        boxes = []
        for name in dict.fromkeys(objects):
            found = self._find(name, image)
            if found is None:
                return Found(reason=Reason.MISSING, detail=f"{name!r}")
            boxes.append(found)
        return Found(tuple(boxes))

    def unused(self) -> str:
        """Return nothing: a detector has no labels."""
        return ""

    def _find(self, name: str, image: Any) -> Box | None:
        """Look for one object. Asked for two at once, some detectors mix their names."""
        import torch

        model, processor = self._model
        inputs = processor(images=image, text=[[name]], return_tensors="pt").to(self._device)
        with torch.inference_mode():
            outputs = model(**inputs)
        [found] = self._processed(processor, outputs, inputs, name, image.size)
        scores: torch.Tensor = found["scores"]
        order = scores.argsort(descending=True, stable=True)
        width, height = image.size
        for left, top, right, bottom in found["boxes"][order].tolist():
            # A square that the processor filled up may hold boxes beside the picture.
            left, right = max(left, 0.0), min(right, float(width))
            top, bottom = max(top, 0.0), min(bottom, float(height))
            if left < right and top < bottom:
                return Box(name, left, top, right, bottom)
        return None

    def _processed(self, processor: Any, outputs: Any, inputs: Any, name: str, size: tuple[int, int]) -> Any:
        """Return the boxes in pixels. The detectors' processors take different arguments."""
        process = processor.post_process_grounded_object_detection
        known = inspect.signature(process).parameters
        given: dict[str, Any] = {"target_sizes": [(size[1], size[0])], "text_labels": [[name]]}
        if "input_ids" in known:
            given["input_ids"] = inputs["input_ids"]
        if self._threshold is not None:
            given["threshold"] = self._threshold
        return process(outputs, **given)

    @cached_property
    def _model(self) -> tuple[Any, Any]:
        from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

        model = self._loaded(AutoModelForZeroShotObjectDetection)
        return model.to(self._device).eval(), self._loaded(AutoProcessor)

    def _loaded(self, kind: Any) -> Any:
        try:
            return kind.from_pretrained(self._checkpoint, trust_remote_code=False)
        except Exception as error:  # of many packages: the hub, transformers, safetensors
            cause = " ".join(str(error).split())[:CAUSE]
            raise AttentionError(f"detector:{self._checkpoint} cannot be loaded ({cause}). {WAY_OUT}.") from error
