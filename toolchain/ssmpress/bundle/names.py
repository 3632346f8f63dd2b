"""Names of a bundle's files."""

REPORT_NAME = "report.json"
SIGNATURE_NAME = "model.sig"
REPORTS = (REPORT_NAME, "report.md", "report.html", "junit.xml", "README.md")
