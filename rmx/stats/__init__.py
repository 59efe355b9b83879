"""Numbers to estimates: intervals, tests, pass@k, bootstrap over problems."""
