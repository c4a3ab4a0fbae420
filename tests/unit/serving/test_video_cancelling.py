"""Clients that go away, processes that die: nothing stays busy, open or on the disk."""

import asyncio
import base64
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from video_files import indices_of

from pipeline.records import Stage
from pipeline.serving.video_errors import VideoFetchError
from pipeline.serving.video_loader import VideoRequest
from pipeline.serving_config import VideoAccessConfig
from pipeline.storage import Opener
from pipeline.video.errors import VideoError, VideoErrorCode
from tests.media_server import HOST, Answer, media_authority, media_server
from tests.video_loading import (
    LOOPBACK,
    file_url,
    folder,
    load,
    loading,
    local,
)

__all__ = ["folder", "media_authority", "media_server"]


def temporary_files():
    """Descriptors of this process that lead to files without a name."""
    links = (Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd"))
    return [link for link in links if link.is_symlink() and "(deleted)" in os.readlink(link)]


class StuckOpener(Opener):
    """Opens nothing, for an hour, in the decode process."""

    def __call__(self):
        time.sleep(3600)
        return super().__call__()


@pytest.fixture
def stuck_load(folder, monkeypatch):
    """``await stuck_load(loader)``: a load whose decode process hangs, as a task."""

    async def start(loader):
        with monkeypatch.context() as patch:
            patch.setattr("pipeline.serving.held_video.Opener", StuckOpener)
            task = asyncio.create_task(loader.load(VideoRequest(file_url(folder / "a.mp4"))))
            await until(lambda: loader._pool._running)
        await until(lambda: child_pids(loader)[0])
        await asyncio.sleep(0.1)
        assert not task.done()
        return task

    return start


def child_pids(loader):
    return [decoder.child_pid for decoder in loader._pool._decoders]


async def until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def test_cancelling_kills_the_decode_and_frees_the_decoder(folder, stuck_load):
    """A client that goes away must not keep a decoder busy."""

    async def cancel_one():
        async with loading(local(folder)) as loader:
            stuck = await stuck_load(loader)
            (pid,) = child_pids(loader)
            stuck.cancel()
            with pytest.raises(asyncio.CancelledError):
                await stuck
            quick = VideoRequest(file_url(folder / "a.mp4"))
            clip = await asyncio.wait_for(loader.load(quick), 20)
            assert indices_of(clip.frames) == [5, 15, 25, 35]
            assert not Path(f"/proc/{pid}").exists()

    asyncio.run(cancel_one())


def test_cancelling_while_the_decode_process_starts(folder, monkeypatch):
    """It can't be killed yet, and must be as soon as it can."""
    monkeypatch.setattr("pipeline.serving.held_video.Opener", StuckOpener)

    async def cancel_one():
        async with loading(local(folder)) as loader:
            task = asyncio.create_task(loader.load(VideoRequest(file_url(folder / "a.mp4"))))
            await until(lambda: loader._pool._running)
            assert child_pids(loader) == [None]
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: not loader._pool._running)
            assert child_pids(loader) == [None]

    asyncio.run(cancel_one())


def test_cancelling_at_any_moment_leaves_a_loader_that_works(folder):
    """Also while a decode process starts, or between planning and decoding."""

    async def cancel_many():
        async with loading(local(folder), num_decoders=2) as loader:
            quick = VideoRequest(file_url(folder / "a.mp4"))
            for step in range(25):
                tasks = [asyncio.create_task(loader.load(quick)) for _ in range(3)]
                await asyncio.sleep(step * 0.01)
                for task in tasks[:2]:
                    task.cancel()
                outcomes = await asyncio.wait_for(
                    asyncio.gather(*tasks, return_exceptions=True), 30
                )
                # whoever was not cancelled has its clip
                assert indices_of(outcomes[2].frames) == [5, 15, 25, 35]
            await until(lambda: not loader._pool._running)
            assert loader._pool._idle.qsize() == 2

    asyncio.run(cancel_many())


def test_cancelling_a_fetch_closes_the_connection_and_the_file(folder, media_server):
    gone = threading.Event()

    def wait():
        gone.wait(0.02)

    media_server.answers["/slow"] = Answer(pieces=[b"x" * 1000] * 100_000, between=wait)
    access = VideoAccessConfig(
        allowed_domains=media_server.entries(HOST), allowed_private_addresses=LOOPBACK
    )
    before = len(temporary_files())

    async def cancel():
        async with loading(access) as loader:
            task = asyncio.create_task(loader.load(VideoRequest(media_server.https("/slow"))))
            await until(lambda: media_server.requests)
            await asyncio.sleep(0.1)
            assert len(temporary_files()) == before + 1
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert len(temporary_files()) == before

    asyncio.run(cancel())
    gone.set()


@pytest.mark.parametrize("body", ["good", "bad", "large"])
def test_no_temporary_file_stays(folder, media_server, body, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    data = {
        "good": (folder / "a.mp4").read_bytes(),
        "bad": b"not a video",
        "large": bytes(200_000),
    }[body]
    media_server.answers["/"] = Answer(pieces=(data,))
    access = VideoAccessConfig(
        allowed_domains=media_server.entries(HOST),
        allowed_private_addresses=LOOPBACK,
        max_bytes=100_000,
    )
    before = len(temporary_files())
    for url in (
        media_server.https(),
        "data:video/mp4;base64," + base64.b64encode(data).decode(),
    ):
        try:
            load(url, access)
        except (VideoError, VideoFetchError):
            assert body != "good"
        assert len(temporary_files()) == before
        assert list(tmp_path.iterdir()) == []


def test_fetches_at_once_are_bounded(folder, media_server):
    """Guards the temporary disk: each fetch may take max_bytes of it."""
    go = threading.Event()
    data = (folder / "a.mp4").read_bytes()
    media_server.answers["/"] = Answer(
        headers=(("Content-Length", str(len(data))),),
        pieces=(data[:100], data[100:]),
        between=go.wait,
    )
    access = VideoAccessConfig(
        allowed_domains=media_server.entries(HOST),
        allowed_private_addresses=LOOPBACK,
        max_concurrent_fetches=2,
    )

    async def five():
        async with loading(access, num_decoders=2) as loader:
            url = media_server.https()
            tasks = [asyncio.create_task(loader.load(VideoRequest(url))) for _ in range(5)]
            await until(lambda: len(media_server.requests) == 2)
            await asyncio.sleep(0.2)
            assert len(media_server.requests) == 2
            go.set()
            return await asyncio.gather(*tasks)

    clips = asyncio.run(five())
    assert len({clip.frames_digest for clip in clips}) == 1


def test_a_decode_process_that_dies_is_an_error_of_its_request_alone(folder, stuck_load):
    async def kill():
        async with loading(local(folder)) as loader:
            stuck = await stuck_load(loader)
            os.kill(child_pids(loader)[0], signal.SIGKILL)
            with pytest.raises(VideoError) as caught:
                await stuck
            assert caught.value.code is VideoErrorCode.DECODER_CRASHED
            assert caught.value.stage is Stage.PROBE
            quick = VideoRequest(file_url(folder / "a.mp4"))
            assert len((await loader.load(quick)).frames) == 4

    asyncio.run(kill())


def test_closing_ends_what_is_being_decoded(folder, stuck_load):
    async def close():
        async with loading(local(folder)) as loader:
            stuck = await stuck_load(loader)
            await asyncio.wait_for(loader.close(), 20)
            with pytest.raises(VideoError):
                await stuck
            assert child_pids(loader) == [None]

    asyncio.run(close())
