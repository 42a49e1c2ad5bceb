"""The device: the one place outside ``ops`` that knows about CUDA.

``POINTCEPT_DEVICE=cpu`` or ``=cuda`` overrides the choice.
"""

from __future__ import annotations

import functools
import os
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import numpy as np
import torch

from pointcept.utils.errors import ConfigError, did_you_mean

T = TypeVar("T")

VARIABLE = "POINTCEPT_DEVICE"
AMP_DTYPES = {
    "float16": torch.float16,
    "fp16": torch.float16,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
}


def device_override() -> str | None:
    """What ``POINTCEPT_DEVICE`` asks for: ``"cpu"``, ``"cuda"`` or nothing.

    Raises:
        ConfigError: another value, or ``cuda`` where there is none.
    """
    asked = os.environ.get(VARIABLE, "").strip().lower()
    if asked not in ("", "cpu", "cuda"):
        raise ConfigError(f"{VARIABLE}={asked}: {did_you_mean(asked, ['cpu', 'cuda'])}")
    if asked == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"{VARIABLE}=cuda, but torch {torch.__version__} finds no CUDA device")
    return asked or None


def device_count() -> int:
    """The number of usable GPUs; 0 when the run is on the CPU."""
    return 0 if device_override() == "cpu" else torch.cuda.device_count()


def get_device() -> torch.device:
    """The device of this process: its current GPU where there is one, otherwise the CPU."""
    if device_count() > 0:
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def set_local_device(local_rank: int) -> torch.device:
    """Give this process the GPU number ``local_rank`` of its machine (nothing to do on the CPU)."""
    if device_count() > 0:
        torch.cuda.set_device(local_rank)
    return get_device()


def move(value: Any, device: torch.device) -> Any:
    """Move every tensor inside dicts, lists and tuples to ``device``, without waiting for the copy."""
    if isinstance(value, torch.Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return {key: move(item, device) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(move(item, device) for item in value))
    if isinstance(value, (list, tuple)):
        return type(value)(move(item, device) for item in value)
    return value


def synchronize() -> None:
    """Wait until the device has done everything it was asked for."""
    if device_count() > 0:
        torch.cuda.synchronize()


class Stopwatch:
    """Milliseconds that a part of each step takes, without ever waiting for the device.

    On a GPU the time between two events of the current stream counts. It is known only when the device
    has come that far, so :meth:`lap` then gives the newest lap that is over, and the host's time before
    there is one.
    """

    def __init__(self) -> None:
        self._host = 0.0
        self._events: list[tuple[Any, Any]] = []
        self._laps: deque[list[tuple[Any, Any]]] = deque(maxlen=100)
        self._known: float | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy starts anew: events of a GPU cannot be copied."""
        return type(self), ()

    @contextmanager
    def section(self) -> Iterator[None]:
        """Add the time inside ``with`` to the current lap."""
        start, began = self._event(), time.perf_counter()
        try:
            yield
        finally:
            self._host += 1000.0 * (time.perf_counter() - began)
            if start is not None:
                self._events.append((start, self._event()))

    def lap(self) -> float:
        """End the lap and return milliseconds, see the class."""
        host, self._host = self._host, 0.0
        if not self._events:
            return host
        self._laps.append(self._events)
        self._events = []
        while self._laps and self._laps[0][-1][1].query():
            self._known = sum(start.elapsed_time(end) for start, end in self._laps.popleft())
        return host if self._known is None else self._known

    @staticmethod
    def _event() -> Any:
        if device_count() == 0:
            return None
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def empty_cache() -> None:
    """Return cached, unused GPU memory to the driver."""
    if device_count() > 0:
        torch.cuda.empty_cache()


def peak_memory() -> int:
    """The most GPU memory that tensors took since :func:`reset_peak_memory`, in bytes; 0 on the CPU."""
    return torch.cuda.max_memory_allocated() if device_count() > 0 else 0


def peak_reserved_memory() -> int:
    """The most GPU memory that torch held, used or not, since :func:`reset_peak_memory`, in bytes; 0 on the CPU."""
    return torch.cuda.max_memory_reserved() if device_count() > 0 else 0


def reset_peak_memory() -> None:
    """Start a new measurement of :func:`peak_memory` and :func:`peak_reserved_memory`."""
    if device_count() > 0:
        torch.cuda.reset_peak_memory_stats()


def graph_pool(where: torch.device) -> Any:
    """A memory pool that the CUDA graphs of one owner share, see :func:`capture`; None on the CPU."""
    return torch.cuda.graph_pool_handle() if where.type == "cuda" else None


def capture(function: Callable[[], T], where: torch.device, pool: Any = None) -> Callable[[], T]:
    """Record what ``function`` does on a GPU as a CUDA graph; on the CPU it stays as it is.

    Args:
        function: reads tensors that stay where they are, waits for nothing, and does the same at every call.
        where: the device.
        pool: of :func:`graph_pool`; graphs that share one must be replayed one after the other.

    Returns:
        A function that repeats the work on the present contents of those tensors and gives the same result
        tensors every time, overwritten.
    """
    if where.type != "cuda":
        return function
    warm_up(function, where)
    result, again = record(function, where, pool)

    def replay() -> T:
        again()
        return result

    return replay


@functools.cache
def _side_stream(where: torch.device) -> torch.cuda.Stream:
    """One stream for all warm-ups: cuBLAS keeps a workspace of 32 MiB for each stream that it has ever met."""
    return torch.cuda.Stream(where)


def warm_up(function: Callable[[], Any], where: torch.device) -> None:
    """Call ``function`` once, as captures want it: it compiles kernels and sets up libraries."""
    with torch.cuda.device(where):
        side = _side_stream(where)
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            function()
        torch.cuda.current_stream().wait_stream(side)


def record(function: Callable[[], T], where: torch.device, pool: Any) -> tuple[T, Callable[[], None]]:
    """Record ``function``, which has been warmed up, without running it: its result's tensors, and what fills them."""
    with torch.cuda.device(where):
        graph = torch.cuda.CUDAGraph()
        # other threads (data loading, persistence diagrams) may go on using the device
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            result = function()
    return result, graph.replay


def generator_state(where: torch.device) -> torch.Tensor | None:
    """The state of the device's random generator; None on the CPU, whose generator needs no special care."""
    return torch.cuda.get_rng_state(where) if where.type == "cuda" else None


def set_generator_state(state: torch.Tensor | None, where: torch.device) -> None:
    """Put back what :func:`generator_state` returned."""
    if state is not None:
        torch.cuda.set_rng_state(state, where)


def device_facts() -> dict[str, Any]:
    """What hardware and libraries the device side consists of, for the record of a run."""
    facts: dict[str, Any] = {"device": str(get_device()), "cuda": torch.version.cuda}
    if device_count() > 0:
        facts["cudnn"] = torch.backends.cudnn.version()
        facts["gpus"] = [
            {"name": p.name, "memory_gib": round(p.total_memory / 2**30, 1), "capability": f"{p.major}.{p.minor}"}
            for p in (torch.cuda.get_device_properties(i) for i in range(device_count()))
        ]
    return facts


def amp_dtype(name: str | torch.dtype) -> torch.dtype:
    """Turn the config's ``amp_dtype`` into a torch dtype.

    Raises:
        ConfigError: neither half-precision type.
    """
    if isinstance(name, torch.dtype) and name in AMP_DTYPES.values():
        return name
    if name not in AMP_DTYPES:
        raise ConfigError(f"amp_dtype={name!r}: {did_you_mean(str(name), AMP_DTYPES)}")
    return AMP_DTYPES[str(name)]


def autocast(enabled: bool, dtype: torch.dtype = torch.bfloat16) -> AbstractContextManager[Any]:
    """Mixed precision for the code inside ``with``; does nothing when not ``enabled``."""
    return torch.autocast(get_device().type, dtype=dtype) if enabled else nullcontext()


def make_grad_scaler(enabled: bool, dtype: torch.dtype) -> torch.amp.GradScaler:
    """The gradient scaler of a run: active for float16 on a GPU only (bfloat16 needs none)."""
    active = enabled and dtype is torch.float16 and device_count() > 0
    return torch.amp.GradScaler("cuda" if device_count() > 0 else "cpu", enabled=active)


def seed_everything(seed: int, deterministic: bool = False) -> None:
    """Seed Python, numpy and torch on every device.

    Args:
        seed: any integer; numpy takes it modulo 2**32.
        deterministic: also ask cuDNN and torch for repeatable algorithms (slower).
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True, warn_only=True)


def random_state() -> dict[str, Any]:
    """The state of every random generator of this process, made of types that
    ``torch.load(weights_only=True)`` accepts."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # type: ignore[misc]
    state: dict[str, Any] = {
        "python": [version, list(internal), gauss],
        "numpy": [str(name), torch.from_numpy(np.array(keys, dtype=np.int64)), int(position), int(has_gauss), cached],
        "torch": torch.get_rng_state(),
    }
    if device_count() > 0:
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put back what :func:`random_state` returned; a missing GPU state is left as it is."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    if device_count() > 0 and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu())
