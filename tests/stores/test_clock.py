"""Times as people read them."""

import pytest

from eventferry.clock import iso


def test_a_time_is_told_to_the_millisecond() -> None:
    assert iso(0) == "1970-01-01T00:00:00.000"
    assert iso(-1) == "1969-12-31T23:59:59.999"
    assert iso(253402300799999) == "9999-12-31T23:59:59.999"  # a float of it would be a millisecond less


def test_a_time_beyond_the_year_9999_has_no_such_text() -> None:
    with pytest.raises(OverflowError):
        iso(253402300800000)
