"""A run's tables and reports: one HTML file, Markdown, CSV.

`write_report` is the page that opens anywhere; `summary_table` has a row for each arm.
"""

from noa_lab.experiments.report._facts import RunFacts
from noa_lab.experiments.report._files import write_csv, write_parquet
from noa_lab.experiments.report._page import write_markdown, write_report
from noa_lab.experiments.report._tables import summary_table

__all__ = ["RunFacts", "summary_table", "write_csv", "write_markdown", "write_parquet", "write_report"]
