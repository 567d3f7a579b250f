"""Boxes from detectors of transformers: small random ones with their real processors, saved as users have them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import (
    AutoModelForZeroShotObjectDetection,
    AutoProcessor,
    BertConfig,
    BertTokenizer,
    CLIPTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2ImageProcessor,
    Owlv2Processor,
)

from adaptvis_plugin.attention.boxes import Asked, BoxSource, Reason, open_source
from adaptvis_plugin.attention.record import AttentionError
from adaptvis_plugin.paths import DEMO_MODEL

PICTURE = Image.effect_noise((60, 40), 80).convert("RGB")
QUESTION = "Where is the mug in relation to the red plate? Answer with left, right, on or under."
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", "mug", "plate", "red")
SIZES: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def owlv2() -> tuple[Any, Any]:
    # As in CLIP the tokens of begin and end come last: the model takes a query that begins with 0 for padding.
    words = ["!", *LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={word: number for number, word in enumerate(words)}, merges=[])
    text = {**SIZES, "vocab_size": len(words), "bos_token_id": 53, "eos_token_id": 54, "pad_token_id": 54}
    config = Owlv2Config(
        text_config={**text, "max_position_embeddings": 16},
        vision_config={**SIZES, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    images = Owlv2ImageProcessor(size={"height": 32, "width": 32})
    return Owlv2ForObjectDetection(config), Owlv2Processor(image_processor=images, tokenizer=tokenizer)


def grounding_dino() -> tuple[Any, Any]:
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)})
    part: dict[str, Any] = {"encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    config = GroundingDinoConfig(
        backbone_config={"model_type": "swin", "image_size": 64, "embed_dim": 8, "depths": [1, 1, 1, 1],
                         "num_heads": [1, 1, 1, 1], "window_size": 4, "out_features": ["stage2", "stage3", "stage4"]},
        text_config=BertConfig(vocab_size=len(WORDS), max_position_embeddings=64, **SIZES),
        d_model=32, encoder_attention_heads=2, decoder_attention_heads=2, num_queries=5, max_text_len=32, **part,
    )  # fmt: skip
    images = GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    return GroundingDinoForObjectDetection(config), GroundingDinoProcessor(image_processor=images, tokenizer=tokenizer)


DETECTORS: dict[str, Callable[[], tuple[Any, Any]]] = {"owlv2": owlv2, "grounding-dino": grounding_dino}


@pytest.fixture(scope="module", params=DETECTORS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder: Path = tmp_path_factory.mktemp(request.param)
    for part in DETECTORS[request.param]():
        part.save_pretrained(folder)
    return folder


def detector(checkpoint: Path, score: str = "") -> BoxSource:
    source = open_source(f"detector:{checkpoint}{score}", "anything")
    assert source is not None
    return source


def asked(question: str = QUESTION, **change: Any) -> Asked:
    return Asked(**{"doc_id": 3, "question": question, "image": None, "sizes": (PICTURE.size,),
                    "picture": lambda: PICTURE, **change})  # fmt: skip


def likeliest(checkpoint: Path, name: str) -> list[float]:
    """The likeliest box as the model itself gives it, cut at the picture's edges: shares of what it sees, in pixels."""
    model = AutoModelForZeroShotObjectDetection.from_pretrained(checkpoint).eval()
    processor = AutoProcessor.from_pretrained(checkpoint)
    with torch.inference_mode():
        outputs = model(**processor(images=PICTURE, text=[[name]], return_tensors="pt"))
    width, height = PICTURE.size
    # OWLv2 sees the picture at the top left of a square.
    across, down = (max(PICTURE.size),) * 2 if isinstance(model, Owlv2ForObjectDetection) else PICTURE.size
    for row in outputs.logits[0].max(-1).values.argsort(descending=True):
        x, y, w, h = outputs.pred_boxes[0, row].tolist()
        left, right = max((x - w / 2) * across, 0), min((x + w / 2) * across, width)
        top, bottom = max((y - h / 2) * down, 0), min((y + h / 2) * down, height)
        if left < right and top < bottom:
            return [left, top, right, bottom]
    raise AssertionError("it finds nothing in the picture")


def test_each_object_has_its_likeliest_box_in_pixels_of_the_picture(checkpoint: Path) -> None:
    found = detector(checkpoint, ",0").of(asked())
    assert [box.name for box in found.boxes] == ["mug", "red plate"]
    for box in found.boxes:
        assert [box.left, box.top, box.right, box.bottom] == pytest.approx(likeliest(checkpoint, box.name), abs=1e-3)


def test_an_object_below_the_lowest_score_is_left_out(checkpoint: Path) -> None:
    found = detector(checkpoint, ",0.99999").of(asked())
    assert (found.boxes, found.reason, found.detail) == ((), Reason.MISSING, "'mug'")


def test_what_a_detector_cannot_look_for(checkpoint: Path) -> None:
    source = detector(checkpoint)
    assert source.of(asked("What is this?")).reason is Reason.NO_OBJECT
    assert source.of(asked(sizes=(PICTURE.size,) * 2)).reason is Reason.PICTURES
    with pytest.raises(AttentionError, match="needs the picture of row 3, which is not at hand"):
        source.of(asked(picture=None))


def test_another_model_is_refused_before_its_weights_are_read() -> None:
    with pytest.raises(AttentionError, match=r"it is a llava, but detectors .* are grounding-dino, .*owlv2"):
        open_source(f"detector:{DEMO_MODEL}", "anything")
