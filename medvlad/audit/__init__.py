"""Find defects of a data set before anything is trained on it.

In: an :class:`~medvlad.datasets.folders.ImageFolder`. Out: a dict of findings, each of which is an error, a
warning or a note, and the same as plain text.
"""

from medvlad.audit.run import audit, audit_summary, run_audit

__all__ = ["audit", "audit_summary", "run_audit"]
