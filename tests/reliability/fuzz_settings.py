"""How many examples the fuzzing of images, labels and tables makes, and what is asked of a refusal."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from .conftest import FULL

EXAMPLES = settings(
    max_examples=3000 if FULL else 60,
    deadline=None,
    database=None,
    derandomize=not FULL,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=40)
NUMBERS = st.one_of(
    TEXTS,
    st.floats().map(str),
    st.integers().map(str),
    st.sampled_from(["", "1", "12.0", "-1", "1e999", "nan", "inf", "9" * 400, "1_0", "٣", "0x1", " 7 ", "1,5"]),
)


def check_names(error: Exception, name: object) -> None:
    """A refusal names the file."""
    assert str(name) in str(error)
