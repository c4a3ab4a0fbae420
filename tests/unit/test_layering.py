"""Guards the layering: jobs -> actors -> pipeline, and inside pipeline the arrows of the docs."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# What each layer may not import (docs/architecture.md, "The one idea").
FORBIDDEN = {
    "pipeline": {"ray", "actors", "jobs", "tests"},
    "pipeline/video": {"torch", "transformers", "pipeline.models", "pipeline.decoding"},
    "pipeline/sample_world": {"torch", "transformers", "pipeline.models", "pipeline.decoding"},
    "pipeline/dataset": {"torch", "pipeline.models", "pipeline.decoding", "pipeline.video"},
    "pipeline/benchmark": {"pipeline.dataset.commit", "pipeline.calibration"},
    "pipeline/calibration": {"pipeline.dataset.commit", "pipeline.benchmark"},
    "pipeline/stages": {"pipeline.benchmark", "pipeline.calibration", "pipeline.gang"},
    "pipeline/gang": {"pipeline.benchmark", "pipeline.calibration", "pipeline.dataset"},
    "pipeline/decoding": {
        *("pipeline.video", "pipeline.models", "pipeline.dataset", "pipeline.stages"),
        *("pipeline.benchmark", "pipeline.calibration", "pipeline.gang"),
    },
    "pipeline/metrics": {"torch", "pipeline.video", "pipeline.dataset", "pipeline.stages"},
    "pipeline/serving": {
        *("pipeline.dataset", "pipeline.stages", "pipeline.gang"),
        *("pipeline.benchmark", "pipeline.calibration"),
    },
    "pipeline/models": {
        *("pipeline.video", "pipeline.dataset", "pipeline.stages", "pipeline.gang"),
    },
    "actors": {"jobs", "tests"},
    "jobs": {"tests"},
}


def imported_modules(path: Path) -> set[str]:
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules.update(f"{node.module}.{alias.name}" for alias in node.names)
    return modules


@pytest.mark.parametrize("layer", FORBIDDEN)
def test_layer_imports_point_one_way(layer):
    files = sorted((ROOT / layer).rglob("*.py"))
    assert files, f"{layer} has no files: the rule would hold nothing"
    offences = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in files
        for module in sorted(imported_modules(path))
        for banned in FORBIDDEN[layer]
        if module == banned or module.startswith(banned + ".")
    ]
    assert not offences, "\n".join(offences)
