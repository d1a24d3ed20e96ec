"""Question answering: packed equals plain, ranking equals trying all, generation one by one."""

from dataclasses import replace

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from blip_model.answers import Answers
from blip_model.beams import Beams
from blip_model.flops import vqa_flops
from blip_model.vqa import BlipVqa
from tests.tiny import spread, tiny_config, tiny_inputs

CONFIG = tiny_config(vocab_size=400, bos_token_id=398, enc_token_id=399)
OWNER = torch.tensor([0, 0, 0, 1, 2, 2, 3, 4, 4, 5])


def both() -> tuple[BlipVqa, BlipVqa]:
    """The plain and the fast model with the same weights, its decoder wider than a picture."""
    torch.manual_seed(0)
    config = replace(CONFIG, text_width=48, text_heads=3)
    plain = BlipVqa(config, plain=True)
    spread(plain)
    fast = BlipVqa(config)
    fast.load_state_dict(plain.state_dict())
    return plain, fast


def batch(capacity: int | None = None, block: int | None = None) -> tuple:
    """Six questions of several lengths with ten answers of several lengths and weights."""
    _, ids, mask = tiny_inputs(len(OWNER), tokens=6, seed=1, config=CONFIG)
    weights = torch.rand(len(OWNER), generator=torch.Generator().manual_seed(2))
    return *tiny_inputs(6, tokens=9, config=CONFIG), Answers(
        ids, mask, OWNER, weights, capacity, block
    )


@pytest.mark.parametrize("bounded", [False, True])
def test_packed_losses_and_gradients_are_the_plain_ones(bounded: bool) -> None:
    plain, fast = both()
    inputs, capacity = batch(), None
    if bounded:
        inputs, capacity = batch(capacity=60, block=30), 60
    losses = [plain(*batch())["loss_lm"], fast(*inputs, capacity=capacity)["loss_lm"]]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-6, atol=1e-6)
    theirs = dict(plain.named_parameters())
    for name, parameter in fast.named_parameters():
        scale = theirs[name].grad.abs().max().clamp(min=1e-3)
        assert (parameter.grad - theirs[name].grad).abs().max() / scale < 2e-5, name


def test_an_answer_of_weight_zero_counts_nothing() -> None:
    _, fast = both()
    image, ids, mask, answers = batch()
    weight = answers.weight.index_fill(0, torch.tensor([9]), 0.0)
    without = Answers(answers.ids[:9], answers.mask[:9], OWNER[:9], weight[:9])
    given = Answers(answers.ids, answers.mask, OWNER, weight)
    losses = [fast(image, ids, mask, some)["loss_lm"] for some in (given, without)]
    torch.testing.assert_close(*losses)


def test_encoder_and_decoder_share_nothing() -> None:
    _, fast = both()
    owners = [id(p) for part in fast.children() for p in set(part.parameters())]
    assert len(owners) == len(set(owners))
    key = fast.text_decoder.bert.encoder.layer[0].crossattention.self.key
    assert key.in_features == 48
    assert fast.temp is None


@torch.no_grad()
@pytest.mark.parametrize("shortlist", [3, 99])
def test_the_best_of_the_shortlist_is_found(shortlist: int) -> None:
    plain, fast = both()
    image, ids, mask = tiny_inputs(6, tokens=9, config=CONFIG)
    _, candidates, there = tiny_inputs(24, tokens=6, seed=3, config=CONFIG)
    # First tokens that several candidates share.
    candidates[:, 1] = candidates[torch.arange(24) % 7, 1]
    best = []
    for model in (plain.eval(), fast.eval()):
        questions = model.read_questions(ids, mask, model.encode_image(image))
        best.append(model.rank(questions, candidates, there, shortlist))
    assert torch.equal(*best)
    for number in (0, 4):
        states = fast.encode_image(image[number : number + 1])
        alone = fast.read_questions(ids[number : number + 1], mask[number : number + 1], states)
        scores = [
            plain(
                image[number : number + 1],
                ids[number : number + 1],
                mask[number : number + 1],
                Answers(candidates[[c]], there[[c]], torch.tensor([0]), torch.ones(1)),
            )["loss_lm"].item()
            for c in range(24)
        ]
        start = torch.tensor([[fast.config.bos_token_id]])
        first = fast.text_decoder(start, None, alone.states)[0, 0, candidates[:, 1]]
        listed = first.argsort(stable=True, descending=True)[:shortlist].tolist()
        assert best[1][number] == min(listed, key=lambda c: scores[c])


@torch.no_grad()
def test_free_answers_do_not_depend_on_the_other_questions() -> None:
    _, fast = both()
    fast.eval()
    how = Beams(num_beams=3, max_length=7, min_length=1)
    image, ids, mask = tiny_inputs(6, tokens=9, config=CONFIG)
    states = fast.encode_image(image)
    together = fast.generate(fast.read_questions(ids, mask, states), how)
    assert len(together.unique(dim=0)) > 1
    for number in range(6):
        length = int(mask[number].sum())
        own = (ids[number : number + 1, :length], mask[number : number + 1, :length])
        alone = fast.generate(fast.read_questions(*own, states[number : number + 1]), how)
        assert torch.equal(alone[0], together[number])


@torch.no_grad()
def test_ranking_leaves_padding_and_repeated_questions_out() -> None:
    """In FLOP of the decoder, with answers of 3 to 6 tokens and questions of 3 to 9."""
    spent = []
    for model in both():
        questions = model.eval().read_questions(*batch()[1:3], model.encode_image(batch()[0]))
        _, candidates, there = tiny_inputs(40, tokens=6, seed=3, config=CONFIG)
        with FlopCounterMode(display=False) as counter:
            model.rank(questions, candidates, there, 40)
        spent.append(counter.get_total_flops())
    assert spent[1] < 0.65 * spent[0], spent


@torch.no_grad()
def test_the_work_of_a_question_is_counted() -> None:
    _, fast = both()
    image, ids, _, _ = batch()
    # The counter does not see into fused attention.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        fast.read_questions(ids, torch.ones_like(ids), fast.encode_image(image))
    counted = 3 * counter.get_total_flops() / len(image)
    assert counted == pytest.approx(vqa_flops(fast.config, ids.shape[1]), rel=1e-3)


@pytest.mark.slow
def test_it_is_one_program_for_each_shape() -> None:
    torch._dynamo.reset()
    _, fast = both()
    made = CompileCounterWithBackend("eager")
    program = torch.compile(fast.forward, backend=made, fullgraph=True, dynamic=False)
    for seed in (0, 1):
        inputs = (*batch(capacity=60, block=30)[:1], *tiny_inputs(6, 9, seed, CONFIG)[1:])
        answers = batch(capacity=60, block=30)[3]
        want = fast(*inputs, answers, capacity=60)["loss_lm"]
        got = program(*inputs, answers, capacity=60)["loss_lm"]
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)
    assert made.frame_count == 1
    torch._dynamo.reset()
