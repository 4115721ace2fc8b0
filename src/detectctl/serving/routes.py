"""The HTTP interface: routes, parameters, errors. Plain FastAPI; nothing here knows Ray."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.routing import Route

from detectctl.defaults import QUALITY
from detectctl.errors import (
    BadParameter,
    BadRequest,
    ClientClosed,
    InternalError,
    MethodNotAllowed,
    NotAcceptable,
    NotFound,
    Overloaded,
    RequestError,
    UsageError,
)
from detectctl.serving import body, docs_page, openapi
from detectctl.serving.guard import Guard, with_security_headers
from detectctl.wire import DetectOptions, DrawOptions, error_body

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import numpy as np
    from numpy.typing import NDArray

    from detectctl.serving.admission import Render, Service
    from detectctl.serving.guard import KeyRing
    from detectctl.wire import DetectionResult

_DETECT_QUERY: Final = frozenset({"conf", "iou", "class"})
_ANNOTATE_QUERY: Final = _DETECT_QUERY | {"labels", "line_width", "quality"}

ImageUrl = Annotated[str, Query(alias="image_url", description="http(s) URL of the image", min_length=1)]


async def _detect_options(
    conf: Annotated[float | None, Query(ge=0, le=1, description="least confidence of a detection")] = None,
    iou: Annotated[
        float | None, Query(ge=0, le=1, description="NMS drops a box that overlaps a better one by more than this")
    ] = None,
    classes: Annotated[
        list[str] | None, Query(alias="class", description="name of a class to keep; repeatable; all if left out")
    ] = None,
) -> DetectOptions:
    return DetectOptions(conf, iou, tuple(classes or ()))


async def _draw_options(
    labels: Annotated[bool, Query(description="label each box with class and confidence")] = True,
    line_width: Annotated[
        int | None, Query(ge=1, le=1000, description="pixels; grows with the image if left out")
    ] = None,
    quality: Annotated[int, Query(ge=1, le=100, description="JPEG or WebP quality")] = QUALITY,
) -> DrawOptions:
    return DrawOptions(labels, line_width, quality)


# Coroutines, because FastAPI would run plain functions in a thread.
Options = Annotated[DetectOptions, Depends(_detect_options)]
Drawing = Annotated[DrawOptions, Depends(_draw_options)]


def create_app(service: Service, keys: KeyRing | None) -> Any:
    """The application behind its guard, as an ASGI callable; `keys` None accepts every caller."""
    guarded: Any = Guard(create_api(service), keys, service.refuse, service.config.own_host)
    if not service.config.cors_origin:
        return guarded
    with_cors = CORSMiddleware(
        guarded,  # inside, because a browser's preflight request has no key
        allow_origins=service.config.cors_origin,
        allow_methods=("GET", "POST"),
        allow_headers=("Authorization", "X-API-Key", "Content-Type"),
        expose_headers=("X-Request-ID", "Retry-After"),
    )

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await with_cors(scope, receive, with_security_headers(send))  # for the answers to preflight requests

    return app


def create_api(service: Service) -> FastAPI:
    """The application of contract §3 around a loaded service."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
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
    )
    _add_error_handlers(api, service)
    _add_detect(api, service)
    _add_annotate(api, service)
    _add_descriptions(api, service)
    return api


def _add_detect(api: FastAPI, service: Service) -> None:
    @api.get("/detect", responses=openapi.DETECT_URL, summary="Detect on the image at a URL")
    async def detect_url(request: Request, image_url: ImageUrl, options: Options) -> Response:
        async with service.turn(request.url.path, "url") as turn:
            _require_known_query(request, _DETECT_QUERY | {"image_url"})
            result = await turn.detect(await service.fetcher.fetch(image_url), options)
        return JSONResponse(result.to_json())

    @api.post(
        "/detect",
        responses=openapi.DETECT_BODY,
        openapi_extra=openapi.BODY,
        summary="Detect on the image in the body",
    )
    async def detect_body(request: Request, options: Options) -> Response:
        async with service.turn(request.url.path, body.source(request)) as turn:
            _require_known_query(request, _DETECT_QUERY)
            result = await turn.detect(await _read_image(request, service), options)
        return JSONResponse(result.to_json())


def _add_annotate(api: FastAPI, service: Service) -> None:
    @api.get("/annotate", responses=openapi.ANNOTATE_URL, summary="Draw the detections on the image at a URL")
    async def annotate_url(request: Request, image_url: ImageUrl, options: Options, drawing: Drawing) -> Response:
        async with service.turn(request.url.path, "url") as turn:
            _require_known_query(request, _ANNOTATE_QUERY | {"image_url"})
            media = _media_type(request)
            image = await service.fetcher.fetch(image_url)
            picture = await turn.annotate(image, options, _renderer(media, drawing))
        return Response(picture, media_type=media)

    @api.post(
        "/annotate",
        responses=openapi.ANNOTATE_BODY,
        openapi_extra=openapi.BODY,
        summary="Draw the detections on the image in the body",
    )
    async def annotate_body(request: Request, options: Options, drawing: Drawing) -> Response:
        async with service.turn(request.url.path, body.source(request)) as turn:
            _require_known_query(request, _ANNOTATE_QUERY)
            media = _media_type(request)
            image = await _read_image(request, service)
            picture = await turn.annotate(image, options, _renderer(media, drawing))
        return Response(picture, media_type=media)


def _add_descriptions(api: FastAPI, service: Service) -> None:
    """The routes that describe the service; none of them is counted or logged."""

    @api.head("/healthz", responses=openapi.HEAD, summary="As GET, without a body")
    @api.get("/healthz", summary="Liveness: 200 while the process lives")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @api.head("/readyz", responses=openapi.HEAD, summary="As GET, without a body")
    @api.get("/readyz", summary="Readiness: 200 once the model has answered a warm-up image")
    async def readyz() -> dict[str, str]:
        # A replica takes no request before its detector is loaded and warm, so one that answers is ready.
        return {"status": "ready", "deployment": service.config.fingerprint}

    @api.get("/info", responses=openapi.INFO, summary="Model, engine, limits, version")
    async def info() -> Response:
        return JSONResponse(service.info().to_json())

    schema = api.openapi()
    api.openapi = lambda: schema  # type: ignore[method-assign]  # FastAPI's documented way to change it
    openapi.describe(
        schema,
        service.detector.labels.values(),
        keys=service.config.api_key_file is not None,
        own_host=service.config.own_host is not None,
    )
    if service.config.docs:
        page = docs_page.render(schema)

        @api.get("/docs", include_in_schema=False)
        async def docs() -> Response:
            return HTMLResponse(page, headers={"Content-Security-Policy": docs_page.CONTENT_SECURITY_POLICY})


async def _read_image(request: Request, service: Service) -> bytes:
    return await body.read_image(request, service.config.detector.max_image_bytes)


def _require_known_query(request: Request, known: frozenset[str]) -> None:
    """On the routes that have parameters; the others ignore theirs, because health checkers add their own."""
    names = [name for name, _ in request.query_params.multi_items()]
    for name in names:
        if name not in known:  # not repeated in the answer, because it may be anything
            raise BadParameter("a query parameter is unknown", why=f"this route takes {', '.join(sorted(known))}")
        if name != "class" and names.count(name) > 1:  # a proxy in front of us might take the other one
            raise BadParameter(f"the query parameter {name} is given twice", why="only class may be repeated")


def _media_type(request: Request) -> str:
    """The first type in `Accept` that `/annotate` writes; JPEG if it leaves the choice to us."""
    accepted = [item.partition(";")[0].strip().lower() for item in request.headers.get("accept", "*/*").split(",")]
    for media in accepted:
        if media in openapi.PICTURES:
            return media
        if media in {"*/*", "image/*", ""}:
            return "image/jpeg"
    raise NotAcceptable(
        "none of the types in Accept can be written",
        why=f"this route writes {', '.join(openapi.PICTURES)}",
        hint="send `Accept: image/jpeg`",
    )


def _renderer(media: str, drawing: DrawOptions) -> Render:
    def render(data: bytes, image: NDArray[np.uint8], result: DetectionResult) -> bytes:
        from PIL import Image

        from detectctl import annotate, upright

        picture = Image.fromarray(image)
        picture.info["icc_profile"] = upright.colour_profile(data)
        try:
            return annotate.annotated(picture, result, openapi.PICTURES[media], drawing)
        except UsageError as error:
            raise BadParameter(error.what, why=error.why, hint="ask for another format: `Accept: image/png`") from error

    return render


def _answer(error: RequestError, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse(error_body(error), error.status, headers)


def _methods(api: FastAPI, path: str) -> list[str]:
    """The methods of a path; no path of ours has parameters."""
    return sorted(
        {
            method
            for route in api.routes
            if isinstance(route, Route) and route.path == path
            for method in route.methods or ()
        }
    )


def _add_error_handlers(api: FastAPI, service: Service) -> None:
    @api.exception_handler(RequestError)
    async def request_error(_: Request, error: RequestError) -> Response:
        return _answer(error, {"Retry-After": "1"} if isinstance(error, Overloaded) else None)

    @api.exception_handler(RequestValidationError)
    async def bad_parameter(request: Request, invalid: RequestValidationError) -> Response:
        service.refuse(request.url.path, BadParameter.code)
        return _answer(_bad_parameter(invalid.errors()[0]))

    @api.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        # Starlette names the methods of the first route of a path only.
        methods = ", ".join(_methods(api, request.url.path))
        answered: RequestError
        if error.status_code == NotFound.status:
            answered = NotFound("no such route", hint="the routes are listed at `/docs` and `/openapi.json`")
        elif error.status_code == MethodNotAllowed.status:
            answered = MethodNotAllowed("the method is not allowed here", why=f"this route takes {methods}")
        else:
            answered = BadRequest("the request cannot be understood", why=str(error.detail))
        service.refuse(request.url.path, answered.code)
        return _answer(answered, {"Allow": methods} if methods else None)

    @api.exception_handler(ClientDisconnect)
    async def client_closed(_: Request, __: ClientDisconnect) -> Response:
        return Response(status_code=ClientClosed.status)  # the caller has gone

    @api.exception_handler(Exception)
    async def internal_error(_: Request, __: Exception) -> Response:
        # The request log has the traceback under the answer's X-Request-ID; the caller learns nothing of the inside.
        return _answer(InternalError("the service failed", hint="read its log: `detectctl logs`"))


def _bad_parameter(problem: dict[str, Any]) -> BadParameter:
    """FastAPI's first complaint about a query, in our form."""
    name = ".".join(str(part) for part in problem["loc"][1:])
    if problem["type"] == "missing":
        return BadParameter(
            f"the query parameter {name} is missing", hint=f"add `?{name}=…`, or send the image itself by POST"
        )
    return BadParameter(f"{name} is {str(problem['input'])[:80]!a}", why=str(problem["msg"]))
