"""The HTTP interface: routes, parameters, errors. Plain FastAPI; nothing here knows Ray."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.routing import Route

from detectctl.errors import (
    BadParameter,
    InternalError,
    Overloaded,
    RequestError,
    UrlNotAllowed,
    UsageError,
)
from detectctl.serving import body, docs_page, openapi
from detectctl.serving.admission import Service, Trace
from detectctl.serving.guard import Guard, careful
from detectctl.wire import QUALITY, DetectOptions, DrawOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import numpy as np
    from numpy.typing import NDArray

    from detectctl.serving.admission import Render
    from detectctl.serving.guard import KeyRing
    from detectctl.wire import DetectionResult

_RENDERED: Final = {"image/jpeg": "jpeg", "image/png": "png", "image/webp": "webp"}
_ANNOTATES: Final = openapi.annotates(_RENDERED)
_QUERY: Final = {"image_url", "conf", "iou", "class"}
_STYLE: Final = {"labels", "line_width", "quality"}

ImageUrl = Annotated[str, Query(alias="image_url", description="http(s) address of the image", min_length=1)]
Confidence = Annotated[float | None, Query(alias="conf", ge=0, le=1, description="least confidence of a detection")]
Iou = Annotated[float | None, Query(ge=0, le=1, description="NMS drops a box that overlaps a better one by more")]
Classes = Annotated[list[str] | None, Query(alias="class", description="names of the classes wanted; repeatable")]
Labels = Annotated[bool, Query(description="write class and confidence at each box")]
LineWidth = Annotated[int | None, Query(ge=1, le=1000, description="pixels; grows with the image if left out")]
Quality = Annotated[int, Query(ge=1, le=100, description="of a JPEG or WebP")]


def create_app(service: Service, keys: KeyRing | None) -> Any:
    """The application behind its guard, as an ASGI callable; `keys` None lets everybody in."""
    guarded: Any = Guard(create_api(service), keys, service.refuse, service.config.own_host)
    if not service.config.cors_origin:
        return guarded
    crossed = CORSMiddleware(
        guarded,  # inside, because a browser asks without a key whether it may ask
        allow_origins=service.config.cors_origin,
        allow_methods=("GET", "POST"),
        allow_headers=("Authorization", "X-API-Key", "Content-Type"),
        expose_headers=("X-Request-ID", "Retry-After"),
    )

    async def careful_too(scope: Any, receive: Any, send: Any) -> None:
        await crossed(scope, receive, careful(send))

    return careful_too


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

    @api.get("/detect", responses=openapi.DETECTS, summary="Detect on the image at a URL")
    async def detect_url(
        request: Request, image_url: ImageUrl, conf: Confidence = None, iou: Iou = None, classes: Classes = None
    ) -> Response:
        result, _ = await _from_url(service, request, image_url, _options(conf, iou, classes))
        return JSONResponse(result.to_json())

    @api.post(
        "/detect", responses=openapi.DETECTS, openapi_extra=openapi.BODY, summary="Detect on the image in the body"
    )
    async def detect_bytes(
        request: Request, conf: Confidence = None, iou: Iou = None, classes: Classes = None
    ) -> Response:
        result, _ = await _from_body(service, request, _options(conf, iou, classes))
        return JSONResponse(result.to_json())

    @api.get("/annotate", responses=_ANNOTATES, summary="Draw the detections on the image at a URL")
    async def annotate_url(
        request: Request,
        image_url: ImageUrl,
        conf: Confidence = None,
        iou: Iou = None,
        classes: Classes = None,
        labels: Labels = True,
        line_width: LineWidth = None,
        quality: Quality = QUALITY,
    ) -> Response:
        media = _wanted_media(request)
        render = _renderer(media, labels, line_width, quality)
        _, picture = await _from_url(service, request, image_url, _options(conf, iou, classes), render)
        return Response(picture, media_type=media)

    @api.post("/annotate", responses=_ANNOTATES, openapi_extra=openapi.BODY, summary="Draw the detections on the image")
    async def annotate_bytes(
        request: Request,
        conf: Confidence = None,
        iou: Iou = None,
        classes: Classes = None,
        labels: Labels = True,
        line_width: LineWidth = None,
        quality: Quality = QUALITY,
    ) -> Response:
        media = _wanted_media(request)
        render = _renderer(media, labels, line_width, quality)
        _, picture = await _from_body(service, request, _options(conf, iou, classes), render)
        return Response(picture, media_type=media)

    _add_descriptions(api, service)
    return api


def _add_descriptions(api: FastAPI, service: Service) -> None:
    """The routes that tell about the service."""

    @api.get("/healthz", summary="200 while the process lives")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @api.get("/readyz", summary="200 once the model has answered a warm-up image")
    async def readyz() -> dict[str, str]:
        # A replica takes no request before its detector is loaded and warm, so whoever answers is ready.
        return {"status": "ready", "deployment": service.config.fingerprint}

    @api.get("/info", summary="Model, engine, limits, version")
    async def info() -> dict[str, Any]:
        return service.info().to_json()

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


def _options(conf: float | None, iou: float | None, classes: list[str] | None) -> DetectOptions:
    return DetectOptions(conf, iou, tuple(classes or ()))


async def _from_url(
    service: Service,
    request: Request,
    image_url: str,
    options: DetectOptions,
    render: Render | None = None,
) -> tuple[DetectionResult, bytes]:
    async def image() -> bytes:
        _refuse_bad_parameters(request, _QUERY | _STYLE if render else _QUERY)
        if not service.config.url_input:
            raise UrlNotAllowed(
                "this service takes no image URLs",
                why="it runs with --no-url-input",
                hint="send the image itself: POST /detect",
            )
        return await service.fetch(image_url)

    return await service.answer(Trace(service.request_id(), request.url.path, "url"), image, options, render)


async def _from_body(
    service: Service,
    request: Request,
    options: DetectOptions,
    render: Render | None = None,
) -> tuple[DetectionResult, bytes]:
    async def image() -> bytes:
        _refuse_bad_parameters(request, (_QUERY | _STYLE if render else _QUERY) - {"image_url"})
        return await body.read_image(request, service.config.detector.max_image_bytes)

    source = "form" if body.is_form(request) else "body"
    return await service.answer(Trace(service.request_id(), request.url.path, source), image, options, render)


def _refuse_bad_parameters(request: Request, known: set[str]) -> None:
    """Of the routes that take any; the others ignore what they are sent, because health checkers add their own."""
    names = [name for name, _ in request.query_params.multi_items()]
    for name in names:
        if name not in known:
            raise BadParameter("a query parameter is unknown", why=f"this route knows {', '.join(sorted(known))}")
        if name != "class" and names.count(name) > 1:  # which of them counts, nobody could know
            raise BadParameter(f"the query parameter {name} is given twice", why="only class may be repeated")


def _wanted_media(request: Request) -> str:
    """The first of the types we can write that `Accept` names; JPEG if it leaves the choice to us."""
    accepted = [item.partition(";")[0].strip().lower() for item in request.headers.get("accept", "*/*").split(",")]
    for media in accepted:
        if media in _RENDERED:
            return media
        if media in {"*/*", "image/*", ""}:
            return "image/jpeg"
    raise HTTPException(406, f"this route writes {', '.join(_RENDERED)}")


def _renderer(media: str, labels: bool, line_width: int | None, quality: int) -> Render:
    def render(data: bytes, image: NDArray[np.uint8], result: DetectionResult) -> bytes:
        from PIL import Image

        from detectctl import annotate, upright

        picture = Image.fromarray(image)
        picture.info["icc_profile"] = upright.colour_profile(data)
        try:
            return annotate.annotated(picture, result, _RENDERED[media], DrawOptions(labels, line_width, quality))
        except UsageError as error:
            raise BadParameter(
                error.what, why=error.why, hint="ask for another format, such as Accept: image/png"
            ) from error

    return render


def _error_body(code: str, message: str) -> dict[str, Any]:
    return {"status": "error", "error": {"code": code, "message": message}}


def _methods(api: FastAPI, path: str) -> list[str]:
    """What may be done at a path; no path of ours has parameters."""
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
        message = "; ".join(part.rstrip(".") for part in (error.what, error.why, error.hint) if part)
        headers = {"Retry-After": "1"} if isinstance(error, Overloaded) else None
        return JSONResponse(_error_body(error.code, message), error.status, headers)

    @api.exception_handler(RequestValidationError)
    async def bad_parameter(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        message = f"{'.'.join(str(part) for part in first['loc'][1:])}: {first['msg']}"
        service.refuse(request.url.path, BadParameter.code)
        return JSONResponse(_error_body(BadParameter.code, message), BadParameter.status)

    @api.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        codes = {404: "not_found", 405: "method_not_allowed", 406: "not_acceptable"}
        code = codes.get(error.status_code, "bad_request")
        service.refuse(request.url.path, code)
        body = _error_body(code, str(error.detail))
        headers = error.headers
        if error.status_code == 405:  # Starlette names the methods of the first route of this path only
            headers = {"Allow": ", ".join(_methods(api, request.url.path))}
        return JSONResponse(body, error.status_code, headers)

    @api.exception_handler(ClientDisconnect)
    async def client_closed(_: Request, __: ClientDisconnect) -> Response:
        return Response(status_code=499)  # nobody reads it; 499 is what others call it in their logs

    @api.exception_handler(Exception)
    async def internal_error(_: Request, __: Exception) -> Response:
        # The request log has the traceback under the answer's X-Request-ID; the caller learns nothing of the inside.
        return JSONResponse(_error_body(InternalError.code, "the service failed"), InternalError.status)
