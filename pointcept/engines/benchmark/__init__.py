"""What networks cost: time, floating-point operations and memory, for any config, backend, dtype and scan.

``tools/benchmark.py`` is the command, ``docs/performance.md`` says what its columns mean.
"""
