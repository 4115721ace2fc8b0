"""The short way of hot requests: past FastAPI's layers, straight to the function that answers.

The routes stay FastAPI's: it describes them, and answers whatever else is asked. For a route whose function takes the
request and gives the response, all that its layers do for a request is to find nothing to do, for more CPU than the
rest of the service takes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.routing import APIRoute

from detectctl.serving import below

if TYPE_CHECKING:
    from collections.abc import Collection

    from starlette.types import Receive, Scope, Send


class ShortWay:
    """In front of a FastAPI application; an error is answered by the same handlers.

    Args:
        api: with all its routes and handlers.
        paths: of routes whose functions take a `Request` and nothing else, and give a `Response`.
    """

    def __init__(self, api: FastAPI, paths: Collection[str]) -> None:
        self._api = api
        routes = [route for route in api.routes if isinstance(route, APIRoute) and route.path in paths]
        self._endpoints = {(method, route.path): route.endpoint for route in routes for method in route.methods or ()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        endpoint = None
        if scope["type"] == "http":
            endpoint = self._endpoints.get((scope["method"], below.path(scope)))
        if endpoint is None:
            await self._api(scope, receive, send)
            return
        scope["app"] = self._api  # Starlette raises other errors where there is none
        request = Request(scope, receive, send)
        try:
            response = await endpoint(request)
        except Exception as error:
            handlers: dict[Any, Any] = self._api.exception_handlers
            kind = next(kind for kind in type(error).__mro__ if kind in handlers)
            response = await handlers[kind](request, error)
            await response(scope, receive, send)
            if kind is Exception:  # so that the server notes it, too
                raise
        else:
            await response(scope, receive, send)
