"""Any corpus, whatever its names and versions, against a plain model of what is left to do."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from dataset_rows import LABELS, caption_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.benchmark.nightly_server import Listing, ListingServer, listing_server
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
from pipeline.dataset import plan_listing, plan_parts
from pipeline.dataset.catalog import PlannedVideo, Reason
from pipeline.dataset.done import DoneClips
from pipeline.dataset.layout import Layout, Table
from pipeline.dataset.parts import encode_part, read_done
from pipeline.dataset.plan import Plan
from pipeline.dataset.plan_ids import IdSet
from pipeline.dataset.plan_listing import list_in_any_order, split_points
from pipeline.dataset.plan_parts import PlanReader, write_plan
from pipeline.records import ClipSpec, VideoObject
from pipeline.storage import Storage, storage_for

BUCKET = "corpus"
OTHER_DIGEST = "f" * 16

# What people call their files, and what breaks a parser: spaces, plus, percent, quotes, newlines,
# text of every width in UTF-8.
NAME = st.text(
    st.sampled_from("abz019 +%/&<>'\"#?\\\n\té漢\U0001f3a5\U0010ffff-._"), min_size=1, max_size=6
).map(lambda name: f"{name}x.mp4")
VERSION = st.sampled_from(["e1", "e2"])


@dataclass
class Corpus:
    """Listed: names to versions. Rows: name, version, clips done, clips planned."""

    listed: dict[str, str]
    rows: list[tuple[str, str, int, int]]
    elsewhere: list[str]


@st.composite
def corpora(draw: st.DrawFn) -> Corpus:
    names = draw(st.lists(NAME, min_size=1, max_size=12, unique=True))
    some = st.lists(st.sampled_from(names), max_size=8, unique=True)
    listed = draw(some)
    versions = st.tuples(st.sampled_from(names), VERSION)
    rows = [
        (name, version, draw(st.integers(1, 2)), 2)
        for name, version in draw(st.lists(versions, max_size=8, unique=True))
    ]
    return Corpus({name: draw(VERSION) for name in listed}, rows, draw(some))


@dataclass
class World:
    """A listing server and a data set in a folder."""

    server: ListingServer
    folder: str
    storage_config: StorageConfig = field(init=False)

    def __post_init__(self) -> None:
        self.storage_config = StorageConfig(
            endpoint_url=self.server.endpoint_url, region="us-east-1", addressing_style="path"
        )

    @property
    def layout(self) -> Layout:
        return Layout.of(self.folder, LABELS.config_digest)

    @property
    def storage(self) -> Storage:
        return storage_for(self.folder, self.storage_config)

    @property
    def bucket(self) -> Storage:
        return storage_for(f"s3://{BUCKET}", self.storage_config)

    def config(self, uri: str, limit: int | None = None) -> RunConfig:
        return RunConfig(
            input=InputConfig(uri=uri, limit=limit),
            output=OutputConfig(uri=self.folder),
            storage=self.storage_config,
            models=ModelsConfig(target=ModelConfig(name="x")),
            speculation=SpeculationConfig(method=SpeculationMethod.NONE),
        )

    def put_rows(self, layout: Layout, specs: list[ClipSpec], number: int = 1) -> None:
        part = encode_part(Table.CAPTIONS, [caption_of(spec) for spec in specs], "w")
        self.storage.put(layout.part_uri(Table.CAPTIONS, number), part)

    def plan(self, config: RunConfig) -> Plan:
        done = read_done(self.storage, self.layout)
        return Plan.of(config, done, self.storage, self.layout)


@pytest.fixture(scope="module")
def server() -> Iterator[ListingServer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "AKIATESTONLY")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-real-secret")
        with listing_server(Listing([])) as running:
            yield running


@contextmanager
def world_of(server: ListingServer, tmp_path_factory, corpus: Corpus) -> Iterator[World]:
    server.listing = Listing(
        sorted(f"v/{name}" for name in corpus.listed),
        etags={f"v/{name}": version for name, version in corpus.listed.items()},
    )
    world = World(server, str(tmp_path_factory.mktemp("out")))
    specs = [
        ClipSpec(VideoObject(uri(name), version, 1), index, num_clips, index * 1.0, index + 1.0)
        for name, version, num_done, num_clips in corpus.rows
        for index in range(num_done)
    ]
    if specs:
        world.put_rows(world.layout, specs)
    others = [
        ClipSpec(VideoObject(uri(name), "e1", 1), 0, 1, 0.0, 1.0) for name in corpus.elsewhere
    ]
    if others:
        world.put_rows(Layout.of(world.folder, OTHER_DIGEST), others)
    yield world


def uri(name: str) -> str:
    return f"s3://{BUCKET}/v/{name}"


def reason_of(corpus: Corpus, name: str, version: str) -> Reason | None:
    """The model: why a listed version is planned; None if it is done."""
    done = {row[1]: row[2] for row in corpus.rows if row[0] == name}
    if version in done:
        return None if done[version] == 2 else Reason.UNFINISHED
    if done:
        return Reason.CHANGED
    return Reason.RECONFIGURED if name in corpus.elsewhere else Reason.NEW


SETTINGS = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@SETTINGS
@given(corpus=corpora())
def test_every_name_is_planned_for_its_reason(
    server: ListingServer, tmp_path_factory: pytest.TempPathFactory, corpus: Corpus
) -> None:
    """New, changed, unfinished, of another config, done, deleted; and back from the parts."""
    expected = {
        uri(name): reason
        for name, version in corpus.listed.items()
        if (reason := reason_of(corpus, name, version))
    }
    if not corpus.listed:
        return
    with world_of(server, tmp_path_factory, corpus) as world:
        plan = world.plan(world.config(f"s3://{BUCKET}/v"))
        written = write_plan(world.storage, world.layout, "run", plan)
        planned = list(written)
    assert {each.video.uri: each.reason for each in planned} == expected
    assert len(planned) == written.num_videos == len(expected)
    counts = plan.counts
    assert counts.num_done == len(corpus.listed) - len(expected)
    assert counts.num_deleted == len({row[0] for row in corpus.rows} - set(corpus.listed))
    for each in planned:
        assert (each.reason is Reason.UNFINISHED) == bool(each.done_clip_ids)


@SETTINGS
@given(corpus=corpora(), limit=st.integers(1, 5))
def test_a_limit_takes_the_first_that_are_left(
    server: ListingServer, tmp_path_factory: pytest.TempPathFactory, corpus: Corpus, limit: int
) -> None:
    """In the order of the keys' bytes; what is deleted can't be told of half a listing."""
    left = [
        uri(name)
        for name, version in sorted(corpus.listed.items(), key=lambda item: item[0].encode())
        if reason_of(corpus, name, version)
    ]
    if not corpus.listed:
        return
    with world_of(server, tmp_path_factory, corpus) as world:
        plan = world.plan(world.config(f"s3://{BUCKET}/v", limit))
        assert [each.video.uri for each in plan] == left[:limit]
    assert (plan.counts.num_deleted is None) == (len(left) >= limit)


@SETTINGS
@given(corpus=corpora(), repeats=st.integers(1, 3))
def test_a_manifest_that_repeats_itself_plans_each_video_once(
    server: ListingServer, tmp_path_factory: pytest.TempPathFactory, corpus: Corpus, repeats: int
) -> None:
    """The names may hold whatever a CSV can quote."""
    if not corpus.listed:
        return
    text = io.StringIO()
    rows = [[uri(name), version, "7"] for name, version in corpus.listed.items()] * repeats
    csv.writer(text).writerows([["uri", "etag", "size"], *rows])
    with world_of(server, tmp_path_factory, corpus) as world:
        manifest = f"{world.folder}/list.csv"
        world.storage.put(manifest, text.getvalue().encode())
        planned = [each.video for each in world.plan(world.config(manifest))]
    assert planned == [
        VideoObject(uri(name), version, 7)
        for name, version in corpus.listed.items()
        if reason_of(corpus, name, version)
    ]


@SETTINGS
@given(
    names=st.lists(
        st.text(st.sampled_from("ab1/é\U0010ffff "), min_size=1, max_size=5),
        max_size=60,
        unique=True,
    ),
    cuts=st.lists(st.text(st.sampled_from("ab1/é\U0010ffff "), max_size=3), max_size=4),
)
def test_ranges_give_each_object_once_wherever_the_cuts_are(
    server: ListingServer, names: list[str], cuts: list[str]
) -> None:
    """Pages of 3, ranges of any size: what list gives, however it is cut."""
    keys = sorted(f"v/{name}" for name in names)
    server.listing = Listing(keys)
    bucket = World(server, "unused").bucket
    expected = [f"s3://{BUCKET}/{key}" for key in keys if not key.endswith("/")]
    folder = f"s3://{BUCKET}/v"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan_listing, "PAGE_KEYS", 3)
        assert sorted(found.uri for found in list_in_any_order(bucket, folder)) == expected
        patch.setattr(
            plan_listing, "split_points", lambda *_: sorted({f"{folder}/{cut}" for cut in cuts})
        )
        assert sorted(found.uri for found in list_in_any_order(bucket, folder)) == expected
    listed = [found.uri for found in bucket.list(folder, page_size=2)]
    assert listed == expected
    points = split_points(bucket, folder)
    assert points == sorted(set(points))


@settings(max_examples=100, deadline=None)
@given(
    ids=st.lists(
        # few different bytes: buckets of many ids, and ids that show across two neighbours
        st.lists(st.sampled_from([0, 1, 255]), min_size=16, max_size=16).map(bytes),
        max_size=60,
    )
)
def test_a_set_of_ids_is_a_set(ids: list[bytes]) -> None:
    """All 128 bits count."""
    ours, model = IdSet(), set[bytes]()
    for an_id in ids:
        assert (an_id in ours) == (an_id in model)
        assert ours.add(an_id) == (an_id not in model)
        model.add(an_id)
        assert len(ours) == len(model)
    with pytest.raises(ValueError, match="16 bytes"):
        ours.add(b"short")


HEX_ID = st.lists(st.sampled_from("0f"), min_size=32, max_size=32).map("".join)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_done_clips_are_a_set_that_knows_complete_videos(data: st.DataObject) -> None:
    """Against one plain dictionary of sets."""
    video_ids = data.draw(st.lists(HEX_ID, min_size=1, max_size=5, unique=True))
    num_clips = {video_id: data.draw(st.integers(1, 3)) for video_id in video_ids}
    done, model = DoneClips(), {video_id: set[str]() for video_id in video_ids}
    complete: set[str] = set()
    for _ in range(data.draw(st.integers(0, 25))):
        video_id = data.draw(st.sampled_from(video_ids))
        clip_id = f"c{data.draw(st.integers(0, num_clips[video_id] - 1))}"
        is_whole = data.draw(st.integers(0, 9)) == 0
        expected = video_id not in complete and clip_id not in model[video_id]
        assert done.has_clip(video_id, clip_id) == (not expected)
        assert done.add(video_id, clip_id, None if is_whole else num_clips[video_id]) == expected
        model[video_id].add(clip_id)
        if expected and (is_whole or len(model[video_id]) == num_clips[video_id]):
            complete.add(video_id)
        for each in video_ids:
            assert done.has_video(each) == (each in complete)
            assert done.clip_ids(each) == (frozenset() if each in complete else model[each])
        assert bool(done)


@settings(max_examples=40, deadline=None)
@given(num_videos=st.integers(0, 40), rows_per_part=st.integers(1, 12), most=st.integers(1, 50))
def test_slices_are_all_rows_once(
    tmp_path_factory: pytest.TempPathFactory, num_videos: int, rows_per_part: int, most: int
) -> None:
    """One a slice while there are few, and about as many slices as asked for."""
    folder = str(tmp_path_factory.mktemp("plan"))
    layout, storage = Layout(folder), storage_for(folder, StorageConfig())
    videos = [PlannedVideo(VideoObject(f"/in/\udcff{n}\n.mp4", "e", n)) for n in range(num_videos)]

    class Fixed(Plan):
        def __iter__(self) -> Iterator[PlannedVideo]:
            self._reasons.update(each.reason for each in videos)
            yield from videos

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan_parts, "ROWS_PER_PART", rows_per_part)
        written = write_plan(storage, layout, "run", Fixed(None, DoneClips(), None))  # type: ignore[arg-type]
    slices = list(written.slices(most))
    reader = PlanReader(storage)
    assert [each for rows in slices for each in reader.read(rows)] == videos == list(written)
    assert len(slices) <= most + len(written.parts)
    if num_videos <= most:
        assert len(slices) == num_videos
