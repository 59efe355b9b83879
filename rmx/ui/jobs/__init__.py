"""The work behind each tab: what is asked, and its state as messages for the page. No gradio in here.

What comes from a browser is checked; ids are unguessable and are the permission. What cannot be done raises an RmxError
of whatever kind, whose sentence the page shows. Messages are idempotent: each says which job it belongs to and where
its tokens start, or holds the whole state, so any may be lost.
"""
