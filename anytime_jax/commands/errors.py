"""What a user is told: one line, whatever went wrong."""


class BadInput(Exception):
    """One line that names what was given, its value and what is allowed."""

    def __init__(self, message: object):
        """Makes a single line of the message."""
        super().__init__(" ".join(str(message).split()))


def one_line(error: BaseException) -> str:
    """Returns the first line of an error; of the system's errors, what and where.

    Args:
      error: any.

    Example:
      >>> one_line(FileNotFoundError(2, "No such file or directory", "runs/a"))
      'runs/a: No such file or directory'
    """
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return (str(error).strip() or type(error).__name__).split("\n")[0]
