"""Fixtures of all tests. Being here also puts tests/ on the import path (``import s3_server``)."""

from s3_server import s3_bucket, s3_server

__all__ = ["s3_bucket", "s3_server"]
