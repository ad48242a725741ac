"""Find defects of a data set before anything is trained on it.

In: an :class:`~medvlad.datasets.folders.ImageFolder`. Out: a dict of findings, each an error, a warning or
a note.
"""

from medvlad.audit.run import audit, audit_summary

__all__ = ["audit", "audit_summary"]
