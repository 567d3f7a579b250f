"""Tables made of a folder: what was verified is shown, and a folder that changes is noticed."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from adaptvis_plugin.data import DataError, Provenance, load_table, prepare, status
from adaptvis_plugin.data.cache import table_path
from tests.data_helpers import DATA, FACTS, archives, jpeg, official, parquet, question_lines, write
from tests.folder_helpers import FALSE, ROOMS, TRUE, add_questions, make_rooms, run, shown, without_network


@pytest.fixture(autouse=True)
def _no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_network(tmp_path, monkeypatch)


@pytest.fixture
def rooms(tmp_path: Path) -> Path:
    return make_rooms(tmp_path / "mine")


def other_picture(folder: Path) -> None:
    path = folder / "1.jpg"
    new = jpeg(77)
    path.write_bytes(new + bytes(max(0, path.stat().st_size - len(new))))


def other_captions(folder: Path) -> None:
    write(folder / "rooms.json", json.dumps([{**ROOMS[0], "caption_options": [FALSE, TRUE]}, *ROOMS[1:]]).encode())


def same_size_and_time(folder: Path) -> None:
    path = folder / "2.jpg"
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[-4] ^= 1
    path.write_bytes(bytes(data))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("change", [other_picture, other_captions, add_questions, same_size_and_time])
def test_a_changed_folder_is_made_again(
    rooms: Path, change: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    [first] = prepare(["rooms"], rooms)
    before = table_path("rooms").stat()
    assert prepare(["rooms"], rooms) == [first]
    assert table_path("rooms").stat() == before, "nothing changed, so no table is made"
    assert not caplog.records

    change(rooms)
    columns = load_table("rooms")[:]
    assert table_path("rooms").stat() == before, "without --from the old table is kept"
    [warning] = caplog.messages
    assert f"{rooms} has changed" in warning and f"adaptvis data prepare rooms --from {rooms}" in warning
    listed = shown(run(["data", "status"]))
    assert "mine (changed since; the old table is kept)" in listed

    [second] = prepare(["rooms"], rooms)
    assert second.fingerprint != first.fingerprint
    assert load_table("rooms")[:] != columns
    assert "changed since" not in shown(run(["data", "status"]))


def test_the_command_says_that_a_table_is_kept(rooms: Path) -> None:
    assert "kept" not in shown(run(["data", "prepare", "rooms", "--from", str(rooms)]))
    again = shown(run(["data", "prepare", "rooms", "--from", str(rooms)]))
    assert "rooms: the table exists already; --force makes it again" in again
    other_picture(rooms)
    assert "has changed since the table was made; the old table is kept" in shown(run(["data", "prepare", "rooms"]))


def test_a_folder_that_is_gone(rooms: Path, caplog: pytest.LogCaptureFixture) -> None:
    prepare(["rooms"], rooms)
    shutil.rmtree(rooms)
    assert len(load_table("rooms")) == 3 and not caplog.records
    assert "(no longer there; the old table is kept)" in shown(run(["data", "status"]))
    with pytest.raises(DataError, match="is not a folder"):
        prepare(["rooms"], rooms)


def unpacked(folder: Path) -> tuple[str, Path]:
    return "controlled_b", official(folder) / "data" / DATA["controlled_b"][5].image


def packed(folder: Path) -> tuple[str, Path]:
    facts = FACTS["whatsup"]["coco_two"]
    write(folder / facts["annotations"], json.dumps([row.entry for row in DATA["coco_two"]]).encode())
    write(folder / facts["questions"], question_lines("coco_two").encode())
    return "coco_two", write(folder / facts["images"], archives()[facts["images"]])


def from_the_hub(folder: Path) -> tuple[str, Path]:
    write(folder / FACTS["whatsup"]["vg_two"]["questions"], question_lines("vg_two").encode())
    return "vg_two", write(folder / "data/VG_QA_two_obj-00000-of-00001.parquet", parquet("vg_two"))


def spatial(folder: Path) -> tuple[str, Path]:
    return "vsr", official(folder) / "train2017/000000000003.jpg"


@pytest.mark.parametrize(
    ("layout", "verified"),
    [
        (unpacked, ("number of rows", "captions", "SHA-256 of questions, annotations")),
        (packed, ("number of rows", "captions", "SHA-256 of questions, annotations")),
        (from_the_hub, ("number of rows", "captions", "SHA-256 of questions")),
        (spatial, ("number of rows", "SHA-256 of images' names, captions and labels")),
    ],
)
def test_each_layout(tmp_path: Path, layout: Callable[[Path], tuple[str, Path]], verified: tuple[str, ...]) -> None:
    """What was verified is what had a checksum; a file that changes is noticed."""
    folder = tmp_path / "official"
    name, file = layout(folder)
    [first] = prepare([name], folder)
    assert first.verified == verified
    assert f"{first.rows} │ {folder} │ {', '.join(verified)} │" in shown(run(["data", "status"]))
    assert prepare([name], folder) == [first]
    os.utime(file)
    [second] = prepare([name], folder)
    assert second.fingerprint != first.fingerprint


def test_the_checksum_of_an_archive_is_shown(tmp_path: Path) -> None:
    facts = FACTS["whatsup"]["controlled_a"]
    folder = tmp_path / "packed"
    write(folder / facts["annotations"], json.dumps([row.entry for row in DATA["controlled_a"]]).encode())
    write(folder / facts["questions"], question_lines("controlled_a").encode())
    write(folder / facts["images"], archives()[facts["images"]])
    [origin] = prepare(["controlled_a"], folder)
    assert origin.verified[-1] == "SHA-256 of questions, annotations, archive"


def test_nothing_is_called_verified_that_was_not(rooms: Path) -> None:
    assert prepare(["rooms"], rooms)[0].verified == ()
    assert prepare(["demo"])[0].verified == ()
    listed = shown(run(["data", "status"]))
    assert f"│ rooms │ 3 │ {rooms} │ nothing │" in listed
    add_questions(rooms)
    assert prepare(["rooms"], rooms)[0].verified == ("captions",)


def test_a_table_from_another_folder_is_replaced(rooms: Path, tmp_path: Path) -> None:
    prepare(["rooms"], rooms)
    other = shutil.copytree(rooms, tmp_path / "other")
    other_captions(other)
    prepare(["rooms"], other)
    assert load_table("rooms")["answer"][:] == ["Right", "Left", "Left"]


def test_a_table_of_an_older_version(rooms: Path) -> None:
    prepare(["demo"])
    prepare(["rooms"], rooms)
    for name in ("demo", "rooms"):
        path = table_path(name)
        old = pa.ipc.open_stream(path.read_bytes()).read_all()
        facts = {"name": name, "rows": 3, "source": "x", "questions": "template", "verified": True}
        old = old.replace_schema_metadata({**old.schema.metadata, b"adaptvis": json.dumps(facts).encode()})
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, old.schema) as writer:
            writer.write_table(old)
    with pytest.raises(DataError, match=r"not a table of this version.*prepare rooms --force"):
        load_table("rooms")
    assert isinstance(status()["rooms"], DataError)
    assert "not a table of this version" in shown(run(["data", "status"]))
    assert len(load_table("demo")) == 400, "the demo is drawn again"
    prepare(["rooms"], rooms, force=True)
    assert isinstance(status()["rooms"], Provenance)


def test_unreadable_sources_are_an_error_and_not_a_change(rooms: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(["rooms"], rooms)
    monkeypatch.setenv("ADAPTVIS_SOURCES", str(rooms / "nothing.yaml"))
    for command in (["data", "status"], ["data", "prepare", "rooms"]):
        assert "error: ADAPTVIS_SOURCES=" in shown(run(command))
