"""The one exception that means: the user can mend it."""


class BadInput(Exception):
    """One line that names what was given, its value and what is allowed."""

    def __init__(self, message: object):
        """Makes a single line of the message."""
        super().__init__(" ".join(str(message).split()))
