import threading
from typing import Any

import pytest
import torch

pytest.importorskip("numba")

from mobilemamba.kernels import threads
from mobilemamba.kernels.threads import run, tasks_of


@pytest.fixture(autouse=True)
def _many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "SMALLEST_SHARE", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)


@pytest.mark.parametrize("tasks", [0, 1, 3, 4, 17])
def test_every_task_is_done_once(tasks: int) -> None:
    done: list[int] = []
    run(lambda first, last: done.extend(range(first, last)), [], tasks, 100)
    assert sorted(done) == list(range(tasks))


def test_threads_are_used_where_values_are_many() -> None:
    names = set()
    run(lambda first, last: names.add(threading.get_ident()), [], 4, 100)
    assert len(names) == 4
    names.clear()
    run(lambda first, last: names.add(threading.get_ident()), [], 4, 1)
    assert names == {threading.get_ident()}


def test_failures_are_raised() -> None:
    def kernel(first: int, last: int) -> None:
        if last > first and first > 0:
            raise ValueError("failed")

    with pytest.raises(ValueError, match="failed"):
        run(kernel, [], 8, 100)


def test_a_share_that_was_not_done_is_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    class OneThreadIsLost:
        omp_get_thread_num = omp_get_num_threads = staticmethod(lambda: 0)

        @staticmethod
        def GOMP_parallel(share: Any, *others: Any) -> None:
            """Does nothing, as when Ctrl-C is raised before a share begins."""

    monkeypatch.setattr(threads, "_openmp", OneThreadIsLost)
    with pytest.raises(KeyboardInterrupt):
        run(lambda first, last: None, [], 8, 100)


def test_without_openmp_one_thread_does_all_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def library(name: None) -> None:
        raise TypeError("no library of everything")

    monkeypatch.setattr(threads.ctypes, "CDLL", library)
    threads._openmp.cache_clear()
    done: list[int] = []
    try:
        with pytest.warns(UserWarning, match="one thread"):
            run(lambda first, last: done.extend(range(first, last)), [], 5, 100)
        run(lambda first, last: done.extend(range(first, last)), [], 5, 100)  # warnings are errors in tests
    finally:
        threads._openmp.cache_clear()
    assert done == [*range(5), *range(5)]


@pytest.mark.parametrize("images", [0, 1, 2, 3, 8])
@pytest.mark.parametrize("channels", [1, 128, 129, 300, 1000])
def test_ranges_of_channels_cover_all(images: int, channels: int) -> None:
    tasks, width = tasks_of(images, channels, 10**9)
    ranges = -(-channels // width)
    assert tasks == images * ranges
    assert ranges == 1 or images < 4
