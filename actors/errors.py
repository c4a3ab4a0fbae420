"""What can go wrong with the actors themselves, rather than with what they work on."""


class WorkerError(RuntimeError):
    """An actor could not start; the message holds what it said."""
