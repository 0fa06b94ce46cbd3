"""What every room stands on: errors, checks of plain values and shapes, descriptions of objects, files, the process."""
