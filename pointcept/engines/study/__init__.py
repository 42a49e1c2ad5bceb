"""Scene cross-validation: every scene is predicted by networks that have not seen it."""
