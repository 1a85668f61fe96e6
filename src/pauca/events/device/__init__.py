"""Packets of many chains at once on a GPU: the same search and judgment, with images and sums on the device."""
