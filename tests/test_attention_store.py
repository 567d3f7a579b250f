"""Captured attention on disk: written by several processes, killed, damaged, mixed up, and read again."""

import multiprocessing
import os
import re
import resource
import shutil
import signal
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pydantic import ValidationError
from safetensors.numpy import load_file, save_file

from adaptvis_plugin.attention.form import Header, row_bytes
from adaptvis_plugin.attention.record import AttentionError, Places, Record
from adaptvis_plugin.attention.store import AttentionStore
from tests.attention_rows import begun, header, record, same

spawn = multiprocessing.get_context("spawn")


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


# Writing


def test_a_batch_is_one_chunk_and_rows_come_back_in_order_whatever_the_order_of_the_batches(tmp_path: Path) -> None:
    store = begun(tmp_path / "attention" / "toy")
    store.add([record(7), record(5)])
    store.add([record(12), record(0)])
    store.add([])
    assert files(store.folder) == ["000000.safetensors", "000005.safetensors", "header.json"]
    there = AttentionStore(store.folder)
    assert there.header == header() and there.doc_ids == (0, 5, 7, 12)
    for number, found in zip((0, 5, 7, 12), there.rows(), strict=True):
        assert same(found, record(number))
    assert begun(store.folder).resume(header()) == {0, 5, 7, 12}


def test_a_row_is_written_once_however_the_batches_of_two_runs_are_cut(tmp_path: Path) -> None:
    """The second run's first chunk has the name of the first run's, and fewer rows."""
    stores = [begun(tmp_path) for _ in range(2)]
    stores[0].add(map(record, range(4)))
    stores[1].add(map(record, range(2)))
    stores[1].add(map(record, (3, 4, 4)))
    assert files(tmp_path) == ["000000.safetensors", "000004.safetensors", "header.json"]
    assert stores[0].doc_ids == (0, 1, 2, 3, 4)
    assert set(load_file(tmp_path / "000004.safetensors")) == {
        f"4/{name}" for name in ("weights", "ids", "image", "picture", "box", "sizes", "thumbnails/0")
    }


def test_rows_may_be_views_of_a_batch(tmp_path: Path) -> None:
    batch = np.stack([record(number).weights for number in range(2)], axis=-1)
    store = begun(tmp_path)
    store.add([record(number, weights=batch[..., number]) for number in range(2)])
    assert same(store.read(0), record(0)) and same(store.read(1), record(1))


def _write(folder: Path, numbers: range, batch: int) -> None:
    store = begun(folder)
    for first in range(0, len(numbers), batch):
        store.add(map(record, numbers[first : first + batch]))


def test_processes_that_write_at_once_lose_nothing_and_write_nothing_twice(tmp_path: Path) -> None:
    parts = ((range(0, 40), 3), (range(59, 9, -1), 5))
    workers = [spawn.Process(target=_write, args=(tmp_path, *part)) for part in parts]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert [one.doc_id for one in AttentionStore(tmp_path).rows()] == list(range(60))
    written = [key for path in tmp_path.glob("*.safetensors") for key in load_file(path) if key.endswith("/ids")]
    assert len(written) == 60


def _write_on(folder: Path, about: Header) -> None:
    store = begun(folder, about)
    for number in range(500):  # not for ever, should the tests be killed
        store.add([record(2 * number + one, about, side=40) for one in range(2)])


def test_a_run_that_is_killed_while_it_writes_leaves_whole_chunks_and_goes_on(tmp_path: Path) -> None:
    about = header(heads=64)
    worker = spawn.Process(target=_write_on, args=(tmp_path, about), daemon=True)
    worker.start()
    until = time.monotonic() + 300  # a loaded machine takes long to start a process
    while len(files(tmp_path)) < 3 or not any(name.endswith(".part") for name in files(tmp_path)):
        assert worker.is_alive() and time.monotonic() < until
        time.sleep(0.001)
    os.kill(worker.pid or 0, signal.SIGKILL)
    worker.join()
    store = AttentionStore(tmp_path)
    there = store.resume(about)
    assert there == set(range(len(there))) and len(there) >= 2
    assert not [name for name in files(tmp_path) if name.endswith(".part")]
    store.add([record(number, about, side=40) for number in range(len(there) + 1)])
    assert [one.doc_id for one in store.rows()] == list(range(len(there) + 1))
    assert same(store.read(1), record(1, about, side=40))


def test_what_a_killed_run_left_half_written_is_removed(tmp_path: Path) -> None:
    store = begun(tmp_path)
    store.add([record(0)])
    whole = (tmp_path / "000000.safetensors").read_bytes()
    (tmp_path / "000001.safetensors.part").write_bytes(whole[: len(whole) // 2])
    assert store.doc_ids == (0,) and begun(tmp_path).doc_ids == (0,)
    assert files(tmp_path) == ["000000.safetensors", "header.json"]


def test_a_disk_that_is_full_costs_only_the_rows_that_did_not_fit(tmp_path: Path) -> None:
    store = begun(tmp_path)
    store.add([record(0)])
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, most))
    try:
        with pytest.raises(OSError, match=re.escape(str(tmp_path / "000001.safetensors"))):
            store.add([record(1)])
        with pytest.raises(OSError, match=re.escape(str(tmp_path / "new" / "header.json"))):
            begun(tmp_path / "new")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    assert [name for name in files(tmp_path) if name.endswith(".part")] == []
    assert begun(tmp_path / "new").doc_ids == () and begun(tmp_path).doc_ids == (0,)
    store.add([record(1)])
    assert [one.doc_id for one in AttentionStore(tmp_path).rows()] == [0, 1]


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"dtype": "bfloat16"}, ["dtype='float32'", "dtype='bfloat16'"]),
        ({"conditions": ("1.0", "constant 1.0")}, ["conditions=('1.0', '0.5')", "conditions=('1.0', 'constant 1.0')"]),
        ({"layers": (3, 8)}, ["layers=(3, 7)", "layers=(3, 8)"]),
        ({"packages": {"torch": "9"}}, ["packages={}", "'torch': '9'"]),
    ],
)
def test_attention_of_another_run_is_never_mixed_in(own: dict[str, Any], words: list[str], tmp_path: Path) -> None:
    begun(tmp_path).add([record(0)])
    before = files(tmp_path)
    with pytest.raises(AttentionError, match="Use another folder, or delete this one") as refused:
        begun(tmp_path, header(**own))
    assert str(tmp_path) in str(refused.value) and [word for word in words if word not in str(refused.value)] == []
    assert "task" not in str(refused.value) and files(tmp_path) == before


def wrong(value: float) -> Any:
    weights = record(0).weights.copy()
    weights[1, 0, 1, 5] = value
    return weights


@pytest.mark.parametrize(
    ("own", "complaint"),
    [
        ({"weights": wrong(np.nan)}, "column 5 under condition '0.5' in layer 3, head 1, is nan; weights are between"),
        ({"weights": wrong(np.inf)}, "is inf; weights are between 0 and 1"),
        ({"weights": wrong(-0.5)}, "is -0.5; weights"),
        ({"weights": wrong(1.001)}, r"is 1\.000976"),
        ({"weights": record(0).weights.astype(np.float32)}, "weights is float32, not float16"),
        ({"weights": record(0).weights[:1]}, r"weights has the shape \(1, 2, 2, 15\), where .* \(2, 2, 2, 15\)"),
        ({"ids": np.arange(14, dtype=np.int32)}, r"weights has the shape"),
        ({"image": np.zeros(15, bool)}, r"picture has the shape \(9,\), where .* \(0,\)"),
        ({"sizes": (), "thumbnails": ()}, "lies in a picture that is not there; there are 0"),
        ({"sizes": ((0, 4),)}, r"sizes of the pictures are \(\(0, 4\),\)"),
        ({"thumbnails": (b"1", b"2")}, "2 thumbnails of 1 pictures"),
        ({"places": Places(np.full(9, -1, np.int32), record(0).places.box)}, "one without a picture has none"),  # type: ignore[union-attr]
        ({"places": Places(np.zeros(9, np.int32), np.full((9, 4), np.nan, np.float32))}, "with a picture has a box"),
        (
            {"places": Places(np.zeros(9, np.int32), np.tile(np.array([2, 0, 1, 1], np.float32), (9, 1)))},
            "after its right",
        ),
        ({"doc_id": -1}, "at least 0"),
    ],
)
def test_a_row_that_is_not_of_the_form_is_refused_before_anything_is_written(
    own: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    store = begun(tmp_path)
    with pytest.raises(AttentionError, match=complaint) as refused:
        store.add([record(1), record(0, **own)])
    assert f"document {own.get('doc_id', 0)}" in str(refused.value)
    assert files(tmp_path) == ["header.json"]


@pytest.mark.parametrize(
    ("own", "complaint"),
    [
        ({"conditions": ("0.5", "1.0")}, "the first is '1.0', the unsteered model"),
        ({"conditions": ("1.0", "1.0")}, "different names"),
        ({"conditions": ()}, "at least 1 item"),
        ({"layers": (7, 3)}, "in rising order"),
        ({"heads": 0}, "greater than or equal to 1"),
    ],
)
def test_a_header_that_cannot_be(own: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        header(**own)


# Reading


def test_a_row_that_two_folders_brought_together_is_read_once(tmp_path: Path) -> None:
    begun(tmp_path / "a").add(map(record, (0, 1)))
    begun(tmp_path / "b").add(map(record, (1, 2)))
    shutil.copy(tmp_path / "b" / "000001.safetensors", tmp_path / "a")
    assert [one.doc_id for one in AttentionStore(tmp_path / "a").rows()] == [0, 1, 2]


def test_reading_takes_the_memory_of_a_row_not_of_the_folder(tmp_path: Path) -> None:
    about = header(heads=32, layers=tuple(range(8)))
    store = begun(tmp_path, about)
    for number in range(0, 24, 4):
        store.add(record(number + one, about, side=16) for one in range(4))
    row = record(0, about, side=16).weights.nbytes
    tracemalloc.start()
    assert sum(1 for _ in AttentionStore(tmp_path).rows()) == 24
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert row < peak < 5 * row


def _rewritten(path: Path, **changes: Any) -> None:
    tensors = {**load_file(path), **{key.replace("_", "/"): value for key, value in changes.items()}}
    save_file({key: value for key, value in tensors.items() if value is not None}, path)


def test_a_chunk_that_is_damaged_is_named_and_can_be_captured_again(tmp_path: Path) -> None:
    store = begun(tmp_path)
    store.add([record(0)])
    path = tmp_path / "000000.safetensors"
    whole = path.read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"\x80\x04pickle", whole[:40]):
        path.write_bytes(content)
        for use in (begun, lambda folder: AttentionStore(folder).doc_ids):
            with pytest.raises(AttentionError, match=r"000000\.safetensors is damaged: .*Delete it"):
                use(tmp_path)
        with pytest.raises(AttentionError, match=r"000000\.safetensors is damaged"):
            store.read(0)
    path.unlink()
    assert begun(tmp_path).doc_ids == ()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"0_weights": record(0).weights[:1].copy()}, "document 0: weights has the shape"),
        ({"0_weights": wrong(np.nan)}, "document 0: the weight of column 5"),
        ({"0_ids": np.array(3, np.int32)}, "document 0: weights has the shape"),
        ({"0_ids": None}, "is damaged: 'ids'"),
        ({"0_box": None}, "is damaged: 'box'"),
        ({"0_sizes": np.zeros((1, 3), np.int32)}, "is damaged"),
        ({"0_sizes": np.array(3, np.int32)}, "is damaged"),
        ({"0_image": np.ones(15, np.uint8)}, "document 0: image is uint8, not bool"),
    ],
)
def test_a_chunk_that_does_not_fit_its_header_is_refused(
    changes: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    begun(tmp_path).add([record(0)])
    _rewritten(tmp_path / "000000.safetensors", **changes)
    with pytest.raises(AttentionError, match=complaint) as refused:
        AttentionStore(tmp_path).read(0)
    assert str(tmp_path / "000000.safetensors") in str(refused.value)


def test_what_is_no_folder_of_attention(tmp_path: Path) -> None:
    with pytest.raises(AttentionError, match=r"header\.json cannot be read"):
        _ = AttentionStore(tmp_path / "nowhere").header
    for content in ("", "[]", '{"adaptvis_attention": 2}', '{"task": 3}'):
        (tmp_path / "header.json").write_text(content)
        for use in (begun, lambda folder: AttentionStore(folder).header):
            with pytest.raises(AttentionError, match=r"header\.json is not the header of captured attention"):
                use(tmp_path)
        assert (tmp_path / "header.json").read_text() == content
    (tmp_path / "header.json").unlink()
    begun(tmp_path).add([record(3)])
    with pytest.raises(AttentionError, match="has no row 4; it has 1 rows"):
        AttentionStore(tmp_path).read(4)
    (tmp_path / "header.json").unlink()
    with pytest.raises(AttentionError, match=r"holds chunks but no header\.json"):
        begun(tmp_path)


# Any row


def test_the_disk_that_rows_take_is_bounded_as_stated(tmp_path: Path) -> None:
    about = header(layers=tuple(range(4)), heads=8)
    store = begun(tmp_path, about)
    for first in (0, 8, 16):
        store.add(record(number, about, side=12) for number in range(first, first + 8))
    one = record(0, about, side=12)
    written = sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    bound = 24 * row_bytes(about, len(one.ids), int(one.image.sum()), map(len, one.thumbnails))
    assert 24 * one.weights.nbytes < written <= bound < 1.2 * written
    llava = header(conditions=("1.0",), layers=tuple(range(32)), heads=32)
    assert 2000 * row_bytes(llava, 620, 576, [14_000]) < 2.6e9


shapes = st.tuples(st.integers(1, 3), st.integers(1, 2), st.integers(1, 2), st.integers(0, 9))


@st.composite
def rows(draw: st.DrawFn) -> tuple[Header, Record]:
    conditions, layers, heads, columns = draw(shapes)
    about = header(conditions=("1.0", "0.5", "2.0")[:conditions], layers=tuple(range(layers)), heads=heads)
    image = draw(arrays.arrays(bool, columns))
    sizes = tuple(draw(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=2)))
    images = int(image.sum())
    picture = draw(arrays.arrays(np.int32, images, elements=st.integers(-1, len(sizes) - 1)))
    box = np.sort(draw(arrays.arrays(np.float32, (images, 2, 2), elements=st.floats(0, 9, width=32))), axis=1)
    box = np.where(picture[:, None] < 0, np.float32(np.nan), box.reshape(images, 4))
    return about, Record(
        doc_id=draw(st.integers(0, 10**9)),
        weights=draw(
            arrays.arrays(np.float16, (conditions, layers, heads, columns), elements=st.floats(0, 1, width=16))
        ),
        ids=draw(arrays.arrays(np.int32, columns)),
        image=image,
        places=draw(st.sampled_from([None, Places(picture, box)])),
        sizes=sizes,
        thumbnails=draw(st.sampled_from([(), tuple(b"\xff\xd8" * size[0] for size in sizes)])),
    )


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows())
def test_a_row_comes_back_as_it_was(tmp_path: Path, drawn: tuple[Header, Record]) -> None:
    about, one = drawn
    folder = tmp_path / str(len(list(tmp_path.iterdir())))
    begun(folder, about).add([one])
    assert same(AttentionStore(folder).read(one.doc_id), one)
