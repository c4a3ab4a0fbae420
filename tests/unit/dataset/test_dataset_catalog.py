"""What is there, minus what is done."""

import logging
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dataset_rows import caption_of, clip, failure_of, video
from s3_server import S3Bucket

from pipeline.config import (
    InputConfig,
    ModelConfig,
    ModelsConfig,
    OutputConfig,
    RunConfig,
    SpeculationConfig,
    SpeculationMethod,
    StorageConfig,
)
from pipeline.dataset.catalog import NoVideosError, PlannedVideo, Reason, list_videos
from pipeline.dataset.done import DoneClips
from pipeline.dataset.layout import Layout
from pipeline.dataset.manifest import ManifestError
from pipeline.dataset.plan import Plan
from pipeline.storage import NotFoundError, ObjectChangedError, Opener, storage_for


def run_config(uri: str, storage: StorageConfig, limit: int | None = None) -> RunConfig:
    return RunConfig(
        input=InputConfig(uri=uri, limit=limit),
        output=OutputConfig(uri="unused"),
        storage=storage,
        models=ModelsConfig(target=ModelConfig(name="x")),
        speculation=SpeculationConfig(method=SpeculationMethod.NONE),
    )


def plan_videos(config: RunConfig, done: DoneClips) -> Plan:
    """The plan for a data set without a row."""
    layout = Layout("/nowhere/0123456789abcdef")
    return Plan.of(config, done, storage_for(layout.uri, config.storage), layout)


def done_of(*rows: dict) -> DoneClips:
    done = DoneClips()
    for row in rows:
        done.add(row["video_id"], row["clip_id"], row["num_clips"])
    return done


def make_files(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def names(videos: object, folder: object) -> list[str]:
    return [os.path.relpath(item.uri, str(folder)) for item in videos]  # type: ignore[attr-defined]


def test_a_folder_gives_its_videos_in_order(tmp_path: Path) -> None:
    """Recursive, by suffix in any case, nothing else."""
    make_files(tmp_path, "b/2.mp4", "b/1.MOV", "a.webm", "notes.txt", "x.mp4.part")
    videos = list_videos(InputConfig(uri=str(tmp_path)), StorageConfig())
    assert names(videos, tmp_path) == ["a.webm", "b/1.MOV", "b/2.mp4"]


def test_one_file_is_a_corpus(tmp_path: Path) -> None:
    """`--input clip.mp4` is what one tries first."""
    make_files(tmp_path, "v.mp4")
    config = InputConfig(uri=str(tmp_path / "v.mp4"))
    assert names(list_videos(config, StorageConfig()), tmp_path) == ["v.mp4"]


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    """Not an empty night."""
    with pytest.raises(NotFoundError):
        list(list_videos(InputConfig(uri=str(tmp_path / "nope")), StorageConfig()))


def test_an_input_without_videos_is_an_error(tmp_path: Path) -> None:
    """A mistyped prefix must not read as a corpus that is all done."""
    make_files(tmp_path, "videos/a.txt", "m.csv")
    (tmp_path / "m.csv").write_text("uri\n")
    for uri, reason in (
        (tmp_path / "videos", r"nothing ends in \.mp4, \.mov"),
        (tmp_path / "m.csv", "no rows"),
    ):
        with pytest.raises(NoVideosError, match=rf"{uri} \({reason}"):
            list(plan_videos(run_config(str(uri), StorageConfig()), DoneClips()))


def test_an_empty_prefix_is_an_error(s3_bucket: S3Bucket) -> None:
    """S3 lists a prefix that does not exist as empty."""
    with pytest.raises(NoVideosError, match=s3_bucket.uri("tpyo")):
        list(list_videos(InputConfig(uri=s3_bucket.uri("tpyo")), s3_bucket.config))


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_manifests_of_every_kind(tmp_path: Path, suffix: str) -> None:
    """Relative to the manifest, in its order, whatever the file is called; missing ones stay."""
    make_files(tmp_path, "videos/b c.mp4", "videos/a", "other.mp4")
    uris = ["videos/b c.mp4", "videos/a", str(tmp_path / "other.mp4"), "videos/gone.mp4"]
    path = tmp_path / f"list.{suffix}"
    if suffix == "csv":
        path.write_text("uri,note\n" + "".join(f'"{uri}",x\n' for uri in uris))
    elif suffix == "jsonl":
        path.write_text("".join(f'{{"uri": "{uri}"}}\n\n' for uri in uris))
    else:
        pq.write_table(pa.table({"uri": uris, "note": ["x"] * 4}), path)
    videos = list(list_videos(InputConfig(uri=str(path)), StorageConfig()))
    assert names(videos, tmp_path) == ["videos/b c.mp4", "videos/a", "other.mp4", "videos/gone.mp4"]
    assert [bool(found.etag) for found in videos] == [True, True, True, False]
    with pytest.raises(NotFoundError):
        Opener(videos[3].uri, videos[3].etag, StorageConfig())()


def test_a_manifest_in_s3_names_versions(s3_bucket: S3Bucket) -> None:
    """A given etag and size are taken without a request; a wrong etag shows when it is opened."""
    client = s3_bucket.client()
    client.put_object(Bucket=s3_bucket.name, Key="v/a.mp4", Body=b"abc")
    text = "uri,etag,size\na.mp4,,\na.mp4?,old,5\ns3://elsewhere/x.mp4,e1,7\nhttp://h/x.mp4,,\n"
    client.put_object(Bucket=s3_bucket.name, Key="v/list.csv", Body=text.encode())
    found, odd, other, web = list_videos(
        InputConfig(uri=s3_bucket.uri("v/list.csv")), s3_bucket.config
    )
    assert (found.uri, found.size_bytes) == (s3_bucket.uri("v/a.mp4"), 3)
    assert (odd.uri, odd.etag, odd.size_bytes) == (s3_bucket.uri("v/a.mp4?"), "old", 5)
    assert (other.uri, other.etag) == ("s3://elsewhere/x.mp4", "e1")
    assert (web.uri, web.etag) == ("http://h/x.mp4", "")
    with pytest.raises(ObjectChangedError):
        Opener(found.uri, "old", s3_bucket.config)()


def test_a_video_named_twice_is_planned_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two rows of one clip would break exactly-once; the warning says how many."""
    make_files(tmp_path, "a.mp4")
    (tmp_path / "m.csv").write_text(f"uri\na.mp4\n./a.mp4\n{tmp_path}/a.mp4\n")
    with caplog.at_level(logging.WARNING):
        videos = list(list_videos(InputConfig(uri=str(tmp_path / "m.csv")), StorageConfig()))
    assert len(videos) == 1
    assert "2 videos more than once" in caplog.text


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("m.csv", "url\na.mp4\n", r"row 1: no column `uri`"),
        ("m.jsonl", '{"uri": "a.mp4"}\n{"uri": 3}\n', r"row 2: `uri` is 3"),
        ("m.jsonl", '{"uri": "a.mp4"}\n{"uri": \n', r"row 2: "),
        ("m.csv", "uri,size\na.mp4,big\n", r"row 1: .*'big'"),
        ("m.parquet", "no parquet", r"row 1: "),
    ],
)
def test_a_broken_manifest_names_file_and_row(
    tmp_path: Path, name: str, text: str, reason: str
) -> None:
    """A row without a name can't become a failure row, so it stops the job before it starts."""
    (tmp_path / name).write_text(text)
    with pytest.raises(ManifestError, match=rf"{name}, {reason}"):
        list(list_videos(InputConfig(uri=str(tmp_path / name)), StorageConfig()))


def test_plan_is_the_input_minus_what_is_done(tmp_path: Path) -> None:
    """Complete, failed as a whole, partly done, changed, and new."""
    make_files(tmp_path, *(f"{name}.mp4" for name in ("a", "b", "c", "d", "e")))
    config = run_config(str(tmp_path), StorageConfig())
    listed = {Path(item.uri).stem: item for item in list_videos(config.input, config.storage)}
    done = DoneClips()
    done.add(listed["a"].video_id, "a0", 2)
    done.add(listed["a"].video_id, "a1", 2)
    done.add(listed["b"].video_id, "b", None)
    done.add(listed["c"].video_id, "c1", 3)
    done.add(listed["d"].video_id, "d0", 1)
    (tmp_path / "d.mp4").write_bytes(b"another version")
    plan = list(plan_videos(config, done))
    assert names([planned.video for planned in plan], tmp_path) == ["c.mp4", "d.mp4", "e.mp4"]
    assert [planned.done_clip_ids for planned in plan] == [{"c1"}, set(), set()]
    assert plan[2] == PlannedVideo(listed["e"])
    assert plan[0].reason is Reason.UNFINISHED


def test_the_limit_counts_what_is_left_to_do(tmp_path: Path) -> None:
    """`--limit 1` every night gets through a corpus."""
    make_files(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    config = run_config(str(tmp_path), StorageConfig(), limit=1)
    done = DoneClips()
    (first,) = plan_videos(config, done)
    done.add(first.video.video_id, "x", 1)
    (second,) = plan_videos(config, done)
    assert names([first.video, second.video], tmp_path) == ["a.mp4", "b.mp4"]


def test_done_clips() -> None:
    """Captions and failures complete a video together, in any order; repeats change nothing."""
    done = done_of(caption_of(clip("a", 0, 2)), failure_of(clip("a", 1, 2)))
    source = video("a")
    assert done.has_video(source.video_id)
    assert done.has_clip(source.video_id, clip("a", 1, 2).clip_id)
    assert not done.add(source.video_id, clip("a", 0, 2).clip_id, 2)
    assert not done.has_video(video("a", "e2").video_id)
    whole = done_of(caption_of(clip("b", 0, 3)), failure_of(None, video("b")))
    assert whole.has_video(video("b").video_id)
    assert not DoneClips()
    assert done
