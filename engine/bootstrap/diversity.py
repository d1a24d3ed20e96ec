"""How varied captions are: a captioner that has collapsed says the same of everything."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from engine.capfilt.folder import OutputFolder
from engine.capfilt.rule import SYNTHETIC, WEB
from engine.capfilt.table import Scored, from_bytes
from engine.config import ConfigError
from engine.evaluation.metrics import n_grams, words

COMMONEST = 10


def diversity(texts: Iterable[str]) -> dict[str, float]:
    """Distinct n-grams and the weight of the commonest texts.

    distinct_n is the number of different n-grams over that of all n-grams (Li et al. 2016,
    arXiv:1510.03055), which falls with the number of texts: compare it for equally many. Texts are
    compared by their words.

    Returns:
        distinct_1, distinct_2, commonest_share and commonest_10_share, each in [0, 1]; 0 and 1
        where there is no text at all.
    """
    grams: list[Counter] = [Counter(), Counter()]
    said: Counter[str] = Counter()
    for text in texts:
        tokens = words(text)
        said[" ".join(tokens)] += 1
        for whole, counts in zip(grams, n_grams(tokens, 2), strict=True):
            whole.update(counts)
    count = said.total()
    commonest = [number for _, number in said.most_common(COMMONEST)]
    return {
        **{f"distinct_{n}": len(g) / max(g.total(), 1) for n, g in enumerate(grams, 1)},
        "commonest_share": commonest[0] / count if count else 1.0,
        f"commonest_{COMMONEST}_share": sum(commonest) / count if count else 1.0,
    }


def compare(captions: dict[str, list[str]]) -> dict[str, float]:
    """Diversity of synthetic captions, and beside it that of web captions as `web_...`.

    Args:
        captions: equally many by source, from `first_texts`.
    """
    web = {f"web_{name}": value for name, value in diversity(captions[WEB]).items()}
    return diversity(captions[SYNTHETIC]) | web


def first_texts(folder: Path) -> dict[str, list[str]]:
    """The first web and the first synthetic text of every picture that has both.

    Args:
        folder: output of captioning and filtering.

    Raises:
        ConfigError: a table that is damaged.
    """
    texts: dict[str, list[str]] = {WEB: [], SYNTHETIC: []}
    for path in sorted(OutputFolder(folder).table.glob("*.parquet")):
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from None
        for picture in from_bytes(content, str(path)):
            first = _first(picture)
            if len(first) == len(texts):
                for source, text in first.items():
                    texts[source].append(text)
    return texts


def _first(picture: Scored) -> dict[str, str]:
    first: dict[str, str] = {}
    for candidate in picture.candidates:
        first.setdefault(candidate.source, candidate.text)
    return first
