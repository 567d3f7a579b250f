"""Which objects a question names, and which labels mean the same object."""

from __future__ import annotations

import re
from collections.abc import Iterable

from adaptvis_plugin.scoring import vsr

_WHERE = re.compile(
    r"\bwhere\s+(?:is|are)\s+(?P<a>[^.?!]+?)\s+"
    r"in\s+(?:relation\s+to\s+(?P<b>[^.?!]+?)|the\s+(?:photo|picture|image))\s*\?",
    re.IGNORECASE,
)
_SIDES = [f"{at} the {side}{part} of" for at in ("to", "on", "at") for side in ("left", "right")
          for part in ("", " side", " hand side")]  # fmt: skip
_RELATIONS = sorted({name for names in vsr.CATEGORIES.values() for name in names} | {*_SIDES}, key=len, reverse=True)
_CAPTION = (
    r"(?:^|[.:!?>\n])\s*(?:(?:is|are)\s+)?the\s+(?P<a>[^.:!?]+?)\s+(?:(?:is|are)\s+)?(?:{})\s+the\s+(?P<b>[^.:!?]+)"
)
_OPTIONS = re.compile(r"\banswer with\b", re.IGNORECASE)

_DETERMINER = re.compile(r"(?:an?|the|this|that|these|those|some|my|your|his|her|its|our|their)\s+", re.IGNORECASE)

_ADJECTIVES = frozenset(
    re.findall(
        r"\w+",
        "black white gray grey red orange yellow green blue purple pink brown tan beige blond blonde silver gold "
        "golden dark light bright large big huge small little tiny tall short long wide round square striped plaid "
        "old new young open closed empty full wood wooden metal metallic plastic leather silk",
    )
)
"""Words in front of an object's name that its labels may lack. Any other word may make it another object: hot dog."""

_SYNONYMS = {
    "aeroplane": "airplane",
    "bike": "bicycle",
    "cellphone": "cell phone",
    "doughnut": "donut",
    "fridge": "refrigerator",
    "hair drier": "hair dryer",
    "mobile phone": "cell phone",
    "motorbike": "motorcycle",
    "plane": "airplane",
    "remote control": "remote",
    "sofa": "couch",
    "television": "tv",
    "wineglass": "wine glass",
}
"""Other names of COCO's objects, in the singular."""

_SINGULARS = {
    "buses": "bus",
    "calves": "calf",
    "canoes": "canoe",
    "children": "child",
    "feet": "foot",
    "geese": "goose",
    "glasses": "glasses",
    "halves": "half",
    "hooves": "hoof",
    "knives": "knife",
    "leaves": "leaf",
    "loaves": "loaf",
    "men": "man",
    "mice": "mouse",
    "people": "person",
    "scarves": "scarf",
    "sheep": "sheep",
    "shelves": "shelf",
    "shoes": "shoe",
    "sunglasses": "sunglasses",
    "teeth": "tooth",
    "toes": "toe",
    "vases": "vase",
    "wolves": "wolf",
    "women": "woman",
    **{f"{word}s": word for word in ("brownie", "cookie", "hoodie", "movie", "smoothie", "zombie")},
}


def named_objects(question: str, relation: str | None = None) -> tuple[str, ...]:
    """Return the objects that a question of a known form names, without their articles.

    The forms are those of WhatsUp ("Where is the mug in relation to the plate?", "Where is the mug in the photo?") and
    of VSR ("The mug is left of the plate.", also as a question). In a longer prompt the last one counts.

    Args:
        question: The question.
        relation: The relation of the caption, which may stand between the objects in several ways; None if unknown.

    Returns:
        The objects in the question's order; empty if it has none of the forms.
    """
    found = [*_WHERE.finditer(question)]
    if not found:
        known = _RELATIONS if relation is None else [relation, *_RELATIONS]
        phrases = "|".join(re.escape(phrase).replace(r"\ ", r"\s+") for phrase in known)
        found = [*re.finditer(_CAPTION.format(phrases), question, re.IGNORECASE)]
    if not found:
        return ()
    return tuple(" ".join(_DETERMINER.sub("", name.strip(), count=1).split()) for name in found[-1].groups() if name)


def key(name: str) -> str:
    """Return what a name has in common with other writings of it: no capitals, article, plural or hyphen."""
    text = " ".join(re.split(r"[\s_-]+", name.strip().lower()))
    first, space, last = _DETERMINER.sub("", text, count=1).rpartition(" ")
    singular = first + space + _singular(last)
    return _SYNONYMS.get(singular, singular)


def named_like(name: str, labels: Iterable[str]) -> set[str]:
    """Return the labels that mean an object: those with its name, else those with its name without adjectives.

    Args:
        name: The object, as a question names it.
        labels: The names of the labels of its picture.
    """
    by_key: dict[str, set[str]] = {}
    for label in labels:
        by_key.setdefault(key(label), set()).add(label)
    wanted = key(name)
    while wanted not in by_key:
        first, space, wanted = wanted.partition(" ")
        if not space or first not in _ADJECTIVES:
            return set()
        wanted = key(wanted)
    return by_key[wanted]


def words_in(question: str, labels: Iterable[str]) -> tuple[str, ...]:
    """Return the objects of a picture that a question of any form mentions, in the question's order.

    A longer name goes before a shorter one in it: a question about a hot dog does not mention a dog. What follows
    "Answer with" are options, not objects.
    """
    words = re.findall(r"[\w']+", _OPTIONS.split(question)[0].lower().replace("_", " "))
    known = {key(label) for label in labels}
    longest = max((label.count(" ") + 1 for label in known), default=0)
    found: dict[str, None] = {}
    start = 0
    while start < len(words):
        spans = (" ".join(words[start : start + size]) for size in range(longest, 0, -1))
        name = next((span for span in spans if not _DETERMINER.match(span) and key(span) in known), "")
        size = len(name.split())
        if size:
            found[name] = None
        start += size or 1
    return tuple(found)


def _singular(word: str) -> str:
    if word in _SINGULARS:
        return _SINGULARS[word]
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "sses", "xes", "oes")):
        return word[:-2]
    if len(word) > 2 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word
