"""What can go wrong with the actors themselves, rather than with what they work on."""


class ClusterError(Exception):
    """There is no Ray cluster at the address, or none that answers."""


class WorkerError(RuntimeError):
    """An actor could not start; the message holds what it said."""


class GangError(RuntimeError):
    """A rank of a gang is dead or hung, or ranks do not agree: the gang must be built anew."""
