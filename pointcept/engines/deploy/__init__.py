"""Deployment: the inference engine."""

from pointcept.engines.deploy.engine import InferenceEngine

__all__ = ["InferenceEngine"]
