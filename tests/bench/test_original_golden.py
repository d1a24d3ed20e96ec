"""The original that we measure against computes what the original computed."""

import pytest
import torch

from bench.original_network import by_products, by_sdpa
from bench.original_step import OriginalPretrain
from tests.blip_model.test_golden import VALUE, compare_gradients, without_key_bias
from tests.golden_files import assert_equal_to, read

KINDS = {"original": (by_products, False), "strong peer": (by_sdpa, True)}


@pytest.mark.parametrize("kind", KINDS)
def test_golden_pretrain_of_the_original(kind: str) -> None:
    trace = read("pretrain")
    attend, vectorised = KINDS[kind]
    settings = {"attend": attend, "vectorised": vectorised, "greedy": True}
    model = OriginalPretrain(trace.config, trace.meta["queue_size"], **settings)
    model.load_state_dict(trace.under("weights."))
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.05
    )
    for step, alpha in enumerate(trace.meta["alpha"]):
        batch = trace.under(f"step{step}.")
        inputs = (batch["image"], batch["input_ids"], batch["attention_mask"])
        losses = model(*inputs, alpha)
        drawn = (batch["negative_image_of_text"], batch["negative_text_of_image"])
        assert all(torch.equal(a, b) for a, b in zip(model.drawn, drawn, strict=True))
        golden = dict(zip(trace.meta["loss_names"], trace.meta["losses"][step], strict=True))
        for name, value in golden.items():
            assert losses[f"loss_{name}"].item() == pytest.approx(value, rel=VALUE), (step, name)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        if step == 0:
            compare_gradients(model, trace.under("step0.grad."))
        optimizer.step()
    final, golden_final = model.state_dict(), trace.under("final.")
    assert set(golden_final) <= set(final)
    for name, tensor in golden_final.items():
        ours, golden = without_key_bias(name, final[name]), without_key_bias(name, tensor)
        assert_equal_to(ours, golden, name, VALUE)
