"""The embedded demo: drawn scenes, the data set's shape, and the small model's files and answers."""

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaForConditionalGeneration

from adaptvis_plugin.data.dataset import Row
from adaptvis_plugin.data.demo.furniture import REFERENCES
from adaptvis_plugin.data.demo.objects import OBJECTS
from adaptvis_plugin.data.demo.rows import demo_boxes, demo_rows, held_out_pairs, training_pairs
from adaptvis_plugin.data.demo.scenes import RELATIONS, SIZE
from adaptvis_plugin.models.prompts import chat_text, paper_text
from adaptvis_plugin.paths import DEMO_MODEL

COLUMNS = set(Row.__annotations__)
ROWS = demo_rows()
SAMPLE = ROWS[::5]  # 20 rows of each relation


def _digest(rows: list[Row]) -> str:
    return hashlib.sha256(b"".join(row["image"].tobytes() for row in rows)).hexdigest()


def test_the_same_pictures_are_drawn_every_time() -> None:
    again = demo_rows()
    assert _digest(again) == _digest(ROWS)
    assert [{**row, "image": None} for row in again] == [{**row, "image": None} for row in ROWS]


def test_no_two_pictures_are_the_same() -> None:
    assert len({row["image"].tobytes() for row in ROWS}) == len(ROWS)


def test_rows_have_the_columns_of_whatsup() -> None:
    assert len(ROWS) >= 400
    for row in ROWS:
        assert set(row) == COLUMNS
        assert row["image"].size == (SIZE, SIZE) and row["image"].mode == "RGB"
        assert row["options"] == ["left", "right", "on", "under"]
        assert row["answer"] == row["relation"].capitalize()
        assert row["prompt"] == f"<image>\nUSER: {row['question']}\nASSISTANT:"
        assert len(row["caption_options"]) == len(set(row["caption_options"])) == 4
    assert ROWS[0]["question"] == ("Where is the mug in relation to the table? Answer with left, right, on or under.")
    assert ROWS[0]["caption_options"][0] == "A mug to the left of a table"


def test_sets_and_pairs_are_complete() -> None:
    sets: dict[int | None, list[Row]] = {}
    pairs: dict[int | None, list[str]] = {}
    for row in ROWS:
        sets.setdefault(row["set_id"], []).append(row)
        pairs.setdefault(row["pair_id"], []).append(row["relation"])
    assert all([row["relation"] for row in rows] == list(RELATIONS) for rows in sets.values())
    assert all(len({row["question"] for row in rows}) == 1 for rows in sets.values())
    assert sorted(map(tuple, pairs.values())) == sorted([("left", "right"), ("on", "under")] * len(sets))


def test_things_are_where_the_answer_says() -> None:
    for row, boxes in zip(ROWS, demo_boxes(), strict=True):
        name, reference = next(
            (n, r) for n, r in held_out_pairs() if f" the {n} " in row["question"] and f" the {r}?" in row["question"]
        )
        left, top, right, bottom = boxes[name]
        other_left, other_top, other_right, other_bottom = boxes[reference]
        assert left >= 0 and right <= SIZE and top >= 0 and bottom <= SIZE
        inside = other_left <= left and right <= other_right
        assert {
            "left": right < other_left,
            "right": left > other_right,
            "on": inside and bottom < (other_top + 2 * other_bottom) / 3,
            "under": inside and top > (4 * other_top + other_bottom) / 5 and abs(bottom - other_bottom) < 5,
        }[row["relation"]]


def test_pairs_in_training_and_in_the_data_set_are_disjoint() -> None:
    assert not set(held_out_pairs()) & set(training_pairs())
    assert {name for name, _ in training_pairs()} == set(OBJECTS)
    assert {reference for _, reference in training_pairs()} == set(REFERENCES)


@cache
def _loaded() -> tuple[Any, Any]:
    model = AutoModelForImageTextToText.from_pretrained(DEMO_MODEL)
    return model, AutoProcessor.from_pretrained(DEMO_MODEL)


def _answers(rows: list[Row], prompt: str) -> list[str]:
    model, processor = _loaded()
    texts = [
        paper_text(processor, row["prompt"])
        if prompt == "paper"
        else chat_text(
            processor,
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": row["question"]}]}],
        )
        for row in rows
    ]
    inputs = processor(images=[row["image"] for row in rows], text=texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        out = model.generate(**inputs)
    answers: list[str] = processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return answers


def test_the_model_is_a_small_real_llava() -> None:
    model, processor = _loaded()
    assert type(model) is LlavaForConditionalGeneration
    assert model.dtype == torch.float32
    assert not model.generation_config.do_sample and model.generation_config.num_beams in (None, 1)
    assert sum(path.stat().st_size for path in Path(DEMO_MODEL).glob("*.safetensors")) <= 5e6
    assert processor.tokenizer.padding_side == "left"
    assert model.config.text_config.max_position_embeddings >= 1024  # type: ignore[union-attr]


def test_one_image_token_for_each_patch() -> None:
    model, processor = _loaded()
    inputs = processor(images=ROWS[0]["image"], text=ROWS[0]["prompt"], return_tensors="pt")
    tower = model.config.vision_config
    patches = (tower.image_size // tower.patch_size) ** 2
    assert int((inputs["input_ids"] == model.config.image_token_id).sum()) == patches
    assert model.config.image_seq_length == patches


@pytest.mark.parametrize("prompt", ["paper", "chat"])
def test_plain_accuracy_is_neither_chance_nor_saturated(prompt: str) -> None:
    answers = _answers(SAMPLE, prompt)
    assert set(answers) <= {"Left", "Right", "On", "Under"}
    right = sum(answer == row["answer"] for answer, row in zip(answers, SAMPLE, strict=True))
    assert 0.55 <= right / len(SAMPLE) <= 0.90


def test_left_padding_changes_no_answer() -> None:
    rows = ROWS[:40:8]  # questions of different lengths
    assert _answers(rows, "paper") == [_answers([row], "paper")[0] for row in rows]


def test_answers_are_single_tokens() -> None:
    _, processor = _loaded()
    for word in ("Left", "Right", "On", "Under", "left", "right", "on", "under", "Yes", "No"):
        assert len(processor.tokenizer.encode(word, add_special_tokens=False)) == 1


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_any_text_survives_the_tokenizer(text: str) -> None:
    _, processor = _loaded()
    tokenizer = processor.tokenizer
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
