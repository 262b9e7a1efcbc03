"""The two ways in which a command of the trainer ends badly."""


class UsageError(ValueError):
    """The user's call is wrong: exit status 2."""


class DatasetError(ValueError):
    """The dataset, or the training on it, failed: exit status 1."""
