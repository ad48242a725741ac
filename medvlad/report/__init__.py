"""Pages, figures and tables for people.

In: the results of an evaluation, an audit, predictions or the paper's tables. Out: HTML pages that need no
network, figures as PNG, and tables as CSV or plain text.
"""

from medvlad.report.audit import audit_page
from medvlad.report.evaluation import explain_page, write_report
from medvlad.report.html import Page
from medvlad.report.paper import paper_page, paper_tables, paper_text
from medvlad.report.predictions import write_predictions

__all__ = [
    "Page",
    "audit_page",
    "explain_page",
    "paper_page",
    "paper_tables",
    "paper_text",
    "write_predictions",
    "write_report",
]
