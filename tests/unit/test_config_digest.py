"""The digest names data sets: it must neither drift nor miss a change of meaning."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import (
    ClipConfig,
    ClipPolicy,
    FrameSamplingConfig,
    RunConfig,
    SamplingPolicy,
    SpeculationConfig,
    SpeculationMethod,
)
from pipeline.config_digest import (
    CLIP_FIELDS,
    DRAFTING_FIELDS,
    SAMPLING_FIELDS,
    SPECULATION_FIELDS,
    config_digest,
    dump_config,
    mask_secrets,
)
from pipeline.speculation_config import Drafter, DraftingConfig
from tests.calibration_files import write_calibration

VALUES: dict[str, Any] = {
    "input": {"uri": "s3://corpus/videos"},
    "output": {"uri": "s3://corpus/captions"},
    "models": {
        "target": {"name": "org/big", "revision": "0123abc", "dtype": "bfloat16"},
        "draft": {"name": "org/small", "revision": "4567def", "dtype": "float32"},
    },
    "prompt": {"id": "p", "text": "What happens? Ünïcödé."},
}


def config(**changes: Any) -> RunConfig:
    """The fixed config with dotted keys changed (``__`` for a dot)."""
    plain = RunConfig.model_validate(VALUES).model_dump()
    for key, value in changes.items():
        *sections, name = key.split("__")
        target = plain
        for section in sections:
            target = target[section]
        target[name] = value
    return RunConfig.model_validate(plain)


def test_golden_value() -> None:
    """If this fails, every existing data set starts again from nothing: is that meant?"""
    assert config_digest(config()) == "04d46ea5cee07456"


def test_it_does_not_depend_on_key_order_or_process() -> None:
    """Python's hash seed and the order of a YAML file are no meaning."""
    shuffled = {key: VALUES[key] for key in reversed(VALUES)}
    assert config_digest(RunConfig.model_validate(shuffled)) == config_digest(config())
    program = (
        "import sys; from pipeline.config import RunConfig; "
        "from pipeline.config_digest import config_digest; "
        "print(config_digest(RunConfig.model_validate_json(sys.stdin.read())))"
    )
    child = subprocess.run(
        [sys.executable, "-c", program],
        input=config().model_dump_json(),
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "77", "PYTHONPATH": ":".join(sys.path)},
    )
    assert child.stdout.strip() == config_digest(config())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("video__sampling__num_frames", 32),
        ("video__frame_size__fixed_px", (60, 60)),
        ("models__target__revision", "fff"),
        ("models__target__dtype", "float32"),
        ("models__draft__name", "org/other"),
        ("prompt__text", "Why?"),
        ("generation__max_tokens", 9),
        ("generation__temperature", 0.5),
        ("speculation__num_speculative_tokens", 9),
        ("speculation__method", "fly"),
        ("speculation__drafting__keep_ratio", 0.1),
        ("speculation__drafting__confidence_threshold", 0.4),
        ("speculation__drafting__drafter", "ngram"),
        ("speculation__drafting__adaptive", True),
        ("speculation__method", "none"),
        ("video__clips__policy", "scenes"),
        ("video__frame_size__max_pixels", 9 * 28 * 28 * 128),
    ],
)
def test_what_changes_captions_changes_it(key: str, value: Any) -> None:
    """Otherwise captions of two meanings would mix in one data set."""
    assert config_digest(config(**{key: value})) != config_digest(config())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("input__uri", "elsewhere"),
        ("input__limit", 3),
        ("output__rows_per_part", 3),
        ("storage__max_attempts", 9),
        ("cluster__num_decoders", 9),
        ("failures__max_share", 0.5),
        ("models__device", "cpu"),
        ("models__num_threads", 3),
        ("output__token_sample_share", 0.5),
        ("generation__max_num_seqs", 3),
        ("generation__max_num_batched_tokens", 9),
        ("generation__kv_cache_memory_bytes", 9),
        ("speculation__fidelity__shadow_share", 0.5),
        ("video__limits__timeout_s", 5.0),
        ("video__limits__plan_timeout_s", 5.0),
        ("speculation__plain_share", 0.5),
    ],
)
def test_what_only_changes_the_run_does_not(key: str, value: Any) -> None:
    """Otherwise a bigger cluster would caption everything again."""
    assert config_digest(config(**{key: value})) == config_digest(config())


def test_shadows_count_if_they_may_tighten_lambda() -> None:
    """Compared only, they change nothing; with a promise on facts they do."""

    def digest(**fidelity: Any) -> str:
        keys = {f"speculation__fidelity__{name}": value for name, value in fidelity.items()}
        return config_digest(config(speculation__method="paper", **keys))

    assert digest() == digest(shadow_share=0.5, min_facts_kept=0.0) == digest(min_clips=9)
    promised = {digest(shadow_share=0.5, min_facts_kept=promise) for promise in (0.9, 0.99)}
    assert len(promised | {digest()}) == 3


ATTENTION = ("speculation__drafting__pruning", "attention")
LOOKUP = ("speculation__drafting__prompt_lookup_max", 9)


@pytest.mark.parametrize(
    ("chosen", "key", "value"),
    [
        ({"speculation__method": "none"}, "speculation__num_speculative_tokens", 9),
        ({"speculation__method": "none"}, "models__draft", None),
        ({"speculation__method": "none"}, "speculation__calibration", "no/such/file.json"),
        ({"speculation__method": "exact"}, "speculation__anchors__relaxed_share", 0.2),
        ({"speculation__method": "exact"}, "speculation__safety__guards", False),
        ({"speculation__method": "exact"}, "speculation__fly__window", 3),
        ({"speculation__method": "paper"}, "speculation__safety__guards", False),
        ({"speculation__method": "safe"}, "speculation__fly__window", 3),
        ({"speculation__method": "fly"}, "speculation__anchors__relaxed_share", 0.2),
        ({"generation__temperature": 0.0}, "generation__seed", 9),
        ({"speculation__drafting__keep_ratio": 1.0}, *ATTENTION),
        ({"speculation__drafting__drafter": "ngram"}, "speculation__drafting__keep_ratio", 0.1),
        ({"speculation__drafting__drafter": "ngram"}, "models__draft", None),
        ({"speculation__drafting__drafter": "model"}, *LOOKUP),
        ({"video__sampling__policy": "uniform"}, "video__sampling__fps", 9.0),
        ({"video__sampling__policy": "fps"}, "video__sampling__num_frames", 9),
        ({"video__clips__policy": "whole"}, "video__clips__min_clip_s", 9.0),
        ({"video__clips__policy": "scenes"}, "video__clips__window_s", 9.0),
        ({"video__frame_size__fixed_px": (60, 60)}, "video__frame_size__max_pixels", 10**6),
    ],
)
def test_what_has_no_effect_under_a_choice_does_not(
    chosen: dict[str, Any], key: str, value: Any
) -> None:
    """Otherwise cleaning an unused key out of a file would caption everything again."""
    assert config_digest(config(**chosen, **{key: value})) == config_digest(config(**chosen))


def test_every_field_belongs_to_a_policy() -> None:
    """A new field that no policy names would never reach the digest."""
    assert set().union(*SAMPLING_FIELDS.values()) == set(FrameSamplingConfig.model_fields)
    assert set().union(*CLIP_FIELDS.values()) == set(ClipConfig.model_fields)
    assert set(SAMPLING_FIELDS) == set(SamplingPolicy)
    assert set(CLIP_FIELDS) == set(ClipPolicy)
    assert set().union(*DRAFTING_FIELDS.values()) == set(DraftingConfig.model_fields)
    beside = {"plain_share", "fidelity"}  # compared with captions, without a say in them
    apart = {"drafting", "calibration"}
    fields = set().union(*SPECULATION_FIELDS.values())
    assert fields | beside | apart == set(SpeculationConfig.model_fields)
    assert set(DRAFTING_FIELDS) == set(Drafter)
    assert set(SPECULATION_FIELDS) == set(SpeculationMethod)


@pytest.mark.parametrize(
    ("chosen", "key", "value"),
    [
        ({"speculation__method": "paper"}, "speculation__anchors__relaxed_share", 0.2),
        ({"speculation__method": "safe"}, "speculation__anchors__score", "attention"),
        ({"speculation__method": "safe"}, "speculation__safety__floor_epsilon", 0.0),
        ({"speculation__method": "fly"}, "speculation__fly__window", 3),
        ({"speculation__drafting__keep_ratio": 0.1}, *ATTENTION),
        ({"speculation__drafting__drafter": "ngram"}, *LOOKUP),
        ({"generation__temperature": 0.5}, "generation__seed", 9),
        (
            {"speculation__method": "paper", "speculation__anchors__score": "random"},
            *("generation__seed", 9),
        ),
    ],
)
def test_what_has_an_effect_under_a_choice_does(
    chosen: dict[str, Any], key: str, value: Any
) -> None:
    """Otherwise captions of two rules would mix in one data set."""
    assert config_digest(config(**chosen, **{key: value})) != config_digest(config(**chosen))


@pytest.mark.parametrize("method", ["paper", "safe"])
def test_a_calibration_counts_by_content(tmp_path: Path, method: str) -> None:
    """Both of its files, and not where they lie: a moved checkout goes on, a new fit begins."""

    def digest_of(path: str) -> str:
        return config_digest(config(speculation__method=method, speculation__calibration=path))

    first = digest_of(write_calibration(tmp_path / "a" / "pair.json"))
    assert first == digest_of(write_calibration(tmp_path / "b" / "other.json"))
    assert first != digest_of(write_calibration(tmp_path / "c.json", num_speculative_tokens=7))
    assert first != digest_of(write_calibration(tmp_path / "d.json", lexicon=0.25))
    assert first != config_digest(config(speculation__method=method))


@pytest.mark.parametrize("method", ["exact", "fly"])
def test_a_calibration_that_has_no_say_does_not_count(tmp_path: Path, method: str) -> None:
    """All that it gives belongs to a rule with anchors."""
    chosen = {"speculation__method": method}
    path = write_calibration(tmp_path / "pair.json")
    calibrated = config(**chosen, speculation__calibration=path)
    assert config_digest(calibrated) == config_digest(config(**chosen))


def test_a_model_folder_counts_by_content() -> None:
    """Two checkouts of the same pair write one data set, another content another."""
    here = config(models__target__name="/home/a/pair/target")
    there = config(models__target__name="/srv/b/pair/target")
    assert config_digest(here) == config_digest(there)
    other = config(models__target__name="/srv/b/pair/target", models__target__revision="fff")
    assert config_digest(other) != config_digest(there)
    unresolved = config(models__target__name="/srv/b/pair/target", models__target__revision=None)
    assert config_digest(unresolved) != config_digest(there)


def test_a_model_in_s3_counts_by_content() -> None:
    """Another bucket, or a slash at the end, captions nothing again; another model does."""
    here = config(models__target__name="s3://bucket/models/qwen-72b")
    there = config(models__target__name="s3://moved/qwen-72b/")
    assert config_digest(here) == config_digest(there)
    for key, value in (("name", "s3://bucket/models/qwen-32b"), ("revision", "fff")):
        other = {"models__target__name": "s3://bucket/models/qwen-72b"}
        other[f"models__target__{key}"] = value
        assert config_digest(config(**other)) != config_digest(here)
    unresolved = [
        config(models__target__name=each.models.target.name, models__target__revision=None)
        for each in (here, there)
    ]
    assert config_digest(unresolved[0]) != config_digest(unresolved[1])


def test_the_dump_loads_again_and_masks_secrets() -> None:
    """The run folder's config.yaml is for people: complete, and without signatures."""
    signed = "https://u:pw@host/m.csv?X-Amz-Signature=abc123&x=1&X-Amz-Credential=AKIA%2F1"
    text = dump_config(config(input__uri=signed))
    for secret in ("pw", "abc123", "AKIA"):
        assert secret not in text
    loaded = yaml.safe_load(text)
    assert loaded["input"]["uri"] == (
        "https://***@host/m.csv?X-Amz-Signature=***&x=1&X-Amz-Credential=***"
    )
    assert yaml.safe_load(dump_config(config())) == config().model_dump(mode="json")


def test_masking_leaves_other_text_alone() -> None:
    """Keys with @ and ? are names, not secrets."""
    for text in ("s3://bucket/a@b/c?d=e.mp4", "/videos/me@home.mp4", "tokens=5"):
        assert mask_secrets(text) == text
