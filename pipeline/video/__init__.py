"""From a video file to frames: probe, clip plan, sampling, decoding, and the killable process."""
