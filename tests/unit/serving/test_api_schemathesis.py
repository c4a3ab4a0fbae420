"""The OpenAPI schema is true: what it allows is answered as it says, what it forbids is refused."""

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from tests.serving_http import Server, fake_endpoint

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with fake_endpoint() as running:
        yield running


RIGHT, WRONG = GenerationMode.POSITIVE, GenerationMode.NEGATIVE


@pytest.mark.parametrize(
    ("method", "path", "mode"),
    [
        ("POST", "/v1/chat/completions", RIGHT),
        ("POST", "/v1/chat/completions", WRONG),
        ("POST", "/v1/captions", RIGHT),
        ("POST", "/v1/captions", WRONG),
        ("GET", "/v1/models", RIGHT),
        ("GET", "/metrics", RIGHT),
        ("GET", "/health", RIGHT),
    ],
)
def test_the_api_is_what_its_schema_says(
    server: Server, method: str, path: str, mode: GenerationMode
) -> None:
    """Generated requests, right and wrong ones; the endpoint never breaks."""
    # Not schemathesis.pytest, which needs an older pytest.
    operation = schemathesis.openapi.from_url(f"{server.url}/openapi.json")[path][method]

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def holds(case: schemathesis.Case) -> None:
        case.call_and_validate(checks=CHECKS, timeout=20)

    holds()
    with server.http() as http:
        assert http.get("/health").json()["num_running"] == 0


def test_the_schema_has_every_route_and_error(server: Server) -> None:
    """Generators of clients read it."""
    with server.http() as http:
        paths = http.get("/openapi.json").json()["paths"]
    assert set(paths) == {
        "/v1/chat/completions",
        "/v1/captions",
        "/v1/models",
        "/metrics",
        "/health",
    }
    for path in ("/v1/chat/completions", "/v1/captions"):
        responses = paths[path]["post"]["responses"]
        wanted = {200, 400, 401, 403, 404, 408, 413, 422, 429, 500, 502, 503, 504}
        assert {int(status) for status in responses} == wanted
        for status, response in responses.items():
            if status != "200":
                reference = response["content"]["application/json"]["schema"]["$ref"]
                assert reference.endswith("/ErrorResponse")
