"""What goes on for a visitor behind each tab."""
