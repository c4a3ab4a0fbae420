"""Loading real videos with the endpoint's loader, as the tests of it do."""

import asyncio
import base64
from contextlib import asynccontextmanager
from urllib.parse import quote

import pytest
from media_server import always
from video_files import write_audio, write_video

from pipeline.config import FrameSamplingConfig, FrameSizeConfig, VideoConfig
from pipeline.serving.video_errors import VideoSourceError
from pipeline.serving.video_loader import VideoLoader, VideoRequest
from pipeline.serving_config import VideoAccessConfig
from pipeline.storage_config import StorageConfig

CONFIG = VideoConfig(
    sampling=FrameSamplingConfig(num_frames=4), frame_size=FrameSizeConfig(fixed_px=(48, 64))
)
LOOPBACK = ("127.0.0.0/8",)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Videos of 40 frames, 1.6 s."""
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "a.mp4", codec="libx264")
    write_video(folder / "b ü%.webm", codec="libvpx-vp9")
    write_audio(folder / "sound.mp4")
    (folder / "text.mp4").write_text("not a video")
    return folder


@asynccontextmanager
async def loading(access, config=CONFIG, storage=None, num_decoders=1, resolver=None):
    loader = VideoLoader(
        config, storage or StorageConfig(), access, num_decoders, resolver or always("127.0.0.1")
    )
    try:
        yield loader
    finally:
        await loader.close()


def load(url, access, *, config=CONFIG, storage=None, **options):
    async def once():
        async with loading(access, config, storage) as loader:
            return await loader.load(VideoRequest(url, **options))

    return asyncio.run(once())


def error_of(url, access, error=VideoSourceError, **options):
    with pytest.raises(error) as caught:
        load(url, access, **options)
    return caught.value


@pytest.fixture(scope="module")
def load_file(folder):
    """``load`` of what needs no settings of its own, by one loader: a decode process for all."""
    with asyncio.Runner() as runner:
        access = local(folder)
        loader = VideoLoader(CONFIG, StorageConfig(), access, 1, always())
        yield lambda url, **options: runner.run(loader.load(VideoRequest(url, **options)))
        runner.run(loader.close())


def data_url(path):
    return "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode()


def local(folder, **changes):
    return VideoAccessConfig(allowed_local_media_path=str(folder), **changes)


def file_url(path):
    return f"file://{quote(str(path))}"
