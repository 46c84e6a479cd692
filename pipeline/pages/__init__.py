"""What the reports for people share: pages that need nothing else to be read, and plots."""
