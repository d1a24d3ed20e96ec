"""Faults that a sample of the pairs shows: what cannot be used, repeats, and what is cut off."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
from PIL import Image

from engine.check.pairs import Pairs
from engine.check.setup import Setup
from engine.data.captions import SPACES, clean_caption
from engine.data.images import BadSample, decode_image
from engine.data.shards import DAMAGED
from engine.data.source import RawSample
from engine.data.videos import decode_video
from engine.findings import Finding, error, warning

# Pixels that are decoded in all: a second's worth, or two.
PIXELS = 150_000_000
# Shares from which on a set is doubtful.
SAME_TEXT, CUT_TEXTS, REPEATS, SHARED = 0.5, 0.1, 0.2, 0.01
ADVICE = {
    "hash_mismatch": "python launch/pack.py verify names every damaged sample; fetch them again",
    "truncated_shard": "fetch the shard again",
    "missing": "is data.image_root the folder that the list's paths start from?",
    "empty_caption": "is the column of captions the right one? Leave such pairs out",
    "bad_text": "captions must be texts",
    "too_many_pixels": "make them smaller, or raise data.max_pixels",
}
PICTURES = "are they JPEG, PNG or WebP, and whole? Leave such pairs out"


def unusable(setup: Setup) -> Iterator[Finding]:
    """Sampled pairs that the run would replace by others, by reason."""
    for pairs in (setup.train, setup.held_out):
        if pairs is None:
            continue
        left, reasons, first = PIXELS, Counter(), {}
        for raw in pairs.samples:
            reason, pixels = _problem(setup, raw, left)
            left -= pixels
            if reason:
                reasons[reason] += 1
                first.setdefault(reason, raw.key)
        share = sum(reasons.values()) / len(pairs.samples)
        for reason, count in reasons.items():
            serious = reason in DAMAGED or share > setup.config.data.max_bad_fraction
            kind = "sample_damaged" if reason in DAMAGED else f"sample_{reason}"
            line = (
                f"{pairs.key}: {count} of {len(pairs.samples)} sampled pairs cannot be used: "
                f"{reason} (such as {first[reason]}): {ADVICE.get(reason, PICTURES)}"
            )
            yield error(kind, line) if serious else warning(kind, line)


def _problem(setup: Setup, raw: RawSample, left: int) -> tuple[str, int]:
    """Why a pair cannot be used, or "", and how many pixels were decoded to know."""
    pixels, data = 0, setup.config.data
    try:
        if raw.problem:
            raise BadSample(raw.problem)
        contents = (raw.image, raw.second) if raw.second is not None else (raw.image,)
        for content in contents if left > 0 else ():
            for image in _pictures(setup, content):
                pixels += image.width * image.height
        # A picture without a caption is given one.
        if setup.task != "capfilt":
            _first_usable(raw, data.max_words)
    except BadSample as bad:
        return bad.reason, pixels
    return "", pixels


def _pictures(setup: Setup, content: bytes | None) -> list[Image.Image]:
    data = setup.config.data
    if setup.task.startswith("video_"):
        return decode_video(content, data.frames, data.max_pixels)
    return [decode_image(content, data.max_pixels)]


def _first_usable(raw: RawSample, max_words: int) -> str:
    """The first caption that can be used, cleaned.

    Raises:
        BadSample: there is none.
    """
    problem = BadSample("empty_caption")
    for caption in raw.captions:
        try:
            return clean_caption(caption, max_words)
        except BadSample as bad:
            problem = bad
    raise problem


def _captions(setup: Setup, pairs: Pairs, max_words: int) -> list[str]:
    texts = []
    for raw in pairs.samples if setup.of_pairs else ():
        try:
            texts.append(_first_usable(raw, max_words))
        except BadSample:
            continue
    return texts


def same_caption(setup: Setup) -> Iterator[Finding]:
    """One text for most pictures teaches nothing."""
    texts = _captions(setup, setup.train, setup.config.data.max_words) if setup.train else []
    if len(texts) < 8:
        return
    text, count = Counter(texts).most_common(1)[0]
    if count > SAME_TEXT * len(texts):
        yield error(
            "caption_repeated",
            f"data.train: {count} of {len(texts)} sampled captions are {text[:40]!r}: is the "
            "column of captions the right one? Leave such pairs out",
        )


def cut_captions(setup: Setup) -> Iterator[Finding]:
    """Captions that are longer than what the run keeps of them."""
    if setup.train is None or setup.tokenizer is None or not setup.of_pairs:
        return
    data = setup.config.data
    whole = _captions(setup, setup.train, 1 << 20)
    texts = _captions(setup, setup.train, data.max_words)
    if not texts:
        return
    long = sum(len(SPACES.split(text)) > data.max_words for text in whole)
    if long > CUT_TEXTS * len(whole):
        yield warning(
            "max_words",
            f"data.max_words {data.max_words} cuts {long} of {len(whole)} sampled captions: raise "
            "it, and data.max_tokens with it",
        )
    prompt = setup.objective.prompt if setup.objective else ""
    _, mask = setup.tokenizer.encode([f"{prompt} {text}" for text in texts], 512)
    lengths = mask.sum(1)
    long = int((lengths > data.max_tokens).sum())
    if long > CUT_TEXTS * len(texts):
        enough = int(lengths.float().quantile(1 - CUT_TEXTS / 2).ceil())
        yield warning(
            "max_tokens",
            f"data.max_tokens {data.max_tokens} cuts {long} of {len(texts)} sampled captions: "
            f"{enough} keeps 95 % of them whole",
        )


def repeats(setup: Setup) -> Iterator[Finding]:
    """Pairs that are there more than once, byte for byte."""
    hashes = setup.train.pair_hashes() if setup.train else np.zeros(0, np.uint64)
    hashes = hashes[hashes != 0]
    more = len(hashes) - len(np.unique(hashes))
    if more > REPEATS * len(hashes):
        yield warning(
            "pairs_repeated",
            f"data.train: {more} of {len(hashes)} pairs are exact repeats: they meet themselves as "
            "negatives; leave them out",
        )


def repeated_names(setup: Setup) -> Iterator[Finding]:
    """Pairs of one name: sampled captions, ledgers and purges go by names."""
    more = setup.train.repeated_names() if setup.train else 0
    if more:
        yield warning(
            "uid_repeated",
            f"data.train: {more} pairs have the uid of another pair: nothing by uid tells them "
            "apart; to give each its own: python launch/pack.py convert SHARDS --output_dir NEW",
        )


def shared_with_evaluation(setup: Setup) -> Iterator[Finding]:
    """Held-out pairs that are trained on: the evaluation would measure memory."""
    train, held_out = setup.train, setup.held_out
    if train is None or held_out is None:
        return
    ours, theirs = train.picture_hashes(), held_out.picture_hashes()
    pictures = len(np.intersect1d(ours, theirs, assume_unique=True))
    names = held_out.names()
    named = len(names & train.names())
    for count, whole, what in (
        (pictures, len(theirs), "pictures"),
        (named, len(names), "names (uid, or path of the picture)"),
    ):
        if count:
            line = (
                f"data.eval: {count} of {whole} {what} are in data.train too: the evaluation would "
                "measure what was trained on; take them out of one of the two"
            )
            serious = count > SHARED * whole
            yield error("eval_shared", line) if serious else warning("eval_shared", line)
            return


CHECKS = (unusable, same_caption, cut_captions, repeats, repeated_names, shared_with_evaluation)
