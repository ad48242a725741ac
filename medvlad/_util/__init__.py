"""Small tools that every room uses: checks, files, threads, memory, progress, versions."""
