"""Amounts are exact, and what is none is refused."""

import pytest

from contracts.terminal import format_amount, parse_amount
from protocol.errors import UsageError
from tests.contracts.conftest import TOKEN


def test_amounts_are_exact() -> None:
    assert parse_amount("100") == 100 * TOKEN
    assert parse_amount("0.5") == TOKEN // 2
    assert parse_amount("0.000000000000000001") == 1
    assert (
        parse_amount("123456789012345678901234567890.1")
        == 123456789012345678901234567890 * TOKEN + TOKEN // 10
    )
    for wei in (1, TOKEN, 10 * TOKEN, 10**17, 1_234_500_000_000_000_000_000):
        assert parse_amount(format_amount(wei)) == wei
    assert [format_amount(wei) for wei in (0, 10 * TOKEN, 3 * TOKEN // 2)] == ["0", "10", "1.5"]


@pytest.mark.parametrize(
    "text",
    ["", "0", "0.0", "-1", "+1", "1e3", "1,5", ".5", "5.", "1.0000000000000000001", "9" * 31, "nan", " 1"],
)
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not an amount") as refused:
        parse_amount(text)
    assert refused.value.exit_code == 2
