"""What robots.txt allows, as RFC 9309 has it."""

from engine.collect.web.robots import MAX_BYTES, MAX_RULES, parse_robots

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
