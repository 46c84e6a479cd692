"""Why a file is refused."""


class InvalidImage(Exception):
    """The bytes give no image; `reason` is one snake_case word, `detail` one line for people."""

    def __init__(self, reason: str, detail: str):
        super().__init__(reason, detail)  # both, so that it survives pickling
        self.reason = reason
        self.detail = " ".join(detail.split())[:200]

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"
