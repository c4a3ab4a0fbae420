"""The endpoint on Ray Serve: a replica is a process with an engine, decoders and the HTTP API.

    serve deploy infra/serve/reference.yaml

The application is built in the replica, over the engine that lives there; nothing of it is pickled.
The engine holds the models itself or, if the target has several ranks, leads a gang of actors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig

from actors.telemetry import RaySink
from pipeline.config import EndpointConfig
from pipeline.config_errors import ConfigError
from pipeline.endpoint_settings import endpoint_config_of
from pipeline.metrics.definitions import Workload
from pipeline.serving.api_keys import are_keys_configured

if TYPE_CHECKING:
    from fastapi import FastAPI

    from pipeline.serving.endpoint import Engine

_SPARE_REQUESTS = 32
"""Beside those that run and wait: for health, metrics, and for telling others that it is full."""
_MAX_QUEUED = 256
"""Requests that a proxy holds while all replicas are at their limit; then it answers 503 itself."""
_MAX_STARTS = 3
"""Of a replica, in a row: models that can't be loaded are not there the next time either."""


@serve.ingress()
class CaptionApi:
    """One replica. Raises ConfigError, ModelLoadError, PairError, WorkerError and GangError."""

    def __init__(self, config: EndpointConfig, wants_keys: bool) -> None:
        # Imported here, as they bring torch: who deploys needs none.
        from pipeline.serving.access_log import log_to_stdout
        from pipeline.serving.endpoint import Endpoint

        if wants_keys and not are_keys_configured(config.serving.api_key_file):
            raise ConfigError(
                "the endpoint was deployed with LVSPEC_API_KEYS, and this replica's node has none: "
                "it would let everyone in. Use serving.api_key_file, or set it on every node"
            )
        log_to_stdout()
        self._endpoint = Endpoint(
            config, _engine(config), lambda name: [RaySink(Workload.ENDPOINT, name)]
        )

    def __serve_build_asgi_app__(self) -> FastAPI:
        """What answers; Ray calls it once, in the replica."""
        return self._endpoint.app

    def check_health(self) -> None:
        """Ray replaces a replica for which this raises."""
        if not self._endpoint.is_alive:
            raise RuntimeError("the engine has ended")


def _engine(config: EndpointConfig) -> Engine:
    """Loads the models."""
    if config.models.tensor_parallel_size > 1:
        from actors.gang_service import GangService

        return GangService(config)
    from pipeline.serving.caption_service import CaptionService

    return CaptionService.load(config)


def application(config: EndpointConfig) -> Application:
    """The Serve application of a configuration."""
    serving, cluster = config.serving, config.cluster
    replicas = serving.replicas
    in_engine = config.generation.max_num_seqs + serving.max_waiting
    is_gang = config.models.tensor_parallel_size > 1  # its ranks take what a replica has
    deployment = serve.deployment(
        CaptionApi,
        autoscaling_config=AutoscalingConfig(
            min_replicas=replicas.min_replicas,
            max_replicas=replicas.max_replicas,
            target_ongoing_requests=replicas.target_ongoing_requests,
            upscale_delay_s=replicas.upscale_delay_s,
            downscale_delay_s=replicas.downscale_delay_s,
        ),
        # Above what the engine takes, so that a full queue is told by us, as 429.
        max_ongoing_requests=in_engine + _SPARE_REQUESTS,
        max_queued_requests=_MAX_QUEUED,
        max_constructor_retry_count=_MAX_STARTS,
        graceful_shutdown_timeout_s=replicas.graceful_shutdown_timeout_s,
        ray_actor_options={
            "num_cpus": 0 if is_gang else cluster.captioner_cpus,
            "num_gpus": 0 if is_gang else cluster.captioner_gpus,
        },
    )
    return deployment.bind(config, are_keys_configured(serving.api_key_file))


def build(args: dict[str, Any]) -> Application:
    """For a Serve config file: ``import_path: actors.caption_api:build``, and args as sections.

    Raises ConfigError.
    """
    return application(endpoint_config_of(args))
