"""Where a model goes: the device that the user gave, or an error."""

from typing import Any

import lmms_eval.models
import pytest
import torch

from adaptvis_plugin.models.arguments import ModelArguments
from adaptvis_plugin.models.devices import choose_device
from tests.wrong_input import refusal

NO_CUDA = "torch sees no CUDA device here; give device=cpu"

PLACES: list[tuple[str | None, int, int, int, str]] = [
    # given, rank, ranks on the machine, CUDA devices, what becomes of it
    (None, 0, 1, 0, "cpu"),
    (None, 0, 1, 2, "cuda"),
    (None, 1, 2, 2, "cuda:1"),
    (None, 3, 4, 1, "cuda:0"),  # a launcher that shows every process one GPU
    (None, 1, 2, 0, "cpu"),
    ("cpu", 0, 1, 2, "cpu"),
    ("cpu", 1, 2, 2, "cpu"),
    ("cuda", 0, 1, 2, "cuda"),
    ("cuda", 0, 2, 2, "cuda:0"),
    ("cuda", 1, 2, 2, "cuda:1"),
    ("cuda:1", 0, 1, 2, "cuda:1"),
    ("cuda", 0, 1, 0, f"device='cuda': {NO_CUDA}"),
    ("cuda", 1, 2, 0, f"device='cuda': {NO_CUDA}"),
    ("cuda:0", 0, 1, 0, f"device='cuda:0': {NO_CUDA}"),
    ("cuda:2", 0, 1, 2, "device='cuda:2': torch sees only cuda:0 to cuda:1 here; give one of these, or device=cpu"),
    ("cuda:1", 0, 2, 2, "device='cuda:1': 2 processes on this machine would share one device; give device=cuda,"),
    ("xpu", 1, 2, 0, "xpu:1"),
    ("xpu:0", 1, 2, 0, "device='xpu:0': 2 processes on this machine would share one device; give device=xpu,"),
    ("gpu", 0, 1, 2, "device='gpu': not a device of torch; give cpu, cuda or cuda:N"),
]


@pytest.mark.parametrize(("given", "rank", "ranks", "gpus", "outcome"), PLACES)
def test_a_process_gets_the_device_given_or_an_error(
    given: str | None, rank: int, ranks: int, gpus: int, outcome: str
) -> None:
    if outcome.startswith("device="):
        assert refusal(lambda: choose_device(given, rank, ranks, gpus)).startswith(outcome)
    else:
        assert choose_device(given, rank, ranks, gpus) == outcome


@pytest.mark.parametrize(
    ("options", "kind", "gpus", "outcome"),
    [
        ({}, "cuda", 2, "cuda:1"),
        ({}, "cpu", 2, "cpu"),  # ACCELERATE_USE_CPU=true
        ({"device": "cuda"}, "cuda", 2, "cuda:1"),
        ({"device_map": "cuda"}, "cuda", 2, "cuda:1"),
        ({"device": "cpu"}, "cpu", 0, "cpu"),
        ({"device": "cpu"}, "cuda", 2, "device='cpu': the processes of this run exchange their results on cuda"),
        ({"device": "cuda"}, "cpu", 2, "device='cuda': the processes of this run exchange their results on cpu"),
        ({"device_map": "auto"}, "cuda", 2, "device_map='auto': 2 processes on this machine would each spread"),
        ({"device_map": "auto"}, "cuda", 1, "auto"),
    ],
)
def test_each_of_several_processes_takes_its_own_device(
    options: dict[str, str], kind: str, gpus: int, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    arguments = ModelArguments(method="baseline", pretrained="demo", **options)
    if "=" in outcome:
        assert refusal(lambda: arguments.of_rank(1, 2, kind)).startswith(outcome)
    else:
        own = arguments.of_rank(1, 2, kind)
        assert (own.device_map or own.device) == outcome


@pytest.mark.parametrize("device", [None, "cpu"])
def test_lmms_eval_hands_over_a_device_only_if_one_was_given(device: str | None) -> None:
    model: Any = lmms_eval.models.get_model("vlm_baseline")
    built = model.create_from_arg_string("pretrained=demo", {"batch_size": 1, "device": device})
    assert built.device.type == (device or ("cuda" if torch.cuda.is_available() else "cpu"))
