"""A generation service that counts what the service behind it does."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from pipeline.metrics.endpoint_metrics import EndpointMetrics
from pipeline.serving.generation import (
    Committed,
    Events,
    Finished,
    GenerationRequest,
    GenerationService,
    ServiceStatus,
)
from pipeline.serving.protocol_errors import ANSWERED_ERRORS, api_error_of


class MeteredService:
    """A GenerationService: answers as the one behind it does, and tells the metrics of it."""

    def __init__(self, service: GenerationService, metrics: EndpointMetrics) -> None:
        self._service = service
        self._metrics = metrics

    @property
    def model_id(self) -> str:
        """Of the target."""
        return self._service.model_id

    @property
    def draft_model_id(self) -> str | None:
        """Of the draft model, if one proposes tokens."""
        return self._service.draft_model_id

    async def generate(self, request: GenerationRequest) -> Events:
        """Answer a request; closing the iterator cancels it, as in the service behind."""
        observed = self._metrics.request_started()
        is_finished = False
        # The service's iterators can be closed, as its contract says; their type does not.
        events = self._service.generate(request)
        try:
            async with aclosing(events):
                async for event in events:
                    match event:
                        case Committed():
                            observed.committed(event)
                        case Finished():
                            observed.finished(event)
                            is_finished = True
                    yield event
        except (asyncio.CancelledError, GeneratorExit):
            if not is_finished:
                observed.cancelled()
            raise
        except ANSWERED_ERRORS as error:  # any other is a bug, which the application counts
            observed.failed(api_error_of(error).code)
            raise
        finally:
            self.status()

    def status(self) -> ServiceStatus:
        """Now; the gauges follow."""
        status = self._service.status()
        self._metrics.set_status(status)
        return status
