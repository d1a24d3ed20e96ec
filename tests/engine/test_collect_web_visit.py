"""A row's visit: its host gets the pause that it asks for, and each try starts where the list says.

Servers are stood in for by what they answer.
"""

from collections.abc import Callable
from email.message import Message

import pytest

from engine.collect.web import visit as visiting
from engine.collect.web.address import Connector
from engine.collect.web.config import FetchSection, WebConfig
from engine.collect.web.request import Answer
from engine.collect.web.schedule import Schedule
from engine.collect.web.url import Url, parse_url
from engine.collect.web.visit import Again, Job, Visitor
from engine.collect.web.workers import Workers

LISTED, SENT_TO = parse_url("http://a.test/listed"), parse_url("http://b.test/sent_to")


def answers(monkeypatch: pytest.MonkeyPatch, of: Callable[[Url], Answer]) -> None:
    """What all servers answer."""
    monkeypatch.setattr(visiting, "ask", lambda connector, url, *bounds: of(url))


def answer(status: int, body: bytes = b"", **headers: str) -> Answer:
    message = Message()
    for name, value in headers.items():
        message[name] = value
    return Answer(status, message, body)


@pytest.mark.parametrize(("wanted", "given"), [(3, 3.0), (99, 10.0)])
def test_a_host_gets_the_pause_of_its_robots_within_reason(
    wanted: int, given: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    robots = f"User-agent: *\nCrawl-delay: {wanted}\n".encode()
    bodies = {"/robots.txt": robots, LISTED.path: b"a picture"}
    answers(monkeypatch, lambda url: answer(200, bodies[url.path]))
    job = Job(0, LISTED)
    found = Visitor(FetchSection(), Connector()).visit(job)
    assert isinstance(found, Answer) and found.body == b"a picture"
    assert job.pause == given


def test_another_try_starts_where_the_list_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the first try was sent on to may have been the mistake."""
    found = {LISTED: answer(302, Location=str(SENT_TO)), SENT_TO: answer(503)}
    answers(monkeypatch, found.__getitem__)
    visitor, job = Visitor(FetchSection(robots=False), Connector()), Job(0, LISTED)
    assert visitor.visit(job) == Again()
    assert (job.url, job.redirects, job.tries) == (SENT_TO, 1, 0)
    assert visitor.visit(job) == Again(FetchSection().first_wait)
    assert (job.url, job.redirects, job.tries) == (LISTED, 0, 1)


@pytest.mark.parametrize("status", [200, 404, 503])
def test_the_schedule_is_told_of_the_pause_whatever_the_host_answers(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"/robots.txt": answer(200, b"User-agent: *\nCrawl-delay: 3\n")}
    answers(monkeypatch, lambda url: found.get(url.path, answer(status)))
    schedule, told = Schedule(1, 0.0), []
    schedule.close()
    monkeypatch.setattr(schedule, "done", lambda *given: told.append(given))
    visitor = Visitor(FetchSection(), Connector())
    workers = Workers(WebConfig(workers=1), schedule, visitor, lambda *outcome: None)
    workers._row(Job(0, LISTED))
    assert told == [("a.test", 3.0)]
