"""The page at / and the API's documentation at /docs. Neither asks anything of another host."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Response
from starlette.exceptions import HTTPException

_WEB: Final = Path(__file__).parents[1] / "web"
# Swagger UI 5 (Apache-2.0), as the package fastapi-offline (MIT) carries it.
_SWAGGER: Final = Path(str(resources.files("fastapi_offline"))) / "static"
_HTML: Final = "text/html; charset=utf-8"
_CSS: Final = "text/css; charset=utf-8"
_JS: Final = "text/javascript; charset=utf-8"
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'{style}; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_STRICT: Final = {"Content-Security-Policy": _POLICY.format(style="")}
# Swagger UI writes style attributes.
_SWAGGER_POLICY: Final = {"Content-Security-Policy": _POLICY.format(style=" 'unsafe-inline'")}
_STYLES: Final = ("page", "found", "several")
# fmt: off
_SCRIPTS: Final = (
    "agreement", "album", "api", "asking", "colours", "compare", "docs", "dom", "giving", "key",
    "layers", "models", "names", "overlay", "page", "results", "rows", "side", "strip", "times",
)
# fmt: on
_ASSETS: Final[dict[str, tuple[Path, str]]] = {
    **{f"{name}.css": (_WEB / f"{name}.css", _CSS) for name in _STYLES},
    **{f"{name}.js": (_WEB / f"{name}.js", _JS) for name in _SCRIPTS},
    "icon.svg": (_WEB / "icon.svg", "image/svg+xml"),
    "swagger-ui.css": (_SWAGGER / "swagger-ui.css", _CSS),
    "swagger-ui.js": (_SWAGGER / "swagger-ui-bundle.js", _JS),
}

router = APIRouter(include_in_schema=False)


@router.get("/")
async def page() -> Response:
    """Return the page on which a picture can be dropped."""
    return _file(_WEB / "index.html", _HTML, _STRICT)


@router.get("/docs")
async def docs() -> Response:
    """Return the API's documentation."""
    return _file(_WEB / "docs.html", _HTML, _SWAGGER_POLICY)


@router.get("/assets/{name}")
async def asset(name: str) -> Response:
    """Return what the two pages load."""
    if name not in _ASSETS:
        raise HTTPException(404)
    path, kind = _ASSETS[name]
    return _file(path, kind, {"Cache-Control": "max-age=300"})


def _file(path: Path, kind: str, headers: dict[str, str]) -> Response:
    return Response(path.read_bytes(), headers=headers, media_type=kind)
