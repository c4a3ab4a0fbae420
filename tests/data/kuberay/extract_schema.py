"""Writes rayjob_schema.json and rayservice_schema.json from KubeRay's CRDs: the levels that the
manifests in infra/ use.

    python tests/data/kuberay/extract_schema.py ray.io_rayjobs.yaml > rayjob_schema.json
    python tests/data/kuberay/extract_schema.py ray.io_rayservices.yaml > rayservice_schema.json

At these levels every field name is kept and no other is allowed; below them anything goes.
"""

import json
import sys
from typing import Any

import yaml

POD: dict[str, Any] = {"spec": {"containers": {}, "volumes": {}}}
CLUSTER: dict[str, Any] = {
    "authOptions": {},
    "autoscalerOptions": {"resources": {}},
    "headGroupSpec": {"template": POD},
    "workerGroupSpecs": {"template": POD},
}
LEVELS: dict[str, Any] = {
    "RayJob": {"spec": {"rayClusterSpec": CLUSTER, "submitterConfig": {}}},
    "RayService": {"spec": {"rayClusterConfig": CLUSTER, "upgradeStrategy": {}}},
}
KEPT = ("type", "enum", "minimum", "required")


def compact(schema: dict[str, Any], levels: dict[str, Any]) -> dict[str, Any]:
    """The schema with the fields of ``levels`` opened, of all others no more than the kind."""
    if schema.get("type") == "array":
        return {"type": "array", "items": compact(schema["items"], levels)}
    result: dict[str, Any] = {key: schema[key] for key in KEPT if key in schema}
    result["additionalProperties"] = False
    result["properties"] = {
        name: compact(field, levels[name]) if name in levels else opaque(field)
        for name, field in schema["properties"].items()
    }
    return result


def opaque(schema: dict[str, Any]) -> dict[str, Any]:
    """What may stand in a field, but not what may stand in it further down."""
    result = {key: schema[key] for key in KEPT if key in schema and key != "required"}
    values = schema.get("additionalProperties")
    if isinstance(values, dict) and "type" in values:
        result["additionalProperties"] = {"type": values["type"]}
    return result


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        crd = yaml.safe_load(file)
    (version,) = (each for each in crd["spec"]["versions"] if each["name"] == "v1")
    levels = LEVELS[crd["spec"]["names"]["kind"]]
    schema = compact(version["schema"]["openAPIV3Schema"], levels)
    del schema["properties"]["status"]  # the operator's to write
    json.dump(schema, sys.stdout, indent=1, sort_keys=True)
    print()


if __name__ == "__main__":
    main()
