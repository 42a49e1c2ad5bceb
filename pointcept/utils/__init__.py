"""Registries, configs, devices, ranks, logging: everything that knows no model."""
