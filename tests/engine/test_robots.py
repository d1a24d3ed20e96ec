"""What robots.txt allows, as RFC 9309 has it."""

from email.message import Message

import pytest

from engine.collect.web import robots_cache
from engine.collect.web.refusal import Refused
from engine.collect.web.request import Answer
from engine.collect.web.robots import MAX_BYTES, MAX_RULES, parse_robots
from engine.collect.web.url import Url, parse_url

ROBOTS = """\ufeffUser-agent: a
User-agent: Blip-Engine/9 # that is us
Disallow: /x/*/secret$
Disallow: /fold
Allow: /folder/open
Crawl-delay: 3

User-agent: *
Disallow: /
"""


def test_robots_are_read_as_rfc_9309_says() -> None:
    rules = parse_robots(ROBOTS.encode(), "blip-engine")
    asked = {
        "/": True,
        "/x/y/secret": False,
        "/x/y/secret?": True,
        "/x/secret": True,
        "/fold": False,
        "/folder/closed": False,
        "/folder/open/z": True,
        "/%66old": False,
    }
    assert {path: rules.allow(path) for path in asked} == asked
    assert rules.delay == 3
    assert not parse_robots(ROBOTS.encode(), "other").allow("/z")
    assert parse_robots(b"", "blip-engine").allow("/z")
    assert parse_robots(b"Disallow: /\n\xff\xfe\x00", "blip-engine").allow("/z")
    assert parse_robots(b"User-agent: *\nDisallow:\n", "blip-engine").allow("/z")
    late = b"#" * MAX_BYTES + b"\nUser-agent: *\nDisallow: /\n"
    assert parse_robots(late, "blip-engine").allow("/z")


@pytest.mark.parametrize("lines", ["Disallow: /a\nAllow: /a\n", "Allow: /a\nDisallow: /a\n"])
def test_of_rules_of_one_length_the_one_that_allows_counts(lines: str) -> None:
    rules = parse_robots(f"User-agent: *\n{lines}Disallow: /ab\n".encode(), "blip-engine")
    assert rules.allow("/a")
    assert not rules.allow("/ab")


def test_the_pause_of_other_agents_does_not_count_for_ours() -> None:
    robots = b"User-agent: *\nCrawl-delay: 9\n\nUser-agent: blip-engine\nDisallow: /x\n"
    assert parse_robots(robots, "blip-engine").delay == 0
    assert parse_robots(robots, "other").delay == 9


def test_escaped_letters_of_robots_are_no_wildcards() -> None:
    rules = b"User-agent: *\nDisallow: /a%24\nDisallow: /b%2a/\nDisallow: /c*d\nDisallow: /e$\n"
    asked = {
        "/a": True,
        "/a$x": False,
        "/a%24x": False,
        "/bx/": True,
        "/b*/": False,
        "/b%2A/": False,
        "/cxd": False,
        "/c*d": False,
        "/e": False,
        "/e$": True,
    }
    found = parse_robots(rules, "blip-engine")
    assert {path: found.allow(path) for path in asked} == asked


def test_rules_beyond_those_that_are_looked_at_allow_nothing() -> None:
    lines = "".join(f"Allow: /{number}\n" for number in range(MAX_RULES))
    few = parse_robots(f"User-agent: *\n{lines}".encode(), "blip-engine")
    many = parse_robots(f"User-agent: *\n{lines}Disallow: /private\n".encode(), "blip-engine")
    assert few.allow("/private")
    assert not many.allow("/private") and not many.allow("/other")


def test_hostile_patterns_are_matched_in_linear_time() -> None:
    rules = parse_robots(b"User-agent: *\nDisallow: /" + b"*a" * 2000 + b"b$\n", "blip-engine")
    assert rules.allow("/" + "a" * 4000)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_is_unwell_is_not_asked_by_every_row(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is asked again soon: it may be well at any time. Until then it allows nothing."""
    now, asked = [0.0], []
    monkeypatch.setattr(robots_cache.time, "monotonic", lambda: now[0])

    def ask(url: Url) -> Answer:
        asked.append(url)
        return Answer(status if len(asked) < 3 else 404, Message(), b"")

    cache, url = robots_cache.RobotsCache(ask, "blip-engine"), parse_url("http://a.test/b")
    for moment, times in ((1.0, 1), (2.0, 1), (5.9, 1), (6.1, 2), (10.0, 2)):
        now[0] = moment
        with pytest.raises(Refused) as caught:
            cache.rules(url)
        found = caught.value
        assert (found.reason, found.passing, found.status) == ("robots_unreachable", True, status)
        assert len(asked) == times
    now[0] = 12.0
    assert cache.rules(url).allow("/b")
    assert len(asked) == 3
