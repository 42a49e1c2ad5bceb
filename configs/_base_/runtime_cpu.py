# Two CPU cores: one process that loads data, float32.
_base_ = ["runtime.py"]
num_worker = 1
enable_amp = False
