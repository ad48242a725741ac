"""Turn results into pages, figures and tables for people.

In: what an evaluation or an audit found. Out: HTML files that need no network, PNG figures, CSV.
"""

from medvlad.report.audit import audit_page
from medvlad.report.evaluation import write_predictions, write_report
from medvlad.report.html import Page
from medvlad.report.paper import paper_page, paper_tables

__all__ = ["Page", "audit_page", "paper_page", "paper_tables", "write_predictions", "write_report"]
