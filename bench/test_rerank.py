"""Re-ranking of retrieval's shortlists by matching: ours against the original's two loops.

1,000 pictures with 5,000 texts in small: five texts a picture, and both sides score each text's
best pictures and each picture's best texts. What ours saves grows with the shortlist: here a
picture's keys and values serve some dozen texts, there some hundreds. At its real size with a tiny
network, so that the original's 6,000 calls end, and every rank is looked at.
"""

from dataclasses import dataclass

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench.conftest import Compare
from bench.interleaved import Interleaved, Side, ratio, timed
from bench.original_captioning import OriginalCaptioner
from bench.plan import LENGTHS, Plan
from bench.record import Record
from blip_model import Blip, BlipConfig
from blip_model.config import preset
from engine.data.tokenizer import open_tokenizer
from engine.evaluation.retrieval import NOT_LISTED, match_listed, shortlisted
from engine.inference import LoadedBlip
from engine.progress import Progress

TEXTS = 5
# Pictures, and how many of them a text's list has; rounds, of minutes each; and scores that lie so
# close that rounding decides which of them comes first.
PICTURES, LISTED, ROUNDS, CLOSE = 1000, 128, 2, 1e-4


@dataclass(frozen=True)
class Task:
    """Encoded pictures and texts, and both sides' weights."""

    ours: LoadedBlip
    theirs: OriginalCaptioner
    states: torch.Tensor
    ids: torch.Tensor
    mask: torch.Tensor
    similarity: torch.Tensor
    k: int


@pytest.fixture(scope="module")
def task(plan: Plan) -> Task:
    """The same weights and inputs for both; similarities are drawn, as untrained ones are flat."""
    size = {"image_size": plan.caption_size} if plan.caption_size else {}
    config = preset(plan.preset, dropout=0.0, vision_drop_path=0.0, **size)
    count = max(2, plan.caption_batch // 2) * (1 if plan.quick else 2)
    return make_task(config, count, count // 2, plan.device)


def make_task(config: BlipConfig, count: int, k: int, device: torch.device) -> Task:
    """`count` pictures with five texts each, lists of k."""
    torch.manual_seed(0)
    ours, theirs = Blip(config).to(device), OriginalCaptioner(config).to(device).eval()
    state = ours.state_dict()
    theirs.load_state_dict({name: state[name] for name in theirs.state_dict()})
    lengths = torch.tensor(LENGTHS).repeat(TEXTS * count // len(LENGTHS) + 1)[: TEXTS * count]
    ids = torch.randint(1000, config.vocab_size - 2, (TEXTS * count, max(LENGTHS)))
    ids[:, 0] = config.enc_token_id
    mask = (torch.arange(max(LENGTHS)) < lengths[:, None]).long()
    states = torch.randn(count, config.image_tokens, config.vision_width)
    similarity = torch.rand(count, TEXTS * count)
    given = (one.to(device) for one in (states, ids * mask, mask, similarity))
    return Task(LoadedBlip(ours, open_tokenizer(None, config)), theirs, *given, k)


@torch.no_grad()
def original(task: Task) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores for finding pictures and for finding texts, [images, texts] each, as
    `evaluation` in salesforce/BLIP's train_retrieval.py makes them."""
    images, texts = task.similarity.shape
    to_text = torch.full_like(task.similarity, NOT_LISTED)
    for image in range(images):
        values, best = task.similarity[image].topk(min(task.k, texts))
        states = task.states[image].repeat(len(best), 1, 1)
        logits = task.theirs.match(states, task.ids[best], task.mask[best])
        to_text[image, best] = logits[:, 1] + values
    to_image = torch.full_like(task.similarity, NOT_LISTED)
    for text in range(texts):
        values, best = task.similarity[:, text].topk(min(task.k, images))
        ids, mask = (x[text].repeat(len(best), 1) for x in (task.ids, task.mask))
        logits = task.theirs.match(task.states[best], ids, mask)
        to_image[best, text] = logits[:, 1] + values
    return to_image, to_text


@torch.no_grad()
def ours(task: Task) -> tuple[torch.Tensor, torch.Tensor]:
    """The same by what evaluation runs, without what it adds for pairs that are not listed."""
    lists = [shortlisted(task.similarity, task.k, dim) for dim in (0, 1)]
    given = task.ids, task.mask, task.states, lists[0] | lists[1]
    progress = Progress("matched", "pairs", talks=False)
    matched = match_listed(task.ours, *given, 64, progress)
    to_image, to_text = (torch.where(one, matched + task.similarity, NOT_LISTED) for one in lists)
    return to_image, to_text


def flops(work: Side) -> float:
    """Floating-point operations; attention as two products."""
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:
        work()
    return counter.get_total_flops()


def test_reranking(compare: Compare, plan: Plan, record: Record, task: Task) -> None:
    for expected, found in zip(original(task), ours(task), strict=True):
        # The gate of this suite: the same scores, so the same ranks.
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    if plan.device.type == "cpu":
        # On a GPU attention is by kernels of our own, which the counter does not know.
        counted = flops(lambda: original(task)) / flops(lambda: ours(task))
        record.figure(f"rerank_flops_ratio{plan.suffix}", counted)
    sides = {"original fp32": lambda: original(task), "ours fp32": lambda: ours(task)}
    images, texts = task.similarity.shape
    times = compare(f"re-ranking, {images} pictures, {texts} texts, {task.k} listed", sides)
    found = ratio(times["original fp32"], times["ours fp32"])
    record.figure(f"rerank_time_ratio{plan.suffix}", found)


def ranks(scores: torch.Tensor, own: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How many of each row lie above its own score, [N]; and whether another one lies close to it.

    Args:
        scores: [N, M].
        own: [N].
    """
    close = (scores - own[:, None]).abs() < CLOSE
    return (scores > own[:, None]).sum(1), close.sum(1) > 1


def different_ranks(task: Task, theirs: tuple, ours: tuple) -> tuple[int, int]:
    """Of all texts' pictures and all pictures' texts, how many have another rank: apart, close."""
    images, texts = task.similarity.shape
    owner = torch.arange(texts, device=task.similarity.device) // (texts // images)
    number = torch.arange(texts, device=owner.device)
    apart = near = 0
    # Pictures of texts; then every text of every picture, in its picture's row.
    rows = [[one.T for one in (theirs[0], ours[0])], [one[owner] for one in (theirs[1], ours[1])]]
    columns = [owner, number]
    for (expected, found), column in zip(rows, columns, strict=True):
        right, close = ranks(expected, expected[number, column])
        same = right == ranks(found, found[number, column])[0]
        apart += int((~same & ~close).sum())
        near += int((~same & close).sum())
    return apart, near


def test_reranking_at_its_real_size(plan: Plan, record: Record) -> None:
    if plan.quick:
        pytest.skip("minutes; not with --quick")
    large = make_task(preset("tiny", dropout=0.0), PICTURES, LISTED, plan.device)
    done: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    sides = {"original fp32": original, "ours fp32": ours}

    def run(name: str) -> None:
        done[name] = sides[name](large)

    wait = torch.cuda.synchronize if plan.device.type == "cuda" else lambda: None
    timer = Interleaved({name: timed(lambda name=name: run(name), wait) for name in sides})
    timer.warm_up()
    for _ in range(ROUNDS):
        timer.round()
    apart, near = different_ranks(large, done["original fp32"], done["ours fp32"])
    assert apart == 0
    name = f"{PICTURES}x{TEXTS * PICTURES}"
    record.note(f"re-ranking {name}: the same ranks, but for {near} between equal scores")
    record.compare(f"re-ranking, {name}, {LISTED} listed, tiny", timer.seconds)
    found = ratio(timer.seconds["original fp32"], timer.seconds["ours fp32"])
    record.figure(f"rerank_time_ratio_tiny_{name}", found)
