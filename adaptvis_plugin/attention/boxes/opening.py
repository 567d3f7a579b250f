"""What `--boxes` says, as a source of boxes; everything wrong with it is an error before any model is run."""

from __future__ import annotations

import math
import os
from pathlib import Path

from adaptvis_plugin.attention.boxes.annotations import read_coco, read_vg
from adaptvis_plugin.attention.boxes.box import BoxSource
from adaptvis_plugin.attention.boxes.detector import Detector
from adaptvis_plugin.attention.boxes.labelled import Labelled
from adaptvis_plugin.attention.boxes.labels import Labels
from adaptvis_plugin.attention.boxes.pictures import Pictures, image_ids, table_of
from adaptvis_plugin.attention.boxes.yolo import read_yolo
from adaptvis_plugin.attention.record import AttentionError
from adaptvis_plugin.models.validation import did_you_mean

FORMS = {
    "demo": "demo",
    "coco": "coco:instances_val2017.json[,instances_train2017.json]",
    "vg": "vg:objects.json",
    "yolo": "yolo:FOLDER[,NAMES.txt or data.yaml]",
    "detector": "detector:NAME_OR_FOLDER[,LOWEST_SCORE]",
    "none": "none",
}
"""Every form of the value by its first word."""

DEMO = "demo"


def open_source(
    text: str | None, task: str, *, table: str | None = None, rows: int | None = None, device: str = "cpu"
) -> BoxSource | None:
    """Open the source of boxes that a user names.

    Label files are read now, so that what is wrong with them is known now; a detector's weights are loaded for the
    first row.

    Args:
        text: The value of `--boxes`, in one of `FORMS`; None for the default: `demo` for the drawn scenes, else none.
        task: The name of the rows' task, whole or of a split.
        table: The table with its rows; None to know it by the task's name. Tables of a user's own have no such name.
        rows: The number of rows of a task that has no table.
        device: The device that a detector runs on.

    Returns:
        The source; None if there shall be none.

    Raises:
        AttentionError: If the value is not of a known form, or what it names cannot be used for the task.
    """
    table = table or table_of(task)
    if text is None:
        text = "demo" if table == DEMO else "none"
    kind, colon, value = text.partition(":")
    if kind not in FORMS or bool(colon) != (":" in FORMS[kind]) or (colon and not value):
        raise AttentionError(
            f"--boxes {text!r} is none of {'; '.join(FORMS.values())}"
            + (did_you_mean(kind, FORMS) if kind not in FORMS else "")
        )
    if kind == "none":
        return None
    if kind == "detector":
        return _detector(text, value, device)
    first, comma, more = value.partition(",")
    if kind == "demo":
        if table != DEMO:
            raise AttentionError(
                f"--boxes demo: these are the boxes of the task whatsup_demo, not of {task}. Give another "
                "source, or none."
            )
        name, labels = "the drawn scenes' own boxes", _drawn()
    elif kind == "coco":
        files = [_file(text, one) for one in value.split(",")]
        name, labels = f"COCO's annotations ({', '.join(file.name for file in files)})", read_coco(files)
    elif kind == "vg":
        file = _file(text, value)
        name, labels = f"Visual Genome's annotations ({file.name})", read_vg(file)
    else:
        if not os.path.isdir(first):
            raise AttentionError(f"--boxes {text!r}: there is no folder {first}. Give the folder of the label files.")
        name = f"the label files in {first}"
        labels = read_yolo(Path(first), _file(text, more) if comma else None)
    numbered = kind == "yolo"
    return Labelled(name, labels, Pictures(labels, f"--boxes {text}", table, rows, numbered), strict=numbered)


def _file(text: str, name: str) -> Path:
    if not os.path.isfile(name):
        raise AttentionError(f"--boxes {text!r}: there is no file {name}. Give the path of one that you have unpacked.")
    return Path(name)


def _detector(text: str, value: str, device: str) -> Detector:
    checkpoint, comma, score = value.partition(",")
    if not comma:
        return Detector(checkpoint, device=device)
    try:
        threshold = float(score)
    except ValueError:
        threshold = math.nan
    if not 0 <= threshold < 1:
        raise AttentionError(f"--boxes {text!r}: the lowest score {score!r} is not a number from 0 to below 1.")
    return Detector(checkpoint, threshold, device)


def _drawn() -> Labels:
    """Return the boxes of the demo's scenes, by the `image_id` of their pictures."""
    from adaptvis_plugin.data.demo.rows import demo_boxes
    from adaptvis_plugin.data.demo.scenes import SIZE

    labels = Labels()
    for image_id, boxes in zip(image_ids(DEMO), demo_boxes(), strict=True):
        picture = labels.picture(image_id, size=(SIZE, SIZE))
        for name, (left, top, right, bottom) in boxes.items():
            labels.add(picture, name, left, top, right - left, bottom - top)
    return labels
