"""The user's own data: tensors, arrays, tables and pictures, checked and brought to one form."""
