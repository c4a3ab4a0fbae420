"""Corpora are deterministic, decodable, sane in their metadata, and damaged where they say so."""

import json
import os
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.config import VideoConfig
from pipeline.sample_world.corpus import CorpusPlan, read_facts, write_corpus
from pipeline.sample_world.encoding import CODECS, Timing, encode
from pipeline.sample_world.facts import caption_facts, facts_right
from pipeline.sample_world.render import SIDE_PX, render
from pipeline.sample_world.scene import sample_scene
from pipeline.video.decode import decode_frames
from pipeline.video.errors import VideoError
from pipeline.video.probe import probe


def _write(folder: Path, **plan: object) -> dict[str, dict[str, object]]:
    for _ in write_corpus(folder, CorpusPlan(**plan)):  # type: ignore[arg-type]
        pass
    lines = (folder / "facts.jsonl").read_text().splitlines()
    return {entry["file"]: entry for entry in map(json.loads, lines)}


def test_a_seed_writes_the_same_bytes_and_another_seed_does_not(tmp_path: Path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        _write(tmp_path / name, num_videos=7, num_damaged=6, seed=seed)

    def contents(name: str) -> dict[str, bytes]:
        folder = tmp_path / name
        return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.*")}

    assert contents("a") == contents("b")
    assert contents("a") != contents("c")


def test_the_facts_file_scores_captions(tmp_path: Path):
    entries = _write(tmp_path, num_videos=5, num_damaged=2)
    facts = read_facts(tmp_path)
    assert set(facts) == {name for name, entry in entries.items() if "damage" not in entry}
    for name, truth in facts.items():
        assert facts_right(caption_facts(str(entries[name]["caption"])), truth) == 1


@pytest.mark.parametrize("codec", CODECS.values(), ids=list(CODECS))
def test_every_codec_keeps_the_pictures_and_states_its_timing(tmp_path: Path, codec):
    pictures = render(sample_scene(3))
    path = tmp_path / f"clip{codec.suffix}"
    encode(pictures, path, codec, Timing(fps=8, hold=2))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == 8
        frames = list(container.decode(stream))
        assert container.duration == pytest.approx(2_000_000, abs=2_000)
    assert [frame.rotation for frame in frames] == [0] * 16
    decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in frames[1::2]])
    assert decoded.shape == (8, SIDE_PX, SIDE_PX, 3)
    assert np.abs(decoded.astype(int) - pictures).mean() < 4


def test_encoding_leaves_the_thread_in_its_scheduling_class(tmp_path: Path):
    before = os.sched_getscheduler(0)
    encode(render(sample_scene(0)), tmp_path / "clip.mp4", CODECS["av1"], Timing(8, 2))
    assert os.sched_getscheduler(0) == before


def _decode(path: Path) -> None:
    config = VideoConfig()
    info = probe(str(path), config.limits)
    decode_frames(str(path), info, 0.0, info.duration_s, config)


def test_the_decoder_takes_every_good_file_and_refuses_every_damaged_one(tmp_path: Path):
    entries = _write(tmp_path, num_videos=7, num_damaged=6)
    assert len({entry["damage"] for entry in entries.values() if "damage" in entry}) == 6
    for name, entry in entries.items():
        if "damage" in entry:
            with pytest.raises(VideoError):
                _decode(tmp_path / "videos" / name)
        else:
            _decode(tmp_path / "videos" / name)


@pytest.mark.parametrize("plan", [{"num_videos": -1}, {"num_videos": 1, "codecs": ("theora",)}])
def test_an_impossible_plan_is_refused(plan: dict[str, object]):
    with pytest.raises(ValueError, match=r"codecs|corpus"):
        CorpusPlan(**plan)  # type: ignore[arg-type]
