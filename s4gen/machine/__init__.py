"""The machine that the program runs on: its device, its memory, its clock."""
