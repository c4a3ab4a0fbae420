"""Guards infra/nightly: fields that KubeRay knows, room for the recipe, a night that ends well.

No cluster is asked. The RayJob is held against the field names of KubeRay's own CRD (tests/data);
the start script, the crontab's line, the head's preStop and the RUNBOOK's commands are run.
"""

import copy
import json
import math
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import psutil
import pytest
import yaml
from click import Command
from ray.dashboard.modules.job.cli import submit

from jobs import verify_corpus
from pipeline.config import OutputConfig, RunConfig
from pipeline.dataset.commit import Committer
from pipeline.dataset.layout import Layout
from pipeline.dataset.schema import RunLabels, caption_row, failure_row
from pipeline.settings import load_run_config, parse_command_line
from pipeline.storage import storage_for
from tests.make_records import caption_record, clip_spec, failure

ROOT = Path(__file__).parents[3]
NIGHTLY = ROOT / "infra" / "nightly"
SCHEMA = json.loads((ROOT / "tests/data/kuberay/rayjob_schema.json").read_text())
RAYJOB: dict[str, Any] = yaml.safe_load((NIGHTLY / "rayjob.yaml").read_text())
SPEC = RAYJOB["spec"]
CLUSTER = SPEC["rayClusterSpec"]
GROUPS = {group["groupName"]: group for group in CLUSTER["workerGroupSpecs"]}
HEAD = CLUSTER["headGroupSpec"]
TEMPLATES = {"head": HEAD["template"]} | {name: each["template"] for name, each in GROUPS.items()}
RBAC = list(yaml.safe_load_all((NIGHTLY / "rbac.yaml").read_text()))
CRONJOB = yaml.safe_load((NIGHTLY / "cronjob.yaml").read_text())
KUSTOMIZATION = yaml.safe_load((NIGHTLY / "kustomization.yaml").read_text())
RUNBOOK = (NIGHTLY / "RUNBOOK.md").read_text()

MAX_RAYJOB_NAME = 47
"""KubeRay's, so that what it derives from the name still is a name."""
RANDOM_SUFFIX = 5
"""Characters that Kubernetes adds to generateName."""
DRAIN_S = 30
"""Within it a driver that got SIGTERM has committed and is gone."""
RAY_DRAIN_S = 30
"""Ray's own, RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S: after a pod's SIGTERM."""
NOW = datetime(2026, 1, 1, tzinfo=UTC)
WEIGHTS_BYTES = int(2 * (73.4e9 + 8.3e9))
"""Qwen2.5-VL 72B and 7B in bfloat16."""


def nightly_config() -> RunConfig:
    return load_run_config(["--config", str(NIGHTLY / "nightly.yaml")])


def container(template: dict[str, Any]) -> dict[str, Any]:
    (only,) = template["spec"]["containers"]
    return dict(only)


def limits(group: str) -> dict[str, Any]:
    return dict(container(TEMPLATES[group])["resources"]["limits"])


def num_bytes(quantity: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(Ki|Mi|Gi|Ti)", quantity).groups()  # type: ignore[union-attr]
    return int(number) << {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40}[unit]


def volume_of(template: dict[str, Any], path: str) -> dict[str, Any]:
    """The volume that is mounted there."""
    (mount,) = (m for m in container(template)["volumeMounts"] if m["mountPath"] == path)
    (volume,) = (v for v in template["spec"]["volumes"] if v["name"] == mount["name"])
    return dict(volume)


def seconds(duration: str) -> int:
    return int(duration[:-1]) * {"s": 1, "m": 60, "h": 3600}[duration[-1]]


def run_script(
    argv: list[str], tools: Path, home: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run with ``tools`` before the system's programs and nothing of this shell's environment."""
    environment = {"PATH": f"{tools}{os.pathsep}/usr/bin:/bin", "HOME": str(home)} | variables
    return subprocess.run(
        argv, env=environment, cwd=home, capture_output=True, text=True, check=False, timeout=60
    )


def write_tool(path: Path, script: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


# --- the RayJob ----------------------------------------------------------------------------------


def test_kuberay_knows_every_field() -> None:
    """Unknown fields would be refused by `kubectl create`, at night."""
    jsonschema.validate(RAYJOB, SCHEMA)


@pytest.mark.parametrize(
    "path",
    [
        "spec",
        "spec/submitterConfig",
        "spec/rayClusterSpec",
        "spec/rayClusterSpec/authOptions",
        "spec/rayClusterSpec/autoscalerOptions",
        "spec/rayClusterSpec/headGroupSpec",
        "spec/rayClusterSpec/headGroupSpec/template/spec",
        "spec/rayClusterSpec/workerGroupSpecs/1",
        "spec/rayClusterSpec/workerGroupSpecs/1/template/spec/containers/0",
        "spec/rayClusterSpec/workerGroupSpecs/1/template/spec/volumes/0",
    ],
)
def test_a_misspelt_field_is_found(path: str) -> None:
    """The check above would be worth nothing if the schema let anything through."""
    rayjob = copy.deepcopy(RAYJOB)
    level: Any = rayjob
    for key in path.split("/"):
        level = level[int(key) if key.isdigit() else key]
    name = next(iter(level))
    level[f"{name}s"] = level[name]
    with pytest.raises(jsonschema.ValidationError, match=f"'{name}s' was unexpected"):
        jsonschema.validate(rayjob, SCHEMA)


def test_a_wrong_kind_of_value_is_found() -> None:
    """rayStartParams are strings: a bare 0 would be refused."""
    rayjob = copy.deepcopy(RAYJOB)
    rayjob["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(rayjob, SCHEMA)


def test_names_fit_what_kuberay_derives_from_them() -> None:
    prefix = RAYJOB["metadata"]["generateName"]
    assert "name" not in RAYJOB["metadata"], "a second night would find the name taken"
    assert re.fullmatch(r"[a-z][-a-z0-9]*-", prefix)
    assert len(prefix) + RANDOM_SUFFIX <= MAX_RAYJOB_NAME
    assert f"prefix={prefix}\n" in (NIGHTLY / "start_night.sh").read_text()


def test_ray_is_the_one_that_the_tests_ran_with() -> None:
    (pinned,) = re.findall(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert CLUSTER["rayVersion"] == pinned
    assert len({container(template)["image"] for template in TEMPLATES.values()}) == 1


def test_a_night_is_never_run_twice() -> None:
    """A retry of exit 3 would find nothing to do, exit 0, and hide the failures."""
    assert SPEC["backoffLimit"] == 0
    assert CRONJOB["spec"]["jobTemplate"]["spec"]["backoffLimit"] == 0


def test_the_cluster_goes_when_the_job_has_ended() -> None:
    assert SPEC["shutdownAfterJobFinishes"] is True
    assert 0 < SPEC["ttlSecondsAfterFinished"] <= 600, "GPUs must not idle for a dashboard"


def entrypoint_options() -> tuple[dict[str, str], list[str]]:
    """Of `timeout` (its duration under ""), and the arguments of the job."""
    words = shlex.split(SPEC["entrypoint"])
    split = words.index("python")
    given = dict(word.removeprefix("--").partition("=")[::2] for word in words[1 : split - 1])
    assert words[0] == "timeout"
    assert words[split + 1 : split + 3] == ["-m", "jobs.caption_corpus"]
    return given | {"": words[split - 1]}, words[split + 3 :]


def test_the_entrypoint_is_a_command_of_this_project() -> None:
    _, arguments = entrypoint_options()
    local = [word.replace("/etc/lvspec", str(NIGHTLY)) for word in arguments]
    command = parse_command_line(local)
    assert command.config == nightly_config()
    assert command.options.runner == "ray"
    volume = volume_of(HEAD["template"], "/etc/lvspec")
    generated = {each["name"]: each["files"] for each in KUSTOMIZATION["configMapGenerator"]}
    assert "nightly.yaml" in generated[volume["configMap"]["name"]]


def test_the_night_ends_by_sigterm_before_it_is_cut_off() -> None:
    """`timeout` asks the driver first; activeDeadlineSeconds only deletes the cluster."""
    options, _ = entrypoint_options()
    assert options["signal"] == "TERM"
    assert "foreground" in options, "Ray must reach the driver's process group"
    assert seconds(options["kill-after"]) > DRAIN_S
    longest_s = seconds(options[""]) + seconds(options["kill-after"])
    start_s = SPEC["activeDeadlineSeconds"] - longest_s
    assert start_s >= 600, "the deadline counts from before the head is there"
    assert SPEC["activeDeadlineSeconds"] < 24 * 3600, "the next night must find this one ended"


def test_a_head_that_is_never_placed_does_not_last_the_night() -> None:
    options, _ = entrypoint_options()
    assert SPEC["preRunningDeadlineSeconds"] < seconds(options[""])


def test_head_runs_no_actors() -> None:
    """A busy actor must not slow the only committer down."""
    assert HEAD["rayStartParams"]["num-cpus"] == "0"
    assert "nvidia.com/gpu" not in limits("head")
    assert "resources" not in HEAD, "it would override num-cpus"


def test_workers_come_when_they_are_needed() -> None:
    assert CLUSTER["enableInTreeAutoscaling"] is True
    assert set(GROUPS) == {"decode", "caption"}
    for name, group in GROUPS.items():
        assert group["minReplicas"] == 0, name
        assert "replicas" not in group, "the autoscaler's to say"
    for name, template in TEMPLATES.items():  # the autoscaler v2 would have none restarted in place
        assert template["spec"].get("restartPolicy", "Never") == "Never", name


def test_only_decoders_may_be_taken_away() -> None:
    """A lost head ends the night, a lost captioner is many minutes of loading."""
    kinds = {
        name: template["spec"]["nodeSelector"]["eks.amazonaws.com/capacityType"]
        for name, template in TEMPLATES.items()
    }
    assert kinds == {"head": "ON_DEMAND", "decode": "SPOT", "caption": "ON_DEMAND"}
    for name in ("head", "caption"):
        annotations = TEMPLATES[name]["metadata"]["annotations"]
        assert annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"


def test_pods_get_what_they_ask_for() -> None:
    """Kubernetes takes no GPU request but the limit; the rest is not to be overbooked either."""
    for name, template in TEMPLATES.items():
        resources = container(template)["resources"]
        assert resources["requests"] == resources["limits"], name
        assert {"cpu", "memory", "ephemeral-storage"} <= set(resources["limits"])


def test_probes_are_kuberays() -> None:
    for template in TEMPLATES.values():
        assert not [key for key in container(template) if key.endswith("Probe")]


def test_a_gang_fits_a_caption_pod() -> None:
    """All ranks in one, where they share NVLink; and as many pods as gangs."""
    config = nightly_config()
    num_ranks = config.models.tensor_parallel_size
    assert config.cluster.captioner_gpus == num_ranks
    assert config.cluster.gang.placement_strategy == "PACK"
    pod = limits("caption")
    rank_cpus = config.cluster.captioner_cpus / num_ranks
    ranks_a_pod = min(pod["nvidia.com/gpu"], math.floor(int(pod["cpu"]) / rank_cpus))
    assert ranks_a_pod >= num_ranks
    num_gangs = config.cluster.max_captioners or config.cluster.num_captioners
    assert num_gangs <= GROUPS["caption"]["maxReplicas"] * (ranks_a_pod // num_ranks)


def test_decoders_fit_the_decode_pods() -> None:
    """By CPU, and by the memory that each one's child may take, beside the object store."""
    config = nightly_config()
    pod = limits("decode")
    decoders_a_pod = math.floor(int(pod["cpu"]) / config.cluster.decoder_cpus)
    num_pods = math.ceil(config.cluster.num_decoders / decoders_a_pod)
    assert num_pods <= GROUPS["decode"]["maxReplicas"]
    store_bytes = int(GROUPS["decode"]["rayStartParams"]["object-store-memory"])
    children_bytes = decoders_a_pod * config.video.limits.max_memory_bytes
    own_bytes = decoders_a_pod * (1 << 30)
    assert store_bytes + children_bytes + own_bytes <= num_bytes(pod["memory"])


def test_a_caption_pod_has_shared_memory_and_room_for_the_models() -> None:
    """Kubernetes gives /dev/shm 64 MiB by itself: NCCL and Ray's object store want more."""
    template = TEMPLATES["caption"]
    shm = volume_of(template, "/dev/shm")["emptyDir"]
    assert shm["medium"] == "Memory"
    shm_bytes = num_bytes(shm["sizeLimit"])
    store_bytes = int(GROUPS["caption"]["rayStartParams"]["object-store-memory"])
    assert store_bytes + (16 << 30) <= shm_bytes, "NCCL needs some beside the object store"
    assert shm_bytes < num_bytes(limits("caption")["memory"]) // 2, "it counts as memory"

    environment = {each["name"]: each["value"] for each in container(template)["env"]}
    cache = volume_of(template, environment["XDG_CACHE_HOME"])["emptyDir"]
    assert environment["HF_HOME"].startswith(environment["XDG_CACHE_HOME"])
    cache_bytes = num_bytes(cache["sizeLimit"])
    assert cache_bytes >= 2 * WEIGHTS_BYTES, "a new revision beside the old one"
    assert cache_bytes < num_bytes(limits("caption")["ephemeral-storage"])


def test_the_driver_has_time_to_commit() -> None:
    """Whoever ends the night: `ray job stop` in Ray, or Kubernetes by the head's pod."""
    head = container(HEAD["template"])
    environment = {each["name"]: each["value"] for each in head["env"]}
    assert int(environment["RAY_JOB_STOP_WAIT_TIME_S"]) > DRAIN_S
    (waits_s,) = re.findall(r"timeout=(\d+)", head["lifecycle"]["preStop"]["exec"]["command"][2])
    assert int(waits_s) > DRAIN_S
    grace_s = HEAD["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace_s > int(waits_s) + RAY_DRAIN_S
    for name in GROUPS:
        assert TEMPLATES[name]["spec"]["terminationGracePeriodSeconds"] > RAY_DRAIN_S, name


def test_the_heads_pre_stop_ends_the_driver_and_waits_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The real script on a real process; of this machine's others it sees but one bystander."""
    committed = tmp_path / "committed"
    code = (
        "import pathlib, signal, sys, time\n"
        f"def stop(*_): time.sleep(.3); pathlib.Path({str(committed)!r}).touch(); sys.exit(1)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code, *rest], stdout=subprocess.PIPE)
        for rest in (["jobs.caption_corpus", "--config", "x"], ["another"])
    ]
    driver, bystander = started
    try:
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"

        def of_this_test(attributes: list[str]) -> list[Any]:
            seen = [psutil.Process(process.pid) for process in started]
            for process in seen:
                process.info = process.as_dict(attributes)
            return [*seen, SimpleNamespace(info={"cmdline": None})]  # one that may not be looked at

        monkeypatch.setattr(psutil, "process_iter", of_this_test)
        program, option, script = container(HEAD["template"])["lifecycle"]["preStop"]["exec"][
            "command"
        ]
        assert (program, option) == ("python", "-c")
        exec(compile(script, "preStop", "exec"), {})
        assert committed.exists()
        assert bystander.poll() is None
    finally:
        for process in started:
            process.kill()
            process.communicate()
    assert driver.returncode is not None
    assert bystander.returncode == -signal.SIGKILL


# --- who may do what -----------------------------------------------------------------------------


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [each for each in RBAC if each["kind"] == kind]


def test_s3_is_reached_by_a_role_and_no_key() -> None:
    accounts = {each["metadata"]["name"]: each for each in of_kind("ServiceAccount")}
    for name, template in TEMPLATES.items():
        account = accounts[template["spec"]["serviceAccountName"]]
        assert "eks.amazonaws.com/role-arn" in account["metadata"]["annotations"], name
    for path in NIGHTLY.iterdir():
        text = path.read_text().lower()
        for word in ("secret_access_key", "access_key_id", "akia", "hf_token"):
            assert word not in text, path


def test_workers_have_no_rights_in_kubernetes() -> None:
    """They open foreign files; the autoscaler on the head alone talks to Kubernetes."""
    for name in GROUPS:
        assert TEMPLATES[name]["spec"]["automountServiceAccountToken"] is False


def test_the_starter_may_do_no_more_than_start_nights() -> None:
    (role,) = of_kind("Role")
    (rule,) = role["rules"]
    assert rule == {
        "apiGroups": ["ray.io"],
        "resources": ["rayjobs"],
        "verbs": ["create", "list", "delete"],
    }
    assert {each["kind"] for each in RBAC} == {"ServiceAccount", "Role", "RoleBinding"}
    (binding,) = of_kind("RoleBinding")
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    pod = CRONJOB["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert [each["name"] for each in binding["subjects"]] == [pod["serviceAccountName"]]
    assert pod["serviceAccountName"] not in {
        template["spec"]["serviceAccountName"] for template in TEMPLATES.values()
    }


# --- what starts a night -------------------------------------------------------------------------


def test_the_cron_job_starts_one_night_a_day() -> None:
    spec = CRONJOB["spec"]
    assert (CRONJOB["apiVersion"], CRONJOB["kind"]) == ("batch/v1", "CronJob")
    assert len(spec["schedule"].split()) == 5
    assert spec["timeZone"] == "Etc/UTC"
    assert spec["concurrencyPolicy"] == "Forbid"
    assert 0 < spec["startingDeadlineSeconds"] < 86_400
    assert spec["failedJobsHistoryLimit"] > 0, "the log that says why a night did not start"
    assert spec["jobTemplate"]["spec"]["template"]["spec"]["restartPolicy"] == "Never"


def test_the_cron_jobs_pod_finds_its_files() -> None:
    template = CRONJOB["spec"]["jobTemplate"]["spec"]["template"]
    generated = {each["name"]: each["files"] for each in KUSTOMIZATION["configMapGenerator"]}
    _, *paths = container(template)["command"]
    for path in map(Path, paths):
        name = volume_of(template, str(path.parent))["configMap"]["name"]
        assert path.name in generated[name]


def test_kustomization_names_files_that_are_there() -> None:
    files = [name for each in KUSTOMIZATION["configMapGenerator"] for name in each["files"]]
    for name in [*KUSTOMIZATION["resources"], *files]:
        assert (NIGHTLY / name).is_file(), name
    # rayjob.yaml is itself such a file: kustomize would not rewrite a suffixed name in it
    assert KUSTOMIZATION["generatorOptions"]["disableNameSuffixHash"] is True


KUBECTL = """echo "$*" >> calls
case $1 in
get) cat nights ;;
create) exit "${CREATE_EXIT:-0}" ;;
delete) exit "${DELETE_EXIT:-0}" ;;
esac
"""


def start_night(
    home: Path, nights: list[str], **variables: str
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run the script with a kubectl that tells of these nights; what it was asked after `get`."""
    write_tool(home / "tools" / "kubectl", KUBECTL)
    (home / "nights").write_text("".join(f"{line}\n" for line in nights))
    script = ["sh", str(NIGHTLY / "start_night.sh"), "rayjob.yaml"]
    result = run_script(script, home / "tools", home, **variables)
    first, *calls = (home / "calls").read_text().splitlines()
    assert first.startswith("get rayjobs.ray.io ")
    return result, calls


FINISHED = [
    f"lvspec-nightly-{number}   {state}"
    for number, state in enumerate(["Complete", "Failed", "ValidationFailed"] * 3)
]


def test_the_first_night_starts(tmp_path: Path) -> None:
    result, calls = start_night(tmp_path, [])
    assert result.returncode == 0, result.stderr
    assert calls == ["create -f rayjob.yaml"]


@pytest.mark.parametrize("state", ["Running", "Initializing", "Suspended", "<none>"])
def test_no_night_starts_beside_an_unfinished_one(tmp_path: Path, state: str) -> None:
    """Two would decode and caption the same videos until one of them loses its fence."""
    result, calls = start_night(tmp_path, [*FINISHED, f"lvspec-nightly-x {state}"])
    assert result.returncode == 1
    assert calls == []
    assert result.stderr == f"not started: lvspec-nightly-x is unfinished ({state})\n"


def test_other_jobs_are_none_of_its_business(tmp_path: Path) -> None:
    others = ["other Running", *(f"old-{number} Complete" for number in range(20))]
    result, calls = start_night(tmp_path, others)
    assert result.returncode == 0, result.stderr
    assert calls == ["create -f rayjob.yaml"]


def test_old_nights_are_forgotten_after_tonight_is_made(tmp_path: Path) -> None:
    result, calls = start_night(tmp_path, FINISHED, DELETE_EXIT="1")
    assert result.returncode == 0, "that an old one stays is no failure"
    assert calls == [
        "create -f rayjob.yaml",
        "delete rayjobs.ray.io lvspec-nightly-0 --wait=false",
        "delete rayjobs.ray.io lvspec-nightly-1 --wait=false",
    ]


def test_a_night_that_can_not_be_made_is_a_failure_and_forgets_nothing(tmp_path: Path) -> None:
    result, calls = start_night(tmp_path, FINISHED, CREATE_EXIT="1")
    assert result.returncode == 1
    assert calls == ["create -f rayjob.yaml"]


# --- cron ----------------------------------------------------------------------------------------


def cron_line() -> str:
    (line,) = re.findall(r"^\d.*", (NIGHTLY / "crontab").read_text(), re.MULTILINE)
    return str(line)


def cron_command() -> str:
    """What cron hands to its shell: after the five fields, up to a % that is not escaped."""
    command = cron_line().split(maxsplit=5)[5]
    assert not re.search(r"(?<!\\)%", command)
    return command.replace(r"\%", "%")


def test_the_crontab_has_one_night_a_day_and_what_cron_needs() -> None:
    fields = cron_line().split(maxsplit=5)[:5]
    assert fields == CRONJOB["spec"]["schedule"].split()
    text = (NIGHTLY / "crontab").read_text()
    variables = dict(re.findall(r"^([A-Z_]+)=(.*)$", text, re.MULTILINE))
    assert set(variables) == {"SHELL", "PATH", "MAILTO"}
    assert "$" not in variables["PATH"], "cron expands nothing there"
    assert len(cron_line()) < 998, "Debian's cron reads no more"


def test_the_crontab_submits_what_ray_and_the_job_understand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = shlex.split(cron_command())
    ray = words[words.index("ray") :]
    assert ray[:3] == ["ray", "job", "submit"]
    assert isinstance(submit, Command)
    parsed = submit.make_context("submit", ray[3 : ray.index(">>")]).params
    assert parsed["working_dir"] == "."
    assert parsed["no_wait"] is False, "the lock and the mail follow the job, not its submission"
    entrypoint = list(parsed["entrypoint"])
    script = entrypoint.index("jobs/caption_corpus.py")
    monkeypatch.chdir(ROOT)  # as --working-dir . makes it
    assert parse_command_line(entrypoint[script + 1 :]).config == nightly_config()
    ours = entrypoint[:script]
    theirs = shlex.split(SPEC["entrypoint"])
    assert ours == theirs[: len(ours)], "both ways a night ends alike"


@pytest.fixture
def cron_home(tmp_path: Path) -> Path:
    (tmp_path / "lvspec").mkdir()
    write_tool(tmp_path / "venv/bin/ray", 'echo "$*"; exit "${RAY_EXIT:-0}"\n')
    return tmp_path


def run_cron(home: Path, **variables: str) -> tuple[str, str]:
    """What cron would mail, and what tonight's file holds."""
    result = run_script(["bash", "-c", cron_command()], home / "none", home, **variables)
    (log,) = (home / "nightly-logs").iterdir()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d\.log", log.name)
    return result.stdout + result.stderr, log.read_text()


def test_cron_mails_nothing_of_a_good_night(cron_home: Path) -> None:
    mail, log = run_cron(cron_home)
    assert mail == ""
    assert log.startswith("job submit --address ")


def test_cron_mails_the_exit_code_of_a_bad_night(cron_home: Path) -> None:
    mail, _ = run_cron(cron_home, RAY_EXIT="1")
    assert "exit code 1;" in mail


def test_cron_starts_no_second_night_beside_the_first(cron_home: Path) -> None:
    hold = ["flock", str(cron_home / "nightly.lock"), "sh", "-c", "echo locked; read line"]
    with subprocess.Popen(hold, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == b"locked\n"
        mail, log = run_cron(cron_home)
        holder.stdin.close()
    assert "exit code 75;" in mail
    assert log == ""


# --- the config, and the RUNBOOK -----------------------------------------------------------------


def test_the_config_is_the_recipe_and_a_little() -> None:
    config = nightly_config()
    recipe = load_run_config(["--recipe", "qwen2.5-vl-72b", "--input", "in", "--output", "out"])
    assert config.models == recipe.models
    assert config.generation == recipe.generation
    assert config.output.rows_per_part == 2000
    assert config.failures.max_share == 0.05
    assert config.speculation.plain_share == 0.01
    assert config.input.uri.startswith("s3://")


def test_the_runbook_is_short_and_says_what_was_not_run() -> None:
    assert len(RUNBOOK.splitlines()) < 120
    assert "Not run here: a Kubernetes cluster" in RUNBOOK


def runbook_scripts() -> list[str]:
    return re.findall(r"<<'EOF'\n(.*?)^EOF$", RUNBOOK, re.DOTALL | re.MULTILINE)


@pytest.fixture
def small_data_set(tmp_path: Path) -> Path:
    """Two captions and a failure, of a corpus of three videos; one has no row."""
    corpus, output = tmp_path / "in", tmp_path / "out"
    corpus.mkdir()
    (corpus / "missing.mp4").write_bytes(b"no row has it")
    config = load_run_config(
        ["--recipe", "reference", "--input", str(corpus), "--output", str(output)]
    )
    layout = Layout.of(str(output), "0123456789abcdef")
    labels = RunLabels.of(config, "0123456789abcdef", "run-1")
    storage = storage_for(str(output), config.storage)
    with Committer(storage, layout, OutputConfig(uri=str(output)), "run-1") as committer:
        for name in "ab":
            committer.add_caption(caption_row(caption_record(clip_spec(name)), labels, NOW))
        committer.add_failure(failure_row(failure(clip_spec("c"), "timeout"), labels, NOW))
    return tmp_path


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (0, "'code': 'timeout', 'kind': 'transient', 'count_all': 1"),
        (1, "'count_all': 2"),
    ],
)
def test_the_runbooks_commands_answer(small_data_set: Path, number: int, expected: str) -> None:
    scripts = runbook_scripts()
    assert len(scripts) == 2
    config = small_data_set / "nightly.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "recipe": "reference",
                "input": {"uri": str(small_data_set / "in")},
                "output": {"uri": str(small_data_set / "out")},
            }
        )
    )
    dataset = small_data_set / "out" / "0123456789abcdef"
    result = subprocess.run(
        [sys.executable, "-", str(dataset), str(config)],
        input=scripts[number], capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert expected in result.stdout


def runbook_commands(job: str) -> list[list[str]]:
    """How the RUNBOOK calls one of the jobs in its blocks, as arguments."""
    lines = re.findall(rf"^python jobs/{job}\.py (.*)$", RUNBOOK, re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


def test_the_runbooks_verification_finds_what_is_missing(
    small_data_set: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (arguments,) = runbook_commands("verify_corpus")
    given = {
        "$DATASET": str(small_data_set / "out" / "0123456789abcdef"),
        "s3://INPUT-BUCKET/videos": str(small_data_set / "in"),
    }
    assert nightly_config().input.uri in given
    assert set(given) < set(arguments)
    code = verify_corpus.main([given.get(word, word) for word in arguments])
    assert code == verify_corpus.EXIT_NOT_WHOLE
    told = capsys.readouterr().out
    assert f"no row for the video {small_data_set / 'in' / 'missing.mp4'}" in told


def test_the_runbooks_retry_is_a_command_of_this_project() -> None:
    for arguments in runbook_commands("caption_corpus"):
        local = [word.replace("infra/nightly", str(NIGHTLY)) for word in arguments]
        options = parse_command_line(local).options
        assert options.dry_run or options.retry == {"transient", "ours"}


def quoted() -> list[str]:
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", RUNBOOK, flags=re.DOTALL))


def test_the_runbooks_flags_exist() -> None:
    base = ["--config", str(NIGHTLY / "nightly.yaml")]
    flags = [text for text in quoted() if text.startswith("--") and " " in text]
    assert len(flags) >= 8
    for text in flags:
        arguments = shlex.split(text)
        is_whole = "--recipe" in arguments
        config = load_run_config(arguments if is_whole else base + arguments)
        assert config != nightly_config(), f"{text} changes nothing"


SOURCES = "\n".join(
    path.read_text()
    for folder in ("pipeline", "actors", "jobs")
    for path in sorted((ROOT / folder).rglob("*.py"))
)


def test_the_runbooks_columns_and_fields_exist() -> None:
    names = [text for text in quoted() if re.fullmatch(r"[a-z.]+(_[a-z]+)+", text)]
    assert len(names) >= 10
    for name in names:
        assert re.search(rf"\b{name.rpartition('.')[2]}\b", SOURCES), name


@pytest.mark.parametrize(
    "message",
    [
        "interrupted; what was committed stays",
        "see the failures table for the causes",
        "are word for word those of",
        "no room for",
        "a gang was lost: ",
        "it was built anew in",
        "its process or node died",
        "it did not answer for",
        "ranks could be started",
        "the server can't now (",
        "another job writes this data set",
        "delete models there that are not used",
        "have no row",
        "no row for the video",
        "twice in ",
        "would caption ",
        "reconfigured",
    ],
)
def test_the_runbooks_messages_exist(message: str) -> None:
    """A message that was rephrased would be looked for in vain, at six in the morning."""
    assert message.strip() in RUNBOOK
    assert message in SOURCES
