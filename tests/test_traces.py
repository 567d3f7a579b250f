"""Traces as files: written by several processes, killed, damaged, mixed up, and read again."""

import json
import math
import multiprocessing
import re
import resource
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptvis_plugin.traces import Header, Row, TraceError, TraceFile, read_traces
from adaptvis_plugin.traces.schema import TopToken, alpha_key
from tests.trace_files import begin

REFERENCE = Path(__file__).parents[2] / "shared" / "reference" / "traces"


def header(**own: Any) -> Header:
    given: dict[str, Any] = {"task": "toy", "rows": 4, "model": "demo", "dtype": "float32", "prompt": "chat"}
    return Header(**{**given, "alphas": (1.0, 0.5), "max_new_tokens": 16, **own})


def row(number: int, **own: Any) -> Row:
    answers = {1.0: f"Left {number}", 0.5: "Right"}
    return Row(
        **{"doc_id": number, "question": "Where?", "gold": "Left", "confidence": 0.7, "generations": answers, **own}
    )


def written(path: Path, *rows: Row, **own: Any) -> Path:
    file = TraceFile(path)
    begin(file, header(**own))
    file.add(rows)
    return path


# Writing


def test_a_run_that_was_killed_goes_on_after_its_last_whole_row(tmp_path: Path) -> None:
    path = written(tmp_path / "folder" / "toy.jsonl", row(0), row(1))
    whole = path.read_bytes()
    for torn in (b'{"doc_id":2,"quest', row(2).line().encode()[:-1], "{\u2026".encode()[:-1]):
        path.write_bytes(whole + torn)
        assert begin(TraceFile(path), header()) == {0: row(0), 1: row(1)}
        TraceFile(path).add([row(2)])
        assert path.read_bytes() == whole + row(2).line().encode()


def test_a_run_that_was_killed_while_it_wrote_the_header_begins_again(tmp_path: Path) -> None:
    path = tmp_path / "toy.jsonl"
    path.write_text(header().model_dump_json()[:40])
    assert begin(TraceFile(path), header()) == {}
    assert path.read_text() == header().model_dump_json() + "\n"


def _write(path: Path, numbers: range) -> None:
    file = TraceFile(path)
    begin(file, header(rows=200))
    for number in numbers:
        file.add([row(number, question="Where? " * 500)])


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "toy.jsonl"
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=_write, args=(path, range(first, 200, 2))) for first in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    (trace,) = read_traces([path])
    assert [one.doc_id for one in trace.rows] == list(range(200)) and trace.partial is None


def test_a_disk_that_is_full_costs_only_the_rows_that_did_not_fit(tmp_path: Path) -> None:
    path = written(tmp_path / "toy.jsonl", row(0))
    file = TraceFile(path)
    begin(file, header())
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, most))
    try:
        with pytest.raises(OSError, match=re.escape(str(path))):
            file.add([row(1)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    (trace,) = read_traces([path])
    assert trace.torn and [one.doc_id for one in trace.rows] == [0]
    file.add([row(1)])
    (trace,) = read_traces([path])
    assert not trace.torn and [one.doc_id for one in trace.rows] == [0, 1]


def test_runs_that_answer_the_same_rows_at_once_write_each_once(tmp_path: Path) -> None:
    """As two sweeps into one folder, or the children of a launcher that was killed and started again."""
    files = [TraceFile(tmp_path / "toy.jsonl") for _ in range(2)]
    assert [begin(file, header()) for file in files] == [{}, {}]
    files[0].add([row(0), row(1), row(1)])
    files[1].add([row(1), row(2)])
    files[0].add([row(2), row(3), row(0)])
    (trace,) = read_traces([tmp_path])
    assert [one.doc_id for one in trace.rows] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"dtype": "bfloat16"}, ["dtype='float32'", "dtype='bfloat16'"]),
        ({"alphas": (1.0, 0.8)}, ["alphas=(1.0, 0.5)", "alphas=(1.0, 0.8)"]),
        ({"generation": {"stop_strings": ["."]}}, ["generation={}", "stop_strings"]),
        ({"packages": {"torch": "9"}}, ["packages={}", "'torch': '9'"]),
    ],
)
def test_answers_of_another_run_are_never_mixed_in(own: dict[str, Any], words: list[str], tmp_path: Path) -> None:
    path = written(tmp_path / "toy.jsonl", row(0))
    before = path.read_bytes()
    with pytest.raises(TraceError, match="Use another folder, or delete the file") as refused:
        begin(TraceFile(path), header(**own))
    assert str(path) in str(refused.value) and [word for word in words if word not in str(refused.value)] == []
    assert path.read_bytes() == before


def test_a_file_that_is_no_trace_is_never_written_to(tmp_path: Path) -> None:
    path = tmp_path / "toy.jsonl"
    for content in ('{"mine": 1}\n', "notes\n", row(0).line(), "notes", '{"mine": 1}', row(0).line() + "more"):
        path.write_text(content)
        with pytest.raises(TraceError):
            begin(TraceFile(path), header())
        assert path.read_text() == content


# Reading


def test_rows_come_in_the_order_of_the_task_and_a_part_is_called_one(tmp_path: Path) -> None:
    path = written(tmp_path / "toy.jsonl", row(3), row(0), row(1))
    (trace,) = read_traces([tmp_path])
    assert [one.doc_id for one in trace.rows] == [0, 1, 3]
    assert trace.alphas == (1.0, 0.5) and trace.partial == "3 of 4 rows" and trace.name == "toy" and not trace.torn
    with path.open("a") as file:
        file.write('{"doc_id": 2, "que')
    (torn,) = read_traces([path])
    assert torn.rows == trace.rows and torn.torn and torn.partial == "3 of 4 rows"


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ([row(0).line(), row(0).line()], "document 0 is there twice"),
        ([row(0).line(), row(1, generations={1.0: "x"}).line()], "document 1 has no answer under alpha 0.5"),
        ([row(0).line(), row(None).line()], "a row has no doc_id"),  # type: ignore[arg-type]
        ([row(0).line(), '{"prediction": "Left"}\n'], "line 3, is not a row of a trace"),
        ([row(0).line(), "not JSON\n"], "line 3, is not a row of a trace"),
        ([row(0).line(), header().model_dump_json() + "\n"], "line 3, is not a row of a trace"),
        ([row(0).line(), "[1]\n"], "line 3, is not a row of a trace"),
        ([row(0).line().replace("0.7", "7.0")], "line 2, is not a row of a trace: confidence"),
        ([row(0).line().replace('"0.5"', '"-1"')], "line 2, is not a row of a trace"),
        ([], "holds no rows; its run has only begun"),
    ],
)
def test_a_trace_that_cannot_be_used_is_refused_with_its_place(
    lines: list[str], complaint: str, tmp_path: Path
) -> None:
    path = tmp_path / "toy.jsonl"
    path.write_text(header().model_dump_json() + "\n" + "".join(lines))
    with pytest.raises(TraceError, match=complaint) as refused:
        read_traces([path])
    assert str(path) in str(refused.value)


def test_what_is_no_trace_at_all(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"holds no trace: a trace is a file NAME\.jsonl"):
        read_traces([tmp_path])
    with pytest.raises(TraceError, match="there is no such file or folder"):
        read_traces([tmp_path / "nowhere"])
    with pytest.raises(TraceError, match="no trace was given"):
        read_traces([])
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe\n")
    (tmp_path / "newer.jsonl").write_text('{"adaptvis_trace": 2}\n')
    for name, complaint in {"empty": "holds no rows", "bytes": "cannot be read", "newer": "form 2; this"}.items():
        with pytest.raises(TraceError, match=complaint):
            read_traces([tmp_path / f"{name}.jsonl"])
    path = written(tmp_path / "toy" / "toy.jsonl", row(0))
    with pytest.raises(TraceError, match="is given twice"):
        read_traces([path, path.parent])


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="needs the recorded runs")
@pytest.mark.parametrize(
    ("name", "rows", "groups"),
    [("Controlled_Images_A", 330, "set"), ("COCO_QA_two_obj", 352, "image"), ("VG_QA_one_obj", 928, "image")],
)
def test_recorded_runs_are_traces_as_they_are(name: str, rows: int, groups: str) -> None:
    path = REFERENCE / f"{name}.jsonl"
    (trace,) = read_traces([path])
    assert len(trace.rows) == rows and trace.alphas == (1.0, 0.5, 0.8, 1.2, 1.5, 2.0)
    assert trace.scoring == "whatsup" and trace.partial is None and trace.name == name
    assert {group.split()[0] for group in trace.groups} == {groups}
    first = json.loads(path.read_text().splitlines()[0])
    assert {alpha_key(alpha): text for alpha, text in trace.rows[0].generations.items()} == first["generations"]
    assert all(sum(chances.values()) == pytest.approx(1, abs=1e-4) for chances in trace.rows[0].options.values())


def test_a_recorded_run_may_lack_its_last_newline(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text((row(0).line() + row(1).line()).strip())
    (trace,) = read_traces([path])
    assert len(trace.rows) == 2 and not trace.torn
    path.write_text(row(0).line() + row(1).line()[:30])
    (trace,) = read_traces([path])
    assert len(trace.rows) == 1 and trace.torn


# Any row

numbers = st.floats(allow_nan=False, allow_infinity=False)
shares = st.floats(0, 1)
alphas = st.floats(0, 1e300)
texts = st.text()


@given(
    st.builds(
        Row,
        doc_id=st.none() | st.integers(0),
        asked=st.none() | texts,
        question=texts,
        gold=texts,
        relation=st.none() | texts,
        set_id=st.none() | st.integers(),
        pair_id=st.none() | st.integers(),
        image=st.none() | texts,
        confidence=shares,
        entropy=st.none() | numbers,
        top=st.lists(st.builds(TopToken, id=st.integers(), text=texts, log_probability=numbers), max_size=3),
        alpha=st.none() | alphas,
        generations=st.dictionaries(alphas, texts, min_size=1, max_size=3),
        metrics=st.dictionaries(alphas, st.dictionaries(texts, st.none() | numbers, max_size=2), max_size=3),
        options=st.dictionaries(alphas, st.dictionaries(texts, shares, max_size=3), max_size=3),
        input_tokens=st.none() | st.integers(0),
        output_tokens=st.dictionaries(alphas, st.integers(0), max_size=3),
    )
)
def test_a_row_is_one_line_and_comes_back_as_it_was(one: Row) -> None:
    line = one.line()
    assert line.count("\n") == 1 and line.endswith("\n")
    assert Row.model_validate_json(line) == one


@given(alphas)
def test_a_coefficient_comes_back_from_its_key(alpha: float) -> None:
    assert float(alpha_key(alpha)) == alpha and not alpha_key(alpha).isdigit()


def test_numbers_that_json_does_not_have_are_left_out_of_a_row_s_metrics() -> None:
    found = Row.model_validate_json(row(0, metrics={1.0: {"score": math.nan}}).line())
    assert found.metrics == {1.0: {"score": None}}


def test_a_recorded_run_without_the_unsteered_answers_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recorded.jsonl"
    path.write_text('{"question": "Where?", "gold": "Left", "confidence": 0.5, "generations": {"0.5": "Left"}}\n')
    with pytest.raises(TraceError, match="it has no answers of the unsteered model"):
        read_traces([path])
