"""What stands in a page verbatim, and the policy that lets nothing else act.

A page's own style and script are allowed by their hashes; data reaches the script as JSON in which
no character can end the element that holds it.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

TEMPLATES = Path(__file__).parent
# Characters that mean something to HTML, or end a line of JavaScript but not of JSON.
ESCAPED = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def own_text(*names: str) -> Markup:
    """The package's own style sheets or scripts, joined."""
    parts = [(TEMPLATES / name).read_text(encoding="utf-8") for name in names]
    return Markup("\n".join(parts))


def as_json(value: Any) -> Markup:
    """Plain values as JSON for a `<script type="application/json">`.

    Raises:
        ValueError: a number that is not finite.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # Half of a surrogate pair cannot be written as UTF-8.
    return Markup(text.translate(ESCAPED).encode("utf-8", "replace").decode())


def policy(style: str, scripts: Sequence[str] = ()) -> str:
    """The content security policy of a page: its style, its scripts, pictures it carries itself.

    Args:
        style: content of its `<style>` element.
        scripts: content of its `<script>` elements; without any, none may run.
    """
    parts = ["default-src 'none'", "img-src data:", f"style-src {hash_source(style)}"]
    if scripts:
        parts.append(f"script-src {' '.join(map(hash_source, scripts))}")
    parts += ["base-uri 'none'", "form-action 'none'"]
    # No text becomes markup, not even by a mistake of the page's own script.
    parts += ["require-trusted-types-for 'script'", "trusted-types 'none'"]
    return "; ".join(parts)


def hash_source(text: str) -> str:
    """How a policy names the content of an element."""
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
