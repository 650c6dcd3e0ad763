"""The error the core raises for what a user can put right; any other is a bug. Torch-free."""

from collections.abc import Container, Iterator
from contextlib import contextmanager


class CoreError(Exception):
    """Something a user can act on.

    `code` is a stable snake_case name, `detail` says what is wrong, `remedy` what to do about it
    and `field`, where there is one, which field of the specification it is about.
    """

    def __init__(self, code: str, detail: str, remedy: str, field: str | None = None) -> None:
        super().__init__(code, detail, remedy, field)
        self.code = code
        self.detail = detail
        self.remedy = remedy
        self.field = field

    def __str__(self) -> str:
        where = f"{self.field}: " if self.field else ""
        return f"{where}{self.detail} {self.remedy}"


@contextmanager
def fields_under(prefix: str, names: Container[str]) -> Iterator[None]:
    """Complete the field of a CoreError raised within: `network` becomes `students.network`.

    A network knows which of its parameters is wrong, but not where in the specification it came
    from. Fields that are not among `names` are complete already.
    """
    try:
        yield
    except CoreError as error:
        if error.field not in names:
            raise
        raise CoreError(
            error.code, error.detail, error.remedy, f"{prefix}.{error.field}"
        ) from error
