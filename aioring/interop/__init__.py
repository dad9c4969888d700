"""aioring for other libraries: a file each, on public names only, imported by who wants them."""
