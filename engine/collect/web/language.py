"""A guess at the language of a short text, by its script and its most frequent words.

No model: a text is refused only where its letters or its words speak against every language asked
for. Names and other texts without a known word are let through in their script.
"""

import re
import unicodedata
from collections.abc import Collection
from functools import lru_cache

# Words of length 2 and more that stand in a large share of sentences, and names of scripts as
# Unicode has them. Languages of one script without words here cannot be told apart.
LATIN = {
    "en": "the of and in on with for is are at by from this that an to its his her no not under "
    "over near through into between who has wearing while two",
    "de": "in an der die das und ein eine einen einer im mit auf von zu für den dem des ist am aus "
    "bei nach über unter vor durch zwei",
    "fr": "le la les de des du et un une dans avec sur pour est au aux par en son ses qui sous "
    "vers entre chez deux",
    "es": "el la los las de del y un una en con sobre por para es al su sus que bajo entre desde "
    "hacia hasta dos",
    "it": "in il lo la gli le di del della dei delle ed un una nel nella con su per che da al alla "
    "sul sulla sotto tra fra due",
    "pt": "os as de do da dos das um uma no na nos nas com em por para que ao sob entre seu sua "
    "dois duas",
    "nl": "de het een en van op met in voor is aan bij uit naar door onder over tussen zijn haar "
    "die dat te twee",
}
SCRIPTS = {
    "ru": ("CYRILLIC",),
    "uk": ("CYRILLIC",),
    "el": ("GREEK",),
    "ar": ("ARABIC",),
    "he": ("HEBREW",),
    "hi": ("DEVANAGARI",),
    "th": ("THAI",),
    "ko": ("HANGUL", "CJK"),
    "ja": ("HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "CJK"),
    "zh": ("CJK",),
}
LANGUAGES = (*LATIN, *SCRIPTS)
WORDS = {code: frozenset(words.split()) for code, words in LATIN.items()}
WORD = re.compile(r"[^\W\d_]{2,}")
# Of the letters, in the script of a language asked for.
SHARE = 0.7


def speaks(text: str, languages: Collection[str]) -> bool:
    """Whether a text may be in one of some languages; a text without letters is in none.

    Args:
        text: a caption.
        languages: codes out of `LANGUAGES`.
    """
    scripts = [_script(character) for character in text if character.isalpha()]
    wanted = {name for code in languages for name in SCRIPTS.get(code, ("LATIN",))}
    if not scripts or sum(name in wanted for name in scripts) < SHARE * len(scripts):
        return False
    if scripts.count("LATIN") * 2 < len(scripts):
        return True
    words = set(WORD.findall(text.lower()))
    hits = {code: len(words & known) for code, known in WORDS.items()}
    best = max(hits.values())
    return not best or any(hits.get(code) == best for code in languages)


@lru_cache(1 << 16)
def _script(character: str) -> str:
    return unicodedata.name(character, "?").partition(" ")[0]
