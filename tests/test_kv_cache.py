"""The cache against the slower truth: one pass over everything, without a cache."""

import pytest
import torch
from tiny_models import config, lively_model

from nanochat.gpt import classic
from nanochat.kv_cache import KVCache

SHAPES = {
    "the usual model": {},
    "all heads their own keys": {"n_kv_head": 4},
    "one key head": {"n_kv_head": 1},
    "full windows": {"window_pattern": "L"},
    "swiglu": {"mlp": "swiglu"},
    "no smear": {"smear": False},
    "no value embeddings": {"value_embeddings": False},
}
CHUNKS = [[280], [100, 100, 80], [240, *[1] * 40], [1, 2, 3, 150, 1, 1, 122], [129, 128, 1, 22]]


def tokens(rows: int, length: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, 256, (rows, length), generator=torch.Generator().manual_seed(seed))


def read(model, cache, ids, chunks, start=0, stop=None):
    """Logits (B, T, V) of ids fed chunk by chunk into rows start..stop-1."""
    out, at = [], 0
    with torch.no_grad():
        for count in chunks:
            view = cache.view(start, stop or start + len(ids))
            out.append(model(ids[:, at : at + count], cache=view))
            at += count
    return torch.cat(out, dim=1)


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", SHAPES)
def test_reading_in_any_chunks_equals_one_pass_without_a_cache(name):
    model, ids = lively_model(**SHAPES[name]), tokens(2, 280)
    with torch.no_grad():
        truth = model(ids)
    for chunks in CHUNKS if not SHAPES[name] else CHUNKS[3:]:
        close(read(model, KVCache(model.config, 2, 300), ids, chunks), truth)


def test_the_classic_preset_is_cached_rightly():
    model, ids = lively_model(), tokens(1, 150)
    plain = type(model)(classic(model.config))
    plain.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        close(read(plain, KVCache(plain.config, 1, 300), ids, [140, *[1] * 10]), plain(ids))


def test_a_ring_equals_a_cache_that_keeps_everything():
    model, ids = lively_model(), tokens(2, 280)
    ring, full = (KVCache(model.config, 2, 300, ring=ring) for ring in (True, False))
    assert ring.slots == [129, 129, 300] and full.slots == [300] * 3
    assert ring.size_bytes < 0.7 * full.size_bytes
    close(read(model, ring, ids, [150, *[1] * 130]), read(model, full, ids, [150, *[1] * 130]))


def test_rows_of_different_lengths_step_together():
    model, ids = lively_model(), tokens(4, 240)
    lengths = [3, 200, 128, 129]
    cache = KVCache(model.config, 5, 300)
    for row, length in enumerate(lengths):
        read(model, cache, ids[row : row + 1, :length], [length], start=row)
    for step in range(6):
        new = torch.stack([ids[row, length + step] for row, length in enumerate(lengths)])[:, None]
        with torch.no_grad():
            together = model(new, cache=cache.view(0, 4), last_only=True)
            for row, length in enumerate(lengths):
                truth = model(ids[row : row + 1, : length + step + 1], last_only=True)
                close(together[row : row + 1], truth)
    assert cache.lengths == [9, 206, 134, 135, 0]


def test_rows_of_different_lengths_take_several_tokens_together():
    model, ids = lively_model(), tokens(2, 260)
    cache = KVCache(model.config, 2, 300)
    read(model, cache, ids[:1, :20], [20], start=0)
    read(model, cache, ids[1:, :180], [180], start=1)
    new = torch.stack((ids[0, 20:60], ids[1, 180:220]))
    with torch.no_grad():
        together = model(new, cache=cache.view(0, 2))
        close(together[:1], model(ids[:1, :60])[:, 20:])
        close(together[1:], model(ids[1:, :220])[:, 180:])


def test_a_copied_row_goes_on_like_its_source():
    model, ids = lively_model(), tokens(1, 220)
    cache = KVCache(model.config, 3, 300)
    read(model, cache, tokens(1, 90, seed=5), [90], start=2)  # what stood there before
    read(model, cache, ids[:, :200], [200], start=0)
    cache.copy_row(0, 2)
    goes_on = read(model, cache, ids[:, 200:], [10, 10], start=2)
    with torch.no_grad():
        close(goes_on, model(ids)[:, 200:])
    assert cache.lengths == [200, 0, 220]


def test_a_row_that_was_reset_remembers_nothing():
    model, ids = lively_model(), tokens(1, 60)
    fresh = KVCache(model.config, 1, 300)
    truth = read(model, fresh, ids, [50, 10])
    used = KVCache(model.config, 1, 300)
    read(model, used, tokens(1, 300, seed=9), [300])
    used.reset(0)
    assert torch.equal(read(model, used, ids, [50, 10]), truth)


def test_a_step_looks_at_slices_and_copies_nothing():
    cache = KVCache(config(), 4, 300)
    k = torch.ones(3, 1, 2, 8)
    keys, values, _ = cache.view(1, 4).update(2, k, k)
    assert keys.data_ptr() == cache.keys[2][1].data_ptr()
    assert values.data_ptr() == cache.values[2][1].data_ptr()


def test_a_mask_is_made_once_a_pass_for_all_layers_with_one_window():
    cache = KVCache(config(), 2, 300)
    cache.lengths = [5, 9]
    view, k = cache.view(0, 2), torch.ones(2, 1, 2, 8)
    masks = [view.update(layer, k, k)[2] for layer in range(3)]
    assert masks[0] is masks[1] and masks[0] is not masks[2]


def test_a_token_beyond_the_capacity_is_refused_not_written_over():
    model, ids = lively_model(), tokens(1, 41)
    cache = KVCache(model.config, 1, 40)
    read(model, cache, ids[:, :40], [40])
    before = cache.keys[2].clone()
    with pytest.raises(AssertionError, match="overflows"):
        read(model, cache, ids[:, 40:], [1])
    assert torch.equal(cache.keys[2], before)
