"""Guards the progress line: counts per video and clip, rate, time left."""

import threading

from pipeline.progress import Progress, format_duration
from tests.make_records import caption_record, clip_spec, failure


class Clock:
    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


def progress_of(num_videos):
    clock, lines = Clock(), []
    return Progress(num_videos, lines.append, clock=clock), clock, lines


def test_video_is_done_when_all_its_clips_are():
    progress, _, _ = progress_of(2)
    for index in range(3):
        progress.add(caption_record(clip_spec("long.mp4", index, num_clips=3)))
        assert progress.count().num_videos_done == (1 if index == 2 else 0)
    progress.add(failure())  # a whole video
    assert progress.count().num_videos_done == 2
    assert progress.count().num_captions == 3
    assert progress.count().num_failures == 1


def test_clips_of_an_earlier_run_count_towards_their_video():
    progress, _, _ = progress_of(1)
    progress.add(caption_record(clip_spec("long.mp4", 2, num_clips=3)), num_done_before=2)
    assert progress.count().num_videos_done == 1


def test_time_left_is_at_the_rate_so_far():
    progress, clock, _ = progress_of(4)
    assert progress.count().remaining_s is None
    clock.now_s = 10.0
    progress.add(caption_record())
    assert progress.count().remaining_s == 30.0


def test_line_reads_well():
    progress, clock, _ = progress_of(100)
    for index in range(6):
        progress.add(caption_record(clip_spec(f"{index}.mp4")))
    clock.now_s = 5.0
    assert str(progress.count()).startswith(
        "6/100 videos (6%) | 6 captions, 0 failures | 1.20 clips/s"
    )


def test_lines_come_without_outcomes_and_the_last_one_at_the_end():
    lines = []
    two_lines = threading.Event()

    def print_line(line):
        lines.append(line)
        if len(lines) == 2:
            two_lines.set()

    with Progress(4, print_line, interval_s=0.01) as progress:
        assert two_lines.wait(timeout=10), "a run that waits must not be silent"
        progress.add(caption_record())
    assert lines[-1].startswith("1/4 videos")


def test_durations_read_well():
    assert format_duration(3.2) == "3 s"
    assert format_duration(245) == "4 min 05 s"
    assert format_duration(27_000) == "7 h 30 min"
