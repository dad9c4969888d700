"""anyio's streams over files."""
