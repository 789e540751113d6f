"""A blob that is large enough to be cut comes from two real donors at once, whole and not all of it twice."""

import json

import pytest

from protocol.striping import STRIPE_BYTES
from tests.bench import donors
from tests.bench._links import NEEDS, may_open

MEGABYTES = 9


@pytest.mark.skipif(not may_open(), reason=NEEDS)
def test_two_donors_give_a_part_each(capsys):
    assert MEGABYTES << 20 > STRIPE_BYTES
    size = ["--megabytes", str(MEGABYTES), "--repeats", "1"]
    assert donors.main(["--donors", "2", *size, "--rate", "400", "--delay", "1", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["donors"], row["parts"]) == (2, 2)
    assert 1 <= row["fetched"] < 2
    assert min(row["in turn MB/s"], row["at once MB/s"]) > 0
