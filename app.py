"""Open the app: `python app.py`; also the entry point of a Space."""

from rmx.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main(["serve"]))
