"""Open the app: `python app.py`; also the entry point of a Space."""

from rmx.ui.app import serve
from rmx.ui.settings import Settings

if __name__ == "__main__":
    serve(Settings.from_environment())
