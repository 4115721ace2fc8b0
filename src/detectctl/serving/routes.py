"""The HTTP interface: routes and errors. Plain FastAPI, independent of Ray."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.routing import Route

from detectctl import errors
from detectctl.serving import accept, below, body, docs_page, openapi, page_files, query
from detectctl.serving.guard import METRICS, Guard, open_routes, with_security_headers
from detectctl.serving.short_way import ShortWay
from detectctl.wire import error_body

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import numpy as np
    from numpy.typing import NDArray
    from starlette.types import Receive, Scope, Send

    from detectctl.serving.admission import Service, Turn
    from detectctl.serving.guard import KeyDigests
    from detectctl.wire import DetectionResult, DrawOptions

SHORT: Final = ("/detect", "/annotate")
"""The paths whose requests take the short way."""


def create_app(service: Service, keys: KeyDigests | None) -> Any:
    """The application behind its guard, as an ASGI callable; `keys` None accepts every caller."""
    config = service.config
    api = ShortWay(create_api(service), SHORT)
    guarded: Any = Guard(api, keys, service.refuse, config.own_host, open_routes(config))
    if not config.cors_origin:
        return guarded
    with_cors = CORSMiddleware(
        guarded,  # inside, because a browser's preflight request has no key
        allow_origins=config.cors_origin,
        allow_methods=("GET", "POST"),
        allow_headers=("Authorization", "X-API-Key", "Content-Type", "traceparent", "tracestate"),
        expose_headers=("X-Request-ID", "Retry-After", "Server-Timing"),
    )

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await with_cors(scope, receive, with_security_headers(send))  # for the answers to preflight requests

    return app


def create_api(service: Service) -> FastAPI:
    """The FastAPI application around a loaded service."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.open()
        yield
        await service.close()

    config = service.config
    api = FastAPI(
        title="detectctl",
        version=config.version,
        lifespan=lifespan,
        openapi_url="/openapi.json" if config.docs else None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # see `_neighbour`
        # Its own spans have the query, and with it the signatures of image URLs; ours are in `spans`.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    _add_error_handlers(api, service)
    _add_images(api, service)
    _add_descriptions(api, service)
    _add_page(api, service.config.page)
    return api


def _add_images(api: FastAPI, service: Service) -> None:
    """The routes that answer about an image; their requests take turns."""

    @api.get("/detect", summary="Detect on the image at a URL", **openapi.DETECT_URL)
    async def detect_url(request: Request) -> Response:
        async with service.turn(request.scope, "url") as turn:
            asked = query.read(request, query.DetectUrlQuery)
            media, found = await turn.detect(await service.fetcher.fetch(asked.image_url), asked.options())
        return Response(found, media_type=media, headers=turn.server_timing())

    @api.post("/detect", summary="Detect on the image in the body", **openapi.DETECT_BODY)
    async def detect_body(request: Request) -> Response:
        async with service.turn(request.scope, body.source(request)) as turn:
            asked = query.read(request, query.DetectQuery)
            media, found = await turn.detect(await _read_image(request, turn), asked.options())
        return Response(found, media_type=media, headers=turn.server_timing())

    @api.get("/annotate", summary="Draw the detections on the image at a URL", **openapi.ANNOTATE_URL)
    async def annotate_url(request: Request) -> Response:
        async with service.turn(request.scope, "url") as turn:
            asked, accepted = query.read(request, query.AnnotateUrlQuery), _media_types(request)
            render = partial(_render, accepted, asked.drawing())
            media, picture = await turn.detect(await service.fetcher.fetch(asked.image_url), asked.options(), render)
        return Response(picture, media_type=media, headers=turn.server_timing())

    @api.post("/annotate", summary="Draw the detections on the image in the body", **openapi.ANNOTATE_BODY)
    async def annotate_body(request: Request) -> Response:
        async with service.turn(request.scope, body.source(request)) as turn:
            asked, accepted = query.read(request, query.AnnotateQuery), _media_types(request)
            render = partial(_render, accepted, asked.drawing())
            media, picture = await turn.detect(await _read_image(request, turn), asked.options(), render)
        return Response(picture, media_type=media, headers=turn.server_timing())


def _add_descriptions(api: FastAPI, service: Service) -> None:
    """The routes that describe the service; none of them is counted or logged."""

    @api.head("/healthz", summary="As GET, without a body", **openapi.HEAD)
    @api.get("/healthz", summary="Liveness: 200 while the process lives")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @api.head("/readyz", summary="As GET, without a body", **openapi.HEAD)
    @api.get("/readyz", summary="Readiness: 200 once the model has answered a warm-up image")
    async def readyz() -> dict[str, str]:
        # A replica takes no request before its detector is loaded and warm, so one that answers is ready.
        return {"status": "ready", "deployment": service.config.fingerprint}

    @api.get("/info", summary="Model, engine, limits, version", **openapi.INFO)
    async def info() -> Response:
        return JSONResponse(service.info().to_json())

    @api.get(METRICS, summary="What all replicas have counted, for Prometheus", **openapi.METRICS)
    async def metrics(request: Request) -> Response:
        text, content_type = await service.metrics(request.headers.get("accept", ""))
        return Response(text, headers={"Content-Type": content_type})

    schema = api.openapi()
    api.openapi = lambda: schema  # type: ignore[method-assign]  # FastAPI's documented way to change it
    openapi.describe(
        schema,
        service.detector.labels.values(),
        keys=service.config.api_key_file is not None,
        own_host=service.config.own_host is not None,
        open_routes=open_routes(service.config),
    )
    if service.config.docs:
        page = docs_page.render(schema)

        @api.get("/docs", include_in_schema=False)
        async def docs() -> Response:
            return HTMLResponse(page, headers={"Content-Security-Policy": docs_page.CONTENT_SECURITY_POLICY})


def _add_page(api: FastAPI, page: bool) -> None:
    """The page at `/`; without it, `/` still answers 200, because load balancers ask it."""

    async def file(request: Request) -> Response:
        return page_files.answer(below.path(request.scope), request.headers.get("if-none-match", ""))

    async def there(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    # Routes of Starlette's, which answer HEAD too.
    for path in page_files.FILES if page else ():
        api.add_route(path, file, include_in_schema=False)
    if not page:
        api.add_route("/", there, include_in_schema=False)


async def _read_image(request: Request, turn: Turn) -> bytes:
    return await body.read_image(request, turn.source, turn.service.config.detector.max_image_bytes)


def _media_types(request: Request) -> list[str]:
    """What `/annotate` may write, the most wanted first; JPEG if the choice is left to us."""
    if accepted := accept.choices(",".join(request.headers.getlist("accept")), list(openapi.PICTURES)):
        return accepted
    raise errors.NotAcceptable(
        "none of the types in Accept can be written",
        why=f"this route writes {', '.join(openapi.PICTURES)}",
        hint="send `Accept: image/jpeg`",
    )


def _render(
    accepted: list[str], drawing: DrawOptions, data: bytes, image: NDArray[np.uint8], result: DetectionResult
) -> tuple[str, bytes]:
    """The annotated image, and its type: the first that can hold an image of this size."""
    from PIL import Image

    from detectctl import annotate, upright

    picture = Image.fromarray(image)
    picture.info["icc_profile"] = upright.colour_profile(data)
    for media in accepted:
        try:
            return media, annotate.annotated(picture, result, openapi.PICTURES[media], drawing)
        except errors.UsageError as error:
            too_large = error
    hint = "ask for another format: `Accept: image/png`"
    raise errors.BadParameter(too_large.what, why=too_large.why, hint=hint) from too_large


def _answer(error: errors.RequestError, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse(error_body(error), error.status, headers)


def _methods(api: FastAPI, path: str) -> str:
    """The methods of a path, of which no part is a parameter; Starlette names those of its first route only."""
    routes = [route for route in api.routes if isinstance(route, Route) and route.path == path]
    return ", ".join(sorted({method for route in routes for method in route.methods or ()}))


def _neighbour(api: FastAPI, request: Request) -> str | None:
    """Where the route is whose path has a slash more or less at its end than the request's; None if there is none.

    It is relative: whatever is in front of us, and speaks TLS or takes a prefix away, it leads the caller there. The
    absolute one of Starlette's would not.
    """
    path, below_prefix = request.scope["path"], below.path(request.scope)
    other = below_prefix.removesuffix("/") if path.endswith("/") else f"{below_prefix.removesuffix('/')}/"
    if not _methods(api, other):
        return None
    name = other.rpartition("/")[2]
    location = f"../{name}" if path.endswith("/") else f"{path.rpartition('/')[2]}/"
    return f"{location}?{request.url.query}" if request.url.query else location


def _add_error_handlers(api: FastAPI, service: Service) -> None:
    @api.exception_handler(errors.RequestError)
    async def request_error(request: Request, error: errors.RequestError) -> Response:
        if isinstance(error, errors.BadParameter):
            error = query.explained(error, request)
        elif isinstance(error, errors.UnsupportedImage) and body.is_curl_data(request):
            error.hint = body.send_bytes(request)
        return _answer(error, None if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)})

    @api.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        path = below.path(request.scope)
        methods = _methods(api, path)
        answered: errors.RequestError
        if error.status_code == errors.NotFound.status and (location := _neighbour(api, request)):
            return RedirectResponse(location)
        if error.status_code == errors.NotFound.status:
            answered = errors.NotFound(
                "no such route",
                why="the path is not one of the service's",
                hint="the routes are listed at `/docs` and `/openapi.json`",
            )
        elif error.status_code == errors.MethodNotAllowed.status:
            answered = errors.MethodNotAllowed(
                "the method is not allowed here", why=f"this route takes {methods}", hint="use one of them"
            )
        else:
            answered = errors.BadRequest(
                "the request cannot be understood", why=str(error.detail), hint="compare it with `/openapi.json`"
            )
        service.refuse(request.scope, answered.code)
        return _answer(answered, {"Allow": methods} if methods else None)

    @api.exception_handler(ClientDisconnect)
    async def client_closed(_: Request, __: ClientDisconnect) -> Response:
        return Response(status_code=errors.ClientClosed.status)  # the caller has gone

    @api.exception_handler(Exception)
    async def internal_error(_: Request, __: Exception) -> Response:
        # The request log has the traceback under the answer's X-Request-ID; the caller learns nothing of the inside.
        return _answer(
            errors.InternalError("the service failed", why="its log has the cause", hint="read it: `detectctl logs`")
        )
