"""Every code that the code base can emit has a kind, and the table has no other codes."""

import ast
from pathlib import Path

import pytest

from pipeline.failure_kinds import KIND_OF_CODE, CaptionFailureCode, FailureKind, kind_of
from pipeline.stages.decode import BAD_VIDEO_ERRORS
from pipeline.storage import StorageError
from pipeline.video.errors import VideoErrorCode

ROOT = Path(__file__).parents[2]


def store_codes(error: type[StorageError]) -> set[str]:
    return {error.code}.union(*map(store_codes, error.__subclasses__()))


def emitted_codes() -> set[str]:
    codes: set[str] = {*VideoErrorCode, *CaptionFailureCode}
    for error in BAD_VIDEO_ERRORS:
        if issubclass(error, StorageError):
            codes |= store_codes(error)
    return codes


def test_the_table_is_total_and_has_nothing_else() -> None:
    """A new code without a kind would end the run that meets it."""
    assert {str(code) for code in emitted_codes()} == set(KIND_OF_CODE)


def test_failures_are_made_of_these_codes_alone() -> None:
    """Whoever makes a failure row names an enumerated code, never a text of their own."""
    places = []
    for path in sorted([*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "actors").rglob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text())):
            is_made = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Failure"
            if is_made:
                places.append(path.relative_to(ROOT).as_posix())
                values = [*node.args, *(keyword.value for keyword in node.keywords)]
                texts = [v.value for v in values if isinstance(v, ast.Constant)]
                assert not any(isinstance(text, str) for text in texts), path
    assert set(places) == {
        "pipeline/dataset/row_records.py",  # reads rows back
        "pipeline/stages/attempts.py",
        "pipeline/stages/caption.py",
        "pipeline/stages/decode.py",
    }


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("corrupt", FailureKind.POISON),
        ("too_long", FailureKind.POISON),
        ("access_denied", FailureKind.TRANSIENT),
        ("object_changed", FailureKind.TRANSIENT),
        ("timeout", FailureKind.TRANSIENT),
        ("captioner_crash", FailureKind.OURS),
        ("decoder_crashed", FailureKind.OURS),
    ],
)
def test_kinds(code: str, kind: FailureKind) -> None:
    assert kind_of(code) is kind
