"""The ways in which a command of the trainer ends badly."""


class UsageError(ValueError):
    """The user's call is wrong: exit status 2."""


class DatasetError(ValueError):
    """The dataset, or the training on it, failed: exit status 1."""


class Terminated(SystemExit):
    """SIGTERM came, as from a machine that is taken away: exit status 143, as shells have it.

    Not 0: to whatever started the training it would mean that a model is there.
    """

    def __init__(self, message: str):
        """Takes the line to print."""
        super().__init__(143)
        self.message = message

    def __str__(self) -> str:
        """Returns the line to print."""
        return self.message
