"""What the lists alone say against a pair, before anybody is asked for its picture."""

import re

from engine.collect.web.census import CaptionCounts, spelling
from engine.collect.web.config import ScreenSection, uid_of
from engine.collect.web.language import speaks
from engine.collect.web.lists import Row
from engine.collect.web.refusal import Refused
from engine.collect.web.url import Url, parse_url
from engine.data.pair_names import Repeats

WORD = re.compile(r"\w+")


class TextScreen:
    """Looks at the rows of the lists, in order.

    Args:
        section: of the settings.
        counts: of captions, or None.
        purged: uids that must not come back.
    """

    def __init__(
        self, section: ScreenSection, counts: CaptionCounts | None, purged: frozenset[str]
    ) -> None:
        self.section, self.counts, self.purged = section, counts, purged
        self._repeats = Repeats()

    def pass_over(self, row: Row) -> None:
        """Note a row of a shard that is finished."""
        if row.url is not None and row.caption is not None:
            self._repeats.meets(uid_of(row.url, row.caption))

    def look_at(self, row: Row) -> Url:
        """Where the picture of a row is.

        Raises:
            Refused: `bad_row` without a text for each, `purged`, `repeated_row`, what `parse_url`
                says, or a reason that begins with `caption_`.
        """
        if row.url is None or row.caption is None:
            raise Refused("bad_row")
        uid = uid_of(row.url, row.caption)
        if self._repeats.meets(uid):
            raise Refused("repeated_row")
        if uid in self.purged:
            raise Refused("purged")
        url = parse_url(row.url)
        self._caption(row.caption)
        return url

    def _caption(self, caption: str) -> None:
        section, plain = self.section, spelling(caption)
        words = len(WORD.findall(plain))
        if not plain:
            raise Refused("caption_empty")
        if words < section.min_words or len(plain) < section.min_characters:
            raise Refused("caption_short")
        if words > section.max_words or len(plain) > section.max_characters:
            raise Refused("caption_long")
        if section.languages and not speaks(plain, section.languages):
            raise Refused("caption_language")
        if section.max_repeats and self.counts and self.counts[caption] > section.max_repeats:
            raise Refused("caption_frequent")
