"""Provide small tools that every room uses: checks, files, threads, memory, progress, versions."""
