"""The ways a command can end early that are not bugs."""


class UserError(Exception):
    """A mistake that the user can mend: one line that names the thing and the remedy. Exit code 2."""


class Unavailable(UserError):
    """Something outside does not answer or is busy: it may be there again when it is tried later."""


class Stopped(Exception):
    """The run was asked to stop and did so at a checkpoint; the same command continues it."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal_number = signal_number


class RunFailed(Exception):
    """A run that can not go on, whatever is tried again: one line that says why. Exit code 1."""


class WorkerFailed(RunFailed):
    """Training processes failed again and again. What they saved stands: once the cause is mended, the run goes on."""


class Terminated(BaseException):
    """SIGTERM outside training. No Exception, so that no handler of errors takes it for one."""
