"""Which implementation runs, and what the log says about the choice."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator

import pytest
import torch

from pointcept.ops import backend
from pointcept.ops.backend import configure, implementation, override
from pointcept.ops.libraries import flash_attn, spconv, spconv_triton
from pointcept.ops.reference import attention, convolution
from pointcept.utils.errors import ConfigError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
EVERY_MODULE = {module for needs in backend._NEEDS.values() for module in needs.modules}


@pytest.fixture(autouse=True)
def forget_choices(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(backend.ENVIRONMENT, raising=False)
    caches = (backend._choose, backend._say)
    for cache in caches:
        cache.cache_clear()
    yield
    configure(None)
    for cache in caches:
        cache.cache_clear()


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """What can be imported; a test adds to it. The GPU is new enough for everything."""
    modules: set[str] = set()
    monkeypatch.setattr(backend, "_import_error", lambda name: None if name in modules else f"no module {name}")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    return modules


def test_the_only_choice_of_a_cpu_is_not_news(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="pointcept"):
        implementation("serialization", CPU)
        implementation("submanifold_map", CPU)
    assert {record.levelname for record in caplog.records} == {"DEBUG"}
    assert caplog.messages[0] == "ops: serialization uses torch on cpu (triton runs on cuda only, not on cpu)"


def test_the_choice_on_cuda_is_said_once_with_its_reason(
    caplog: pytest.LogCaptureFixture, installed: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(backend._IMPLEMENTATIONS, "expand", {"torch": "pointcept.ops.reference.segment:expand"})
    with caplog.at_level(logging.INFO, logger="pointcept"):
        for _ in range(2):
            implementation("expand", CUDA)
            implementation("expand", CUDA, torch.float16)
            implementation("serialization", CUDA)
            implementation("sparse_convolution", CUDA, torch.float64)
    assert caplog.messages == [
        "ops: expand uses torch on cuda (the only implementation)",
        "ops: serialization uses torch on cuda (triton cannot be imported (no module triton; "
        "CUDA builds of torch bring triton))",
        "ops: sparse_convolution uses torch on cuda (the input is float64)",
    ]


def test_the_first_backend_that_takes_the_type_is_chosen(caplog: pytest.LogCaptureFixture, installed: set[str]) -> None:
    installed |= {"spconv.pytorch.ops", "spconv_triton.pytorch.ops", "flash_attn"}
    with caplog.at_level(logging.INFO, logger="pointcept"):
        assert implementation("sparse_convolution", CUDA, torch.float16) is spconv.sparse_convolution
        assert implementation("sparse_convolution", CUDA, torch.bfloat16) is spconv_triton.sparse_convolution
        installed -= {"spconv_triton.pytorch.ops"}
        backend._choose.cache_clear()
        assert implementation("sparse_convolution", CUDA, torch.bfloat16) is convolution.sparse_convolution
        assert implementation("sparse_convolution", CUDA, torch.float64) is convolution.sparse_convolution
    assert "sparse_convolution uses spconv on cuda (triton cannot be imported" in caplog.messages[0]
    assert "spconv takes float32 and float16, not bfloat16" in caplog.messages[1]
    assert "pip install '.[spconv-triton]'" in caplog.messages[2]


def test_attention_in_half_precision_only_by_flash_attn(installed: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    installed |= {"flash_attn"}
    for dtype in (torch.float16, torch.bfloat16):
        assert implementation("patch_attention", CUDA, dtype) is flash_attn.patch_attention
    assert implementation("patch_attention", CUDA, torch.float32) is attention.patch_attention
    assert implementation("patch_attention", CPU, torch.float16) is attention.patch_attention
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    backend._choose.cache_clear()
    assert implementation("patch_attention", CUDA, torch.float16) is attention.patch_attention


@pytest.mark.parametrize(
    ("choice", "operation", "dtype", "message"),
    [
        ("serialization=triton", "serialization", None, "'triton' was asked for by override.., but it cannot be"),
        ("spconv", "sparse_convolution", torch.bfloat16, "'spconv' .* takes float32 and float16, not bfloat16; sparse"),
        ("spconv", "sparse_convolution", torch.float16, r"no module spconv.pytorch.ops; pip install '.\[spconv\]'"),
        ("flash_attn", "patch_attention", torch.float32, "takes float16 and bfloat16, not float32"),
        ("flash_attn", "patch_attention", torch.float16, r"pip install --no-build-isolation '.\[flash-attn\]'"),
    ],
)
def test_what_is_asked_for_and_cannot_run_is_an_error(
    choice: str, operation: str, dtype: torch.dtype, message: str, installed: set[str]
) -> None:
    with override(choice):
        with pytest.raises(ConfigError, match=message):
            implementation(operation, CUDA, dtype)
        with pytest.raises(ConfigError, match="runs on cuda only, not on cpu"):
            implementation(operation, CPU, dtype)


def test_an_old_gpu_is_named(installed: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    installed |= {"flash_attn"}
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    with override("flash_attn"), pytest.raises(ConfigError, match=r"needs compute capability 8\.0"):
        implementation("patch_attention", CUDA, torch.float16)


def test_a_package_is_imported_only_when_its_turn_comes(installed: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(backend, "_import_error", lambda name: asked.append(name))
    table = {**backend._IMPLEMENTATIONS["sparse_convolution"], "triton": "os.path:join"}
    monkeypatch.setitem(backend._IMPLEMENTATIONS, "sparse_convolution", table)
    implementation("sparse_convolution", CUDA, torch.float32)
    implementation("sparse_convolution", CPU, torch.float64)
    assert asked == ["triton", "pointops.serialization"]


def test_a_package_may_fail_to_import_in_any_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    assert "ModuleNotFoundError" in str(backend._import_error.__wrapped__("flash_attn"))

    def broken(name: str) -> None:
        raise OSError("libcudart.so.11.0: cannot open shared object file")

    monkeypatch.setattr(backend.importlib, "import_module", broken)
    assert backend._import_error.__wrapped__("x") == "OSError: libcudart.so.11.0: cannot open shared object file"


def test_python_goes_before_the_environment_before_the_config(
    caplog: pytest.LogCaptureFixture, installed: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed |= EVERY_MODULE
    cases = []
    configure("sparse_convolution=spconv_triton")
    cases.append(implementation("sparse_convolution", CUDA, torch.float32))
    monkeypatch.setenv(backend.ENVIRONMENT, "sparse_convolution=spconv")
    cases.append(implementation("sparse_convolution", CUDA, torch.float32))
    with caplog.at_level(logging.INFO, logger="pointcept"), override("torch"):
        cases.append(implementation("sparse_convolution", CUDA, torch.float32))
    assert cases == [spconv_triton.sparse_convolution, spconv.sparse_convolution, convolution.sparse_convolution]
    assert caplog.messages[-1] == "ops: sparse_convolution uses torch on cuda (asked for by override())"
    configure(None)
    monkeypatch.delenv(backend.ENVIRONMENT)
    installed -= {"triton"}
    assert implementation("sparse_convolution", CUDA, torch.float32) is spconv.sparse_convolution


def test_auto_undoes_a_choice(installed: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    installed |= {"spconv.pytorch.ops"}
    configure("torch")
    assert implementation("sparse_convolution", CUDA, torch.float32) is convolution.sparse_convolution
    monkeypatch.setenv(backend.ENVIRONMENT, "sparse_convolution=auto")
    assert implementation("sparse_convolution", CUDA, torch.float32) is spconv.sparse_convolution
    with override("auto"):
        assert implementation("serialization", CUDA)


def test_torch_means_the_reference_of_every_operation() -> None:
    with override("torch"):
        for operation, known in backend._IMPLEMENTATIONS.items():
            assert implementation(operation, CPU).__module__.startswith("pointcept.ops.reference."), operation
            assert list(known)[-1] == "torch"


def test_the_notation() -> None:
    everything = dict.fromkeys(backend._IMPLEMENTATIONS, "torch")
    chosen = {**everything, "sparse_convolution": "spconv"}
    assert backend.parse("sparse_convolution = spconv, torch", "here") == chosen
    assert backend.parse("torch,sparse_convolution=spconv", "here") == chosen
    assert backend.parse("spconv", "here") == {"sparse_convolution": "spconv"}
    assert backend.parse("", "here") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("spcnov", "POINTCEPT_BACKEND: unknown backend 'spcnov': did you mean 'spconv'"),
        ("sparse_conv=spconv", "POINTCEPT_BACKEND: unknown operation 'sparse_conv': did you mean 'sparse_convolution'"),
        ("serialization=torhc", "POINTCEPT_BACKEND: serialization has no backend 'torhc': did you mean 'torch'"),
        ("serialization=spconv", "serialization has no backend 'spconv': Allowed: triton, auto, torch"),
        ("serialization=", "serialization has no backend ''"),
    ],
)
def test_a_wrong_name_is_an_error(text: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backend.ENVIRONMENT, text)
    with pytest.raises(ConfigError, match=message):
        implementation("serialization", CPU)
    with pytest.raises(ConfigError, match=r"^backend: "):
        configure(text)
