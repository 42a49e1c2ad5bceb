"""The command line ``pointcept``: a table of commands (:mod:`.commands`) and the door to them (:mod:`.door`)."""
