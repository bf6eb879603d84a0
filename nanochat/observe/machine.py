"""The machine under the server: processor, memory, open files, and graphics cards where there are.

Process series carry Prometheus' standard names, so that every existing dashboard finds them. A GPU
is read through NVIDIA's library if `pip install nanochat[gpu]` brought its Python side; without it,
or without a card, there are simply no GPU series. Read once for each scrape, never between.
Called by serve/. Read: watch_machine -> process_series -> gpu_series.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import psutil
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from nanochat.observe.metrics import Readings, ServerMetrics

GPU_SERIES = {
    "nanochat_gpu_utilization_ratio": "Share of the last moment in which the GPU computed, 0 to 1",
    "nanochat_gpu_memory_used_bytes": "Memory of the GPU in use, by all processes",
    "nanochat_gpu_memory_total_bytes": "Memory of the GPU",
    "nanochat_gpu_power_watts": "Power the GPU draws",
}


def watch_machine(metrics: ServerMetrics) -> None:
    """Add the series of this process, and of the GPUs if any can be read."""
    process = psutil.Process()
    metrics.registry.register(Readings(lambda: process_series(process)))
    nvml = open_nvml()
    if nvml is not None:
        metrics.registry.register(Readings(lambda: gpu_series(nvml)))


def process_series(process: psutil.Process) -> Iterator[Metric]:
    """CPU seconds, memory, threads, open files and start time of a process."""
    with process.oneshot():
        cpu, memory = process.cpu_times(), process.memory_info()
        threads, started = process.num_threads(), process.create_time()
    spent = "User and system CPU time spent in seconds"
    yield CounterMetricFamily("process_cpu_seconds", spent, value=cpu.user + cpu.system)
    gauges = {
        "process_resident_memory_bytes": ("Resident memory size in bytes", memory.rss),
        "process_virtual_memory_bytes": ("Virtual memory size in bytes", memory.vms),
        "process_start_time_seconds": ("Start time of the process since unix epoch", started),
        "process_threads": ("Threads of the process", threads),
    }
    if hasattr(process, "num_fds"):  # not on Windows
        gauges["process_open_fds"] = ("Number of open file descriptors", process.num_fds())
    for name, (about, value) in gauges.items():
        yield GaugeMetricFamily(name, about, value=value)


def open_nvml() -> Any | None:
    """NVIDIA's management library, ready for questions; None without it or without a card."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


def gpu_series(nvml: Any) -> Iterable[Metric]:
    """One value for each card; a card that does not know one of them leaves it out."""
    families = {
        name: GaugeMetricFamily(name, about, labels=("gpu",)) for name, about in GPU_SERIES.items()
    }
    for number in range(nvml.nvmlDeviceGetCount()):
        card = nvml.nvmlDeviceGetHandleByIndex(number)
        readings = {
            "nanochat_gpu_utilization_ratio": lambda card=card: (
                nvml.nvmlDeviceGetUtilizationRates(card).gpu / 100
            ),
            "nanochat_gpu_memory_used_bytes": lambda card=card: (
                nvml.nvmlDeviceGetMemoryInfo(card).used
            ),
            "nanochat_gpu_memory_total_bytes": lambda card=card: (
                nvml.nvmlDeviceGetMemoryInfo(card).total
            ),
            "nanochat_gpu_power_watts": lambda card=card: nvml.nvmlDeviceGetPowerUsage(card) / 1000,
        }
        for name, read in readings.items():
            try:
                families[name].add_metric((str(number),), read())
            except nvml.NVMLError:
                continue
    return families.values()
