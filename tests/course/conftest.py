"""What the tests of the course share: the course's folder on the path, and one process."""

import sys
from pathlib import Path

import pytest

TUTORIALS = Path(__file__).parents[2] / "tutorials"
if str(TUTORIALS) not in sys.path:
    sys.path.append(str(TUTORIALS))


@pytest.fixture(scope="session", autouse=True)
def one_process():
    """One process for all hand-ins of these tests: each start imports torch."""
    from checks.hand_in import Computer

    Computer.share = True
    yield
    if Computer.shared:
        Computer.shared.stop()
    Computer.shared, Computer.share = None, False
