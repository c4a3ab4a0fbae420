"""Guards infra/docker/Dockerfile: what it installs, who runs it, what it starts and leaves out.

No image is built here. hadolint reads the Dockerfile; its commands that need no Docker are run.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from docker.utils import exclude_paths  # type: ignore[import-untyped]

from pipeline.endpoint_settings import parse_endpoint_command_line
from pipeline.settings_layers import PROJECT_ROOT

ROOT = Path(__file__).parents[3]
DOCKERFILE = ROOT / "infra" / "docker" / "Dockerfile"
TEXT = DOCKERFILE.read_text()
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
IGNORED = (ROOT / ".dockerignore").read_text().splitlines()
TARGETS = ("cpu", "gpu", "serve-cpu", "serve-gpu")


class Step(NamedTuple):
    """One instruction."""

    word: str
    rest: str


def stages() -> dict[str, list[Step]]:
    """The instructions of each stage by its name, FROM first."""
    joined = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", TEXT, flags=re.MULTILINE))
    found: dict[str, list[Step]] = {}
    for line in filter(None, map(str.strip, joined.splitlines())):
        word, rest = line.split(maxsplit=1)
        if word == "FROM":
            _, _, name = rest.split()
            found[name] = []
        found[name].append(Step(word, rest))
    return found


STAGES = stages()


def base_of(stage: str) -> str:
    return STAGES[stage][0].rest.split()[0]


def steps_of(stage: str) -> list[Step]:
    """With all that the stage builds on."""
    base = base_of(stage)
    return [*(steps_of(base) if base in STAGES else []), *STAGES[stage]]


def last(stage: str, word: str) -> str:
    return [step.rest for step in steps_of(stage) if step.word == word][-1]


def hadolint(path: Path) -> subprocess.CompletedProcess[str]:
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    program = shutil.which("hadolint", path=places)
    assert program, "hadolint is missing: pip install -e '.[dev]'"
    command = [program, "--no-color", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


# --- the linter ----------------------------------------------------------------------------------


def test_hadolint_has_nothing_to_say() -> None:
    result = hadolint(DOCKERFILE)
    assert (result.returncode, result.stdout) == (0, "")


def test_hadolint_would_say_something(tmp_path: Path) -> None:
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM python:latest\nRUN pip install torch\n")
    result = hadolint(bad)
    assert result.returncode == 1
    assert "DL3007" in result.stdout, "a base that is not pinned"


# --- what is in it -------------------------------------------------------------------------------


def test_the_targets_are_these() -> None:
    used = {base_of(stage) for stage in STAGES}
    assert set(STAGES) - used == {"serve-cpu", "serve-gpu"}, "the others are built upon"
    assert set(TARGETS) <= set(STAGES)


def test_the_base_is_pinned_and_a_python_that_is_supported() -> None:
    (image,) = {base_of(stage) for stage in STAGES} - set(STAGES)
    version = re.fullmatch(r"python:(3\.\d+)-slim-\w+", image).group(1)  # type: ignore[union-attr]
    low, high = re.findall(r"3\.\d+", PROJECT["requires-python"])
    as_numbers = [tuple(map(int, each.split("."))) for each in (low, version, high)]
    assert as_numbers[0] <= as_numbers[1] < as_numbers[2]


@pytest.mark.parametrize("target", TARGETS)
def test_nobody_runs_it_as_root(target: str) -> None:
    uid = last(target, "USER")
    assert uid.isdigit(), "by number, or Kubernetes' runAsNonRoot can't tell"
    assert int(uid) > 0
    assert f"--uid {uid} " in next(step.rest for step in steps_of(target) if "useradd" in step.rest)


@pytest.mark.parametrize("target", TARGETS)
def test_every_package_is_a_pinned_one(target: str) -> None:
    installs = [
        command
        for step in steps_of(target)
        for command in step.rest.split("&&")
        if "pip install" in command
    ]
    assert installs
    for command in installs:
        words = shlex.split(command)
        is_ours = words[-2:] == ["-e", "."] and "--no-deps" in words
        is_torch = words[-2:] == ["-r", "torch.txt"] and "--no-deps" in words
        assert is_ours or is_torch or "-c constraints.txt" in command, command
        assert "--no-cache-dir" in words


def run_step(start: str, folder: Path) -> None:
    """Run what a RUN step runs there, in a folder that has what was copied before."""
    for name in ("pyproject.toml", "constraints.txt"):
        (folder / name).write_text((ROOT / name).read_text())
    (command,) = {
        command.strip()
        for steps in STAGES.values()
        for step in steps
        if step.word == "RUN"
        for command in step.rest.split("&&")
        if command.strip().startswith(start)
    }
    script = command.replace("python", sys.executable, 1) if start == "python" else command
    subprocess.run(["bash", "-c", script], cwd=folder, check=True, timeout=60)


def test_the_requirements_are_the_projects(tmp_path: Path) -> None:
    run_step("python", tmp_path)
    assert (tmp_path / "requirements.txt").read_text().splitlines() == PROJECT["dependencies"]


def test_torch_for_cpu_is_the_constrained_one(tmp_path: Path) -> None:
    run_step("grep", tmp_path)
    pinned = (tmp_path / "torch.txt").read_text().split()
    assert [line.split("==")[0] for line in pinned] == ["torch", "torchvision"]


def test_kuberays_probes_find_what_they_call() -> None:
    """`bash -c "wget ..."`; Debian's slim image has bash."""
    assert "wget" in next(step.rest for step in STAGES["base"] if "apt-get install" in step.rest)


def test_no_secret_gets_into_a_layer() -> None:
    for steps in STAGES.values():
        for step in steps:
            assert step.word not in ("ARG", "ADD")
            if step.word == "ENV":
                assert not re.search(r"KEY|TOKEN|SECRET|PASSWORD", step.rest)


def test_recipes_find_their_assets_in_the_image() -> None:
    """They lie beside the sources, which is where an editable install leaves them."""
    assert PROJECT_ROOT == ROOT
    for target in ("cpu", "gpu"):
        copied = {step.rest.split()[-1] for step in STAGES[target] if step.word == "COPY"}
        assert {"assets", "pipeline", "actors", "jobs"} <= copied
        assert any("-e ." in step.rest for step in STAGES[target])


# --- the context ---------------------------------------------------------------------------------


def test_what_is_copied_is_in_the_context_and_nothing_else(tmp_path: Path) -> None:
    """The rules of .dockerignore on a small checkout, by Docker's own matching."""
    wanted = {
        "pyproject.toml", "constraints.txt", "LICENSE", "README.md", "jobs/recipes/reference.yaml",
        "pipeline/config.py", "actors/wire.py", "assets/reference_pair/target/config.json",
    }  # fmt: skip
    others = {
        ".git/config", ".venv/bin/python", ".env", "demo-output/a.parquet", "tests/conftest.py",
        "infra/serve/rayservice.yaml", "pipeline/__pycache__/config.pyc", "jobs/.env", "key.pem",
    }  # fmt: skip
    for name in wanted | others:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    patterns = [line for line in IGNORED if line and not line.startswith("#")]
    context = exclude_paths(str(tmp_path), patterns, dockerfile="pyproject.toml")
    files = {name for name in context if (tmp_path / name).is_file()}
    assert files == wanted


def test_every_source_of_a_copy_exists() -> None:
    for steps in STAGES.values():
        for step in steps:
            if step.word == "COPY":
                for source in step.rest.split()[:-1]:
                    assert (ROOT / source).exists(), source


# --- what it starts ------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["serve-cpu", "serve-gpu"])
def test_the_serving_images_start_an_endpoint_of_this_project(target: str) -> None:
    entrypoint = yaml.safe_load(last(target, "ENTRYPOINT"))
    words = [*entrypoint, *yaml.safe_load(last(target, "CMD"))]
    assert words[:3] == ["python", "-m", "jobs.serve_captions"]
    command = parse_endpoint_command_line(words[3:])
    assert command.options.runner == "local"
    assert command.config.serving.host == "0.0.0.0", "else the port is of no use outside"
    assert command.config.models.tensor_parallel_size == 1
    port = command.config.serving.port
    assert last(target, "EXPOSE") == str(port)
    assert f"http://127.0.0.1:{port}/health" in last(target, "HEALTHCHECK")
    assert (ROOT / "jobs" / "serve_captions.py").is_file()


def test_the_health_check_asks_what_the_application_answers_without_a_key() -> None:
    from pipeline.serving.key_gate import OPEN_PATHS

    assert "/health" in OPEN_PATHS


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_nodes_have_no_health_check(target: str) -> None:
    """A job would be unhealthy for want of an endpoint."""
    assert not [step for step in steps_of(target) if step.word == "HEALTHCHECK"]


def test_the_manifests_image_is_the_one_that_the_dockerfile_builds() -> None:
    (image,) = re.findall(r"--target gpu -t (\S+)", TEXT)
    assert image.endswith(f":{PROJECT['version']}")
    for path in ("infra/nightly/rayjob.yaml", "infra/serve/rayservice.yaml"):
        assert f"image: &image {image}\n" in (ROOT / path).read_text()


def test_there_is_one_dockerfile_and_the_docs_say_that_it_was_not_built() -> None:
    assert list(ROOT.glob("infra/**/Dockerfile*")) == [DOCKERFILE]
    runbook = " ".join((ROOT / "infra/nightly/RUNBOOK.md").read_text().split())
    assert "[Dockerfile](../docker/Dockerfile) was not built" in runbook
