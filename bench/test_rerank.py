"""Re-ranking of retrieval's shortlists by matching: ours against the original's two loops.

COCO's 1,000 pictures with 5,000 texts in small: five texts a picture, and both sides score each
text's best pictures and each picture's best texts. What ours saves grows with the shortlist: here
a picture's keys and values serve some dozen texts, there some hundreds.
"""

from dataclasses import dataclass

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench.conftest import Compare
from bench.interleaved import Side, ratio
from bench.original_captioning import OriginalCaptioner
from bench.plan import LENGTHS, Plan
from bench.record import Record
from blip_model import Blip
from blip_model.config import preset
from engine.data.tokenizer import open_tokenizer
from engine.evaluation.retrieval import NOT_LISTED, match_listed, shortlisted
from engine.inference import LoadedBlip
from engine.progress import Progress

TEXTS = 5


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
    torch.manual_seed(0)
    size = {"image_size": plan.caption_size} if plan.caption_size else {}
    config = preset(plan.preset, dropout=0.0, vision_drop_path=0.0, **size)
    ours, theirs = Blip(config).to(plan.device), OriginalCaptioner(config).to(plan.device).eval()
    state = ours.state_dict()
    theirs.load_state_dict({name: state[name] for name in theirs.state_dict()})
    count = min(plan.caption_batch, 32) * (1 if plan.quick else 2)
    lengths = torch.tensor(LENGTHS).repeat(TEXTS * count // len(LENGTHS) + 1)[: TEXTS * count]
    ids = torch.randint(1000, config.vocab_size - 2, (TEXTS * count, max(LENGTHS)))
    ids[:, 0] = config.enc_token_id
    mask = (torch.arange(max(LENGTHS)) < lengths[:, None]).long()
    states = torch.randn(count, config.image_tokens, config.vision_width)
    similarity = torch.rand(count, TEXTS * count)
    given = (one.to(plan.device) for one in (states, ids * mask, mask, similarity))
    return Task(LoadedBlip(ours, open_tokenizer(None, config)), theirs, *given, count // 2)


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
    counted = flops(lambda: original(task)) / flops(lambda: ours(task))
    record.figure(f"rerank_flops_ratio{plan.suffix}", counted)
    sides = {"original fp32": lambda: original(task), "ours fp32": lambda: ours(task)}
    images, texts = task.similarity.shape
    times = compare(f"re-ranking, {images} pictures, {texts} texts, {task.k} listed", sides)
    found = ratio(times["original fp32"], times["ours fp32"])
    record.figure(f"rerank_time_ratio{plan.suffix}", found)
