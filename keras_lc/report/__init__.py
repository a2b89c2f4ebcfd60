"""The figures behind the commands that look at a directory, one kind a file."""
