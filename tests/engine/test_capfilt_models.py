"""Captions and scores are those that `engine.load(...)` gives, one picture at a time."""

import pytest
import torch

import engine
from blip_model.beams import Beams
from blip_model.nucleus import Nucleus
from engine.capfilt import filter as filter_module
from engine.capfilt.captioner import Captioner
from engine.capfilt.config import CaptionSection
from engine.capfilt.filter import PairFilter
from engine.config import ConfigError
from engine.inference import LoadedBlip
from tests.capfilt_runs import make_world
from tests.shards import caption, picture

COUNT = 5
UIDS = [f"uid-{n}" for n in range(COUNT)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LoadedBlip]:
    world = make_world(tmp_path_factory.mktemp("models"))
    return {name: engine.load(world / name, device="cpu") for name in ("captioner", "filter")}


def encoded(blip: LoadedBlip) -> torch.Tensor:
    with torch.no_grad():
        return blip.model.encode_image(blip.views([picture(n) for n in range(COUNT)]))


def made_by(captioner: Captioner, states: torch.Tensor, uids: list[str]) -> list[list[str]]:
    """Captions of two groups of pictures in fewer slots than there are pictures."""
    groups = [(states[:2], uids[:2]), (states[2:], uids[2:])]
    groups = [(some, names) for some, names in groups if names]
    with torch.no_grad():
        made = list(captioner.captions(groups, 3))
    assert [len(group) for group in made] == [len(names) for _, names in groups]
    return [texts for group in made for texts in group]


def test_greedy_and_beam_captions_are_those_of_caption(models: dict[str, LoadedBlip]) -> None:
    blip = models["captioner"]
    images, states = [picture(n) for n in range(COUNT)], encoded(models["captioner"])
    seen = set()
    for settings, same in [
        ({"top_k": 1}, {"top_p": 1e-6}),
        ({"method": "beam", "num_beams": 2}, {"num_beams": 2}),
    ]:
        lengths = {"max_length": 8, "min_length": 6}
        made = made_by(Captioner(blip, CaptionSection(**settings, **lengths), 0), states, UIDS)
        expected = blip.caption(images, **same, **lengths)
        assert made == [[text] for text in expected]
        seen |= set(expected)
    assert len(seen) > 1


def test_a_caption_is_a_function_of_seed_uid_and_number(models: dict[str, LoadedBlip]) -> None:
    blip, states = models["captioner"], encoded(models["captioner"])
    settings = CaptionSection(samples=2, max_length=7)
    captioner = Captioner(blip, settings, 7)
    made = made_by(captioner, states, UIDS)
    assert [len(set(texts)) for texts in made] == [2] * COUNT
    order = [3, 0, 4]
    mixed = made_by(captioner, states[order], [UIDS[n] for n in order])
    assert mixed == [made[n] for n in order]
    fewer = Captioner(blip, CaptionSection(samples=1, max_length=7), 7)
    assert made_by(fewer, states[:1], UIDS[:1]) == [made[0][:1]]
    assert made_by(Captioner(blip, settings, 8), states, UIDS) != made
    assert made_by(captioner, states, [f"other {uid}" for uid in UIDS]) != made


def test_the_numbers_that_are_drawn_by_are_uniform(models: dict[str, LoadedBlip]) -> None:
    captioner = Captioner(models["captioner"], CaptionSection(samples=10, max_length=20), 0)
    numbers = captioner._uniforms([str(n) for n in range(100)])
    assert numbers.shape == (100, 10, 20)
    assert numbers.min() >= 0 and numbers.max() < 1
    assert numbers.unique().numel() > 0.999 * numbers.numel()
    counts = torch.histc(numbers.float(), 20, 0, 1)
    assert ((counts - 1000).abs() < 5 * 1000**0.5).all()


@pytest.mark.parametrize("method", ["nucleus", "beam"])
def test_captions_are_made_by_the_settings(models: dict[str, LoadedBlip], method: str) -> None:
    lengths = {"max_length": 9, "min_length": 6}
    if method == "beam":
        own = {"num_beams": 4, "length_penalty": 0.5}
    else:
        own = {"top_p": 0.7, "top_k": 11, "temperature": 1.5, "samples": 3}
    kind, default = {"beam": (Beams, 1.0), "nucleus": (Nucleus, 1.1)}[method]
    for given, penalty in ({}, default), ({"repetition_penalty": 1.4}, 1.4):
        settings = CaptionSection(method=method, **lengths, **own, **given)
        made = Captioner(models["captioner"], settings, 0)._how()
        assert made == kind(repetition_penalty=penalty, **lengths, **own)


def test_scores_are_those_of_match_and_of_both_features(models: dict[str, LoadedBlip]) -> None:
    blip = models["filter"]
    texts = [[caption(n + k) for k in range(1 + n % 3)] for n in range(COUNT)]
    texts[1] = []
    found = PairFilter(blip, 35).scores(encoded(blip), texts)
    probabilities = []
    for number, (many, scores) in enumerate(zip(texts, found, strict=True)):
        assert len(scores) == len(many)
        for text, (itm, itc) in zip(many, scores, strict=True):
            assert itm == pytest.approx(blip.match(picture(number), text).item(), abs=1e-5)
            cosine = blip.embed_images(picture(number)) @ blip.embed_texts(text).T
            assert itc == pytest.approx(cosine.item(), abs=1e-5)
            probabilities.append(itm)
    assert min(probabilities) < 0.5 < max(probabilities)
    assert PairFilter(blip, 35).scores(encoded(blip), [[]] * COUNT) == [[]] * COUNT


def test_so_many_tokens_of_a_text_count_and_no_more_than_there_are_positions(
    models: dict[str, LoadedBlip],
) -> None:
    blip, positions = models["filter"], models["filter"].model.config.max_positions
    states = encoded(blip)[:1]
    # Beside three of words [ENC] and [SEP].
    texts = [["red fox red blue square", "red fox red"]]
    ((long, short),) = PairFilter(blip, 5).scores(states, texts)
    assert long == pytest.approx(short, abs=1e-6)
    ((long, short),) = PairFilter(blip, 7).scores(states, texts)
    assert long != pytest.approx(short, abs=1e-6)
    many = [["red " * 2 * positions, "red " * (positions - 2)]]
    ((long, short),) = PairFilter(blip, 3 * positions).scores(states, many)
    assert long == pytest.approx(short, abs=1e-6)


def test_any_number_of_texts_is_scored_in_parts(
    models: dict[str, LoadedBlip], monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, texts = PairFilter(models["filter"], 35), [["a fox", "red", "a blue square", "b"], []]
    texts += [[caption(number)] for number in range(COUNT - 2)]
    states = encoded(models["filter"])
    at_once = judge.scores(states, texts)
    monkeypatch.setattr(filter_module, "MOST", 3)
    for many, others in zip(judge.scores(states, texts), at_once, strict=True):
        assert len(many) == len(others)
        for pair, other in zip(many, others, strict=True):
            assert pair == pytest.approx(other, abs=1e-5)


def test_weights_that_lack_a_part_or_are_broken(models: dict[str, LoadedBlip]) -> None:
    with pytest.raises(ConfigError, match="cannot caption: they have no text_decoder"):
        Captioner(models["filter"], CaptionSection(), 0)
    with pytest.raises(ConfigError, match="cannot retrieve or score: .* no text_encoder"):
        PairFilter(models["captioner"], 35)
    with pytest.raises(ConfigError, match="max_length is 4: must be above the prompt's 4"):
        Captioner(models["captioner"], CaptionSection(max_length=4, min_length=1), 0)
    states = encoded(models["filter"]) * float("nan")
    with pytest.raises(ConfigError, match="scores are not finite"):
        PairFilter(models["filter"], 35).scores(states, [["a"]] * COUNT)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0}, "temperature is 0: must be above 0"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0: must be above 0"),
        ({"top_p": float("nan")}, "top_p is nan: must be above 0 and at most 1"),
        ({"samples": 0}, "samples is 0: must be at least 1"),
        ({"min_length": 21}, "min_length 21 is more than max_length 20"),
    ],
)
def test_settings_made_in_python_are_looked_at_too(
    models: dict[str, LoadedBlip], settings: dict, message: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        Captioner(models["captioner"], CaptionSection(**settings), 0)
