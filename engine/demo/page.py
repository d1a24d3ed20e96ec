"""The page itself: one document with its own style and script, which loads nothing."""

from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from engine.demo.config import DemoConfig
from engine.demo.folder import Folder
from engine.demo.models import DemoModels
from engine.report.embedding import hash_source

PARTS = Path(__file__).parent
STYLE, SCRIPTS = "style.css", ("heat.js", "script.js")


@dataclass(frozen=True)
class Page:
    """What a visitor gets.

    Attributes:
        html: encoded.
        policy: its content security policy.
    """

    html: bytes
    policy: str


def build_page(config: DemoConfig, models: DemoModels, folder: Folder | None, token: str) -> Page:
    """The page for what these models can do.

    Args:
        config: of the demo.
        models: behind it.
        folder: to search, or None.
        token: that its requests carry.
    """
    environment = Environment(
        loader=FileSystemLoader(PARTS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = _own(STYLE)
    script = "\n".join(map(_own, SCRIPTS))
    html = environment.get_template("page.html").render(
        models=["/".join(Path(place).parts[-2:]) for place in config.models],
        can={
            "captions": models.captions is not None,
            "match": models.matches is not None,
            "answer": models.answers is not None,
        },
        folder=Path(config.folder or "").resolve().name if folder else None,
        count=len(folder.reads) if folder else 0,
        skipped=folder.skipped if folder else "",
        prompt=models.style.prompt,
        limit=config.max_upload_bytes,
        token=token,
        style=Markup(style),
        script=Markup(script),
    )
    return Page(html.encode("utf-8", "replace"), _policy(style, script))


def _own(name: str) -> str:
    return (PARTS / name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """The page's own style and script by their hashes, its own requests, and pictures that it
    holds itself; no text becomes markup, and no other page frames it."""
    parts = [
        "default-src 'none'",
        f"style-src {hash_source(style)}",
        f"script-src {hash_source(script)}",
        "connect-src 'self'",
        "img-src blob: data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
    return "; ".join(parts)
