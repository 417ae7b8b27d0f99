"""The publishing machine: figures with records, the runner of the notebooks, the book. `import mfkit` loads none."""
