"""What we run on: which device, which number format, how fast its matrix multiply really is.

Read: pick_device -> pick_dtype -> gemm_gflops. Nothing is probed on import.
"""

import sys
import time

import torch

from nanochat.errors import UserError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class DeviceMissing(UserError):
    """A device or a number format was asked for that this machine does not have."""


def pick_device(name: str = "auto") -> torch.device:
    """`auto` takes CUDA, then Apple's MPS, then the processor."""
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if cuda else "mps" if mps else "cpu"
    if (name.startswith("cuda") and not cuda) or (name == "mps" and not mps):
        raise DeviceMissing(f"--device {name}: this machine has none; use --device cpu")
    return torch.device(name)


# @learn:optimization.mixed_precision
def has_fast_bf16(device: torch.device) -> bool:
    """True where bfloat16 products run in hardware.

    Without AVX512-BF16 or AMX a processor emulates them, measured 44 to 499 times slower than
    fp32 (pytorch issue 146508), so the flag of the instruction set decides, not a hope.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        flags = torch.cpu.get_capabilities()
        return bool(flags.get("avx512_bf16") or flags.get("amx_bf16"))
    return False


# @learn:foundations.floating_point
# @learn:optimization.mixed_precision
def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto`, fp32, bf16 or fp16 -> the number format for activations; weights stay fp32."""
    if name == "auto":
        return torch.bfloat16 if has_fast_bf16(device) else torch.float32
    if name not in DTYPES:
        raise DeviceMissing(f"--dtype {name}: choose auto, {', '.join(DTYPES)}")
    if name == "fp16" and device.type == "cpu":
        raise DeviceMissing("--dtype fp16 on a processor runs 100 times slower; use fp32 or bf16")
    return DTYPES[name]


def sent(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """`x` on `device`. To CUDA through memory that stays in place, so that nobody has to wait."""
    if device.type == "cuda" and x.device.type == "cpu":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


# @learn:foundations.matrix_multiplication
def gemm_gflops(
    device: torch.device, dtype: torch.dtype = torch.float32, size: int = 0, rounds: int = 5
) -> float:
    """Median speed of a (size, size) @ (size, size) product, in 10^9 operations a second.

    Size 0 is large enough for the device: a GPU does 2048^3 in less time than it takes to ask it.
    """
    size = size or (8192 if device.type == "cuda" else 2048)
    a = torch.ones(size, size, device=device).mul_(0.5).to(dtype)
    if device.type == "cuda":  # it draws more power, and slows down, where the bits differ
        a = torch.randn(size, size, generator=torch.Generator().manual_seed(0)).to(a)
    seconds = []
    for _ in range(rounds + 1):  # the first round warms up
        start = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / sorted(seconds[1:])[rounds // 2] / 1e9


# Peak of dense bf16 products in 10^12 operations a second, by the vendor's datasheets. The first
# name that is part of the device's own counts.
PEAK_BF16_TFLOPS = {
    **{"GB200": 2500.0, "B200": 2250.0, "H200": 989.0, "H100 PCIe": 756.0, "H100 NVL": 835.0},
    **{"H100": 989.0, "A100": 312.0, "L40S": 362.0, "RTX 4090": 165.2, "RTX 3090": 71.0},
}


def peak_bf16_tflops(name: str) -> float | None:
    """The datasheet's figure for a GPU of this name; None for one that is not in the table.

    >>> peak_bf16_tflops("NVIDIA H100 80GB HBM3"), peak_bf16_tflops("Some GPU")
    (989.0, None)
    """
    return next((peak for part, peak in PEAK_BF16_TFLOPS.items() if part in name), None)


def gpu_name(device: torch.device) -> str:
    """What a CUDA device calls itself; "" for others."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else ""


def gpu_peak_memory_mb(device: torch.device) -> float:
    """The most memory this process's tensors ever took on a CUDA device, in 10^6 bytes; else 0."""
    return torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else 0.0


def use_threads(count: int) -> None:
    """0 keeps PyTorch's own choice: one thread for each core."""
    if count > 0:
        torch.set_num_threads(count)


def peak_memory_mb() -> float:
    """The most memory this process ever held, in 10^6 bytes; 0 where the system won't say."""
    try:
        import resource  # not on Windows
    except ImportError:
        return 0.0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
