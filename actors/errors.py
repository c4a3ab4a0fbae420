"""What can go wrong with the actors themselves, rather than with what they work on."""


class WorkerError(RuntimeError):
    """An actor could not start, or died again and again on the same clip; says what it said."""
