"""A packed model says what the plain one says."""

import pytest
import torch
from tiny_models import byte_tokenizer, lively_model

from nanochat.engine import Engine
from nanochat.gpt_packed import PackedLinear, can_pack, pack
from nanochat.sampling import Sampling


@pytest.mark.parametrize("shape", [(1, 1), (16, 1), (2, 40)])
def test_packed_scores_equal_plain_ones(shape):
    plain = lively_model(1, n_embd=128, n_layer=2)
    packed = lively_model(1, n_embd=128, n_layer=2)
    assert can_pack(packed) and pack(packed) == 2 * 4 + 1 + 0 * 2
    assert isinstance(packed.head, PackedLinear)
    ids = torch.randint(265, shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(packed(ids), plain(ids), atol=2e-4, rtol=1e-4)
    assert packed.state_dict().keys() == plain.state_dict().keys()


def test_packed_answers_equal_plain_ones():
    plain, packed = (lively_model(1, n_embd=128, n_layer=2) for _ in range(2))
    pack(packed)
    tokenizer = byte_tokenizer()
    prompts = [tokenizer.encode(text) for text in ("Once", "upon a time", "there")]
    each = [Sampling(max_tokens=30, temperature=t, seed=i) for i, t in enumerate((0, 0.7, 1.2))]
    answers = [Engine(m, tokenizer).generate_batch(prompts, each) for m in (plain, packed)]
    assert answers[0] == answers[1]


def test_a_bf16_model_is_left_as_it_is():
    model = lively_model(1)
    model.dtype = torch.bfloat16
    assert pack(model) == 0
