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


@pytest.fixture(scope="module")
def net():
    """diffusers' network, tiny, with random weights."""
    torch = pytest.importorskip("torch")
    from bench.metric.torchvision_shim import import_torchvision

    import_torchvision()
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    return UNet2DModel(sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8, 16),
                       norm_num_groups=4, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
                       up_block_types=("AttnUpBlock2D", "UpBlock2D"), attention_head_dim=8).eval()
