"""Errors of the inference core. Each message names what was wrong and what to do."""


class InputError(ValueError):
    """Audio that a session does not take. The session is unchanged and stays usable."""


class NoRecordingError(InputError):
    """There is no file of that name, or it is something else."""


class SessionError(RuntimeError):
    """A call that does not fit the session's state, such as a push after finish."""


class ResumeError(SessionError):
    """An unfinished run that cannot be taken up again as it was begun."""


class BundleError(ValueError):
    """A folder that is not a usable bundle."""


class OutputError(RuntimeError):
    """A result that must not or cannot be written. Nothing that was there before is touched."""
