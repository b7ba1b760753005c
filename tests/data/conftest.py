"""What the tests of memories share."""

import pytest

import tinymem as tm


@pytest.fixture(scope="session")
def tokenizer():
    """The shipped model's tokenizer."""
    return tm.load("tiny")[1]
