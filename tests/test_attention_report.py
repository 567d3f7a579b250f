"""The report on attention: it says what is there, does not say what is not, and says what is missing."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

from adaptvis_plugin.attention.familiarity import familiarity
from adaptvis_plugin.attention.familiarity.tables import heading
from adaptvis_plugin.attention.record import Record
from adaptvis_plugin.attention.report import as_json, grids, sentences, write
from adaptvis_plugin.attention.report.page import Part, page
from adaptvis_plugin.attention.report.plots import draw
from adaptvis_plugin.attention.study import Study
from adaptvis_plugin.cli.files import write_json
from tests.attention_rows import AFTER, BEFORE, grid, logits
from tests.attention_studies import ALPHAS, SIDE, UpperRow, about, answered, captured, picture, studied, traced

ROWS = 60
RIGHT = np.random.default_rng(3).random(ROWS) < 0.6
LOW = np.arange(ROWS) % 2 == 0  # the rows whose confidence is low
FEW = answered(dict.fromkeys(ALPHAS, RIGHT[:8]))


def refuse(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def told(found: Any, folder: Path) -> str:
    """Return all sentences and tables; no number in them, in the page's data or in the JSON may be undefined."""
    text = "\n".join([*sentences(found), *(str(grid) for grid in grids(found))])
    assert not re.search(r"\bnan\b|\binf\b", text, re.IGNORECASE), text
    data(found)
    write_json(as_json([found]), folder / "figures.json")
    json.loads((folder / "figures.json").read_text(), parse_constant=refuse)
    return text


def drawn(found: Any) -> set[str]:
    return {name for name, _, _ in draw(found)}


def data(found: Any, pictures: int = 100) -> Any:
    """Return the rows of the page, without its drawings, which take long."""
    html = page([Part(found, sentences(found), grids(found), [])], pictures)
    [content] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    return json.loads(content, parse_constant=refuse)


def looking(number: int) -> Record:
    """Capture a row whose head 1 of layer 7 looks at the object if the unsteered answer is right."""
    values = logits(number, about(), SIDE)
    values[0, 1, 1, BEFORE : BEFORE + SIDE] += 2 * RIGHT[number]
    values[3, ..., BEFORE:-AFTER] += 1  # the constant
    return captured(number, values)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """AdaptVis is right in every row with a low confidence; the constant changes no answer."""
    rows = answered({1.0: RIGHT, 0.5: RIGHT | LOW, 1.5: RIGHT})
    return studied(tmp_path_factory.mktemp("planted"), rows, looking, source=UpperRow())


# --- what is there, and what is not


def test_a_planted_effect_is_said_where_it_is(planted: Study, tmp_path: Path) -> None:
    text = told(planted, tmp_path)
    assert "Attention on the objects predicts a right answer, by layer: the largest AUROC is " in text
    assert re.search(
        r"predicts a right answer, by head: the largest AUROC is (?:0\.9\d\d|1\.000) \[[^]]+\] in head L7H1, p", text
    )
    assert "not shown, by" not in text
    gain = (RIGHT | LOW).mean() - RIGHT.mean()
    assert re.search(rf"adaptvis 0\.5/1\.5/0\.4: more right answers \(\+{100 * gain:.1f} \[\+", text)
    assert re.search(r"Adding a constant 1\.0 in all rows gives the image \+1\d\.\d \[\+[^]]+\] points", text)
    assert "and no shown difference in score (+0.0 [+0.0, +0.0] points)." in text


def test_noise_is_not_shown(tmp_path: Path) -> None:
    rows = answered(dict.fromkeys(ALPHAS, RIGHT))
    text = told(studied(tmp_path, rows, source=UpperRow()), tmp_path)
    assert text.count("Whether attention on the objects predicts a right answer is not shown, by") == 2
    assert text.count("no shown difference in score (+0.0 [+0.0, +0.0] points)") == 3


def test_a_constant_that_harms_is_said_to_harm(tmp_path: Path) -> None:
    rows = answered(dict.fromkeys(ALPHAS, RIGHT))
    worse = answered({1.0: RIGHT & ~LOW})
    text = told(studied(tmp_path, rows, constant=worse), tmp_path)
    assert re.search(r"Adding a constant 1\.0 in all rows .* and fewer right answers \(-\d\d\.\d", text)
    assert "Nothing is said about attention on objects: no boxes were given." in text


def test_adaptvis_has_the_attention_of_the_coefficient_that_it_chose_in_each_row(planted: Study) -> None:
    run = planted.runs[-1]
    assert [planted.header.conditions[place] for place in run.conditions[:4]] == ["0.5", "1.5", "0.5", "1.5"]
    [rows] = data(planted, pictures=3)
    assert rows["runs"][-1]["alphas"][:4] == [0.5, 1.5, 0.5, 1.5]
    assert rows["runs"][-1]["right"] == (RIGHT | LOW).astype(float).tolist()
    assert all(set(one["conditions"]) == {"0", "3", "1", "2"} - {"12"[int(row) % 2 == 0]} | {"1"}
               for row, one in rows["overlays"].items())  # fmt: skip


def test_rows_that_flipped_get_their_overlays_first(planted: Study) -> None:
    [rows] = data(planted, pictures=3)
    assert [*map(int, rows["overlays"])] == np.flatnonzero(LOW & ~RIGHT)[:3].tolist()


# --- what is missing


def test_rows_without_an_image_are_said(tmp_path: Path) -> None:
    def record(number: int) -> Record:
        one = captured(number, logits(number, about(), SIDE))
        if number % 4:
            return one
        return captured(number, logits(number, about(), SIDE), image=np.zeros_like(one.image), sizes=(),
                        places=None, thumbnails=())  # fmt: skip

    found = studied(tmp_path, FEW, record, source=UpperRow())
    text = told(found, tmp_path)
    assert "2 of 8 rows have no image" in text
    assert "2 of 8 rows are left out: it does not have exactly one picture (row 0: it has 0;" in text
    [rows] = data(found)
    assert not {"0", "4"} & {*rows["overlays"]} and len(rows["overlays"]) == 6


def test_no_image_at_all(tmp_path: Path) -> None:
    """A text column is a sink; nothing is said of an image, with or without it."""

    def record(number: int) -> Record:
        values = logits(number, about(), SIDE)
        values[..., 0] += 9
        image = np.zeros(values.shape[-1], bool)
        return captured(number, values, image=image, sizes=(), places=None, thumbnails=())

    found = studied(tmp_path, FEW, record, source=UpperRow())
    text = told(found, tmp_path)
    assert "No row has an image, so there is nothing that its attention could go to." in text
    assert "the most frequent is text token 0 (in 100% of the rows).\n" in text
    assert "Nothing is said about attention on objects: no row has boxes" in text
    assert drawn(found) == {"relations", "reliability", "confidence"}


def test_columns_that_cannot_be_mapped_are_counted(tmp_path: Path) -> None:
    def record(number: int) -> Record:
        return captured(number, logits(number, about(), SIDE), places=None)

    found = studied(tmp_path, FEW, record, source=UpperRow())
    text = told(found, tmp_path)
    assert "In 8 of 8 rows the image's tokens cannot be laid over the picture." in text
    assert "The image is 72.7% of the prompt's tokens" in text
    assert data(found)[0]["overlays"] == {}


def test_several_pictures_show_the_first(tmp_path: Path) -> None:
    """The right half of the columns lies in the second picture."""
    places = grid(SIDE, 8)
    places.picture[SIDE**2 // 2 :] = 1

    def record(number: int) -> Record:
        sizes, pictures = ((32, 32), (32, 32)), (picture(), picture(200))
        return captured(number, logits(number, about(), SIDE), places=places, sizes=sizes, thumbnails=pictures)

    found = studied(tmp_path, FEW, record, source=UpperRow())
    assert "8 of 8 rows are left out: it does not have exactly one picture (row 0: it has 2;" in told(found, tmp_path)
    [rows] = data(found, pictures=1)
    [one] = rows["overlays"].values()
    assert one["pictures"] == 2 and one["boxes"] == []
    weights = found.store.read(int(next(iter(rows["overlays"])))).weights[0, :, :, BEFORE : BEFORE + SIDE**2 // 2]
    shares = weights.astype(float).mean(1).sum(-1)
    assert one["conditions"]["0"]["shares"] == pytest.approx(shares.tolist(), abs=1e-3)


def test_a_picture_that_was_not_kept_has_no_overlay(tmp_path: Path) -> None:
    def record(number: int) -> Record:
        return captured(number, logits(number, about(), SIDE), thumbnails=())

    found = studied(tmp_path, FEW, record, source=UpperRow())
    told(found, tmp_path)
    assert data(found)[0]["overlays"] == {}


@pytest.mark.parametrize(("right", "why"), [(True, "right"), (False, "wrong")])
def test_without_both_kinds_of_answers_there_is_no_auroc_but_a_reason(tmp_path: Path, right: bool, why: str) -> None:
    rows = answered(dict.fromkeys(ALPHAS, [right] * 8))
    found = studied(tmp_path, rows, source=UpperRow())
    text = told(found, tmp_path)
    assert "objects" in drawn(found) and "auroc" not in drawn(found)
    assert f"a right answer cannot be measured by layer: all 8 answers are {why}." in text
    assert f"a right answer cannot be measured by head: all 8 answers are {why}." in text


def test_one_layer_and_one_head(tmp_path: Path) -> None:
    form = about(layers=(5,), heads=1)
    found = studied(tmp_path, FEW, source=UpperRow(), form=form)
    text = told(found, tmp_path)
    assert {"image", "heads", "auroc"} <= drawn(found)
    assert re.search(r"last prompt token's attention \(mean over layers and heads\)\.$", text, re.MULTILINE)
    assert "after correction for the choice among 1." in text


def test_one_group_has_no_intervals(tmp_path: Path) -> None:
    rows = answered(dict.fromkeys(ALPHAS, RIGHT[:8]), set_id=lambda number: 0)
    text = told(studied(tmp_path, rows, source=UpperRow()), tmp_path)
    assert "cannot be measured by layer: all 8 rows belong to one group." in text


# --- files


def test_the_files(planted: Study, tmp_path: Path) -> None:
    files = write([planted, planted.familiarity], tmp_path / "out", 2)
    names = [path.relative_to(tmp_path / "out").as_posix() for path in files]
    assert names[:2] == ["index.html", "attention.md"] and len(set(names)) == len(names)
    assert all(path.stat().st_size for path in files)
    plots = ("image", "spread", "heads", "control", "objects", "auroc", "relations", "reliability", "confidence")
    for name in plots:
        path = tmp_path / "out" / f"1-toy-{name}.png"
        assert path in files and "<svg" in path.with_suffix(".svg").read_text()
    overlays = [name for name in names if name.startswith("overlays/")]
    assert overlays == [f"overlays/1-toy-{row:06d}.png" for row in np.flatnonzero(LOW & ~RIGHT)[:2]]
    text = files[1].read_text()
    assert (
        f"## {heading(planted.familiarity)}" in text and "![Attention on the image by layer](1-toy-image.png)" in text
    )
    heads = pd.read_csv(tmp_path / "out" / "1-toy-auroc_heads.csv").query("run == 'plain'")
    best = heads.iloc[int(heads.auroc.argmax())]
    assert (best.layer, best["head"]) == (7, 1)
    overlap = pd.read_csv(tmp_path / "out" / "1-toy-overlap.csv")
    assert len(overlap) == ROWS * 2 * len(planted.runs) and overlap.even.round(6).eq(0.25).all()
    layers = pd.read_csv(tmp_path / "out" / "1-toy-layers.csv")
    expected = np.mean([_share(planted.store.read(row)) for row in range(ROWS)], axis=0)
    own = layers.query("run == 'plain' and measure == 'image_share'")
    assert own.value.to_numpy() == pytest.approx(expected, abs=1e-3)
    pixels = np.asarray(Image.open(tmp_path / "out" / overlays[0]))
    yellow = (pixels[..., 0] > 200) & (pixels[..., 1] > 150) & (pixels[..., 2] < 120)
    assert yellow.any(), "the brightest place is drawn"


def _share(record: Record) -> NDArray[np.float64]:
    values: NDArray[np.float64] = record.weights[0].astype(float)[..., record.image].sum(-1).mean(1)
    return values


def test_a_trace_alone(tmp_path: Path) -> None:
    found = familiarity(traced(tmp_path / "toy.jsonl", FEW))
    assert "Confidence" in told(found, tmp_path) and data(found) == []
