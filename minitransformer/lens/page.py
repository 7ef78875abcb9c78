"""One HTML file that shows what is inside a model. It needs no network, and its security policy allows none."""

import base64
import hashlib
import html
import json
import re
from collections.abc import Sequence
from importlib.resources import files

from minitransformer.errors import InputError
from minitransformer.lens.payload import payload
from minitransformer.lens.tabs import Tab

# Joined in this order to the page's one script.
SCRIPTS = ("text", "data", "selection", "drawing", "matrix", "attention", "steps", "scores", "export", "page")

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<noscript>This page draws its pictures with JavaScript, which is switched off.</noscript>
{data}
<script>{script}</script>
</body>
</html>
"""


def page(title: str, tabs: Sequence[Tab], *, notes: Sequence[str] = (), start: str = "") -> str:
    """A whole HTML file that shows these tabs. All words are shown as text, whatever stands in them.

    `notes` say what the pictures do not show. `start` is what is selected at first, as the page's address says it:
    "view=model&layer=3". Raises InputError where there is no tab, or a tab's shapes disagree.
    """
    if not tabs:
        raise InputError("page: got no tabs, expected at least one")
    header, blocks = payload(title, tabs, notes, start)
    script, style = viewer()
    return PAGE.format(
        policy=f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'",
        title=_text(title),
        style=style,
        data="\n".join(
            [_data("header", "application/json", _json(header))]
            + [_data(name, "text/plain", block) for name, block in blocks.items()]
        ),
        script=script,
    )


def frame(page: str, height: int = 720) -> str:
    """The page in an isolated frame, for a notebook: its styles and scripts touch nothing outside."""
    return (
        f'<iframe title="What is inside the model" srcdoc="{html.escape(page)}" '
        f'sandbox="allow-scripts allow-downloads" style="width: 100%; height: {height:d}px; border: 0"></iframe>'
    )


def viewer() -> tuple[str, str]:
    """The page's script and its style, without indentation and comments: the files in assets have them."""
    lines = _lines([f"viewer_{name}.js" for name in SCRIPTS])
    script = "\n".join(line for line in lines if not line.startswith(("//", "/**", "*/", "* ")))
    return script, re.sub(r" ?([{};:,]) ", r"\1", "\n".join(_lines(["viewer.css"])))


def _lines(names: Sequence[str]) -> list[str]:
    """The lines of these files, one file after the other, without the space around them and a comment at their end."""
    assets = files("minitransformer") / "assets"
    lines = (line for name in names for line in (assets / name).read_text(encoding="utf-8").splitlines())
    short = (re.sub(r"\s+// [^\"'`]*$", "", line).strip() for line in lines)
    return [line for line in short if line]


def _hash(text: str) -> str:
    """The very text of a script or style, as a security policy allows it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _json(header: object) -> str:
    """JSON in ASCII, where no tag can begin: a lone surrogate and a "</script>" are escaped alike."""
    return json.dumps(header, allow_nan=False).replace("<", r"\u003c")


def _data(name: str, kind: str, text: str) -> str:
    """A block of data, which no browser runs."""
    return f'<script type="{kind}" id="{name}">{text}</script>'


def _text(title: str) -> str:
    """A title as text, without what cannot be seen."""
    return html.escape("".join(char if char.isprintable() else " " for char in title))
