"""Fixtures of all tests. Being here also puts tests/ on the import path (``import s3_server``)."""

import os

# Tiny models on many threads spend their time waiting for each other; child processes inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import settings
from s3_server import s3_bucket, s3_server

# How long an example takes is the machine's business; a test's own time-out still ends a hang.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

__all__ = ["s3_bucket", "s3_server"]
