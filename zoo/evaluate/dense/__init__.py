"""The shared parts of detection, segmentation and depth: schedules, backbone, annotated images and the SGD loop."""
