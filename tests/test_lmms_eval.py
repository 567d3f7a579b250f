"""The lmms-eval adapter inside the framework's own evaluator, on the embedded model and demo scenes."""

import copy
from functools import cache
from pathlib import Path
from typing import Any

import datasets
import lmms_eval.models
import lmms_eval.tasks
import pytest
import torch
import yaml
from lmms_eval import utils
from lmms_eval.api.instance import Instance
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager
from PIL import Image

from adaptvis_plugin.lmms_eval.models import SteeredModel
from adaptvis_plugin.lmms_eval.plugin import NOT_REPLAYED, compiled_yaml, model_names
from adaptvis_plugin.lmms_eval.replay import ReplayModel
from adaptvis_plugin.lmms_eval.requests import generation_options
from adaptvis_plugin.lmms_eval.vllm_models import VLLMModel
from adaptvis_plugin.methods import METHODS

LIMIT = 24


@cache
def manager() -> TaskManager:
    """Reading lmms-eval's two thousand task files takes longer than any run here."""
    return TaskManager()


def evaluate(model: str, tasks: list[str] | None = None, limit: int | None = LIMIT, **arguments: Any) -> dict[str, Any]:
    """Run lmms-eval in this process."""
    gen_kwargs = arguments.pop("gen_kwargs", "")
    use_cache = arguments.pop("use_cache", None)
    batch_size = arguments.pop("batch_size", 8)
    model_args = ",".join(f"{k}={v}" for k, v in {"pretrained": "demo", **arguments}.items())
    results = simple_evaluate(
        model=model,
        model_args=model_args,
        tasks=tasks or ["whatsup_demo"],
        batch_size=batch_size,
        limit=limit,
        gen_kwargs=gen_kwargs,
        use_cache=use_cache,
        task_manager=manager(),
    )
    assert isinstance(results, dict)
    return results


def rows(results: dict[str, Any], task: str = "whatsup_demo") -> list[tuple[str, float, float]]:
    """(answer, confidence, alpha) of every row, in order."""
    samples = sorted(results["samples"][task], key=lambda sample: sample["doc_id"])
    return [
        (s["filtered_resps"][0], s["token_counts"][0]["confidence"], s["token_counts"][0]["alpha"]) for s in samples
    ]


@pytest.fixture(scope="module")
def adaptvis() -> dict[str, Any]:
    return evaluate("llava_adaptvis")


def test_every_model_is_registered_as_a_chat_model() -> None:
    families = ("llava", "vlm", "replay")
    assert {"baseline", "scalingvis", "adaptvis", "vcd", "dola", "pai", "yesbias"} < set(METHODS)
    every = {f"{f}_{m}" for f in families for m in METHODS}
    every |= {f"vllm_{m}" for m in ("baseline", "scalingvis", "adaptvis")}
    assert set(model_names()) == every - {f"replay_{m}" for m in NOT_REPLAYED}
    for name in model_names():
        assert name in lmms_eval.models.list_available_models()
        found = lmms_eval.models.get_model(name)
        base = {"replay": ReplayModel, "vllm": VLLMModel}.get(name.partition("_")[0], SteeredModel)
        assert issubclass(found, base) and not found.is_simple and found.__name__ == name


def test_the_tasks_are_found_without_a_flag() -> None:
    assert {"whatsup_demo", "whatsup_demo_val", "whatsup_demo_test"} <= set(manager().all_subtasks)
    assert "pope" in TaskManager(include_path="/nowhere").all_subtasks


def test_the_compiled_parser_reads_task_files_as_lmms_evals_own_does(tmp_path: Path) -> None:
    """With `include`, `!function`, groups, and what the compiled one refuses or both refuse."""
    folder = Path(lmms_eval.tasks.__file__).parent
    files = [path for name in ("mmmu", "pope", "seedbench") for path in (folder / name).glob("*.yaml")]
    (tmp_path / "newer.yaml").write_text("%YAML 1.3\n---\ntask: newer\n")
    (tmp_path / "broken.yaml").write_text("task: [broken")

    def read() -> list[str]:
        return [repr(utils.load_yaml_config(str(path), mode="simple")) for path in [*files, tmp_path / "newer.yaml"]]

    with pytest.raises(yaml.YAMLError) as theirs:
        utils.load_yaml_config(str(tmp_path / "broken.yaml"), mode="simple")
    with compiled_yaml(utils):
        ours = read()
        with pytest.raises(yaml.YAMLError) as found:
            utils.load_yaml_config(str(tmp_path / "broken.yaml"), mode="simple")
    assert len(files) > 9 and ours == read() and str(found.value) == str(theirs.value)
    assert utils.yaml is yaml, "afterwards lmms-eval has its own parser"
    (tmp_path / "broken.yaml").unlink()
    assert "newer" in TaskManager(include_path=str(tmp_path), include_defaults=False).all_subtasks


def test_confidence_and_alpha_of_every_row(adaptvis: dict[str, Any]) -> None:
    answers = rows(adaptvis)
    assert len(answers) == LIMIT
    for answer, confidence, alpha in answers:
        assert answer and 0 < confidence <= 1
        assert alpha == (0.5 if round(confidence, 2) < 0.4 else 1.5)


def test_answers_do_not_depend_on_the_batch_size(adaptvis: dict[str, Any]) -> None:
    one = evaluate("llava_adaptvis", batch_size=1)
    assert one["results"]["whatsup_demo"] == adaptvis["results"]["whatsup_demo"]
    for a, b in zip(rows(one), rows(adaptvis), strict=True):
        assert a[0] == b[0] and a[1] == pytest.approx(b[1], abs=1e-4) and a[2] == b[2]


def test_any_vlm_gives_what_llava_gives(adaptvis: dict[str, Any]) -> None:
    assert rows(evaluate("vlm_adaptvis")) == rows(adaptvis)


def test_the_baseline_is_scalingvis_at_one() -> None:
    plain, scaled = evaluate("llava_baseline"), evaluate("llava_scalingvis", alpha=1.0)
    assert rows(plain) == rows(scaled)
    assert {alpha for _, _, alpha in rows(plain)} == {1.0}


def test_both_prompts_are_answered() -> None:
    paper, chat = evaluate("llava_baseline", prompt="paper"), evaluate("llava_baseline", prompt="chat")
    assert all(answer.split() for answer, _, _ in [*rows(paper), *rows(chat)])
    assert rows(paper) != rows(chat)


def test_the_runs_figures_are_in_the_results(adaptvis: dict[str, Any]) -> None:
    figures, answers = adaptvis["throughput"], rows(adaptvis)
    assert figures["avg_rows_per_second"] > 0
    assert figures["avg_rows_smoothed"] == sum(alpha < 1 for _, _, alpha in answers) / LIMIT
    assert figures["avg_rows_sharpened"] == sum(alpha > 1 for _, _, alpha in answers) / LIMIT
    shares = {name: share for name, share in figures.items() if name.startswith("avg_confidence_")}
    assert len(shares) == 10 and sum(shares.values()) == pytest.approx(1)
    surest = sum(confidence >= 0.9 for _, confidence, _ in answers) / LIMIT
    assert shares["avg_confidence_0.9_to_1.0"] == pytest.approx(surest)


def test_questions_about_one_picture_are_asked_together(model: SteeredModel) -> None:
    pictures = [Image.effect_noise((128, 128), spread).convert("RGB") for spread in (20, 40)]
    rows = [{"question": f"Where is thing {i}?", "image": pictures[i % 2], "image_id": str(i % 2)} for i in range(8)]
    documents = datasets.Dataset.from_list(rows, features=None)
    requests = requests_for(documents, model, messages_with_image)
    batches = list(model._batches(requests, list(range(8))))
    assert batches == [[0, 2], [4, 6], [1, 3], [5, 7]]
    alone = [model.generate_until(requests_for(documents.select([i]), model, messages_with_image))[0] for i in range(8)]
    requests = requests_for(documents, model, messages_with_image)
    assert [r.text for r in model.generate_until(requests)] == [r.text for r in alone]


def test_several_tasks_keep_their_own_settings(tmp_path: Any) -> None:
    preset = tmp_path / "two.yaml"
    preset.write_text(
        "description: two tasks\nsettings:\n  whatsup_demo: {scalingvis: {alpha: 0.5}}\n"
        "  whatsup_demo_again: {scalingvis: {alpha: 2.0}}\n"
    )
    from adaptvis_plugin.paths import TASK_FOLDER

    demo = TASK_FOLDER / "whatsup_demo" / "whatsup_demo.yaml"
    (tmp_path / "again.yaml").write_text(f"include: {demo}\ntask: whatsup_demo_again\n")
    results = simple_evaluate(
        model="llava_scalingvis",
        model_args=f"pretrained=demo,preset={preset}",
        tasks=["whatsup_demo", "whatsup_demo_again"],
        batch_size=8,
        limit=8,
        task_manager=TaskManager(include_path=str(tmp_path)),
    )
    assert {alpha for _, _, alpha in rows(results, "whatsup_demo")} == {0.5}
    assert {alpha for _, _, alpha in rows(results, "whatsup_demo_again")} == {2.0}


def test_gen_kwargs_are_honoured() -> None:
    results = evaluate("llava_adaptvis", limit=4, gen_kwargs="max_new_tokens=1")
    assert {s["token_counts"][0]["output_tokens"] for s in results["samples"]["whatsup_demo"]} == {1}
    first = rows(results)[0][0]
    cut = evaluate("llava_adaptvis", limit=4, gen_kwargs=f"until={first[1:3]}")
    assert rows(cut)[0][0] == first[:1]


def test_generation_options() -> None:
    given = {
        "max_new_tokens": 7,
        "until": [".", ""],
        "do_sample": False,
        "temperature": 0,
        "num_beams": 1,
        "top_p": 1,
    }
    before = copy.deepcopy(given)
    assert generation_options(given, "t") == {"max_new_tokens": 7, "stop_strings": ["."]}
    assert given == before, "lmms-eval's response cache is keyed by this dictionary"
    assert generation_options({"until": "."}, "t") == {"max_new_tokens": 100, "stop_strings": ["."]}


@pytest.mark.parametrize(
    "options",
    [{"do_sample": True}, {"num_beams": 4}, {"temperature": 0.7}, {"max_new_tokens": 0}, {"max_new_tokens": "x"}],
)
def test_unusable_generation_options_fail_the_run(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"task 'whatsup_demo'.*greedy|max_new_tokens=.*whole number"):
        evaluate("llava_adaptvis", limit=4, gen_kwargs=",".join(f"{k}={v}" for k, v in options.items()))


@pytest.mark.parametrize(
    ("model", "arguments", "complaint"),
    [
        ("llava_adaptvis", {"alpha_lwo": 0.5}, r"unknown model_args alpha_lwo=0.5.*Did you mean alpha_low\?"),
        ("llava_baseline", {"alpha": 0.5}, "unknown model_args alpha=0.5; the hyper-parameters of baseline are: none"),
        ("llava_adaptvis", {"alpha_low": -1}, "alpha_low=-1.*finite number >= 0"),
        ("llava_adaptvis", {"threshold": 40}, r"threshold=40.*\[0, 1\]"),
        ("llava_scalingvis", {"alpha": "strong"}, "alpha='strong'.*finite number"),
        ("llava_adaptvis", {"preset": "llava-9"}, "unknown preset 'llava-9'"),
        ("llava_adaptvis", {"prompt": "haiku"}, "prompt='haiku'"),
        ("llava_adaptvis", {"batch_size": "auto"}, "batch_size='auto'.*whole number"),
        ("vlm_adaptvis", {"pretrained": "None"}, "give the checkpoint"),
        ("vlm_scalingvis", {"alpha": 0.5, "layers": "2-9"}, "layer 4: the model has attention in the layers 0 to 3"),
        ("vlm_scalingvis", {"alpha": 0.5, "heads": "L1H99"}, "head L1H99: the model's layers have the heads 0 to"),
    ],
)
def test_unusable_model_args_fail_the_run(model: str, arguments: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        evaluate(model, limit=4, **arguments)


def requests_for(documents: Any, model: SteeredModel, messages: Any) -> list[Instance]:
    model.task_dict = {"whatsup_demo": {"test": documents}}
    return [
        Instance(
            request_type="generate_until",
            arguments=(document["question"], messages, {"max_new_tokens": 4}, i, "whatsup_demo", "test"),
            idx=0,
            metadata={"task": "whatsup_demo", "doc_id": i, "repeats": 1},
        )
        for i, document in enumerate(documents)
    ]


def messages_with_image(document: dict[str, Any]) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = [{"type": "text", "text": document["question"]}]
    if document.get("image") is not None:
        content.insert(0, {"type": "image", "url": document["image"]})
    return [{"role": "user", "content": content}]


@pytest.fixture(scope="module")
def model() -> SteeredModel:
    kind: type[SteeredModel] = lmms_eval.models.get_model("llava_scalingvis")
    return kind(pretrained="demo", prompt="chat", batch_size=2, alpha=0.5)


def test_an_unreadable_image_fails_the_run_and_is_named(model: SteeredModel, tmp_path: Any) -> None:
    broken = tmp_path / "broken.png"
    Image.new("RGB", (128, 128)).save(broken)
    broken.write_bytes(broken.read_bytes()[:60])
    documents = [{"question": "Where?", "image": str(broken)}]
    with pytest.raises(ValueError, match="whatsup_demo, document 0: an image cannot be read"):
        model.generate_until(requests_for(documents, model, messages_with_image))


def test_a_row_without_an_image_is_answered_unsteered_with_a_warning(
    model: SteeredModel, caplog: pytest.LogCaptureFixture
) -> None:
    image = Image.new("RGB", (128, 128))
    documents = [{"question": "Where is the mug?", "image": image}, {"question": "Where is the cup?"}]
    model.runner.decoder._execution._warned_of_rows_without_image = (
        False  # once for a model, which the tests here share
    )
    results = model.generate_until(requests_for(documents, model, messages_with_image))
    assert "rows [1] hold no image token and are decoded unsteered" in caplog.text
    assert [r.token_counts.to_dict()["alpha"] for r in results] == [0.5, 1.0]


def test_other_request_types_are_refused(model: SteeredModel) -> None:
    with pytest.raises(ValueError, match="generate_until"):
        model.loglikelihood([])
    with pytest.raises(ValueError, match="several rounds"):
        model.generate_until_multi_round([])


def test_the_checkpoints_parameters_stay_as_they_are(model: SteeredModel) -> None:
    before = {name: parameter.clone() for name, parameter in model._model.named_parameters()}
    documents = [{"question": "Where is the mug?", "image": Image.new("RGB", (128, 128))}]
    model.generate_until(requests_for(documents, model, messages_with_image))
    assert all(torch.equal(parameter, before[name]) for name, parameter in model._model.named_parameters())
