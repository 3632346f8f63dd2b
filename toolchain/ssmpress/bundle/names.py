"""Names of a bundle's files."""

REPORTS = ("report.json", "report.md", "report.html", "junit.xml", "README.md")
