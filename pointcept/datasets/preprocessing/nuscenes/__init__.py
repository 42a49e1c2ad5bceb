"""nuScenes lidarseg: JSON tables to info files."""
