"""Training, testing, inference and the hooks between them."""
