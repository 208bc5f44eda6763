"""Turn files into images and images into integer sequences, and back."""

from s4gen.data.images import ImageSet, split_validation, to_image, to_sequence
from s4gen.data.opening import open_split
from s4gen.data.pictures import ImageFormat

__all__ = ["ImageFormat", "ImageSet", "open_split", "split_validation", "to_image", "to_sequence"]
