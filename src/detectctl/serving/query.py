"""The queries of `/detect` and `/annotate`: one model each, which checks them and describes them in OpenAPI.

FastAPI's own way, a parameter of the function for each value, takes 30 µs more CPU for each request.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

from pydantic import BaseModel, Field, PlainValidator, ValidationError, WithJsonSchema
from starlette.datastructures import QueryParams

from detectctl.defaults import LABELS, MAX_LINE_WIDTH, MAX_QUALITY, MOST_DET, QUALITY
from detectctl.errors import BadParameter
from detectctl.thresholds import Thresholds
from detectctl.wire import DetectOptions, DrawOptions

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.requests import Request


_NUMBER_OR_MORE = {"anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, {"type": "string"}, {"type": "null"}]}


class DetectQuery(BaseModel):
    """Of `POST /detect`."""

    conf: Annotated[Thresholds | None, PlainValidator(Thresholds.parse), WithJsonSchema(_NUMBER_OR_MORE)] = Field(
        None, description="minimum confidence of a detection, and of classes another, as in 0.4,person=0.25"
    )
    iou: float | None = Field(
        None, ge=0, le=1, description="NMS drops a box that overlaps a better one by more than this"
    )
    agnostic_nms: bool | None = Field(None, description="whether it does so across classes, too")
    max_det: int | None = Field(None, ge=1, le=MOST_DET, description="objects in the answer, the most confident ones")
    classes: tuple[str, ...] = Field(
        (), alias="class", description="name of a class to keep; repeatable; all if left out"
    )

    def options(self) -> DetectOptions:
        """What is asked about the image."""
        conf = self.conf or Thresholds()
        return DetectOptions(conf.confidence, self.iou, self.classes, conf.by_class, self.max_det, self.agnostic_nms)


class AnnotateQuery(DetectQuery):
    """Of `POST /annotate`."""

    labels: bool = Field(LABELS, description="label each box with class and confidence")
    line_width: int | None = Field(
        None, ge=1, le=MAX_LINE_WIDTH, description="pixels; grows with the image if left out"
    )
    quality: int = Field(QUALITY, ge=1, le=MAX_QUALITY, description="JPEG or WebP quality")

    def drawing(self) -> DrawOptions:
        """How the picture should look."""
        return DrawOptions(self.labels, self.line_width, self.quality)


class _UrlQuery(BaseModel):
    image_url: str = Field(min_length=1, description="http(s) URL of the image")


class DetectUrlQuery(DetectQuery, _UrlQuery):
    """Of `GET /detect`."""


class AnnotateUrlQuery(AnnotateQuery, _UrlQuery):
    """Of `GET /annotate`."""


def _names(kind: type[BaseModel]) -> frozenset[str]:
    return frozenset(field.alias or name for name, field in kind.model_fields.items())


Q = TypeVar("Q", bound=BaseModel)
_NAMES = _names(AnnotateUrlQuery)
_URL = next(iter(_UrlQuery.model_fields))
_DESCRIBED = "`/openapi.json` describes every parameter"
_UNKNOWN = f"{_DESCRIBED}; what is part of an image's URL must be percent-encoded in it"


def read(request: Request, kind: type[Q]) -> Q:
    """The request's query, which must not be changed; raises BadParameter if it is not of this kind."""
    return cast("Q", _read(request.scope["query_string"], kind))


@lru_cache(maxsize=256)
def _read(query_string: bytes, kind: type[Q]) -> Q:
    """Callers ask for the same again and again."""
    known = _names(kind)
    given: dict[str, Any] = {}
    for name, value in QueryParams(query_string).multi_items():
        if name == _URL and name not in known:
            raise _url_by_post()
        if name not in known:  # not repeated in the answer, because it may be anything
            raise BadParameter(
                "a query parameter is unknown", why=f"this route takes {', '.join(sorted(known))}", hint=_UNKNOWN
            )
        if name == "class":
            given.setdefault(name, []).append(value)
        elif name in given:  # a proxy in front of us might take the other one
            raise BadParameter(
                f"the query parameter {name} is given twice", why="only class may be repeated", hint="give it once"
            )
        else:
            given[name] = value
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        problem = error.errors()[0]
    wrong = problem["loc"][0]
    if problem["type"] == "missing":
        raise BadParameter(
            f"the query parameter {wrong} is missing",
            why="this route takes the image from there",
            hint=f"add `?{wrong}=…`, or send the image itself by POST",
        )
    why = str(problem.get("ctx", {}).get("error", problem["msg"]))  # ours, else in pydantic's words
    raise BadParameter(f"{wrong} is {str(problem['input'])[:80]!a}", why=why, hint=_DESCRIBED)


def refuse_in_form(names: Iterable[str], path: str) -> None:
    """Raise BadParameter if one of a form's fields has a parameter's name: it would change nothing, without a word."""
    for name in names:
        if name == _URL:
            raise _url_by_post()
        if name in _NAMES:
            raise BadParameter(
                f"{name} is in the form",
                why="the parameters are read from the query, and from the form the image alone",
                hint=f"move it: `curl -F file=@image.jpg '…{path}?{name}=…'`",
            )


def _url_by_post() -> BadParameter:
    return BadParameter(
        f"{_URL} is a parameter of GET",
        why="a POST brings the image itself",
        hint="send the same by GET, with no body: `curl -G`",
    )


def explained(error: BadParameter, request: Request) -> BadParameter:
    """The error, or another if an image URL with a query of its own was put into ours as it is.

    Whatever encodes a parameter also encodes its question marks.
    """
    url = request.scope["query_string"].decode("latin-1").partition(f"{_URL}=")[2].partition("&")[0]
    if "?" not in url or request.method == "POST":
        return error
    return BadParameter(
        f"{_URL} is not percent-encoded",
        why=f"what follows an & in it is read as a parameter of this route: {error.what}",
        hint=f"encode it, as `curl -G …{request.scope['path']} --data-urlencode {_URL}=https://…` does",
    )


def parameters(kind: type[BaseModel]) -> list[dict[str, Any]]:
    """The query as OpenAPI describes it."""
    schema = kind.model_json_schema()
    required = schema.get("required", ())
    return [
        {"name": name, "in": "query", "required": name in required, "schema": one, "description": one["description"]}
        for name, one in schema["properties"].items()
    ]
