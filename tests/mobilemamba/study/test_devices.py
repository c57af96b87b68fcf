from __future__ import annotations

import pytest

from mobilemamba.study import devices
from mobilemamba.study.devices import make_workers
from mobilemamba.study.errors import StudyError


def test_one_worker_takes_all_devices_by_default() -> None:
    assert [worker.environment for worker in make_workers("auto")] == [{}]
    assert [worker.environment for worker in make_workers("auto", threads=3)] == [{"OMP_NUM_THREADS": "3"}]


@pytest.mark.parametrize(("cores", "threads"), [(8, "4"), (1, "1"), (5, "2")])
def test_workers_on_the_cpu_share_the_cores(monkeypatch: pytest.MonkeyPatch, cores: int, threads: str) -> None:
    monkeypatch.setattr(devices, "available_cores", lambda: cores)
    workers = make_workers("cpu:2")
    assert [worker.environment for worker in workers] == [{"OMP_NUM_THREADS": threads, "CUDA_VISIBLE_DEVICES": ""}] * 2
    assert len({worker.name for worker in workers}) == 2
    assert make_workers("cpu", threads=7)[0].environment["OMP_NUM_THREADS"] == "7"


def test_each_worker_sees_its_own_gpus() -> None:
    visible = [worker.environment["CUDA_VISIBLE_DEVICES"] for worker in make_workers("0+1,2,5+3")]
    assert visible == ["0,1", "2", "5,3"]


@pytest.mark.parametrize("text", ["", "cpu:0", "cpu:x", "gpu", "0,", "0,1,0", "0+1,1", "-1", "cuda:0"])
def test_other_devices_are_refused(text: str) -> None:
    with pytest.raises(StudyError, match=r"--devices .* is not possible: use auto, cpu:N"):
        make_workers(text)
