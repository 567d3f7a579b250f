"""Train the embedded demo model: a small LLaVA that answers where one drawn object is in relation to another.

    python scripts/train_demo_model.py

With its default arguments this script produced the files in ``adaptvis_plugin/models/demo``, in 18 minutes on two CPU
cores that were busy with other work (12 minutes of one core's time). The same seed gives the same scenes, questions and
initial weights everywhere. The trained weights may differ on another CPU or with another torch; the accuracy should
agree within a few points.

The vision tower first learns to name what each patch shows. Then it is frozen, as in LLaVA, and the projector and the
text decoder learn to answer. As in real training data the relations are not equally frequent: left and right are
common, on and under are rare. The (object, furniture) pairs of the demo data set occur in no training scene.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

# Let threads sleep while they wait: on a machine with other work, busy waiting takes several times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import torch
from demo_architecture import build_model, build_processor, save
from demo_training_data import GRID, THINGS, Example, as_pixel_values, as_text, chat_prompt, training_example
from rich.progress import Progress, TextColumn, track
from torch.nn.functional import cross_entropy
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaProcessor

from adaptvis_plugin.data.dataset import Row
from adaptvis_plugin.data.demo.rows import demo_rows
from adaptvis_plugin.data.demo.scenes import RELATIONS
from adaptvis_plugin.data.questions import paper_prompt

OUT = Path(__file__).resolve().parents[1] / "adaptvis_plugin" / "models" / "demo"


def train(model: Any, processor: LlavaProcessor, options: argparse.Namespace) -> None:
    """Train the vision tower, and then, with the tower frozen, the projector and the text decoder."""
    rng = Random(options.seed)
    examples = [training_example(rng) for _ in track(range(options.scenes), "drawing")]
    width = model.config.vision_config.hidden_size
    heads = torch.nn.ModuleList(torch.nn.Linear(width, n) for n in (1 + len(THINGS), GRID, GRID))

    def vision_loss() -> torch.Tensor:
        """Return the loss of naming what each patch shows, and its row and column in the picture."""
        some = rng.sample(examples, options.vision_batch)
        patches = model.model.vision_tower(as_pixel_values(some)).last_hidden_state[:, 1:]
        things = torch.from_numpy(np.stack([e.patches for e in some])).long()
        row, column = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
        targets = (things, row.expand_as(things), column.expand_as(things))
        return sum(
            (cross_entropy(head(patches).flatten(0, 1), t.flatten()) for head, t in zip(heads, targets, strict=True)),
            start=torch.zeros(()),
        )

    tower = [*model.model.vision_tower.parameters(), *heads.parameters()]
    minimize("vision loss", tower, options.vision_steps, options.learning_rate, vision_loss)
    features = vision_features(model, examples)

    def answer_loss() -> torch.Tensor:
        """Return the loss of the answers, each after its picture and question."""
        some = rng.sample(range(len(examples)), options.batch)
        inputs = as_text(rng, processor, [examples[i] for i in some], options.questions)
        ids, labels = inputs.pop("input_ids"), inputs.pop("labels")
        pictures = model.model.multi_modal_projector(features[some]).flatten(0, 1)
        embeddings = model.get_input_embeddings()(ids)
        embeddings = embeddings.masked_scatter((ids == model.config.image_token_id)[..., None], pictures)
        hidden = model.model.language_model(inputs_embeds=embeddings, **inputs).last_hidden_state
        return cross_entropy(model.lm_head(hidden[labels != -100]), labels[labels != -100])

    rest = [p for name, p in model.named_parameters() if "vision_tower" not in name]
    minimize("answer loss", rest, options.steps, options.learning_rate, answer_loss)


@torch.inference_mode()
def vision_features(model: Any, examples: list[Example]) -> torch.Tensor:
    """Return the frozen tower's patch features of every scene."""
    parts = [
        model.model.vision_tower(as_pixel_values(examples[start : start + 100])).last_hidden_state[:, 1:]
        for start in track(range(0, len(examples), 100), "vision features")
    ]
    return torch.cat(parts).clone()


def minimize(
    title: str, parameters: list[torch.nn.Parameter], steps: int, lr: float, loss_of_batch: Callable[[], torch.Tensor]
) -> None:
    """Minimize a loss by AdamW with a warm-up and a cosine schedule."""
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / 50) * (0.02 + 0.49 * (1 + math.cos(math.pi * step / steps)))
    )
    recent: deque[float] = deque(maxlen=50)
    with Progress(*Progress.get_default_columns(), TextColumn("{task.fields[loss]:.3f}")) as progress:
        task = progress.add_task(title, total=steps, loss=0.0)
        for step in range(1, steps + 1):
            loss = loss_of_batch()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            recent.append(loss.item())
            progress.update(task, advance=1, loss=sum(recent) / len(recent))
            if step % 100 == 0:
                progress.console.print(f"{title}, step {step}: {sum(recent) / len(recent):.3f}")


@torch.inference_mode()
def evaluate(folder: Path | str, rows: list[Row], prompt: str) -> None:
    """Print the accuracy of unsteered greedy decoding and the mean confidence of the first answer token, by relation.

    The model is loaded from its files with the usual calls.
    """
    processor = AutoProcessor.from_pretrained(folder)
    model: Any = AutoModelForImageTextToText.from_pretrained(folder)
    wrap = {"paper": paper_prompt, "chat": chat_prompt}[prompt]
    correct: dict[str, list[bool]] = {relation: [] for relation in RELATIONS}
    confidence: dict[str, list[float]] = {relation: [] for relation in RELATIONS}
    for start in range(0, len(rows), 50):
        some = rows[start : start + 50]
        inputs = processor(
            images=[row["image"] for row in some],
            text=[wrap(row["question"]) for row in some],
            padding=True,
            return_tensors="pt",
        )
        out = model.generate(**inputs, return_dict_in_generate=True, output_logits=True)
        texts = processor.batch_decode(out.sequences[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)
        probabilities = out.logits[0].float().softmax(-1).amax(-1).tolist()
        for row, text, probability in zip(some, texts, probabilities, strict=True):
            correct[row["relation"]].append(text.strip() == row["answer"])
            confidence[row["relation"]].append(probability)
    everything = [hit for hits in correct.values() for hit in hits]
    print(f"{prompt} prompt, {model.dtype}: accuracy {100 * sum(everything) / len(everything):.1f}%")
    for relation in RELATIONS:
        hits, sure = correct[relation], confidence[relation]
        print(f"  {relation:6s} {100 * sum(hits) / len(hits):5.1f}%   confidence {sum(sure) / len(sure):.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the embedded demo model.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scenes", type=int, default=10000, help="number of drawn scenes")
    parser.add_argument("--vision-steps", type=int, default=600, help="training steps of the vision tower")
    parser.add_argument("--vision-batch", type=int, default=48, help="scenes in a batch for the vision tower")
    parser.add_argument("--steps", type=int, default=800, help="training steps of the projector and the text decoder")
    parser.add_argument(
        "--batch", type=int, default=24, help="scenes in a batch for the projector and the text decoder"
    )
    parser.add_argument("--questions", type=int, default=4, help="about each scene in a batch")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    processor = build_processor()
    model = build_model(processor)
    start = time.monotonic(), time.process_time()
    train(model, processor, arguments)
    save(model, processor, arguments.out)
    minutes = (time.monotonic() - start[0]) / 60, (time.process_time() - start[1]) / 60
    megabytes = (arguments.out / "model.safetensors").stat().st_size / 1e6
    print(f"trained in {minutes[0]:.1f} minutes ({minutes[1]:.1f} of one core); {megabytes:.2f} MB of weights")
    rows = demo_rows()
    for prompt in ("paper", "chat"):
        evaluate(arguments.out, rows, prompt)


if __name__ == "__main__":
    main()
