"""C++ made into libraries: for which processors, and by which compiler. It knows no torch: wheels are built without."""
