"""Waymo Open Dataset: records, range images and the conversion into arrays, without TensorFlow."""
