"""The work behind each tab: what is asked, and its state as messages for the page."""
