# What Pointcept's configs start from, under the name and with the precision that they expect.
_base_ = ["runtime.py"]
enable_amp = False
