"""Guards infra/serve on Kubernetes: fields that KubeRay knows, a config that loads, a drain that
ends by itself, and pods that reach nothing but DNS and public HTTPS.

No cluster is asked. The RayService is held against the field names of KubeRay's own CRD, its Serve
config against Ray's own schema.
"""

import copy
import importlib
import json
import re
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml
from ray.serve.schema import ServeApplicationSchema, ServeDeploySchema

from pipeline.config import EndpointConfig
from pipeline.endpoint_settings import endpoint_config_of
from pipeline.serving.api_keys import ApiKeys

ROOT = Path(__file__).parents[3]
SERVE = ROOT / "infra" / "serve"
SCHEMA = json.loads((ROOT / "tests/data/kuberay/rayservice_schema.json").read_text())
RAYSERVICE: dict[str, Any] = yaml.safe_load((SERVE / "rayservice.yaml").read_text())
SPEC = RAYSERVICE["spec"]
CLUSTER = SPEC["rayClusterConfig"]
HEAD = CLUSTER["headGroupSpec"]
(REPLICA_GROUP,) = CLUSTER["workerGroupSpecs"]
TEMPLATES: dict[str, Any] = {"head": HEAD["template"], "replica": REPLICA_GROUP["template"]}
SERVE_CONFIG: dict[str, Any] = yaml.safe_load(SPEC["serveConfigV2"])
(APPLICATION,) = SERVE_CONFIG["applications"]
POLICIES: list[dict[str, Any]] = list(
    yaml.safe_load_all((SERVE / "policies.yaml").read_text()),
)

MAX_RAYSERVICE_NAME = 47
"""KubeRay's, so that what it derives from the name still is a name."""
WEIGHTS_BYTES = int(2 * (33.5e9 + 8.3e9))
"""Qwen2.5-VL 32B and 7B in bfloat16."""
H200_BYTES = 141 * 10**9
DEFAULT_DRAIN_S = 30
"""Ray's, of nodes that are told nothing else."""
STOP_S = 10
"""For Ray to end its processes once it has drained."""


def endpoint_config() -> EndpointConfig:
    return endpoint_config_of(APPLICATION["args"])


def container(name: str) -> dict[str, Any]:
    (only,) = TEMPLATES[name]["spec"]["containers"]
    return dict(only)


def limits(name: str) -> dict[str, Any]:
    return dict(container(name)["resources"]["limits"])


def environment(name: str) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in container(name)["env"]}


def volume_bytes(name: str, path: str) -> int:
    (mount,) = (m for m in container(name)["volumeMounts"] if m["mountPath"] == path)
    (volume,) = (v for v in TEMPLATES[name]["spec"]["volumes"] if v["name"] == mount["name"])
    return num_bytes(volume["emptyDir"]["sizeLimit"])


def num_bytes(quantity: str) -> int:
    return int(quantity.removesuffix("Gi")) << 30


def of_kind(kind: str) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each for each in POLICIES if each["kind"] == kind}


def labels_of_pods(name: str) -> dict[str, str]:
    """With those that KubeRay adds."""
    added = {"head": {"ray.io/node-type": "head", "ray.io/group": "headgroup"}}
    added["replica"] = {
        "ray.io/node-type": "worker",
        "ray.io/group": REPLICA_GROUP["groupName"],
    }
    return TEMPLATES[name]["metadata"]["labels"] | added[name]


def selects(selector: dict[str, Any], name: str) -> bool:
    return bool(selector["matchLabels"].items() <= labels_of_pods(name).items())


# --- the RayService ------------------------------------------------------------------------------


def test_kuberay_knows_every_field() -> None:
    """Unknown fields would be refused, or dropped without a word."""
    jsonschema.validate(RAYSERVICE, SCHEMA)


@pytest.mark.parametrize(
    "path",
    [
        "spec",
        "spec/upgradeStrategy",
        "spec/rayClusterConfig",
        "spec/rayClusterConfig/authOptions",
        "spec/rayClusterConfig/autoscalerOptions",
        "spec/rayClusterConfig/headGroupSpec",
        "spec/rayClusterConfig/headGroupSpec/template/spec",
        "spec/rayClusterConfig/workerGroupSpecs/0",
        "spec/rayClusterConfig/workerGroupSpecs/0/template/spec/containers/0",
        "spec/rayClusterConfig/workerGroupSpecs/0/template/spec/volumes/0",
    ],
)
def test_a_misspelt_field_of_the_service_is_found(path: str) -> None:
    """The check above would be worth nothing if the schema let anything through."""
    service = copy.deepcopy(RAYSERVICE)
    level: Any = service
    for key in path.split("/"):
        level = level[int(key) if key.isdigit() else key]
    name = next(iter(level))
    level[f"{name}s"] = level[name]
    with pytest.raises(jsonschema.ValidationError, match=f"'{name}s' was unexpected"):
        jsonschema.validate(service, SCHEMA)


def test_the_name_fits_what_kuberay_derives_from_it() -> None:
    assert len(RAYSERVICE["metadata"]["name"]) <= MAX_RAYSERVICE_NAME


def test_ray_is_the_pinned_one_and_the_image_that_of_the_nights() -> None:
    (pinned,) = re.findall(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert CLUSTER["rayVersion"] == pinned
    (image,) = {container(name)["image"] for name in TEMPLATES}
    assert image in (ROOT / "infra/nightly/rayjob.yaml").read_text()


def test_serve_understands_its_config() -> None:
    ServeDeploySchema.model_validate(SERVE_CONFIG)
    # It passes over fields that it does not know.
    assert set(SERVE_CONFIG) <= set(ServeDeploySchema.model_fields)
    assert set(APPLICATION) <= set(ServeApplicationSchema.model_fields)
    assert APPLICATION["import_path"] == "actors.caption_api:build"
    assert APPLICATION["route_prefix"] == "/", "clients expect /v1/chat/completions"


def test_serve_finds_a_mistake_in_its_config() -> None:
    wrong = copy.deepcopy(SERVE_CONFIG)
    wrong["applications"][0]["import_path"] = "caption_api"
    with pytest.raises(ValueError, match="import_path"):
        ServeDeploySchema.model_validate(wrong)


def test_what_the_config_imports_is_there() -> None:
    module, name = APPLICATION["import_path"].split(":")
    assert callable(getattr(importlib.import_module(module), name))


def test_the_args_are_a_config_of_this_project() -> None:
    config = endpoint_config()
    assert config.models.tensor_parallel_size == 1, "a replica is one process"
    assert config.serving.video_access.allowed_domains
    assert config.serving.video_access.allowed_private_addresses == ()
    assert config.serving.video_access.allowed_local_media_path is None
    assert config.serving.video_access.allow_http is False


def test_a_replica_fits_a_pod() -> None:
    config, pod = endpoint_config(), limits("replica")
    assert config.cluster.captioner_gpus == pod["nvidia.com/gpu"]
    assert config.cluster.captioner_cpus < int(pod["cpu"]), "the proxy needs some"
    assert WEIGHTS_BYTES < 0.7 * H200_BYTES, "the rest is for keys, values and frames"
    store_bytes = int(REPLICA_GROUP["rayStartParams"]["object-store-memory"])
    decoders_bytes = config.serving.num_decoders * config.video.limits.max_memory_bytes
    cached_bytes = config.serving.prefix_cache_memory_bytes
    loading_bytes = WEIGHTS_BYTES  # at the worst: all that was read is still there
    needed = store_bytes + decoders_bytes + cached_bytes + loading_bytes
    assert needed < num_bytes(pod["memory"])
    assert volume_bytes("replica", "/cache") >= 2 * WEIGHTS_BYTES, "a new revision beside the old"
    assert volume_bytes("replica", "/cache") < num_bytes(pod["ephemeral-storage"])
    assert store_bytes < volume_bytes("replica", "/dev/shm")


def test_there_is_a_pod_for_every_replica() -> None:
    replicas = endpoint_config().serving.replicas
    assert REPLICA_GROUP["minReplicas"] == replicas.min_replicas
    assert REPLICA_GROUP["maxReplicas"] == replicas.max_replicas > replicas.min_replicas
    assert "replicas" not in REPLICA_GROUP, "the autoscaler's to say"
    assert CLUSTER["enableInTreeAutoscaling"] is True
    for template in TEMPLATES.values():  # the autoscaler v2 would have none restarted in place
        assert template["spec"].get("restartPolicy", "Never") == "Never"


def test_the_head_holds_no_replica_and_serves_nothing() -> None:
    assert HEAD["rayStartParams"]["num-cpus"] == "0"
    assert SPEC["excludeHeadPodFromServeSvc"] is True
    assert "nvidia.com/gpu" not in limits("head")


def test_pods_ask_for_what_they_may_take() -> None:
    for name in TEMPLATES:
        resources = container(name)["resources"]
        assert resources["requests"] == resources["limits"], name
        assert {"cpu", "memory", "ephemeral-storage"} <= set(resources["limits"])


def test_readiness_is_kuberays() -> None:
    """It asks the proxy of each pod; a probe of our own would take its place."""
    for name in TEMPLATES:
        assert not [key for key in container(name) if key.endswith("Probe")]


def test_who_waits_for_whom_when_a_replica_ends() -> None:
    """A request, then its replica, then its node, then its pod: each longer than the one before."""
    serving = endpoint_config().serving
    drain_s = int(environment("replica")["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"]["value"])
    grace_s = TEMPLATES["replica"]["spec"]["terminationGracePeriodSeconds"]
    assert serving.request_timeout_s < serving.replicas.graceful_shutdown_timeout_s < drain_s
    assert drain_s + STOP_S < grace_s
    head_grace_s = TEMPLATES["head"]["spec"]["terminationGracePeriodSeconds"]
    assert head_grace_s > DEFAULT_DRAIN_S + STOP_S


def test_ray_reads_how_long_to_drain() -> None:
    from ray._private import ray_constants

    assert hasattr(ray_constants, "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S")


def test_loading_is_not_taken_for_a_failure() -> None:
    assert SPEC["deploymentUnhealthySecondThreshold"] >= 1200
    assert SPEC["serviceUnhealthySecondThreshold"] >= 1200


# --- keys, rights, security ----------------------------------------------------------------------


def test_api_keys_come_of_a_secret_that_has_to_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    variable = environment("replica")["LVSPEC_API_KEYS"]
    assert environment("head")["LVSPEC_API_KEYS"] == variable, "where the application is built"
    reference = variable["valueFrom"]["secretKeyRef"]
    assert not reference.get("optional"), "an endpoint without keys would be open"
    text = (SERVE / "rayservice.yaml").read_text()
    assert f"create secret generic {reference['name']} --from-literal={reference['key']}=" in text
    monkeypatch.setenv(variable["name"], "one,two")
    assert ApiKeys.load(endpoint_config().serving.api_key_file).are_wanted


def test_no_manifest_holds_a_secret() -> None:
    for path in SERVE.iterdir():
        text = path.read_text().lower()
        for word in ("secret_access_key", "access_key_id", "akia", "hf_token", "kind: secret"):
            assert word not in text, path


def test_no_pod_runs_as_root_or_can_become_more_than_it_is() -> None:
    for name, template in TEMPLATES.items():
        pod = template["spec"]["securityContext"]
        assert pod["runAsNonRoot"] is True
        assert pod["runAsUser"] > 0
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container(name)["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
        for key in ("hostNetwork", "hostPID", "hostIPC"):
            assert key not in template["spec"]


def test_replicas_have_no_rights_in_kubernetes() -> None:
    assert TEMPLATES["replica"]["spec"]["automountServiceAccountToken"] is False
    accounts = of_kind("ServiceAccount")
    for template in TEMPLATES.values():
        account = accounts[template["spec"]["serviceAccountName"]]
        assert "eks.amazonaws.com/role-arn" in account["metadata"]["annotations"]


def test_who_reaches_the_job_server_has_a_token() -> None:
    assert CLUSTER["authOptions"] == {"mode": "token"}


def test_a_drain_leaves_a_replica() -> None:
    """Kubernetes can't reckon maxUnavailable of pods that no Deployment owns."""
    (budget,) = of_kind("PodDisruptionBudget").values()
    assert budget["apiVersion"] == "policy/v1"
    assert selects(budget["spec"]["selector"], "replica")
    assert not selects(budget["spec"]["selector"], "head")
    least = endpoint_config().serving.replicas.min_replicas
    assert 0 < budget["spec"]["minAvailable"] < least, "else no node could be drained"


# --- the network ---------------------------------------------------------------------------------


def policies_of(name: str) -> list[dict[str, Any]]:
    return [
        policy["spec"]
        for policy in of_kind("NetworkPolicy").values()
        if selects(policy["spec"]["podSelector"], name)
    ]


def may_reach(name: str, address: str, port: int) -> bool:
    """Whether a pod's policies let TCP to an address out that is no pod's."""
    target = ip_address(address)
    blocks = [
        peer["ipBlock"]
        for policy in policies_of(name)
        for rule in policy["egress"]
        for peer in rule["to"]
        if "ipBlock" in peer
        and any((p["protocol"], p["port"]) == ("TCP", port) for p in rule["ports"])
    ]
    return any(
        target in ip_network(block["cidr"])
        and not any(target in ip_network(hole) for hole in block.get("except", []))
        for block in blocks
    )


PRIVATE = [
    "169.254.169.254",
    "169.254.170.23",
    "fd00:ec2::254",
    "fd00:ec2::23",
    "10.0.0.1",
    "10.100.0.1",
    "172.20.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "127.0.0.1",
    "fe80::1",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_replicas_reach_no_metadata_and_nothing_private(address: str) -> None:
    """They fetch what users name: the application checks addresses, and this does once more."""
    for port in (80, 443, 53):
        assert not may_reach("replica", address, port)


@pytest.mark.parametrize("address", ["52.216.0.1", "2600:1f18::1"])
def test_replicas_reach_public_https_and_nothing_else_public(address: str) -> None:
    assert may_reach("replica", address, 443)
    for port in (22, 80, 8080):
        assert not may_reach("replica", address, port)


def test_both_ways_are_closed_but_for_the_rules() -> None:
    for name in TEMPLATES:
        kinds = {kind for policy in policies_of(name) for kind in policy["policyTypes"]}
        assert kinds == {"Ingress", "Egress"}, name


def test_egress_is_the_cluster_itself_dns_and_https() -> None:
    (policy,) = policies_of("replica")
    cluster, dns, public = policy["egress"]
    assert cluster == {"to": [{"podSelector": policy["podSelector"]}]}
    assert {(each["protocol"], each["port"]) for each in dns["ports"]} == {("UDP", 53), ("TCP", 53)}
    (resolver,) = dns["to"]
    assert set(resolver) == {"namespaceSelector", "podSelector"}, "both, or any pod would do"
    assert public["ports"] == [{"protocol": "TCP", "port": 443}]


def test_only_the_head_asks_kubernetes() -> None:
    head = [policy for policy in policies_of("head") if policy not in policies_of("replica")]
    (policy,) = head
    for rule in policy["egress"]:
        for peer in rule["to"]:
            assert ip_network(peer["ipBlock"]["cidr"]).num_addresses == 1


def test_requests_come_from_where_they_should() -> None:
    """Anyone may ask the port from within the cluster's own pods only; others by namespace."""
    (policy,) = policies_of("replica")
    own, *others = policy["ingress"]
    assert own == {"from": [{"podSelector": policy["podSelector"]}]}
    for rule in others:
        assert rule["ports"], "all ports"
        for peer in rule["from"]:
            assert "kubernetes.io/metadata.name" in peer["namespaceSelector"]["matchLabels"]


def test_kustomization_of_the_endpoint_names_files_that_are_there() -> None:
    kustomization = yaml.safe_load((SERVE / "kustomization.yaml").read_text())
    for name in kustomization["resources"]:
        assert (SERVE / name).is_file(), name
    assert kustomization["namespace"] == "lvspec"
