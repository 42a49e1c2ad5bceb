"""The errors that a user can cause; each message is one line: what is wrong, what was got, what is allowed."""


class ExportError(ValueError):
    """An exported folder is incomplete, damaged, of another version, or asks for what this program refuses."""


class ScanError(ValueError):
    """A scan is missing or malformed, or its points cannot be labelled."""
