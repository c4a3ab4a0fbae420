"""Guards ray_cluster.yaml: Ray's own schema, and that no key of a person is in it."""

from pathlib import Path

import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[3]
CLUSTER = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())


def test_ray_accepts_the_cluster_file():
    validate_config(prepare_config(CLUSTER))


def test_nodes_take_their_rights_from_a_role():
    for name, node_type in CLUSTER["available_node_types"].items():
        assert "IamInstanceProfile" in node_type["node_config"], name
    text = (ROOT / "ray_cluster.yaml").read_text()
    assert "aws_access_key_id" not in text.lower()
    assert "ssh_private_key" not in CLUSTER["auth"]


def test_head_runs_no_actors_and_workers_scale_to_zero():
    types = CLUSTER["available_node_types"]
    assert types["head"]["resources"]["CPU"] == 0
    assert all(types[name]["min_workers"] == 0 for name in ("decode", "caption"))
