"""The tabs of the page: their components and events."""
