"""Tables from every layout: the official folder, archives, the Hub, the network, and a user's own folder."""

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from adaptvis_plugin.cli.data import app
from adaptvis_plugin.data import DataError, Provenance, authors_split, fetch, load_table, prepare, registry, status, vsr
from adaptvis_plugin.data.cache import write_table
from adaptvis_plugin.data.dataset import DataSet, Picture, Row, Rows, Source
from adaptvis_plugin.data.questions import agreement, read_questions
from adaptvis_plugin.data.registry import groups
from tests.data_helpers import (
    DATA,
    FACTS,
    OPPOSITE,
    PHRASES,
    ROWS,
    Site,
    image_bytes,
    jpeg,
    network,
    official,
    parquet,
    question_lines,
    write,
)

WHATSUP = groups()["whatsup"]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with network(tmp_path, monkeypatch) as server:
        yield server


def check(name: str) -> None:
    """Check that a table has the rows of the tiny data, whatever it was made from."""
    table = load_table(name)
    assert len(table) == ROWS[name]
    validation = set(authors_split(len(table))[0])
    for number, (row, made) in enumerate(zip(table, DATA[name], strict=True)):
        assert row["id"] == number
        assert row["prompt"] == f"<image>\nUSER: {made.question}\nASSISTANT:"
        assert row["question"] == made.question.strip()
        assert (row["answer"], row["relation"]) == (made.answer, made.answer.lower())
        assert row["caption_options"] == made.captions
        assert row["split"] == ("val" if number in validation else "test")
        assert row["relation"] in row["options"]
        assert row["image"].size == (24, 18)
    if name.startswith("controlled"):
        for set_id in (0, 1):
            relations = [row["relation"] for row in table if row["set_id"] == set_id]
            assert len(relations) == len(set(relations)) == 4
        for pair_id in range(4):
            pair = {row["relation"] for row in table if row["pair_id"] == pair_id}
            assert pair in ({"left", "right"}, {"on", "under"}, {"front", "behind"})
    else:
        assert set(table["set_id"]) == set(table["pair_id"]) == {None}


def test_from_the_official_folder(site: Site, tmp_path: Path) -> None:
    folder = official(tmp_path / "official")
    for origin in prepare(["whatsup", "vsr"], folder):
        assert origin.source == str(folder) and "number of rows" in origin.verified
    for name in WHATSUP:
        check(name)
    assert site.log == []


def test_from_a_folder_of_archives(site: Site, tmp_path: Path) -> None:
    site.fill()
    for path, data in site.routes.items():
        if path.startswith("/drive/") and isinstance(data, bytes):
            write(tmp_path / "packed" / path.removeprefix("/drive/"), data)
    prepare(["whatsup"], tmp_path / "packed")
    for name in WHATSUP:
        check(name)
    assert site.asked("/drive/") == 0 and site.asked("/prompts/") == 6


def test_from_the_hub(site: Site) -> None:
    site.fill()
    for origin in prepare(["whatsup", "vsr"]):
        assert "Hub data set" in origin.source and "number of rows" in origin.verified
    for name in WHATSUP:
        check(name)
    assert site.asked("/drive/") == 0


def test_from_the_archives(site: Site, tmp_path: Path) -> None:
    site.fill(hub=False)
    for origin in prepare(["whatsup"]):
        assert origin.source.startswith("archive ")
    for name in WHATSUP:
        check(name)
    assert site.asked("/drive/val2017.zip") == 1, "two subsets share it"
    left = [path.name for path in (tmp_path / "cache" / "downloads").iterdir()]
    assert left == [], "nothing is stored twice"


@pytest.mark.parametrize("hub", [True, False])
def test_vsr_from_the_network(site: Site, hub: bool) -> None:
    site.fill(hub)
    [origin] = prepare(["vsr"])
    assert origin.rows == 10 and ("Hub" in origin.source) == hub
    row = load_table("vsr")[3]
    assert (row["answer"], row["relation"], row["options"]) == ("Yes", "under", ["yes", "no"])
    task = "Determine whether the description about the spatial relationship is correct or not. Answer with yes or no:"
    assert row["question"] == f"{task} The cat is under the bed."
    assert row["prompt"] == f"User: <image>\n {task} The cat is under the bed. Assistant:"
    assert site.asked("/coco/") == 5


def test_the_mirror_is_used_if_the_first_hub_data_set_is_missing(site: Site) -> None:
    site.fill(hub=False)
    site.add_hub(FACTS["whatsup_hub"][1], {"data/VG_QA_two_obj-00000-of-00001.parquet": parquet("vg_two")})
    [origin] = prepare(["vg_two"])
    assert origin.source == "Hub data set joaomonteirof/whatsup_all_perturbed"
    check("vg_two")


def test_command_line(site: Site, tmp_path: Path) -> None:
    run = partial(CliRunner().invoke, app)
    folder = official(tmp_path / "official")
    done = run(["prepare", "vg_one", "vsr", "--from", str(folder)])
    assert done.exit_code == 0
    assert f"vg_one: 6 rows from {folder}\nvsr: 10 rows from {folder}\n" in done.output
    listed = run(["status"]).output
    assert "vg_one" in listed and "captions" in listed and "not prepared" in listed
    failed = run(["prepare", "vg_two", "--from", str(tmp_path)])
    assert failed.exit_code == 1 and "has neither vg_qa_two_obj.json nor" in " ".join(failed.output.split())


def test_a_table_is_made_once(site: Site) -> None:
    site.fill()
    load_table("coco_two")
    asked = len(site.log)
    load_table("coco_two")
    assert len(site.log) == asked
    prepare(["coco_two"], force=True)
    assert len(site.log) > asked


def test_status(site: Site, tmp_path: Path) -> None:
    assert set(status().values()) == {None}
    prepare(["vg_two"], official(tmp_path / "official"))
    there = status()["vg_two"]
    assert isinstance(there, Provenance)
    assert (there.rows, there.verified) == (6, ("number of rows", "captions", "SHA-256 of questions, annotations"))
    assert there.questions == "VG_QA_two_obj_with_answer_six_options.jsonl"


def test_own_folder_with_and_without_questions(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    write(folder / "rooms.json", json.dumps([row.entry for row in DATA["controlled_b"]]).encode())
    for row in DATA["controlled_b"]:
        write(folder / row.image, image_bytes(row.image))
    [origin] = prepare(["rooms"], folder)
    assert (origin.questions, origin.verified) == ("template", ())
    table = load_table("rooms")
    assert table["answer"][:] == [row.answer for row in DATA["controlled_b"]]
    assert table[0]["question"] == (
        "Where is the left shoe in relation to the chair? Answer with left, right, front or behind."
    )
    assert sorted(set(table["set_id"])) == [0, 1]
    write(folder / "rooms_questions.jsonl", question_lines("controlled_b").encode())
    [origin] = prepare(["rooms"], folder, force=True)
    assert origin.questions == "rooms_questions.jsonl"
    assert status()["rooms"] == origin


def test_own_folder_listed_by_id(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    write(
        folder / "dogs.json", json.dumps([[7, "A photo of a dog on the left", "A photo of a dog on the top"]]).encode()
    )
    write(folder / "images/7.jpg", image_bytes("dog"))
    prepare(["dogs"], folder)
    row = load_table("dogs")[0]
    assert row["question"] == "Where is the dog in the photo? Answer with left or top."
    assert row["answer"] == "Left"


def test_demo(site: Site) -> None:
    table = load_table("demo")
    assert table["id"][:] == list(range(400))
    assert Counter(table["split"]) == {"test": 320, "val": 80}
    assert site.log == []


def test_the_demo_is_drawn_again_when_the_drawing_has_changed(site: Site) -> None:
    [drawn] = prepare(["demo"])
    assert re.fullmatch(r"drawn by adaptvis \([0-9a-f]{8}\)", drawn.source)
    write_table(load_table("demo").select(range(3)), replace(drawn, rows=3))
    assert len(load_table("demo")) == 3, "the same code has drawn it"
    write_table(load_table("demo").select(range(3)), replace(drawn, rows=3, source="drawn by adaptvis (00000000)"))
    assert len(load_table("demo")) == 400
    assert status()["demo"] == drawn


class Toy(DataSet):
    """A data set of ten plain pictures: one source has a damaged file, the other one leaves a file for both toys."""

    def sources(self, folder: Path | None) -> Iterator[Source]:
        for name, last, files in (
            ("leaking bucket", jpeg(1)[:-90], ("bucket",)),
            ("toy box", jpeg(1), ("box", f"{self.name}.txt")),
        ):
            yield Source(name, partial(self.rows, last, files), downloads=files)

    def rows(self, last: bytes, files: tuple[str, ...]) -> Rows:
        for name in files:
            write(fetch.downloads() / name, b"toys")
        pictures = [Image.new("RGB", (4, 4), (number, 0, 0)) for number in range(9)]
        rows = [
            Row(
                image=picture,
                question="Where is the toy? Answer with left or right.",
                prompt="<image> Where is the toy?",
                answer="Left",
                options=["left", "right"],
                relation="left",
                set_id=None,
                pair_id=None,
                caption_options=["A toy to the left of a box", "A toy to the right of a box"],
            )
            for picture in (*pictures, Picture("last.jpg", lambda: last))
        ]
        return Rows(rows, verified=("colours",), published=11 if self.name == "toy_short" else 10)


@pytest.fixture
def toys(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module with three data sets, listed where a new one is listed."""
    sets = tuple(Toy(name, f"task_{name}", name.title(), "whatsup") for name in ("toy_one", "toy_two", "toy_short"))
    monkeypatch.setitem(sys.modules, "adaptvis_plugin.data.toys", SimpleNamespace(DATA_SETS=sets))
    monkeypatch.setattr(registry, "MODULES", (*registry.MODULES, "toys"))


def test_a_new_data_set_only_yields_rows(toys: None, caplog: pytest.LogCaptureFixture) -> None:
    assert groups()["toys"] == ("toy_one", "toy_two", "toy_short") and groups()["all"][-1] == "toy_short"
    assert status()["toy_one"] is None
    [origin] = prepare(["toy_one"])
    assert (origin.source, origin.rows, origin.questions) == ("toy box", 10, "template")
    assert origin.verified == ("number of rows", "colours")
    [warning] = caplog.messages
    assert "The image last.jpg (row 9)" in warning and warning.endswith("; trying the toy box")
    table = load_table("toy_one")
    assert table["id"][:] == list(range(10))
    assert [number for number, split in enumerate(table["split"]) if split == "val"] == authors_split(10)[0]
    assert table[8]["image"].getpixel((0, 0)) == (8, 0, 0) and table[9]["image"].size == (24, 18)


def test_downloads_stay_until_no_data_set_needs_them(toys: None) -> None:
    prepare(["toy_one"])
    assert {path.name for path in fetch.downloads().iterdir()} == {"box"}, "toy_two and toy_short need it"
    write_table(load_table("toy_one"), replace(prepare(["toy_one"])[0], name="toy_short"))
    prepare(["toy_two"])
    assert list(fetch.downloads().iterdir()) == []


def test_a_data_set_with_too_few_rows_is_refused(toys: None) -> None:
    with pytest.raises(DataError, match="is not available from any source") as caught:
        prepare(["toy_short"])
    assert "leaking bucket has 10 rows, 11 were published" in str(caught.value)
    assert "toy box has 10 rows, 11 were published" in str(caught.value)
    assert status()["toy_short"] is None and list(fetch.downloads().iterdir()) == []


@pytest.mark.parametrize("name", ["nothing", "../outside", ""])
def test_unknown_names(site: Site, tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"not a (known )?data set"):
        prepare([name])
    with pytest.raises(DataError, match=r"not a (known )?data set"):
        prepare([name], tmp_path)


REFERENCE = Path(__file__).parents[2] / "shared" / "reference"
needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason="needs the authors' question files")


@needs_reference
@pytest.mark.parametrize("name", WHATSUP)
def test_the_authors_questions(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The published question files, with captions made from them: checksum, count, labels, options, sets."""
    facts = FACTS["whatsup"][name]
    path = REFERENCE / "prompts" / facts["questions"]
    fetch.verify(path, facts["questions_sha256"], "the reference", "")
    questions = read_questions(path)
    assert len(questions) == facts["rows"]
    folder = tmp_path / "official"
    entries: list[Any] = []
    for number, question in enumerate(questions):
        label = question.answer.lower()
        others = [
            r for r in ("left", "right", "on", "under", "front", "behind") if r in question.options and r != label
        ]
        if name.startswith("controlled"):
            options = [f"A thing {PHRASES[r]} a {number}" for r in (label, *others)]
            entries.append({"image_path": "data/controlled_images/one.jpeg", "caption_options": options})
        elif name.endswith("one"):
            entries.append([1, *(f"A photo of a thing on the {r}" for r in (label, OPPOSITE[label]))])
        else:
            entries.append([1, *(f"A photo of a left thing {PHRASES[r]} a top" for r in (label, OPPOSITE[label]))])
    for image in ("controlled_images/one.jpeg", "val2017/000000000001.jpg", "vg_images/1.jpg"):
        write(folder / image, image_bytes("one"))
    write(folder / facts["annotations"], json.dumps(entries).encode())
    write(folder / "prompts" / facts["questions"], path.read_bytes())
    changed = {"whatsup": {name: {"annotations_sha256": None}}}
    monkeypatch.setenv("ADAPTVIS_SOURCES", str(write(tmp_path / "s.yaml", json.dumps(changed).encode())))
    monkeypatch.setenv("ADAPTVIS_CACHE", str(tmp_path / "cache"))
    prepare([name], folder)
    table = load_table(name).remove_columns("image")
    assert len(table) == facts["rows"]
    if name.startswith("controlled"):
        assert max(table["set_id"]) + 1 == facts["rows"] // 4
        assert max(table["pair_id"]) + 1 == facts["rows"] // 2


@needs_reference
def test_the_published_vsr_annotations() -> None:
    path = REFERENCE / "vsr" / "test.jsonl"
    rows = vsr.read_captions(path)
    vsr.verify(rows, path, vsr.VsrFacts().vsr)
    assert len(rows) == vsr.VsrFacts().vsr.rows
    assert sum(row["label"] for row in rows) == 629
    assert len({row["image"] for row in rows}) == 715
    assert sum(row["path"].startswith("val2017/") for row in rows) == 42


SIX_OPTIONS = ("left", "right", "front", "behind", "top", "bottom")


@pytest.mark.parametrize(
    ("answer", "captions", "agrees"),
    [
        ("Left", ["A mug to the left of a plate", "A mug to the right of a plate"], True),
        ("Right", ["A mug to the left of a plate", "A mug to the right of a plate"], False),
        ("Top", ["A toy on top of a top", "A toy below a top"], True),
        ("Right", ["A left shoe to the right of a bed", "A left shoe to the left of a bed"], True),
        ("Left", ["A left shoe to the right of a bed", "A left shoe to the left of a bed"], False),
        ("Bottom", ["A photo of a dog on the bottom", "A photo of a dog on the top"], True),
        ("Front", ["A cup in front of a can", "A cup behind a can", "A cup to the left of a can"], True),
        ("Behind", ["A cup in front of a can", "A cup behind a can"], False),
        # unknown words say nothing, whatever else the captions contain
        ("Behind", ["A photo of a dog on the far side", "A photo of a dog on the near side"], None),
        ("Behind", ["A photo of a left shoe on the far side", "A photo of a left shoe on the near side"], None),
        ("Left", ["nothing", "none"], None),
        # but a false caption that agrees with the answer contradicts it
        ("Front", ["A photo of a dog in the background", "A photo of a dog in the front"], False),
    ],
)
def test_agreement(answer: str, captions: list[str], agrees: bool | None) -> None:
    assert agreement(answer, captions, SIX_OPTIONS) is agrees
