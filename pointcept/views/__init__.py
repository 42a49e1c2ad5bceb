"""Pictures of scans: truth, teacher, student and where they differ; what augmentations make of a scan.

``command`` is ``pointcept view``. A :class:`~.scene.Scene` is one scan with its classes; :mod:`.picture` draws it,
:mod:`.movie` draws a sequence, :mod:`.page` writes an interactive page, :mod:`.recording` one for Rerun.
"""
