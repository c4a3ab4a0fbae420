"""Guards ray_cluster.yaml: Ray's own schema, no key of a person in it, room for every recipe."""

import inspect
import math
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.dashboard.modules.job import job_supervisor

from pipeline.settings import load_run_config, recipe_names

ROOT = Path(__file__).parents[3]
CLUSTER = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())
TYPES = CLUSTER["available_node_types"]
GPU_RECIPES = [name for name in recipe_names() if name != "reference"]
DRAIN_S = 30
"""Within it a driver that got SIGTERM has committed and is gone."""
LEADER_CPUS = 1
"""What a gang's leader and the driver's tasks may take beside the ranks."""


def test_ray_accepts_the_cluster_file():
    validate_config(prepare_config(CLUSTER))


def test_nodes_take_their_rights_from_a_role():
    for name, node_type in CLUSTER["available_node_types"].items():
        assert "IamInstanceProfile" in node_type["node_config"], name
    text = (ROOT / "ray_cluster.yaml").read_text()
    assert "aws_access_key_id" not in text.lower()
    assert "ssh_private_key" not in CLUSTER["auth"]


def test_head_runs_no_actors_and_workers_scale_to_zero():
    assert TYPES["head"]["resources"]["CPU"] == 0
    assert all(TYPES[name]["min_workers"] == 0 for name in ("decode", "caption"))


def test_a_stopped_driver_has_time_to_commit():
    """Ray's own 3 s would be SIGKILL in the midst of it; the supervisor of jobs reads the head's
    environment."""
    (start,) = (each for each in CLUSTER["head_start_ray_commands"] if "--head" in each)
    variable, *_ = start.split()
    name, _, wait_s = variable.partition("=")
    assert name == "RAY_JOB_STOP_WAIT_TIME_S"
    assert int(wait_s) > DRAIN_S
    assert name in inspect.getsource(job_supervisor)


def test_decode_nodes_alone_are_spot():
    """A lost decode node costs some clips again; a lost head ends the run."""
    spot = [name for name, each in TYPES.items() if "InstanceMarketOptions" in each["node_config"]]
    assert spot == ["decode"]
    assert "GPU" not in TYPES["decode"]["resources"]


@pytest.mark.parametrize("name", GPU_RECIPES)
def test_every_recipe_can_be_placed(name):
    """At its shipped size: whole gangs on caption nodes, all decoders on decode nodes."""
    config = load_run_config(["--recipe", name, "--input", "in", "--output", "out"])
    cluster, num_ranks = config.cluster, config.models.tensor_parallel_size
    assert cluster.captioner_gpus == num_ranks, "a GPU a rank"
    assert cluster.gang.placement_strategy == "PACK"

    node = TYPES["caption"]["resources"]
    bundle = {"GPU": 1, "CPU": cluster.captioner_cpus / num_ranks}
    ranks_a_node = math.floor(
        min(node["GPU"] / bundle["GPU"], (node["CPU"] - LEADER_CPUS) / bundle["CPU"])
    )
    assert ranks_a_node >= num_ranks, "packed on one node, where ranks share NVLink"
    num_gangs = cluster.max_captioners or cluster.num_captioners
    caption_nodes = math.ceil(num_gangs / (ranks_a_node // num_ranks))
    assert caption_nodes <= TYPES["caption"]["max_workers"]

    decoders_a_node = math.floor(TYPES["decode"]["resources"]["CPU"] / cluster.decoder_cpus)
    decode_nodes = math.ceil(cluster.num_decoders / decoders_a_node)
    assert decode_nodes <= TYPES["decode"]["max_workers"]
    assert caption_nodes + decode_nodes <= CLUSTER["max_workers"]
