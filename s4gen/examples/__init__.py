"""Small programs, each showing one idea: `python -m s4gen.examples.NAME -h`."""
