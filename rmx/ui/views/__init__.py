"""The views of the page that are HTML and JavaScript of our own."""
