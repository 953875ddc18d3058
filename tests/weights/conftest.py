"""What the tests of weights share."""

import pytest


@pytest.fixture
def one_thread():
    """One thread and no gradients: networks here are tiny, and threads would spend their time waiting for one another."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        yield
    torch.set_num_threads(before)
