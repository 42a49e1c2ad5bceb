"""Python imports this at its start where the campaign has put the folder first into PYTHONPATH."""

from tests.faults import trigger

trigger.install()
