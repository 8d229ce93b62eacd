"""The routes that platforms ask: health, readiness, metrics."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from speechprompt.server.schemas import Health
from speechprompt.server.service import service_of

router = APIRouter(tags=["operations"])


@router.get("/healthz")
async def health() -> Health:
    """The process answers."""
    return Health(status="alive")


@router.get("/readyz", responses={503: {"model": Health, "description": "loading, or about to stop"}})
async def readiness(request: Request, response: Response) -> Health:
    """The server takes requests: models and artifacts are loaded, and it is not about to stop."""
    service = service_of(request)
    if service.ready and not service.draining:
        return Health(status="ready")
    response.status_code = 503
    return Health(status="draining" if service.draining else "loading")


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request) -> Response:
    """Prometheus metrics."""
    return Response(service_of(request).metrics.text(), media_type="text/plain; version=0.0.4")
