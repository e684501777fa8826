# What Slicer does here (packing the archive) is not needed for the check.
