"""What the endpoint's model is called by those who ask."""

from __future__ import annotations

from pathlib import PurePath

from pipeline.serving.protocol_errors import ApiError
from pipeline.storage.uris import is_s3

_NOT_FOUND = 404


def public_name(model_id: str) -> str:
    """A hub name as it is; the last part of a folder or a prefix in S3: its place is private."""
    path = PurePath(model_id)
    return path.name if path.is_absolute() or is_s3(model_id) else model_id


class ModelNames:
    """The names of one target; the first one is how it calls itself."""

    def __init__(self, model_id: str, served_model_name: str | None) -> None:
        own = public_name(model_id)
        self.all = tuple(dict.fromkeys((served_model_name or own, own)))

    def answering(self, asked: str | None) -> str:
        """The name to answer by. Raises ApiError (404) for another model's name."""
        if asked is None:
            return self.all[0]
        if asked not in self.all:
            raise ApiError(
                _NOT_FOUND,
                "model_not_found",
                f"model: there is no such model here; there is {' or '.join(self.all)}",
                param="model",
            )
        return asked
