"""Weights stored in bf16: the bits that autocast computes anyway, without its casts."""

import copy

import torch

from blip_model import Blip
from blip_model.generate import beam_search
from blip_model.stored_products import store_products
from tests.tiny import spread, tiny_config


def test_stored_weights_compute_the_same_bits() -> None:
    torch.manual_seed(0)
    model = Blip(tiny_config()).eval()
    spread(model)
    stored = copy.deepcopy(model)
    store_products(stored, torch.bfloat16)
    size = model.config.image_size
    image, ids = torch.randn(3, 3, size, size), torch.randint(200, 900, (3, 5))
    mask = torch.ones_like(ids)
    results = []
    for one in (model, stored):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            states = one.encode_image(image)
            score = one.match(ids, mask, states)
            caption = beam_search(one, states, ids[:, :2], max_length=9)
            text = one.text_feature(one.encode_text(ids, mask))
        results.append((states, score, caption, text))
    for plain, cast in zip(*results, strict=True):
        assert torch.equal(plain, cast)


def test_what_is_not_multiplied_stays_as_it_was() -> None:
    model = Blip(tiny_config())
    before = {name: p.clone() for name, p in model.named_parameters()}
    store_products(model, torch.bfloat16)
    after = dict(model.named_parameters())
    words = "text_encoder.embeddings.word_embeddings.weight"
    assert after[words].dtype == torch.float32
    assert torch.equal(after[words], before[words])
    head = model.text_decoder.cls.predictions.decoder.weight
    assert head.dtype == torch.bfloat16
    assert torch.equal(head, before[words].bfloat16())
    norms = [p for name, p in after.items() if "norm" in name.lower()]
    assert norms and all(p.dtype == torch.float32 for p in norms)
