"""Answer questions about videos over HTTP, by OpenAI's API, on Ray Serve or in this process.

    python jobs/serve_captions.py --recipe reference --port 8000

SIGTERM and Ctrl-C drain: no request is taken any more, those in flight are answered, at most
serving.replicas.graceful_shutdown_timeout_s long; a second Ctrl-C does not wait. Exit codes: 0
drained; 1 it could not start; 2 the configuration is wrong. On a cluster that stands by itself,
`serve deploy infra/serve/reference.yaml` does without this process.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time

from actors.errors import ClusterError
from pipeline.config import EndpointConfig
from pipeline.config_digest import mask_secrets
from pipeline.config_errors import ConfigError
from pipeline.endpoint_settings import parse_endpoint_command_line
from pipeline.models.errors import ModelLoadError, PairError
from pipeline.serving.api_keys import are_keys_configured
from pipeline.storage import StorageError

EXIT_DRAINED, EXIT_FAILED, EXIT_CONFIG = 0, 1, 2

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

APPLICATION = "lvspec"
LOOPBACK = ("127.0.0.1", "localhost", "::1")

_POLL_S = 0.5

EXPECTED_ERRORS = (ClusterError, ModelLoadError, PairError, StorageError)
"""What a person can mend: told in one line. Anything else is ours, and shows its traceback."""


class EndpointError(Exception):
    """The endpoint could not be started; the message holds what Ray Serve or the system said."""


def main(argv: list[str]) -> int:
    """Serve until told to stop; returns the exit code."""
    try:
        command = parse_endpoint_command_line(argv)
        config, options = command.config, command.options
        _warn_if_open(config)
        if options.runner == "local":
            _serve_here(config)
        else:
            _serve_on_ray(config, options.address)
    except ConfigError as error:
        return _fail(error, EXIT_CONFIG)
    except (*EXPECTED_ERRORS, EndpointError) as error:
        return _fail(error, EXIT_FAILED)
    print("drained", flush=True)
    return EXIT_DRAINED


def _warn_if_open(config: EndpointConfig) -> None:
    serving = config.serving
    if serving.host not in LOOPBACK and not are_keys_configured(serving.api_key_file):
        print(
            f"warning: {serving.host} is no address of this machine alone, and no API key is set "
            "(serving.api_key_file, LVSPEC_API_KEYS): anyone who reaches it may ask",
            file=sys.stderr,
        )


def _announce(config: EndpointConfig) -> None:
    host = config.serving.host
    shown = f"[{host}]" if ":" in host else host
    print(f"ready: http://{shown}:{config.serving.port}/v1", flush=True)


def _serve_here(config: EndpointConfig) -> None:
    """Under uvicorn, which drains by itself. Raises EndpointError, and what loading models does."""
    # Imported where they are used: the driver of the other runner needs no torch.
    import uvicorn

    from pipeline.serving.access_log import log_to_stdout
    from pipeline.serving.caption_service import CaptionService
    from pipeline.serving.endpoint import Endpoint

    class Server(uvicorn.Server):
        async def startup(self, *args: object, **kwargs: object) -> None:
            await super().startup(*args, **kwargs)  # type: ignore[arg-type]
            if self.started:
                _announce(config)

    log_to_stdout()
    serving = config.serving
    server = Server(
        uvicorn.Config(
            Endpoint(config, CaptionService.load(config)).app,
            host=serving.host,
            port=serving.port,
            access_log=False,
            log_level="warning",
            timeout_graceful_shutdown=round(serving.replicas.graceful_shutdown_timeout_s),
        )
    )
    for number in STOP_SIGNALS:  # uvicorn takes them, and when it has drained passes them on
        signal.signal(number, signal.SIG_IGN)
    try:
        server.run()
    except SystemExit as error:  # uvicorn has said why on stderr
        raise EndpointError("the server could not start") from error
    if not server.started:
        raise EndpointError("the application could not start")


def _serve_on_ray(config: EndpointConfig, address: str | None) -> None:
    """On Ray Serve. Raises ConfigError, ClusterError and EndpointError."""
    import ray
    from ray import serve
    from ray.serve.exceptions import RayServeException

    from actors.caption_api import application
    from actors.connection import connect_to_ray

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    connect_to_ray(address)
    stop = _stop_event()  # after ray.init, which takes SIGTERM for itself
    try:
        serve.start(http_options={"host": config.serving.host, "port": config.serving.port})
        try:
            serve.run(application(config), name=APPLICATION)
        except (RuntimeError, RayServeException) as error:
            raise EndpointError(f"the endpoint could not start: {_cause(error)}") from error
        _announce(config)
        stop.wait()
        print("draining", flush=True)
        serve.delete(APPLICATION, _blocking=False)
        while APPLICATION in serve.status().applications:
            time.sleep(_POLL_S)
    finally:
        ray.shutdown()


def _cause(error: Exception) -> str:
    """What a replica that did not start raised: Ray Serve keeps its traceback in the status."""
    from ray import serve

    started = serve.status().applications.get(APPLICATION)
    said = [deployment.message for deployment in started.deployments.values()] if started else []
    lines = [line for message in said for line in message.splitlines() if line.strip()]
    return lines[-1] if lines else str(error)


def _stop_event() -> threading.Event:
    """Set by the first SIGINT or SIGTERM; the second one ends the process."""
    stop = threading.Event()

    def drain(number: int, frame: object) -> None:
        for other in STOP_SIGNALS:
            signal.signal(other, signal.SIG_DFL)
        stop.set()

    for number in STOP_SIGNALS:
        signal.signal(number, drain)
    return stop


def _fail(error: Exception, exit_code: int) -> int:
    print(f"error: {mask_secrets(str(error))}", file=sys.stderr)
    return exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
