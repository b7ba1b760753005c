import pytest

pytest.register_assert_rewrite("tests.experiment.sweeps")  # so that its assertions show values
