"""The page of a report: its parts, its style and its script in one text."""

from __future__ import annotations

import base64
import hashlib
import json
from html import escape
from importlib.resources import files
from typing import Any

from captum_vit import __version__
from captum_vit.evaluation.report.blocks import fingerprint
from captum_vit.evaluation.report.gallery import gallery
from captum_vit.evaluation.report.tables import configuration, curves, means
from captum_vit.evaluation.stored import Stored

__all__ = ["document"]


def document(found: Stored) -> str:
    """The whole page.

    All names are shown as text, whatever they contain, and the page may load nothing and run no script but its own.

    Args:
        found: from `stored`.
    """
    assets = files(__package__) / "assets"
    style, script = ((assets / name).read_text("utf-8") for name in ("report.css", "report.js"))
    data = gallery(found)
    title = f"{found.config['model']} on {found.config.get('data', found.config['dataset'])}"
    sections = {
        "Scores": means(found.result),
        "Curves": curves(found.result),
        "Blocks": fingerprint(found.folder),
        "Images": _gallery(found, data),
        "Left out": _left_out(found),
        "Configuration": configuration(found.config, found.about),
    }
    shown = {name: text for name, text in sections.items() if text}
    links = "".join(f'<li><a href="#{_anchor(name)}">{name}</a></li>' for name in shown)
    body = "".join(
        f'<section id="{_anchor(name)}" aria-labelledby="{_anchor(name)}-title">'
        f'<h2 id="{_anchor(name)}-title">{name}</h2>{text}</section>'
        for name, text in shown.items()
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_policy(style, script)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}: captum_vit report</title>
<style>{style}</style>
</head>
<body>
<header><h1>{escape(title)}</h1>{_state(found)}<nav aria-label="Parts of the page"><ul>{links}</ul></nav></header>
<main>{body}</main>
<footer>captum_vit {escape(__version__)}</footer>
<script type="application/json" id="data">{_json(data)}</script>
<script>{script}</script>
</body>
</html>
"""


def _policy(*allowed: str) -> str:
    """Nothing is loaded, and only this style and this script, by their hashes, take effect."""
    style, script = (
        f"'sha256-{base64.b64encode(hashlib.sha256(each.encode()).digest()).decode()}'" for each in allowed
    )
    rest = "img-src data:; base-uri 'none'; form-action 'none'"
    return f"default-src 'none'; style-src {style}; script-src {script}; {rest}"


def _json(data: Any) -> str:
    """JSON without a character that could end the element it stands in."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.translate({ord(each): f"\\u{ord(each):04x}" for each in "<>&\u2028\u2029"})


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def _state(found: Stored) -> str:
    """How far the run came."""
    counts = f"Samples: {found.done} of {found.samples}, skipped among them: {len(found.result.skipped)}."
    if found.done >= found.samples:
        return f"<p>{counts}</p>"
    return (
        f'<p class="notice"><strong>Unfinished.</strong> {counts} All numbers are of these alone. '
        "The command that began the run goes on where it stopped.</p>"
    )


def _left_out(found: Stored) -> str:
    """Samples that could not be read, and methods that can't explain the model."""
    parts = []
    for title, reasons in (
        ("Methods that can't explain the model", found.result.unsupported),
        ("Samples that can't be read", found.result.skipped),
    ):
        if reasons:
            rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(reason)}</dd>" for name, reason in reasons.items())
            parts.append(f"<h3>{title}: {len(reasons)}</h3><dl>{rows}</dl>")
    return "".join(parts)


def _gallery(found: Stored, data: dict[str, Any]) -> str:
    """The frame that the script fills."""
    boxes = "".join(
        f'<label><input type="checkbox" name="method" value="{number}" checked> {escape(each["name"])}</label>'
        for number, each in enumerate(data["methods"])
    )
    judges = "".join(
        f'<option value="{number}">{escape(each["name"])}</option>' for number, each in enumerate(data["methods"])
    )
    classes = "".join(
        f'<option value="{number}">{escape(name)}</option>'
        for number, name in sorted(enumerate(data["classes"]), key=lambda each: str(each[1]))
    )
    scores = "".join(
        f'<option value="{number}">{escape(each["name"])}</option>' for number, each in enumerate(data["scores"])
    )
    return f"""{_kept_of(found, data)}
<noscript><p class="notice">The gallery needs JavaScript; everything else on this page does not.</p></noscript>
<form id="controls" aria-label="What is shown" hidden>
<fieldset><legend>Methods</legend><div class="boxes">{boxes}</div></fieldset>
<label>Class <select id="class"><option value="">all</option>{classes}</select></label>
<label>Sample <input type="search" id="find" placeholder="part of its name"></label>
<label>Score <select id="score">{scores}</select></label>
<label>Score of <select id="judge"><option value="">mean of the methods shown</option>{judges}</select></label>
<label>from <input type="number" id="from" step="any" aria-label="Score from"></label>
<label>to <input type="number" id="to" step="any" aria-label="Score to"></label>
<label>Order <select id="order"><option value="0">of the dataset</option><option value="1"></option>\
<option value="-1"></option></select></label>
<label class="maps">Opacity <span class="slider"><input type="range" id="opacity" min="0" max="100" value="70">\
<output id="opacity-shown" for="opacity" aria-hidden="true">70 %</output></span></label>
<label class="maps"><input type="checkbox" id="outline" checked> Outline of the mask</label>
</form>
<div id="legend" class="maps" hidden></div>
<p id="count" role="status" aria-live="polite"></p>
<ol id="cards"></ol>
<nav id="pages" aria-label="Pages of the gallery" hidden><button type="button" id="previous">Previous</button>
<span id="page"></span><button type="button" id="next">Next</button></nav>"""


def _kept_of(found: Stored, data: dict[str, Any]) -> str:
    """Of how many samples there are pictures, and how to get those of the rest."""
    shown = sum("image" in each for each in data["samples"])
    if shown == len(data["samples"]):
        return ""
    return (
        f'<p class="notice">Maps were kept for {shown} of {len(data["samples"])} samples. The same '
        "<code>captum-vit evaluate</code> command with <code>--keep-maps</code> makes the others, without measuring "
        "anything again; then write the report anew.</p>"
    )
