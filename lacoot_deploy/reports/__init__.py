"""The report: one self-contained page that says what went, what it cost and what it gained.

Knows records and pages; what they say is gathered by `lacoot_deploy.workflow.reporting`. (The plural leaves the name
`lacoot_deploy.report` to the function.)
"""

from lacoot_deploy.reports.page import render_page
from lacoot_deploy.reports.records import ReportResult
from lacoot_deploy.reports.words import headline as answer_line

__all__ = ["ReportResult", "answer_line", "render_page"]
