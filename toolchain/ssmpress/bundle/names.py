"""Names of a bundle's files."""

REPORT_NAME = "report.json"
REPORTS = (REPORT_NAME, "report.md", "report.html", "junit.xml", "README.md")
