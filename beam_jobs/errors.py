"""The two ways in which a command ends badly."""


class SpecError(ValueError):
    """The user's call or spec is wrong: exit status 2."""


class DataError(ValueError):
    """The data or the job failed: exit status 1."""
