"""The page at `/docs`, made from the OpenAPI description: no scripts, no external resources, nothing of the request.

The usual pages load scripts from other servers, which fails offline and lets those servers run code in the browser of
somebody who has a key.
"""

from __future__ import annotations

import base64
import hashlib
from html import escape
from typing import Any

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "code,pre{font:.9em ui-monospace,monospace}h2{margin-top:2.5rem;border-top:1px solid #ccc;padding-top:1rem}"
    "td,th{text-align:left;vertical-align:top;padding:.15rem 1.5rem .15rem 0}pre{background:#f4f4f4;padding:.6rem}"
)

CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src 'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
"""Sent with the page: its one style sheet is all that a browser may use."""


def render(openapi: dict[str, Any]) -> str:
    """The whole page."""
    info = openapi["info"]
    title = escape(f"{info['title']} {info['version']}")
    routes = "".join(
        _route(method, path, operation)
        for path, operations in openapi["paths"].items()
        for method, operation in operations.items()
    )
    key = "<p>All but <code>/healthz</code> and <code>/readyz</code> need <code>Authorization: Bearer KEY</code>"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f"</head><body><h1>{title}</h1><p>Described for programs at <a href='openapi.json'>openapi.json</a>.</p>"
        f"{key if 'components' in openapi and 'securitySchemes' in openapi['components'] else ''}{routes}</body></html>"
    )


def _route(method: str, path: str, operation: dict[str, Any]) -> str:
    parameters = "".join(
        f"<tr><td><code>{escape(parameter['name'])}</code></td>"
        f"<td>{'required' if parameter.get('required') else ''}</td>"
        f"<td>{escape(parameter.get('description', ''))}</td></tr>"
        for parameter in operation.get("parameters", ())
    )
    bodies = ", ".join(escape(media) for media in operation.get("requestBody", {}).get("content", {}))
    answers = "".join(
        f"<tr><td><code>{escape(status)}</code></td><td>{escape(answer.get('description', ''))}</td>"
        f"<td>{escape(', '.join(answer.get('content', {})))}</td></tr>"
        for status, answer in sorted(operation["responses"].items())
    )
    return (
        f"<h2><code>{escape(method.upper())} {escape(path)}</code></h2><p>{escape(operation.get('summary', ''))}</p>"
        f"{f'<table>{parameters}</table>' if parameters else ''}{f'<p>Body: {bodies}</p>' if bodies else ''}"
        f"<table>{answers}</table>"
    )
