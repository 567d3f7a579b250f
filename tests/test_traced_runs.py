"""`trace=FOLDER`: ordinary runs of lmms-eval that write each row as it is answered, and resume."""

import json
import shutil
from pathlib import Path
from typing import Any

import datasets
import pytest

from adaptvis_plugin.lmms_eval.models import SteeredModel
from adaptvis_plugin.lmms_eval.recording import RecordedTask
from adaptvis_plugin.traces import TraceError, read_traces
from adaptvis_plugin.vlmevalkit.arguments import model_arguments
from tests.data_helpers import jpeg
from tests.test_command_line import BIN
from tests.test_lmms_eval import evaluate, manager, rows
from tests.test_sweep import killed

ROWS = 24
FILE = "llava_adaptvis_whatsup_demo.jsonl"
COUNTS = ("confidence", "alpha", "input_tokens", "output_tokens")


def test_a_run_that_was_killed_answers_only_the_rest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace, out = tmp_path / "trace", tmp_path / "out"
    command = ["--model", "llava_adaptvis", "--model_args", f"pretrained=demo,trace={trace}", "--tasks", "whatsup_demo"]
    command += ["--batch_size", "2", "--limit", str(ROWS), "--output_path", str(out)]
    killed([str(BIN / "lmms-eval"), *command], trace / FILE, 6)
    kept = (trace / FILE).read_bytes()
    there = kept.count(b"\n") - 1
    assert 6 <= there < ROWS and not out.exists()
    done = evaluate("llava_adaptvis", trace=trace, limit=ROWS)
    assert (trace / FILE).read_bytes().startswith(kept[: kept.rindex(b"\n") + 1])
    (found,) = read_traces([trace / FILE])
    for row, sample in zip(found.rows, in_order(done), strict=True):
        counts = sample["token_counts"][0]
        assert row.alpha is not None and row.generations == {row.alpha: sample["filtered_resps"][0]}
        recorded = (row.confidence, row.alpha, row.input_tokens, row.output_tokens[row.alpha])
        assert row.doc_id == sample["doc_id"] and recorded == tuple(counts[name] for name in COUNTS)
    shown = f"adaptvis decoding: {100 * there // ROWS:3d}%"
    assert shown in capsys.readouterr().err, "the progress bar begins where the first run ended"


def in_order(results: dict[str, Any]) -> list[dict[str, Any]]:
    return sorted(results["samples"]["whatsup_demo"], key=lambda sample: sample["doc_id"])


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("traced")
    evaluate("llava_adaptvis", trace=folder)
    return folder


def test_a_trace_says_what_the_run_was_and_changes_nothing(traced: Path) -> None:
    (found,) = read_traces([traced])
    assert found.path.name == FILE and found.header is not None
    assert (found.header.method, found.alphas) == ("adaptvis", ())
    assert found.header.settings == {"alpha_low": 0.5, "alpha_high": 1.5, "threshold": 0.4}
    plain = rows(evaluate("llava_adaptvis"))
    assert [(row.generations[row.alpha or 0], row.confidence, row.alpha) for row in found.rows] == plain


def test_a_whole_trace_answers_without_the_model(traced: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = rows(evaluate("llava_adaptvis", trace=traced))
    monkeypatch.setattr(SteeredModel, "encoded", lambda *_: iter(()))
    assert rows(evaluate("llava_adaptvis", trace=traced)) == before


def test_other_settings_are_refused_and_another_model_has_its_own_file(traced: Path) -> None:
    before = (traced / FILE).read_bytes()
    others: list[dict[str, Any]] = [{"threshold": 0.5}, {"prompt": "chat"}]
    others += [{"gen_kwargs": "max_new_tokens=1"}, {"gen_kwargs": "until=e"}]
    for changed in others:
        with pytest.raises(TraceError, match=r"its answers were made with .*; this run asks for"):
            evaluate("llava_adaptvis", trace=traced, **changed)
    assert (traced / FILE).read_bytes() == before
    evaluate("vlm_baseline", trace=traced, limit=4)
    assert sorted(path.name for path in traced.glob("*.jsonl")) == [FILE, "vlm_baseline_whatsup_demo.jsonl"]


def test_a_row_that_was_asked_something_else_is_refused(traced: Path, tmp_path: Path) -> None:
    shutil.copy(traced / FILE, tmp_path)
    lines = (tmp_path / FILE).read_text().splitlines()
    row = json.loads(lines[3])
    lines[3] = json.dumps({**row, "asked": "0" * 16})
    (tmp_path / FILE).write_text("\n".join(lines) + "\n")
    with pytest.raises(TraceError, match=f"document {row['doc_id']} of whatsup_demo was asked something else"):
        evaluate("llava_adaptvis", trace=tmp_path)


def test_a_row_is_written_once_however_often_it_is_asked(tmp_path: Path) -> None:
    from lmms_eval.evaluator import simple_evaluate

    simple_evaluate(
        model="vlm_baseline",
        model_args=f"pretrained=demo,trace={tmp_path}",
        tasks=["whatsup_demo"],
        batch_size=4,
        limit=4,
        repeats=3,
        task_manager=manager(),
    )
    (found,) = read_traces([tmp_path])
    assert [row.doc_id for row in found.rows] == [0, 1, 2, 3]


def test_a_trace_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"trace=.*file: this is a file; give a folder"):
        evaluate("llava_adaptvis", trace=tmp_path / "file", limit=4)


def test_vlmevalkit_says_that_it_has_its_own() -> None:
    with pytest.raises(ValueError, match=r"trace='x': here every answer is written to <model>_<data>_trace\.jsonl"):
        model_arguments(method="baseline", pretrained="demo", trace="x")


class Asked:
    """A task of lmms-eval as far as it says what is asked."""

    VERSION = 1.0

    def __init__(self, rows: list[dict[str, Any]], metadata: Any = None) -> None:
        kinds = {"question": datasets.Value("string"), "image": datasets.Image()}
        kinds |= {name: datasets.Value("string") for name in rows[0] if name not in kinds}
        self.eval_docs = datasets.Dataset.from_list(rows, features=datasets.Features(kinds))
        self.eval_docs_no_media = self.eval_docs.remove_columns("image")
        self.config = type("Config", (), {"task": "asked", "metadata": metadata})


def digest(row: dict[str, Any], context: str = "Where?", metadata: Any = None) -> str:
    request: Any = type("Request", (), {"doc_id": 0, "args": (context,)})
    return RecordedTask(Asked([row], metadata)).asked(request)


def test_the_digest_of_what_was_asked_changes_with_question_and_picture_only() -> None:
    picture, other = ({"bytes": jpeg(seed), "path": "a.jpg"} for seed in (1, 2))
    row = {"question": "Where?", "image": picture}
    assert digest(row) == digest(dict(row))
    assert len({digest(row), digest(row, "Why?"), digest({**row, "image": other}), digest({**row, "hint": "x"})}) == 4
    ours = {"prompt": "<image> Where?", "image_id": "1", **row}
    form = {"table": "demo"}
    assert digest(ours, metadata=form) == digest({**ours, "image": other, "split": "val"}, metadata=form)
    changed = [{**ours, "image_id": "2"}, {**ours, "prompt": "<image> Why?"}]
    assert digest(ours, metadata=form) not in {digest(one, metadata=form) for one in changed}
