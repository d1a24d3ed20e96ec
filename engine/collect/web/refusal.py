"""Why a picture of a list is not there, in a word; these words stand in the table of a collection.

What pictures themselves are refused for is in `engine.data.images`.
"""


class Refused(Exception):
    """A row that yields no picture.

    Attributes:
        reason: its code in the table.
        passing: whether another try may help.
        wait: seconds that the server asks to be left alone for, or None.
        status: what an http server said, or None.
    """

    def __init__(
        self,
        reason: str,
        *,
        passing: bool = False,
        wait: float | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason, self.passing, self.wait, self.status = reason, passing, wait, status
