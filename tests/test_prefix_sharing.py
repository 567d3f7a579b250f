"""Sharing the prefix of an image changes no result, has bounded memory, and does happen."""

from typing import Any

import pytest
import torch

from adaptvis_plugin.decoding import VAF, AdaptVis, Baseline, Decoder, Method, ScalingVis
from adaptvis_plugin.decoding.prefix.store import Prefix, PrefixStore
from tests.families import FAMILIES
from tests.families.build import NOT_TEXT, random_batch, random_model
from tests.families.check import on

TOLERANCE = 1e-4
ROOM = 2**30  # the default, a twentieth of a tiny model, has no room for a prefix
SHARING = ["llava", "vipllava", "llava_next", "llava_onevision", "idefics3", "smolvlm", "deepseek_vl"]
METHODS: list[Method] = [Baseline(), ScalingVis(alpha=0.5), AdaptVis(0.5, 1.5, 0.4), VAF(2.0, 0.5)]


def questions(name: str, texts: list[int], images: list[int], seed: int = 0) -> dict[str, Any]:
    """Return a ragged batch in which row i asks about image `images[i]`."""
    alone = [random_batch(FAMILIES[name], [text], [1], seed=seed + i) for i, text in enumerate(texts)]
    pictures = [random_batch(FAMILIES[name], [1], [1], seed=100 + image) for image in images]
    width = max(batch["input_ids"].shape[1] for batch in alone)
    rows = {}
    for key, value in alone[0].items():
        if value.shape == alone[0]["input_ids"].shape:
            pad = torch.nn.functional.pad
            rows[key] = torch.cat([pad(batch[key], (width - batch[key].shape[1], 0)) for batch in alone])
        else:
            rows[key] = torch.cat([picture[key] for picture in pictures])
    return rows


def same(a: Any, b: Any) -> None:
    torch.testing.assert_close(a.first_logits, b.first_logits, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(a.confidence, b.confidence, atol=TOLERANCE, rtol=0)
    assert torch.equal(a.alpha, b.alpha)
    assert torch.equal(a.sequences, b.sequences)


def share(name: str, method: Method, device: str = "cpu") -> None:
    """Decode batches that share more and more images, each also apart."""
    model: Any = random_model(FAMILIES[name])
    model.to(device)
    shared, apart = Decoder(model, prefix_bytes=ROOM), Decoder(model, prefix_bytes=0)
    batches = [
        questions(name, [4, 2], [0, 1], seed=6),  # the first batch only shows whether sharing is exact
        questions(name, [3, 9, 5, 1], [2, 2, 5, 2]),  # within a batch
        questions(name, [2, 4], [1, 6], seed=7),  # one cached from an earlier batch, one new
        questions(name, [6, 3], [3, 4], seed=8),  # nothing to share
        questions(name, [8, 3], [4, 3], seed=9),  # both cached from a batch that shared nothing
    ]
    for batch in batches:
        inputs = on(device, batch)
        options: dict[str, Any] = {"max_new_tokens": 5, "suppress_tokens": NOT_TEXT}
        same(shared.generate(inputs, method, **options), apart.generate(inputs, method, **options))
    assert shared.stats.prefixes_reused == 0 + 2 + 1 + 0 + 2
    assert apart.stats.prefixes_reused == 0
    assert shared.stats.rows == apart.stats.rows == 12


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
@pytest.mark.parametrize("name", SHARING)
def test_sharing_changes_nothing(name: str, method: Method) -> None:
    share(name, method)


def test_a_sweep_shares_too() -> None:
    model = random_model(FAMILIES["llava"])
    batch = questions("llava", [3, 9, 5], [0, 1, 0])
    shared = Decoder(model, prefix_bytes=ROOM)
    shared.generate(questions("llava", [2], [2]), Baseline())
    sweep = shared.sweep(batch, [0.5, 2.0], max_new_tokens=5, suppress_tokens=NOT_TEXT)
    apart = Decoder(model, prefix_bytes=0).sweep(batch, [0.5, 2.0], max_new_tokens=5, suppress_tokens=NOT_TEXT)
    for alpha in apart:
        same(sweep[alpha], apart[alpha])
    assert shared.stats.prefixes_reused == 1


def test_another_image_or_another_beginning_is_not_shared() -> None:
    model = random_model(FAMILIES["llava"])
    batch = questions("llava", [3, 3], [0, 0])
    batch["pixel_values"][1, 0, 0, 0] += 1e-3
    decoder = Decoder(model, prefix_bytes=ROOM)
    for _ in range(2):
        decoder.generate(questions("llava", [2], [2]), Baseline())
    assert decoder.stats.prefixes_reused == 1
    decoder.generate(batch, ScalingVis(alpha=0.5))
    batch["input_ids"][:, 0] = 9  # not the beginning-of-text token
    decoder.generate(batch, ScalingVis(alpha=0.5))
    assert decoder.stats.prefixes_reused == 1


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - set(SHARING)))
def test_all_other_families_are_right_whether_they_share_or_not(name: str) -> None:
    """The same batch twice: what the first leaves behind must not change the second."""
    family = FAMILIES[name]
    model = random_model(family)
    batch = random_batch(family, [3, 7], [1, 1])
    shared, apart = Decoder(model, prefix_bytes=ROOM), Decoder(model, prefix_bytes=0)
    for _ in range(2):
        same(*(d.generate(batch, ScalingVis(alpha=0.5), suppress_tokens=NOT_TEXT) for d in (shared, apart)))


def test_nothing_is_kept_until_an_image_comes_a_second_time() -> None:
    """The first batch only shows whether sharing is exact; it keeps what it has."""
    model = random_model(FAMILIES["llava"])
    decoder = Decoder(model, prefix_bytes=ROOM)
    kept = decoder._prefixes._store._prefixes
    for images, prefixes, reused in (([0, 1], 2, 0), ([2, 3], 2, 0), ([4, 2], 4, 0), ([4, 5], 5, 1), ([6, 7], 7, 1)):
        decoder.generate(questions("llava", [3, 5], images), ScalingVis(alpha=0.5))
        assert (len(kept), decoder.stats.prefixes_reused) == (prefixes, reused)


def test_memory_is_bounded_and_the_least_recently_used_goes_first() -> None:
    def prefix() -> Prefix:
        return Prefix(((torch.zeros(1, 5, 2), torch.zeros(1, 5, 2)),))  # 80 bytes

    store = PrefixStore(200)
    for key in (b"a", b"b"):
        store.put(key, prefix())
    assert store.get(b"a") is not None
    store.put(b"c", prefix())
    assert [key for key in (b"a", b"b", b"c") if store.get(key)] == [b"a", b"c"]
    store.put(b"huge", Prefix(((torch.zeros(1, 100, 2), torch.zeros(1, 100, 2)),)))
    assert store.get(b"huge") is None and store.get(b"a") is not None


def test_a_small_store_still_shares_within_a_batch() -> None:
    model = random_model(FAMILIES["llava"])
    decoder = Decoder(model, prefix_bytes=1)
    batch = questions("llava", [3, 9, 5], [0, 0, 0])
    apart = Decoder(model, prefix_bytes=0).generate(batch, ScalingVis(alpha=0.5))
    for _ in range(2):
        same(decoder.generate(batch, ScalingVis(alpha=0.5)), apart)
    assert decoder.stats.prefixes_reused == 2  # the first batch only shows whether sharing is exact
