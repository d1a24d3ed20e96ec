"""Thirty texts that try to act in a page: to set a mark, or to ask a canary server."""

import json
from pathlib import Path

from engine.capfilt.rule import SYNTHETIC, WEB, Candidate
from engine.capfilt.table import Scored
from tests.capfilt_folder import write_capfilt

# A few that show, by how they stand in a page, whether they were escaped.
SHORT = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</title></style><svg onload=alert(1)>",
    "{{ 7 * 7 }}{% include '/etc/passwd' %}",
    "]]><!--<a href=javascript:alert(1)>",
]
MARK = "document.documentElement.dataset.acted=1"


def payloads(canary: str) -> list[str]:
    """The texts.

    Args:
        canary: address of a server that counts requests, without a slash at the end.
    """
    act = f"{MARK};fetch('{canary}/fetch')"
    return [
        f"<script>{act}</script>",
        f"</script><script>{act}</script>",
        f'"}}]}}</script><img src=x onerror="{act}">',
        f'"><img src="{canary}/attribute" onerror="{act}">',
        f"' onmouseover='{act}' autofocus onfocus='{act}",
        f"</title></style></textarea><svg onload={act}>",
        f"<svg><script>{act}</script></svg>",
        f"<svg><animate onbegin={act} attributeName=x dur=1s>",
        f'<a href="javascript:{act}" id=controls>click</a>',
        f"javascript:{act}",
        f"&lt;script&gt;{act}&lt;/script&gt;",
        f"&#60;script&#62;{act}&#60;/script&#62;",
        f"{{{{ 7 * 7 }}}}{{% include '/etc/passwd' %}}${{{MARK}}}<% {act} %>",
        f"<!--<script>{act}",
        f"--><script>{act}</script><!--",
        f"]]><script>{act}</script>",
        f"<base href={canary}/base/>",
        f'<meta http-equiv=refresh content="0;url={canary}/refresh">',
        f'<iframe srcdoc="<script>parent.{MARK}</script>"></iframe>',
        f"<iframe src={canary}/frame></iframe><object data={canary}/object></object>",
        f"<link rel=stylesheet href={canary}/style><style>@import '{canary}/import';</style>",
        f"}}body{{background:url({canary}/css)}}</style><style>*{{color:red}}",
        f"<form action={canary}/form><input name=words autofocus onfocus={act}><button id=more>",
        f"<video src={canary}/video onerror={act}><audio src=x onerror={act}>",
        f"<details open ontoggle={act}><marquee onstart={act}>",
        f"\u2028\u2029{act}\u2028//",
        f"\u202e<script>{act}</script>\u202c\u2066\ufeff",
        f"\x00<scr\x00ipt>{act}</scr\x00ipt>\x1b[2J",
        "__proto__\\u003cscript\\u003e\\x3cscript\\x3e'\"`\\",
        f"<script>{act}</script>" * 2000,
    ]


def hostile_run(root: Path, texts: list[str]) -> Path:
    """A run in which every text of strangers is a payload."""
    pictures = [
        Scored(
            f"{number}{text}",
            text,
            [
                Candidate(WEB, text, 0.9, 0.3),
                Candidate(SYNTHETIC, text + " a fox", 0.1, 0.2),
                Candidate(SYNTHETIC, text, None, None, text[:400]),
            ],
        )
        for number, text in enumerate(texts)
    ]
    # What a file can be called at all.
    name = texts[8].replace("/", "")[:80]
    write_capfilt(root, {name: pictures}, train=texts[0])
    rows = [{"shard": t, "key": t, "uid": t, "reason": t[:150]} for t in texts]
    rows += [{"shard": t, "reason": t} for t in texts[:9]]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (root / "quarantine" / "x.jsonl").write_text(lines)
    times = [
        {"shard": t, "pictures": 2, "begun": n, "ended": n + 3, "process": t}
        for n, t in enumerate(texts)
    ]
    (root / "throughput.jsonl").write_text("".join(json.dumps(row) + "\n" for row in times))
    rounds = [
        {"round": n, "accepted": n % 2, "reasons": [t], "guard": {t: t, "kept_share": 0.5}}
        | {"folders": {t: t, "capfilt": str(root)}}
        for n, t in enumerate(texts[:9])
    ]
    (root.parent / "bootstrap.json").write_text(json.dumps({"rounds": rounds, "best_round": 0}))
    return root
