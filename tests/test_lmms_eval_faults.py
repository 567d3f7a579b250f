"""lmms-eval with what people really have: other people's tables, edited presets, checkpoints that fail."""

import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import safetensors.torch
import torch
from lmms_eval.api.task import TaskConfig
from lmms_eval.tasks import TaskManager
from PIL import Image

from adaptvis_plugin.decoding import NonFiniteLogitsError, Statistics
from adaptvis_plugin.lmms_eval import models, summary
from adaptvis_plugin.lmms_eval.models import SteeredModel
from adaptvis_plugin.lmms_eval.plugin import warn_of_folder
from adaptvis_plugin.lmms_eval.requests import FEWSHOT_DELIMITER, generation_options
from adaptvis_plugin.models.answers import Answer
from adaptvis_plugin.paths import DEMO_MODEL, TASK_FOLDER
from tests.test_lmms_eval import evaluate, messages_with_image, requests_for, rows
from tests.test_lmms_eval import model as model  # the fixture

PICTURE = Image.linear_gradient("L").resize((128, 128)).convert("RGB")


def table(*columns: dict[str, Any]) -> datasets.Dataset:
    question = "Where is the mug in relation to the table? Answer with left, right, on or under."
    return datasets.Dataset.from_list([{"question": question, "image": PICTURE, **own} for own in columns])


def answers(model: SteeredModel, documents: Any) -> list[str]:
    return [result.text for result in model.generate_until(requests_for(documents, model, messages_with_image))]


def test_picture_ids_may_be_numbers_or_missing(model: SteeredModel) -> None:
    """In one table a number, in another missing in some rows, in a third none: all asked together."""
    tables = {"a": table({"image_id": 7}, {"image_id": 30}), "b": table({"image_id": None}, {"image_id": "x"})}
    requests = []
    for name, documents in {**tables, "c": table({"id": 1}, {"id": 2})}.items():
        for request in requests_for(documents, model, messages_with_image):
            request.arguments = (*request.arguments[:4], name, "test")
            requests.append(request)
    model.task_dict = {name: {"test": documents} for name, documents in {**tables, "c": table({}, {})}.items()}
    assert len({result.text for result in model.generate_until(requests)}) == 1
    batches = list(model._batches(requests, list(range(6))))
    assert sorted(place for batch in batches for place in batch) == list(range(6))


def test_pictures_of_other_data_under_the_same_name_are_looked_up_again(model: SteeredModel) -> None:
    first, second = table(*({"image_id": name} for name in "abab")), table(*({"image_id": name} for name in "aabb"))
    orders = [
        list(model._batches(requests_for(documents, model, messages_with_image), [0, 1, 2, 3]))
        for documents in (first, second)
    ]
    assert orders == [[[0, 2], [1, 3]], [[0, 1], [2, 3]]]


def test_a_column_of_the_name_prompt_says_nothing() -> None:
    """Twenty of lmms-eval's own task files have such a column, and it means something else in each."""
    paper = models.__getattr__("llava_scalingvis")(pretrained="demo", prompt="paper", alpha=0.5)
    plain = answers(paper, table({}))
    for prompt in ("Describe the picture.", "<image>\nUSER: Where is the cup?\nASSISTANT:"):
        assert answers(paper, table({"prompt": prompt})) == plain


def test_a_question_the_papers_prompt_does_not_fit_is_named(model: SteeredModel) -> None:
    paper = models.__getattr__("llava_scalingvis")(pretrained="demo", prompt="paper", alpha=0.5)
    message = r"whatsup_demo, document 1: the paper's prompt is for one image .* holds no image; use prompt=chat"
    with pytest.raises(ValueError, match=message):
        answers(paper, [{"question": "Where?", "image": Image.new("RGB", (8, 8))}, {"question": "Where?"}])


def test_what_lmms_eval_fills_in_for_until_is_not_a_stop_string() -> None:
    filled_in = [
        TaskConfig(task="theirs", output_type="generate_until"),
        TaskConfig(task="theirs", output_type="generate_until", generation_kwargs={"max_new_tokens": 4}),
    ]
    for config in filled_in:
        assert config.generation_kwargs["until"] == [FEWSHOT_DELIMITER]
        assert "stop_strings" not in generation_options(config.generation_kwargs, "theirs")
    given = generation_options({"until": [FEWSHOT_DELIMITER, "ASSISTANT:", "\n"]}, "theirs")
    assert given["stop_strings"] == ["ASSISTANT:", "\n"]


def checkpoint(folder: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> Path:
    """The demo model as a checkpoint folder of a user's own, its embedding of ` table` changed."""
    shutil.copytree(DEMO_MODEL, folder, dirs_exist_ok=True)
    weights = safetensors.torch.load_file(DEMO_MODEL / "model.safetensors")
    (embedding,) = [name for name in weights if name.endswith("embed_tokens.weight")]
    weights[embedding][435] = change(weights[embedding][435])
    safetensors.torch.save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize("method", ["baseline", "scalingvis"])
def test_the_first_row_without_finite_logits_ends_the_run_and_is_named(method: str, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "nan", lambda word: word * torch.nan)
    alpha: dict[str, Any] = {"alpha": 0.8} if method == "scalingvis" else {}
    with pytest.raises(NonFiniteLogitsError, match=r"^whatsup_demo, document \d+.*not finite.*Likely cause: "):
        evaluate(f"llava_{method}", pretrained=folder, **alpha)


def test_a_coefficient_too_large_is_named() -> None:
    with pytest.raises(NonFiniteLogitsError, match=r"^whatsup_demo, document .*not finite.*coefficient is too"):
        evaluate("llava_scalingvis", alpha=1e38)


def test_figures_that_fail_lose_no_answers() -> None:
    """A confidence of NaN fits into no tenth of the histogram."""
    answer = Answer("Left", math.nan, 1.0, 10, 2)
    with pytest.raises(ValueError, match="NaN"):
        summary.figures([answer], 1.0, Statistics(rows=1))
    summary.report([answer], 1.0, Statistics(rows=1))
    summary.report([answer], 0.0, Statistics(rows=1))


def answered(results: dict[str, Any]) -> int:
    """Rows that the model itself answered: the response cache stores only texts."""
    return sum(sample["token_counts"][0] is not None for sample in results["samples"]["whatsup_demo"])


def texts(results: dict[str, Any]) -> list[str]:
    samples = sorted(results["samples"]["whatsup_demo"], key=lambda sample: sample["doc_id"])
    return [sample["filtered_resps"][0] for sample in samples]


def test_the_response_cache_serves_no_answers_of_a_preset_that_was_edited(tmp_path: Path) -> None:
    preset = tmp_path / "mine.yaml"
    text = "description: mine\nprompt: paper\nsettings:\n  whatsup_demo: {scalingvis: {alpha: %s}}\n"

    def run(alpha: float, prompt: str = "paper") -> dict[str, Any]:
        preset.write_text((text % alpha).replace("paper", prompt))
        return evaluate("llava_scalingvis", limit=16, preset=preset, use_cache=str(tmp_path / "cache"))

    first, again, edited, chat = run(1.0), run(1.0), run(0.0), run(1.0, "chat")
    assert (answered(first), answered(again), answered(edited), answered(chat)) == (16, 0, 16, 16)
    assert texts(again) == texts(first)
    fresh = evaluate("llava_scalingvis", limit=16, alpha=0.0, prompt="paper")
    assert texts(edited) == [answer for answer, _, _ in rows(fresh)] != texts(first)


def test_the_response_cache_serves_no_answers_of_another_checkpoint_in_the_same_folder(tmp_path: Path) -> None:
    folder = tmp_path / "mine"

    def run() -> dict[str, Any]:
        return evaluate("vlm_baseline", limit=8, pretrained=folder, use_cache=str(tmp_path / "cache"))

    checkpoint(folder, lambda word: word)
    first, again = run(), run()
    checkpoint(folder, lambda word: -word)
    assert [answered(first), answered(again), answered(run())] == [8, 0, 8]


def test_the_response_cache_goes_on_serving_tasks_that_are_run_beside_others(tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    evaluate("llava_scalingvis", limit=4, use_cache=cache)
    both = evaluate("llava_scalingvis", ["whatsup_demo", "whatsup_demo_val"], limit=4, use_cache=cache)
    assert answered(both) == 0
    assert all(sample["token_counts"][0] is not None for sample in both["samples"]["whatsup_demo_val"])


def test_the_response_cache_serves_no_answers_about_other_pictures(model: SteeredModel) -> None:
    from adaptvis_plugin.lmms_eval.cache import documents_digest

    found = []
    for row in ({"image_id": "a"}, {"image_id": "b"}, {"image_id": "a"}, {"id": 1}):
        model.task_dict = {"t": {"test": table(row)}}
        found.append(documents_digest(model.task_dict["t"]))
    assert found[0] == found[2] and len(set(found)) == 3


def test_a_folder_of_a_tasks_name_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vsr").mkdir()
    for arguments in (["--tasks", "whatsup,vsr"], ["--tasks", "whatsup"], ["--model", "vsr"]):
        warn_of_folder(arguments)
    assert not caplog.records
    for arguments in (["lmms-eval", "--tasks", "vsr"], ["lmms-eval", "--tasks=vsr"]):
        warn_of_folder(arguments)
        assert f"There is a folder {tmp_path / 'vsr'}, so lmms-eval reads --tasks vsr as" in caplog.text
        caplog.clear()
    monkeypatch.setattr(sys, "argv", ["lmms-eval", "--tasks", "vsr"])
    TaskManager(include_path=str(TASK_FOLDER), include_defaults=False)
    assert len(caplog.records) == 1
    caplog.clear()
    (tmp_path / "vsr" / "mine.yaml").write_text("task: mine\n")
    warn_of_folder(["--tasks", "vsr"])
    assert not caplog.records
