from __future__ import annotations

import pytest

from experiments.studies import devices
from experiments.studies.devices import make_workers
from mobilemamba.errors import UserError


def test_one_worker_takes_all_devices_by_default() -> None:
    assert [worker.environment for worker in make_workers("auto")] == [{}]
    assert [worker.environment for worker in make_workers("auto", threads=3)] == [{"OMP_NUM_THREADS": "3"}]


@pytest.mark.parametrize(("cores", "threads"), [(8, "4"), (1, "1"), (5, "2")])
def test_workers_on_the_cpu_share_the_cores(monkeypatch: pytest.MonkeyPatch, cores: int, threads: str) -> None:
    monkeypatch.setattr(devices, "available_cores", lambda: cores)
    workers = make_workers("cpu:2")
    assert [worker.environment for worker in workers] == [{"OMP_NUM_THREADS": threads, "CUDA_VISIBLE_DEVICES": ""}] * 2
    assert len({worker.name for worker in workers}) == 2
    assert {worker.arguments for worker in workers} == {("--trainer.accelerator", "cpu")}
    assert make_workers("cpu", threads=7)[0].environment["OMP_NUM_THREADS"] == "7"


@pytest.mark.parametrize(
    ("given", "expected"), [(None, ["0,1", "2", "5,3"]), ("2,3,4,5, GPU-6,7", ["2,3", "4", "7,5"])]
)
def test_each_worker_sees_its_own_gpus(monkeypatch: pytest.MonkeyPatch, given: str | None, expected: list[str]) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 6)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    workers = make_workers("0+1,2,5+3", threads=2)
    assert [worker.environment["CUDA_VISIBLE_DEVICES"] for worker in workers] == expected
    assert {worker.environment["OMP_NUM_THREADS"] for worker in workers} == {"2"}
    # Without it Lightning takes the CPU where CUDA fails, and says nothing.
    assert {worker.arguments for worker in workers} == {("--trainer.accelerator", "gpu")}
    assert workers[0].name == "GPU 0+1"


@pytest.mark.parametrize(
    ("count", "expected"), [(2, "GPU 2, but PyTorch sees 2 here .* use numbers below 2"), (0, "GPU 0, .* use cpu:N")]
)
def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, count: int, expected: str) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    with pytest.raises(UserError, match=expected):
        make_workers("0,2")


@pytest.mark.parametrize("text", ["", "cpu:0", "cpu:x", "gpu", "0,", "0,1,0", "0+1,1", "-1", "cuda:0"])
def test_other_devices_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"--devices .* must be auto, cpu:N"):
        make_workers(text)
