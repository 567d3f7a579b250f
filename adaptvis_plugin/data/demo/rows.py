"""The rows of the demo data set: 100 complete sets of four drawn scenes, with the columns of real WhatsUp.

A set shows an object left of, right of, on and under a piece of furniture in the same room. The demo model has never
been trained on these pairs of an object and a piece of furniture, but on each of the two in other pairs.
"""

from __future__ import annotations

from functools import cache
from random import Random

from adaptvis_plugin.data.dataset import Row
from adaptvis_plugin.data.demo.furniture import REFERENCES
from adaptvis_plugin.data.demo.objects import OBJECTS
from adaptvis_plugin.data.demo.scenes import RELATIONS, Box, Placement, draw_room, draw_scene, place
from adaptvis_plugin.data.questions import paper_prompt

SEED = 2503
SCENES_PER_PAIR = 5
DISTRACTOR_SHARE = 0.4

_PHRASES = {"left": "to the left of", "right": "to the right of", "on": "on", "under": "under"}


@cache
def held_out_pairs() -> tuple[tuple[str, str], ...]:
    """Return the pairs of an object and a piece of furniture in the demo set: one for each object."""
    references = list(REFERENCES)
    return tuple((name, references[i % len(references)]) for i, name in enumerate(OBJECTS))


@cache
def training_pairs() -> tuple[tuple[str, str], ...]:
    """Return all other pairs."""
    held_out = set(held_out_pairs())
    return tuple((n, r) for n in OBJECTS for r in REFERENCES if (n, r) not in held_out)


def question(name: str, reference: str) -> str:
    """Write a question in the wording of the authors' file for Controlled_Images_A."""
    verb = "are" if OBJECTS[name].plural else "is"
    return f"Where {verb} the {name} in relation to the {reference}? Answer with left, right, on or under."


def caption(name: str, relation: str, reference: str) -> str:
    """Write a caption as in WhatsUp, for example ``A mug to the left of a table``."""
    return f"{_with_article(name)} {_PHRASES[relation]} {_with_article(reference)}".capitalize()


def _with_article(name: str) -> str:
    if name in OBJECTS and OBJECTS[name].plural:
        return name
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def distractor(rng: Random, name: str, relation: str) -> Placement:
    """Place another object in another relation to the same piece of furniture."""
    other = rng.choice([n for n in OBJECTS if n != name])
    return place(rng, other, rng.choice([r for r in RELATIONS if r != relation]))


def demo_rows() -> list[Row]:
    """Draw the data set. The rows are always the same; each set is in the order left, right, on, under."""
    return [row for row, _ in _draw()]


def demo_boxes() -> list[dict[str, Box]]:
    """Return the boxes of the objects and the furniture in each row's picture, by name."""
    return [boxes for _, boxes in _draw()]


def _draw() -> list[tuple[Row, dict[str, Box]]]:
    rows: list[tuple[Row, dict[str, Box]]] = []
    for set_id, (name, reference) in enumerate(held_out_pairs() * SCENES_PER_PAIR):
        rng = Random(f"{SEED}/{set_id}")
        room = draw_room(rng, reference)
        target = place(rng, name, RELATIONS[0])
        text = question(name, reference)
        for k, relation in enumerate(RELATIONS):
            placements = [Placement(name, relation, target.colour)]
            if rng.random() < DISTRACTOR_SHARE:
                placements.append(distractor(rng, name, relation))
            true_first = sorted(RELATIONS, key=lambda r: r != relation)
            scene = draw_scene(rng, room, placements)
            row = Row(
                image=scene.image,
                question=text,
                prompt=paper_prompt(text),
                answer=relation.capitalize(),
                options=list(RELATIONS),
                relation=relation,
                set_id=set_id,
                pair_id=2 * set_id + k // 2,
                caption_options=[caption(name, r, reference) for r in true_first],
            )
            rows.append((row, scene.boxes))
    return rows
