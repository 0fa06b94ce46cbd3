"""Hands: recorded joints, a camera, pictures of skeletons, viewpoints, and more hands to train on."""
