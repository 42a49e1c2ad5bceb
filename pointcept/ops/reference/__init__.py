"""The pure-PyTorch twin of every operation: runs on any device, defines what is right."""
