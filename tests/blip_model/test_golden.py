"""Fidelity: the numbers of the original code, in float32."""

from collections.abc import Callable

import pytest
import torch

from blip_model.answers import Answers
from blip_model.blip import Blip
from blip_model.caption import BlipCaption
from blip_model.momentum import Momentum, MomentumFeatures
from blip_model.nlvr import BlipNlvr
from blip_model.pretrain import BlipPretrain
from blip_model.retrieval import BlipRetrieval
from blip_model.vqa import BlipVqa
from tests.golden_files import Trace, assert_equal_to, read

VALUE, GRADIENT = 1e-5, 1e-4
KEY_BIASES = ("self.key.bias", "self0.key.bias", "self1.key.bias")


def load(model: Blip, momentum: Momentum | None, weights: dict[str, torch.Tensor]) -> None:
    """Load strictly: every golden tensor goes to the model or the momentum side."""
    ours = set(model.state_dict())
    model.load_state_dict({k: v for k, v in weights.items() if k in ours})
    rest = {k: v for k, v in weights.items() if k not in ours}
    if momentum is None:
        assert not rest
    else:
        momentum.load_state_dict(rest)


def run_steps(
    trace: Trace,
    model: Blip,
    momentum: Momentum,
    forward: Callable[[dict, MomentumFeatures, float, tuple], dict[str, torch.Tensor]],
) -> None:
    """Repeat the trace's optimizer steps and compare all that it recorded."""
    load(model, momentum, trace.under("weights."))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-3, weight_decay=0.05, betas=(0.9, 0.999), eps=1e-8
    )
    for step, alpha in enumerate(trace.meta["alpha"]):
        batch = trace.under(f"step{step}.")
        model.clamp_temperature_()
        momentum.update(dict(model.named_parameters()), trace.meta.get("momentum", 0.995))
        features = momentum.features(batch["image"], batch["input_ids"], batch["attention_mask"])
        negatives = (batch["negative_image_of_text"], batch["negative_text_of_image"])
        losses = forward(batch, features, alpha, negatives)
        golden = dict(zip(trace.meta["loss_names"], trace.meta["losses"][step], strict=True))
        for name, value in golden.items():
            assert losses[f"loss_{name}"].item() == pytest.approx(value, rel=VALUE), (step, name)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        if step == 0:
            compare_gradients(model, trace.under("step0.grad."))
        optimizer.step()
        momentum.enqueue(features.image_feature, features.text_feature, batch.get("image_id"))
    final = {**model.state_dict(), **momentum.state_dict()}
    golden_final = trace.under("final.")
    assert set(golden_final) <= set(final)
    for name, tensor in golden_final.items():
        ours, golden = without_key_bias(name, final[name]), without_key_bias(name, tensor)
        assert_equal_to(ours, golden, name, VALUE)
        # What is left out of the comparison went no farther than AdamW can carry noise.
        farthest = 2 * 1e-3 * len(trace.meta["alpha"])
        assert (final[name].double() - tensor.double()).abs().max() <= farthest, name


def without_key_bias(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """A tensor with a key's bias set to zero.

    That bias adds the same to all scores of a query, so softmax ignores it and its true gradient
    is 0. AdamW turns the rounding noise in its place into steps of full size and random sign,
    which no two ways of adding up agree on. No output depends on it.
    """
    if name.endswith(KEY_BIASES):
        return torch.zeros_like(tensor)
    if name.endswith("attn.qkv.bias"):
        query, key, value = tensor.chunk(3)
        return torch.cat([query, torch.zeros_like(key), value])
    return tensor


def compare_gradients(model: Blip, golden: dict[str, torch.Tensor]) -> None:
    """All gradients, each to the tolerance of its tensor's largest entry."""
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert set(golden) <= set(gradients)
    largest = max(tensor.abs().max().item() for tensor in golden.values())
    for name, tensor in golden.items():
        noise = gradients[name] - without_key_bias(name, gradients[name])
        assert noise.abs().max().item() < 1e-6 * largest, name
        ours, theirs = without_key_bias(name, gradients[name]), without_key_bias(name, tensor)
        assert_equal_to(ours, theirs, name, GRADIENT)


@pytest.mark.parametrize("plain", [True, False])
def test_golden_pretrain(plain: bool) -> None:
    trace = read("pretrain")
    model = BlipPretrain(trace.config, plain=plain)
    momentum = Momentum(model, trace.meta["queue_size"])

    def forward(
        batch: dict, features: MomentumFeatures, alpha: float, negatives: tuple
    ) -> dict[str, torch.Tensor]:
        states = model.encode_image(batch["image"])
        text = model.encode_text(batch["input_ids"], batch["attention_mask"])
        drawn = model.draw(
            model.image_feature(states), model.text_feature(text), features, greedy=True
        )
        assert all(torch.equal(a, b) for a, b in zip(drawn, negatives, strict=True))
        inputs = (batch["image"], batch["input_ids"], batch["attention_mask"], features)
        return model(*inputs, alpha=alpha, negatives=negatives)

    run_steps(trace, model, momentum, forward)


@pytest.mark.parametrize("plain", [True, False])
def test_golden_retrieval(plain: bool) -> None:
    trace = read("retrieval")
    model = BlipRetrieval(trace.config, plain=plain)
    momentum = Momentum(model, trace.meta["queue_size"], with_ids=True)

    def forward(
        batch: dict, features: MomentumFeatures, alpha: float, negatives: tuple
    ) -> dict[str, torch.Tensor]:
        states = model.encode_image(batch["image"])
        text = model.encode_text(batch["input_ids"], batch["attention_mask"])
        drawn = model.draw(
            model.image_feature(states), model.text_feature(text), batch["image_id"], greedy=True
        )
        assert all(torch.equal(a, b) for a, b in zip(drawn, negatives, strict=True))
        inputs = (batch["image"], batch["input_ids"], batch["attention_mask"], features)
        return model(*inputs, image_id=batch["image_id"], alpha=alpha, negatives=negatives)

    run_steps(trace, model, momentum, forward)


@pytest.mark.parametrize("plain", [True, False])
def test_golden_caption(plain: bool) -> None:
    trace = read("caption")
    model = BlipCaption(trace.config, plain=plain)
    load(model, None, trace.under("weights."))
    batch = trace.tensors
    text = (batch["input_ids"], batch["attention_mask"])
    losses = model(batch["image"], *text, prompt_length=trace.meta["prompt_length"])
    assert losses["loss_lm"].item() == pytest.approx(trace.meta["losses"][0], rel=VALUE)
    losses["loss_lm"].backward()
    compare_gradients(model, trace.under("grad."))
    with torch.no_grad():
        states = model.encode_image(batch["image"])
        assert_equal_to(states, batch["image_embeds"], "image_embeds", VALUE)
        assert_equal_to(model.decode(*text, states), batch["logits"], "logits", VALUE)


@torch.no_grad()
def test_golden_filter() -> None:
    trace = read("filter")
    model = BlipRetrieval(trace.config).eval()
    weights = trace.under("weights.")
    load(model, None, {**weights, "temp": model.temp} if "temp" not in weights else weights)
    batch = trace.tensors
    states = model.encode_image(batch["image"])
    text = (batch["input_ids"], batch["attention_mask"])
    logits = model.match(*text, states, write_enc=False)
    assert_equal_to(logits, batch["itm_logits"], "itm_logits", VALUE)
    similarity = model.image_feature(states) @ model.text_feature(model.encode_text(*text)).T
    assert_equal_to(similarity, batch["itc_similarity"], "itc_similarity", VALUE)


@pytest.mark.parametrize("plain", [True, False])
def test_golden_vqa(plain: bool) -> None:
    trace = read("vqa")
    model = BlipVqa(trace.config, plain=plain)
    load(model, None, trace.under("weights."))
    batch = trace.tensors
    answers = batch["answers_per_question"]
    owner = torch.arange(len(answers)).repeat_interleave(answers)
    answers = Answers(batch["answer_ids"], batch["answer_mask"], owner, batch["answer_weight"])
    text = (batch["question_ids"], batch["question_mask"])
    losses = model(batch["image"], *text, answers)
    assert losses["loss_lm"].item() == pytest.approx(trace.meta["losses"][0], rel=VALUE)
    losses["loss_lm"].backward()
    compare_gradients(model, trace.under("grad."))
    with torch.no_grad():
        questions = model.read_questions(*text, model.encode_image(batch["image"]))
    candidates = (batch["candidate_ids"], batch["candidate_mask"])
    best = model.eval().rank(questions, *candidates, trace.meta["k_test"])
    assert torch.equal(best, batch["best_candidate"])


def test_golden_nlvr() -> None:
    trace = read("nlvr")
    model = BlipNlvr(trace.config)
    load(model, None, trace.under("weights."))
    batch = trace.tensors
    # The trace has all left pictures, then all right ones.
    images = torch.stack(batch["image_pair"].chunk(2), 1)
    text = (batch["input_ids"], batch["attention_mask"])
    loss = model(images, *text, label=batch["label"])["loss_nlvr"]
    assert loss.item() == pytest.approx(trace.meta["losses"][0], rel=VALUE)
    loss.backward()
    compare_gradients(model, trace.under("grad."))
    with torch.no_grad():
        assert_equal_to(model.judge(images, *text), batch["logits"], "logits", VALUE)
