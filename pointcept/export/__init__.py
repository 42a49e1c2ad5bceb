"""Take a student away: a folder with weights, a card and programs that run without this repository."""
