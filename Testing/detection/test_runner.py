from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from support import TINY
from torch import Tensor, nn

from DISYRECore.detection.runner import VolumeRestorer, on_cpu_without_memory, slabs
from DISYRECore.methods import find_method
from DISYRECore.models.device import has_bfloat16
from DISYRECore.models.restoration_unet import NetworkSettings, RestorationNetwork, zero_output

LIMITED = "GPU memory ran out"


def network(settings: NetworkSettings = TINY) -> RestorationNetwork:
    torch.manual_seed(0)
    made = RestorationNetwork(settings).eval()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.1)
    return made


def volume(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("context", [0, 1, 2])
def test_slabs_hold_each_slice_with_its_neighbours(context: int) -> None:
    x = volume(6, 3, 4)
    whole = slabs(x, context)
    assert whole.shape == (6, 2 * context + 1, 3, 4)
    for z in range(6):
        for offset in range(-context, context + 1):
            inside = 0 <= z + offset < 6
            expected = x[z + offset] if inside else torch.zeros(3, 4)
            assert torch.equal(whole[z, context + offset], expected)


@pytest.mark.parametrize("batch", [1, 4, 7, 100])
def test_the_result_does_not_depend_on_the_batch_size(batch: int) -> None:
    """To 1e-5 in single precision; to 2e-2 where the device computes in bfloat16."""
    x, net = volume(9, 18, 14), network()
    tolerance = 2e-2 if has_bfloat16(torch.device("cpu")) else 1e-5
    for one, other in zip(VolumeRestorer(net, 3)(x, 40), VolumeRestorer(net, batch)(x, 40), strict=True):
        assert one is not None
        assert other is not None
        assert torch.allclose(one, other, atol=tolerance)


def test_in_single_precision_the_score_does_not_depend_on_the_batch_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("DISYRECore.models.device.has_bfloat16", lambda device: False)
    x, net = volume(9, 18, 14), network()
    mask = x > 0.2
    for method in ("disyre", "disyre-v2"):
        small, large = (
            find_method(method).run(VolumeRestorer(net, batch), x, mask, score="region") for batch in (2, 16)
        )
        assert torch.allclose(small.score, large.score, atol=1e-5)
        assert torch.allclose(small.restored, large.restored, atol=1e-5)


def test_slices_are_restored_one_by_one_with_their_neighbours() -> None:
    x, net = volume(5, 18, 14), network()
    restored, region = VolumeRestorer(net, 16)(x, 70)
    assert region is not None
    with torch.inference_mode():
        alone, logit = net(x[None, 1:4], torch.tensor([70]))
    assert restored.shape == region.shape == x.shape
    assert torch.allclose(restored[2], alone[0], atol=2e-2)
    assert torch.allclose(region[2], logit[0], atol=2e-2)
    assert restored.dtype == torch.float32


def test_a_network_without_region_gives_none() -> None:
    settings = NetworkSettings(channels=(8, 16), blocks=1, groups=4)
    restored, region = VolumeRestorer(network(settings), 2)(volume(3, 9, 10), 0)
    assert restored.shape == (3, 9, 10)
    assert region is None


@pytest.mark.parametrize("method", ["disyre", "disyre-v2"])
def test_an_identity_network_scores_0_everywhere(method: str) -> None:
    net = network()
    zero_output(net)
    x = volume(5, 17, 15)
    made = find_method(method).run(VolumeRestorer(net, 2), x, torch.ones_like(x, dtype=torch.bool))
    assert float(made.score.max()) <= 1e-6
    assert torch.equal(made.restored, x)


def test_progress_grows_to_one_over_all_calls() -> None:
    seen: list[tuple[str, float]] = []
    restorer = VolumeRestorer(network(), 4, calls=3, progress=lambda *news: seen.append(news))
    for step in (90, 50, 10):
        restorer(volume(10, 8, 8), step)
    shares = [share for _, share in seen]
    assert {stage for stage, _ in seen} == {"restore"}
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert len(shares) == 9


def test_a_raising_progress_cancels() -> None:
    def cancel(stage: str, share: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        VolumeRestorer(network(), 2, progress=cancel)(volume(4, 8, 8), 0)


class SmallGpu(nn.Module):
    """A network on a device that holds only so many slices and says that it is a GPU."""

    settings = NetworkSettings(channels=(8,), blocks=1)

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room, self.place, self.sizes = room, "cuda", list[int]()

    def parameters(self, recurse: bool = True) -> Iterator[SimpleNamespace]:  # type: ignore[override]
        yield SimpleNamespace(device=SimpleNamespace(type=self.place))

    def to(self, place: str) -> SmallGpu:  # type: ignore[override]
        self.place = place
        return self

    def forward(self, slices: Tensor, step: Tensor) -> tuple[Tensor, None]:
        self.sizes.append(len(slices))
        if self.place == "cuda" and len(slices) > self.room:
            raise torch.OutOfMemoryError(LIMITED)
        return slices[:, 0] * 0.5, None


class OnSmallGpu(VolumeRestorer):
    """Runs a `SmallGpu` where there is no GPU."""

    def _batch(self, slices: Tensor, step: int) -> tuple[Tensor, Tensor | None]:
        return self.network(slices, torch.full((len(slices),), step))


def test_out_of_memory_halves_the_batch_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    net, x = SmallGpu(room=5), volume(23, 6, 6)
    restorer = OnSmallGpu(net, 16)  # type: ignore[arg-type]
    restored, _ = restorer(x, 3)
    assert torch.equal(restored, 0.5 * x)
    assert net.sizes == [16, 8, 4, 4, 4, 4, 4, 3]
    assert [w.split(":")[0] for w in restorer.warnings] == [LIMITED, LIMITED]
    assert "4 slices" in capsys.readouterr().err
    restorer(x, 3)
    assert max(net.sizes[8:]) == 4


def test_a_gpu_too_small_for_one_slice_hands_over_to_the_cpu() -> None:
    net, x = SmallGpu(room=0), volume(5, 6, 6)
    restorer = OnSmallGpu(net, 4)  # type: ignore[arg-type]
    restored, _ = restorer(x, 3)
    assert torch.equal(restored, 0.5 * x)
    assert net.place == "cpu"
    assert "CPU" in restorer.warnings[-1]


def test_a_further_network_runs_on_the_cpu_when_the_gpu_is_full(capsys: pytest.CaptureFixture[str]) -> None:
    def run(net: SmallGpu) -> Tensor:
        return net(x, torch.zeros(len(x)))[0]

    x, net = volume(4, 1, 6, 6), SmallGpu(room=0)
    found, warnings = on_cpu_without_memory(net, run)
    assert torch.equal(found, 0.5 * x[:, 0])
    assert net.place == "cpu"
    assert "CPU" in warnings[0]
    assert warnings[0] in capsys.readouterr().err
    assert on_cpu_without_memory(net, run)[1] == []


def test_a_further_network_without_any_memory_ends_in_a_memory_error() -> None:
    def run(net: nn.Module) -> Tensor:
        raise torch.OutOfMemoryError("no memory")

    with pytest.raises(MemoryError):
        on_cpu_without_memory(network(), run)


def test_out_of_memory_on_the_cpu_is_not_retried_for_ever() -> None:
    class Full(RestorationNetwork):
        def forward(self, slices: Tensor, step: Tensor) -> tuple[Tensor, None]:
            raise torch.OutOfMemoryError("no memory")

    with pytest.raises(MemoryError):
        VolumeRestorer(Full(TINY), 4)(volume(4, 6, 6), 0)
